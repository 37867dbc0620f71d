//! `vault.db` on disk: one file, replaced whole.
//!
//! A replacement is written beside the store, made durable, and renamed; a reader meets the old one or the new one. An
//! error of `fsync` ends the process: after it Linux counts the pages as clean, so asking again would lie (PostgreSQL has
//! done the same since its version 12). What the bytes mean is `snapshot`'s subject.

use crate::audit::AuditError;
use crate::keys::Master;
use crate::passphrase::{self, NoLock};
use crate::snapshot::{self, Contents, Place, SnapshotError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};

/// The store's name in its directory.
pub const NAME: &str = "vault.db";
const NEXT: &str = "vault.db.new";

/// Why a store cannot be used, or could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("vault.db is not there")]
    Missing,
    /// It is no file.
    #[error("vault.db is not a regular file")]
    Kind,
    /// A passphrase seals it, and its salt and costs are none.
    #[error("vault.db: {0}")]
    Lock(#[from] NoLock),
    /// Its bytes are not what was written, or cannot be made.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log cannot be told, so nothing was changed.
    #[error("vault.db was not changed, because that cannot be recorded: {0}")]
    Unrecorded(AuditError),
    /// The new store is in force, and the log cannot be told: the process must end, so that nobody is answered before the
    /// next one has told it.
    #[error("vault.db was changed, and that cannot be recorded: {0}")]
    Unanswerable(AuditError),
    /// The old store stands; nothing was lost.
    #[error("vault.db cannot be written: {0}")]
    Unwritable(Errno),
    /// Which store a crash would leave is not known: the process must end.
    #[error("vault.db: {step}: {errno}")]
    Durability {
        /// The call that failed.
        step: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The kernel said no.
    #[error("vault.db: {0}")]
    Os(#[from] Errno),
}

/// Reads the store beneath `directory`.
///
/// # Errors
/// [`StoreError`].
pub fn read(directory: BorrowedFd<'_>, master: &Master) -> Result<(Place, Contents), StoreError> {
    Ok(snapshot::unseal(master, &load(directory)?)?)
}

/// The bytes of the store beneath `directory`.
///
/// # Errors
/// [`StoreError`].
pub fn load(directory: BorrowedFd<'_>) -> Result<Vec<u8>, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, NAME, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(StoreError::Missing),
        // A link, which is not followed.
        Err(Errno::LOOP) => return Err(StoreError::Kind),
        Err(errno) => return Err(errno.into()),
    };
    let found = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(StoreError::Kind);
    }
    let size = usize::try_from(found.st_size).unwrap_or(usize::MAX);
    if size > snapshot::MAX.saturating_add(passphrase::LENGTH) {
        return Err(SnapshotError::Length { found: size, says: snapshot::MAX }.into());
    }
    let failed = |error: std::io::Error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
    // Exactly that: one byte more may take twice the memory.
    let mut bytes = vec![0; size];
    let mut file = File::from(fd);
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error).into()),
        }
    }
    bytes.truncate(filled);
    // A file that grows meanwhile shows.
    if file.read(&mut [0; 1]).map_err(failed)? > 0 {
        return Err(SnapshotError::Length { found: size.saturating_add(1), says: size }.into());
    }
    Ok(bytes)
}

/// Puts `file` in the store's place, durably.
///
/// # Errors
/// [`StoreError::Unwritable`] where the old store stands; [`StoreError::Durability`] where the process must end.
pub fn replace(directory: BorrowedFd<'_>, file: &[u8]) -> Result<(), StoreError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, NEXT, flags, Mode::RUSR | Mode::WUSR).map_err(StoreError::Unwritable)?;
    let mut rest = file;
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => {
                sweep(directory)?;
                return Err(StoreError::Unwritable(errno));
            }
        }
    }
    let durability = |step| move |errno| StoreError::Durability { step, errno };
    rustix::fs::fsync(&fd).map_err(durability("fsync"))?;
    rustix::fs::renameat(directory, NEXT, directory, NAME).map_err(durability("rename"))?;
    rustix::fs::fsync(directory.as_fd()).map_err(durability("fsync of its directory"))
}

/// Removes what an interrupted replacement left.
///
/// # Errors
/// [`StoreError::Durability`].
pub fn sweep(directory: BorrowedFd<'_>) -> Result<(), StoreError> {
    match rustix::fs::unlinkat(directory, NEXT, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(StoreError::Durability { step: "unlink of vault.db.new", errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::{contents, place};
    use std::os::fd::OwnedFd;

    fn sealed(generation: u64) -> (Master, Vec<u8>, Place) {
        let master = Master::from_bytes([1; 32]);
        let contents = contents(&master, 3);
        let place = place(generation, &contents);
        let file = snapshot::seal(&[], &master, &place, &contents).unwrap();
        (master, file, place)
    }

    #[test]
    fn replacement_takes_the_place_and_leftovers_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        let (master, first, place) = sealed(41);
        assert!(matches!(read(fd.as_fd(), &master), Err(StoreError::Missing)));
        replace(fd.as_fd(), &first).unwrap();
        std::fs::write(dir.path().join(NEXT), b"half of a store").unwrap();
        assert_eq!(read(fd.as_fd(), &master).unwrap().0, place);
        sweep(fd.as_fd()).unwrap();
        let (_, second, place) = sealed(42);
        replace(fd.as_fd(), &second).unwrap();
        assert_eq!(read(fd.as_fd(), &master).unwrap().0, place);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn store_that_is_too_large_or_no_file_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        let (master, ..) = sealed(1);
        std::fs::write(dir.path().join(NAME), vec![0; snapshot::MAX + passphrase::LENGTH + 1]).unwrap();
        let refused = read(fd.as_fd(), &master);
        assert!(matches!(refused, Err(StoreError::Snapshot(SnapshotError::Length { .. }))));
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        std::fs::create_dir(dir.path().join(NAME)).unwrap();
        assert!(matches!(read(fd.as_fd(), &master), Err(StoreError::Kind)));
    }

    /// A small file system that can be filled, taken down at the end of its test.
    struct Small(tempfile::TempDir);

    impl Small {
        fn mount(size: &std::ffi::CStr) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let flags = rustix::mount::MountFlags::empty();
            if rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(size)).is_err() {
                eprintln!("SKIPPED: mounting a tmpfs needs root");
                return None;
            }
            Some(Self(dir))
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[test]
    fn full_file_system_leaves_the_old_store_and_no_leftover() {
        let Some(Small(dir)) = &Small::mount(c"size=16k") else { return };
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        let (master, file, place) = sealed(41);
        replace(fd.as_fd(), &file).unwrap();
        assert!(matches!(replace(fd.as_fd(), &vec![0; 1 << 20]), Err(StoreError::Unwritable(Errno::NOSPC))));
        assert_eq!(read(fd.as_fd(), &master).unwrap().0, place);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
