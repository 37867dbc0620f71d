//! All streams together, and the one who writes in them.

use crate::chain::{Fragment, Head};
use crate::clock::Instant;
use crate::file::{AppendError, LogFile};
use crate::record::{self, Envelope, Line};
use confine::startup::StartError;
use proto::audit::{LogHead, Receipt, Record, Stream};
use proto::ids::Role;
use std::os::fd::{AsFd, OwnedFd};

/// What every line says of its origin.
#[derive(Debug)]
pub struct Writer {
    boot: String,
    layout: String,
}

impl Writer {
    /// A writer for this boot of this machine.
    ///
    /// # Errors
    /// A line for a person where the kernel's boot id cannot be read.
    pub fn from_system(layout: String) -> Result<Self, String> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let boot = std::fs::read_to_string(BOOT_ID).map_err(|error| format!("{BOOT_ID}: {error}"))?;
        Ok(Self { boot: boot.trim().to_owned(), layout })
    }

    fn envelope<'e>(&'e self, head: Head, stream: Stream, kind: &'e str, actor: &'e str, now: Instant) -> Envelope<'e> {
        Envelope { head, now, boot: &self.boot, stream: stream.name(), kind, actor, layout: &self.layout }
    }

    /// The line of a record, written now.
    #[must_use]
    pub fn line(&self, head: Head, actor: &str, record: &Record) -> Vec<u8> {
        self.line_at(head, actor, record, Instant::now())
    }

    /// The line of a record, written at `now`.
    #[must_use]
    pub fn line_at(&self, head: Head, actor: &str, record: &Record, now: Instant) -> Vec<u8> {
        let envelope = self.envelope(head, record.stream(), record::kind(record), actor, now);
        let mut line = Line::open(&envelope);
        record::payload(&mut line, record, now);
        line.close(&envelope)
    }

    /// The line that commits to a fragment before it.
    #[must_use]
    pub fn torn(&self, stream: Stream, head: Head, fragment: &Fragment) -> Vec<u8> {
        let envelope = self.envelope(head, stream, "torn", Role::Auditd.name(), Instant::now());
        let mut line = Line::open(&envelope);
        line.number("len", fragment.len).text("sha256", &fragment.sha256);
        line.close(&envelope)
    }

    /// The line that must be durable before a stream whose disk failed takes records again.
    #[must_use]
    pub fn resumed(&self, stream: Stream, head: Head, cause: &str, refused: u64) -> Vec<u8> {
        let envelope = self.envelope(head, stream, "resumed", Role::Auditd.name(), Instant::now());
        let mut line = Line::open(&envelope);
        line.text("cause", cause).number("refused", refused);
        line.close(&envelope)
    }
}

#[cfg(test)]
impl Writer {
    pub(crate) const TEST_NOW: Instant =
        Instant { wall: std::time::Duration::from_micros(1_795_431_601_000_042), monotonic_ns: 7 };

    pub(crate) fn for_tests() -> Self {
        Self { boot: "00000000-0000-0000-0000-000000000000".into(), layout: "single-uid".into() }
    }
}

/// Every stream's file, open.
#[derive(Debug)]
pub struct Journal {
    writer: Writer,
    files: [LogFile; 4],
}

impl Journal {
    /// Opens, checks and repairs every stream beneath `directory`.
    ///
    /// # Errors
    /// [`StartError`]: integrity where a file is not what was written, else internal.
    pub fn open(directory: &OwnedFd, writer: Writer) -> Result<Self, StartError> {
        let [auth, command, secret, system] = Stream::ALL.map(|stream| Self::open_one(directory, stream, &writer));
        let files = [auth?, command?, secret?, system?];
        // The names are as durable as what stands under them.
        rustix::fs::fsync(directory).map_err(|errno| StartError::internal(format!("logs/: fsync: {errno}")))?;
        Ok(Self { writer, files })
    }

    fn open_one(directory: &OwnedFd, stream: Stream, writer: &Writer) -> Result<LogFile, StartError> {
        let mut file = LogFile::open(directory.as_fd(), stream).map_err(|error| match error {
            AppendError::Unwritable { .. } => StartError::internal(format!("{}: {error}", LogFile::name(stream))),
            AppendError::Broken { .. } | AppendError::Cut { .. } => StartError::integrity(format!(
                "{error}; keep the file as evidence, move it out of logs/ and start again"
            )),
        })?;
        // A disk that is full now may have room when the first record comes: then the repair is tried again.
        let _ = file.repair(writer);
        Ok(file)
    }

    fn file(&self, stream: Stream) -> &LogFile {
        let [auth, command, secret, system] = &self.files;
        match stream {
            Stream::Auth => auth,
            Stream::Command => command,
            Stream::Secret => secret,
            Stream::System => system,
        }
    }

    /// Appends a batch to one stream and makes it durable; a receipt each, in order.
    ///
    /// # Errors
    /// [`AppendError`]: none of the batch may be acknowledged.
    pub fn append(&mut self, stream: Stream, batch: &[(Role, &Record)]) -> Result<Vec<Receipt>, AppendError> {
        let [auth, command, secret, system] = &mut self.files;
        let file = match stream {
            Stream::Auth => auth,
            Stream::Command => command,
            Stream::Secret => secret,
            Stream::System => system,
        };
        file.append(&self.writer, batch)
    }

    /// Where every stream stands, durably.
    #[must_use]
    pub fn heads(&self) -> Vec<LogHead> {
        self.files.iter().map(LogFile::head).collect()
    }

    /// At most `cap` bytes of a stream from `offset` on; empty at its end and past it.
    ///
    /// # Errors
    /// What `pread(2)` says.
    pub fn read(&self, stream: Stream, offset: u64, cap: usize) -> Result<Vec<u8>, rustix::io::Errno> {
        self.file(stream).read(offset, cap)
    }
}
