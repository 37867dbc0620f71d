//! What holds a stream's lines together, and what can be wrong with them.
//!
//! Every line (its bytes without the newline) is an RFC 6962 leaf, `SHA-256(0x00 || line)`; every record carries the leaf
//! of the line before it. A line that is no record is accepted only where a `torn` record after it commits to its length
//! and hash.

use crate::tree;
use proto::ids::LeafHash;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::borrow::Cow;

mod quick;

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Head {
    /// Lines so far, which is the next record's `seq`.
    pub size: u64,
    /// Leaf of the last line; zeros where there is none.
    pub leaf: LeafHash,
}

impl Default for Head {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Head {
    /// Of a stream without a line.
    pub const EMPTY: Self = Self { size: 0, leaf: LeafHash([0; 32]) };

    /// The head after one more line, whose leaf this is.
    #[must_use]
    pub const fn after(self, leaf: LeafHash) -> Self {
        Self { size: self.size.saturating_add(1), leaf }
    }
}

/// RFC 6962 leaf hash of a line without its newline.
#[must_use]
pub fn leaf(line: &[u8]) -> LeafHash {
    LeafHash(tree::leaf_hash(line))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    let mut text = vec![0; bytes.len().saturating_mul(2)];
    // A digit is a byte, so that none is encoded one at a time.
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    String::from_utf8(text).unwrap_or_default()
}

/// Value of each lower-case hexadecimal digit; 16 for what is none. A table, because digits are not to be predicted.
const NIBBLES: [u8; 256] = {
    let mut table = [16; 256];
    let mut value = 0u8;
    while value < 16 {
        let digit = if value < 10 { b'0' + value } else { b'a' + value - 10 };
        if let Some(slot) = table.split_at_mut(digit as usize).1.first_mut() {
            *slot = value;
        }
        value += 1;
    }
    table
};

/// 32 bytes from their hexadecimal form, which is lower-case.
#[must_use]
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let mut bytes = [0; 32];
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    let nibble = |digit: u8| NIBBLES.get(usize::from(digit)).copied().unwrap_or(16);
    let mut wrong = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (nibble(*high), nibble(*low));
        wrong |= (high | low) & 16;
        *byte = high << 4 | low & 15;
    }
    (wrong == 0).then_some(bytes)
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
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { len: u64::try_from(bytes.len()).unwrap_or(u64::MAX), sha256: hex(&Sha256::digest(bytes)) }
    }
}

/// What is wrong with a line, or with the file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Class {
    /// The next line, or a signed root, commits to other bytes.
    #[error("is not the line that was written")]
    Edited,
    /// Lines that stood here are gone.
    #[error("does not follow the line before it: lines are missing")]
    Deleted,
    /// It stands before lines that were written earlier.
    #[error("stands before lines that were written earlier")]
    Reordered,
    /// It stood further up already, or was put in.
    #[error("was put in: its sequence number was used before")]
    Inserted,
    /// It was written for another stream or by another installation.
    #[error("belongs to another log")]
    Spliced,
    /// No record, and none after it accounts for it.
    #[error("is not a record, and no torn record accounts for it")]
    NotARecord,
    /// A torn record that describes something else than what stands before it.
    #[error("is not the fragment that the torn record after it describes")]
    Torn,
    /// Longer than any line of ours.
    #[error("is too long")]
    TooLong,
    /// Lines up to here, since the last good checkpoint, have another root than the signed one.
    #[error("is the last of lines that have another root than the signed one")]
    Rewritten,
    /// A checkpoint that the key in force did not sign.
    #[error("holds a checkpoint that the key in force did not sign")]
    BadSignature,
    /// A change of keys that the old key does not vouch for.
    #[error("brings in a key that the one before does not vouch for")]
    Epoch,
    /// The first key is not the expected one.
    #[error("names another first key than the expected one")]
    WrongKey,
    /// The log has no key although one was expected.
    #[error("ends a log that names no key")]
    Unsigned,
    /// A checkpoint of the log itself signs more lines than there are.
    #[error("is the last, but more were signed: the log was cut")]
    Truncated,
    /// A checkpoint or receipt kept elsewhere knows of more lines than there are.
    #[error("is the last, but a receipt kept elsewhere is for a later one: an old state was put back")]
    RolledBack,
    /// The next file of the stream is missing, or another one stands in its place.
    #[error("is followed by a file that does not continue it: a file is missing")]
    MissingFile,
    /// A record after the one that closed the file.
    #[error("stands behind the record that closed the file")]
    Closed,
    /// The tiles have another hash there.
    #[error("is not the line whose hash stands in the tiles")]
    Tiles,
    /// Written by a newer version than this one.
    #[error("is of a newer format")]
    Newer,
}

