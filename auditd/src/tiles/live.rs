//! The hashes of tiles as the log grows: `<stream>.tile<level>`, one file a level, all its hashes in a row. Tile `n` of a
//! level is bytes `8192 n` to `8192 (n + 1)` of it, and one that is not full yet is the file's end, so that a tile only
//! ever grows: auditd may neither replace a file nor make a directory.
//!
//! They are written behind the lines that they are made of, which are durable before. What a crash left unwritten is made
//! again from the lines; what it left half written is the beginning of the right bytes and is gone on with. A file that
//! holds anything else is refused, because once a file of lines is pruned its hashes here are all that is left of it.

use super::WIDTH;
use crate::file::{AppendError, appender, reader, unwritable};
use crate::tree::{Frontier, Hash};
use proto::audit::Stream;
use rustix::io::Errno;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

/// Levels that are kept: a hash of the highest one stands for 2^24 lines.
pub const LEVELS: usize = 4;
/// Bytes of a hash.
const HASH: u64 = 32;
/// Bytes that a crash may leave in a level before those below it: what is written at once is far less.
const MAX_AHEAD: u64 = 8 << 20;
/// Bytes that wait for the disk at most; what does not get written is made again at the next start.
const MAX_PENDING: usize = 1 << 20;

/// Name of the file with the hashes of a level.
#[must_use]
pub fn file_name(stream: Stream, level: usize) -> String {
    format!("{}.tile{level}", stream.name())
}

/// A level's file as it is found; closed once it was looked at.
struct Content {
    name: String,
    read: OwnedFd,
    bytes: u64,
}

impl Content {
    fn section(&self, offset: u64, length: u64) -> Result<Vec<u8>, AppendError> {
        let end = offset.saturating_add(length);
        let (mut bytes, mut at) = (Vec::new(), offset);
        while at < end {
            let some = crate::file::read_at(self.read.as_fd(), at, end, 1 << 16).map_err(unwritable("pread"))?;
            if some.is_empty() {
                return Err(AppendError::Tiles { file: self.name.clone(), what: "is shorter than it was" });
            }
            at = at.saturating_add(u64::try_from(some.len()).unwrap_or(u64::MAX));
            bytes.extend_from_slice(&some);
        }
        Ok(bytes)
    }

    /// Hands the hashes `from..until` to `take`.
    fn each(&self, from: u64, until: u64, mut take: impl FnMut(Hash)) -> Result<(), AppendError> {
        let mut at = from;
        while at < until {
            let some = until.saturating_sub(at).min(WIDTH as u64);
            let bytes = self.section(at.saturating_mul(HASH), some.saturating_mul(HASH))?;
            bytes.as_chunks::<32>().0.iter().for_each(|hash| take(*hash));
            at = at.saturating_add(some);
        }
        Ok(())
    }
}

/// One level's file.
#[derive(Debug)]
struct Level {
    name: String,
    append: OwnedFd,
    /// Hashes since the last full tile, as a tree; of the highest level, all.
    block: Frontier,
    /// Bytes that the file already holds of what comes next.
    there: std::collections::VecDeque<u8>,
    /// Bytes that it does not hold yet.
    pending: Vec<u8>,
}

impl Level {
    fn open(directory: BorrowedFd<'_>, stream: Stream, level: usize) -> Result<(Self, Content), AppendError> {
        let name = file_name(stream, level);
        let append = appender(directory, &name, false)?;
        let read = reader(directory, &name).map_err(unwritable("open"))?;
        let size = rustix::fs::fstat(&read).map_err(unwritable("fstat"))?.st_size;
        let content = Content { name: name.clone(), read, bytes: u64::try_from(size).unwrap_or(0) };
        Ok((Self { name, append, block: Frontier::default(), there: [].into(), pending: Vec::new() }, content))
    }

    fn bad(&self, what: &'static str) -> AppendError {
        AppendError::Tiles { file: self.name.clone(), what }
    }

    /// Takes up what the file holds: `count` hashes, and perhaps the beginning of what comes next.
    fn take_up(&mut self, content: &Content, count: u64, top: bool) -> Result<(), AppendError> {
        let counted = count.saturating_mul(HASH);
        let ahead = content.bytes.saturating_sub(counted);
        if ahead > MAX_AHEAD {
            return Err(self.bad("holds more hashes than the level below it has"));
        }
        self.there = content.section(counted, ahead)?.into();
        let from = if top { 0 } else { count.saturating_sub(count % WIDTH as u64) };
        let mut block = Frontier::default();
        content.each(from, count, |hash| block.push(hash))?;
        self.block = block;
        Ok(())
    }

