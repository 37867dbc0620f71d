//! The check of one stream, line by line, that needs nothing but the file and the first public key.
//!
//! The file is hostile: somebody may have edited, dropped, moved or inserted lines, and written the chain anew. The chain
//! shows where; the checkpoints in the log, each signed by the key that was in force when its line was written, show that
//! the chain itself was not written anew. A key's successor counts only from a checkpoint on that the old key signed and
//! that covers the successor's announcement. What neither can show is the loss of whole lines at the end, behind the last
//! checkpoint that the reader has: that takes a receipt, or a checkpoint kept elsewhere.

use crate::chain::{Broken, Class, Fragment, Head, Links, Own, hex, leaf, unhex};
use crate::note::{Checkpoint, PublicKey, SignedNote};
use crate::tree::{Frontier, Hash};
use proto::audit::Stream;

/// Version of the format that is written, and the highest that is read.
pub const FORMAT: u64 = 1;
/// Bytes of fragments in a row that are kept at most. A whole batch of records is smaller.
const MAX_RUN: usize = 16 << 20;

/// A public key and its generation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EpochKey {
    /// Generation, from 0.
    pub epoch: u64,
    /// The key; its name is the stream's origin.
    pub key: PublicKey,
}

/// Everything that is known at one place of a stream, so that a check can go on from there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Position {
    /// The chain.
    pub head: Head,
    /// The tree.
    pub tree: Frontier,
    /// The first key seen.
    pub first: Option<EpochKey>,
    /// The key in force.
    pub key: Option<EpochKey>,
    /// A key that was announced and that the one in force has not yet vouched for.
    pub next: Option<EpochKey>,
    /// Lines that the last good checkpoint covers.
    pub signed: u64,
    /// True behind the record that closes a file.
    pub closed: bool,
}

impl Position {
    /// The position that a `checkpoint` or `open` record describes: all lines before it. It is a claim, to be checked by
    /// giving the record to a [`Verifier`] that starts from it.
    #[must_use]
    pub fn claimed(line: &[u8], key: Option<EpochKey>) -> Option<Self> {
        let links: Links<'_> = serde_json::from_slice(line).ok()?;
        let own: Own = serde_json::from_slice(line).ok()?;
        let peaks = own.frontier.iter().map(|peak| unhex(peak)).collect::<Option<Vec<_>>>()?;
        let key = match key {
            Some(key) => key,
            None => EpochKey { epoch: own.epoch?, key: PublicKey::parse(&own.key?).ok()? },
        };
        Some(Self {
            head: Head { size: links.seq, leaf: proto::ids::LeafHash(unhex(&links.prev)?) },
            tree: Frontier::from_parts(links.seq, peaks)?,
            first: Some(key.clone()),
            key: Some(key),
            next: None,
            signed: 0,
            closed: links.kind == "open",
        })
    }

    /// After one more line.
    pub fn push(&mut self, leaf: Hash) {
        self.head = self.head.after(proto::ids::LeafHash(leaf));
        self.tree.push(leaf);
    }
}

/// Lines in a row that are no records, joined by newlines.
#[derive(Debug)]
struct Run {
    first: u64,
    bytes: Vec<u8>,
    leaves: Vec<Hash>,
}

/// A part of the checkpoints' file that is no note, as a record in the log describes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TornNote {
    /// Where it begins.
    pub offset: u64,
    /// What it is.
    pub fragment: Fragment,
}

/// The check of one stream's lines.
#[derive(Debug)]
pub struct Verifier {
    stream: Stream,
    at: Position,
    /// Lines before the file that is being read.
    before: u64,
    run: Option<Run>,
    last: Vec<u8>,
    expected: Option<Hash>,
    torn_notes: Vec<TornNote>,
}

impl Verifier {
    /// From a position on; `expected` is the first key, where it is known from elsewhere.
    #[must_use]
    pub fn new(stream: Stream, at: Position, expected: Option<Hash>) -> Self {
        let before = at.head.size;
        Self::within(stream, at, before, expected)
    }

    /// As [`Verifier::new`], somewhere in a file whose first line is that of position `before`.
    #[must_use]
    pub fn within(stream: Stream, at: Position, before: u64, expected: Option<Hash>) -> Self {
        Self { stream, at, before, run: None, last: Vec::new(), expected, torn_notes: Vec::new() }
    }

    /// What is known behind the last line that stands for itself.
    #[must_use]
    pub const fn position(&self) -> &Position {
        &self.at
    }

    /// Parts of the checkpoints' file that the log accounts for, since the file was begun.
    #[must_use]
    pub fn torn_notes(&self) -> &[TornNote] {
        &self.torn_notes
    }

    /// The next line is the first of another file.
    pub fn next_file(&mut self) {
        self.before = self.at.head.size;
        self.torn_notes.clear();
    }

    /// What waits for its torn record, where something does.
    #[must_use]
    pub fn open_fragment(&self) -> Option<Fragment> {
        self.run.as_ref().map(|run| Fragment::of(&run.bytes))
    }

