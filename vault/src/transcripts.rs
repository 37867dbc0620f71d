//! Keys of conversations at rest, one a transcript, wrapped by the ring. gateway has the key of a transcript that is open, and
//! of no other; to destroy one is the operator's.
//!
//! Conversation and id come from gateway and are hostile: the most that a fallen gateway gets is keys of what is open, one
//! record each, and it may close what it pleases. It cannot open again what was closed, nor have one conversation's key by
//! another's name.

pub mod desk;

use crate::cipher::Key;
use crate::codec::{Reader, Writer};
use crate::envelope::wrapped::Wrapped;
use crate::envelope::{EnvelopeError, Keyring};
use std::collections::BTreeMap;

/// Transcripts whose keys are kept at most.
pub const MOST: usize = 1024;
/// Bytes that the count of a transcript's lines takes in the store.
pub const LINES: usize = 16 + 8;
/// Longest name of a conversation.
const MAX_SESSION: usize = 128;

/// Names a transcript.
pub type Id = [u8; 16];

/// Why a transcript's key is not given.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TranscriptError {
    /// There is one already.
    #[error("there is a transcript of this id already")]
    Exists,
    /// There is none.
    #[error("there is no transcript of this id; its key was destroyed, or never made")]
    Unknown,
    /// It is of another conversation.
    #[error("this transcript is of another conversation")]
    Foreign,
    /// It was closed.
    #[error("this transcript was closed; only the operator reads it: `moltbot sessions show ID`")]
    Closed,
    /// As many as may be.
    #[error("{MOST} transcripts are kept; `moltbot sessions delete --closed` destroys those that are over")]
    Full,
    /// The name is none.
    #[error("a conversation's name is 1 to {MAX_SESSION} printable characters")]
    Session,
}

impl TranscriptError {
    /// The rule's name in refusals and records.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::Exists => "transcript.exists",
            Self::Unknown => "transcript.unknown",
            Self::Foreign => "transcript.foreign",
            Self::Closed => "transcript.closed",
            Self::Full => "transcript.full",
            Self::Session => "transcript.session",
        }
    }
}

/// One transcript.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The conversation that it is of.
    pub session: String,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// True where gateway may have its key.
    pub open: bool,
    /// Lines of it that were written, as far as gateway said.
    pub lines: u64,
    wrapped: Wrapped,
}

/// As what a transcript begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begins {
    /// gateway's: it is open, and the one of the same conversation that was open is closed.
    Open,
    /// The operator's alone: it closes none.
    Closed,
}

/// Every transcript.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Transcripts {
    entries: BTreeMap<Id, Entry>,
}

impl Entry {
    fn about<'a>(id: &'a Id, session: &'a str, created: &'a [u8; 8]) -> [&'a [u8]; 4] {
        [b"transcript", id, session.as_bytes(), created]
    }

    fn key(&self, ring: &Keyring, id: &Id) -> Result<Key, EnvelopeError> {
        self.wrapped.open(ring, &Self::about(id, &self.session, &self.created.to_le_bytes()))
    }
}

