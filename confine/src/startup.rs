//! A role's first steps, in the only order there is: not dumpable, Hello, Configure, open everything, walls, Confined.
//! What comes after gets a [`Sealed`], and what reads untrusted input asks for one.

#[cfg(feature = "probes")]
mod probed;

use crate::policy::Policy;
use crate::seccomp::Filters;
use crate::walls::{self, Opened};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError};
use proto::control::{FromRole, Layout, MAX_CONTROL, MAX_CONTROL_FDS, Resource, RoleConfig, ToRole, Walls};
use proto::exit::Exit;
use proto::ids::Role;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Descriptor of the control channel in every role.
pub const CONTROL_FD: i32 = 3;
/// True once the control channel has its one owner.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// How long broker may take for its word, and a role for its own.
const STEP: Duration = Duration::from_secs(10);

/// Why a role did not come to serve.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct StartError {
    exit: Exit,
    what: String,
}

impl StartError {
    /// Starting again would not help: configuration, or a wall that cannot be raised.
    pub fn permanent(what: impl Display) -> Self {
        Self { exit: Exit::Config, what: what.to_string() }
    }

    /// A log is not what it was.
    pub fn integrity(what: impl Display) -> Self {
        Self::ends(Exit::Integrity, what)
    }

    /// With a status that says more.
    pub fn ends(exit: Exit, what: impl Display) -> Self {
        Self { exit, what: what.to_string() }
    }

    /// Anything else.
    pub fn internal(what: impl Display) -> Self {
        Self { exit: Exit::Internal, what: what.to_string() }
    }

    fn broker_gone() -> Self {
        Self { exit: Exit::BrokerGone, what: "broker is gone".to_owned() }
    }
}

/// Proof that the walls are up. Only [`Start::seal`] makes one.
#[derive(Debug)]
pub struct Sealed(());

/// The control channel, synchronous.
#[derive(Debug)]
pub struct Control(Channel);

impl Control {
    /// Next word of broker, if there is one now.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`]; [`ChannelError::Closed`] where the set is going down.
    pub fn recv(&self) -> Result<(ToRole, Vec<OwnedFd>), ChannelError> {
        self.0.recv_note(MAX_CONTROL, MAX_CONTROL_FDS)
    }

    /// Next word of broker, waited for.
    ///
    /// # Errors
    /// As [`Control::recv`], and [`ChannelError::Deadline`].
    pub fn recv_by(&self, deadline: Instant) -> Result<(ToRole, Vec<OwnedFd>), ChannelError> {
        Channel::decode_note(self.0.recv_by(MAX_CONTROL, MAX_CONTROL_FDS, deadline)?, MAX_CONTROL)
    }

