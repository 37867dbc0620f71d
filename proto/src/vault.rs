//! What gateway, egress and the operator may ask of the vault. Nothing in gateway's enum returns a secret's bytes; the one
//! thing that it is given to keep is the key of a conversation that is open.

use crate::approval::{ApprovalAnswer, ApprovalRow, ApprovalVerb, DeviceWord, Subject};
use crate::audit::AuthReason;
use crate::auth::{Admission, ConnectionId, Login, LoginAnswer, LoginVerb, Nonce, Standing};
use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use crate::ids::SessionKey;
use crate::secret::Secret;
use crate::senders::{ChannelId, SenderAnswer, SenderId, SenderVerb, Verdict};
use crate::taint::{TaintRow, TaintVerb};
use crate::transcripts::{TranscriptKey, TranscriptRequest, TranscriptRow, TranscriptVerb};
use serde::{Deserialize, Serialize};

/// gateway -> vault.
#[derive(Deserialize, Serialize)]
pub enum VaultRequest {
    /// Is this client who it says? Recorded durably before it is answered.
    VerifyClient(Box<Login>),
    /// What a device on this connection must sign.
    Challenge(ConnectionId),
    /// What lets clients in, as soon as that is not this any more. The one question whose answer may take for ever; a newer one
    /// ends it.
    Watch(Standing),
    /// Is this the HMAC-SHA256 of the message under the secret? For webhooks; the secret's policy must say `verb verify`.
    VerifyMac {
        /// Name of the secret.
        credential: BoundedStr<64>,
        /// What was authenticated.
        message: BoundedBytes<2048>,
        /// The code that came with it.
        mac: [u8; 32],
    },
    /// May this sender speak on this channel?
    MaySpeak {
        /// The channel that the message came in on.
        channel: ChannelId,
        /// Who sent it, as the channel's own server says.
        sender: SenderId,
        /// What the sender calls itself; for the operator to read.
        name: BoundedStr<64>,
    },
    /// The key of a conversation, to be made, opened or given up.
    Transcript(TranscriptRequest),
    /// Strangers' words reach this conversation now; answered once that is on disk.
    Taint {
        /// Which.
        session: SessionKey,
        /// How; for the operator to read.
        why: BoundedStr<128>,
    },
    /// May words of one conversation go into another? Where strangers' words have reached the one they reach the other by that;
    /// answered once that is on disk.
    Carry {
        /// Whose words.
        from: SessionKey,
        /// Who reads them.
        to: SessionKey,
    },
    /// About commands that wait for an approval, by a paired device.
    Approval(DeviceWord),
}

/// Answer to a [`VaultRequest`].
#[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum VaultReply {
    /// The code is right.
    Accepted,
    /// The client is let in.
    Admitted(Admission),
    /// To be signed.
    Challenge(Nonce),
    /// What lets clients in.
    Standing(Standing),
    /// The client is kept out.
    Rejected {
        /// Why.
        reason: AuthReason,
        /// Seconds until the address may try again; 0 where it may at once.
        retry_after_s: u32,
    },
    /// The code is wrong.
    Denied,
    /// What becomes of the sender's message.
    Speak(Verdict),
    /// The key of the conversation.
    Transcript(TranscriptKey),
    /// Lines of the conversation that were written.
    Lines(u64),
    /// Commands that wait for an approval.
    Questions(BoundedVec<ApprovalRow, 64>),
    /// One of them: what a yes is bound to, and the nonce that makes a signature good for it alone.
    Question {
        /// What is asked about.
        subject: Box<Subject>,
        /// Its number and digest.
        row: ApprovalRow,
        /// Of the question.
        nonce: [u8; 32],
    },
}

/// Names a lease: 128 random bits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct LeaseId(pub [u8; 16]);

/// Where a request goes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Destination {
    /// Host name, as it will be asked for in the TLS handshake.
    pub host: BoundedStr<253>,
    /// Its port.
    pub port: u16,
}

