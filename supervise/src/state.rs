//! Supervision as a pure table: what happened goes in, what to do comes out. No clock, no I/O; time is a number of
//! milliseconds that the caller read. One role's death restarts that role alone, under a new epoch, after a backoff; too
//! many deaths, or one that a restart cannot mend, stop the set. A death that looks like an attack raises an alarm instead,
//! and the role is held until the reaction to it is over.

use proto::exit::Exit;
use proto::ids::{Epoch, Role};
use proto::operator::RoleState;
use proto::topology::{EdgeId, TOPOLOGY};
use rustix::process::Signal;

/// Roles that broker starts, in start order.
pub const CHILDREN: [Role; 7] =
    [Role::Auditd, Role::Vault, Role::Sandboxd, Role::Dialer, Role::Egress, Role::Gateway, Role::Launcher];
/// The order of an orderly stop: what takes work first, the log last.
const STOP_ORDER: [Role; 7] =
    [Role::Gateway, Role::Sandboxd, Role::Launcher, Role::Egress, Role::Dialer, Role::Vault, Role::Auditd];

/// Signals by which something that is attacked dies: a filter hit, and memory faults.
const SUSPICIOUS: [Signal; 4] = [Signal::SYS, Signal::SEGV, Signal::BUS, Signal::ILL];

const BACKOFF_FIRST_MS: u64 = 200;
const BACKOFF_MAX_MS: u64 = 30_000;
/// A role that is not ready by then is killed.
const START_DEADLINE_MS: u64 = 10_000;
/// A ready role that answered no ping for so long is killed.
const HUNG_AFTER_MS: u64 = 10_000;
const PING_EVERY_MS: u64 = 2_000;
/// How long a role may take to drain, and then to stop.
const STOP_STEP_MS: u64 = 5_000;
/// Nothing goes on without the log: where it is away for so long, its restarts do not mend it.
const AUDITD_AWAY_MS: u64 = 60_000;
/// (deaths, within): reaching one of them stops the set. A death before Ready counts double.
const INTENSITY: [(u32, u64); 2] = [(3, 30_000), (10, 600_000)];

/// How a role's process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Death {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

impl Death {
    /// True for deaths that look like an attack: a filter hit, a memory fault in safe code, a broken protocol.
    #[must_use]
    pub fn is_suspicious(self) -> bool {
        match self {
            Self::Signalled(signal) => SUSPICIOUS.iter().any(|suspicious| suspicious.as_raw() == signal),
            Self::Exited(code) => code == Exit::Violation.code(),
        }
    }
}

/// Why a role is under suspicion.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    /// It died as something that is attacked dies.
    Death(Death),
    /// It broke the protocol.
    Violation,
    /// Its walls were not what they must be when it had raised them.
    Unattested,
    /// The kernel says that it is not what it was: a wall did not hold.
    Drift,
    /// It says that the containment of one of its sandboxes is in doubt.
    Breach,
    /// It says that one of its sandboxes was left.
    Escape,
    /// The operator says so.
    Operator,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The set shall run.
    Begin,
    /// The role's walls are up and the kernel agrees.
    Attested(Role, Epoch),
    /// The role serves.
    Ready(Role, Epoch),
    /// The role answered a ping.
    Pong(Role, Epoch),
    /// The role's process is gone.
    Died(Role, Epoch, Death),
    /// The role could not be spawned.
    SpawnFailed(Role, Epoch),
    /// Attestation failed, or the role was caught breaking the protocol: it must not run on.
    Condemned(Role, Epoch, Cause),
    /// The reaction to its alarm is over: the role may start again.
    Revive(Role),

    /// sandboxd wants the native backend.
    LauncherWanted,
    /// The role has drained.
    Drained(Role, Epoch),
    /// The operator wants a role restarted.
    Restart(Role),
    /// The operator, or a signal, wants the set down.
    Stop,
    /// Nothing; look at the clock.
    Tick,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Start the role under this epoch.
    Spawn(Role, Epoch),
    /// Make a pair for the edge and give each end away.
    Wire(EdgeId),
    /// Ask the role whether it lives.
    Ping(Role),
    /// Ask the role to take no new work.
    Drain(Role),
    /// Ask the role to end.
    StopRole(Role),
    /// SIGKILL.
    Kill(Role),
    /// React to what looks like an attack on the role, or by it.
    Alarm(Role, Epoch, Cause),
    /// Everything is down; exit with this status.
    Exit(i32),
}

