//! Keys of conversations at rest: what gateway may ask of the vault about them, and what the operator may say.
//!
//! This is the one place where gateway is given bytes to keep: the key of a conversation that is open, which it must have to
//! go on with it. It is never given the key of one that was closed, and it can destroy none.

use crate::ids::SessionKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Names a transcript: 128 random bits, the session's id.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct TranscriptId(pub [u8; 16]);

impl TranscriptId {
    /// An id as a UUID is written: 32 hexadecimal digits, with or without hyphens.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        // Not left to the number's own reading, which takes a sign.
        let is_id = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(&digits, 16).ok().filter(|_| is_id).map(|number| Self(number.to_be_bytes()))
    }
}

impl fmt::Display for TranscriptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", u128::from_be_bytes(self.0));
        let part = |from, to| hex.get(from..to).unwrap_or_default();
        write!(f, "{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
    }
}

/// The key of a transcript. Wiped when dropped, never printed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct TranscriptKey([u8; 32]);

impl TranscriptKey {
    /// Of these bytes, of which the caller wipes its own copy.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for as long as the borrow lasts.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for TranscriptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TranscriptKey")
    }
}

/// For tests of answers: looks at every byte, wherever the first difference is.
impl PartialEq for TranscriptKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
    }
}

impl Eq for TranscriptKey {}

impl Serialize for TranscriptKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for TranscriptKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <[u8; 32]>::deserialize(d).map(Self)
    }
}

/// gateway -> vault, about transcripts.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum TranscriptRequest {
    /// The key of a new transcript of this conversation. The one that was open is closed by it.
    Make {
        /// The conversation.
        session: SessionKey,
        /// The transcript, of which there must be none yet.
        id: TranscriptId,
    },
    /// The key of the transcript that is open.
    Open {
        /// The conversation.
        session: SessionKey,
        /// The transcript.
        id: TranscriptId,
    },
    /// The transcript is closed: gateway is not given its key again.
    Close {
        /// The transcript.
        id: TranscriptId,
    },
    /// So many lines of it were written, at least: answered with the most that the vault was ever told. What the file is held
    /// against, so that its newest lines cannot be cut off unseen.
    Wrote {
        /// The transcript.
        id: TranscriptId,
        /// Lines.
        lines: u64,
    },
}

/// What the operator may say about transcripts, at broker's socket alone.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum TranscriptVerb {
    /// Which there are.
    List {
        /// Only after this one.
        after: Option<TranscriptId>,
    },
    /// The key of one, to be read by the operator's own command.
    Reveal {
        /// Which.
        id: TranscriptId,
    },
    /// The key of a new transcript that is closed from the start, for a conversation that was held elsewhere: the operator's
    /// command seals it, and gateway is never given it.
    Import {
        /// The conversation.
        session: SessionKey,
        /// The transcript, of which there must be none yet.
        id: TranscriptId,
    },
    /// Destroys the key of one: nobody reads it any more.
    Destroy {
        /// Which.
        id: TranscriptId,
    },
}

impl TranscriptVerb {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::List { .. } => "sessions.list",
            Self::Reveal { .. } => "sessions.show",
            Self::Import { .. } => "sessions.import",
            Self::Destroy { .. } => "sessions.delete",
        }
    }
}

/// One transcript as the operator sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TranscriptRow {
    /// Which.
    pub id: TranscriptId,
    /// The conversation that it is of.
    pub session: SessionKey,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// True where gateway may have its key.
    pub open: bool,
    /// Lines that were written, as far as the vault was told.
    pub lines: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_reads_back_as_it_is_written_and_what_is_none_does_not() {
        let id = TranscriptId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(id.to_string(), "00010203-0405-0607-0809-0a0b0c0d0eff");
        assert_eq!(TranscriptId::parse(&id.to_string()), Some(id));
        for bad in ["", "00010203", "+0010203-0405-0607-0809-0a0b0c0d0eff", "x0010203-0405-0607-0809-0a0b0c0d0eff"] {
            assert_eq!(TranscriptId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn key_is_never_printed() {
        assert_eq!(format!("{:?}", TranscriptKey::new([7; 32])), "TranscriptKey");
        assert!(TranscriptKey::new([7; 32]) == TranscriptKey::new([7; 32]));
        let mut other = [7; 32];
        other[31] = 8;
        assert!(TranscriptKey::new([7; 32]) != TranscriptKey::new(other));
    }
}
