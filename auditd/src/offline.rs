//! The check of a stream's files by somebody who has nothing but them: `moltbot logs verify`.
//!
//! Every input is hostile. What is found wrong is named by file, line and class; a file that cannot be read is another
//! matter than one that is wrong.

use crate::chain::{Broken, Class, Head};
use crate::commitments::Commitments;
use crate::cosign::CosignerKey;
use crate::note::{PublicKey, SignedNote};
use crate::notes::{self, Entry, Notes};
use crate::scan::{Tail, VerifyError, scan};
use crate::segment::Segment;
use crate::tree::Hash;
use crate::verify::{EpochKey, Position, Verifier};
use proto::audit::{Receipt, Stream};
use std::fs::File;
use std::io::{BufReader, Read, Seek as _, SeekFrom};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

mod lines;

use lines::Check;

/// Longest file of checkpoints that is read, in bytes.
const MAX_NOTES: u64 = 256 << 20;

/// What the reader knows of the log from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The first key.
    pub first_key: Option<Hash>,
    /// Receipts of records.
    pub receipts: Vec<Receipt>,
    /// Checkpoints, in the form of a file of checkpoints.
    pub checkpoints: Vec<Entry>,
    /// What stood before the oldest file, where files were pruned and this is known.
    pub pruned: Option<Position>,
    /// The key that the vault cosigns with.
    pub cosigner: Option<CosignerKey>,
}

/// One file of a stream, with its checkpoints.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogPath {
    /// The lines.
    pub log: PathBuf,
    /// The checkpoints; none where the lines are all there is.
    pub checkpoints: Option<PathBuf>,
}

/// What an honest log looks like.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// Which stream.
    pub stream: Stream,
    /// Files that were read.
    pub files: usize,
    /// Position of the first line that was read; more than 0 where older files are gone.
    pub first_line: u64,
    /// The end of the chain, a torn line not counted.
    pub head: Head,
    /// The tree's root there.
    pub root: Hash,
    /// The first key that was seen.
    pub first_key: Option<EpochKey>,
    /// The key in force.
    pub key: Option<EpochKey>,
    /// Lines that a good checkpoint covers.
    pub signed: u64,
    /// Lines that a good checkpoint covers which the vault has cosigned; 0 where its key is not known.
    pub cosigned: u64,
    /// Checkpoints beside the lines.
    pub checkpoints: usize,
    /// True where the end is torn: what the next start accounts for.
    pub torn: bool,
    /// Files of checkpoints that end in a part of one, beside files that are closed: nothing can be written there any more
    /// that would account for it, and the next file's first record signs the same lines.
    pub cut_short: Vec<String>,
}

/// The first thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{file}: {broken}")]
pub struct Fault {
    /// Name of the file.
    pub file: String,
    /// Line and class.
    pub broken: Broken,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The log is not what was written.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// It could not be read.
    #[error("{file}: {source}")]
    Read {
        /// Name of the file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// There is nothing to check.
    #[error("there is no log of {0} there")]
    Nothing(&'static str),
}

pub(crate) fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> OfflineError {
    let file = path.display().to_string();
    move |source| OfflineError::Read { file, source }
}

/// The files of a stream beneath a directory, oldest first; or the one file that `path` names.
///
/// # Errors
/// [`OfflineError`].
pub fn find(path: &Path, stream: Stream) -> Result<Vec<LogPath>, OfflineError> {
    if path.is_file() {
        let beside = path.with_extension("checkpoints");
        return Ok(vec![LogPath { log: path.to_owned(), checkpoints: beside.is_file().then_some(beside) }]);
    }
    let entries = std::fs::read_dir(path).map_err(unreadable(path))?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let found = Segment::all(stream, names.iter().map(String::as_str));
    if found.is_empty() {
        return Err(OfflineError::Nothing(stream.name()));
    }
    let pair = |segment: &Segment| LogPath {
        log: path.join(segment.log()),
        checkpoints: Some(path.join(segment.checkpoints())),
    };
    Ok(found.iter().map(pair).collect())
}

/// The stream that a file's first line says it is of.
#[must_use]
pub fn stream_of(path: &Path) -> Option<Stream> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut start).ok()?;
    let text = String::from_utf8_lossy(&start);
    Stream::ALL.into_iter().find(|stream| text.contains(&format!("\"stream\":\"{}\"", stream.name())))
}