/// egress -> vault. A lease is taken before anything is connected and redeemed when the destination has proved its name, so
/// that a wrong peer costs no secret.
#[derive(Deserialize, Serialize)]
pub enum LeaseRequest {
    /// The right to use one credential for one request.
    Lease {
        /// Conversation that asks.
        session: SessionKey,
        /// Name of the credential.
        credential: BoundedStr<64>,
        /// Where the request goes.
        to: Destination,
        /// Its method.
        method: BoundedStr<16>,
        /// Its path and query.
        path: BoundedStr<2048>,
        /// SHA-256 of the request template.
        digest: [u8; 32],
    },
    /// May something be fetched from this host, without a credential? The conversation counts as tainted from then on.
    Fetch {
        /// Conversation that asks.
        session: SessionKey,
        /// Host.
        host: BoundedStr<253>,
    },
    /// The credential itself, once.
    Redeem {
        /// Which lease.
        lease: LeaseId,
        /// Where the request goes; as it was leased.
        to: Destination,
        /// SHA-256 of the request template; as it was leased.
        digest: [u8; 32],
    },
    /// HMAC-SHA256 of `message` under the credential, once; the credential stays.
    Sign {
        /// Which lease.
        lease: LeaseId,
        /// Where the request goes; as it was leased.
        to: Destination,
        /// SHA-256 of the request template; as it was leased.
        digest: [u8; 32],
        /// What to sign.
        message: BoundedBytes<1024>,
    },
    /// What came of a request whose lease was redeemed, where the policy counts that.
    Spent {
        /// Which lease.
        lease: LeaseId,
        /// Bytes of bodies, both ways.
        bytes: u64,
        /// Tokens that a model read.
        read: u64,
        /// Tokens that it wrote.
        written: u64,
    },
    /// What a server gave for a credential that others are asked for with, whose lease was redeemed.
    Store {
        /// Which lease.
        lease: LeaseId,
        /// The new credential; where it goes the policy says.
        access: Secret,
        /// What takes the place of the one that was leased, if anything does.
        refresh: Option<Secret>,
    },
    /// The lease is not needed any more.
    Release {
        /// Which lease.
        lease: LeaseId,
    },
}

/// Where a credential stands in a request, by its policy; no caller has a word in it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum CredentialSlot {
    /// Nowhere: it signs, or asks for another one.
    Nowhere,
    /// In a header.
    Header {
        /// Its name, lower case.
        name: BoundedStr<64>,
        /// Text before the credential, as `Bearer `.
        prefix: BoundedStr<32>,
    },
    /// In front of the path that the caller gives.
    Path {
        /// Text before the credential, as `/bot`.
        before: BoundedStr<128>,
        /// Text behind it; the caller's path, which begins with a slash, follows.
        after: BoundedStr<128>,
    },
}

/// Answer to a [`LeaseRequest`]; a refusal travels as a refusal.
#[derive(Deserialize, Serialize)]
pub enum LeaseReply {
    /// The right.
    Leased {
        /// Its name.
        lease: LeaseId,
        /// Milliseconds that it lives.
        ttl_ms: u32,
        /// Where the credential stands in the request.
        slot: CredentialSlot,
        /// Bytes that an answer may have at most; none where the policy does not say.
        bytes: Option<u64>,
        /// True where the vault is to be told what it moved: the policy bounds a day.
        counted: bool,
        /// Where the credential is one that others are asked for with: the name of who asks, as the server knows it.
        renews: Option<BoundedStr<128>>,
    },
    /// The credential, to be wiped when the request is sent.
    Redeemed(Secret),
    /// The HMAC-SHA256.
    Signed([u8; 32]),
    /// It is gone.
    Released,
    /// It is counted.
    Counted,
    /// It is sealed, as this version of its name.
    Stored(u64),
    /// It may be fetched.
    MayFetch,
}

