//! The check of a log whose oldest files were pruned. Of their lines there are left: the hashes, in the tiles, and those
//! lines themselves that bring in keys, in `<stream>.pruned`. The hashes make the tree that the oldest file begins with;
//! the lines lead from the first key to the one that signed it. So a log can be checked from its first key on for as long
//! as it lives, and what a pruned line said can still be proved by whoever has the line.
//!
//! All of it is hostile. Nothing counts but what the signed tree at the oldest file's first line covers.

use crate::chain::{Broken, Class, Head, Links, Own, leaf};
use crate::note::{Checkpoint, PublicKey, SignedNote};
use crate::offline::{self, Expected, Fault, LogPath, OfflineError, Report};
use crate::segment::Segment;
use crate::tiles::live::file_name;
use crate::tiles::stored::StoredTiles;
use crate::tree::{Frontier, Hash};
use crate::verify::{EpochKey, Position};
use proto::audit::Stream;
use proto::ids::LeafHash;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Longest file of kept lines that is read, in bytes: two lines for each hour of a century are less.
const MAX_KEPT: u64 = 1 << 30;

/// Name of the file with the kept lines.
#[must_use]
pub fn file(stream: Stream) -> String {
    format!("{}.pruned", stream.name())
}

/// What the tiles add to a check.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Attested {
    /// Hashes in the tiles.
    pub tiles: u64,
    /// Lines from the first on that are pruned, and that the tiles and a signed root attest.
    pub pruned: u64,
}

/// As [`offline::verify`] for a directory, with its tiles and what is left of pruned files.
///
/// # Errors
/// [`OfflineError`] with the first thing that is wrong.
pub fn verify(
    directory: &Path,
    stream: Stream,
    expected: &Expected,
    mut each: impl FnMut(Head, u64),
) -> Result<(Report, Attested), OfflineError> {
    // Before the lines: a log that grows meanwhile has more lines than tiles, never fewer.
    let tiles = if directory.is_dir() { StoredTiles::open(directory, stream).map_err(read(directory))? } else { None };
    let files = offline::find(directory, stream)?;
    let Some(tiles) = tiles else { return Ok((offline::verify(&files, stream, expected, each)?, Attested::default())) };
    let first = files.first().and_then(|pair| first_of(pair, stream)).unwrap_or(0);
    let before = if first > 0 { before(directory, stream, &tiles, first, expected)? } else { None };
    let attested = Attested { tiles: tiles.size(), pruned: before.as_ref().map_or(0, |_| first) };
    let expected = Expected { pruned: before, ..expected.clone() };
    let mut window = Window { tiles: &tiles, from: 0, hashes: Vec::new() };
    let mut other = None;
    let report = offline::verify(&files, stream, &expected, |head, bytes| {
        let at = head.size.saturating_sub(1);
        if other.is_none() && at < attested.tiles && window.leaf(at) != Some(head.leaf.0) {
            other = Some(at);
        }
        each(head, bytes);
    })?;
    let fault = |file, line, class| Err(Fault { file, broken: Broken { line, class } }.into());
    if let Some(at) = other {
        return fault(file_name(stream, 0), at.saturating_add(1), Class::Tiles);
    }
    if attested.tiles > report.head.size {
        let (last, began) = files
            .last()
            .map_or((String::new(), 0), |pair| (offline::name(&pair.log), first_of(pair, stream).unwrap_or(0)));
        return fault(last, report.head.size.saturating_sub(began), Class::Truncated);
    }
    Ok((report, attested))
}

fn read(path: &Path) -> impl FnOnce(std::io::Error) -> OfflineError {
    let file = path.display().to_string();
    move |source| OfflineError::Read { file, source }
}

/// Position of a file's first line, by its name.
pub(crate) fn first_of(pair: &LogPath, stream: Stream) -> Option<u64> {
    Segment::parse(stream, pair.log.file_name()?.to_str()?).map(|segment| segment.first)
}

/// Hashes of tiles, some thousand at a time.
struct Window<'t> {
    tiles: &'t StoredTiles,
    from: u64,
    hashes: Vec<Hash>,
}

impl Window<'_> {
    fn leaf(&mut self, at: u64) -> Option<Hash> {
        let held = |window: &Self| window.hashes.get(usize::try_from(at.checked_sub(window.from)?).ok()?).copied();
        if held(self).is_none() {
            self.hashes = self.tiles.leaves(at)?;
            self.from = at;
        }
        held(self)
    }
}

/// A kept line.
struct Kept {
    number: u64,
    seq: u64,
    announces: bool,
    own: Own,
    leaf: Hash,
}

