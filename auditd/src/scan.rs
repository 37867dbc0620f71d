//! Lines out of a file into a check of them, up to the file's end or to the first line that is wrong.

use crate::chain::{Broken, Class, Fragment, Head, Links, Own, unhex};
use crate::note::{Checkpoint, SignedNote};
use crate::verify::{Position, Verifier};
use std::io::{BufRead, Read as _};

/// Longest line that is read into memory, in bytes; records are far shorter.
pub const MAX_LINE: u64 = 16 << 20;

/// How a stream's file ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Tail {
    /// In a whole record.
    Clean,
    /// In something that a `torn` record must commit to before anything else follows.
    Torn {
        /// True where a newline must come first.
        newline: bool,
        /// What the record must say.
        fragment: Fragment,
    },
}

/// What a check of a file found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Scan {
    /// At the end of the last record that stands for itself: whole, and nothing torn before it is open.
    pub sound: Position,
    /// Bytes up to there.
    pub sound_bytes: u64,
    /// After the last line, a fragment counted as one.
    pub head: Head,
    /// Bytes read.
    pub bytes: u64,
    /// How the file ends.
    pub tail: Tail,
}

/// Why a file could not be checked to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// Its file of checkpoints is not what was written.
    #[error("checkpoints: {0}")]
    Notes(Broken),
    /// It could not be read.
    #[error("cannot be read")]
    Read(#[from] std::io::Error),
}

/// Checks lines up to the end of `reader`; `between` is called before the first and behind every line that stands for
/// itself.
///
/// # Errors
/// [`VerifyError`] with the first bad line.
pub fn scan(
    mut reader: impl BufRead,
    verifier: &mut Verifier,
    mut between: impl FnMut(&mut Verifier, u64) -> Result<(), VerifyError>,
) -> Result<Scan, VerifyError> {
    let mut line = Vec::new();
    let (mut bytes, mut sound_bytes, mut unfinished) = (0u64, 0u64, None);
    between(verifier, 0)?;
    loop {
        line.clear();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        let whole = line.pop_if(|byte| *byte == b'\n').is_some();
        if !whole {
            if u64::try_from(read).is_ok_and(|read| read == MAX_LINE) {
                let line = verifier.number(verifier.head().size);
                return Err(Broken { line, class: Class::TooLong }.into());
            }
            unfinished = Some(verifier.position().clone());
        }
        if let Err(broken) = verifier.line(&mut line) {
            return Err(refine(broken, verifier, &line, reader).into());
        }
        if whole && !verifier.is_open() {
            sound_bytes = bytes;
            between(verifier, bytes).map_err(|error| blame(error, verifier, &mut reader))?;
        }
    }
    let tail = match (verifier.open_fragment(), &unfinished) {
        (Some(fragment), cut) => Tail::Torn { newline: cut.is_some(), fragment },
        (None, Some(_)) => Tail::Torn { newline: true, fragment: verifier.last_fragment() },
        (None, None) => Tail::Clean,
    };
    let head = verifier.head();
    // What an unfinished record says does not count: it was never acknowledged.
    let sound = unfinished.unwrap_or_else(|| verifier.position().clone());
    Ok(Scan { sound, sound_bytes, head, bytes, tail })
}

/// Where a root is not the signed one, the line behind says whether it was the last one that was edited.
fn blame(error: VerifyError, verifier: &Verifier, reader: &mut impl BufRead) -> VerifyError {
    let VerifyError::Broken(Broken { line, class: Class::Rewritten }) = error else { return error };
    let mut next = Vec::new();
    let _ = reader.take(MAX_LINE).read_until(b'\n', &mut next);
    let fits = |links: Links<'_>| unhex(&links.prev) == Some(verifier.position().head.leaf.0);
    let class =
        if serde_json::from_slice(&next).is_ok_and(|links| !fits(links)) { Class::Edited } else { Class::Rewritten };
    Broken { line, class }.into()
}

/// Looks ahead for what a fault really is: a gap is a move where the missing line comes later, and an edit is a splice
/// where what follows is another log's.
fn refine(broken: Broken, verifier: &Verifier, line: &[u8], reader: impl BufRead) -> Broken {
    const AHEAD: usize = 4096;
    let missing = verifier.head().size;
    let origin = verifier.position().key.as_ref().map(|key| key.key.name());
    let is_it = |line: &[u8]| match broken.class {
        Class::Deleted => serde_json::from_slice::<Links<'_>>(line).is_ok_and(|links| links.seq == missing),
        Class::Edited => {
            let note = serde_json::from_slice::<Own>(line).ok().and_then(|own| SignedNote::parse(&own.note?).ok());
            let point = note.and_then(|note| Checkpoint::parse(note.text()).ok());
            point.is_some_and(|point| origin.is_some_and(|origin| origin != point.origin))
        }
        _ => false,
    };
    let (class, at) = match broken.class {
        Class::Deleted => (Class::Reordered, broken.line),
        _ => (Class::Spliced, broken.line.saturating_add(1)),
    };
    let later = reader.take(AHEAD as u64 * 512).split(b'\n').take(AHEAD).map_while(Result::ok);
    if is_it(line) || later.into_iter().any(|line| is_it(&line)) { Broken { line: at, class } } else { broken }
}
