//! An edge is a one-way right: the client's end may ask, the server's end may answer. Each edge has its own request and
//! reply types and its own caps, so that what cannot be asked cannot be written down. Who may ask is in
//! [`crate::topology`].

use crate::approval::{ApprovalReply, ApprovalRequest};
use crate::audit::{AuditRequest, Receipt};
use crate::bounded::BoundedStr;
use crate::egress::{DialRequest, Dialed, EgressChunk, EgressReply, EgressRequest};
use crate::operator::{OperatorReply, OperatorRequest};
use crate::sandbox::{LaunchReply, LaunchRequest, OutputChunk, SandboxReply, SandboxRequest};
use crate::vault::{LeaseReply, LeaseRequest, VaultReply, VaultRequest};
use crate::witness::{WitnessReply, WitnessRequest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A request was understood and not carried out. The sender goes on.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
#[error("{rule}: {message}")]
pub struct Refusal {
    /// The rule that refused, as `auth.rate_limited`.
    pub rule: BoundedStr<64>,
    /// Why, and the narrowest thing that would allow it; for a person.
    pub message: BoundedStr<1024>,
}

impl Refusal {
    /// A refusal by `rule`. Over-long text is cut: it is for reading only.
    #[must_use]
    pub fn new(rule: &str, message: &str) -> Self {
        Self { rule: BoundedStr::truncated(rule), message: BoundedStr::truncated(message) }
    }

    /// The operator's command that says more of the rule.
    #[must_use]
    pub fn explained_by(&self) -> String {
        format!("moltbot explain rule {}", self.rule)
    }

    /// The refusal of everything while nothing is allowed.
    #[must_use]
    pub fn lockdown(why: &str) -> Self {
        Self::new(
            "lockdown",
            &format!("{why}; nothing is let through until it is over, or `moltbot lockdown clear` ends it"),
        )
    }
}

/// Part of a stream, and what it takes of its reader's credit.
pub trait Chunk: Serialize + DeserializeOwned + Send + 'static {
    /// At least 1: what costs nothing could come without end.
    fn cost(&self) -> u32;
}

fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX).max(1)
}

impl Chunk for OutputChunk {
    fn cost(&self) -> u32 {
        cost(self.len())
    }
}

impl Chunk for EgressChunk {
    fn cost(&self) -> u32 {
        match self {
            // Bounded by its type, and it comes once.
            Self::Head { .. } => 1,
            Self::Body(bytes) => cost(bytes.len()),
        }
    }
}

impl Chunk for NoChunk {
    fn cost(&self) -> u32 {
        match *self {}
    }
}

/// No value: the chunk type of edges that do not stream.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum NoChunk {}

/// The types and caps of one edge. Implementors are markers; they are never made.
pub trait Edge: 'static {
    /// Client to server.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// Server to client, ends a request.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// Server to client, before the reply.
    type Chunk: Chunk;
    /// Largest frame from the client, in bytes.
    const MAX_REQUEST: usize;
    /// Largest frame from the server, in bytes.
    const MAX_REPLY: usize;
    /// Requests in flight at most; one more is a violation.
    const WINDOW: usize;
    /// Descriptors that must come with each request.
    const REQUEST_FDS: usize = 0;
    /// Descriptors that may come with a reply.
    const REPLY_FDS: usize = 0;
}

macro_rules! edges {
    ($($(#[$doc:meta])* $name:ident: $req:ty => $rep:ty, chunk $chunk:ty, caps $maxreq:expr, $maxrep:expr, window $window:expr, fds $rfds:expr, $pfds:expr;)*) => {
        $($(#[$doc])* #[derive(Debug)] pub enum $name {}
        impl Edge for $name {
            type Request = $req;
            type Reply = $rep;
            type Chunk = $chunk;
            const MAX_REQUEST: usize = $maxreq;
            const MAX_REPLY: usize = $maxrep;
            const WINDOW: usize = $window;
            const REQUEST_FDS: usize = $rfds;
            const REPLY_FDS: usize = $pfds;
        })*
    };
}

edges! {
    /// gateway asks the vault who a client is.
    GatewayVault: VaultRequest => VaultReply, chunk NoChunk, caps 4096, 32_768, window 80, fds 0, 0;
    /// gateway has commands run.
    GatewaySandboxd: SandboxRequest => SandboxReply, chunk OutputChunk, caps 200_000, 65_536, window 32, fds 0, 0;
    /// gateway has requests made.
    GatewayEgress: EgressRequest => EgressReply, chunk EgressChunk, caps 200_000, 65_536, window 32, fds 0, 0;
    /// sandboxd has the operator asked.
    SandboxdVault: ApprovalRequest => ApprovalReply, chunk NoChunk, caps 32_768, 4096, window 64, fds 0, 0;
    /// egress leases a credential.
    EgressVault: LeaseRequest => LeaseReply, chunk NoChunk, caps 4096, 4096, window 32, fds 0, 0;
    /// egress has a connection made.
    EgressDialer: DialRequest => Dialed, chunk NoChunk, caps 4096, 4096, window 32, fds 0, 1;
    /// sandboxd has a native sandbox made.
    SandboxdLauncher: LaunchRequest => LaunchReply, chunk NoChunk, caps 200_000, 4096, window 32, fds 2, 0;
    /// The vault compares what it and the log remember of each other, and cosigns.
    VaultWitness: WitnessRequest => WitnessReply, chunk NoChunk, caps 4096, 16_384, window 4, fds 0, 0;
    /// Anybody has a record written; auditd knows who by which end it came in on.
    ToAuditd: AuditRequest => Receipt, chunk NoChunk, caps 16_384, 4096, window 64, fds 0, 0;
    /// The operator asks the broker. The one edge with a name in the file system; the peer's uid is checked there.
    OperatorBroker: OperatorRequest => OperatorReply, chunk NoChunk, caps 8192, 65_536, window 8, fds 0, 1;
}
