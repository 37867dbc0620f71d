//! The control channel, broker <-> each role: descriptor 3 of every child. Broker believes nothing on it that it can
//! read from the kernel itself.

use crate::audit::LogHead;
use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use crate::edge::Refusal;
use crate::ids::{Epoch, Role, SessionKey};
use crate::sandbox::{Backend, Posture};
use crate::secret::Secret;
use crate::topology::{EdgeId, Side};
use crate::vault::{VaultAnswer, VaultVerb};
use crate::watch::{SandboxAnswer, SandboxVerb};
use serde::{Deserialize, Serialize};

/// Largest control frame, in bytes, either way.
pub const MAX_CONTROL: usize = 65_536;
/// Descriptors in one control packet at most.
pub const MAX_CONTROL_FDS: usize = 4;
/// Conversations in quarantine at most; more are a case for a lockdown.
pub const MAX_QUARANTINED: usize = 64;

/// A thing that broker opened for a role; its descriptor travels with `Configure`, in the order of the list.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Resource {
    /// auditd: the directory `logs/`.
    LogDir,
    /// vault: the directory `keys/`.
    KeyDir,
    /// vault: the master key, where the service manager keeps it and not `keys/`.
    MasterKey,
    /// vault: the directory `vault/`.
    VaultDir,
    /// gateway: the directory `sessions/`.
    SessionDir,
    /// gateway: the listening TCP socket.
    Listener,
    /// sandboxd and launcher: the directory `workspaces/`.
    WorkspaceDir,
    /// sandboxd, which opens it by itself: the kernel's `/proc`.
    Processes,
}

/// Who shares a sandbox.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Scope {
    /// Nobody.
    #[default]
    Session,
    /// The conversations of one agent.
    Agent,
    /// All conversations.
    Shared,
}

/// How long containers are kept, and how many wait for a session.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Keep {
    /// Started before a session needs one.
    pub pool: u8,
    /// Hours without a command after which a session's is thrown away.
    pub idle_hours: u32,
    /// Days after which it is, once nothing runs in it.
    pub age_days: u32,
}

/// How large a container is. The defaults are the most that there is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Sizes {
    /// Memory in bytes; there is no swap beside it.
    pub memory: u64,
    /// Thousandths of a processor.
    pub millicpus: u32,
    /// Processes and threads.
    pub pids: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { memory: 512 << 20, millicpus: 1_000, pids: 100 }
    }
}

/// How large and how old a file of the log becomes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LogFiles {
    /// Bytes from which on it is closed.
    pub bytes: u64,
    /// Days after which it is.
    pub days: u32,
}

impl Default for LogFiles {
    fn default() -> Self {
        Self { bytes: 10 << 20, days: 30 }
    }
}

/// What a role needs to know, decided by broker from the configuration. One enum per role, so none is told more.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum RoleConfig {
    /// auditd
    Auditd {
        /// `single-uid` or `split-uid`; written into every record.
        layout: BoundedStr<32>,
        /// `logging.redactPatterns`: regular expressions of what is taken out of texts beside what the rules find.
        redact: BoundedVec<BoundedStr<512>, 32>,
        /// When a stream goes on in a new file.
        files: LogFiles,
    },
    /// vault
    Vault {
        /// What the configuration says of channels: `CHANNEL mode MODE` and `CHANNEL allow SENDER`, a line each; `*` is every
        /// channel of which nothing is said.
        senders: BoundedVec<BoundedStr<176>, 256>,
        /// Names of credentials that answers need, as those of models: conversations that strangers' words have reached lease
        /// these and no others.
        answers: BoundedVec<BoundedStr<64>, 64>,
    },
    /// sandboxd
    Sandboxd {
        /// Absolute path of the engine's socket.
        docker_socket: BoundedStr<108>,
        /// Absolute path of the workspaces directory, for bind mounts by the engine.
        workspaces: BoundedStr<1024>,
        /// Image of the sandbox.
        image: BoundedStr<128>,
        /// Which backend may serve.
        backend: BackendChoice,
        /// Tells this installation's containers from others': 16 hexadecimal digits.
        instance: BoundedStr<16>,
        /// `tools.exec` of the configuration as JSON: who is asked about which command.
        exec: BoundedBytes<32_768>,
        /// Who may use which tools, as JSON: `tools` and the other places of the configuration that say so.
        tools: BoundedBytes<16_384>,
        /// Which conversation has which backend, and what its sandbox is given, as JSON: `agents.defaults.sandbox`.
        modes: BoundedBytes<16_384>,
        /// How large a container is.
        sizes: Sizes,
        /// How long one is kept, and how many wait.
        keep: Keep,
        /// Who shares a sandbox.
        scope: Scope,
    },
    /// dialer
    Dialer {
        /// `host:port`, one entry each; empty allows nothing.
        allow: BoundedVec<BoundedStr<260>, 64>,
        /// `host:port` of services on this machine: allowed, and only on a loopback address.
        local: BoundedVec<BoundedStr<260>, 16>,
        /// Address and port of a name server; empty where the machine's own is asked.
        resolver: BoundedStr<64>,
    },
    /// egress
    Egress {
        /// `host:port` of services on this machine that speak without TLS.
        plain: BoundedVec<BoundedStr<260>, 16>,
        /// `host:port` of services on this machine that speak TLS.
        local: BoundedVec<BoundedStr<260>, 16>,
        /// Absolute path of certificates that are trusted beside the web's; empty where there are none.
        ca: BoundedStr<1024>,
    },
    /// gateway
    Gateway {
        /// The effective configuration as JSON with every secret taken out, for `config.get`.
        redacted_config: BoundedBytes<32_768>,
        /// Path of the configuration file, for display.
        config_path: BoundedStr<1024>,
        /// Path of the state directory, for display.
        state_dir: BoundedStr<1024>,
        /// Name of this machine, for display.
        host: BoundedStr<64>,
    },
    /// launcher
    Launcher,
}

