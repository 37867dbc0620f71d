//! The hashes of tiles as a reader finds them beside the log: enough for a proof of any record in a few reads, also of one
//! whose file was pruned. The files are hostile; what is taken from them is compared with a signed root before it counts.

use super::live::{LEVELS, file_name};
use crate::tree::{Frontier, Hash, Prover};
use proto::audit::Stream;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Hashes that are read at once.
const AT_ONCE: u64 = 8_192;

/// The files of one stream.
#[derive(Debug)]
pub struct StoredTiles {
    levels: Vec<(File, u64)>,
}

impl StoredTiles {
    /// Opens those beneath `directory`; none where there are none.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(directory: &Path, stream: Stream) -> io::Result<Option<Self>> {
        let mut levels = Vec::with_capacity(LEVELS);
        for level in 0..LEVELS {
            match File::open(directory.join(file_name(stream, level))) {
                Ok(file) => {
                    let count = file.metadata()?.len() / 32;
                    levels.push((file, count));
                }
                // The lowest level makes all others.
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok((!levels.is_empty()).then_some(Self { levels }))
    }

    /// Lines whose hashes are here.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.levels.first().map_or(0, |(_, count)| *count)
    }

    /// Makes them durable, so that the lines they are of may go.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.levels.iter().try_for_each(|(file, _)| file.sync_data())
    }

    /// The hashes `from..until` of a level, at most a few hundred; none where there are fewer.
    fn hashes(&self, level: usize, from: u64, until: u64) -> Option<Vec<Hash>> {
        let (file, count) = self.levels.get(level)?;
        if until > *count {
            return None;
        }
        let length = usize::try_from(until.checked_sub(from)?).ok()?.checked_mul(32)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, from.checked_mul(32)?).ok()?;
        Some(bytes.as_chunks::<32>().0.to_vec())
    }

    /// Hands the hashes of the lines `0..until` to `take`, in order; false where they are not all here.
    pub fn each(&self, until: u64, mut take: impl FnMut(u64, Hash)) -> bool {
        let mut at = 0;
        while at < until {
            let end = until.min(at.saturating_add(AT_ONCE));
            let Some(hashes) = self.hashes(0, at, end) else { return false };
            (at..).zip(hashes).for_each(|(at, hash)| take(at, hash));
            at = end;
        }
        true
    }

    /// Hashes of lines from `from` on, as many as are read at once; none where there are none.
    #[must_use]
    pub fn leaves(&self, from: u64) -> Option<Vec<Hash>> {
        let until = self.size().min(from.saturating_add(AT_ONCE));
        self.hashes(0, from, until).filter(|hashes| !hashes.is_empty())
    }

    /// A line's hash.
    #[must_use]
    pub fn leaf(&self, at: u64) -> Option<Hash> {
        self.hashes(0, at, at.checked_add(1)?)?.first().copied()
    }

    /// The root of the complete subtree of `size` lines, a power of two, that begins at `from`: from the highest level that
    /// has it.
    #[must_use]
    pub fn subtree(&self, from: u64, size: u64) -> Option<Hash> {
        let highest = usize::try_from(size.trailing_zeros() / 8).ok()?.min(LEVELS.saturating_sub(1));
        let hashes = (0..=highest).rev().find_map(|level| {
            let lines = u32::try_from(level.saturating_mul(8)).ok()?;
            let until = from.checked_add(size)? >> lines;
            // A level that lacks many is made by the next start; until then the one below is not read as a whole.
            let few = until.saturating_sub(from >> lines) <= 1 << 16;
            if few { self.hashes(level, from >> lines, until) } else { None }
        })?;
        let mut tree = Frontier::default();
        hashes.into_iter().for_each(|hash| tree.push(hash));
        Some(tree.root())
    }

    /// The hashes on the way from line `index` to the root of the tree of `size` lines.
    #[must_use]
    pub fn inclusion(&self, index: u64, size: u64) -> Option<Vec<Hash>> {
        let mut prover = Prover::inclusion(index, size)?;
        prover.fill(|from, size| self.subtree(from, size))?;
        prover.finish()
    }
}

#[cfg(test)]
mod tests;