#[derive(Clone, Debug)]
struct Entry {
    role: Role,
    state: RoleState,
    epoch: Epoch,
    /// When the current state must have ended, or the backoff ends.
    due: u64,
    /// Since when it is ready.
    since: u64,
    pinged: u64,
    answered: u64,
    attempts: u32,
    restarts: u32,
    deaths: Vec<(u64, u32)>,
    /// The operator asked for this end: no death to count.
    wanted_end: bool,
    /// An alarm was raised about this process: it is held when it is dead.
    alarmed: bool,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Supervisor {
    roles: Vec<Entry>,
    wired: Vec<(EdgeId, Epoch, Epoch)>,
    /// sandboxd has no Docker and asked for the launcher.
    launcher_wanted: bool,
    /// When auditd last served.
    logged: u64,
    /// Position in [`STOP_ORDER`] while stopping, and the status to exit with.
    stopping: Option<(usize, i32)>,
    exited: bool,
}

impl Default for Supervisor {
    fn default() -> Self {
        let entry = |role| Entry {
            role,
            state: RoleState::Idle,
            epoch: Epoch(0),
            due: 0,
            since: 0,
            pinged: 0,
            answered: 0,
            attempts: 0,
            restarts: 0,
            deaths: Vec::new(),
            wanted_end: false,
            alarmed: false,
        };
        let roles = CHILDREN.into_iter().map(entry).collect();
        Self { roles, wired: Vec::new(), launcher_wanted: false, logged: 0, stopping: None, exited: false }
    }
}

/// Milliseconds to wait before restart number `attempt` (from 0): 0.2 s doubled each time up to 30 s, 20 % to either side.
/// `jitter` is any number; its low bits choose.
#[must_use]
pub fn backoff(attempt: u32, jitter: u64) -> u64 {
    let base =
        BACKOFF_FIRST_MS.saturating_mul(1u64.checked_shl(attempt.min(20)).unwrap_or(u64::MAX)).min(BACKOFF_MAX_MS);
    let spread = base / 5;
    (base - spread).saturating_add(jitter % (spread * 2 + 1))
}

impl Supervisor {
    fn entry(&self, role: Role) -> Option<&Entry> {
        self.roles.iter().find(|entry| entry.role == role)
    }

    fn entry_mut(&mut self, role: Role) -> Option<&mut Entry> {
        self.roles.iter_mut().find(|entry| entry.role == role)
    }

    /// Where the role stands. Broker, whose table this is, always serves.
    #[must_use]
    pub fn state(&self, role: Role) -> RoleState {
        self.entry(role).map_or(RoleState::Ready, |entry| entry.state)
    }

    /// The role's generation, restarts so far, and since when it is ready (meaningful while it is).
    #[must_use]
    pub fn facts(&self, role: Role) -> (Epoch, u32, u64) {
        self.entry(role).map_or((Epoch(1), 0, 0), |entry| (entry.epoch, entry.restarts, entry.since))
    }

    /// True while every role that is wanted serves.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stopping.is_none()
            && self.roles.iter().all(|entry| entry.state == RoleState::Ready || entry.role == Role::Launcher)
            && self.state(Role::Gateway) == RoleState::Ready
    }

    /// True while no role that serves has been silent for as long as gets it killed.
    #[must_use]
    pub fn is_answering(&self, now: u64) -> bool {
        let answers =
            |entry: &Entry| entry.state != RoleState::Ready || now.saturating_sub(entry.answered) < HUNG_AFTER_MS;
        self.roles.iter().all(answers)
    }

