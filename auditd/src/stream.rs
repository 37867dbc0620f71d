//! One stream: its chain and tree, its files, and its way back after a failure.
//!
//! Memory advances only after a batch is durable. After a failure the end of the file is read again from the last place
//! that is known, whatever half line is found is committed to by a `torn` record, and a `resumed` record must be durable
//! before anything else is acknowledged. What a failed fdatasync may have lost of *unacknowledged* lines before that
//! record cannot be repaired by appending; the chain then shows it at the next start.

use crate::chain::Class;
use crate::clock::{self, Instant};
use crate::file::{AppendError, LogFile};
use crate::keys::Ring;
use crate::note::SignedNote;
use crate::notes::NotesFile;
use crate::record::Source;
use crate::scan::{Scan, Tail, VerifyError, scan};
use crate::segment::Segment;
use crate::state::{Health, Limits};
use crate::tiles::live::LiveTiles;
use crate::tree::Hash;
use crate::verify::{Position, Verifier};
use crate::writer::Writer;
use proto::audit::{LogHead, Receipt, Record, Stream};
use proto::ids::Seq;
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

mod open;
mod prove;
mod sign;

/// What every stream needs to write.
#[derive(Debug)]
pub struct Pen<'p> {
    /// What lines say of their origin.
    pub writer: &'p Writer,
    /// The keys.
    pub ring: &'p Ring,
    /// When to do what.
    pub limits: &'p Limits,
    /// Now.
    pub now: Instant,
}

/// A file that is closed for good.
#[derive(Debug)]
struct Closed {
    name: String,
    bytes: u64,
}

/// One stream, open.
#[derive(Debug)]
pub struct LogStream {
    stream: Stream,
    directory: Arc<OwnedFd>,
    limit: Option<u64>,
    closed: Vec<Closed>,
    file: LogFile,
    notes: NotesFile,
    tiles: LiveTiles,
    /// Made for the next file, which then could not be made.
    next_notes: Option<NotesFile>,
    /// Behind the last durable record.
    at: Position,
    health: Health,
    /// Lines that the last checkpoint in a record covers.
    recorded: u64,
    /// True where the file has not got its `open` record yet.
    fresh: bool,
    /// When the file was begun, by the wall clock.
    begun: Option<Duration>,
    /// The latest time that a line has.
    latest: Option<Duration>,
    /// When the last checkpoint was written, by the monotonic clock.
    noted_ns: u64,
    /// The last checkpoint beside the file, and for how many lines it is.
    noted: Option<(u64, SignedNote)>,
    /// The one that the vault was asked to cosign.
    offered: Option<(u64, SignedNote)>,
    /// Lines that the vault has cosigned.
    cosigned: u64,
    /// Up to where the tree is known in the files.
    mark: Option<prove::Mark>,
}

/// Lines that are not in the file yet, and where they lead.
struct Draft {
    at: Position,
    recorded: u64,
    text: Vec<u8>,
    leaves: Vec<Hash>,
}

impl Draft {
    fn push(&mut self, line: &[u8]) {
        let leaf = crate::chain::leaf(line).0;
        self.at.push(leaf);
        self.leaves.push(leaf);
        self.text.extend_from_slice(line);
        self.text.push(b'\n');
    }
}

impl LogStream {
    /// Where the stream stands, durably.
    #[must_use]
    pub const fn head(&self) -> LogHead {
        let head = self.at.head;
        LogHead { stream: self.stream, size: head.size, leaf: head.leaf, cosigned: self.cosigned }
    }

    /// What is known at its end.
    #[must_use]
    pub const fn position(&self) -> &Position {
        &self.at
    }

