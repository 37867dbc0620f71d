//! One child: its program, its control channel, its log, what the kernel says of it.

use crate::log::{self, Lines, Priority};
use crate::words::Setup;
use confine::attest::{Expected, Observed, observe};
use confine::spawn::{Identity, Spawned, spawn};
use proto::bounded::BoundedVec;
use proto::channel::{Channel, ChannelError};
use proto::control::{FromRole, MAX_CONTROL, Resource, ToRole, Walls};
use proto::ids::{Epoch, Role};
use proto::topology::TOPOLOGY;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long broker lets a child's control socket stay full before it gives the message up.
const SEND: Duration = Duration::from_millis(500);
/// Bytes of a child's log that are read in one go.
const LOG_CHUNK: usize = 4096;
/// Reads of a child's log in one turn.
const LOG_TURNS: usize = 8;
/// Filters that broker itself installed and a child inherits.
const INHERITED_FILTERS: u32 = 2;

/// A running child.
#[derive(Debug)]
pub struct Child {
    /// Its role.
    pub role: Role,
    /// Its generation.
    pub epoch: Epoch,
    /// Its process.
    pub process: Spawned,
    control: Channel,
    log: OwnedFd,
    lines: Lines,
    identity: Identity,
    said_hello: bool,
    /// What it says of its walls, once it has said so.
    pub walls: Option<Walls>,
    /// What the kernel said at the last look.
    pub observed: Observed,
    /// When that was, and all was as it must be.
    pub attested: Option<Instant>,
}

impl Child {
    /// Starts a role.
    ///
    /// # Errors
    /// What the spawn recipe says.
    pub fn start(program: BorrowedFd<'_>, setup: &Setup, role: Role, epoch: Epoch) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair_fds()?;
        let (log, log_end) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&log, true)?;
        let identity = setup.identity(role);
        let process = spawn(program, &format!("moltbot-{role}"), theirs.as_fd(), log_end, identity)?;
        Ok(Self {
            role,
            epoch,
            process,
            control: Channel::from_fd(ours),
            log,
            lines: Lines::default(),
            identity,
            said_hello: false,
            walls: None,
            observed: Observed::default(),
            attested: None,
        })
    }

    /// The control channel, for poll.
    #[must_use]
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// The log pipe, for poll.
    #[must_use]
    pub fn log(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// Next word of the child.
    ///
    /// # Errors
    /// [`ChannelError`]; a violation condemns the child.
    pub fn recv(&self) -> Result<FromRole, ChannelError> {
        self.control.recv_note(MAX_CONTROL, 0).map(|(word, _)| word)
    }

    /// Says something to the child.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn send(&self, message: &ToRole, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.control.send_note(message, MAX_CONTROL, fds, Instant::now() + SEND)
    }

    /// Answers the child's first word with its configuration.
    ///
    /// # Errors
    /// A text for the log: the child is condemned then.
    pub fn on_hello(&mut self, setup: &Setup, role: Role, schema: [u8; 32]) -> Result<(), String> {
        if self.said_hello || role != self.role || schema != proto::SCHEMA_HASH {
            return Err("its first word is not that of this build's role".to_owned());
        }
        self.said_hello = true;
        let config = setup.role_config(self.role, &setup.config).map_err(|error| error.to_string())?;
        let resources = setup.resources(self.role);
        let kinds: Vec<Resource> = resources.iter().map(|(kind, _)| *kind).collect();
        let fds: Vec<BorrowedFd<'_>> = resources.iter().map(|(_, fd)| *fd).collect();
        let resources = BoundedVec::new(kinds).map_err(|error| error.to_string())?;
        self.send(&ToRole::Configure { layout: setup.identities.layout(), config, resources }, &fds)
            .map_err(|error| error.to_string())
    }

    /// Compares what the kernel says of the child with what it must be. At its first confinement the number of its
    /// descriptors is exact; later it holds edges and connections as well.
    #[must_use]
    pub fn attest(&mut self, first: bool) -> Vec<String> {
        self.observed = match observe(self.process.pid) {
            Ok(observed) => observed,
            Err(error) => return vec![format!("/proc cannot be read: {error}")],
        };
        let (uid, gid) = match self.identity {
            Identity::Own { uid, gid } | Identity::Same { uid, gid } => (uid, gid),
        };
        let own = matches!(self.identity, Identity::Own { .. });
        let groups = rustix::process::getgroups().unwrap_or_default();
        let at_start = descriptors_at_start(self.role);
        let least = at_start.saturating_sub(u64::from(matches!(self.role, Role::Launcher | Role::Sandboxd)));
        let drift = self.observed.drift(&Expected {
            name: format!("moltbot-{}", self.role),
            parent: std::process::id(),
            uid,
            gid,
            groups: if own { Vec::new() } else { groups.into_iter().map(rustix::fs::Gid::as_raw).collect() },
            empty_bounding: own,
            filters: INHERITED_FILTERS + 2,
            childless: self.role != Role::Launcher,
            descriptors: if first { least..=at_start } else { 1..=most_descriptors(self.role) },
        });
        if drift.is_empty() {
            self.attested = Some(Instant::now());
        }
        drift
    }

    /// What the child says is weaker than designed, and what broker sees itself.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        let mut lacks: Vec<String> =
            self.walls.iter().flat_map(|walls| walls.degraded.iter().map(|lack| lack.to_string())).collect();
        let [.., bounding, _] = self.observed.capabilities;
        if self.walls.is_some() && bounding != 0 {
            lacks.push("the bounding set could not be emptied: user namespaces are forbidden here".to_owned());
        }
        lacks
    }

    /// Ends the child at once.
    pub fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.process.pidfd, rustix::process::Signal::KILL);
    }

    /// Prints what the child has logged.
    pub fn drain_log(&mut self) {
        let mut bytes = [0u8; LOG_CHUNK];
        // A child that floods its log gets its turns like everybody, and fills its own pipe.
        for _ in 0..LOG_TURNS {
            let Ok(count @ 1..) = rustix::io::read(&self.log, &mut bytes) else { return };
            let whole = self.lines.push(bytes.get(..count).unwrap_or_default());
            whole.iter().for_each(|line| self.print(line));
        }
    }

    /// Prints the rest of what it has logged: it is dead.
    pub fn end_log(&mut self) {
        self.drain_log();
        if let Some(rest) = self.lines.rest() {
            self.print(&rest);
        }
    }

    fn print(&self, line: &str) {
        log::line(Priority::Info, &format!("{}[{}]", self.role, self.process.pid), line);
    }
}

