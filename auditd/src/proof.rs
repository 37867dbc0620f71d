//! Proof that one record is in the log (c2sp.org/tlog-proof@v1): the record, its position, the hashes on its way to the
//! root, and a checkpoint that signs the root. It is checked without the log.

use crate::chain::leaf;
use crate::note::{Checkpoint, PublicKey, SignedNote};
use crate::offline::{self, LogPath, OfflineError};
use crate::pruned::first_of;
use crate::tiles::stored::StoredTiles;
use crate::tree::{Frontier, Hash, Prover, includes, leaf_hash};
use crate::verify::Position;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::audit::Stream;
use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

mod find;

const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Hashes in a proof at most: a tree of more leaves cannot be counted.
const MAX_HASHES: usize = 64;

/// A proof, read or made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proof {
    /// The record, without its newline. It travels as the format's `extra` data.
    pub record: Vec<u8>,
    /// Its position.
    pub index: u64,
    /// From the leaf's sibling to the root's child.
    pub hashes: Vec<Hash>,
    /// The signed root.
    pub checkpoint: SignedNote,
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// It does not have the form of a proof with a record in it.
    #[error("is not a proof of a record")]
    Form,
    /// The checkpoint is not signed by the key.
    #[error("its checkpoint is not signed by that key")]
    Signature,
    /// The hashes do not lead from the record to the signed root.
    #[error("the record is not in the tree that its checkpoint signs")]
    NotIncluded,
}

impl Proof {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`ProofError::Form`].
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let (head, note) = text.split_once("\n\n").ok_or(ProofError::Form)?;
        let mut lines = head.split('\n');
        let record = lines.next().filter(|line| *line == HEADER).and_then(|_| lines.next()?.strip_prefix("extra "));
        let record = record.and_then(|record| STANDARD.decode(record).ok()).ok_or(ProofError::Form)?;
        let index = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or(ProofError::Form)?;
        let number: u64 = index.parse().map_err(|_| ProofError::Form)?;
        let hashes = lines.map(|line| STANDARD.decode(line).ok()?.try_into().ok()).collect::<Option<Vec<Hash>>>();
        let hashes = hashes.filter(|hashes| hashes.len() <= MAX_HASHES).ok_or(ProofError::Form)?;
        let checkpoint = SignedNote::parse(note).map_err(|_| ProofError::Form)?;
        if number.to_string() == index {
            Ok(Self { record, index: number, hashes, checkpoint })
        } else {
            Err(ProofError::Form)
        }
    }

    /// Checks it with the key that was in force when its checkpoint was signed. Returns the checkpoint.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn check(&self, key: &PublicKey) -> Result<Checkpoint, ProofError> {
        let point = Checkpoint::parse(self.checkpoint.text()).map_err(|_| ProofError::Form)?;
        if point.origin != key.name() || !self.checkpoint.is_signed_by(key) {
            return Err(ProofError::Signature);
        }
        let leaf = leaf_hash(&self.record);
        if includes(&point.root, point.size, self.index, &leaf, &self.hashes) {
            Ok(point)
        } else {
            Err(ProofError::NotIncluded)
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}\nextra {}\nindex {}", STANDARD.encode(&self.record), self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", STANDARD.encode(hash)))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Why no proof could be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The log could not be read.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// No checkpoint covers the record.
    #[error("no checkpoint covers record {0} yet")]
    Unsigned(u64),
    /// The line that was brought is not the record's.
    #[error("that is not the line of record {0}: its hash in the tiles is another")]
    Other(u64),
    /// The record's file was pruned, and its line was not brought.
    #[error("record {0} was pruned; whoever kept its line can prove it with --record FILE")]
    Pruned(u64),
    /// The record's file is not there any more, or never was.
    #[error("record {0} is not in these files")]
    Missing(u64),
}

/// Proves record `seq` by the newest checkpoint of a stream's files, in one pass over them.
///
/// # Errors
/// [`ProveError`].
pub fn prove(files: &[LogPath], seq: u64) -> Result<Proof, ProveError> {
    let checkpoint = offline::newest_checkpoint(files)?.ok_or(ProveError::Unsigned(seq))?;
    let point = Checkpoint::parse(checkpoint.text()).map_err(|_| ProveError::Unsigned(seq))?;
    let mut prover = Prover::inclusion(seq, point.size).ok_or(ProveError::Unsigned(seq))?;
    let mut record = None;
    each_line(files, |item| match item {
        Item::Before(prefix) => prover.skip(prefix),
        Item::Line(at, line) => {
            if at < point.size {
                prover.push(at, leaf(line).0);
            }
            if at == seq {
                record = Some(line.to_vec());
            }
        }
    })?;
    let (Some(record), Some(hashes)) = (record, prover.finish()) else { return Err(ProveError::Missing(seq)) };
    Ok(Proof { record, index: seq, hashes, checkpoint })
}