    /// Takes the next hash; the tile's root where it is full with it.
    fn push(&mut self, hash: Hash, top: bool) -> Result<Option<Hash>, AppendError> {
        // Nothing is there but behind a crash.
        let there = self.there.len().min(hash.len());
        let (found, rest) = hash.split_at_checked(there).unwrap_or_default();
        if self.there.drain(..there).ne(found.iter().copied()) {
            return Err(self.bad("does not hold the hashes of these lines"));
        }
        self.pending.extend_from_slice(rest);
        self.block.push(hash);
        if top || self.block.size() < WIDTH as u64 {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.block).root()))
    }

    /// Writes what waits. What is not taken waits on.
    fn flush(&mut self) -> Result<(), Errno> {
        while !self.pending.is_empty() {
            match rustix::io::write(&self.append, &self.pending) {
                Ok(0) => return Err(Errno::NOSPC),
                Ok(written) => drop(self.pending.drain(..written)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// The hashes of one stream.
#[derive(Debug)]
pub struct LiveTiles {
    levels: Vec<Level>,
    size: u64,
    /// True where too much waits: the rest is made at the next start.
    behind: bool,
}

impl LiveTiles {
    /// Opens or makes the files, and makes what a crash left out of a higher level from the one below it.
    ///
    /// # Errors
    /// [`AppendError`]: `Tiles` where a file holds what does not belong there.
    pub fn open(directory: BorrowedFd<'_>, stream: Stream) -> Result<Self, AppendError> {
        let mut levels: Vec<Level> = Vec::with_capacity(LEVELS);
        let (mut size, mut counted, mut below) = (0, 0, None::<Content>);
        for number in 0..LEVELS {
            let (mut level, content) = Level::open(directory, stream, number)?;
            let top = number.saturating_add(1) == LEVELS;
            let held = content.bytes / HASH;
            // Each hash of a higher level is the root of a full tile of the one below.
            let wanted = below.as_ref().map_or(held, |_| counted / WIDTH as u64);
            level.take_up(&content, held.min(wanted), top)?;
            match &below {
                None => size = held,
                Some(below) => {
                    for tile in held..wanted {
                        let mut root = Frontier::default();
                        let from = tile.saturating_mul(WIDTH as u64);
                        below.each(from, from.saturating_add(WIDTH as u64), |hash| root.push(hash))?;
                        level.push(root.root(), top)?;
                    }
                    level.flush().map_err(unwritable("write"))?;
                }
            }
            counted = wanted;
            below = Some(content);
            levels.push(level);
        }
        Ok(Self { levels, size, behind: false })
    }

    /// Lines whose hashes are here.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next line's hash.
    ///
    /// # Errors
    /// [`AppendError::Tiles`] where the file holds another one there.
    pub fn push(&mut self, leaf: Hash) -> Result<(), AppendError> {
        if self.behind {
            return Ok(());
        }
        let mut hash = leaf;
        for (number, level) in self.levels.iter_mut().enumerate() {
            match level.push(hash, number.saturating_add(1) == LEVELS)? {
                Some(root) => hash = root,
                None => break,
            }
        }
        self.size = self.size.saturating_add(1);
        Ok(())
    }

    /// True where the hashes here are those of the tree `log`.
    #[must_use]
    pub fn are_of(&self, log: &Frontier) -> bool {
        let peaks = self.levels.iter().rev().flat_map(|level| level.block.peaks()).copied().collect();
        Frontier::from_parts(self.size, peaks).is_some_and(|tree| tree == *log)
    }

    /// Writes what waits, without waiting for the disk. Where the disk does not take it, it waits on: the lines are what
    /// counts, and they are durable.
    pub fn flush(&mut self) {
        for level in &mut self.levels {
            if level.flush().is_err() && level.pending.len() > MAX_PENDING {
                self.behind = true;
                level.pending.clear();
            }
        }
    }

    /// Makes them durable.
    ///
    /// # Errors
    /// [`AppendError::Unwritable`].
    pub fn sync(&self) -> Result<(), AppendError> {
        self.levels.iter().try_for_each(|level| rustix::fs::fdatasync(&level.append).map_err(unwritable("fdatasync")))
    }

    /// The file's refusal, by the name of its lowest level.
    #[must_use]
    pub fn bad(&self, what: &'static str) -> AppendError {
        let file = self.levels.first().map_or_else(String::new, |level| level.name.clone());
        AppendError::Tiles { file, what }
    }
}
