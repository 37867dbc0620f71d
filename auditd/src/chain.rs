//! The hash chain over a stream's lines, and the check of it that needs nothing but the file.
//!
//! The file is hostile here: somebody may have edited, dropped, moved or inserted lines. Every line (its bytes without
//! the newline) is an RFC 6962 leaf, `SHA-256(0x00 || line)`; every record carries the leaf of the line before it. A line
//! that is no record is accepted only where a `torn` record after it commits to its length and hash. What a chain alone
//! cannot show is the loss of whole lines at the end: that takes a receipt or a witness.

use proto::audit::Stream;
use proto::ids::LeafHash;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{BufRead, Read as _};

/// Longest line that is read into memory, in bytes; records are far shorter.
pub const MAX_LINE: u64 = 16 << 20;

/// Bytes of fragments in a row that are kept at most.
const MAX_RUN: usize = 16 << 20;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Lines so far, which is the next record's `seq`.
    pub size: u64,
    /// Leaf of the last line; zeros where there is none.
    pub leaf: LeafHash,
}

impl Head {
    /// Of a stream without a line.
    pub const EMPTY: Self = Self { size: 0, leaf: LeafHash([0; 32]) };

    /// The head after one more line.
    #[must_use]
    pub fn after(self, line: &[u8]) -> Self {
        Self { size: self.size.saturating_add(1), leaf: leaf(line) }
    }
}

/// RFC 6962 leaf hash of a line without its newline.
#[must_use]
pub fn leaf(line: &[u8]) -> LeafHash {
    LeafHash(Sha256::new().chain_update([0]).chain_update(line).finalize().into())
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes that are no record, as a `torn` record describes them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// How many.
    pub len: u64,
    /// SHA-256 of them, hexadecimal.
    pub sha256: String,
}

impl Fragment {
    fn of(bytes: &[u8]) -> Self {
        Self { len: u64::try_from(bytes.len()).unwrap_or(u64::MAX), sha256: hex(&Sha256::digest(bytes)) }
    }
}

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
    /// After the last line, a fragment counted as one.
    pub head: Head,
    /// Bytes read.
    pub bytes: u64,
    /// How the file ends.
    pub tail: Tail,
    /// Head at the end of the last record that stands for itself: whole, and nothing torn before it is open.
    pub sound: Head,
    /// Bytes up to there.
    pub sound_bytes: u64,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Class {
    /// The next line commits to other bytes.
    #[error("is not the line that the next one commits to")]
    Edited,
    /// It is not at the position it was written at.
    #[error("does not have the sequence number of its position")]
    Sequence,
    /// It was written for another stream.
    #[error("belongs to another stream")]
    Stream,
    /// No record, and none after it accounts for it.
    #[error("is not a record, and no torn record accounts for it")]
    NotARecord,
    /// A torn record that describes something else than what stands before it.
    #[error("is not the fragment that the torn record after it describes")]
    Torn,
    /// Longer than any line of ours.
    #[error("is too long")]
    TooLong,
}

/// The first line that is not what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line} {class}")]
pub struct Broken {
    /// Which, counted from 1.
    pub line: u64,
    /// What is wrong.
    pub class: Class,
}

/// Why a file could not be checked to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not what was written.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// It could not be read.
    #[error("cannot be read")]
    Read(#[from] std::io::Error),
}

/// Checks a stream from its first line.
///
/// # Errors
/// [`VerifyError`] with the first bad line.
pub fn verify_lines(reader: impl BufRead, stream: Stream) -> Result<Scan, VerifyError> {
    resume(reader, stream, Head::EMPTY)
}

/// Checks the part of a stream that follows `from`, which stood at the end of a whole record.
///
/// # Errors
/// [`VerifyError`] with the first bad line.
pub fn resume(mut reader: impl BufRead, stream: Stream, from: Head) -> Result<Scan, VerifyError> {
    let mut check = Check { stream, head: from, run: None, last: Vec::new() };
    let (mut sound, mut sound_bytes, mut bytes, mut whole) = (from, 0u64, 0u64, true);
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        whole = line.pop_if(|byte| *byte == b'\n').is_some();
        if !whole && bytes >= MAX_LINE && u64::try_from(read).is_ok_and(|read| read == MAX_LINE) {
            return Err(Broken { line: check.position(), class: Class::TooLong }.into());
        }
        check.line(line)?;
        if whole && check.run.is_none() {
            (sound, sound_bytes) = (check.head, bytes);
        }
    }
    let tail = match (&check.run, whole) {
        (Some(run), _) => Tail::Torn { newline: !whole, fragment: Fragment::of(&run.bytes) },
        (None, false) => Tail::Torn { newline: true, fragment: Fragment::of(&check.last) },
        (None, true) => Tail::Clean,
    };
    Ok(Scan { head: check.head, bytes, tail, sound, sound_bytes })
}

