//! What sandboxd's watch over its sandboxes says: how grave a signal is, what is recorded of it, and what an operator may
//! ask about sandboxes.

use crate::bounded::{BoundedStr, BoundedVec};
use crate::edge::Refusal;
use crate::ids::SessionKey;
use crate::sandbox::Backend;
use serde::{Deserialize, Serialize};

/// How grave a signal is, and with it how far the reaction goes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Class {
    /// Suspicious: it is recorded, and the conversation's sandbox is looked at more often.
    S1,
    /// A violation: the command is ended, the sandbox replaced, and nothing of the conversation runs unasked.
    S2,
    /// The containment is in doubt: the sandbox is frozen, evidence is kept, the conversation is in quarantine.
    S3,
    /// An escape: nothing runs until the operator clears it.
    S4,
}

impl Class {
    /// The class's name in records and in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
            Self::S4 => "S4",
        }
    }
}

/// What sandboxd writes about its sandboxes. Texts in it come from inside them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum WatchRecord {
    /// A signal, and the class that it led to.
    Signal {
        /// Conversation; empty where the sandbox was nobody's yet.
        session: SessionKey,
        /// The engine's name for the container; empty in the native backend.
        container: BoundedStr<64>,
        /// Number of the signal, as `D2`.
        signal: BoundedStr<8>,
        /// What the reaction follows: the signal's own class, or a graver one by what came before it.
        class: Class,
        /// One line for a person.
        detail: BoundedStr<512>,
    },
    /// A piece of evidence, taken while the sandbox stood still.
    Evidence {
        /// Conversation.
        session: SessionKey,
        /// The container.
        container: BoundedStr<64>,
        /// What it is, as `processes`.
        part: BoundedStr<32>,
        /// SHA-256 of all of it.
        sha256: [u8; 32],
        /// Bytes of all of it.
        length: u64,
        /// As much of it as a record holds.
        text: BoundedStr<6_144>,
    },
}

/// A kind of signal, and whether this installation can see it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sense {
    /// Its number, as `D2`.
    pub signal: BoundedStr<8>,
    /// What it sees.
    pub name: BoundedStr<48>,
    /// The gravest it leads to by itself.
    pub class: Class,
    /// True where it was tried and works.
    pub on: bool,
    /// How it was tried, or why it is off.
    pub why: BoundedStr<160>,
}

/// All kinds of signals.
pub type Senses = BoundedVec<Sense, 24>;

/// What an operator may ask of sandboxd.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SandboxVerb {
    /// The sandboxes that there are.
    List,
    /// Where a conversation's commands run, and what holds for them.
    Explain(SessionKey),
    /// End what runs in this conversation's sandbox, and throw it away.
    Kill(SessionKey),
}

impl SandboxVerb {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::List => "sandbox.list",
            Self::Explain(_) => "sandbox.explain",
            Self::Kill(_) => "sandbox.kill",
        }
    }

    /// True where nothing changes by it.
    #[must_use]
    pub const fn looks(&self) -> bool {
        !matches!(self, Self::Kill(_))
    }
}

/// One sandbox.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SandboxRow {
    /// Conversation; empty where it is nobody's yet.
    pub session: SessionKey,
    /// The engine's name for it; empty in the native backend.
    pub container: BoundedStr<64>,
    /// Commands that run in it.
    pub running: u32,
    /// Seconds since it was made; 0 where it is made anew for every command.
    pub age_s: u64,
    /// The gravest class that its conversation has come to; none where nothing was seen.
    pub class: Option<Class>,
    /// Signals of its conversation in the last minute.
    pub signals: u32,
    /// Nothing runs unasked in it, because of what was seen.
    pub suspended: bool,
    /// Nothing runs in it until the operator clears it.
    pub quarantined: bool,
}

/// What of its agent's workspace a conversation's sandbox sees.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Sight {
    /// Nothing: it has a workspace of its own.
    Nothing,
    /// It may be read, beside a workspace of its own.
    Read,
    /// It is the workspace, and may be written.
    Write,
}

impl Sight {
    /// Its name, as `workspaceAccess` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Read => "ro",
            Self::Write => "rw",
        }
    }
}

/// What holds for a conversation's commands.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explained {
    /// Its sandbox; without a name where there is none yet.
    pub row: SandboxRow,
    /// Which backend its next command has.
    pub backend: Backend,
    /// One line about it, or why nothing can confine a command.
    pub detail: BoundedStr<512>,
    /// The image's digest; empty where there is none.
    pub image: BoundedStr<128>,
    /// Whose sandbox it has: its own key, or what it shares it by.
    pub place: SessionKey,
    /// What of its agent's workspace is in it.
    pub agent: Sight,
    /// Strangers' words have reached it.
    pub tainted: bool,
    /// Rule and reason by which nothing of it runs now.
    pub closed: Option<Refusal>,
    /// The tools that it may use.
    pub tools: BoundedVec<BoundedStr<32>, 48>,
}

/// Answer to a [`SandboxVerb`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SandboxAnswer {
    /// The sandboxes.
    Rows(BoundedVec<SandboxRow, 64>),
    /// What holds for the conversation.
    Explained(Box<Explained>),
    /// It was done; how many sandboxes it was done to.
    Done(u32),
}
