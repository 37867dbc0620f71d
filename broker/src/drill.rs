//! `moltbot drill`: starts the program that attacks a copy of a role's wall, under that role's identity and with what it
//! holds; hands its findings on. Running roles are not touched.

use crate::log::{self, Lines, Priority};
use crate::words::Setup;
use confine::spawn::{Spawned, spawn};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError};
use proto::control::{MAX_CONTROL, Resource};
use proto::edge::Refusal;
use proto::ids::Role;
use proto::probe::{DrillOrder, DrillReport, Targets};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a new drill's socket may stay full.
const SEND: Duration = Duration::from_millis(500);

/// What runs of it.
#[derive(Debug, Default)]
pub struct Drills(BTreeMap<Role, Drill>);

#[derive(Debug)]
struct Drill {
    process: Spawned,
    channel: Channel,
    log: OwnedFd,
    lines: Lines,
}

impl Drill {
    fn begin(
        program: BorrowedFd<'_>,
        setup: &Setup,
        role: Role,
        sibling: u32,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let targets = Targets {
            state_dir: BoundedStr::truncated(&setup.state_dir.path().to_string_lossy()),
            docker_socket: BoundedStr::truncated(setup.config.docker_socket()),
            broker: std::process::id(),
            sibling,
            ..Targets::default()
        };
        // What the role has closed behind its walls its copy does not get either.
        let held = setup
            .resources(role)
            .into_iter()
            .filter(|(kind, _)| !matches!(kind, Resource::KeyDir | Resource::MasterKey));
        let (kinds, fds): (Vec<Resource>, Vec<BorrowedFd<'_>>) = held.unzip();
        let (config, resources) = (setup.role_config(role, &setup.config)?, BoundedVec::new(kinds)?);
        let (ours, theirs) = Channel::pair_fds()?;
        // Not broker's own: where that is a file, the limit of files behind the wall would end the drill at its first word.
        let (log, log_end) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&log, true)?;
        let process = spawn(program, "moltbot-drill", theirs.as_fd(), log_end, setup.identity(role))?;
        let drill = Self { process, channel: Channel::from_fd(ours), log, lines: Lines::default() };
        let order = DrillOrder { role, layout: setup.identities.layout(), config, resources, targets };
        drill.channel.send_note(&order, MAX_CONTROL, &fds, Instant::now() + SEND)?;
        Ok(drill)
    }
}

impl Drill {
    /// Prints what the drill has said.
    fn print(&mut self, role: Role) {
        let mut bytes = [0u8; 4_096];
        while let Ok(count @ 1..) = rustix::io::read(&self.log, &mut bytes) {
            for line in self.lines.push(bytes.get(..count).unwrap_or_default()) {
                log::line(Priority::Info, &format!("drill of {role}"), &line);
            }
        }
    }
}

impl Drop for Drill {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.process.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

impl Drills {
    /// Starts the drill of a role, in place of one that still runs.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn start(&mut self, program: BorrowedFd<'_>, setup: &Setup, role: Role, sibling: u32) -> Result<(), Refusal> {
        self.0.remove(&role);
        let drill = Drill::begin(program, setup, role, sibling);
        self.0.insert(role, drill.map_err(|error| Refusal::new("drill.start", &error.to_string()))?);
        Ok(())
    }

    /// The next report of a role's drill, if there is one.
    ///
    /// # Errors
    /// [`Refusal`] where none runs, or it died or spoke out of turn.
    pub fn report(&mut self, role: Role) -> Result<Option<DrillReport>, Refusal> {
        let Some(drill) = self.0.get_mut(&role) else { return Err(Refusal::new("drill.none", "no such drill runs")) };
        drill.print(role);
        match drill.channel.recv_note(MAX_CONTROL, 0) {
            Ok((DrillReport::Done(summary), _)) => {
                self.0.remove(&role);
                Ok(Some(DrillReport::Done(summary)))
            }
            Ok((report, _)) => Ok(Some(report)),
            Err(ChannelError::WouldBlock) => Ok(None),
            Err(error) => {
                self.0.remove(&role);
                Err(Refusal::new("drill.died", &format!("the drill of {role} ended before its time: {error}")))
            }
        }
    }
}