    /// Name of the file that is appended to.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.file.name()
    }

    /// At most `cap` durable bytes from `offset` on, the stream's files taken as one, and where they begin: further on
    /// where a file was pruned, and at the end where `offset` is past it. What is not durable yet is not shown, so that a
    /// reader only ever sees a log that verifies.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self, offset: u64, cap: usize) -> Result<(u64, Vec<u8>), Errno> {
        let mut begins = 0u64;
        let mut from = offset;
        for closed in &self.closed {
            let ends = begins.saturating_add(closed.bytes);
            if from < ends {
                match crate::file::reader(self.directory.as_fd(), &closed.name) {
                    Ok(file) => {
                        let within = from.saturating_sub(begins);
                        return Ok((from, crate::file::read_at(file.as_fd(), within, closed.bytes, cap)?));
                    }
                    // Pruned since this process began.
                    Err(Errno::NOENT) => from = ends,
                    Err(errno) => return Err(errno),
                }
            }
            begins = ends;
        }
        let from = from.min(begins.saturating_add(self.file.bytes()));
        Ok((from, self.file.read(from.saturating_sub(begins), cap)?))
    }

    fn draft(&self) -> Draft {
        Draft { at: self.at.clone(), recorded: self.recorded, text: Vec::new(), leaves: Vec::new() }
    }

    /// Appends all of `batch` and makes it durable; a receipt each, in order.
    ///
    /// # Errors
    /// [`AppendError`]: none of the batch may be acknowledged.
    pub fn append(&mut self, pen: &Pen<'_>, batch: &[(Source, &Record)]) -> Result<Vec<Receipt>, AppendError> {
        let outcome = self.try_append(pen, batch);
        if let Err(error) = &outcome {
            self.fail(pen, error, batch.len());
        }
        outcome
    }

    fn try_append(&mut self, pen: &Pen<'_>, batch: &[(Source, &Record)]) -> Result<Vec<Receipt>, AppendError> {
        self.make_ready(pen)?;
        let mut draft = self.draft();
        draft.text.reserve(batch.len().saturating_mul(512));
        if draft.at.head.size.saturating_sub(draft.recorded) >= pen.limits.checkpoint_every {
            self.checkpoint(pen, &mut draft)?;
        }
        let ahead = self.latest.filter(|latest| latest.saturating_sub(pen.now.wall) > clock::TOLERANCE);
        if let Some(before) = ahead.map(clock::rfc3339_micros) {
            draft.push(&pen.writer.clock(self.stream, draft.at.head, &before, pen.now));
        }
        let mut receipts = Vec::with_capacity(batch.len());
        for (source, record) in batch {
            let seq = Seq(draft.at.head.size);
            draft.push(&pen.writer.line(draft.at.head, *source, record, pen.now, pen.ring.redactor()));
            receipts.push(Receipt { seq, leaf: draft.at.head.leaf });
        }
        self.commit(draft)?;
        self.latest = if ahead.is_some() { Some(pen.now.wall) } else { self.latest.max(Some(pen.now.wall)) };
        Ok(receipts)
    }

    /// Writes a draft and makes it durable.
    fn commit(&mut self, draft: Draft) -> Result<(), AppendError> {
        self.file.reserve(draft.text.len())?;
        if let Err(error) = self.file.write(&draft.text) {
            // Whatever of it is in the file must be looked at before another line.
            self.health = std::mem::take(&mut self.health).failed(&error.to_string(), 0);
            return Err(error);
        }
        self.advance(draft)
    }

    /// The draft is in the file.
    fn advance(&mut self, draft: Draft) -> Result<(), AppendError> {
        (self.at, self.recorded) = (draft.at, draft.recorded);
        draft.leaves.into_iter().try_for_each(|leaf| self.tiles.push(leaf))
    }

    /// A batch failed. Where it failed for want of room before anything was written, the room kept back takes the reason.
    fn fail(&mut self, pen: &Pen<'_>, error: &AppendError, records: usize) {
        let cause = error.to_string();
        let room = matches!(error, AppendError::Unwritable { step: "reserve", .. });
        if room && self.health == Health::Sound && !self.fresh && !self.at.closed && self.at.key.is_some() {
            let mut draft = self.draft();
            draft.push(&pen.writer.full(self.stream, draft.at.head, &cause, pen.now));
            let signed = self.checkpoint(pen, &mut draft);
            if signed.and_then(|()| self.file.write(&draft.text)).is_ok() {
                // Tiles that are not the log's are refused by the next batch.
                let _ = self.advance(draft);
            }
        }
        let records = u64::try_from(records).unwrap_or(u64::MAX);
        self.health = std::mem::take(&mut self.health).failed(&cause, records);
    }

    /// Brings the stream to a state that can be appended to, by appending.
    ///
    /// # Errors
    /// [`AppendError`]; another attempt is made before the next append.
    pub fn make_ready(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        if self.health != Health::Sound {
            self.mend(pen)?;
        }
        if self.at.key.is_none() {
            self.begin(pen)?;
        }
        if self.fresh || self.at.closed || self.is_due(pen) {
            self.rotate(pen)?;
        }
        if let Health::Doubtful { cause, refused } = &self.health {
            let mut draft = self.draft();
            draft.push(&pen.writer.resumed(self.stream, draft.at.head, cause, *refused, pen.now));
            self.commit(draft)?;
        }
        self.health = Health::Sound;
        self.account(pen)
    }

    /// Reads the end again and accounts for what is torn.
    fn mend(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        let found = self.rescan()?;
        if let Tail::Torn { newline, fragment } = &found.tail {
            let mut text = Vec::new();
            if *newline {
                text.push(b'\n');
            }
            text.extend_from_slice(&pen.writer.torn(self.stream, found.head, fragment, pen.now));
            text.push(b'\n');
            self.file.reserve(text.len().saturating_add(usize::try_from(found.bytes).unwrap_or(0)))?;
            self.file.write(&text)?;
            // What the fragment was, a record for all that, or junk, is for the check to say.
            self.file.settle(self.file.bytes().saturating_sub(u64::try_from(text.len()).unwrap_or(0)));
            let again = self.rescan()?;
            return self.settle(again);
        }
        self.settle(found)
    }

    fn settle(&mut self, found: Scan) -> Result<(), AppendError> {
        self.file.settle(self.file.bytes().saturating_add(found.sound_bytes));
        let signed = self.at.signed;
        self.at = Position { signed: found.sound.signed.max(signed), ..found.sound };
        self.fresh = self.fresh && self.at.closed;
        let first = self.first();
        open::catch_up(&mut self.tiles, &self.file, first, self.file.bytes())
    }

    /// Checks the file from the last durable record on.
    fn rescan(&self) -> Result<Scan, AppendError> {
        let end = self.file.end()?;
        let mut verifier = Verifier::within(self.stream, self.at.clone(), self.first(), None);
        scan(self.file.section(self.file.bytes(), end), &mut verifier, |_, _| Ok(()))
            .map_err(|error| failed(self.file.name(), error))
    }

    fn first(&self) -> u64 {
        Segment::parse(self.stream, self.file.name()).map_or(0, |segment| segment.first)
    }
}

fn failed(file: &str, error: VerifyError) -> AppendError {
    let file = file.to_owned();
    match error {
        VerifyError::Broken(broken) => AppendError::Broken { file, broken },
        VerifyError::Notes(broken) if broken.class == Class::Truncated => AppendError::Broken { file, broken },
        VerifyError::Notes(broken) => AppendError::Broken { file: file.replace(".jsonl", ".checkpoints"), broken },
        VerifyError::Read(error) => AppendError::Unwritable {
            step: "pread",
            errno: error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests;