/// `sandbox.backend` of the configuration.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum BackendChoice {
    /// Docker where an engine answers, else native.
    #[default]
    Auto,
    /// Docker or nothing.
    Docker,
    /// Native or nothing.
    Native,
}

/// Whether roles have uids of their own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Layout {
    /// One uid for all: broker was started by an ordinary user.
    SingleUid,
    /// A uid each.
    SplitUid,
}

impl Layout {
    /// The layout's name in records, in `status` and in the banner.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleUid => "single-uid",
            Self::SplitUid => "split-uid",
        }
    }
}

/// What a role says of its own walls. Shown, never trusted: broker reads the kernel's view.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Walls {
    /// Landlock ABI the ruleset was built for; 0 where the role has none by design.
    pub landlock_abi: u8,
    /// Rules in the seccomp allowlist.
    pub seccomp_rules: u16,
    /// Weaker than designed, and why; empty where nothing is.
    pub degraded: BoundedVec<BoundedStr<128>, 8>,
}

/// broker -> role.
#[derive(Debug, Deserialize, Serialize)]
pub enum ToRole {
    /// What to do, and with what. Comes once, first.
    Configure {
        /// Whether the roles share a uid, which decides how much the kernel must be able to rule.
        layout: Layout,
        /// The role's part of the configuration.
        config: RoleConfig,
        /// What the packet's descriptors are.
        resources: BoundedVec<Resource, 4>,
    },
    /// The kernel's view of the role is what it should be. The role builds nothing before this word, so that what was
    /// looked at is what is there.
    Attested,
    /// One end of an edge; the packet carries it. Replaces an earlier end of the same edge.
    Grant {
        /// Which edge.
        edge: EdgeId,
        /// Which end.
        side: Side,
        /// Generation of the peer.
        peer: Epoch,
    },
    /// Answer with `Pong` and the same number.
    Ping(u32),
    /// An operator's verb for this role; answer with `Admin` and the same number. May carry one descriptor.
    Admin(u32, AdminRequest),
    /// Take no new work and end what runs, now and until `Thaw`; answer `Frozen` when nothing runs any more. Part of the
    /// reaction to an incident. It may come before the first edge does.
    Freeze {
        /// What refusals say meanwhile.
        why: BoundedStr<256>,
    },
    /// Take work again.
    Thaw,
    /// sandboxd: run nothing for these conversations. Replaces an earlier list.
    Quarantine(BoundedVec<SessionKey, MAX_QUARANTINED>),
    /// Take no new work, end what runs.
    Drain,
    /// Put everything away and exit 0.
    Stop,
}

