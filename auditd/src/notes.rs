//! The checkpoints beside a stream's file: `<name>.checkpoints`, signed notes one after another, an empty line behind
//! each. Later notes are for more lines; a note may come again with more signatures, as a witness's.
//!
//! They are not made durable one by one: they commit to lines that are. Where the disk tore one, a `torn-checkpoints`
//! record in the log says which bytes are none.

use crate::chain::{Broken, Class, Fragment};
use crate::file::{AppendError, appender, reader, unwritable, write_all};
use crate::note::{Checkpoint, SignedNote};
use crate::scan::VerifyError;
use crate::verify::{TornNote, Verifier};
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Checkpoints that may be written between one and its cosignature.
const LATE: usize = 1_024;

/// A note that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Its first line in the file, counted from 1.
    pub line: u64,
    /// What it says.
    pub point: Checkpoint,
    /// The note.
    pub note: SignedNote,
}

/// What a file of checkpoints holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Notes {
    /// Every note, in order.
    pub entries: Vec<Entry>,
    /// Bytes up to the end of the last one.
    pub bytes: u64,
    /// What follows them and is none; never holds a whole note.
    pub rest: Option<Fragment>,
}

impl Notes {
    /// Takes a note. One that came before comes again when it is cosigned, and by then there may be later ones.
    fn take(&mut self, note: Option<Entry>) {
        let Some(note) = note else { return };
        let is_late = self.entries.last().is_some_and(|last| note.point.size < last.point.size);
        let comes_again = |entry: &&mut Entry| {
            let has = |line| entry.note.signatures().contains(line);
            is_late && entry.note.text() == note.note.text() && !note.note.signatures().iter().all(has)
        };
        let before = self.entries.iter_mut().rev().take(LATE).find(comes_again);
        match before {
            Some(before) => note.note.signatures().iter().for_each(|line| before.note.push(line.clone())),
            None => self.entries.push(note),
        }
    }
}

/// Reads a file of checkpoints; `torn` are its parts that the log accounts for.
///
/// # Errors
/// [`Broken`] where something that is no note stands before something that may be one.
pub fn parse(bytes: &[u8], torn: &[TornNote]) -> Result<Notes, Broken> {
    let mut notes = Notes::default();
    let (mut at, mut line) = (0usize, 1u64);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        // What the log calls torn is skipped unread: what follows it may make it look like a note.
        let (length, note) = match accounted(rest, at, torn) {
            Some(length) => (length, None),
            None => match block(rest) {
                Some((length, Some((point, note)))) => (length, Some(Entry { line, point, note })),
                Some((_, None)) => return Err(Broken { line, class: Class::NotARecord }),
                None => {
                    notes.rest = Some(Fragment::of(rest));
                    break;
                }
            },
        };
        let passed = rest.get(..length).unwrap_or(rest);
        let lines = passed.iter().filter(|byte| **byte == b'\n').count();
        line = line.saturating_add(u64::try_from(lines).unwrap_or(0));
        at = at.saturating_add(length.max(1));
        notes.bytes = u64::try_from(at).unwrap_or(u64::MAX);
        notes.take(note);
    }
    Ok(notes)
}

/// The first block of `bytes`: how long it is with its empty line, and what it is.
fn block(bytes: &[u8]) -> Option<(usize, Option<(Checkpoint, SignedNote)>)> {
    let gap = |bytes: &[u8]| bytes.windows(2).position(|pair| pair == b"\n\n");
    let text = gap(bytes)?.checked_add(2)?;
    let end = text.checked_add(gap(bytes.get(text..)?)?)?.checked_add(1)?;
    let note = std::str::from_utf8(bytes.get(..end)?).ok().and_then(|note| SignedNote::parse(note).ok());
    let note = note.and_then(|note| Some((Checkpoint::parse(note.text()).ok()?, note)));
    Some((end.checked_add(1)?, note))
}

