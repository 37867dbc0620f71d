//! Directories as capabilities: made, put right and locked through descriptors, never through a symlink.
//!
//! Broker does this while it may still be root; every role then works beneath the descriptor it is given, and the state
//! directory itself stays closed to all but broker.

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, Uid, chownat, fchmod, fchown, flock, fstat, fsync,
    mkdirat, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Makes `name` beneath `parent` (or by path) if it is not there, mode 0700, owned by `owner` where that is given.
///
/// # Errors
/// What the kernel says; `ELOOP` or `ENOTDIR` for a link or a file of that name.
pub fn private(parent: Option<BorrowedFd<'_>>, name: &Path, owner: Option<u32>) -> Result<OwnedFd, Errno> {
    let parent = parent.unwrap_or(CWD);
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    set(directory.as_fd(), Mode::RWXU, owner)?;
    Ok(directory)
}

/// Gives files that came to belong to root to `owner`, who cannot open them otherwise: a tree that was restored or taken over
/// as root. Files of anybody else stay as they are, and so does what has a second name elsewhere.
///
/// # Errors
/// What the kernel says.
pub fn adopt(directory: BorrowedFd<'_>, owner: u32) -> Result<(), Errno> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(directory, entry.file_name(), flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && stat.st_uid == 0 && stat.st_nlink == 1 {
            let (uid, gid) = (Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
            chownat(&file, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
    }
    Ok(())
}

/// Mode 0600 and `owner` for the file `name`, if there is one.
///
/// # Errors
/// What the kernel says; `ELOOP` for a link.
pub fn private_file(parent: BorrowedFd<'_>, name: &str, owner: Option<u32>) -> Result<(), Errno> {
    match openat(parent, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => set(file.as_fd(), Mode::RUSR | Mode::WUSR, owner),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Puts `bytes` in the place of the file `name`, whole and durable, or leaves what was there. Mode 0600.
///
/// # Errors
/// What the kernel says.
pub fn replace(directory: BorrowedFd<'_>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let next = format!("{name}.new");
    match unlinkat(directory, &next, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, &next, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(bytes)?;
    file.sync_all()?;
    renameat(directory, &next, directory, name)?;
    Ok(fsync(directory)?)
}

/// Takes the file `name` away, durably, if there is one.
///
/// # Errors
/// What the kernel says.
pub fn remove(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<()> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(fsync(directory)?),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The credential `name` that the service manager passes (`$CREDENTIALS_DIRECTORY`, systemd.exec(5)); none where it passes
/// no such one. Read only.
///
/// # Errors
/// What the kernel says; `ELOOP` for a link.
pub fn credential(name: &str) -> Result<Option<OwnedFd>, Errno> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match openat(CWD, Path::new(&directory).join(name), flags, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// What is in the file `name`, up to `most` bytes; none where there is no such file.
///
/// # Errors
/// What the kernel says; also where it is longer, or not text.
pub fn read(directory: BorrowedFd<'_>, name: &str, most: u64) -> std::io::Result<Option<String>> {
    let file = match openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let mut text = String::new();
    file.take(most.saturating_add(1)).read_to_string(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > most {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(text))
}

fn set(fd: BorrowedFd<'_>, mode: Mode, owner: Option<u32>) -> Result<(), Errno> {
    if let Some(owner) = owner {
        fchown(fd, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    }
    fchmod(fd, mode)
}

/// A lock that lives as long as its holder, with the holder's pid in it.
#[derive(Debug)]
pub struct Lock(File);

/// Why a lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The process with this pid has it.
    #[error("process {0} holds the lock")]
    Held(String),
    /// The system refused.
    #[error(transparent)]
    Os(#[from] std::io::Error),
}

impl Lock {
    /// Takes the lock `name` beneath `directory`, and writes this process's pid into it.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(directory: BorrowedFd<'_>, name: &str) -> Result<Self, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file =
            File::from(openat(directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(std::io::Error::from)?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                file.read_to_string(&mut pid)?;
                return Err(LockError::Held(pid.trim().to_owned()));
            }
            Err(errno) => return Err(std::io::Error::from(errno).into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(Self(file))
    }

    /// Takes the pid out again; the lock itself ends with the process.
    pub fn blank(&self) {
        // Only a hint for people: whoever reads it checks the lock.
        let _ = self.0.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const OWNER: u32 = 60_699;

    #[test]
    fn file_is_replaced_whole_read_within_its_bound_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        assert_eq!(read(fd.as_fd(), "f", 9).unwrap(), None);
        replace(fd.as_fd(), "f", b"one").unwrap();
        // What a death before the rename would leave is in nobody's way.
        std::fs::write(dir.path().join("f.new"), "torn").unwrap();
        replace(fd.as_fd(), "f", b"the second").unwrap();
        assert_eq!(read(fd.as_fd(), "f", 10).unwrap().as_deref(), Some("the second"));
        assert!(read(fd.as_fd(), "f", 9).is_err());
        assert_eq!(std::fs::metadata(dir.path().join("f")).unwrap().mode() & 0o777, 0o600);
        std::os::unix::fs::symlink("f", dir.path().join("link")).unwrap();
        assert!(read(fd.as_fd(), "link", 10).is_err());
        remove(fd.as_fd(), "f").unwrap();
        remove(fd.as_fd(), "f").unwrap();
        assert!(!dir.path().join("f").exists());
    }

    #[test]
    fn files_of_root_are_adopted_and_no_others() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let uid = |name: &str| std::fs::symlink_metadata(at(name)).unwrap().uid();
        for name in ["ours", "twice", "foreign"] {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::hard_link(at("twice"), at("again")).unwrap();
        std::os::unix::fs::symlink("ours", at("link")).unwrap();
        std::os::unix::fs::chown(at("foreign"), Some(7), Some(7)).unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        adopt(fd.as_fd(), OWNER).unwrap();
        let owners = ["ours", "twice", "foreign", "link"].map(uid);
        assert_eq!(owners, [OWNER, 0, 7, 0]);
    }
}
