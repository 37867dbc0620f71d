//! Directories as capabilities: made, put right and locked through descriptors, never through a symlink.
//!
//! Broker does this while it may still be root; every role then works beneath the descriptor it is given, and the state
//! directory itself stays closed to all but broker.

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Gid, Mode, OFlags, Uid, fchmod, fchown, flock, fsync, mkdirat, openat, renameat,
    unlinkat,
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