    /// The last line, as a torn record would describe it.
    #[must_use]
    pub fn last_fragment(&self) -> Fragment {
        Fragment::of(&self.last)
    }

    /// True while fragments wait for their torn record.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.run.is_some()
    }

    /// The end of the lines so far, those that wait for their torn record counted in.
    #[must_use]
    pub fn head(&self) -> Head {
        let Some(run) = &self.run else { return self.at.head };
        run.leaves.iter().fold(self.at.head, |head, leaf| head.after(proto::ids::LeafHash(*leaf)))
    }

    /// Number of the line at `seq` in the file that is being read.
    #[must_use]
    pub const fn number(&self, seq: u64) -> u64 {
        let number = seq.saturating_sub(self.before).saturating_add(1);
        if seq < self.before { 1 } else { number }
    }

    /// Takes a line without its newline. The buffer's content is not defined afterwards.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn line(&mut self, line: &mut Vec<u8>) -> Result<(), Broken> {
        let leaf = leaf(line).0;
        match Links::of(line) {
            Some(links) => self.record(&links, line, leaf)?,
            None => self.fragment(line, leaf)?,
        }
        std::mem::swap(&mut self.last, line);
        Ok(())
    }

    fn fragment(&mut self, line: &[u8], leaf: Hash) -> Result<(), Broken> {
        let first = self.number(self.at.head.size);
        let run = self.run.get_or_insert_with(|| Run { first, bytes: Vec::new(), leaves: Vec::new() });
        if run.bytes.len().saturating_add(line.len()) > MAX_RUN || run.leaves.len() > MAX_RUN >> 8 {
            return Err(Broken { line: run.first, class: Class::TooLong });
        }
        if !run.leaves.is_empty() {
            run.bytes.push(b'\n');
        }
        run.bytes.extend_from_slice(line);
        run.leaves.push(leaf);
        Ok(())
    }

    fn record(&mut self, links: &Links<'_>, line: &[u8], leaf: Hash) -> Result<(), Broken> {
        if self.at == Position::default() && self.run.is_none() && links.seq > 0 && links.kind == "open" {
            // The first line of a file that is read alone; what it claims is checked below like any other's.
            self.at = Position::claimed(line, None).ok_or(Broken { line: 1, class: Class::NotARecord })?;
            self.before = self.at.head.size;
        }
        self.links(links)?;
        let here = self.number(links.seq);
        let ours = links.actor == "auditd";
        match links.kind.as_ref() {
            "torn" if ours => self.torn(line, here)?,
            _ if self.run.is_some() => return Err(self.open_run(Class::NotARecord)),
            "open" if ours && self.at.closed => self.open(line, here)?,
            _ if self.at.closed => return Err(Broken { line: here, class: Class::Closed }),
            "epoch" if ours => self.epoch(line, here)?,
            "checkpoint" if ours => self.checkpoint(line, here)?,
            "rotate" if ours => self.at.closed = true,
            "torn-checkpoints" if ours => self.torn_note(line, here)?,
            _ => {}
        }
        self.at.push(leaf);
        Ok(())
    }

    /// The fault of a root that is not the signed one, named by the last line that it covers.
    #[must_use]
    pub const fn rewritten(&self, class: Class) -> Broken {
        Broken { line: self.number(self.at.head.size.saturating_sub(1)), class }
    }

    fn open_run(&self, class: Class) -> Broken {
        Broken { line: self.run.as_ref().map_or(1, |run| run.first), class }
    }

    /// Sequence, stream and chain.
    fn links(&self, links: &Links<'_>) -> Result<(), Broken> {
        let head = self.head();
        let here = self.number(head.size);
        let broken = |line, class| Err(Broken { line, class });
        if links.seq != head.size && self.run.is_some() {
            return Err(self.open_run(Class::NotARecord));
        }
        if links.stream != self.stream.name() {
            return broken(here, Class::Spliced);
        }
        if links.seq != head.size {
            return broken(
                here,
                match links.kind.as_ref() {
                    _ if links.seq < head.size => Class::Inserted,
                    "open" => Class::MissingFile,
                    _ => Class::Deleted,
                },
            );
        }
        if unhex(&links.prev) != Some(head.leaf.0) {
            return match head.size.checked_sub(1) {
                // Nothing stands before the first line: it comes from elsewhere.
                None => broken(here, Class::Spliced),
                Some(before) if before < self.before => broken(here, Class::MissingFile),
                Some(before) => broken(self.number(before), Class::Edited),
            };
        }
        Ok(())
    }

    fn own(line: &[u8], here: u64) -> Result<Own, Broken> {
        let own: Own = serde_json::from_slice(line).map_err(|_| Broken { line: here, class: Class::NotARecord })?;
        if own.format.is_some_and(|format| format > FORMAT) {
            return Err(Broken { line: here, class: Class::Newer });
        }
        Ok(own)
    }

    fn torn(&mut self, line: &[u8], here: u64) -> Result<(), Broken> {
        let described = Self::own(line, here)?.fragment();
        let (first, found, leaves) = match self.run.take() {
            Some(run) => (run.first, Fragment::of(&run.bytes), run.leaves),
            None => (here.saturating_sub(1).max(1), Fragment::of(&self.last), Vec::new()),
        };
        if described != Some(found) {
            return Err(Broken { line: first, class: Class::Torn });
        }
        leaves.into_iter().for_each(|leaf| self.at.push(leaf));
        Ok(())
    }

    fn torn_note(&mut self, line: &[u8], here: u64) -> Result<(), Broken> {
        let own = Self::own(line, here)?;
        let (Some(offset), Some(fragment)) = (own.offset, own.fragment()) else {
            return Err(Broken { line: here, class: Class::NotARecord });
        };
        self.torn_notes.push(TornNote { offset, fragment });
        Ok(())
    }

    /// A key is announced.
    fn epoch(&mut self, line: &[u8], here: u64) -> Result<(), Broken> {
        let broken = |class| Broken { line: here, class };
        let own = Self::own(line, here)?;
        let (Some(epoch), Some(key)) = (own.epoch, own.key) else { return Err(broken(Class::NotARecord)) };
        let key = PublicKey::parse(&key).map_err(|_| broken(Class::Epoch))?;
        match &self.at.key {
            None if epoch == 0 => {
                if self.expected.is_some_and(|expected| expected != key.bytes()) {
                    return Err(broken(Class::WrongKey));
                }
                let key = EpochKey { epoch, key };
                self.at.first = Some(key.clone());
                self.at.key = Some(key);
                Ok(())
            }
            Some(now) if now.key.name() != key.name() => Err(broken(Class::Spliced)),
            Some(now) if self.at.next.is_none() && now.epoch.checked_add(1) == Some(epoch) => {
                self.at.next = Some(EpochKey { epoch, key });
                Ok(())
            }
            _ => Err(broken(Class::Epoch)),
        }
    }

    /// A checkpoint of all lines before this one.
    fn checkpoint(&mut self, line: &[u8], here: u64) -> Result<(), Broken> {
        let own = Self::own(line, here)?;
        let note = own.note.as_deref().and_then(|note| SignedNote::parse(note).ok());
        let note = note.ok_or(Broken { line: here, class: Class::BadSignature })?;
        let point = self.note(&note).map_err(|class| Broken { line: here, class })?;
        let signer = self.at.key.as_ref().map(|key| key.epoch);
        let peaks: Option<Vec<_>> = own.frontier.iter().map(|peak| unhex(peak)).collect();
        if point.size != self.at.head.size || own.epoch != signer || peaks.as_deref() != Some(self.at.tree.peaks()) {
            return Err(Broken { line: here, class: Class::Rewritten });
        }
        // From here on the new key counts: the old one covered its announcement.
        if let Some(next) = self.at.next.take() {
            self.at.key = Some(next);
        }
        Ok(())
    }

    /// The first record of a file that follows another.
    fn open(&mut self, line: &[u8], here: u64) -> Result<(), Broken> {
        let own = Self::own(line, here)?;
        let key = own.key.as_deref().and_then(|key| PublicKey::parse(key).ok());
        if key.as_ref() != self.at.key.as_ref().map(|now| &now.key) {
            return Err(Broken { line: here, class: Class::Epoch });
        }
        let first = self.at.first.as_ref().map(|first| first.key.bytes());
        if self.expected.is_some() && self.expected != first {
            return Err(Broken { line: here, class: Class::WrongKey });
        }
        self.checkpoint(line, here)?;
        self.at.closed = false;
        Ok(())
    }

    /// Checks a checkpoint for exactly the lines so far.
    ///
    /// # Errors
    /// [`Class`]: who signed it, or what it is for.
    pub fn note(&mut self, note: &SignedNote) -> Result<Checkpoint, Class> {
        let point = Checkpoint::parse(note.text()).map_err(|_| Class::BadSignature)?;
        let key = self.at.key.as_ref().ok_or(Class::Epoch)?;
        if point.origin != key.key.name() {
            return Err(Class::Spliced);
        }
        if !note.is_signed_by(&key.key) {
            return Err(Class::BadSignature);
        }
        if point.size == self.at.head.size && point.root != self.at.tree.root() {
            // One line alone can only be that line.
            return Err(if self.at.signed.saturating_add(1) == point.size { Class::Edited } else { Class::Rewritten });
        }
        if point.size == self.at.head.size {
            self.at.signed = point.size;
        }
        Ok(point)
    }
}

/// Hexadecimal forms of a tree's parts, as a record has them.
#[must_use]
pub fn frontier_text(tree: &Frontier) -> Vec<String> {
    tree.peaks().iter().map(|peak| hex(peak)).collect()
}
