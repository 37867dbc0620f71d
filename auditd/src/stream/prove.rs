//! Where the stream stands, for the vault that witnesses it: its tree, the proof that this tree continues the one that the
//! vault knows, and the checkpoint that the vault's cosignature goes under.
//!
//! A proof takes every line since the known size. The tree up to there is kept from one proof to the next, so that only new
//! lines are read; the first proof after a start reads from the beginning of the file that the known size lies in.

use super::{LogStream, Pen};
use crate::chain::leaf;
use crate::file::{AppendError, reader, section};
use crate::note::SignatureLine;
use crate::segment::Segment;
use crate::tree::{Frontier, Hash, Prover};
use crate::verify::Position;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::witness::TreeHead;
use rustix::io::Errno;
use std::io::BufRead as _;
use std::os::fd::AsFd as _;

/// A place in the stream's files up to which the tree is known.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// First line of the file that it lies in.
    first: u64,
    /// Where in the file.
    offset: u64,
    tree: Frontier,
}

impl LogStream {
    /// Where the stream stands, with the proof that it continues its first `known` lines. A checkpoint of it is written,
    /// where the disk lets it.
    ///
    /// # Errors
    /// What reading the files says.
    pub fn tree_head(&mut self, pen: &Pen<'_>, known: u64) -> Result<TreeHead, Errno> {
        // A checkpoint that cannot be written costs the cosignature its place, and nothing else.
        let _ = self.note(pen);
        let size = self.at.head.size;
        let is_its = |(noted, _): &&(u64, _)| *noted == size;
        self.offered = self.noted.as_ref().filter(is_its).cloned();
        let proof = match self.prove(known) {
            Ok(proof) => proof.unwrap_or_default(),
            // What is gone, or is not what it was, cannot be proved; what that means is the vault's to say.
            Err(Errno::NOENT | Errno::NODATA | Errno::BADMSG) => Vec::new(),
            Err(errno) => return Err(errno),
        };
        Ok(TreeHead {
            stream: self.stream,
            origin: BoundedStr::truncated(&pen.ring.origin(self.stream)),
            size,
            root: self.at.tree.root(),
            proof: BoundedVec::new(proof).unwrap_or_default(),
        })
    }

    /// The proof that the first `old` lines are the beginning; none where there are not so many.
    fn prove(&mut self, old: u64) -> Result<Option<Vec<Hash>>, Errno> {
        let size = self.at.head.size;
        if old == 0 || old == size {
            return Ok(Some(Vec::new()));
        }
        let Some(mut prover) = Prover::consistency(old, size) else { return Ok(None) };
        let mut mark = match self.mark.take().filter(|mark| mark.tree.size() <= old) {
            Some(mark) => mark,
            None => self.beginning(old)?,
        };
        self.walk(&mut mark, old, |_, _| {})?;
        prover.skip(&mark.tree);
        let mut end = mark.clone();
        self.walk(&mut end, size, |at, leaf| prover.push(at, leaf))?;
        self.mark = Some(mark);
        Ok(prover.finish())
    }

    /// The beginning of the file that line `at` lies in, or follows.
    fn beginning(&self, at: u64) -> Result<Mark, Errno> {
        let segments = self.segments();
        let (segment, bytes) = segments.iter().rev().find(|(segment, _)| segment.first <= at).ok_or(Errno::NOENT)?;
        let none = Mark { first: segment.first, offset: 0, tree: Frontier::default() };
        if segment.first == 0 {
            return Ok(none);
        }
        let file = reader(self.directory.as_fd(), &segment.log())?;
        let mut line = Vec::new();
        section(file.as_fd(), 0, *bytes).read_until(b'\n', &mut line).map_err(errno)?;
        line.pop_if(|byte| *byte == b'\n');
        // What it claims of the tree is what the vault compares with what it remembers.
        let claimed = Position::claimed(&line, None).ok_or(Errno::BADMSG)?;
        Ok(Mark { tree: claimed.tree, ..none })
    }

    /// The stream's files and their durable bytes, oldest first.
    #[must_use]
    pub fn segments(&self) -> Vec<(Segment, u64)> {
        let parse = |name: &str, bytes| Segment::parse(self.stream, name).map(|segment| (segment, bytes));
        let closed = self.closed.iter().filter_map(|closed| parse(&closed.name, closed.bytes));
        closed.chain(parse(self.file.name(), self.file.bytes())).collect()
    }

    /// Goes on to line `until`, by way of each line between.
    fn walk(&self, mark: &mut Mark, until: u64, mut each: impl FnMut(u64, Hash)) -> Result<(), Errno> {
        let segments = self.segments();
        while mark.tree.size() < until {
            let at = segments.iter().position(|(segment, _)| segment.first == mark.first).ok_or(Errno::NOENT)?;
            let (segment, bytes) = segments.get(at).ok_or(Errno::NOENT)?;
            if mark.offset >= *bytes {
                let (next, _) = segments.get(at.saturating_add(1)).ok_or(Errno::NODATA)?;
                (mark.first, mark.offset) = (next.first, 0);
                continue;
            }
            let file = reader(self.directory.as_fd(), &segment.log())?;
            let mut lines = section(file.as_fd(), mark.offset, *bytes);
            let mut line = Vec::new();
            while mark.tree.size() < until {
                line.clear();
                let read = lines.read_until(b'\n', &mut line).map_err(errno)?;
                if read == 0 {
                    break;
                }
                line.pop_if(|byte| *byte == b'\n');
                let hash = leaf(&line).0;
                each(mark.tree.size(), hash);
                mark.tree.push(hash);
                mark.offset = mark.offset.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            }
        }
        Ok(())
    }

    /// Takes the cosignature of the first `size` lines: it is appended under the checkpoint that was offered, where that
    /// one stands in the file that is appended to.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn cosigned(&mut self, pen: &Pen<'_>, size: u64, line: SignatureLine) -> Result<(), AppendError> {
        self.cosigned = self.cosigned.max(size);
        let Some((_, mut note)) = self.offered.take().filter(|(offered, _)| *offered == size) else { return Ok(()) };
        note.push(line);
        self.account(pen)?;
        self.notes.append(&note)
    }

    /// The text that a cosignature of the first `size` lines is for, where it was offered.
    #[must_use]
    pub fn offered_note(&self, size: u64) -> Option<&crate::note::SignedNote> {
        self.offered.as_ref().filter(|(offered, _)| *offered == size).map(|(_, note)| note)
    }

    /// The vault says that it remembers so many lines, which it has cosigned then.
    pub fn remembered(&mut self, size: u64) {
        self.cosigned = self.cosigned.max(size.min(self.at.head.size));
    }

    /// First line of the file that is appended to.
    #[must_use]
    pub fn file_first(&self) -> u64 {
        self.first()
    }
}

fn errno(error: std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}