/// Checks files that follow one another. `each` is called behind every line that stands for itself, with the leaf's
/// position and hash, and with the bytes read so far.
///
/// # Errors
/// [`OfflineError`] with the first thing that is wrong.
pub fn verify(
    files: &[LogPath],
    stream: Stream,
    expected: &Expected,
    mut each: impl FnMut(Head, u64),
) -> Result<Report, OfflineError> {
    let outcome = attempt(files, stream, expected, false, &mut each);
    // A torn checkpoint may look like a bad one, or like one of lines that are gone. Few logs have any, so the lines are
    // asked for them only where something is wrong.
    let wrong = match &outcome {
        Ok(report) => report.torn || !report.cut_short.is_empty(),
        Err(OfflineError::Fault(_)) => true,
        Err(_) => false,
    };
    if wrong && files.iter().any(|pair| pair.checkpoints.is_some()) {
        attempt(files, stream, expected, true, &mut each)
    } else {
        outcome
    }
}

fn attempt(
    files: &[LogPath],
    stream: Stream,
    expected: &Expected,
    asks: bool,
    each: &mut dyn FnMut(Head, u64),
) -> Result<Report, OfflineError> {
    let verifier = Verifier::new(stream, expected.pruned.clone().unwrap_or_default(), expected.first_key);
    let mut check = Check::new(verifier, expected);
    let (mut checkpoints, mut torn, mut cosigned, mut cut_short) = (0usize, false, 0, Vec::new());
    for (at, pair) in files.iter().enumerate() {
        let fault = |broken| OfflineError::Fault(Fault { file: name(&pair.log), broken });
        if torn || at > 0 && !check.verifier.position().closed {
            return Err(fault(Broken { line: 1, class: Class::MissingFile }));
        }
        if at > 0 {
            check.verifier.next_file();
        }
        let asks = asks.then(|| check.verifier.position());
        let known = read_notes(pair, stream, asks, expected)?;
        checkpoints = checkpoints.saturating_add(known.entries.len());
        cosigned = cosigned.max(check_cosignatures(pair, &known, expected)?);
        let reader = File::open(&pair.log).map_err(unreadable(&pair.log))?;
        let found = check.lines(BufReader::with_capacity(1 << 18, reader), &known, each);
        let found = found.map_err(|error| match error {
            VerifyError::Broken(broken) => fault(broken),
            VerifyError::Notes(broken) => OfflineError::Fault(Fault { file: notes_name(pair), broken }),
            VerifyError::Read(source) => OfflineError::Read { file: pair.log.display().to_string(), source },
        })?;
        torn = found.tail != Tail::Clean;
        if at.saturating_add(1) < files.len() {
            cut_short.extend(known.rest.is_some().then(|| notes_name(pair)));
        } else {
            torn |= known.rest.is_some();
            check.end(&found.sound).map_err(fault)?;
            let at = found.sound;
            return Ok(Report {
                stream,
                files: files.len(),
                first_line: check.first_line.unwrap_or(0),
                head: at.head,
                root: at.tree.root(),
                first_key: at.first,
                key: at.key,
                signed: at.signed,
                cosigned,
                checkpoints,
                torn,
                cut_short,
            });
        }
    }
    Err(OfflineError::Nothing(stream.name()))
}

fn notes_name(pair: &LogPath) -> String {
    pair.checkpoints.as_deref().map_or_else(|| "checkpoints".to_owned(), name)
}

/// Lines that the last cosigned note covers. That the note itself is of these lines, and signed, is checked with them.
fn check_cosignatures(pair: &LogPath, known: &Notes, expected: &Expected) -> Result<u64, OfflineError> {
    let Some(cosigner) = &expected.cosigner else { return Ok(0) };
    let mut cosigned = 0;
    for entry in &known.entries {
        match cosigner.check(&entry.note) {
            Some(true) => cosigned = entry.point.size,
            Some(false) => {
                let broken = Broken { line: entry.line, class: Class::BadSignature };
                return Err(Fault { file: notes_name(pair), broken }.into());
            }
            None => {}
        }
    }
    Ok(cosigned)
}

/// The checkpoints beside a file; with the position that the file begins at, its lines are asked what is torn in them.
fn read_notes(
    pair: &LogPath,
    stream: Stream,
    asks: Option<&Position>,
    expected: &Expected,
) -> Result<Notes, OfflineError> {
    let Some(path) = &pair.checkpoints else { return Ok(Notes::default()) };
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_NOTES).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let broken = Broken { line: 1, class: Class::MissingFile };
            return Err(Fault { file: name(path), broken }.into());
        }
        Err(error) => return Err(unreadable(path)(error)),
    }
    let fault = |broken| OfflineError::Fault(Fault { file: name(path), broken });
    let Some(at) = asks else { return notes::parse(&bytes, &[]).map_err(fault) };
    let mut verifier = Verifier::new(stream, at.clone(), expected.first_key);
    let reader = File::open(&pair.log).map_err(unreadable(&pair.log))?;
    // A fault in the lines is found, and named, by the check itself.
    let _ = scan(BufReader::with_capacity(1 << 18, reader), &mut verifier, |_, _| Ok(()));
    notes::parse(&bytes, verifier.torn_notes()).map_err(fault)
}

