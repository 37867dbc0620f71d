//! All streams together: one writer, one set of keys.

use crate::clock::Instant;
use crate::commitments::Commitments;
use crate::file::AppendError;
use crate::keys::Ring;
use crate::record::Source;
use crate::redact::Patterns;
use crate::state::Limits;
use crate::stream::{LogStream, Pen};
use crate::writer::Writer;
use confine::startup::StartError;
use proto::audit::{LogHead, Receipt, Record, Stream};
use rustix::fs::Dir;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Every stream, open.
#[derive(Debug)]
pub struct Journal {
    writer: Writer,
    ring: Ring,
    limits: Limits,
    directory: Arc<OwnedFd>,
    streams: [LogStream; 4],
    /// Records of all streams together when the key in force was brought in.
    since: u64,
    /// When the next key is due, by the monotonic clock.
    epoch_due_ns: u64,
    /// What the log says of the vault's store, once the vault has asked.
    commitments: Option<Commitments>,
}

impl Journal {
    /// Opens, checks and repairs every stream beneath `directory`, which stays open for the files to come.
    ///
    /// # Errors
    /// [`StartError`]: integrity where a file is not what was written, else internal.
    pub fn open(directory: OwnedFd, writer: Writer, limits: Limits) -> Result<Self, StartError> {
        let internal = |what| move |errno| StartError::internal(format!("logs/{what}: {errno}"));
        let directory = Arc::new(directory);
        let names = names(&directory).map_err(internal(""))?;
        let found = Ring::open(directory.as_fd()).map_err(internal(crate::keys::NAME))?;
        let ring = found.as_ref().ok();
        let [auth, command, secret, system] =
            Stream::ALL.map(|stream| LogStream::open(&directory, stream, &names, ring).map_err(start_error));
        let streams = [auth?, command?, secret?, system?];
        let ring = match found {
            Ok(ring) => ring,
            Err(_) if streams.iter().any(|stream| stream.position().key.is_some()) => {
                return Err(start_error(AppendError::Key {
                    file: crate::keys::NAME.to_owned(),
                    what: "holds no key, but the log was signed with one",
                }));
            }
            Err(empty) => empty.begin().map_err(internal(crate::keys::NAME))?,
        };
        let mut journal =
            Self { writer, ring, limits, directory, streams, since: 0, epoch_due_ns: 0, commitments: None };
        journal.settle()?;
        // The names are as durable as what stands under them.
        rustix::fs::fsync(&journal.directory).map_err(internal(""))?;
        Ok(journal)
    }

    /// Takes out what the operator's patterns match as well.
    pub fn use_patterns(&mut self, patterns: Patterns) {
        self.ring.redactor_mut().use_patterns(patterns);
    }