/// role -> broker.
#[derive(Debug, Deserialize, Serialize)]
pub enum FromRole {
    /// First word.
    Hello {
        /// Who speaks.
        role: Role,
        /// Its schema.
        schema: [u8; 32],
    },
    /// Walls are up; from here on broker may attest.
    Confined(Walls),
    /// Serves.
    Ready,
    /// Answer to `Ping`.
    Pong(u32),
    /// Answer to `Admin`.
    Admin(u32, Result<AdminReply, Refusal>),
    /// `Freeze` is done.
    Frozen {
        /// Conversations whose commands were ended by it.
        sessions: BoundedVec<SessionKey, MAX_QUARANTINED>,
        /// What else was ended, in words for the log.
        detail: BoundedStr<256>,
    },
    /// `Drain` is done.
    Drained,
    /// sandboxd: the native backend is wanted, so the launcher must run.
    LauncherWanted,
    /// sandboxd: a container engine was taken on, and how it stands; for the log.
    EngineTaken {
        /// Its versions and what is known to be wrong with them.
        detail: BoundedStr<512>,
    },
    /// sandboxd: the container engine made another container than it was told to. Nothing ran in it.
    EngineDrifted {
        /// In which fields.
        detail: BoundedStr<256>,
    },
    /// sandboxd: what the kernel or the engine says of a sandbox is what an attack looks like. The sandbox stands still.
    Breached {
        /// An escape, and not only a containment in doubt.
        escaped: bool,
        /// Conversations that it is about; none where the sandbox was nobody's.
        sessions: BoundedVec<SessionKey, MAX_QUARANTINED>,
        /// Which signal, in words for the log.
        detail: BoundedStr<256>,
    },
    /// A peer broke the protocol on this edge; the edge is closed.
    Violated {
        /// Which edge.
        edge: EdgeId,
        /// What it did.
        detail: BoundedStr<256>,
    },
}

/// An operator's verb that a role carries out.
#[derive(Deserialize, Serialize)]
pub enum AdminRequest {
    /// vault: the gateway token, recorded before it is answered.
    RevealGatewayToken {
        /// Uid of the operator.
        uid: u32,
    },
    /// vault: a verb about secrets and keys, recorded before it is answered.
    Vault {
        /// Uid of the operator.
        uid: u32,
        /// The verb.
        verb: Box<VaultVerb>,
    },
    /// vault: does it answer, or why not?
    Standing,
    /// auditd: heads of all streams.
    LogHeads,
    /// auditd: sign a checkpoint of every stream now; answered with the heads.
    Checkpoint,
    /// auditd: bytes of a stream's file.
    ReadLog {
        /// Which stream.
        stream: crate::audit::Stream,
        /// From this byte on.
        offset: u64,
    },
    /// sandboxd: the backend.
    DescribeSandbox,
    /// sandboxd: a verb about its sandboxes.
    Sandbox(SandboxVerb),
    /// gateway: the packet's descriptor is a connected stream of the operator, who needs no token.
    AttachOperator,
}

impl std::fmt::Debug for AdminRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::RevealGatewayToken { .. } => "RevealGatewayToken",
            Self::Vault { verb, .. } => verb.name(),
            Self::Standing => "Standing",
            Self::LogHeads => "LogHeads",
            Self::Checkpoint => "Checkpoint",
            Self::ReadLog { .. } => "ReadLog",
            Self::DescribeSandbox => "DescribeSandbox",
            Self::Sandbox(verb) => verb.name(),
            Self::AttachOperator => "AttachOperator",
        })
    }
}

/// Answer to an [`AdminRequest`].
#[derive(Deserialize, Serialize)]
pub enum AdminReply {
    /// The token.
    GatewayToken(Secret),
    /// What the vault says.
    Vault(VaultAnswer),
    /// Why the vault refuses everything; empty where it does not.
    Standing(BoundedStr<512>),
    /// The heads.
    LogHeads(BoundedVec<LogHead, 8>),
    /// Bytes of the file; empty at its end.
    LogBytes {
        /// Where they begin: as asked, or further on where a file was pruned.
        from: u64,
        /// They.
        bytes: BoundedBytes<49_152>,
    },
    /// The backend.
    Sandbox {
        /// Which.
        backend: Backend,
        /// Why.
        detail: BoundedStr<512>,
        /// How the container engine stands.
        posture: Box<Posture>,
    },
    /// What it says of its sandboxes.
    Sandboxes(SandboxAnswer),
    /// The stream is served.
    Attached,
}

impl std::fmt::Debug for AdminReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::GatewayToken(_) => "GatewayToken",
            Self::Vault(_) => "Vault",
            Self::Standing(_) => "Standing",
            Self::LogHeads(_) => "LogHeads",
            Self::LogBytes { .. } => "LogBytes",
            Self::Sandbox { .. } => "Sandbox",
            Self::Sandboxes(_) => "Sandboxes",
            Self::Attached => "Attached",
        })
    }
}
