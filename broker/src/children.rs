//! One child: its program, its control channel, its log, what the kernel says of it.

use crate::words::Setup;
use confine::attest::{Expected, Observed, observe};
use confine::spawn::{Identity, Spawned, spawn};
use confine::startup::StartError;
use proto::bounded::BoundedVec;
use proto::channel::{Channel, ChannelError};
use proto::control::{FromRole, MAX_CONTROL, Resource, ToRole, Walls};
use proto::ids::{Epoch, Role};
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long broker lets a child's control socket stay full before it gives the message up.
const SEND: Duration = Duration::from_millis(500);
/// Bytes of a child's log that are printed in one go; longer lines are cut.
const LOG_CHUNK: usize = 4096;
/// Reads of a child's log in one turn.
const LOG_TURNS: usize = 8;
/// Filters that broker itself installed and a child inherits.
const INHERITED_FILTERS: u32 = 2;

/// The roles' programs, opened once: what was checked is what runs.
#[derive(Debug)]
pub struct Programs(Vec<(Role, OwnedFd)>);

impl Programs {
    /// Opens the programs that lie beside broker's own.
    ///
    /// # Errors
    /// [`StartError`] where one is missing or can be changed by others.
    pub fn open() -> Result<Self, StartError> {
        let programs = crate::state::CHILDREN.into_iter().map(|role| Ok((role, open_program(role.name())?)));
        programs.collect::<Result<_, _>>().map(Self)
    }

    fn program(&self, role: Role) -> io::Result<BorrowedFd<'_>> {
        self.0
            .iter()
            .find(|(of, _)| *of == role)
            .map(|(_, fd)| fd.as_fd())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Opens the program of that name which lies beside broker's own.
///
/// # Errors
/// [`StartError`] where it is missing or can be changed by others.
pub fn open_program(name: &str) -> Result<OwnedFd, StartError> {
    let own = std::env::current_exe().map_err(StartError::permanent)?;
    let path = own.with_file_name(format!("moltbot-{name}"));
    let bad = |what: &dyn std::fmt::Display| StartError::permanent(format!("{}: {what}", path.display()));
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let program = open(&path, flags, Mode::empty()).map_err(|errno| bad(&errno))?;
    let stat = fstat(&program).map_err(|errno| bad(&errno))?;
    let me = rustix::process::getuid().as_raw();
    if stat.st_mode & 0o022 != 0 || (stat.st_uid != 0 && stat.st_uid != me) {
        return Err(bad(&"others can change it; it must be yours or root's and not writable by group or others"));
    }
    Ok(program)
}

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
    identity: Identity,
    said_hello: bool,
    /// What it says of its walls, once it has said so.
    pub walls: Option<Walls>,
    /// What the kernel said at the last look.
    pub observed: Observed,
    descriptors: u64,
}

impl Child {
    /// Starts a role.
    ///
    /// # Errors
    /// What the spawn recipe says.
    pub fn start(programs: &Programs, setup: &Setup, role: Role, epoch: Epoch) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair_fds()?;
        let (log, log_end) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&log, true)?;
        let identity = setup.identity(role);
        let process = spawn(programs.program(role)?, &format!("moltbot-{role}"), theirs.as_fd(), log_end, identity)?;
        Ok(Self {
            role,
            epoch,
            process,
            control: Channel::from_fd(ours),
            log,
            identity,
            said_hello: false,
            walls: None,
            observed: Observed::default(),
            descriptors: 0,
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
        let config = setup.role_config(self.role).map_err(|error| error.to_string())?;
        let resources = setup.resources(self.role);
        let kinds: Vec<Resource> = resources.iter().map(|(kind, _)| *kind).collect();
        let fds: Vec<BorrowedFd<'_>> = resources.iter().map(|(_, fd)| *fd).collect();
        let resources = BoundedVec::new(kinds).map_err(|error| error.to_string())?;
        self.send(&ToRole::Configure { layout: setup.identities.layout(), config, resources }, &fds)
            .map_err(|error| error.to_string())
    }

    /// Compares what the kernel says of the child with what it must be. At its first confinement the number of its
    /// descriptors is compared as well: later it holds edges and connections.
    #[must_use]
    pub fn attest(&mut self, first: bool) -> Vec<String> {
        self.observed = match observe(self.process.pid) {
            Ok(observed) => observed,
            Err(error) => return vec![format!("/proc cannot be read: {error}")],
        };
        if first {
            self.descriptors = self.observed.descriptors;
        }
        let (uid, gid) = match self.identity {
            Identity::Own { uid, gid } | Identity::Same { uid, gid } => (uid, gid),
        };
        let own = matches!(self.identity, Identity::Own { .. });
        self.observed.drift(&Expected {
            parent: std::process::id(),
            uid,
            gid,
            no_groups: own,
            empty_bounding: own,
            filters: INHERITED_FILTERS + 2,
            descriptors: first.then(|| expected_descriptors(self.role)),
        })
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

    /// Prints what the child has logged, one line at a time, its control characters made harmless.
    pub fn drain_log(&self) {
        let mut bytes = [0u8; LOG_CHUNK];
        // A child that floods its log gets its turns like everybody, and fills its own pipe.
        for _ in 0..LOG_TURNS {
            let Ok(count @ 1..) = rustix::io::read(&self.log, &mut bytes) else { return };
            let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
            for line in text.lines() {
                let clean: String = line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
                eprintln!("{}[{}]: {clean}", self.role, self.process.pid);
            }
        }
    }
}

/// Descriptors of a role that has just raised its walls: 0 to 3, and what it holds by then.
const fn expected_descriptors(role: Role) -> u64 {
    4 + match role {
        // Of each of the four streams the lines and the checkpoints, for appending and for reading; the signing key; the
        // directory of them all.
        Role::Auditd => 18,
        // The directory of the store, twice while its grant is made; the key is read and closed.
        Role::Vault => 2,
        // The listener, and the directory of sessions twice while its grant is made.
        Role::Gateway => 3,
        // The directory of workspaces, and what sandboxes read as their input.
        Role::Launcher => 2,
        Role::Sandboxd | Role::Dialer | Role::Egress | Role::Broker => 0,
    }
}
