//! One stream's file: append, make durable, and find the truth again after either failed.
//!
//! The file system is the adversary here: any write may stop short and any fdatasync may fail. Memory advances only after
//! both succeeded. After a failure the end of the file is read again from the last place that is known, whatever half
//! line is found is committed to by a `torn` record, and a `resumed` record must be durable before anything else is
//! acknowledged. Nothing here can shorten or overwrite a file. What a failed fdatasync may have lost of *unacknowledged*
//! lines before that record cannot be repaired by appending; the chain then shows it at the next start.

use crate::chain::{self, Broken, Head, Scan, Tail, VerifyError};
use crate::journal::Writer;
use crate::state::Health;
use proto::audit::{LogHead, Receipt, Record, Stream};
use proto::ids::{Role, Seq};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io::{BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

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
}

fn unwritable(step: &'static str) -> impl FnOnce(Errno) -> AppendError {
    move |errno| AppendError::Unwritable { step, errno }
}

/// One stream's file.
#[derive(Debug)]
pub struct LogFile {
    fd: OwnedFd,
    stream: Stream,
    /// After the last durable record.
    head: Head,
    /// Bytes up to there.
    bytes: u64,
    health: Health,
}

impl LogFile {
    /// Opens or makes the file of `stream` beneath `directory` and checks it to its end. A torn end is repaired by the
    /// first append at the latest.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was written.
    pub fn open(directory: BorrowedFd<'_>, stream: Stream) -> Result<Self, AppendError> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::openat(directory, Self::name(stream), flags, mode).map_err(unwritable("open"))?;
        let found = rustix::fs::fstat(&fd).map_err(unwritable("fstat"))?;
        if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
            return Err(AppendError::Unwritable { step: "not a regular file", errno: Errno::INVAL });
        }
        rustix::fs::fchmod(&fd, mode).map_err(unwritable("fchmod"))?;
        let mut file = Self { fd, stream, head: Head::EMPTY, bytes: 0, health: Health::Sound };
        let scan = file.scan()?;
        if scan.tail != Tail::Clean {
            file.health = Health::Unclean;
        }
        (file.head, file.bytes) = (scan.sound, scan.sound_bytes);
        Ok(file)
    }

    /// The file's name in its directory.
    #[must_use]
    pub fn name(stream: Stream) -> String {
        format!("{}.jsonl", stream.name())
    }

    /// Where the stream stands, durably.
    #[must_use]
    pub const fn head(&self) -> LogHead {
        LogHead { stream: self.stream, size: self.head.size, leaf: self.head.leaf }
    }

    /// At most `cap` durable bytes from `offset` on; empty at the end and past it. What is not durable yet is not shown,
    /// so that a reader only ever sees a log that verifies.
    ///
    /// # Errors
    /// What `pread(2)` says.
    pub fn read(&self, offset: u64, cap: usize) -> Result<Vec<u8>, Errno> {
        let left = self.bytes.saturating_sub(offset);
        if left == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; usize::try_from(left).unwrap_or(cap).min(cap)];
        let read = rustix::io::pread(&self.fd, bytes.as_mut_slice(), offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Appends all of `batch` and makes it durable; a receipt each, in order.
    ///
    /// # Errors
    /// [`AppendError`]: none of the batch may be acknowledged.
    pub fn append(&mut self, writer: &Writer, batch: &[(Role, &Record)]) -> Result<Vec<Receipt>, AppendError> {
        let outcome = self.repair(writer).and_then(|()| {
            let mut text = Vec::with_capacity(batch.len().saturating_mul(512));
            let mut receipts = Vec::with_capacity(batch.len());
            let mut head = self.head;
            for (actor, record) in batch {
                let line = writer.line(head, actor.name(), record);
                let seq = Seq(head.size);
                head = head.after(&line);
                receipts.push(Receipt { seq, leaf: head.leaf });
                text.extend_from_slice(&line);
                text.push(b'\n');
            }
            self.write(&text)?;
            self.advance(head, self.bytes, text.len());
            Ok(receipts)
        });
        if let Err(error) = &outcome {
            let records = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            self.health = std::mem::take(&mut self.health).failed(&error.to_string(), records);
        }
        outcome
    }

    /// Brings the file to a state that can be appended to, by appending.
    ///
    /// # Errors
    /// [`AppendError`]; another attempt is made before the next append.
    pub fn repair(&mut self, writer: &Writer) -> Result<(), AppendError> {
        let (cause, refused) = match &self.health {
            Health::Sound => return Ok(()),
            Health::Unclean => (None, 0),
            Health::Doubtful { cause, refused } => (Some(cause.clone()), *refused),
        };
        let scan = self.scan()?;
        let mut head = scan.head;
        let mut text = Vec::new();
        if let Tail::Torn { newline, fragment } = &scan.tail {
            if *newline {
                text.push(b'\n');
            }
            let line = writer.torn(self.stream, head, fragment);
            head = head.after(&line);
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        if let Some(cause) = cause {
            let line = writer.resumed(self.stream, head, &cause, refused);
            head = head.after(&line);
            text.extend_from_slice(&line);
            text.push(b'\n');
        }
        self.write(&text)?;
        let end = self.bytes.saturating_add(scan.bytes);
        self.advance(head, end, text.len());
        self.health = Health::Sound;
        Ok(())
    }

    fn advance(&mut self, head: Head, from: u64, bytes: usize) {
        self.head = head;
        self.bytes = from.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Checks the file from the last durable record on.
    fn scan(&self) -> Result<Scan, AppendError> {
        let size = rustix::fs::fstat(&self.fd).map_err(unwritable("fstat"))?.st_size;
        let end = u64::try_from(size).unwrap_or(0);
        let file = || Self::name(self.stream);
        if end < self.bytes {
            return Err(AppendError::Cut { file: file(), found: end, written: self.bytes });
        }
        let reader = BufReader::with_capacity(1 << 16, Section { fd: self.fd.as_fd(), at: self.bytes, end });
        chain::resume(reader, self.stream, self.head).map_err(|error| match error {
            VerifyError::Broken(broken) => AppendError::Broken { file: file(), broken },
            VerifyError::Read(error) => AppendError::Unwritable {
                step: "pread",
                errno: error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error),
            },
        })
    }

    fn write(&self, text: &[u8]) -> Result<(), AppendError> {
        let mut rest = text;
        // One call, unless the kernel takes less: then the second says why.
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(0) => return Err(AppendError::Unwritable { step: "write", errno: Errno::NOSPC }),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(AppendError::Unwritable { step: "write", errno }),
            }
        }
        rustix::fs::fdatasync(&self.fd).map_err(unwritable("fdatasync"))
    }
}

/// A part of a file as a reader. The end is fixed when it is made, so that a reader of a growing file ends.
struct Section<'fd> {
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
mod tests;
