//! The loop: wait on every child, every visitor, the log, the signals and the clock; turn what happened into events of the
//! tables; carry their actions out. One thread, and nothing in it waits for longer than half a second.

use crate::children::Child;
use crate::desk::{Asked, Desk};
use crate::drill::Drills;
use crate::ledger::Ledger;
use crate::log::{self, Priority};
use crate::notify::Notify;
use crate::operator::{Door, Visitor};
use crate::programs::Programs;
use crate::reaction::React;
use crate::words::Setup;
use confine::startup::StartError;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use proto::audit::Record;
use proto::bounded::BoundedStr;
use proto::channel::{Channel, ChannelError};
use proto::control::{FromRole, ToRole};
use proto::edge::Refusal;
use proto::ids::{Epoch, Role};
use proto::operator::RoleState;
use proto::topology::{EdgeId, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use supervise::incident::Input;
use supervise::state::{Action, CHILDREN, Cause, Death, Event, Supervisor};

/// How often the kernel is asked whether a role is still what it was.
const ATTEST_EVERY: Duration = Duration::from_secs(5);
/// How long a role's first start waits for the record of its program: less than it may take to start.
const PROGRAM: Duration = Duration::from_secs(8);
/// Longest wait of the loop, in milliseconds.
const LOOK_MS: u64 = 1_000;

/// SIGTERM and SIGINT as a descriptor; SIGHUP is blocked, so that a closed terminal ends nothing.
#[derive(Debug)]
pub struct Signals(SignalFd);

impl Signals {
    /// Blocks and takes them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn block() -> Result<Self, StartError> {
        let mut wanted = SigSet::empty();
        wanted.add(Signal::SIGTERM);
        wanted.add(Signal::SIGINT);
        let mut blocked = wanted;
        blocked.add(Signal::SIGHUP);
        blocked.thread_block().map_err(StartError::internal)?;
        let fd = SignalFd::with_flags(&wanted, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        fd.map(Self).map_err(StartError::internal)
    }
}

/// What waits for a record to be durable.
#[derive(Debug)]
pub(crate) enum Then {
    /// An operator's verb.
    Verb(Box<Asked>),
    /// The first start of a program.
    Spawn(Role, Epoch),
}

/// Broker at work. What the operator is told is in `desk`, what is done about an attack in `reaction`.
pub struct Broker {
    pub(crate) setup: Setup,
    pub(crate) programs: Programs,
    pub(crate) drills: Drills,
    door: Door,
    signals: Signals,
    notify: Notify,
    born: Instant,
    pub(crate) table: Supervisor,
    pub(crate) children: BTreeMap<Role, Child>,
    pub(crate) visitors: Vec<Visitor>,
    next: u32,
    pub(crate) desk: Desk,
    pub(crate) react: React,
    pub(crate) ledger: Ledger<Then>,
    attested: Instant,
    announced: bool,
    exit: Option<i32>,
}

impl Broker {
    /// Puts it together; nothing is started.
    #[must_use]
    pub fn new(setup: Setup, programs: Programs, door: Door, signals: Signals, notify: Notify) -> Self {
        let now = Instant::now();
        let react = React::new(&setup.state_dir);
        Self {
            setup,
            programs,
            drills: Drills::default(),
            door,
            signals,
            notify,
            born: now,
            table: Supervisor::default(),
            children: BTreeMap::new(),
            visitors: Vec::new(),
            next: 0,
            desk: Desk::default(),
            react,
            ledger: Ledger::default(),
            attested: now,
            announced: false,
            exit: None,
        }
    }

    /// Runs the set until it is down; returns the status to exit with.
    ///
    /// # Errors
    /// [`StartError`] where the kernel refuses to wait.
    pub fn run(mut self) -> Result<i32, StartError> {
        self.lifecycle("started");
        self.happen(Event::Begin);
        while self.exit.is_none() {
            self.turn()?;
        }
        self.setup.state_dir.leave();
        Ok(self.exit.unwrap_or_default())
    }

    /// A number that was not used before.
    pub(crate) fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Milliseconds since broker began.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How long nothing needs to be done, in milliseconds, if nothing happens.
    fn idle(&self) -> u64 {
        let now = self.now();
        let tables = [self.table.next_due(), self.react.next_due()].into_iter().flatten();
        let tables = tables.map(|due| due.saturating_sub(now));
        let ledger = self.ledger.due().map(|due| due.saturating_duration_since(Instant::now()).as_millis());
        let ledger = ledger.map(|due| u64::try_from(due).unwrap_or(u64::MAX).saturating_add(1));
        tables.chain(ledger).min().unwrap_or(LOOK_MS).min(LOOK_MS)
    }

    fn turn(&mut self) -> Result<(), StartError> {
        let due = self.idle();
        let timeout = Timespec {
            tv_sec: i64::try_from(due / 1000).unwrap_or(1),
            tv_nsec: i64::try_from(due % 1000).unwrap_or(0) * 1_000_000,
        };
        let roles: Vec<Role> = self.children.keys().copied().collect();
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.signals.0.as_fd(), self.door.as_fd()];
        for child in self.children.values() {
            fds.extend([child.control(), child.log(), child.process.pidfd.as_fd()]);
        }
        fds.extend(self.visitors.iter().map(AsFd::as_fd));
        // Its receipts are collected in every turn: here it need only end the wait.
        fds.extend(self.ledger.fd());
        let mut polled: Vec<PollFd<'_>> =
            fds.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(StartError::internal(format!("poll: {errno}"))),
        }
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        let is = |at: usize| ready.get(at).copied().unwrap_or_default();
        let (signalled, knocked) = (is(0), is(1));
        let visitors: Vec<u64> = self
            .visitors
            .iter()
            .enumerate()
            .filter(|(at, _)| is(2 + roles.len() * 3 + at))
            .map(|(_, v)| v.number)
            .collect();
        for (at, role) in roles.iter().enumerate() {
            let base = 2 + at * 3;
            if is(base + 1)
                && let Some(child) = self.children.get_mut(role)
            {
                child.drain_log();
            }
            if is(base) {
                self.listen_to(*role);
            }
            if is(base + 2) {
                self.bury(*role);
            }
        }
        if signalled && matches!(self.signals.0.read_signal(), Ok(Some(_))) {
            self.stop();
        }
        if knocked {
            let number = u64::from(self.number());
            match self.door.admit(self.setup.identities.owner(), self.visitors.len(), number) {
                Ok(visitor) => self.visitors.extend(visitor),
                Err(stranger) => self.ledger.keep(*stranger),
            }
        }
        for number in visitors {
            self.serve_visitor(number);
        }
        self.look_at_clock();
        self.settle();
        Ok(())
    }

    /// Goes on with what waited for the log.
    fn settle(&mut self) {
        let (settled, violated) = self.ledger.settle();
        for (then, outcome) in settled {
            match then {
                Then::Verb(asked) => self.on_recorded(*asked, outcome),
                Then::Spawn(role, epoch) => self.on_program_recorded(role, epoch, outcome),
            }
        }
        if let Some(violation) = violated {
            let epoch = self.table.facts(Role::Auditd).0;
            self.condemn(Role::Auditd, epoch, Cause::Violation, &violation.to_string());
        }
    }

    /// Feeds the table and carries out what it says, until it has no more to say.
    pub(crate) fn happen(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let jitter = u64::from(self.born.elapsed().subsec_nanos());
            for action in self.table.on(self.now(), jitter, event) {
                events.extend(self.act(action));
            }
        }
        if self.table.is_ready() && !self.announced {
            self.announced = true;
            let ready = format!("ready on {} ({})", self.listen_address(), self.setup.identities.layout().name());
            log::broker(Priority::Info, &ready);
            self.notify.ready();
        }
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn(role, epoch) => self.spawn(role, epoch),
            Action::Wire(edge) => {
                self.wire(edge);
                None
            }
            Action::Ping(role) => {
                let number = self.number();
                self.say(role, &ToRole::Ping(number), &[]);
                None
            }
            Action::Drain(role) => {
                self.say(role, &ToRole::Drain, &[]);
                None
            }
            Action::StopRole(role) => {
                if role == Role::Auditd && self.table.is_stopping() {
                    self.lifecycle("stopped");
                }
                self.say(role, &ToRole::Stop, &[]);
                None
            }
            Action::Kill(role) => {
                if let Some(child) = self.children.get(&role) {
                    child.kill();
                }
                None
            }
            Action::Alarm(role, _, cause) => {
                self.alarm(role, cause);
                None
            }
            Action::Exit(code) => {
                self.exit = Some(code);
                None
            }
        }
    }

    /// Starts a role; a program that was never recorded is recorded first. auditd's is recorded by itself, as its first word.
    fn spawn(&mut self, role: Role, epoch: Epoch) -> Option<Event> {
        if let Some(sha256) = self.programs.unrecorded(role).map(str::to_owned) {
            let record = self.role_record(role, epoch, "executable", &format!("sha256:{sha256}"));
            if role != Role::Auditd {
                self.ledger.ask(record, Then::Spawn(role, epoch), PROGRAM);
                return None;
            }
            self.ledger.keep(record);
            self.programs.set_recorded(role, &self.setup.state_dir);
        }
        self.start(role, epoch)
    }

    fn on_program_recorded(&mut self, role: Role, epoch: Epoch, outcome: Result<(), Refusal>) {
        if self.table.facts(role).0 != epoch || self.table.state(role) != RoleState::Starting {
            return;
        }
        let failed = match outcome {
            Ok(()) => {
                self.programs.set_recorded(role, &self.setup.state_dir);
                self.start(role, epoch)
            }
            Err(refusal) => {
                log::broker(Priority::Warning, &format!("{role} was not started: {refusal}"));
                Some(Event::SpawnFailed(role, epoch))
            }
        };
        failed.into_iter().for_each(|event| self.happen(event));
    }

    fn start(&mut self, role: Role, epoch: Epoch) -> Option<Event> {
        let started = self.programs.program(role).and_then(|program| Child::start(program, &self.setup, role, epoch));
        match started {
            Ok(child) => {
                self.children.insert(role, child);
                None
            }
            Err(error) => {
                log::broker(Priority::Warning, &format!("{role} cannot be started: {error}"));
                self.role_event(role, epoch, "spawn-failed", &error.to_string());
                Some(Event::SpawnFailed(role, epoch))
            }
        }
    }

    /// A full or closed control channel is the peer's trouble: its death or its silence is noticed elsewhere. Who is not
    /// attested yet waits for its configuration, takes no other word for it, and is told what holds when it is.
    pub(crate) fn say(&self, role: Role, message: &ToRole, fds: &[BorrowedFd<'_>]) {
        if let Some(child) = self.children.get(&role)
            && child.attested.is_some()
            && let Err(error) = child.send(message, fds)
        {
            log::broker(Priority::Warning, &format!("{role} cannot be told: {error}"));
        }
    }

    fn wire(&mut self, edge: EdgeId) {
        let Some(wire) = edge.wire() else { return };
        let Ok((client, server)) = Channel::pair_fds() else {
            log::broker(Priority::Warning, &format!("no descriptors left for {edge:?}"));
            return;
        };
        let epoch = |role| self.table.facts(role).0;
        let grant = |side, peer| ToRole::Grant { edge, side, peer };
        self.say(wire.server, &grant(Side::Server, epoch(wire.client)), &[server.as_fd()]);
        if wire.client == Role::Broker {
            self.ledger.attach(Channel::from_fd(client));
        } else {
            self.say(wire.client, &grant(Side::Client, epoch(wire.server)), &[client.as_fd()]);
        }
    }

    fn listen_to(&mut self, role: Role) {
        loop {
            let Some(child) = self.children.get(&role) else { return };
            let epoch = child.epoch;
            match child.recv() {
                Ok(message) => self.on_word(role, epoch, message),
                // Its death comes by the pidfd; until then its control channel stays readable, which is a short spin.
                Err(ChannelError::WouldBlock | ChannelError::Closed) => return,
                Err(error) => return self.condemn(role, epoch, Cause::Violation, &error.to_string()),
            }
        }
    }

    fn on_word(&mut self, role: Role, epoch: Epoch, message: FromRole) {
        match message {
            FromRole::Hello { role: claimed, schema } => {
                let setup = &self.setup;
                let answered = self.children.get_mut(&role).map(|child| child.on_hello(setup, claimed, schema));
                if let Some(Err(error)) = answered {
                    self.condemn(role, epoch, Cause::Unattested, &error);
                }
            }
            FromRole::Confined(walls) => {
                let Some(child) = self.children.get_mut(&role) else { return };
                child.walls = Some(walls);
                let drift = child.attest(true);
                if drift.is_empty() {
                    self.say(role, &ToRole::Attested, &[]);
                    // Before the role has an edge, so that there is no moment in which it serves.
                    self.tell_of_lockdown(role);
                    self.role_event(role, epoch, "attested", &format!("pid {}", self.pid(role)));
                    self.happen(Event::Attested(role, epoch));
                } else {
                    self.condemn(role, epoch, Cause::Unattested, &drift.join(", "));
                }
            }
            FromRole::Ready => {
                self.role_event(role, epoch, "ready", "");
                self.happen(Event::Ready(role, epoch));
            }
            FromRole::Pong(_) => self.happen(Event::Pong(role, epoch)),
            FromRole::Frozen { sessions, detail } => self.on_frozen(role, &sessions, &detail),
            FromRole::Drained => self.happen(Event::Drained(role, epoch)),
            FromRole::LauncherWanted if role == Role::Sandboxd => self.happen(Event::LauncherWanted),
            FromRole::EngineTaken { detail } if role == Role::Sandboxd => {
                self.role_event(role, epoch, "engine", &detail);
            }
            FromRole::EngineDrifted { detail } if role == Role::Sandboxd => {
                self.condemn(role, epoch, Cause::Violation, &format!("its engine made another container: {detail}"));
            }
            FromRole::Breached { escaped, sessions, detail } if role == Role::Sandboxd => {
                self.on_breach(epoch, escaped, &sessions, &detail);
            }
            FromRole::LauncherWanted
            | FromRole::EngineTaken { .. }
            | FromRole::EngineDrifted { .. }
            | FromRole::Breached { .. } => {
                self.condemn(role, epoch, Cause::Violation, "only sandboxd speaks of sandboxes");
            }
            FromRole::Admin(number, answer) => self.on_admin(role, number, answer),
            FromRole::Violated { edge, detail } => self.on_violated(role, edge, &detail),
        }
    }

    /// One end says the other broke the protocol. The accused dies, if the accuser has that edge at all.
    fn on_violated(&mut self, accuser: Role, edge: EdgeId, detail: &str) {
        let accused = edge.wire().and_then(|wire| match accuser {
            role if role == wire.server => Some(wire.client),
            role if role == wire.client => Some(wire.server),
            _ => None,
        });
        match accused {
            Some(Role::Broker) | None => {
                let epoch = self.table.facts(accuser).0;
                self.condemn(accuser, epoch, Cause::Violation, "it accused a peer it does not have");
            }
            Some(role) => {
                let epoch = self.table.facts(role).0;
                self.condemn(role, epoch, Cause::Violation, &format!("{accuser} on {edge:?}: {detail}"));
            }
        }
    }

    /// The role must not run on; what is done about it follows from the cause.
    pub(crate) fn condemn(&mut self, role: Role, epoch: Epoch, cause: Cause, detail: &str) {
        let event = match cause {
            Cause::Unattested => "attestation-failed",
            Cause::Drift => "drift",
            Cause::Violation | Cause::Death(_) | Cause::Breach | Cause::Escape | Cause::Operator => "violation",
        };
        log::broker(Priority::Alert, &format!("{role} (epoch {epoch}): {event}: {detail}"));
        self.role_event(role, epoch, event, detail);
        self.happen(Event::Condemned(role, epoch, cause));
    }

    fn bury(&mut self, role: Role) {
        let Some(mut child) = self.children.remove(&role) else { return };
        child.end_log();
        let status = waitid(WaitId::PidFd(child.process.pidfd.as_fd()), WaitIdOptions::EXITED);
        let death = match status {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Death::Exited(code),
                (None, Some(signal)) => Death::Signalled(signal),
                (None, None) => Death::Exited(-1),
            },
            Ok(None) | Err(_) => Death::Exited(-1),
        };
        let (epoch, pid) = (child.epoch, child.process.pid);
        drop(child);
        if role == Role::Auditd {
            self.ledger.detach();
        }
        let event = match death {
            _ if death.is_suspicious() => "incident",
            Death::Exited(0) if self.table.is_wanted_end(role) => "ended",
            Death::Exited(_) | Death::Signalled(_) => "died",
        };
        let priority = if event == "ended" { Priority::Info } else { Priority::Warning };
        log::broker(priority, &format!("{role} (pid {pid}, epoch {epoch}) {event}: {death:?}"));
        self.role_event(role, epoch, event, &format!("pid {pid}: {death:?}"));
        self.fail_awaited(|of, _| of == role);
        self.happen(Event::Died(role, epoch, death));
        self.advance(Input::Gone(role));
    }

    pub(crate) fn stop(&mut self) {
        if !self.table.is_stopping() {
            self.notify.stopping();
            self.lifecycle("stopping");
        }
        self.happen(Event::Stop);
    }

    fn look_at_clock(&mut self) {
        self.happen(Event::Tick);
        self.advance(Input::Tick);
        let now = Instant::now();
        self.fail_awaited(|_, until| until <= now);
        if now.duration_since(self.attested) >= ATTEST_EVERY {
            self.attested = now;
            self.attest_all();
        }
        if self.table.is_answering(self.now()) {
            self.notify.alive();
        }
    }

    fn attest_all(&mut self) {
        for role in CHILDREN {
            let Some(child) = self.children.get_mut(&role).filter(|child| child.walls.is_some()) else { continue };
            let epoch = child.epoch;
            let drift = child.attest(false);
            // A process that is gone by now cannot be read; its death is on its way.
            if !drift.is_empty() && child.observed.seccomp != 0 {
                self.condemn(role, epoch, Cause::Drift, &drift.join(", "));
            }
        }
    }

    pub(crate) fn pid(&self, role: Role) -> u32 {
        self.children.get(&role).map(|child| child.process.pid).unwrap_or_default()
    }

    pub(crate) fn listen_address(&self) -> String {
        self.setup.listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }

    fn role_record(&self, role: Role, epoch: Epoch, event: &str, detail: &str) -> Record {
        Record::Role { role, epoch, event: BoundedStr::truncated(event), detail: BoundedStr::truncated(detail) }
    }

    /// Has it recorded that something happened to a role.
    pub(crate) fn role_event(&mut self, role: Role, epoch: Epoch, event: &str, detail: &str) {
        self.ledger.keep(self.role_record(role, epoch, event, detail));
    }

    fn lifecycle(&mut self, event: &str) {
        let layout = BoundedStr::truncated(self.setup.identities.layout().name());
        self.ledger.keep(Record::Lifecycle { event: BoundedStr::truncated(event), layout });
    }
}
