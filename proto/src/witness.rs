//! What the vault and auditd say to each other as witnesses: each remembers where the other stood, so that neither can be
//! put back alone. The vault asks and auditd answers: auditd waits for nobody, and a dead vault does not stop the log.

use crate::audit::Stream;
use crate::bounded::{BoundedStr, BoundedVec};
use serde::{Deserialize, Serialize};

/// Streams of the log.
const STREAMS: usize = Stream::ALL.len();
/// Hashes in a consistency proof at most: the tree of a log that can be counted is no higher.
pub const MAX_PROOF: usize = 64;

/// A state of the vault's store.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Commitment {
    /// How often the store was replaced.
    pub generation: u64,
    /// Root over its records (RFC 6962 section 2.1).
    pub root: [u8; 32],
}

/// How far a change of the store has come.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum StoreStep {
    /// It is about to be made.
    Intended,
    /// It is durable.
    Committed,
}

/// What the vault remembers of a stream.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Known {
    /// Which.
    pub stream: Stream,
    /// Records that it has seen.
    pub size: u64,
}

/// The vault's word that it saw a tree and remembers it (c2sp.org/tlog-cosignature).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Cosignature {
    /// Of which stream.
    pub stream: Stream,
    /// Of how many records.
    pub size: u64,
    /// When, in seconds since 1970; part of what is signed.
    pub time: u64,
    /// Ed25519, both halves.
    pub signature: [[u8; 32]; 2],
}

/// Where a stream stands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TreeHead {
    /// Which.
    pub stream: Stream,
    /// Name of the log, `moltbot/<instance>/<stream>`.
    pub origin: BoundedStr<96>,
    /// Records.
    pub size: u64,
    /// Root over them.
    pub root: [u8; 32],
    /// That the tree which the vault knows is its beginning (RFC 6962 section 2.1.2). Empty where the vault knows none, the
    /// same, or a larger one.
    pub proof: BoundedVec<[u8; 32], MAX_PROOF>,
}

/// Bytes of a secret that [`tag`] is over: what is shorter is not known to auditd.
pub const WINDOW: usize = 16;
/// Bits of a tag, all set. So few that a tag alone tells next to nothing of a secret.
pub const MASK: u32 = (1 << 18) - 1;
/// Fingerprints in one message at most.
pub const MAX_FINGERPRINTS: usize = 128;

/// A tag of 16 bytes under a key: the upper bits of two products (Dietzfelbinger's multiply-shift), in a few cycles. It only
/// says where to look.
#[must_use]
pub fn tag(key: &[u8; 32], window: &[u8; WINDOW]) -> u32 {
    let words = |bytes: &[u8]| match bytes.as_chunks::<8>().0 {
        [one, two, ..] => (u64::from_le_bytes(*one), u64::from_le_bytes(*two)),
        _ => (0, 0),
    };
    let ((low, high), (one, two)) = (words(window), words(key));
    let mixed = low.wrapping_mul(one | 1).wrapping_add(high.wrapping_mul(two | 1));
    u32::try_from(mixed >> 46).unwrap_or_default() & MASK
}

/// What the vault tells of one of its secrets, so that auditd can know it again and not learn it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Fingerprint {
    /// [`tag`] of 16 of its bytes.
    pub tag: u32,
    /// Where they stand in it.
    pub at: u16,
    /// Its length.
    pub length: u16,
    /// HMAC-SHA-256 of all of it, the first half.
    pub mac: [u8; 16],
}

/// vault -> auditd.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum WitnessRequest {
    /// Where does the log stand?
    Look {
        /// The key that cosigns, Ed25519.
        cosigner: [u8; 32],
        /// What the vault remembers.
        known: BoundedVec<Known, STREAMS>,
        /// What it has signed since it last asked.
        cosigned: BoundedVec<Cosignature, STREAMS>,
        /// True where the answer is to come when a stream has grown, and then of those that have.
        wait: bool,
    },
    /// Write down how far a change of the store has come. Answered when it is durable.
    Store(StoreStep, Commitment),
    /// Know these secrets of mine where they stand in a record. Answered when they are known.
    Know {
        /// Under which tags and fingerprints are made; another each time the vault starts.
        key: [u8; 32],
        /// They, or the next of them.
        secrets: BoundedVec<Fingerprint, MAX_FINGERPRINTS>,
        /// True where more follow. The last ones bring all in, and what was known before goes.
        more: bool,
    },
}

/// Answer to a [`WitnessRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum WitnessReply {
    /// Where the log stands.
    Seen {
        /// The last state of the store that the log says was reached.
        committed: Option<Commitment>,
        /// One that it says was about to be reached after that.
        intended: Option<Commitment>,
        /// The streams.
        heads: BoundedVec<TreeHead, STREAMS>,
    },
    /// It is written.
    Written,
    /// They are known.
    Noted,
}