/// The fields that hold the chain together; the rest of a record is covered by its leaf.
#[derive(Deserialize)]
struct Links<'l> {
    seq: u64,
    #[serde(borrow)]
    stream: Cow<'l, str>,
    #[serde(borrow, rename = "type")]
    kind: Cow<'l, str>,
    len: Option<u64>,
    #[serde(borrow)]
    sha256: Option<Cow<'l, str>>,
    #[serde(borrow)]
    prev: Cow<'l, str>,
}

/// Lines in a row that are no records, joined by newlines.
struct Run {
    first: u64,
    bytes: Vec<u8>,
}

struct Check {
    stream: Stream,
    head: Head,
    run: Option<Run>,
    last: Vec<u8>,
}

impl Check {
    const fn position(&self) -> u64 {
        self.head.size.saturating_add(1)
    }

    fn line(&mut self, line: Vec<u8>) -> Result<(), Broken> {
        match serde_json::from_slice::<Links<'_>>(&line) {
            Ok(links) => self.record(&links)?,
            Err(_) => self.fragment(&line)?,
        }
        self.head = self.head.after(&line);
        self.last = line;
        Ok(())
    }

    fn fragment(&mut self, line: &[u8]) -> Result<(), Broken> {
        let first = self.position();
        match &mut self.run {
            // A whole batch fits into one line's bound, so honest runs of fragments never come near it.
            Some(run) if run.bytes.len().saturating_add(line.len()) > MAX_RUN => {
                return Err(Broken { line: run.first, class: Class::TooLong });
            }
            Some(run) => {
                run.bytes.push(b'\n');
                run.bytes.extend_from_slice(line);
            }
            None => self.run = Some(Run { first, bytes: line.to_vec() }),
        }
        Ok(())
    }

    fn record(&mut self, links: &Links<'_>) -> Result<(), Broken> {
        let here = self.position();
        let broken = |line: u64, class| Err(Broken { line: line.max(1), class });
        if links.seq != self.head.size {
            return broken(here, Class::Sequence);
        }
        if links.stream != self.stream.name() {
            return broken(here, Class::Stream);
        }
        if links.prev != hex(&self.head.leaf.0) {
            return broken(self.head.size, Class::Edited);
        }
        if links.kind != "torn" {
            return self.run.as_ref().map_or(Ok(()), |run| broken(run.first, Class::NotARecord));
        }
        let (first, found) = match self.run.take() {
            Some(run) => (run.first, Fragment::of(&run.bytes)),
            None => (self.head.size, Fragment::of(&self.last)),
        };
        let described = links.len == Some(found.len) && links.sha256.as_deref() == Some(found.sha256.as_str());
        if described { Ok(()) } else { broken(first, Class::Torn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Writer;
    use crate::record::tests::auth;
    use proptest::prelude::*;

    fn lines(count: usize) -> Vec<Vec<u8>> {
        let writer = Writer::for_tests();
        let mut head = Head::EMPTY;
        (0..count)
            .map(|at| {
                let line = writer.line(head, "vault", &auth(&format!("10.0.0.{at}"), at % 2 == 0));
                head = head.after(&line);
                line
            })
            .collect()
    }

    fn file(lines: &[Vec<u8>]) -> Vec<u8> {
        lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
    }

    fn verdict(bytes: &[u8]) -> Result<Scan, Broken> {
        verify_lines(bytes, Stream::Auth).map_err(|error| match error {
            VerifyError::Broken(broken) => broken,
            VerifyError::Read(error) => panic!("{error}"),
        })
    }

    #[test]
    fn honest_log_verifies_and_its_head_is_recomputed_by_hand() {
        let lines = lines(20);
        let scan = verdict(&file(&lines)).unwrap();
        assert_eq!((scan.head.size, scan.tail.clone()), (20, Tail::Clean));
        let mut with_prefix = vec![0];
        with_prefix.extend_from_slice(lines.last().unwrap());
        assert_eq!(scan.head.leaf.0, <[u8; 32]>::from(Sha256::digest(&with_prefix)));
        assert_eq!(scan.sound, scan.head);
        assert_eq!(scan.sound_bytes, file(&lines).len() as u64);
    }

    #[test]
    fn leaf_of_nothing_is_the_rfc_6962_one() {
        assert_eq!(hex(&leaf(b"").0), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn edited_line_is_named_at_every_position_but_the_last() {
        for at in 0..19 {
            let mut lines = lines(20);
            let text = String::from_utf8(lines[at].clone()).unwrap().replace("10.0.0", "10.9.0");
            lines[at] = text.into_bytes();
            assert_eq!(verdict(&file(&lines)), Err(Broken { line: at as u64 + 1, class: Class::Edited }));
        }
    }

    #[test]
    fn deleted_line_is_named() {
        for at in 0..19 {
            let mut lines = lines(20);
            lines.remove(at);
            assert_eq!(verdict(&file(&lines)), Err(Broken { line: at as u64 + 1, class: Class::Sequence }));
        }
    }

    #[test]
    fn swapped_and_doubled_lines_are_named() {
        for at in 0..18 {
            let mut swapped = lines(20);
            swapped.swap(at, at + 1);
            assert_eq!(verdict(&file(&swapped)), Err(Broken { line: at as u64 + 1, class: Class::Sequence }));
            let mut doubled = lines(20);
            doubled.insert(at, doubled[at].clone());
            assert_eq!(verdict(&file(&doubled)), Err(Broken { line: at as u64 + 2, class: Class::Sequence }));
        }
    }

    #[test]
    fn truncation_to_whole_lines_changes_the_head_and_within_a_line_is_torn() {
        let lines = lines(20);
        let whole = verdict(&file(&lines)).unwrap();
        let cut = verdict(&file(&lines[..19])).unwrap();
        assert_ne!(cut.head, whole.head);
        let bytes = file(&lines);
        let torn = verdict(&bytes[..bytes.len() - 5]).unwrap();
        assert!(matches!(torn.tail, Tail::Torn { newline: true, .. }));
        assert_eq!(torn.sound.size, 19);
    }

    #[test]
    fn line_of_another_stream_is_named() {
        let bytes = file(&lines(3));
        assert!(verify_lines(bytes.as_slice(), Stream::Auth).is_ok());
        let error = verify_lines(bytes.as_slice(), Stream::Secret).unwrap_err();
        assert!(matches!(error, VerifyError::Broken(Broken { line: 1, class: Class::Stream })));
    }

    #[test]
    fn fragment_is_accepted_only_with_a_torn_record_that_describes_it() {
        let mut lines = lines(3);
        lines.push(b"{\"seq\":3,\"ts".to_vec());
        let scan = verdict(&file(&lines)).unwrap();
        let Tail::Torn { newline: false, fragment } = scan.tail.clone() else { panic!("{scan:?}") };
        let writer = Writer::for_tests();
        let good = writer.torn(Stream::Auth, scan.head, &fragment);
        lines.push(good);
        assert_eq!(verdict(&file(&lines)).unwrap().tail, Tail::Clean);
        lines[3].push(b'x');
        assert!(matches!(verdict(&file(&lines)), Err(Broken { line: 4, .. })));
        lines.pop();
        let ordinary = writer.line(scan.head, "vault", &auth("10.0.0.9", true));
        lines[3].pop();
        lines.push(ordinary);
        assert_eq!(verdict(&file(&lines)), Err(Broken { line: 4, class: Class::NotARecord }));
    }

    proptest! {
        #[test]
        fn every_flipped_bit_before_the_last_line_is_detected(at: prop::sample::Index, bit in 0u8..8) {
            let lines = lines(8);
            let mut bytes = file(&lines);
            let at = at.index(bytes.len() - lines[7].len() - 1);
            bytes[at] ^= 1 << bit;
            prop_assert!(verdict(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = verify_lines(bytes.as_slice(), Stream::Auth);
        }
    }
}