fn accounted(rest: &[u8], at: usize, torn: &[TornNote]) -> Option<usize> {
    let here = u64::try_from(at).ok()?;
    let fitting = torn.iter().filter(|torn| torn.offset == here).filter_map(|torn| {
        let length = usize::try_from(torn.fragment.len).ok()?;
        (length > 0 && Fragment::of(rest.get(..length)?) == torn.fragment).then_some(length)
    });
    // A start that is itself cut short may account for more behind the same place.
    fitting.max()
}

/// Gives notes to a check of the lines, each where it belongs.
#[derive(Debug)]
pub struct Feed<'n> {
    entries: std::iter::Peekable<std::slice::Iter<'n, Entry>>,
    started: bool,
}

impl<'n> Feed<'n> {
    /// Of these notes.
    #[must_use]
    pub fn new(entries: &'n [Entry]) -> Self {
        Self { entries: entries.iter().peekable(), started: false }
    }

    /// To be called where a line that stands for itself ends. Notes for lines before the first place are passed over.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn feed(&mut self, verifier: &mut Verifier) -> Result<(), VerifyError> {
        let size = verifier.position().head.size;
        while let Some(entry) = self.entries.next_if(|entry| entry.point.size <= size) {
            let broken = |class| VerifyError::Notes(Broken { line: entry.line, class });
            if entry.point.size < size {
                if self.started {
                    return Err(broken(Class::Reordered));
                }
                continue;
            }
            verifier.note(&entry.note).map_err(|class| match class {
                Class::Edited | Class::Rewritten => verifier.rewritten(class).into(),
                _ => broken(class),
            })?;
        }
        self.started = true;
        Ok(())
    }

    /// The first note that no line was reached for.
    #[must_use]
    pub fn left(&mut self) -> Option<&'n Entry> {
        self.entries.peek().copied()
    }
}

/// The file, open for appending.
#[derive(Debug)]
pub struct NotesFile {
    file: OwnedFd,
    read: OwnedFd,
    bytes: u64,
    torn: bool,
}

impl NotesFile {
    /// Opens or makes the file of this name.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`].
    pub fn open(directory: BorrowedFd<'_>, name: &str, new: bool) -> Result<Self, AppendError> {
        let file = appender(directory, name, new)?;
        let read = reader(directory, name).map_err(unwritable("open"))?;
        Ok(Self { file, read, bytes: 0, torn: false })
    }

    /// Everything in it.
    ///
    /// # Errors
    /// What reading says.
    pub fn content(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut at = 0u64;
        let mut chunk = vec![0; 1 << 16];
        loop {
            let read = rustix::io::pread(self.read.as_fd(), chunk.as_mut_slice(), at)?;
            if read == 0 {
                return Ok(bytes);
            }
            at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            chunk.as_slice().take(u64::try_from(read).unwrap_or(0)).read_to_end(&mut bytes)?;
        }
    }

    /// The file is sound up to here.
    pub const fn settle(&mut self, bytes: u64, torn: bool) {
        self.bytes = bytes;
        self.torn = torn;
    }

    /// What must be accounted for in the log before another note is appended: where it begins, and what it is.
    ///
    /// # Errors
    /// What reading says.
    pub fn torn(&mut self) -> std::io::Result<Option<(u64, Fragment)>> {
        if !self.torn {
            return Ok(None);
        }
        let content = self.content()?;
        let rest = usize::try_from(self.bytes).ok().and_then(|from| content.get(from..)).unwrap_or_default();
        self.torn = !rest.is_empty();
        Ok(self.torn.then(|| (self.bytes, Fragment::of(rest))))
    }

    /// The log accounts for what was torn.
    pub const fn accounted(&mut self, fragment: &Fragment) {
        self.bytes = self.bytes.saturating_add(fragment.len);
        self.torn = false;
    }

    /// Appends a note.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`]; then [`NotesFile::torn`] says what is left of it.
    pub fn append(&mut self, note: &SignedNote) -> Result<(), AppendError> {
        let text = format!("{note}\n");
        if let Err(error) = write_all(&self.file, text.as_bytes()) {
            self.torn = true;
            return Err(error);
        }
        self.bytes = self.bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        Ok(())
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`].
    pub fn sync(&self) -> Result<(), AppendError> {
        rustix::fs::fdatasync(&self.file).map_err(unwritable("fdatasync"))
    }
}
