//! sandboxd -> vault: may this run? And what the operator says to that. gateway has no edge on which any of it can be said:
//! it can only ask for a command, and wait.

use crate::auth::DeviceId;
use crate::bounded::{BoundedStr, BoundedVec};
use crate::ids::SessionKey;
use serde::{Deserialize, Serialize};

/// What is approved, all of it: what is not here is the same for every command.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Subject {
    /// Conversation that asks.
    pub session: SessionKey,
    /// The command as it was written.
    pub command: BoundedStr<8192>,
    /// Why it is asked about.
    pub why: BoundedStr<512>,
    /// What runs: the program's path and its arguments, joined as a shell would read them.
    pub runs: BoundedStr<12_288>,
    /// Directory in which it begins.
    pub cwd: BoundedStr<1088>,
    /// The environment.
    pub environment: BoundedStr<256>,
    /// Backend and image, by the image's digest.
    pub image: BoundedStr<192>,
    /// What is mounted.
    pub mounts: BoundedStr<128>,
    /// Which network there is.
    pub network: BoundedStr<64>,
    /// Which secrets it is given.
    pub secrets: BoundedStr<64>,
}

impl Subject {
    /// Its fields, by name, in the order of the hash.
    #[must_use]
    pub fn fields(&self) -> [(&'static str, &str); 10] {
        [
            ("session", &self.session.0),
            ("command", &self.command),
            ("why", &self.why),
            ("runs", &self.runs),
            ("cwd", &self.cwd),
            ("environment", &self.environment),
            ("image", &self.image),
            ("mounts", &self.mounts),
            ("network", &self.network),
            ("secrets", &self.secrets),
        ]
    }

    /// The bytes that are hashed: every field behind its name, each with its length in front.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = b"moltbot/approval/v1".to_vec();
        for text in self.fields().iter().flat_map(|(name, value)| [*name, *value]) {
            bytes.extend_from_slice(&u64::try_from(text.len()).unwrap_or(u64::MAX).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes
    }
}

/// Names a question or a grant; numbers are never used twice while the vault lives.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ApprovalId(pub u32);

impl std::fmt::Display for ApprovalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a-{}", self.0)
    }
}

/// sandboxd -> vault.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum ApprovalRequest {
    /// The key that signs tokens from now on.
    Key,
    /// Put this before the operator, unless a grant covers it.
    Ask {
        /// What.
        subject: Box<Subject>,
        /// Seconds after which silence is a no.
        timeout_s: u32,
        /// 256 random bits, which the token must hold: no earlier token can be this one.
        nonce: [u8; 32],
    },
    /// What came of it?
    Collect {
        /// Which question.
        id: ApprovalId,
    },
    /// Nobody waits for it any more.
    Withdraw {
        /// Which question.
        id: ApprovalId,
    },
    /// How does this conversation stand?
    Standing {
        /// Which.
        session: SessionKey,
    },
    /// Something was seen in this conversation's sandbox: what may run again without a question may not, and nothing runs
    /// unasked until the operator says that it counts no more.
    Suspend {
        /// Which conversation.
        session: SessionKey,
    },
}

/// An approval, signed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Token {
    /// SHA-256 of [`Subject::canonical`].
    pub digest: [u8; 32],
    /// The nonce of the question.
    pub nonce: [u8; 32],
    /// The question or the grant that it comes from.
    pub id: ApprovalId,
    /// Ed25519, over [`Token::signed`].
    pub signature: TokenSignature,
}

/// 64 bytes of a signature.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TokenSignature(pub [u8; 32], pub [u8; 32]);

impl Token {
    /// What is signed.
    #[must_use]
    pub fn signed(digest: &[u8; 32], nonce: &[u8; 32], id: ApprovalId) -> Vec<u8> {
        [b"moltbot/approval-token/v1".as_slice(), digest, nonce, &id.0.to_le_bytes()].concat()
    }
}

/// Answer to an [`ApprovalRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ApprovalReply {
    /// The key, Ed25519.
    Key([u8; 32]),
    /// Nobody has said anything yet.
    Waiting(ApprovalId),
    /// It may run, once.
    Approved(Token),
    /// It may not.
    Denied,
    /// Nobody said anything in time, or everything was revoked.
    Lapsed,
    /// It is gone.
    Withdrawn,
    /// How it stands.
    Standing {
        /// Strangers' words have reached it.
        tainted: bool,
        /// Nothing of it runs unasked.
        suspended: bool,
    },
}

/// gateway -> vault: what paired devices may see of the questions that wait, and what one of them says to one. gateway passes it
/// on and can neither make nor change it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DeviceWord {
    /// What waits.
    List,
    /// One of them, whole, and what a device signs of it.
    Show(ApprovalId),
    /// What a device says.
    Answer {
        /// Which device.
        device: DeviceId,
        /// Which question.
        id: ApprovalId,
        /// What it says.
        decision: Decision,
        /// Its Ed25519 signature, over [`signed_by_device`].
        signature: TokenSignature,
    },
}

/// What a device may say: nothing that holds longer than this question.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Decision {
    /// It may run, once.
    AllowOnce,
    /// It may not.
    Deny,
}

impl Decision {
    /// Its name, as it is signed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllowOnce => "allow-once",
            Self::Deny => "deny",
        }
    }
}

/// What a device signs (docs/FORMATS.md): the digest is of what it was shown, as it hashed that itself, and the
/// nonce makes it good for this one question.
#[must_use]
pub fn signed_by_device(
    device: DeviceId,
    id: ApprovalId,
    digest: &[u8; 32],
    nonce: &[u8; 32],
    decision: Decision,
) -> String {
    let hex = |bytes: &[u8; 32]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("moltbot/device-approval/v1|{device}|{id}|{}|{}|{}", hex(digest), hex(nonce), decision.name())
}

/// What an operator says about approvals, at broker's socket.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum ApprovalVerb {
    /// What waits.
    List,
    /// One of them, whole.
    Show(ApprovalId),
    /// It may run.
    Approve {
        /// Which question.
        id: ApprovalId,
        /// How often the same may run in all.
        uses: u32,
        /// For how many seconds; 0 is for this question alone.
        for_s: u32,
    },
    /// It may not.
    Deny(ApprovalId),
    /// What may run again.
    Grants,
    /// It may not run again; without a number, nothing may.
    Revoke(Option<ApprovalId>),
}

impl ApprovalVerb {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::List => "approvals.list",
            Self::Show(_) => "approvals.show",
            Self::Approve { .. } => "approvals.approve",
            Self::Deny(_) => "approvals.deny",
            Self::Grants => "approvals.grants",
            Self::Revoke(_) => "approvals.revoke",
        }
    }
}

/// A question or a grant, in a line.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ApprovalRow {
    /// Its number.
    pub id: ApprovalId,
    /// Conversation.
    pub session: SessionKey,
    /// The beginning of the command.
    pub command: BoundedStr<256>,
    /// SHA-256 of its subject.
    pub digest: [u8; 32],
    /// Seconds that it lives.
    pub left_s: u32,
    /// Uses that are left; 0 for a question.
    pub uses: u32,
}

/// Answer to an [`ApprovalVerb`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ApprovalAnswer {
    /// It was done; how many it was done to.
    Done(u32),
    /// Questions or grants.
    Rows(BoundedVec<ApprovalRow, 64>),
    /// One question.
    One(Box<Subject>, ApprovalRow),
}
