//! What the log says of the vault's store: the last state that was reached, one that was about to be, and the key that the
//! vault cosigns with. Found once, from the newest file of the secret stream backwards, when the vault first asks.
//!
//! The file is what it is: who can write it can write these lines. That is why the vault remembers the log in turn.

use crate::chain::{Links, unhex};
use crate::file::{reader, section};
use crate::segment::Segment;
use proto::witness::{Commitment, StoreStep};
use rustix::io::Errno;
use serde::Deserialize;
use std::io::BufRead as _;
use std::os::fd::{AsFd as _, BorrowedFd};

/// What was found, and is kept up to date from then on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Commitments {
    /// The last state that was reached.
    pub committed: Option<Commitment>,
    /// One that was about to be reached after it.
    pub intended: Option<Commitment>,
    /// The cosigner's key, in its text form.
    pub cosigner: Option<String>,
    /// First line of the oldest file that one of these stands in; such a file may be pruned one day.
    pub first: u64,
}

#[derive(Deserialize)]
struct Line {
    generation: Option<u64>,
    root: Option<String>,
    key: Option<String>,
}

impl Commitments {
    /// Reads them out of the stream's files beneath `directory`, whose durable bytes are given, oldest first.
    ///
    /// # Errors
    /// What reading says.
    pub fn find(directory: BorrowedFd<'_>, files: &[(Segment, u64)]) -> Result<Self, Errno> {
        let mut found = Self { first: files.last().map_or(0, |(segment, _)| segment.first), ..Self::default() };
        for (segment, bytes) in files.iter().rev() {
            let older = Self::of_file(directory, segment, *bytes)?;
            // What a newer file says counts.
            if found.committed.is_none() {
                found.intended = found.intended.or(older.intended);
                found.committed = older.committed;
            }
            found.cosigner = found.cosigner.or(older.cosigner);
            found.first = segment.first;
            if found.committed.is_some() && found.cosigner.is_some() {
                break;
            }
        }
        Ok(found)
    }

    fn of_file(directory: BorrowedFd<'_>, segment: &Segment, bytes: u64) -> Result<Self, Errno> {
        let file = reader(directory, &segment.log())?;
        let mut lines = section(file.as_fd(), 0, bytes);
        let (mut found, mut line) = (Self::default(), Vec::new());
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line);
            if read.map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))? == 0 {
                return Ok(found);
            }
            // Cheap before dear: a text in a record cannot hold a quote that is not escaped.
            if contains(&line, b"\"type\":\"store-") || contains(&line, b"\"type\":\"cosigner\"") {
                found.take(&line);
            }
        }
    }

    fn take(&mut self, line: &[u8]) {
        let (Ok(links), Ok(own)) = (serde_json::from_slice::<Links<'_>>(line), serde_json::from_slice::<Line>(line))
        else {
            return;
        };
        let root = own.root.as_deref().and_then(unhex);
        let state = own.generation.zip(root).map(|(generation, root)| Commitment { generation, root });
        match (links.kind.as_ref(), state) {
            ("store-intent", Some(state)) => self.note(StoreStep::Intended, state),
            ("store-committed", Some(state)) => self.note(StoreStep::Committed, state),
            ("cosigner", _) => self.cosigner = own.key,
            _ => {}
        }
    }

    /// A line was written.
    pub const fn note(&mut self, step: StoreStep, state: Commitment) {
        match step {
            StoreStep::Intended => self.intended = Some(state),
            StoreStep::Committed => (self.committed, self.intended) = (Some(state), None),
        }
    }
}

fn contains(line: &[u8], needle: &[u8]) -> bool {
    line.windows(needle.len()).any(|window| window == needle)
}