    /// The directory that everything stands in.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Checks that the keys are the log's, ends a change of keys that a crash cut short, and writes what each stream must
    /// have before its first record. A disk that is full now may have room later: then it is tried again.
    fn settle(&mut self) -> Result<(), StartError> {
        let now = Instant::now();
        for stream in &self.streams {
            let key = stream.position().key.as_ref();
            let ours = key.is_none_or(|key| self.ring.public(stream.head().stream, key.epoch).as_ref() == Some(key));
            if !ours || key.is_none() && self.ring.epoch() > 0 {
                let what =
                    if ours { "is missing or empty, though the log is older" } else { "was signed with another key" };
                return Err(start_error(AppendError::Key { file: stream.file_name().to_owned(), what }));
            }
        }
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now };
        for stream in &mut self.streams {
            match stream.make_ready(&pen) {
                Err(error) if error.is_final() => return Err(start_error(error)),
                Err(_) | Ok(()) => {}
            }
        }
        if self.ring.next().is_some() {
            let _ = self.change_keys(now);
        }
        let age = self.ring.age().unwrap_or_default();
        let left = self.limits.epoch_age.saturating_sub(age);
        self.epoch_due_ns = now.monotonic_ns.saturating_add(nanos(left));
        Ok(())
    }

    /// Appends a batch to one stream and makes it durable; a receipt each, in order.
    ///
    /// # Errors
    /// [`AppendError`]: none of the batch may be acknowledged.
    pub fn append(&mut self, stream: Stream, batch: &[(Source, &Record)]) -> Result<Vec<Receipt>, AppendError> {
        let now = Instant::now();
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now };
        let [auth, command, secret, system] = &mut self.streams;
        let stream = match stream {
            Stream::Auth => auth,
            Stream::Command => command,
            Stream::Secret => secret,
            Stream::System => system,
        };
        stream.append(&pen, batch)
    }

    /// Does what is due: checkpoints, and a new key. To be called between batches.
    ///
    /// # Errors
    /// [`AppendError`] where a file turned out not to be what was written.
    pub fn tick(&mut self) -> Result<(), AppendError> {
        self.carry();
        let now = Instant::now();
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now };
        for stream in &mut self.streams {
            if stream.note_due_in(&self.limits, now) == Some(0) {
                match stream.note(&pen) {
                    Err(error) if error.is_final() => return Err(error),
                    Err(_) | Ok(()) => {}
                }
            }
        }
        if now.monotonic_ns >= self.epoch_due_ns && self.records() > self.since {
            match self.change_keys(now) {
                Err(error) if error.is_final() => return Err(error),
                Err(_) | Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Signs a checkpoint of every stream now, whether one is due or not.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn checkpoint(&mut self) -> Result<(), AppendError> {
        let now = Instant::now();
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now };
        self.streams.iter_mut().try_for_each(|stream| stream.note(&pen))
    }

    /// How long [`Journal::tick`] may wait; none where nothing will be due.
    #[must_use]
    pub fn due_in(&self) -> Option<Duration> {
        let now = Instant::now();
        let notes = self.streams.iter().filter_map(|stream| stream.note_due_in(&self.limits, now));
        let key = (self.records() > self.since).then(|| self.epoch_due_ns.saturating_sub(now.monotonic_ns));
        notes.chain(key).min().map(Duration::from_nanos)
    }

    fn records(&self) -> u64 {
        self.streams.iter().map(|stream| stream.head().size).sum()
    }

    /// Brings in the next key: kept first, announced in every stream, and only then is the old one destroyed.
    ///
    /// # Errors
    /// [`AppendError`]; the old key stays until another attempt gets to the end.
    pub fn change_keys(&mut self, now: Instant) -> Result<(), AppendError> {
        // Whatever comes of it, the next attempt is not at once.
        self.epoch_due_ns = now.monotonic_ns.saturating_add(nanos(self.limits.epoch_age));
        self.ring.prepare().map_err(crate::file::unwritable("signing.key"))?;
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now };
        for stream in &mut self.streams {
            stream.announce(&pen)?;
        }
        self.ring.advance().map_err(crate::file::unwritable("signing.key"))?;
        self.since = self.records();
        Ok(())
    }

    /// The last checkpoints, durable.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn close(&mut self) -> Result<(), AppendError> {
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now: Instant::now() };
        self.streams.iter_mut().try_for_each(|stream| stream.close(&pen))
    }

    /// Where every stream stands, durably.
    #[must_use]
    pub fn heads(&self) -> Vec<LogHead> {
        self.streams.iter().map(LogStream::head).collect()
    }

    /// At most `cap` bytes of a stream from `offset` on, and where they begin, as [`LogStream::read`].
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read(&self, stream: Stream, offset: u64, cap: usize) -> Result<(u64, Vec<u8>), rustix::io::Errno> {
        let found = self.streams.iter().find(|open| open.head().stream == stream);
        found.map_or_else(|| Ok((offset, Vec::new())), |open| open.read(offset, cap))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn names(directory: &Arc<OwnedFd>) -> rustix::io::Result<Vec<String>> {
    let entries = Dir::read_from(directory)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn start_error(error: AppendError) -> StartError {
    if error.is_final() {
        StartError::integrity(format!("{error}; keep logs/ as evidence, move it away and start again"))
    } else {
        StartError::internal(format!("logs/: {error}"))
    }
}

mod witnessed;

#[cfg(test)]
mod tests;