fn kept(directory: &Path, stream: Stream) -> Result<Vec<Kept>, OfflineError> {
    let path = directory.join(file(stream));
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(MAX_KEPT).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(read(&path))?,
    };
    let mut lines = Vec::new();
    // What a crash of the pruning tore at the end stands again behind it, and its lines are known by their hashes alone.
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let Ok(links) = serde_json::from_slice::<Links<'_>>(line) else { continue };
        let Ok(own) = serde_json::from_slice::<Own>(line) else { continue };
        lines.push(Kept { number, seq: links.seq, announces: links.kind == "epoch", own, leaf: leaf(line).0 });
    }
    lines.sort_by_key(|line| line.seq);
    lines.dedup_by(|a, b| a.leaf == b.leaf);
    Ok(lines)
}

/// Position of the last line that is kept already, and whether it announces a key that none has vouched for.
pub(crate) fn last_kept(directory: &Path, stream: Stream) -> Result<Option<(u64, bool)>, OfflineError> {
    Ok(kept(directory, stream)?.last().map(|line| (line.seq, line.announces)))
}

/// What stood before line `first`, as the tiles and the kept lines show it; none where they do not reach.
fn before(
    directory: &Path,
    stream: Stream,
    tiles: &StoredTiles,
    first: u64,
    expected: &Expected,
) -> Result<Option<Position>, OfflineError> {
    let mut kept = kept(directory, stream)?;
    // Those of files that are still here: they are kept before the files go.
    kept.retain(|line| line.seq < first);
    if tiles.size() < first || kept.is_empty() {
        return Ok(None);
    }
    let fault = |line, class| OfflineError::from(Fault { file: file(stream), broken: Broken { line, class } });
    let mut roots: BTreeMap<u64, Hash> = kept.iter().map(|line| (line.seq, [0; 32])).collect();
    roots.extend(expected.checkpoints.iter().map(|entry| (entry.point.size, [0; 32])));
    let (mut tree, mut leaves, mut last) = (Frontier::default(), BTreeMap::new(), [0; 32]);
    let whole = tiles.each(first, |at, hash| {
        if let Some(root) = roots.get_mut(&at) {
            *root = tree.root();
            leaves.insert(at, hash);
        }
        tree.push(hash);
        last = hash;
    });
    if !whole {
        return Ok(None);
    }
    for entry in expected.checkpoints.iter().filter(|entry| (1..first).contains(&entry.point.size)) {
        if roots.get(&entry.point.size) != Some(&entry.point.root) {
            return Err(fault(1, Class::Rewritten));
        }
    }
    let mut keys = Keys::default();
    for line in &kept {
        if leaves.get(&line.seq) != Some(&line.leaf) {
            return Err(fault(line.number, Class::Edited));
        }
        let root = roots.get(&line.seq).copied().unwrap_or_default();
        keys.take(line, &root, expected.first_key).map_err(|class| fault(line.number, class))?;
    }
    let head = Head { size: first, leaf: LeafHash(last) };
    let Keys { first: begun, now, next } = keys;
    Ok(begun.is_some().then_some(Position { head, tree, first: begun, key: now, next, signed: first, closed: true }))
}

/// The succession of keys.
#[derive(Default)]
struct Keys {
    first: Option<EpochKey>,
    now: Option<EpochKey>,
    next: Option<EpochKey>,
}

impl Keys {
    /// Takes a kept line; `root` is of all lines before it.
    fn take(&mut self, line: &Kept, root: &Hash, expected: Option<Hash>) -> Result<(), Class> {
        if line.announces {
            let key = line.own.key.as_deref().and_then(|key| PublicKey::parse(key).ok()).ok_or(Class::Epoch)?;
            let new = EpochKey { epoch: line.own.epoch.ok_or(Class::Epoch)?, key };
            match &self.now {
                None if new.epoch == 0 && expected.is_none_or(|expected| expected == new.key.bytes()) => {
                    self.first = Some(new.clone());
                    self.now = Some(new);
                }
                None if new.epoch == 0 => return Err(Class::WrongKey),
                Some(now)
                    if self.next.is_none()
                        && now.epoch.checked_add(1) == Some(new.epoch)
                        && now.key.name() == new.key.name() =>
                {
                    self.next = Some(new);
                }
                _ => return Err(Class::Epoch),
            }
            return Ok(());
        }
        let note = line.own.note.as_deref().and_then(|note| SignedNote::parse(note).ok()).ok_or(Class::BadSignature)?;
        let point = Checkpoint::parse(note.text()).map_err(|_| Class::BadSignature)?;
        let now = self.now.as_ref().ok_or(Class::Epoch)?;
        if point.origin != now.key.name() || !note.is_signed_by(&now.key) {
            return Err(Class::BadSignature);
        }
        if point.size != line.seq || point.root != *root {
            return Err(Class::Rewritten);
        }
        if let Some(next) = self.next.take() {
            self.now = Some(next);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
