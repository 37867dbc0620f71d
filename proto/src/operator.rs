//! `moltbot` -> broker, on the named socket `<state>/run/operator.sock` (SEQPACKET, 0660). Every verb is recorded before
//! it is answered; one that only looks, once for each connection.

use crate::audit::{LogHead, Stream};
use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use crate::control::MAX_QUARANTINED;
use crate::ids::{Epoch, Role, SessionKey};
use crate::probe::DrillReport;
use crate::sandbox::{Backend, Posture};
use crate::secret::Secret;
use crate::vault::{VaultAnswer, VaultVerb};
use crate::watch::{SandboxAnswer, SandboxVerb};
use serde::{Deserialize, Serialize};

/// What an operator may ask.
#[derive(Deserialize, Serialize)]
pub enum OperatorRequest {
    /// The state of the set.
    Status,
    /// Drain and stop everything; answered at once, carried out after.
    Down,
    /// End a role in order and start it under a new epoch.
    Restart(Role),
    /// Read the configuration anew, and restart the roles that are told something else by it.
    ReloadConfig,
    /// Print the gateway token.
    RevealGatewayToken,
    /// A verb about secrets and keys.
    Vault(Box<VaultVerb>),
    /// A verb about sandboxes.
    Sandbox(SandboxVerb),
    /// A connected stream to gateway, over which the WebSocket protocol is spoken without a token.
    Attach,
    /// Bytes of an audit stream.
    ReadLog {
        /// Which.
        stream: Stream,
        /// From this byte on.
        offset: u64,
    },
    /// Record that the oldest files of a stream are about to be removed; the operator's command removes them.
    PruneLogs {
        /// Which.
        stream: Stream,
        /// Position of the first line that goes.
        first: u64,
        /// Position of the first line that stays.
        until: u64,
        /// Files that go.
        files: u32,
    },
    /// Record that a report on an incident was made, by its digest; the operator's command writes it.
    IncidentReport {
        /// SHA-256 of the archive.
        sha256: [u8; 32],
    },
    /// Freeze everything until `LockdownClear`; answered when it is done.
    LockdownOn,
    /// End a lockdown and every quarantine.
    LockdownClear,
    /// Attack this role's wall, from behind a copy of it.
    DrillStart(Role),
    /// What the drill of this role has found since the last time.
    DrillReport(Role),
}

/// The verb alone: what it carries may be a secret.
impl std::fmt::Debug for OperatorRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.verb())
    }
}

impl OperatorRequest {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Down => "down",
            Self::Restart(_) => "restart",
            Self::ReloadConfig => "config.apply",
            Self::RevealGatewayToken => "gateway.token.reveal",
            Self::Vault(verb) => verb.name(),
            Self::Sandbox(verb) => verb.name(),
            Self::Attach => "attach",
            Self::ReadLog { .. } => "logs.read",
            Self::PruneLogs { .. } => "logs.prune",
            Self::IncidentReport { .. } => "incident.report",
            Self::LockdownOn => "lockdown.on",
            Self::LockdownClear => "lockdown.clear",
            Self::DrillStart(_) => "drill.start",
            Self::DrillReport(_) => "drill.report",
        }
    }

    /// True where nothing changes by it and nothing is revealed: it is recorded once for each connection. Following a log
    /// would feed itself otherwise.
    #[must_use]
    pub const fn looks(&self) -> bool {
        match self {
            Self::Status | Self::ReadLog { .. } | Self::DrillReport(_) => true,
            Self::Vault(verb) => verb.looks(),
            Self::Sandbox(verb) => verb.looks(),
            _ => false,
        }
    }

    /// What is recorded beside the verb, as far as it says so itself.
    #[must_use]
    pub fn about(&self) -> String {
        match self {
            Self::DrillStart(role) => role.name().to_owned(),
            Self::Sandbox(SandboxVerb::Kill(session) | SandboxVerb::Explain(session)) => session.to_string(),
            Self::IncidentReport { sha256 } => {
                format!("sha256:{}", sha256.map(|byte| format!("{byte:02x}")).concat())
            }
            Self::PruneLogs { stream, first, until, files } => {
                format!("{} lines {first} to {} in {files} files", stream.name(), until.saturating_sub(1))
            }
            _ => String::new(),
        }
    }
}