/// Reads checkpoints kept elsewhere: one note, or several as in a file of checkpoints.
///
/// # Errors
/// [`Broken`].
pub fn parse_kept(text: &str) -> Result<Vec<Entry>, Broken> {
    let text = if text.ends_with("\n\n") { text.to_owned() } else { format!("{}\n\n", text.trim_end_matches('\n')) };
    let notes = notes::parse(text.as_bytes(), &[])?;
    match notes.rest {
        Some(_) => Err(Broken { line: 1, class: Class::NotARecord }),
        None => Ok(notes.entries),
    }
}

/// The key that the log beneath `path` says the vault cosigns with. Nobody vouches for it but the log.
///
/// # Errors
/// [`OfflineError`].
pub fn find_cosigner(path: &Path) -> Result<Option<CosignerKey>, OfflineError> {
    let found = find_commitments(path)?.and_then(|found| found.cosigner);
    Ok(found.and_then(|text| CosignerKey::parse(&text).ok()))
}

/// What the log beneath `path` says of the vault's store; none where there is no such log.
///
/// # Errors
/// [`OfflineError`].
pub fn find_commitments(path: &Path) -> Result<Option<Commitments>, OfflineError> {
    if !path.is_dir() {
        return Ok(None);
    }
    let directory = File::open(path).map_err(unreadable(path))?;
    let Ok(pairs) = find(path, Stream::Secret) else { return Ok(None) };
    let files = pairs.iter().filter_map(|pair| {
        let bytes = std::fs::metadata(&pair.log).ok()?.len();
        Some((Segment::parse(Stream::Secret, &name(&pair.log))?, bytes))
    });
    let found = Commitments::find(directory.as_fd(), &files.collect::<Vec<_>>());
    found.map(Some).map_err(|errno| unreadable(path)(errno.into()))
}

/// Reads a cosigner's key.
///
/// # Errors
/// A line for a person.
pub fn parse_cosigner(text: &str) -> Result<CosignerKey, String> {
    CosignerKey::parse(text).map_err(|_| "no cosigner's key line (name+id+base64)".to_owned())
}

/// Reads a key: a verifier key, or its 64 hexadecimal digits.
///
/// # Errors
/// A line for a person.
pub fn parse_key(text: &str) -> Result<Hash, String> {
    let key = crate::chain::unhex(text).or_else(|| PublicKey::parse(text).ok().map(|key| key.bytes()));
    key.ok_or_else(|| "neither a key line (name+id+base64) nor 64 hexadecimal digits".to_owned())
}

/// The last notes of a file, from the beginning of one on.
fn notes_at_the_end(path: &Path) -> std::io::Result<Vec<u8>> {
    const ENOUGH: u64 = 16 << 10;
    let mut file = File::open(path)?;
    let from = file.metadata()?.len().saturating_sub(ENOUGH);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(ENOUGH).read_to_end(&mut bytes)?;
    if from > 0 {
        // A note has one empty line within, and one behind it: its first line begins with its origin's first word.
        let begins =
            bytes.windows(10).position(|text| text == b"\n\nmoltbot/").map_or(bytes.len(), |at| at.saturating_add(2));
        bytes.drain(..begins);
    }
    Ok(bytes)
}

/// The newest checkpoint among a stream's files.
///
/// # Errors
/// [`OfflineError`].
pub fn newest_checkpoint(files: &[LogPath]) -> Result<Option<SignedNote>, OfflineError> {
    for pair in files.iter().rev() {
        let Some(path) = pair.checkpoints.as_deref().filter(|path| path.is_file()) else { continue };
        let last =
            |bytes: &[u8]| notes::parse(bytes, &[]).ok()?.entries.into_iter().max_by_key(|entry| entry.point.size);
        let found = match last(&notes_at_the_end(path).map_err(unreadable(path))?) {
            None => last(&std::fs::read(path).map_err(unreadable(path))?),
            found => found,
        };
        if let Some(entry) = found {
            return Ok(Some(entry.note));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
