//! The lines of a stream as they are written: what every record says of its origin, and the records that auditd writes
//! about the log itself.

use crate::chain::{Fragment, Head};
use crate::clock::Instant;
use crate::note::PublicKey;
use crate::record::{self, Envelope, Line, Source};
use crate::redact::Redactor;
use crate::tree::Frontier;
use crate::verify::{FORMAT, frontier_text};
use proto::audit::{Record, Stream};

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
        Ok(Self::new(boot.trim().to_owned(), layout))
    }

    /// A writer for the boot of this id.
    #[must_use]
    pub const fn new(boot: String, layout: String) -> Self {
        Self { boot, layout }
    }

    fn write(
        &self,
        head: Head,
        stream: Stream,
        kind: &str,
        source: Source,
        now: Instant,
        fill: impl FnOnce(&mut Line),
    ) -> Vec<u8> {
        let stream = stream.name();
        let envelope = Envelope { head, now, boot: &self.boot, stream, kind, source, layout: &self.layout };
        let mut line = Line::open(&envelope);
        fill(&mut line);
        line.close(&envelope)
    }

    /// The line of a record, without the secrets that its texts hold.
    #[must_use]
    pub fn line(&self, head: Head, source: Source, record: &Record, now: Instant, redactor: &Redactor) -> Vec<u8> {
        let kind = record::kind(record);
        self.write(head, record.stream(), kind, source, now, |line| record::payload(line, record, now, redactor))
    }

    /// The line that brings in a key.
    #[must_use]
    pub fn epoch(&self, stream: Stream, head: Head, epoch: u64, key: &PublicKey, now: Instant) -> Vec<u8> {
        self.write(head, stream, "epoch", Source::OWN, now, |line| {
            line.number("format", FORMAT).number("keyEpoch", epoch).text("key", &key.to_string());
        })
    }

    /// The line with a checkpoint of everything before it.
    #[must_use]
    pub fn checkpoint(
        &self,
        stream: Stream,
        head: Head,
        tree: &Frontier,
        epoch: u64,
        note: &str,
        now: Instant,
    ) -> Vec<u8> {
        self.write(head, stream, "checkpoint", Source::OWN, now, |line| {
            line.number("keyEpoch", epoch).text("note", note).texts("frontier", &frontier_text(tree));
        })
    }

    /// The line that closes a file.
    #[must_use]
    pub fn rotate(&self, stream: Stream, head: Head, next: &str, now: Instant) -> Vec<u8> {
        self.write(head, stream, "rotate", Source::OWN, now, |line| {
            line.text("next", next);
        })
    }

    /// The line that opens the file after a closed one: a checkpoint that also names the key, so that the file can be
    /// checked without those before it.
    #[must_use]
    pub fn open(
        &self,
        stream: Stream,
        head: Head,
        tree: &Frontier,
        (epoch, key): (u64, &PublicKey),
        note: &str,
        now: Instant,
    ) -> Vec<u8> {
        self.write(head, stream, "open", Source::OWN, now, |line| {
            line.number("format", FORMAT)
                .number("keyEpoch", epoch)
                .text("key", &key.to_string())
                .text("note", note)
                .texts("frontier", &frontier_text(tree));
        })
    }

    /// The line that commits to a fragment before it.
    #[must_use]
    pub fn torn(&self, stream: Stream, head: Head, fragment: &Fragment, now: Instant) -> Vec<u8> {
        self.write(head, stream, "torn", Source::OWN, now, |line| {
            line.number("len", fragment.len).text("sha256", &fragment.sha256);
        })
    }

    /// The line that commits to a fragment in the file of checkpoints.
    #[must_use]
    pub fn torn_note(&self, stream: Stream, head: Head, offset: u64, fragment: &Fragment, now: Instant) -> Vec<u8> {
        self.write(head, stream, "torn-checkpoints", Source::OWN, now, |line| {
            line.number("offset", offset).number("len", fragment.len).text("sha256", &fragment.sha256);
        })
    }

    /// The last line before a stream stops for want of room.
    #[must_use]
    pub fn full(&self, stream: Stream, head: Head, cause: &str, now: Instant) -> Vec<u8> {
        self.write(head, stream, "full", Source::OWN, now, |line| {
            line.text("cause", cause);
        })
    }

    /// The line that must be durable before a stream whose disk failed takes records again.
    #[must_use]
    pub fn resumed(&self, stream: Stream, head: Head, cause: &str, refused: u64, now: Instant) -> Vec<u8> {
        self.write(head, stream, "resumed", Source::OWN, now, |line| {
            line.text("cause", cause).number("refused", refused);
        })
    }

    /// The line that owns up to a wall clock that was set back.
    #[must_use]
    pub fn clock(&self, stream: Stream, head: Head, before: &str, now: Instant) -> Vec<u8> {
        self.write(head, stream, "clock", Source::OWN, now, |line| {
            line.text("before", before);
        })
    }
}

#[cfg(test)]
impl Writer {
    pub(crate) const TEST_NOW: Instant =
        Instant { wall: std::time::Duration::from_micros(1_795_431_601_000_042), monotonic_ns: 7 };

    pub(crate) fn for_tests() -> Self {
        Self::new("00000000-0000-0000-0000-000000000000".into(), "single-uid".into())
    }
}
