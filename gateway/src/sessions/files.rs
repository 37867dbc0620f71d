//! Files beneath the session directory: read from the end, and appended to by whole lines. Neither cut nor removed here.

use super::SessionError;
use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::{Errno, pread, write};
use std::os::fd::OwnedFd;

/// The directory.
#[derive(Debug)]
pub(super) struct Directory(pub(super) OwnedFd);

impl Directory {
    /// When the file was last written, in milliseconds since 1970; 0 where there is none.
    pub(super) fn modified(&self, file: &str) -> u64 {
        let stat = openat(&self.0, file, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| fstat(&fd));
        stat.ok().and_then(|stat| u64::try_from(stat.st_mtime).ok()).unwrap_or_default().saturating_mul(1000)
    }

    /// The last `cap` bytes of the file, from a line's beginning on; true where that is all of it.
    pub(super) fn tail(&self, file: &str, cap: u64) -> Result<(Vec<u8>, bool), SessionError> {
        let failed = |errno| SessionError::File { what: "read", file: file.to_owned(), errno };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match openat(&self.0, file, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok((Vec::new(), true)),
            Err(errno) => return Err(failed(errno)),
        };
        let size = u64::try_from(fstat(&fd).map_err(failed)?.st_size).unwrap_or_default();
        let mut at = size.saturating_sub(cap);
        let whole = at == 0;
        let mut bytes = Vec::new();
        let mut block = vec![0u8; 65_536];
        while at < size {
            let read = pread(&fd, &mut block, at).map_err(failed)?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(block.get(..read).unwrap_or_default());
            at = at.saturating_add(u64::try_from(read).unwrap_or_default());
        }
        if !whole {
            let first = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end.saturating_add(1));
            bytes.drain(..first);
        }
        Ok((bytes, whole))
    }

    /// Appends a line, or several, by one write. Where a crash cut the line before, that one is closed first.
    pub(super) fn append(&self, file: &str, line: &str, cap: u64) -> Result<(), SessionError> {
        let failed = |errno| SessionError::File { what: "append to", file: file.to_owned(), errno };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.0, file, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let size = u64::try_from(fstat(&fd).map_err(failed)?.st_size).unwrap_or_default();
        let mut last = [b'\n'];
        if size > 0 {
            pread(&fd, &mut last, size.saturating_sub(1)).map_err(failed)?;
        }
        let torn = if last == [b'\n'] { "" } else { "\n" };
        let text = format!("{torn}{line}\n");
        if size.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX)) > cap {
            return Err(SessionError::Full(file.to_owned()));
        }
        match write(&fd, text.as_bytes()).map_err(failed)? {
            written if written == text.len() => Ok(()),
            _ => Err(failed(Errno::NOSPC)),
        }
    }
}
