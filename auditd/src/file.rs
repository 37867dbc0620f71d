//! One file of a stream: append, make durable, keep room for the last word.
//!
//! The file system is the adversary here: any write may stop short and any fdatasync may fail. The descriptor that
//! writes can do nothing else: it is write-only, so it cannot be mapped, and `O_APPEND` stays set because the wall has
//! no call that clears it. Room behind the end is allocated ahead (`FALLOC_FL_KEEP_SIZE`), so that a full disk is found
//! out before a record is half written, and so that a last record can still say why.

use crate::chain::Broken;
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io::{BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes behind every batch that stay allocated: enough for the last record and its checkpoint.
const KEEP: u64 = 8 << 10;
/// Bytes that are allocated at once, where there is room.
const CHUNK: u64 = 64 << 10;

/// Why a batch is not in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk would not take it; the next batch tries again.
    #[error("{step}: {errno}")]
    Unwritable {
        /// The call that failed.
        step: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The file is not what was written: nothing may be appended to it any more.
    #[error("{file}: {broken}")]
    Broken {
        /// Its name.
        file: String,
        /// Where.
        broken: Broken,
    },
    /// The file is shorter than what was written.
    #[error("{file} was cut: {found} bytes where at least {written} were written")]
    Cut {
        /// Its name.
        file: String,
        /// Bytes there.
        found: u64,
        /// Bytes that were durable.
        written: u64,
    },
    /// The stream's key is not the one that auditd holds.
    #[error("{file}: {what}")]
    Key {
        /// Its name.
        file: String,
        /// What does not fit.
        what: &'static str,
    },
    /// The tiles are not those of the log.
    #[error("{file} {what}")]
    Tiles {
        /// Name of their file.
        file: String,
        /// What does not fit.
        what: &'static str,
    },
}

impl AppendError {
    /// True where trying again cannot help: the file is evidence now.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Unwritable { .. })
    }
}

/// An error of the system at `step`.
pub fn unwritable(step: &'static str) -> impl FnOnce(Errno) -> AppendError {
    move |errno| AppendError::Unwritable { step, errno }
}

const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens `name` beneath `directory` for appending alone, and makes it where `new` or where it is missing.
///
/// # Errors
/// [`AppendError::Unwritable`].
pub fn appender(directory: BorrowedFd<'_>, name: &str, new: bool) -> Result<OwnedFd, AppendError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let flags = if new { flags | OFlags::EXCL } else { flags };
    let fd = rustix::fs::openat(directory, name, flags, PRIVATE).map_err(unwritable("open"))?;
    let found = rustix::fs::fstat(&fd).map_err(unwritable("fstat"))?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(AppendError::Unwritable { step: "not a regular file", errno: Errno::INVAL });
    }
    if found.st_mode & 0o7777 != 0o600 {
        rustix::fs::fchmod(&fd, PRIVATE).map_err(unwritable("fchmod"))?;
    }
    Ok(fd)
}

