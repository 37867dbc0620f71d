//! A newtype for every identifier, so that one can never stand where another is meant.

use crate::bounded::BoundedStr;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A process of the set. Its discriminant is stable: root layouts derive the numeric uid from it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Role {
    /// Starts, attests, wires and supervises the others.
    Broker,
    /// Holds the log.
    Auditd,
    /// Holds the master key.
    Vault,
    /// Holds Docker.
    Sandboxd,
    /// Holds outbound connect().
    Dialer,
    /// Holds a credential while a request is in flight.
    Egress,
    /// Holds hostile input.
    Gateway,
    /// Makes native sandboxes; runs only where sandboxd asked for it.
    Launcher,
}

impl Role {
    /// Every role, in start order.
    pub const ALL: [Self; 8] = [
        Self::Broker,
        Self::Auditd,
        Self::Vault,
        Self::Sandboxd,
        Self::Dialer,
        Self::Egress,
        Self::Gateway,
        Self::Launcher,
    ];

    /// The role's name as it stands in logs, in `ps` and in the operator's commands.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broker => "broker",
            Self::Auditd => "auditd",
            Self::Vault => "vault",
            Self::Sandboxd => "sandboxd",
            Self::Dialer => "dialer",
            Self::Egress => "egress",
            Self::Gateway => "gateway",
            Self::Launcher => "launcher",
        }
    }

    /// The role with this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// Position in [`Role::ALL`].
    #[must_use]
    pub const fn index(self) -> u32 {
        match self {
            Self::Broker => 0,
            Self::Auditd => 1,
            Self::Vault => 2,
            Self::Sandboxd => 3,
            Self::Dialer => 4,
            Self::Egress => 5,
            Self::Gateway => 6,
            Self::Launcher => 7,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Generation of a role's process: 1 for its first start, one more for every restart.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Correlates a request with its answers on one edge. Chosen by the client, never reused while in flight.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RequestId(pub u32);

/// Key of a conversation, as `agent:main:main`. Bytes are chosen by strangers: never a path, never a label, without
/// going through a hash or an allowlist of characters.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SessionKey(pub BoundedStr<128>);

impl SessionKey {
    /// True where strangers speak in it by what it is: a channel's conversation, a hook's. What an agent's owner begins has three
    /// parts, and what a clock begins says so.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        let mut parts = self.0.split(':');
        let own = (parts.next(), parts.next(), parts.next(), parts.next());
        !matches!(own, (Some("agent"), Some(_), Some(_), None) | (Some("agent"), Some(_), Some("cron"), Some(_)))
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_str().fmt(f)
    }
}

/// Names one run of a command in the logs, `r-` and 32 hexadecimal digits. Chosen by sandboxd.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct RunId(pub BoundedStr<40>);

/// Position of a record in its audit stream, counted from 0 (RFC 6962 leaf index).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Seq(pub u64);

/// SHA-256 of `0x00 || line` (RFC 6962 section 2.1 leaf hash).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LeafHash(pub [u8; 32]);