impl Transcripts {
    /// Would a new one be taken?
    ///
    /// # Errors
    /// [`TranscriptError`].
    pub fn check_new(&self, session: &str, id: &Id) -> Result<(), TranscriptError> {
        if session.is_empty() || session.len() > MAX_SESSION || !session.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TranscriptError::Session);
        }
        if self.entries.contains_key(id) {
            return Err(TranscriptError::Exists);
        }
        if self.entries.len() >= MOST { Err(TranscriptError::Full) } else { Ok(()) }
    }

    /// Takes a new one.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn add(
        &mut self,
        ring: &mut Keyring,
        id: Id,
        session: &str,
        begins: Begins,
        now: u64,
        key: &Key,
    ) -> Result<(), EnvelopeError> {
        let wrapped = Wrapped::seal(ring, &Entry::about(&id, session, &now.to_le_bytes()), key)?;
        for entry in self.entries.values_mut().filter(|entry| begins == Begins::Open && entry.session == session) {
            entry.open = false;
        }
        self.entries.insert(
            id,
            Entry { session: session.to_owned(), created: now, open: begins == Begins::Open, lines: 0, wrapped },
        );
        Ok(())
    }

    /// May gateway have the key of this one?
    ///
    /// # Errors
    /// [`TranscriptError`].
    pub fn check_open(&self, session: &str, id: &Id) -> Result<(), TranscriptError> {
        let entry = self.entries.get(id).ok_or(TranscriptError::Unknown)?;
        if entry.session != session {
            return Err(TranscriptError::Foreign);
        }
        if entry.open { Ok(()) } else { Err(TranscriptError::Closed) }
    }

    /// The key of one.
    ///
    /// # Errors
    /// [`EnvelopeError`]; nothing where there is no such transcript.
    pub fn key(&self, ring: &Keyring, id: &Id) -> Result<Option<Key>, EnvelopeError> {
        self.entries.get(id).map(|entry| entry.key(ring, id)).transpose()
    }

    /// Notes that so many lines were written: how many more those are, and the most that there ever were. Fewer are none, so
    /// that nobody can take lines back.
    pub fn wrote(&mut self, id: &Id, lines: u64) -> Option<(u64, u64)> {
        let entry = self.entries.get_mut(id)?;
        let more = lines.saturating_sub(entry.lines);
        entry.lines = entry.lines.max(lines);
        Some((more, entry.lines))
    }

    /// Closes one. True where it was open.
    pub fn close(&mut self, id: &Id) -> bool {
        self.entries.get_mut(id).is_some_and(|entry| std::mem::replace(&mut entry.open, false))
    }

    /// Destroys the key of one, once the store without it is written. True where there was one.
    pub fn remove(&mut self, id: &Id) -> bool {
        self.entries.remove(id).is_some()
    }

    /// Every one, by its id.
    pub fn iter(&self) -> impl Iterator<Item = (&Id, &Entry)> {
        self.entries.iter()
    }

    /// The same under another ring.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn reseal(&self, old: &Keyring, new: &mut Keyring) -> Result<Self, EnvelopeError> {
        let mut entries = BTreeMap::new();
        for (id, entry) in &self.entries {
            let key = entry.key(old, id)?;
            let created = entry.created.to_le_bytes();
            let wrapped = Wrapped::seal(new, &Entry::about(id, &entry.session, &created), &key)?;
            entries.insert(*id, Entry { wrapped, ..entry.clone() });
        }
        Ok(Self { entries })
    }

    /// Appends the table as the store has it.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.entries.len());
        for (id, entry) in &self.entries {
            into.raw(id).bytes(entry.session.as_bytes()).number(entry.created).byte(u8::from(entry.open));
            entry.wrapped.encode(into);
        }
    }

    /// Appends how many lines each has, of those that have some.
    pub fn encode_lines(&self, into: &mut Writer) {
        let some = || self.entries.iter().filter(|(_, entry)| entry.lines > 0);
        into.count(some().count());
        for (id, entry) in some() {
            into.raw(id).number(entry.lines);
        }
    }

    /// Reads that.
    pub fn decode_lines(&mut self, from: &mut Reader<'_>) -> Option<()> {
        for _ in 0..from.count(MOST)? {
            let (id, lines): (Id, u64) = (from.array()?, from.number()?);
            self.entries.get_mut(&id)?.lines = lines;
        }
        Some(())
    }

    /// Reads the table.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut entries = BTreeMap::new();
        for _ in 0..from.count(MOST)? {
            let (id, session) = (from.array()?, from.text(MAX_SESSION)?.to_owned());
            let (created, open) = (from.number()?, from.flag()?);
            entries.insert(id, Entry { session, created, open, lines: 0, wrapped: Wrapped::decode(from)? });
        }
        Some(Self { entries })
    }
}

#[cfg(test)]
pub(crate) mod tests;