/// What an operator may ask of the vault, at broker's socket.
#[derive(Deserialize, Serialize)]
pub enum VaultVerb {
    /// Names, versions, dates.
    ListSecrets {
        /// Only names after this one; empty for the first page.
        after: BoundedStr<64>,
    },
    /// Seals a value: the first version of a name, or the next.
    PutSecret {
        /// The name.
        name: BoundedStr<64>,
        /// The value.
        value: Secret,
        /// True where the name must be there already, false where it must not.
        rotate: bool,
    },
    /// Takes a value over that stands in the configuration or the environment, once: answered with 0 where it was taken
    /// over before, whatever the vault has under this name now.
    AdoptSecret {
        /// The name.
        name: BoundedStr<64>,
        /// The value.
        value: Secret,
        /// What it may be used for, where the vault has nothing under this name yet; empty is nothing at all.
        policy: BoundedStr<4096>,
    },
    /// Forgets a secret.
    RemoveSecret {
        /// The name.
        name: BoundedStr<64>,
    },
    /// The bytes, where the secret's policy lets the operator have them.
    RevealSecret {
        /// The name.
        name: BoundedStr<64>,
    },
    /// The policy's text.
    ReadPolicy {
        /// The name.
        name: BoundedStr<64>,
    },
    /// Binds the secret to another policy.
    SetPolicy {
        /// The name.
        name: BoundedStr<64>,
        /// The text.
        text: BoundedStr<4096>,
    },
    /// Allows one use of a secret whose policy asks for approval.
    ApproveUse {
        /// The name.
        name: BoundedStr<64>,
    },
    /// Ends every lease that lives.
    RevokeLeases,
    /// A new term of the key ring.
    RotateKeys,
    /// A new master key at the vault's next start, which broker is asked for by itself.
    RenewMaster,
    /// Forgets every lockout.
    ForgetLockouts,
    /// A verb about how clients get in.
    Login(LoginVerb),
    /// Opens a store that a passphrase seals.
    Unlock {
        /// The passphrase.
        passphrase: Secret,
    },
    /// Seals the store with a passphrase from now on, beside the key file.
    SetPassphrase {
        /// The passphrase.
        passphrase: Secret,
    },
    /// Seals the store with the key file alone.
    RemovePassphrase,
    /// Writes down that the store is about to be copied, with its key.
    RecordBackup {
        /// Where to.
        to: BoundedStr<256>,
    },
    /// Goes on with a store or a log that was put back.
    AcceptRollback,
    /// About commands that wait for an approval.
    Approval(ApprovalVerb),
    /// A verb about senders.
    Senders(SenderVerb),
    /// A verb about transcripts.
    Transcripts(TranscriptVerb),
    /// A verb about conversations that strangers' words have reached.
    Taint(TaintVerb),
}

impl VaultVerb {
    /// True where it changes nothing, tells no secret, and is asked every second by who watches.
    #[must_use]
    pub const fn looks(&self) -> bool {
        matches!(self, Self::Approval(ApprovalVerb::List))
    }

    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ListSecrets { .. } => "secrets.list",
            Self::PutSecret { rotate: false, .. } => "secrets.set",
            Self::PutSecret { rotate: true, .. } => "secrets.rotate",
            Self::AdoptSecret { .. } => "secrets.adopt",
            Self::RemoveSecret { .. } => "secrets.remove",
            Self::RevealSecret { .. } => "secrets.reveal",
            Self::ReadPolicy { .. } => "secrets.policy",
            Self::SetPolicy { .. } => "secrets.policy.set",
            Self::ApproveUse { .. } => "secrets.approve",
            Self::RevokeLeases => "secrets.revoke",
            Self::RotateKeys => "vault.rotate",
            Self::RenewMaster => "vault.renew",
            Self::ForgetLockouts => "auth.unlock",
            Self::Login(verb) => verb.name(),
            Self::Unlock { .. } => "vault.unlock",
            Self::SetPassphrase { .. } => "vault.passphrase.set",
            Self::RemovePassphrase => "vault.passphrase.remove",
            Self::RecordBackup { .. } => "vault.backup",
            Self::AcceptRollback => "vault.accept-rollback",
            Self::Approval(verb) => verb.name(),
            Self::Senders(verb) => verb.name(),
            Self::Transcripts(verb) => verb.name(),
            Self::Taint(verb) => verb.name(),
        }
    }
}

/// One secret as the operator sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct SecretRow {
    /// Its name.
    pub name: BoundedStr<64>,
    /// Counted from 1.
    pub version: u64,
    /// When this version was made, in seconds since 1970.
    pub created: u64,
    /// `inject`, `sign`, `verify`, `refresh`, or empty where no role may do anything.
    pub verb: BoundedStr<8>,
    /// What for.
    pub purpose: BoundedStr<64>,
    /// Any use of it is an incident.
    pub honey: bool,
    /// Uses counted against its budget.
    pub used: u64,
    /// The budget, if it has one.
    pub budget: Option<u64>,
    /// Another name has the same value.
    pub shared: bool,
}

/// Answer to a [`VaultVerb`].
#[derive(Deserialize, Serialize)]
pub enum VaultAnswer {
    /// It was done; a number where there is one: version, term, leases ended.
    Done(u64),
    /// The page of secrets; another follows where it is full.
    Secrets(BoundedVec<SecretRow, 64>),
    /// The bytes.
    Revealed(Secret),
    /// The text.
    Policy(BoundedStr<4096>),
    /// About how clients get in.
    Login(LoginAnswer),
    /// About approvals.
    Approvals(ApprovalAnswer),
    /// What is so about senders.
    Senders(SenderAnswer),
    /// The page of transcripts; another follows where it is full.
    Transcripts(BoundedVec<TranscriptRow, 64>),
    /// The key of one.
    Transcript(TranscriptKey),
    /// The page of conversations; another follows where it is full.
    Taints(BoundedVec<TaintRow, 32>),
}