/// Descriptors of a role that has just raised its walls: 0 to 3, and what it holds by then.
const fn descriptors_at_start(role: Role) -> u64 {
    4 + match role {
        // Of each of the four streams the lines and the checkpoints, for appending and for reading, and four levels of
        // tiles, for appending; the signing key; the directory of them all.
        Role::Auditd => 34,
        // The directory of the store, twice while its grant is made; the key is read and closed.
        Role::Vault => 2,
        // The listener, and the directory of sessions twice while its grant is made.
        Role::Gateway => 3,
        // The directory of workspaces, what sandboxes read as their input, and the runner where it is installed.
        Role::Launcher => 3,
        // /proc, and the process connector where the kernel has one for it.
        Role::Sandboxd => 2,
        Role::Dialer | Role::Egress | Role::Broker => 0,
    }
}

/// Descriptors that a role may ever have. Where what it serves decides, its own limit does.
fn most_descriptors(role: Role) -> u64 {
    let edges = TOPOLOGY.iter().filter(|wire| wire.client == role || wire.server == role).count();
    let fixed = descriptors_at_start(role).saturating_add(u64::try_from(edges).unwrap_or(u64::MAX));
    match role {
        // Files that it reads or begins while it serves, and ends of edges that are about to be replaced.
        Role::Auditd | Role::Vault => fixed.saturating_add(12),
        // A connection each for 32 requests, twice while it is handed over.
        Role::Egress | Role::Dialer => fixed.saturating_add(72),
        Role::Gateway | Role::Sandboxd | Role::Launcher | Role::Broker => 1_024,
    }
}
