//! `secrets.key`: 32 random bytes as hexadecimal text and a newline, mode 0400, of the vault's own uid.
//!
//! The file is refused where it is anything else: a key that others can read, or that somebody put there, is no key. It is
//! not protected against root, nor against a copy of the disk. Where a service manager keeps the key instead
//! (`LoadCredential=`), its file is held to the same, and nothing here can replace it.

use crate::entropy;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// The key's name in its directory.
pub const NAME: &str = "secrets.key";
/// Its name until the store that it seals is durable.
pub const PENDING: &str = "secrets.key.new";
/// What the service manager's file is called in errors.
pub const CREDENTIAL: &str = "the credential secrets.key";
const TEXT: usize = 65;

/// The master key. No `Debug`, no `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Master([u8; 32]);

impl Master {
    /// The bytes, for as long as the borrow lasts.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// Out of a key file's text.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        parse(text)
    }

    /// Of these bytes, of which the caller wipes its own copy.
    pub(crate) const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Another of the same. By this name, so that no copy is made by accident.
    pub(crate) const fn duplicate(&self) -> Self {
        Self(self.0)
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no such file.
    #[error("{0} is not there")]
    Missing(&'static str),
    /// It is no key.
    #[error("{0} {1}; put the key back from its backup")]
    Form(&'static str, &'static str),
    /// Others may have read it, or put it there.
    #[error("{name} {what}")]
    Exposed {
        /// Its name.
        name: &'static str,
        /// How, and what to do.
        what: String,
    },
    /// The kernel said no.
    #[error("{NAME}: {step}: {errno}")]
    Os {
        /// The call that failed.
        step: &'static str,
        /// Why.
        errno: Errno,
    },
}

fn os(step: &'static str) -> impl FnOnce(Errno) -> KeyError {
    move |errno| KeyError::Os { step, errno }
}

/// Reads the key `name` beneath `directory`.
///
/// # Errors
/// [`KeyError`].
pub fn read(directory: BorrowedFd<'_>, name: &'static str) -> Result<Master, KeyError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(KeyError::Missing(name)),
        Err(Errno::LOOP) => return Err(KeyError::Form(name, "is a link, which is not followed")),
        Err(Errno::ACCESS) => {
            let what = "is not the vault's own: it may not read it; others may have put it there: check who".into();
            return Err(KeyError::Exposed { name, what });
        }
        Err(errno) => return Err(KeyError::Os { step: "open", errno }),
    };
    let own = rustix::process::geteuid().as_raw();
    read_file(&fd, name, &[own])
}

/// Reads the key out of the file that the service manager keeps it in.
///
/// # Errors
/// [`KeyError`].
pub fn read_credential(fd: &OwnedFd) -> Result<Master, KeyError> {
    // The manager is root, and gives the file to the unit's own user where it has one.
    read_file(fd, CREDENTIAL, &[0, rustix::process::geteuid().as_raw()])
}

fn read_file(fd: &OwnedFd, name: &'static str, owners: &[u32]) -> Result<Master, KeyError> {
    let found = rustix::fs::fstat(fd).map_err(os("fstat"))?;
    let exposed = |what: String| Err(KeyError::Exposed { name, what });
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(KeyError::Form(name, "is not a regular file"));
    }
    let mode = found.st_mode & 0o7777;
    if mode != 0o400 {
        return exposed(format!(
            "has mode {mode:04o} where 0400 is needed; others may have read it: check who, then chmod 0400"
        ));
    }
    if !owners.contains(&found.st_uid) {
        let needed = owners.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
        return exposed(format!(
            "belongs to uid {} where {needed} is needed; check who put it there, then chown it",
            found.st_uid
        ));
    }
    // One byte more than a key has room, so that a longer file shows.
    let mut text = Zeroizing::new([0u8; TEXT + 1]);
    let mut length = 0;
    while let Some(rest) = text.get_mut(length..).filter(|rest| !rest.is_empty()) {
        // Not from where an earlier vault stopped: broker hands the same open file to each.
        match rustix::io::pread(fd, rest, u64::try_from(length).unwrap_or(u64::MAX)) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(KeyError::Os { step: "read", errno }),
        }
    }
    text.get(..length).and_then(parse).ok_or(KeyError::Form(name, "is not 64 hexadecimal digits and a newline"))
}

fn parse(text: &[u8]) -> Option<Master> {
    let digits = text.strip_suffix(b"\n").filter(|digits| digits.len() == 64)?;
    let mut master = Master([0; 32]);
    for (byte, pair) in master.0.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(master)
}

const fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

/// True where there is anything of this name beneath `directory`.
///
/// # Errors
/// [`KeyError`].
pub fn exists(directory: BorrowedFd<'_>, name: &'static str) -> Result<bool, KeyError> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(KeyError::Os { step: "stat", errno }),
    }
}

/// Draws a key and makes it durable under its pending name.
///
/// # Errors
/// [`KeyError`].
pub fn make_pending(directory: BorrowedFd<'_>) -> Result<Master, KeyError> {
    let mut master = Master([0; 32]);
    entropy::fill(&mut master.0).map_err(os("getrandom"))?;
    let mut text = Zeroizing::new([b'\n'; TEXT]);
    for (byte, pair) in master.0.iter().zip(text.chunks_exact_mut(2)) {
        let hex = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        pair.copy_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, PENDING, flags, Mode::RUSR).map_err(os("create"))?;
    let written = rustix::io::write(&fd, text.as_slice()).map_err(os("write"))?;
    if written != TEXT {
        return Err(KeyError::Os { step: "write", errno: Errno::NOSPC });
    }
    rustix::fs::fsync(&fd).map_err(os("fsync"))?;
    rustix::fs::fsync(directory).map_err(os("fsync of its directory"))?;
    Ok(master)
}

/// Gives the pending key its name; there is none of that name yet.
///
/// # Errors
/// [`KeyError`].
pub fn settle(directory: BorrowedFd<'_>) -> Result<(), KeyError> {
    rustix::fs::renameat_with(directory, PENDING, directory, NAME, RenameFlags::NOREPLACE).map_err(os("rename"))?;
    rustix::fs::fsync(directory).map_err(os("fsync of its directory"))
}

/// Gives the pending key the name of the one that it follows, which is gone then.
///
/// # Errors
/// [`KeyError`].
pub fn succeed(directory: BorrowedFd<'_>) -> Result<(), KeyError> {
    rustix::fs::renameat(directory, PENDING, directory, NAME).map_err(os("rename"))?;
    rustix::fs::fsync(directory).map_err(os("fsync of its directory"))
}

/// Removes a pending key that sealed nothing.
///
/// # Errors
/// [`KeyError`].
pub fn discard_pending(directory: BorrowedFd<'_>) -> Result<(), KeyError> {
    match rustix::fs::unlinkat(directory, PENDING, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(KeyError::Os { step: "unlink", errno }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt;

    fn made() -> (tempfile::TempDir, OwnedFd, Master) {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        let master = make_pending(fd.as_fd()).unwrap();
        settle(fd.as_fd()).unwrap();
        (dir, fd, master)
    }

    fn wrong(fd: &OwnedFd) -> String {
        match read(fd.as_fd(), NAME) {
            Err(error @ (KeyError::Form(..) | KeyError::Exposed { .. })) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn key_round_trip_is_65_bytes_of_mode_0400() {
        let (dir, fd, master) = made();
        assert!(read(fd.as_fd(), NAME).unwrap().expose() == master.expose());
        let found = std::fs::metadata(dir.path().join(NAME)).unwrap();
        assert_eq!((found.len(), found.permissions().mode() & 0o7777), (65, 0o400));
        assert!(matches!(read(fd.as_fd(), PENDING), Err(KeyError::Missing(PENDING))));
    }

    #[test]
    fn key_of_wrong_mode_is_refused() {
        let (dir, fd, _) = made();
        std::fs::set_permissions(dir.path().join(NAME), PermissionsExt::from_mode(0o440)).unwrap();
        assert!(wrong(&fd).contains("mode 0440"));
    }

    #[test]
    fn key_of_wrong_size_or_digits_or_kind_is_refused() {
        for text in
            [String::new(), "ab".repeat(31) + "\n", "ab".repeat(32), "ab".repeat(32) + "\n\n", "zz".repeat(32) + "\n"]
        {
            let (dir, fd, _) = made();
            let path = dir.path().join(NAME);
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o400)).unwrap();
            assert!(wrong(&fd).contains("hexadecimal"));
        }
        let (dir, fd, _) = made();
        std::fs::remove_file(dir.path().join(NAME)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join(NAME)).unwrap();
        assert!(wrong(&fd).contains("is a link"));
    }

    #[test]
    fn settled_key_is_never_replaced() {
        let (_dir, fd, first) = made();
        make_pending(fd.as_fd()).unwrap();
        assert!(settle(fd.as_fd()).is_err());
        assert!(read(fd.as_fd(), NAME).unwrap().expose() == first.expose());
    }
}