/// Where a role stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum RoleState {
    /// Not wanted now (launcher, while Docker serves).
    Idle,
    /// Started, not yet confined.
    Starting,
    /// Attested; waits for its edges.
    Confined,
    /// Serves.
    Ready,
    /// Ending.
    Stopping,
    /// Dead, waits for its restart.
    Backoff,
    /// Dead in a way that looks like an attack; started again by the reaction to it.
    Held,
    /// Dead for good until the operator acts.
    Failed,
}

impl RoleState {
    /// The state's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Starting => "starting",
            Self::Confined => "confined",
            Self::Ready => "ready",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Held => "held",
            Self::Failed => "failed",
        }
    }
}

/// One row of `moltbot status`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RoleStatus {
    /// Which role.
    pub role: Role,
    /// Its process; 0 while there is none.
    pub pid: u32,
    /// Its uid, from the kernel.
    pub uid: u32,
    /// Its generation.
    pub epoch: Epoch,
    /// Where it stands.
    pub state: RoleState,
    /// Restarts since broker started.
    pub restarts: u32,
    /// Seconds since it became ready.
    pub uptime_s: u64,
    /// `Seccomp:` of `/proc/<pid>/status`; 2 is a filter.
    pub seccomp: u8,
    /// `NoNewPrivs:`.
    pub no_new_privs: bool,
    /// Landlock ABI its ruleset was built for, as it says; 0 is none.
    pub landlock_abi: u8,
    /// Union of the five capability sets, from the kernel.
    pub capabilities: u64,
    /// Milliseconds since the kernel was last asked whether the process is what it must be, with that outcome; a process
    /// that is not is ended. 0 while there is none.
    pub attested_ms: u64,
    /// Weaker than designed, and why.
    pub degraded: BoundedVec<BoundedStr<128>, 8>,
}

/// What is allowed to happen.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Mode {
    /// Everything.
    Open,
    /// Nothing: the reaction to an incident is under way.
    Reacting,
    /// Nothing, until the operator clears it.
    Locked,
}

impl Mode {
    /// The mode's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Reacting => "reacting",
            Self::Locked => "locked",
        }
    }
}

/// `moltbot lockdown status`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Lockdown {
    /// What is allowed.
    pub mode: Mode,
    /// Since when it is locked, in milliseconds since 1970; 0 while it is not.
    pub since_ms: u64,
    /// The incident that led to it; empty where none did.
    pub incident: BoundedStr<20>,
    /// Why, for a person.
    pub why: BoundedStr<256>,
    /// Conversations for which no command runs until the operator clears it.
    pub quarantined: BoundedVec<SessionKey, MAX_QUARANTINED>,
}

/// `moltbot status`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// Version of this build.
    pub version: BoundedStr<32>,
    /// `single-uid` or `split-uid`.
    pub layout: BoundedStr<32>,
    /// Where clients connect, as `127.0.0.1:18789`.
    pub listen: BoundedStr<64>,
    /// State directory.
    pub state_dir: BoundedStr<1024>,
    /// True once every wanted role is ready.
    pub ready: bool,
    /// Whether anything is locked down.
    pub lockdown: Lockdown,
    /// Backend of the sandbox.
    pub backend: Backend,
    /// Why this one, or why none.
    pub backend_detail: BoundedStr<512>,
    /// Why the vault refuses everything; empty where it does not.
    pub vault: BoundedStr<512>,
    /// How the container engine stands.
    pub posture: Box<Posture>,
    /// Every role.
    pub roles: BoundedVec<RoleStatus, 8>,
    /// Heads of the log.
    pub logs: BoundedVec<LogHead, 8>,
}

/// Answer to an [`OperatorRequest`].
#[derive(Deserialize, Serialize)]
pub enum OperatorReply {
    /// The state.
    Status(Box<Status>),
    /// It is under way.
    Started,
    /// The configuration is in force.
    Reloaded {
        /// Who starts again for it.
        roles: BoundedVec<Role, 8>,
        /// Keys that wait for `moltbot down` and `moltbot up`; empty where none does.
        waits: BoundedStr<128>,
    },
    /// The lockdown, after the verb.
    Lockdown(Lockdown),
    /// The token.
    GatewayToken(Secret),
    /// What the vault says.
    Vault(VaultAnswer),
    /// What sandboxd says of its sandboxes.
    Sandbox(SandboxAnswer),
    /// The packet carries the stream.
    Attached,
    /// Bytes of the log; empty at its end.
    LogBytes {
        /// Where they begin: as asked, or further on where a file was pruned.
        from: u64,
        /// They.
        bytes: BoundedBytes<49_152>,
    },
    /// What a drill has found; none where nothing is there yet.
    Drill(Option<DrillReport>),
}