/// Opens `name` beneath `directory` for reading.
///
/// # Errors
/// What `openat(2)` says.
pub fn reader(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// One file of a stream, open.
#[derive(Debug)]
pub struct LogFile {
    name: String,
    append: OwnedFd,
    read: OwnedFd,
    /// Durable bytes, up to the end of a record that stands for itself.
    bytes: u64,
    /// Bytes that the file system has promised to take.
    reserved: u64,
    /// False where the file system cannot promise.
    reserves: bool,
    /// `RLIMIT_FSIZE`, where there is one.
    limit: Option<u64>,
}

impl LogFile {
    /// Opens or makes a file; `new` where it must not be there.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`].
    pub fn open(directory: BorrowedFd<'_>, name: String, new: bool, limit: Option<u64>) -> Result<Self, AppendError> {
        let append = appender(directory, &name, new)?;
        let read = reader(directory, &name).map_err(unwritable("open"))?;
        Ok(Self { name, append, read, bytes: 0, reserved: 0, reserves: true, limit })
    }

    /// Its name in its directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Durable bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The durable bytes are these.
    pub const fn settle(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// Bytes that there are now, durable or not.
    ///
    /// # Errors
    /// [`AppendError::Cut`] where there are fewer than were durable.
    pub fn end(&self) -> Result<u64, AppendError> {
        let size = rustix::fs::fstat(&self.read).map_err(unwritable("fstat"))?.st_size;
        let end = u64::try_from(size).unwrap_or(0);
        if end < self.bytes {
            return Err(AppendError::Cut { file: self.name.clone(), found: end, written: self.bytes });
        }
        Ok(end)
    }

    /// The file's content between two offsets.
    #[must_use]
    pub fn section(&self, from: u64, until: u64) -> BufReader<Section<'_>> {
        section(self.read.as_fd(), from, until)
    }

    /// At most `cap` durable bytes from `offset` on.
    ///
    /// # Errors
    /// What `pread(2)` says.
    pub fn read(&self, offset: u64, cap: usize) -> Result<Vec<u8>, Errno> {
        read_at(self.read.as_fd(), offset, self.bytes, cap)
    }

    /// Makes sure that `more` bytes can be written and that room for a last word is left behind them.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`]; nothing was written.
    pub fn reserve(&mut self, more: usize) -> Result<(), AppendError> {
        let end = self.bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)).saturating_add(KEEP);
        if self.limit.is_some_and(|limit| end > limit) {
            return Err(AppendError::Unwritable { step: "reserve", errno: Errno::FBIG });
        }
        if !self.reserves || end <= self.reserved {
            return Ok(());
        }
        let generous = end.saturating_add(CHUNK);
        let promised = match self.promise(generous) {
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => self.promise(end).map(|()| end),
            other => other.map(|()| generous),
        };
        match promised {
            Ok(reserved) => self.reserved = reserved,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.reserves = false,
            Err(errno) => return Err(AppendError::Unwritable { step: "reserve", errno }),
        }
        Ok(())
    }

    fn promise(&self, end: u64) -> Result<(), Errno> {
        let more = end.saturating_sub(self.bytes);
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.append, FallocateFlags::KEEP_SIZE, self.bytes, more))
    }

    /// Writes `text` and makes it durable.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`]; what of it is in the file is not known.
    pub fn write(&mut self, text: &[u8]) -> Result<(), AppendError> {
        write_all(&self.append, text)?;
        self.sync()?;
        self.bytes = self.bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`].
    pub fn sync(&self) -> Result<(), AppendError> {
        rustix::fs::fdatasync(&self.append).map_err(unwritable("fdatasync"))
    }
}

/// A file's content between two offsets.
#[must_use]
pub fn section(fd: BorrowedFd<'_>, from: u64, until: u64) -> BufReader<Section<'_>> {
    BufReader::with_capacity(1 << 16, Section { fd, at: from, end: until })
}

/// Writes all of `text`: one call, unless the kernel takes less; then the second says why.
///
/// # Errors
/// [`AppendError::Unwritable`].
pub fn write_all(fd: &OwnedFd, text: &[u8]) -> Result<(), AppendError> {
    let mut rest = text;
    while !rest.is_empty() {
        match rustix::io::write(fd, rest) {
            Ok(0) => return Err(AppendError::Unwritable { step: "write", errno: Errno::NOSPC }),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(AppendError::Unwritable { step: "write", errno }),
        }
    }
    Ok(())
}

/// At most `cap` bytes between `offset` and `end`; none past the end.
///
/// # Errors
/// What `pread(2)` says.
pub fn read_at(fd: BorrowedFd<'_>, offset: u64, end: u64, cap: usize) -> Result<Vec<u8>, Errno> {
    let left = end.saturating_sub(offset);
    if left == 0 {
        return Ok(Vec::new());
    }
    let mut bytes = vec![0; usize::try_from(left).unwrap_or(cap).min(cap)];
    let read = rustix::io::pread(fd, bytes.as_mut_slice(), offset)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// A part of a file as a reader. The end is fixed when it is made, so that a reader of a growing file ends.
#[derive(Debug)]
pub struct Section<'fd> {
    fd: BorrowedFd<'fd>,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let Some(room) = buffer.get_mut(..room) else { return Ok(0) };
        if room.is_empty() {
            return Ok(0);
        }
        let read = rustix::io::pread(self.fd, room, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

#[cfg(test)]
impl LogFile {
    pub(crate) fn replace_appender(&mut self, fd: OwnedFd) -> OwnedFd {
        self.reserves = false;
        std::mem::replace(&mut self.append, fd)
    }
}
