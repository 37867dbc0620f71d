//! The check of lines with the checkpoints beside them and with what the reader knows from elsewhere, wherever the lines
//! come from.

use super::Expected;
use crate::chain::{Broken, Class, Head};
use crate::notes::{Feed, Notes};
use crate::scan::{Scan, VerifyError, scan};
use crate::verify::{Position, Verifier};
use std::io::BufRead;

/// A check of files that follow one another.
pub struct Check<'e> {
    /// The chain, the tree and the keys.
    pub verifier: Verifier,
    /// Position of the first line that was read.
    pub first_line: Option<u64>,
    expected: &'e Expected,
    kept: Feed<'e>,
    done: u64,
}

impl<'e> Check<'e> {
    pub fn new(verifier: Verifier, expected: &'e Expected) -> Self {
        Self { verifier, first_line: None, expected, kept: Feed::new(&expected.checkpoints), done: 0 }
    }

    /// Checks the lines of one file to its end. `each` is called behind every line that stands for itself.
    pub fn lines(
        &mut self,
        reader: impl BufRead,
        known: &Notes,
        each: &mut dyn FnMut(Head, u64),
    ) -> Result<Scan, VerifyError> {
        let mut feed = Feed::new(&known.entries);
        let Self { verifier, first_line, expected, kept, done } = self;
        let found = scan(reader, verifier, |verifier, bytes| {
            let head = verifier.position().head;
            if bytes > 0 {
                first_line.get_or_insert(head.size.saturating_sub(1));
                each(head, done.saturating_add(bytes));
                let seq = head.size.saturating_sub(1);
                if expected.receipts.iter().any(|receipt| receipt.seq.0 == seq && receipt.leaf != head.leaf) {
                    return Err(verifier.rewritten(Class::Edited).into());
                }
            }
            feed.feed(verifier)?;
            kept.feed(verifier)
        })?;
        // An unfinished record was never acknowledged: the check goes back to before it.
        if feed.left().is_some_and(|left| left.point.size > found.sound.head.size) {
            return Err(self.verifier.rewritten(Class::Truncated).into());
        }
        self.done = self.done.saturating_add(found.bytes);
        Ok(found)
    }

    /// Whether the last file ends where the reader expects it at the earliest.
    pub fn end(&mut self, sound: &Position) -> Result<(), Broken> {
        let size = sound.head.size;
        let receipt = self.expected.receipts.iter().any(|receipt| receipt.seq.0 >= size);
        if receipt || self.kept.left().is_some_and(|left| left.point.size > size) {
            return Err(self.verifier.rewritten(Class::RolledBack));
        }
        if self.expected.first_key.is_some() && sound.key.is_none() {
            return Err(self.verifier.rewritten(Class::Unsigned));
        }
        Ok(())
    }
}
