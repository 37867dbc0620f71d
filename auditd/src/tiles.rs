//! The log as static files (c2sp.org/tlog-tiles), for those who read logs and not our lines: `checkpoint`,
//! `tile/<level>/<n>` with 256 hashes each, `tile/entries/<n>` with the lines. They are made from the lines and can be made
//! again; kept, they prove records whose own file is gone.

use crate::offline::{LogPath, OfflineError, newest_checkpoint};
use crate::proof::{Item, each_line};
use crate::tree::{Frontier, Hash, leaf_hash};
use std::path::Path;

pub mod live;
pub mod stored;

/// Hashes in a full tile.
const WIDTH: usize = 256;

/// Why there are no tiles.
#[derive(Debug, thiserror::Error)]
pub enum TileError {
    /// The log could not be read.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// No checkpoint, or the oldest file is gone.
    #[error("{0}")]
    Incomplete(&'static str),
    /// A line that the format cannot hold.
    #[error("line {0} is longer than the format of tiles allows")]
    TooLong(u64),
    /// They could not be written.
    #[error("{path}: {source}")]
    Write {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The path of tile `number`: groups of three digits, all but the last with an `x`; `.p/<width>` where it is not full.
fn path(level: &str, number: u64, width: usize) -> String {
    let mut text = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    let part = if width == WIDTH { String::new() } else { format!(".p/{width}") };
    format!("tile/{level}/{text}{part}")
}

fn write(to: &Path, name: &str, bytes: &[u8]) -> Result<(), TileError> {
    let path = to.join(name);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, bytes));
    made.map_err(|source| TileError::Write { path: path.display().to_string(), source })
}

/// One level of tiles, as far as it is filled.
#[derive(Default)]
struct Level {
    number: u64,
    hashes: Vec<Hash>,
}

struct Tiles<'t> {
    to: &'t Path,
    levels: Vec<Level>,
    entries: Vec<u8>,
    count: u64,
}

impl Tiles<'_> {
    fn line(&mut self, line: &[u8]) -> Result<(), TileError> {
        let length = u16::try_from(line.len()).map_err(|_| TileError::TooLong(self.count.saturating_add(1)))?;
        self.entries.extend_from_slice(&length.to_be_bytes());
        self.entries.extend_from_slice(line);
        self.count = self.count.saturating_add(1);
        if self.count.is_multiple_of(WIDTH as u64) {
            self.bundle(WIDTH)?;
        }
        self.hash(0, leaf_hash(line))
    }

    fn bundle(&mut self, width: usize) -> Result<(), TileError> {
        let number = self.count.saturating_sub(1) / WIDTH as u64;
        let entries = std::mem::take(&mut self.entries);
        write(self.to, &path("entries", number, width), &entries)
    }

    /// Adds a hash to a level; a full tile's root goes to the next.
    fn hash(&mut self, level: usize, hash: Hash) -> Result<(), TileError> {
        if self.levels.len() <= level {
            self.levels.push(Level::default());
        }
        let Some(tile) = self.levels.get_mut(level) else { return Ok(()) };
        tile.hashes.push(hash);
        if tile.hashes.len() < WIDTH {
            return Ok(());
        }
        let mut root = Frontier::default();
        tile.hashes.iter().for_each(|hash| root.push(*hash));
        write(self.to, &path(&level.to_string(), tile.number, WIDTH), &tile.hashes.concat())?;
        tile.hashes.clear();
        tile.number = tile.number.saturating_add(1);
        self.hash(level.saturating_add(1), root.root())
    }

    fn finish(mut self) -> Result<(), TileError> {
        if !self.entries.is_empty() {
            let width = usize::try_from(self.count % WIDTH as u64).unwrap_or(WIDTH);
            self.bundle(width)?;
        }
        for (level, tile) in self.levels.iter().enumerate().filter(|(_, tile)| !tile.hashes.is_empty()) {
            write(self.to, &path(&level.to_string(), tile.number, tile.hashes.len()), &tile.hashes.concat())?;
        }
        Ok(())
    }
}

/// Writes the tree of the newest checkpoint beneath `to`. Returns how many lines it covers.
///
/// # Errors
/// [`TileError`].
pub fn export(files: &[LogPath], to: &Path) -> Result<u64, TileError> {
    let note = newest_checkpoint(files)?.ok_or(TileError::Incomplete("there is no checkpoint yet"))?;
    let point = crate::note::Checkpoint::parse(note.text());
    let point = point.map_err(|_| TileError::Incomplete("the newest checkpoint is none"))?;
    let mut tiles = Tiles { to, levels: Vec::new(), entries: Vec::new(), count: 0 };
    let (mut outcome, mut whole) = (Ok(()), true);
    each_line(files, |item| match item {
        Item::Before(prefix) => whole = prefix.size() == 0,
        Item::Line(at, line) if at < point.size && outcome.is_ok() => outcome = tiles.line(line),
        Item::Line(..) => {}
    })?;
    outcome?;
    if !whole || tiles.count != point.size {
        return Err(TileError::Incomplete("lines of the tree are missing: were files removed?"));
    }
    tiles.finish()?;
    write(to, "checkpoint", note.to_string().as_bytes())?;
    Ok(point.size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_of_a_tile_is_the_standards() {
        assert_eq!(path("0", 5, 256), "tile/0/005");
        assert_eq!(path("1", 1_234_067, 256), "tile/1/x001/x234/067");
        assert_eq!(path("entries", 1_234_067, 8), "tile/entries/x001/x234/067.p/8");
    }
}