    /// True once an orderly stop has begun.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// When the table next wants a [`Event::Tick`].
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        let due = |entry: &Entry| match entry.state {
            RoleState::Idle | RoleState::Held | RoleState::Failed => None,
            RoleState::Ready => Some(entry.pinged.saturating_add(PING_EVERY_MS)),
            RoleState::Starting | RoleState::Confined | RoleState::Stopping | RoleState::Backoff => Some(entry.due),
        };
        self.roles.iter().filter_map(due).min()
    }

    /// True where the end of this role was asked for.
    #[must_use]
    pub fn is_wanted_end(&self, role: Role) -> bool {
        self.stopping.is_some() || self.entry(role).is_some_and(|entry| entry.wanted_end)
    }

    /// Takes one event at time `now`. `jitter` is any number.
    pub fn on(&mut self, now: u64, jitter: u64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.exited {
            return actions;
        }
        match event {
            Event::Begin => {
                self.logged = now;
                for role in CHILDREN.into_iter().filter(|role| *role != Role::Launcher) {
                    self.spawn(now, role, &mut actions);
                }
            }
            Event::LauncherWanted => self.launcher_wanted = true,
            Event::Attested(role, epoch) => {
                self.advance(role, epoch, RoleState::Starting, |entry| entry.state = RoleState::Confined)
            }
            Event::Ready(role, epoch) => self.advance(role, epoch, RoleState::Confined, |entry| {
                entry.state = RoleState::Ready;
                (entry.since, entry.pinged, entry.answered) = (now, now, now);
            }),
            Event::Pong(role, epoch) => self.advance(role, epoch, RoleState::Ready, |entry| {
                entry.answered = now;
                // It held for a while: earlier restarts no longer lengthen the next backoff.
                if now.saturating_sub(entry.since) > BACKOFF_MAX_MS {
                    entry.attempts = 0;
                }
            }),
            Event::Drained(role, epoch) => self.advance(role, epoch, RoleState::Stopping, |entry| {
                entry.due = now.saturating_add(STOP_STEP_MS);
                actions.push(Action::StopRole(role));
            }),
            Event::Condemned(role, epoch, cause) => {
                let is_it = |entry: &&mut Entry| entry.epoch == epoch && is_alive(entry.state) && !entry.alarmed;
                if let Some(entry) = self.entry_mut(role).filter(is_it) {
                    entry.alarmed = true;
                    actions.extend([Action::Kill(role), Action::Alarm(role, epoch, cause)]);
                }
            }
            Event::Revive(role) => match self.state(role) {
                RoleState::Held if self.stopping.is_none() => self.spawn(now, role, &mut actions),
                // Its death is on its way: it is one like any other now.
                _ => self.entry_mut(role).into_iter().for_each(|entry| entry.alarmed = false),
            },
            Event::Restart(role) => self.end_role(now, role, true, &mut actions),
            Event::Died(role, epoch, death) => self.on_death(now, jitter, role, epoch, death, &mut actions),
            Event::SpawnFailed(role, epoch) => {
                self.on_death(now, jitter, role, epoch, Death::Exited(Exit::Resource.code()), &mut actions)
            }
            Event::Stop => self.stop_set(now, Exit::Ok.code(), &mut actions),
            Event::Tick => {}
        }
        self.on_clock(now, &mut actions);
        self.start_launcher(now, &mut actions);
        self.wire(&mut actions);
        self.go_on_stopping(now, &mut actions);
        actions
    }

    fn advance(&mut self, role: Role, epoch: Epoch, from: RoleState, change: impl FnOnce(&mut Entry)) {
        // A word of an earlier epoch, or out of order, changes nothing.
        if let Some(entry) = self.entry_mut(role).filter(|entry| entry.epoch == epoch && entry.state == from) {
            change(entry);
        }
    }

    fn spawn(&mut self, now: u64, role: Role, actions: &mut Vec<Action>) {
        if let Some(entry) = self.entry_mut(role) {
            entry.epoch = entry.epoch.next();
            entry.state = RoleState::Starting;
            entry.due = now.saturating_add(START_DEADLINE_MS);
            (entry.wanted_end, entry.alarmed) = (false, false);
            actions.push(Action::Spawn(role, entry.epoch));
        }
    }

    /// Nobody who waits for a start waits for the launcher, so it comes after those whom they wait for.
    fn start_launcher(&mut self, now: u64, actions: &mut Vec<Action>) {
        if self.launcher_wanted && self.is_ready() && self.state(Role::Launcher) == RoleState::Idle {
            self.spawn(now, Role::Launcher, actions);
        }
    }

    fn end_role(&mut self, now: u64, role: Role, wanted: bool, actions: &mut Vec<Action>) {
        let Some(entry) =
            self.entry_mut(role).filter(|entry| is_alive(entry.state) && entry.state != RoleState::Stopping)
        else {
            return;
        };
        let served = entry.state == RoleState::Ready;
        entry.wanted_end = wanted;
        entry.state = RoleState::Stopping;
        entry.due = now.saturating_add(STOP_STEP_MS);
        actions.push(match (served, role) {
            (false, _) => Action::Kill(role),
            (true, Role::Gateway | Role::Sandboxd) => Action::Drain(role),
            (true, _) => Action::StopRole(role),
        });
    }

    fn on_death(&mut self, now: u64, jitter: u64, role: Role, epoch: Epoch, death: Death, actions: &mut Vec<Action>) {
        let stopping = self.stopping.is_some();
        self.wired.retain(|(edge, ..)| edge.wire().is_some_and(|wire| wire.client != role && wire.server != role));
        let Some(entry) = self.entry_mut(role).filter(|entry| entry.epoch == epoch && is_alive(entry.state)) else {
            return;
        };
        let was_ready = matches!(entry.state, RoleState::Ready | RoleState::Stopping);
        if stopping {
            entry.state = RoleState::Idle;
            return;
        }
        entry.restarts = entry.restarts.saturating_add(1);
        let alarming = death.is_suspicious();
        if alarming && !entry.alarmed {
            entry.alarmed = true;
            actions.push(Action::Alarm(role, epoch, Cause::Death(death)));
        }
        if entry.wanted_end && !entry.alarmed {
            entry.state = RoleState::Backoff;
            entry.due = now;
            return;
        }
        let permanent = matches!(death, Death::Exited(code) if Exit::is_permanent(code));
        entry.deaths.push((now, if was_ready && !entry.alarmed { 1 } else { 2 }));
        entry.deaths.retain(|(at, _)| now.saturating_sub(*at) <= 600_000);
        let too_many = INTENSITY.iter().any(|(deaths, within)| {
            let weight: u32 = entry
                .deaths
                .iter()
                .filter(|(at, _)| now.saturating_sub(*at) <= *within)
                .map(|(_, weight)| *weight)
                .sum();
            weight >= *deaths
        });
        if permanent || too_many {
            entry.state = RoleState::Failed;
            // Without the launcher there are no native sandboxes, and exec is refused; the rest can go on.
            if role != Role::Launcher {
                let code = match death {
                    Death::Exited(code) if permanent => code,
                    _ => Exit::Internal.code(),
                };
                self.stop_set(now, code, actions);
            }
            return;
        }
        if entry.alarmed {
            entry.state = RoleState::Held;
            return;
        }
        entry.due = now.saturating_add(backoff(entry.attempts, jitter));
        entry.attempts = entry.attempts.saturating_add(1);
        entry.state = RoleState::Backoff;
    }

    fn on_clock(&mut self, now: u64, actions: &mut Vec<Action>) {
        let stopping = self.stopping.is_some();
        let mut spawn = Vec::new();
        for entry in &mut self.roles {
            match entry.state {
                RoleState::Starting | RoleState::Confined | RoleState::Stopping if now >= entry.due => {
                    entry.due = now.saturating_add(STOP_STEP_MS);
                    actions.push(Action::Kill(entry.role));
                }
                RoleState::Ready if now.saturating_sub(entry.answered) >= HUNG_AFTER_MS => {
                    entry.answered = now;
                    actions.push(Action::Kill(entry.role));
                }
                RoleState::Ready if now.saturating_sub(entry.pinged) >= PING_EVERY_MS => {
                    entry.pinged = now;
                    actions.push(Action::Ping(entry.role));
                }
                RoleState::Backoff | RoleState::Held if stopping => entry.state = RoleState::Idle,
                RoleState::Backoff if now >= entry.due => spawn.push(entry.role),
                _ => {}
            }
        }
        for role in spawn {
            self.spawn(now, role, actions);
        }
        if self.state(Role::Auditd) == RoleState::Ready {
            self.logged = now;
        } else if now.saturating_sub(self.logged) >= AUDITD_AWAY_MS {
            self.stop_set(now, Exit::Internal.code(), actions);
        }
    }

    /// An edge exists from the moment its client is attested and its server serves, until either dies.
    fn wire(&mut self, actions: &mut Vec<Action>) {
        if self.stopping.is_some() {
            return;
        }
        for wire in &TOPOLOGY {
            let (client, server) = (self.state(wire.client), self.state(wire.server));
            let asks = matches!(client, RoleState::Confined | RoleState::Ready);
            let pair = (wire.edge, self.facts(wire.client).0, self.facts(wire.server).0);
            if asks && server == RoleState::Ready && !self.wired.contains(&pair) {
                self.wired.push(pair);
                actions.push(Action::Wire(wire.edge));
            }
        }
    }

    fn stop_set(&mut self, now: u64, code: i32, actions: &mut Vec<Action>) {
        if self.stopping.is_none() {
            self.stopping = Some((0, code));
            self.begin_stop(now, 0, actions);
        }
    }

    fn begin_stop(&mut self, now: u64, at: usize, actions: &mut Vec<Action>) {
        if let Some(role) = STOP_ORDER.get(at) {
            self.end_role(now, *role, true, actions);
        }
    }

    fn go_on_stopping(&mut self, now: u64, actions: &mut Vec<Action>) {
        while let Some((at, code)) = self.stopping {
            match STOP_ORDER.get(at) {
                Some(role) if is_alive(self.state(*role)) => return,
                Some(_) => {
                    self.stopping = Some((at.saturating_add(1), code));
                    self.begin_stop(now, at.saturating_add(1), actions);
                }
                None => {
                    self.exited = true;
                    actions.push(Action::Exit(code));
                    return;
                }
            }
        }
    }
}

const fn is_alive(state: RoleState) -> bool {
    matches!(state, RoleState::Starting | RoleState::Confined | RoleState::Ready | RoleState::Stopping)
}

#[cfg(test)]
mod tests;
