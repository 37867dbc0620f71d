//! What an attack on a role's own wall is aimed at, and how it ended. Used by the confinement matrix, inside test builds of
//! the roles, and by `moltbot drill`.

use crate::bounded::{BoundedStr, BoundedVec};
use crate::control::{Layout, Resource, RoleConfig};
use crate::ids::Role;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What probes are aimed at. Every path is absolute.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Targets {
    /// The state directory.
    pub state_dir: BoundedStr<1024>,
    /// The engine's socket.
    pub docker_socket: BoundedStr<108>,
    /// Broker's pid.
    pub broker: u32,
    /// Another role's pid.
    pub sibling: u32,
    /// A port on loopback that no list names; something should listen there.
    pub port: u16,
    /// Name of a listening abstract socket.
    pub abstract_name: BoundedStr<64>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Outcome {
    /// It succeeded, or failed for a reason that lies behind every permission check.
    Allowed,
    /// The kernel refused it with this errno.
    Denied(u16),
    /// It ended the process, with this signal.
    Killed(u8),
    /// The process has not got what the attempt needs.
    Absent,
    /// Nothing was heard within the time for it.
    Silent,
}

/// What an outcome means for the role.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Verdict {
    /// The wall held.
    Held,
    /// It let the attempt through on purpose.
    Open,
    /// It let the attempt through, and must not.
    Hole,
    /// There was nothing to attack.
    Nothing,
    /// The attempt gave no outcome.
    Unclear,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 5] = [Self::Held, Self::Open, Self::Hole, Self::Nothing, Self::Unclear];

    /// The verdict's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Open => "open",
            Self::Hole => "hole",
            Self::Nothing => "nothing",
            Self::Unclear => "unclear",
        }
    }
}

/// One attempt of a drill.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attempt {
    /// The probe.
    pub probe: BoundedStr<32>,
    /// How it ended.
    pub outcome: Outcome,
    /// What that means.
    pub verdict: Verdict,
    /// Why the wall lets it through, where it does so on purpose; else empty.
    pub why: BoundedStr<200>,
}

/// broker -> drill. Comes once.
#[derive(Debug, Deserialize, Serialize)]
pub struct DrillOrder {
    /// Whose wall.
    pub role: Role,
    /// What that role is told.
    pub config: RoleConfig,
    /// What the packet's descriptors are: what the role holds behind its walls.
    pub resources: BoundedVec<Resource, 4>,
    /// Who the roles are.
    pub layout: Layout,
    /// What to aim at. The drill listens on a port and an abstract name of its own.
    pub targets: Targets,
}

/// drill -> broker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum DrillReport {
    /// Some attempts, in the order in which they were made.
    Attempts(BoundedVec<Attempt, 32>),
    /// That was all; what it came to, in a line for the log.
    Done(BoundedStr<512>),
}

/// The layers of a wall, so that each can be seen alone.
#[cfg(feature = "probes")]
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Layers {
    /// Landlock and limits.
    pub landlock: bool,
    /// seccomp.
    pub seccomp: bool,
}

/// Words to a role of a test build, which come after `Configure` and know no other successor: such a build never serves.
#[cfg(feature = "probes")]
#[derive(Debug, Deserialize, Serialize)]
pub enum ToProbed {
    /// Raise these layers and say `Confined`. Comes once, first.
    Raise(Layers),
    /// Make this attempt, by its number in the table; answer with an [`Outcome`].
    Probe(u16, Targets),
}

/// Errnos that a wall answers with, by name.
const NAMES: &[(u16, &str)] = &[
    (1, "EPERM"),
    (2, "ENOENT"),
    (3, "ESRCH"),
    (6, "ENXIO"),
    (9, "EBADF"),
    (11, "EAGAIN"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (16, "EBUSY"),
    (17, "EEXIST"),
    (18, "EXDEV"),
    (19, "ENODEV"),
    (20, "ENOTDIR"),
    (22, "EINVAL"),
    (25, "ENOTTY"),
    (38, "ENOSYS"),
    (40, "ELOOP"),
    (93, "EPROTONOSUPPORT"),
    (94, "ESOCKTNOSUPPORT"),
    (95, "EOPNOTSUPP"),
    (97, "EAFNOSUPPORT"),
    (111, "ECONNREFUSED"),
];

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Allowed => f.write_str("ALLOW"),
            Self::Denied(errno) => match NAMES.iter().find(|(number, _)| *number == errno) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "errno-{errno}"),
            },
            // SIGSYS, which a seccomp filter ends a process with.
            Self::Killed(31) => f.write_str("KILL"),
            Self::Killed(signal) => write!(f, "signal-{signal}"),
            Self::Absent => f.write_str("-"),
            Self::Silent => f.write_str("silent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcome_shows_as_its_name_in_the_table() {
        let shown = [
            (Outcome::Allowed, "ALLOW"),
            (Outcome::Denied(13), "EACCES"),
            (Outcome::Denied(200), "errno-200"),
            (Outcome::Killed(31), "KILL"),
            (Outcome::Killed(11), "signal-11"),
            (Outcome::Absent, "-"),
            (Outcome::Silent, "silent"),
        ];
        for (outcome, name) in shown {
            assert_eq!(outcome.to_string(), name);
        }
    }
}