    /// Says something to broker.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn send(&self, message: &FromRole) -> Result<(), ChannelError> {
        self.0.send_note(message, MAX_CONTROL, &[], Instant::now() + STEP)
    }

    /// Gives the channel up, for a runtime.
    #[must_use]
    pub fn into_channel(self) -> Channel {
        self.0
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A role between its first instruction and its walls.
#[derive(Debug)]
pub struct Start {
    role: Role,
    control: Control,
    layout: Layout,
    config: RoleConfig,
    resources: Vec<(Resource, OwnedFd)>,
    lacks: Vec<String>,
}

impl Start {
    fn begin(role: Role) -> Result<Self, StartError> {
        crate::privileges::forbid_dumps().map_err(StartError::permanent)?;
        crate::privileges::set_name(role.name());
        let control = Control(take_control()?);
        let gone = |error: ChannelError| match error {
            ChannelError::Closed => StartError::broker_gone(),
            other => StartError::internal(format!("control channel: {other}")),
        };
        control.send(&FromRole::Hello { role, schema: proto::SCHEMA_HASH }).map_err(gone)?;
        match control.recv_by(Instant::now() + STEP).map_err(gone)? {
            (ToRole::Configure { layout, config, resources }, fds) if resources.len() == fds.len() => {
                let resources = resources.iter().copied().zip(fds).collect();
                Ok(Self { role, control, layout, config, resources, lacks: Vec::new() })
            }
            _ => Err(StartError::permanent("broker's first word is not a configuration")),
        }
    }

    /// What broker wants.
    #[must_use]
    pub const fn config(&self) -> &RoleConfig {
        &self.config
    }

    /// The error for a configuration that is another role's.
    #[must_use]
    pub fn wrong_config(&self) -> StartError {
        StartError::permanent(format!("the configuration is not one for {}", self.role))
    }

    /// Takes a descriptor that came with the configuration.
    ///
    /// # Errors
    /// [`StartError`] where broker sent none of that kind.
    pub fn take(&mut self, resource: Resource) -> Result<OwnedFd, StartError> {
        self.take_where_sent(resource).ok_or_else(|| StartError::permanent(format!("broker sent no {resource:?}")))
    }

    /// Takes a descriptor that broker sends where it has one.
    #[must_use]
    pub fn take_where_sent(&mut self, resource: Resource) -> Option<OwnedFd> {
        let at = self.resources.iter().position(|(kind, _)| *kind == resource)?;
        Some(self.resources.swap_remove(at).1)
    }

    /// Has `status` say that something is weaker than designed, and why.
    pub fn weaker(&mut self, lack: &str) {
        self.lacks.push(lack.to_owned());
    }

    /// Raises the walls and tells broker. Everything the role will ever open must be open by now, or lie in a directory
    /// that the policy grants; `opened` holds those directories.
    ///
    /// # Errors
    /// [`StartError`], exit 78: what cannot be confined does not start.
    pub fn seal(self, policy: &'static Policy, opened: &[Opened<'_>]) -> Result<(Sealed, Control), StartError> {
        self.seal_with_ports(policy, opened, &[])
    }

    /// As [`Start::seal`], with TCP ports that may be connected to.
    ///
    /// # Errors
    /// As [`Start::seal`].
    pub fn seal_with_ports(
        self,
        policy: &'static Policy,
        opened: &[Opened<'_>],
        ports: &[u16],
    ) -> Result<(Sealed, Control), StartError> {
        #[cfg(not(feature = "probes"))]
        let (landlock_abi, lacks, seccomp_rules) = raise(policy, opened, ports, self.layout)?;
        #[cfg(feature = "probes")]
        let held = crate::probe::Held::look(policy.role);
        #[cfg(feature = "probes")]
        let (landlock_abi, lacks, seccomp_rules) = probed::raise(&self.control, policy, opened, ports, self.layout)?;
        let own = self.lacks.iter().map(String::as_str);
        let degraded = lacks.iter().copied().chain(own).map(BoundedStr::truncated).collect();
        let walls = Walls { landlock_abi, seccomp_rules, degraded: BoundedVec::new(degraded).unwrap_or_default() };
        // Resources that nobody took are closed here, before anybody hostile speaks.
        drop(self.resources);
        let failed = |error: ChannelError| match error {
            ChannelError::Closed => StartError::broker_gone(),
            other => StartError::internal(format!("control channel: {other}")),
        };
        self.control.send(&FromRole::Confined(walls)).map_err(failed)?;
        #[cfg(feature = "probes")]
        return Err(failed(probed::answer(&self.control, held)));
        #[cfg(not(feature = "probes"))]
        match self.control.recv_by(Instant::now() + STEP).map_err(failed)? {
            (ToRole::Attested, fds) if fds.is_empty() => Ok((Sealed(()), self.control)),
            _ => Err(StartError::internal("broker's word after the walls is not that they were seen")),
        }
    }
}

/// Both layers, in this order: the filter allows no Landlock calls. Returns the ABI, what it lacks, and the rules. A role
/// does this by [`Start::seal`]; by itself it is for the drill, which attacks a copy of the wall.
///
/// # Errors
/// [`StartError`]; the process may have half a wall then and must end.
pub fn raise(
    policy: &'static Policy,
    opened: &[Opened<'_>],
    ports: &[u16],
    layout: Layout,
) -> Result<(u8, Vec<&'static str>, u16), StartError> {
    let (abi, lacks) = walls::raise(policy, opened, ports, layout)?;
    Ok((abi, lacks, Filters::of(policy)?.install()?))
}

/// Raises broker's own wall. It has no Landlock domain: children inherit one, and the launcher must be able to mount.
///
/// # Errors
/// [`StartError`], exit 78.
pub fn seal_broker(policy: &'static Policy) -> Result<Sealed, StartError> {
    crate::privileges::forbid_dumps().map_err(StartError::permanent)?;
    walls::limit(policy)?;
    Filters::of(policy)?.install().map(|_| Sealed(()))
}

/// The control channel that broker put at [`CONTROL_FD`]. Once only.
///
/// # Errors
/// [`StartError`] where this was started by hand.
pub fn take_control() -> Result<Channel, StartError> {
    let by_hand = || StartError::permanent("this is a part of moltbot that broker starts; run `moltbot up`");
    // SAFETY: borrowed for one getsockopt, which fails cleanly with EBADF where nothing is open at this number.
    let probe = unsafe { BorrowedFd::borrow_raw(CONTROL_FD) };
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(StartError::internal("the control channel is taken"));
    }
    match rustix::net::sockopt::socket_type(probe) {
        Ok(rustix::net::SocketType::SEQPACKET) => {}
        _ => return Err(by_hand()),
    }
    // SAFETY: the descriptor is open (just asked), was put there by broker's spawn recipe for this one purpose, and
    // nothing else in a role's process takes it.
    Ok(Channel::from_fd(unsafe { OwnedFd::from_raw_fd(CONTROL_FD) }))
}

/// Runs a role: `start` gets what broker sent and returns when the role is done.
pub fn run(role: Role, start: fn(Start) -> Result<Exit, StartError>) -> ExitCode {
    let exit = match Start::begin(role).and_then(start) {
        Ok(exit) => exit,
        Err(error) => {
            if !matches!(error.exit, Exit::BrokerGone) {
                eprintln!("{role}: {error}");
            }
            error.exit
        }
    };
    ExitCode::from(u8::try_from(exit.code()).unwrap_or(u8::MAX))
}
