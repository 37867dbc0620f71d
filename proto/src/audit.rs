//! What may be written to the log. One enum a writer, so that a role cannot forge another role's records: auditd knows
//! the actor from the edge, and the edge's type knows what that actor may say.

use crate::auth::DeviceId;
use crate::bounded::BoundedStr;
use crate::ids::{Epoch, LeafHash, Role, RunId, Seq, SessionKey};
use crate::watch::WatchRecord;
use crate::witness::{Commitment, StoreStep};
use serde::{Deserialize, Serialize};

/// The audit streams, each a file `logs/<name>.jsonl`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Stream {
    /// Logins and lockouts.
    Auth,
    /// Intents and outcomes of commands.
    Command,
    /// Use of secrets.
    Secret,
    /// Supervision, attestation, incidents, operator verbs.
    System,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 4] = [Self::Auth, Self::Command, Self::Secret, Self::System];

    /// File name without its suffix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth-audit",
            Self::Command => "command-audit",
            Self::Secret => "secret-audit",
            Self::System => "system-audit",
        }
    }
}

/// How a client proved who it is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum AuthMethod {
    /// The gateway token.
    Token,
    /// The password.
    Password,
    /// The key of this device.
    Device(DeviceId),
    /// Nothing was offered.
    None,
}

/// Why a login was refused; the names are the wire's and the log's.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum AuthReason {
    /// No credential came.
    TokenMissing,
    /// The credential is not the one the vault holds.
    TokenMismatch,
    /// The password is not the one.
    PasswordMismatch,
    /// A password came and none is set.
    PasswordUnset,
    /// A device signed for no connection that is there.
    DeviceNonce,
    /// A device's clock is not ours.
    DeviceExpired,
    /// A device's signature does not hold.
    DeviceSignature,
    /// A device that nobody knows waits for the operator's word now.
    DeviceUnpaired,
    /// A device asks for more than it was paired for, and waits for the operator's word now.
    DeviceScopes,
    /// A device's pairing was taken back.
    DeviceRevoked,
    /// Too many devices wait.
    DevicesWaiting,
    /// A device does not show its token.
    DeviceTokenMissing,
    /// A device shows a token that it once had.
    DeviceTokenStale,
    /// The address is locked out.
    RateLimited,
}

impl AuthMethod {
    /// The method's name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Password => "password",
            Self::Device(_) => "device",
            Self::None => "none",
        }
    }
}

impl AuthReason {
    /// The reason's name in answers and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenMissing => "token_missing",
            Self::TokenMismatch => "token_mismatch",
            Self::PasswordMismatch => "password_mismatch",
            Self::PasswordUnset => "password_missing_config",
            Self::DeviceNonce => "device_nonce_mismatch",
            Self::DeviceExpired => "device_signature_expired",
            Self::DeviceSignature => "device_signature_invalid",
            Self::DeviceUnpaired => "pairing_required",
            Self::DeviceScopes => "scope_upgrade",
            Self::DeviceRevoked => "device_revoked",
            Self::DevicesWaiting => "too_many_devices_wait",
            Self::DeviceTokenMissing => "device_token_missing",
            Self::DeviceTokenStale => "device_token_stale",
            Self::RateLimited => "rate_limited",
        }
    }

    /// True where whoever was refused may have been guessing, so that it counts towards a lockout.
    #[must_use]
    pub const fn is_guess(self) -> bool {
        matches!(self, Self::TokenMismatch | Self::PasswordMismatch | Self::PasswordUnset | Self::DeviceSignature)
    }
}

/// Outcome of a login attempt.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum AuthOutcome {
    /// Let in.
    Accepted,
    /// Kept out, and why.
    Rejected(AuthReason),
}

