//! `moltbot drill`: starts the program that attacks a copy of a role's wall, under that role's identity and with what it
//! holds; hands its findings on. Running roles are not touched.

use crate::children::open_program;
use crate::words::Setup;
use confine::spawn::{Spawned, spawn};
use confine::startup::StartError;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError};
use proto::control::{MAX_CONTROL, Resource};
use proto::edge::Refusal;
use proto::ids::Role;
use proto::probe::{DrillOrder, DrillReport, Targets};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a new drill's socket may stay full.
const SEND: Duration = Duration::from_millis(500);

/// The program, and what runs of it.
#[derive(Debug)]
pub struct Drills {
    program: OwnedFd,
    running: BTreeMap<Role, Drill>,
}

#[derive(Debug)]
struct Drill(Spawned, Channel);

impl Drop for Drill {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

impl Drills {
    /// Opens the program.
    ///
    /// # Errors
    /// [`StartError`] where it is missing or can be changed by others.
    pub fn open() -> Result<Self, StartError> {
        Ok(Self { program: open_program("drill")?, running: BTreeMap::new() })
    }

    /// Starts the drill of a role, in place of one that still runs.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn start(&mut self, setup: &Setup, role: Role, sibling: u32) -> Result<(), Refusal> {
        self.running.remove(&role);
        let drill = self.begin(setup, role, sibling);
        self.running.insert(role, drill.map_err(|error| Refusal::new("drill.start", &error.to_string()))?);
        Ok(())
    }

    fn begin(&self, setup: &Setup, role: Role, sibling: u32) -> Result<Drill, Box<dyn std::error::Error>> {
        let targets = Targets {
            state_dir: BoundedStr::truncated(&setup.state_dir.path().to_string_lossy()),
            docker_socket: BoundedStr::truncated(setup.config.docker_socket()),
            broker: std::process::id(),
            sibling,
            ..Targets::default()
        };
        // What the role has closed behind its walls its copy does not get either.
        let held = setup.resources(role).into_iter().filter(|(kind, _)| *kind != Resource::KeyDir);
        let (kinds, fds): (Vec<Resource>, Vec<BorrowedFd<'_>>) = held.unzip();
        let (config, resources) = (setup.role_config(role)?, BoundedVec::new(kinds)?);
        let (ours, theirs) = Channel::pair_fds()?;
        let log = std::io::stderr().as_fd().try_clone_to_owned()?;
        let process = spawn(self.program.as_fd(), "moltbot-drill", theirs.as_fd(), log, setup.identity(role))?;
        let drill = Drill(process, Channel::from_fd(ours));
        let order = DrillOrder { role, layout: setup.identities.layout(), config, resources, targets };
        drill.1.send_note(&order, MAX_CONTROL, &fds, Instant::now() + SEND)?;
        Ok(drill)
    }

    /// The next report of a role's drill, if there is one.
    ///
    /// # Errors
    /// [`Refusal`] where none runs, or it died or spoke out of turn.
    pub fn report(&mut self, role: Role) -> Result<Option<DrillReport>, Refusal> {
        let Some(drill) = self.running.get(&role) else { return Err(Refusal::new("drill.none", "no such drill runs")) };
        match drill.1.recv_note(MAX_CONTROL, 0) {
            Ok((DrillReport::Done(summary), _)) => {
                self.running.remove(&role);
                Ok(Some(DrillReport::Done(summary)))
            }
            Ok((report, _)) => Ok(Some(report)),
            Err(ChannelError::WouldBlock) => Ok(None),
            Err(error) => {
                self.running.remove(&role);
                Err(Refusal::new("drill.died", &format!("the drill of {role} ended before its time: {error}")))
            }
        }
    }
}