/// As [`prove`] for a directory: by its tiles, where they reach, in a few reads. `record` is the line of a record whose
/// file was pruned.
///
/// # Errors
/// [`ProveError`].
pub fn prove_in(directory: &Path, stream: Stream, seq: u64, record: Option<Vec<u8>>) -> Result<Proof, ProveError> {
    let files = offline::find(directory, stream)?;
    let unreadable = |source| OfflineError::Read { file: directory.display().to_string(), source };
    let tiles = if directory.is_dir() { StoredTiles::open(directory, stream).map_err(unreadable)? } else { None };
    let oldest = files.first().and_then(|pair| first_of(pair, stream)).unwrap_or(0);
    let checkpoint = offline::newest_checkpoint(&files)?.ok_or(ProveError::Unsigned(seq))?;
    let point = Checkpoint::parse(checkpoint.text()).map_err(|_| ProveError::Unsigned(seq))?;
    let Some(tiles) = tiles.filter(|tiles| tiles.size() >= point.size && seq < point.size) else {
        return prove(&files, seq);
    };
    let record = match record {
        Some(record) => record,
        None if seq < oldest => return Err(ProveError::Pruned(seq)),
        None => line_of(&files, stream, seq)?.ok_or(ProveError::Missing(seq))?,
    };
    if tiles.leaf(seq) != Some(leaf(&record).0) {
        return Err(ProveError::Other(seq));
    }
    let hashes = tiles.inclusion(seq, point.size).ok_or(ProveError::Missing(seq))?;
    let proof = Proof { record, index: seq, hashes, checkpoint };
    // Tiles that lie about an inner hash make a proof that proves nothing; the lines make a good one, where they are.
    let leaf = leaf_hash(&proof.record);
    if !includes(&point.root, point.size, seq, &leaf, &proof.hashes) {
        return prove(&files, seq);
    }
    Ok(proof)
}

/// The line of record `seq`, out of the one file that holds it.
fn line_of(files: &[LogPath], stream: Stream, seq: u64) -> Result<Option<Vec<u8>>, OfflineError> {
    let first = |pair: &LogPath| first_of(pair, stream).filter(|first| *first <= seq);
    let Some((pair, first)) = files.iter().rev().find_map(|pair| Some((pair, first(pair)?))) else { return Ok(None) };
    let unreadable = |source| OfflineError::Read { file: pair.log.display().to_string(), source };
    let near = File::open(&pair.log).and_then(|file| find::line(&file, seq)).map_err(unreadable)?;
    if near.is_some() {
        // What it is worth is for the caller to say, who has its hash.
        return Ok(near);
    }
    let (mut at, mut found) = (first, None);
    each_line(std::slice::from_ref(pair), |item| {
        if let Item::Line(_, line) = item {
            if at == seq {
                found = Some(line.to_vec());
            }
            at = at.saturating_add(1);
        }
    })?;
    Ok(found)
}

/// What there is in a stream's files.
#[derive(Clone, Copy, Debug)]
pub enum Item<'i> {
    /// First: the tree of what stands before the oldest file.
    Before(&'i Frontier),
    /// A line and its position.
    Line(u64, &'i [u8]),
}

/// Gives every line, in order: nothing is checked.
///
/// # Errors
/// [`OfflineError`].
pub fn each_line(files: &[LogPath], mut each: impl FnMut(Item<'_>)) -> Result<(), OfflineError> {
    let (mut at, mut started) = (0u64, false);
    let mut line = Vec::new();
    for pair in files {
        let read = |source| OfflineError::Read { file: pair.log.display().to_string(), source };
        let mut reader = BufReader::with_capacity(1 << 18, File::open(&pair.log).map_err(read)?);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(read)? == 0 || line.pop_if(|byte| *byte == b'\n').is_none() {
                break;
            }
            if !started {
                let before = Position::claimed(&line, None).filter(|before| before.closed).unwrap_or_default();
                at = before.head.size;
                each(Item::Before(&before.tree));
                started = true;
            }
            each(Item::Line(at, &line));
            at = at.saturating_add(1);
        }
    }
    Ok(())
}