/// What ran, or was about to.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum CommandRecord {
    /// Durable before the command starts.
    Intent {
        /// Names this run.
        run: RunId,
        /// Conversation it belongs to.
        session: SessionKey,
        /// The command as it was asked for.
        command: BoundedStr<8192>,
        /// Backend that will confine it.
        backend: BoundedStr<32>,
        /// What let it run: a rule's id, `ask-off`, or an approval's number.
        allowed_by: BoundedStr<96>,
    },
    /// Written after it ended.
    Outcome {
        /// The run of the intent.
        run: RunId,
        /// Conversation it belongs to.
        session: SessionKey,
        /// How it ended.
        end: RunEnd,
        /// Milliseconds it took.
        duration_ms: u64,
    },
    /// It was not carried out.
    Refused {
        /// Conversation that asked.
        session: SessionKey,
        /// The command as it was asked for.
        command: BoundedStr<8192>,
        /// The rule that refused.
        rule: BoundedStr<64>,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum RunEnd {
    /// It exited with this status.
    Exited(u8),
    /// A signal ended it.
    Signalled(u8),
    /// Its time was over.
    TimedOut,
    /// The person stopped it.
    Aborted,
    /// The sandbox failed under it.
    Lost,
}

/// How far a request to the world has come.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum RequestStep {
    /// Durable before anything is connected.
    Begun,
    /// It was answered.
    Answered {
        /// Address that was spoken to.
        address: BoundedStr<64>,
        /// HTTP status.
        status: u16,
        /// Bytes of the request's body.
        sent: u64,
        /// Bytes of the answer's body.
        received: u64,
        /// Times that the credential was taken out of the answer.
        scrubbed: u32,
        /// Milliseconds it took.
        duration_ms: u64,
    },
    /// It was not carried out, or not to its end.
    Failed {
        /// The rule that refused, or what broke.
        rule: BoundedStr<64>,
        /// Bytes of the answer's body that had come.
        received: u64,
        /// Milliseconds it took.
        duration_ms: u64,
    },
}

/// How far the reaction to an incident goes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Severity {
    /// Everything is frozen, the suspects are replaced, and what had commands running stays in quarantine; the rest goes on.
    Containment,
    /// Everything stays frozen until the operator clears it.
    Lockdown,
}

impl Severity {
    /// The severity's name in records and in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Containment => "containment",
            Self::Lockdown => "lockdown",
        }
    }
}

