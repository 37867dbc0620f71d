//! A role's wall and what the role holds behind it, for a process that is not that role.

use confine::policy::Policy;
use confine::startup::{StartError, raise};
use confine::walls::Opened;
use egress::dialer::Ways;
use proto::audit::Stream;
use proto::control::{Layout, Resource, RoleConfig};
use proto::ids::Role;
use proto::probe::DrillOrder;
use rustix::fs::{Mode, OFlags, open, openat};
use std::os::fd::{AsFd, OwnedFd};

/// Everything that a child needs to be confined as the role is.
#[derive(Debug)]
pub struct Copy {
    policy: Option<&'static Policy>,
    layout: Layout,
    granted: Vec<(Resource, OwnedFd)>,
    ports: Vec<u16>,
    _held: Vec<OwnedFd>,
}

impl Copy {
    /// The copy of the ordered role's wall.
    ///
    /// # Errors
    /// [`StartError`] where broker sent less than the role holds.
    pub fn of(order: &DrillOrder, descriptors: Vec<OwnedFd>) -> Result<Self, StartError> {
        let policy = match order.role {
            Role::Auditd => &auditd::policy::POLICY,
            Role::Vault => &vault::policy::POLICY,
            Role::Gateway => &gateway::policy::POLICY,
            Role::Launcher => &sandboxd::policy::LAUNCHER,
            Role::Sandboxd => &sandboxd::policy::SANDBOXD,
            Role::Egress => &egress::policy::EGRESS,
            Role::Dialer => &egress::policy::DIALER,
            // Nothing to raise: the filter that came down from the running broker is what is attacked.
            Role::Broker => return Ok(Self::inherited(order.layout)),
        };
        let sent = order.resources.iter().copied().zip(descriptors);
        let is_granted = |kind: Resource| policy.grants.iter().any(|grant| grant.resource == kind);
        let (mut granted, others): (Vec<_>, Vec<_>) = sent.partition(|(kind, _)| is_granted(*kind));
        let mut held: Vec<OwnedFd> = others.into_iter().map(|(_, fd)| fd).collect();
        if is_granted(Resource::Processes) {
            // As the role does it: nobody sends it.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            granted.push((Resource::Processes, open("/proc", flags, Mode::empty()).map_err(StartError::internal)?));
        }
        if let Some((_, logs)) = granted.iter().find(|(kind, _)| *kind == Resource::LogDir) {
            held.extend(streams(logs)?);
        }
        Ok(Self { policy: Some(policy), layout: order.layout, granted, ports: ports(&order.config), _held: held })
    }

    /// Broker's own wall, which this process has been behind since it was started.
    const fn inherited(layout: Layout) -> Self {
        Self { policy: None, layout, granted: Vec::new(), ports: Vec::new(), _held: Vec::new() }
    }

    /// Raises the wall on this process, where it is not up already.
    ///
    /// # Errors
    /// [`StartError`]; also where broker sent less than the policy grants.
    pub fn seal(&self) -> Result<(), StartError> {
        let Some(policy) = self.policy else { return Ok(()) };
        let opened: Vec<Opened<'_>> = self.granted.iter().map(|(kind, fd)| (*kind, fd.as_fd())).collect();
        raise(policy, &opened, &self.ports, self.layout).map(|_| ())
    }
}

/// The log's files, open as auditd has them.
fn streams(directory: &OwnedFd) -> Result<Vec<OwnedFd>, StartError> {
    let open = |stream: Stream, access: OFlags| {
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(directory, format!("{}.jsonl", stream.name()), flags, Mode::empty()).map_err(StartError::internal)
    };
    let both = |stream| [open(stream, OFlags::WRONLY | OFlags::APPEND), open(stream, OFlags::RDONLY)];
    Stream::ALL.into_iter().flat_map(both).collect()
}

fn ports(config: &RoleConfig) -> Vec<u16> {
    match config {
        RoleConfig::Dialer { allow, local, resolver } => Ways::read(allow, local, resolver).ports(),
        _ => Vec::new(),
    }
}
