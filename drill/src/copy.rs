//! A role's wall and what the role holds behind it, for a process that is not that role.

use confine::policy::{Access, Grant, Policy};
use confine::startup::{Sealed, StartError, seal_copy};
use egress::allowlist::Allowlist;
use proto::audit::Stream;
use proto::control::{Resource, RoleConfig};
use proto::ids::Role;
use proto::probe::DrillOrder;
use rustix::fs::{Mode, OFlags, openat};
use std::os::fd::{AsFd, OwnedFd};

/// Everything that a child needs to be confined as the role is.
#[derive(Debug)]
pub struct Copy {
    policy: &'static Policy,
    granted: Option<(OwnedFd, Access)>,
    ports: Vec<u16>,
    _held: Vec<OwnedFd>,
}

impl Copy {
    /// The copy of the ordered role's wall.
    ///
    /// # Errors
    /// [`StartError`] where broker sent less than the role holds, or ordered what has no such wall.
    pub fn of(order: &DrillOrder, descriptors: Vec<OwnedFd>) -> Result<Self, StartError> {
        let mut held: Vec<(Resource, OwnedFd)> = order.resources.iter().copied().zip(descriptors).collect();
        let mut take = |wanted: Resource| {
            let at = held.iter().position(|(kind, _)| *kind == wanted);
            let found = at.map(|at| held.swap_remove(at).1);
            found.ok_or_else(|| StartError::internal(format!("broker sent no {wanted:?}")))
        };
        let plain = |policy| Self { policy, granted: None, ports: Vec::new(), _held: Vec::new() };
        Ok(match order.role {
            Role::Auditd => Self { _held: streams(&take(Resource::LogDir)?)?, ..plain(&auditd::policy::POLICY) },
            Role::Vault => {
                Self { granted: Some((take(Resource::VaultDir)?, Access::ReadWrite)), ..plain(&vault::policy::POLICY) }
            }
            Role::Gateway => {
                Self { granted: Some((take(Resource::SessionDir)?, Access::Append)), ..plain(&gateway::policy::POLICY) }
            }
            Role::Launcher => Self { _held: vec![take(Resource::WorkspaceDir)?], ..plain(&sandboxd::policy::LAUNCHER) },
            Role::Sandboxd => plain(&sandboxd::policy::SANDBOXD),
            Role::Egress => plain(&egress::policy::EGRESS),
            Role::Dialer => Self { ports: ports(&order.config), ..plain(&egress::policy::DIALER) },
            Role::Broker => return Err(StartError::internal("broker's wall is the others' floor and is not drilled")),
        })
    }

    /// Raises the wall on this process.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn seal(&self) -> Result<Sealed, StartError> {
        let grant = |(dir, access)| Grant { dir, access, why: "as the role has it" };
        let granted = self.granted.as_ref().map(|(dir, access)| (dir.as_fd(), *access));
        let grants: Vec<Grant<'_>> = granted.map(grant).into_iter().collect();
        seal_copy(self.policy, &grants, &self.ports)
    }
}

/// The log's files, open as auditd has them.
fn streams(directory: &OwnedFd) -> Result<Vec<OwnedFd>, StartError> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = |stream: Stream| openat(directory, format!("{}.jsonl", stream.name()), flags, Mode::empty());
    Stream::ALL.into_iter().map(|stream| open(stream).map_err(StartError::internal)).collect()
}

fn ports(config: &RoleConfig) -> Vec<u16> {
    match config {
        RoleConfig::Dialer { allow } => {
            Allowlist::new(allow.iter().map(|entry| entry.to_string()).collect(), "").ports()
        }
        _ => Vec::new(),
    }
}