/// One record, by the kind of its writer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Record {
    /// vault: a login attempt.
    Auth {
        /// Address of the client as gateway saw it.
        client: BoundedStr<64>,
        /// What it offered.
        method: AuthMethod,
        /// What came of it.
        outcome: AuthOutcome,
    },
    /// sandboxd: a command.
    Command(CommandRecord),
    /// sandboxd: what it saw of its sandboxes.
    Watch(WatchRecord),
    /// vault: a secret was made, read or refused.
    Secret {
        /// Name of the secret.
        name: BoundedStr<64>,
        /// What was done, as `reveal`, `lease`, `create`.
        verb: BoundedStr<32>,
        /// Who asked: a role, `operator:` and a uid, or `device:` and a device's name of 64 digits.
        requester: BoundedStr<71>,
        /// True where it was granted.
        granted: bool,
        /// Where to, and what was refused and why; empty where there is nothing to say.
        detail: BoundedStr<320>,
    },
    /// egress: a request to the world, never its body.
    Request {
        /// Names the request, `q-` and 16 hexadecimal digits.
        id: BoundedStr<20>,
        /// Conversation that asked, as gateway says.
        session: SessionKey,
        /// Name of the credential; empty where it has none.
        credential: BoundedStr<64>,
        /// Where to, `host:port`.
        to: BoundedStr<260>,
        /// Method and path, without the query.
        what: BoundedStr<320>,
        /// How far it has come.
        step: RequestStep,
    },
    /// vault: who may speak on a channel was asked, or changed.
    Sender {
        /// The channel.
        channel: BoundedStr<32>,
        /// The sender; empty where it is about none.
        sender: BoundedStr<128>,
        /// What was done, as `pairing.request`, `pairing.approve`, `allowlist.add`.
        verb: BoundedStr<32>,
        /// Who asked.
        requester: BoundedStr<64>,
        /// True where it was granted.
        granted: bool,
        /// The rule that refused, or what else there is to say.
        detail: BoundedStr<128>,
    },
    /// vault, on the edge that it has for this alone: how far a change of its store has come.
    Store {
        /// How far.
        step: StoreStep,
        /// Which state.
        state: Commitment,
    },
    /// auditd: the key that the vault cosigns with.
    Cosigner {
        /// The key, `<name>+<id>+<base64>`.
        key: BoundedStr<192>,
    },
    /// broker: something happened to a role.
    Role {
        /// Which role.
        role: Role,
        /// Which generation of it.
        epoch: Epoch,
        /// What, as `attested`, `ready`, `died`, `restarted`, `violation`.
        event: BoundedStr<32>,
        /// One line for a person.
        detail: BoundedStr<512>,
    },
    /// broker: an operator's verb, before it was answered.
    Operator {
        /// Uid of the peer, from the kernel.
        uid: u32,
        /// Pid of the peer, from the kernel.
        pid: u32,
        /// The verb.
        verb: BoundedStr<64>,
        /// What it was about; empty where there is nothing to say.
        detail: BoundedStr<256>,
    },
    /// broker: one step of the reaction to an incident, when it is over.
    Incident {
        /// Names the incident, `i-` and 16 hexadecimal digits.
        incident: BoundedStr<20>,
        /// How far the reaction goes.
        severity: Severity,
        /// The step, as `freeze-intake`.
        step: BoundedStr<32>,
        /// What came of it, as `done`, `timed-out`, `skipped`.
        outcome: BoundedStr<32>,
        /// Milliseconds that the step took.
        took_ms: u64,
        /// One line for a person.
        detail: BoundedStr<512>,
    },
    /// broker or auditd: the set started or stopped.
    Lifecycle {
        /// `started`, `stopping`, `stopped`.
        event: BoundedStr<32>,
        /// `single-uid` or `split-uid`.
        layout: BoundedStr<32>,
    },
}

impl Record {
    /// The stream that the record belongs to.
    #[must_use]
    pub const fn stream(&self) -> Stream {
        match self {
            Self::Auth { .. } | Self::Sender { .. } => Stream::Auth,
            Self::Command(_) => Stream::Command,
            Self::Secret { .. } | Self::Request { .. } | Self::Store { .. } | Self::Cosigner { .. } => Stream::Secret,
            Self::Role { .. }
            | Self::Operator { .. }
            | Self::Incident { .. }
            | Self::Watch(_)
            | Self::Lifecycle { .. } => Stream::System,
        }
    }

    /// True where `role` may write a record of this kind.
    #[must_use]
    pub const fn may_be_written_by(&self, role: Role) -> bool {
        match self {
            Self::Auth { .. } | Self::Secret { .. } | Self::Sender { .. } => matches!(role, Role::Vault),
            Self::Command(_) | Self::Watch(_) => matches!(role, Role::Sandboxd),
            Self::Request { .. } => matches!(role, Role::Egress),
            // These are no requests to append: they come of what is said on an edge of its own.
            Self::Store { .. } | Self::Cosigner { .. } => false,
            Self::Role { .. } | Self::Operator { .. } | Self::Incident { .. } | Self::Lifecycle { .. } => {
                matches!(role, Role::Broker)
            }
        }
    }
}

/// A request on an audit edge.
#[derive(Debug, Deserialize, Serialize)]
pub enum AuditRequest {
    /// Write one record; answered when it is durable (fdatasync).
    Append(Record),
}

/// Receipt of a durable record.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Receipt {
    /// Its position.
    pub seq: Seq,
    /// Its leaf hash.
    pub leaf: LeafHash,
}

/// Head of one stream, as auditd reports it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogHead {
    /// Which stream.
    pub stream: Stream,
    /// Records in it.
    pub size: u64,
    /// Leaf hash of the last one; zeros where there is none.
    pub leaf: LeafHash,
    /// Records that the vault has cosigned.
    pub cosigned: u64,
}