impl Class {
    /// The class in one word, for programs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Edited => "edited",
            Self::Deleted => "deleted",
            Self::Reordered => "reordered",
            Self::Inserted => "inserted",
            Self::Spliced => "spliced",
            Self::NotARecord => "not-a-record",
            Self::Torn => "torn",
            Self::TooLong => "too-long",
            Self::Rewritten => "rewritten",
            Self::BadSignature => "bad-signature",
            Self::Epoch => "epoch",
            Self::WrongKey => "wrong-key",
            Self::Unsigned => "unsigned",
            Self::Truncated => "truncated",
            Self::RolledBack => "rolled-back",
            Self::MissingFile => "missing-file",
            Self::Closed => "closed",
            Self::Tiles => "tiles",
            Self::Newer => "newer",
        }
    }
}

/// The first line that is not what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line} {class}")]
pub struct Broken {
    /// Which, counted from 1 in its file.
    pub line: u64,
    /// What is wrong.
    pub class: Class,
}

/// The fields that hold the chain together; the rest of a record is covered by its leaf.
#[derive(Debug, Deserialize)]
pub struct Links<'l> {
    /// Its position.
    pub seq: u64,
    /// When, by the wall clock.
    #[serde(borrow)]
    pub ts: Cow<'l, str>,
    /// Its stream.
    #[serde(borrow)]
    pub stream: Cow<'l, str>,
    /// Its type.
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'l, str>,
    /// Who wrote it.
    #[serde(borrow)]
    pub actor: Cow<'l, str>,
    /// Leaf of the line before.
    #[serde(borrow)]
    pub prev: Cow<'l, str>,
}

impl<'l> Links<'l> {
    /// Those of a line, if it is a record.
    #[must_use]
    pub fn of(line: &'l [u8]) -> Option<Self> {
        quick::links(line).or_else(|| serde_json::from_slice(line).ok())
    }
}

/// The fields of a record that auditd writes about the log itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Own {
    /// Version of the format.
    pub format: Option<u64>,
    /// Generation of the key.
    #[serde(rename = "keyEpoch")]
    pub epoch: Option<u64>,
    /// The key of that generation, in its text form.
    pub key: Option<String>,
    /// A checkpoint of all lines before this one.
    pub note: Option<String>,
    /// The tree of them.
    pub frontier: Vec<String>,
    /// Where a fragment begins.
    pub offset: Option<u64>,
    /// How long it is.
    pub len: Option<u64>,
    /// SHA-256 of it.
    pub sha256: Option<String>,
    /// Name of the next file.
    pub next: Option<String>,
}

impl Own {
    /// The fragment that a `torn` record describes.
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        Some(Fragment { len: self.len?, sha256: self.sha256.clone()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaf_of_nothing_is_the_rfc_6962_one() {
        assert_eq!(hex(&leaf(b"").0), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
    }

    #[test]
    fn hexadecimal_reads_back_in_its_one_form() {
        let bytes: [u8; 32] = std::array::from_fn(|at| u8::try_from(at * 8).unwrap());
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for bad in ["", "00", &hex(&bytes).to_uppercase(), &format!("{}0", hex(&bytes)), &"g".repeat(64)] {
            assert_eq!(unhex(bad), None);
        }
    }
}
