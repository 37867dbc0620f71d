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
}
