//! Attacks on the process's own wall, one forbidden thing each, and how it ended.
//!
//! The confinement matrix runs them inside the sealed roles of a test build, `moltbot drill` in children sealed as a role is.
//! A probe must be harmless even where it is allowed: arguments are chosen so that the permission check decides and
//! nothing lies behind it (a magic number that is none, a file system that does not exist, signal 0), and what it makes it
//! takes away. An errno that can only come from behind the check counts as [`Outcome::Allowed`].
//!
//! What a probe shows is what this kernel does today with this one call; it is no proof that there is no other way.

mod call;
mod entry;
mod files;
mod fork;
mod granted;
mod held;
mod identity;
mod kernel;
mod log;
mod memory;
mod processes;
mod sockets;

pub use fork::{ending, in_child};
pub use held::Held;

use proto::ids::Role;
pub use proto::probe::{Outcome, Targets};
use std::ffi::{CStr, CString};
use std::time::SystemTime;

/// A role whose wall lets a probe through on purpose.
#[derive(Clone, Copy, Debug)]
pub struct Exception {
    /// Whose.
    pub role: Role,
    /// Only where all roles share one uid.
    pub single_uid_only: bool,
    /// Why.
    pub why: &'static str,
}

const fn except(role: Role, why: &'static str) -> Exception {
    Exception { role, single_uid_only: false, why }
}

const fn except_single_uid(role: Role, why: &'static str) -> Exception {
    Exception { role, single_uid_only: true, why }
}

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name in the tables.
    pub name: &'static str,
    attempt: fn(&World) -> Outcome,
    /// Whose wall may let it through. For every other role an `ALLOW` behind the whole wall is a hole.
    pub exceptions: &'static [Exception],
    /// Errnos that an unconfined root may get from a kernel that lacks the thing, and what it lacks.
    pub lacking: &'static [(i32, &'static str)],
    /// True where it leaves a trace if it is allowed: the matrix alone may run it, in a state directory of its own.
    pub matrix_only: bool,
    /// True where broker's own filter, which everything it starts inherits, ends whoever tries.
    pub nobody: bool,
}

impl Probe {
    const fn new(name: &'static str, attempt: fn(&World) -> Outcome) -> Self {
        Self { name, attempt, exceptions: &[], lacking: &[], matrix_only: false, nobody: false }
    }

    const fn except(self, exceptions: &'static [Exception]) -> Self {
        Self { exceptions, ..self }
    }

    const fn lacking(self, lacking: &'static [(i32, &'static str)]) -> Self {
        Self { lacking, ..self }
    }

    const fn matrix_only(self) -> Self {
        Self { matrix_only: true, ..self }
    }

    const fn nobody(self) -> Self {
        Self { nobody: true, ..self }
    }

    /// Makes the attempt. It may end the process, and may make another program of it.
    #[must_use]
    pub fn run(&self, world: &World) -> Outcome {
        (self.attempt)(world)
    }

    /// Why this role's wall may let the probe through; none where that is a hole.
    #[must_use]
    pub fn excuse(&self, role: Role, single_uid: bool) -> Option<&'static str> {
        if role == Role::Broker {
            return (!self.nobody).then_some(BROKER);
        }
        let found = self.exceptions.iter().find(|it| it.role == role && (single_uid || !it.single_uid_only));
        found.map(|it| it.why)
    }
}

/// Every probe, in a fixed order; a probe's number is its place here.
pub fn probes() -> impl Iterator<Item = &'static Probe> {
    [
        files::PROBES,
        granted::PROBES,
        log::PROBES,
        sockets::PROBES,
        processes::PROBES,
        memory::PROBES,
        identity::PROBES,
        kernel::PROBES,
        entry::PROBES,
    ]
    .into_iter()
    .flatten()
}

/// [`Targets`] as the kernel wants them.
#[derive(Debug)]
pub struct World {
    targets: Targets,
    /// A connected socket of the process: its control channel.
    socket: i32,
    held: Held,
}

impl World {
    /// `socket` is the number of a connected socket that the process holds, `held` what it found of the rest before its
    /// wall.
    #[must_use]
    pub const fn new(targets: Targets, socket: i32, held: Held) -> Self {
        Self { targets, socket, held }
    }

    fn state(&self, name: &str) -> CString {
        path(&format!("{}/{name}", &*self.targets.state_dir))
    }

    fn proc_of(&self, pid: u32, name: &str) -> CString {
        path(&format!("/proc/{pid}/{name}"))
    }
}

/// A name that nothing has yet. A process id alone is no such name: ids come around, and where a wall lets a process make a
/// file but not remove it, the file of an earlier holder of the id is still there.
fn scratch() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("moltbot-probe.{}.{}", std::process::id(), since.as_nanos())
}

fn path(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// What broker's filter leaves.
const BROKER: &str = "broker's filter names only what nobody below it may do; the rest is its work, or its children's";
/// What every role does in its own memory.
const EVERYBODY: &[Exception] = &[
    except(Role::Auditd, OWN_WORK),
    except(Role::Vault, OWN_WORK),
    except(Role::Sandboxd, OWN_WORK),
    except(Role::Dialer, OWN_WORK),
    except(Role::Egress, OWN_WORK),
    except(Role::Gateway, OWN_WORK),
    except(Role::Launcher, OWN_WORK),
];
const OWN_WORK: &str = "every role's own work: that this gets through shows that the others are stopped by a rule";

const ETC_PASSWD: &CStr = c"/etc/passwd";
const NOWHERE: &CStr = c"/nonexistent/moltbot-probe";

/// The launcher's work.
const LAUNCHES: &[Exception] = &[except(
    Role::Launcher,
    "it makes sandboxes: programs, namespaces and mounts, under capabilities it does not have",
)];
/// Files where the launcher shares the operator's uid.
const LAUNCHER_FILES: &[Exception] = &[LAUNCHER_FILE];
const LAUNCHER_FILE: Exception = except_single_uid(
    Role::Launcher,
    "it must mount, so Landlock cannot rule its files; where it has the operator's uid it reaches the operator's files",
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn probes_have_names_of_their_own() {
        let names: BTreeSet<&str> = probes().map(|probe| probe.name).collect();
        assert_eq!(names.len(), probes().count());
        assert!(names.len() > 100, "{}", names.len());
    }

    #[test]
    fn excuse_for_one_uid_is_none_for_many() {
        let probe = Probe::new("x", |_| Outcome::Allowed).except(LAUNCHER_FILES);
        assert!(probe.excuse(Role::Launcher, true).is_some());
        assert_eq!(probe.excuse(Role::Launcher, false), None);
        assert_eq!(probe.excuse(Role::Vault, true), None);
    }
}
