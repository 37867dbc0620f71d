//! The loop: wait on every child, every visitor, the signals and the clock; turn what happened into events of the table;
//! carry its actions out. One thread, and nothing in it waits for longer than half a second.

use crate::children::{Child, Programs};
use crate::drill::Drills;
use crate::operator::{Door, Visitor};
use crate::state::{Action, CHILDREN, Death, Event, Supervisor};
use crate::words::Setup;
use confine::attest::Observed;
use confine::startup::StartError;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use proto::audit::{AuditRequest, LogHead, Record};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError, Client};
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::edge::{Refusal, ToAuditd};
use proto::ids::{Epoch, RequestId, Role};
use proto::operator::{OperatorReply, OperatorRequest, RoleState, RoleStatus, Status};
use proto::probe::DrillReport;
use proto::sandbox::Backend;
use proto::topology::{EdgeId, Side, role};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long auditd may take for a record of broker's.
const AUDIT: Duration = Duration::from_secs(1);
/// How long a role may take for an operator's verb.
const ADMIN: Duration = Duration::from_secs(5);
/// How often the kernel is asked whether a ready role is still what it was.
const ATTEST_EVERY: Duration = Duration::from_secs(5);
/// Records kept while auditd is away; the oldest would be lost first, and then the loss is recorded.
const MAX_HELD: usize = 1024;

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

/// Where an answer of a role goes.
enum Awaited {
    /// To a visitor, as it is.
    Visitor { visitor: u64, request: RequestId, stream: Option<OwnedFd> },
    /// Into the status that is being gathered under this number.
    Status(u32),
}

/// A status while auditd and sandboxd are asked.
struct Gathering {
    visitor: u64,
    request: RequestId,
    until: Instant,
    missing: u8,
    heads: BoundedVec<LogHead, 8>,
    sandbox: (Backend, BoundedStr<512>),
}

/// Broker at work.
pub struct Broker {
    setup: Setup,
    programs: Programs,
    drills: Drills,
    door: Door,
    signals: Signals,
    born: Instant,
    table: Supervisor,
    children: BTreeMap<Role, Child>,
    visitors: Vec<Visitor>,
    next: u32,
    awaited: BTreeMap<u32, (Instant, Role, Awaited)>,
    gathering: BTreeMap<u32, Gathering>,
    audit: Client<ToAuditd>,
    held: VecDeque<Record>,
    attested: Instant,
    announced: bool,
    exit: Option<i32>,
}

impl Broker {
    /// Puts it together; nothing is started.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(
        setup: Setup,
        programs: Programs,
        drills: Drills,
        door: Door,
        signals: Signals,
    ) -> Result<Self, StartError> {
        let now = Instant::now();
        Ok(Self {
            setup,
            programs,
            drills,
            door,
            signals,
            born: now,
            table: Supervisor::default(),
            children: BTreeMap::new(),
            visitors: Vec::new(),
            next: 0,
            awaited: BTreeMap::new(),
            gathering: BTreeMap::new(),
            audit: Client::new(role::Broker),
            held: VecDeque::new(),
            attested: now,
            announced: false,
            exit: None,
        })
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

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn turn(&mut self) -> Result<(), StartError> {
        let due = self.table.next_due().map(|due| due.saturating_sub(self.now())).unwrap_or(1_000).min(1_000);
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
                && let Some(child) = self.children.get(role)
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
            self.next = self.next.wrapping_add(1);
            let visitor = self.door.admit(self.setup.identities.owner(), self.visitors.len(), u64::from(self.next));
            self.visitors.extend(visitor);
        }
        for number in visitors {
            self.serve_visitor(number);
        }
        self.look_at_clock();
        Ok(())
    }

    /// Feeds the table and carries out what it says, until it has no more to say.
    fn happen(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let jitter = u64::from(self.born.elapsed().subsec_nanos());
            for action in self.table.on(self.now(), jitter, event) {
                events.extend(self.act(action));
            }
        }
        if self.table.is_ready() && !self.announced {
            self.announced = true;
            eprintln!("broker: ready on {} ({})", self.listen_address(), self.setup.identities.layout().name());
        }
    }

    fn act(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Spawn(role, epoch) => match Child::start(&self.programs, &self.setup, role, epoch) {
                Ok(child) => {
                    self.children.insert(role, child);
                    None
                }
                Err(error) => {
                    eprintln!("broker: {role} cannot be started: {error}");
                    self.role_event(role, epoch, "spawn-failed", &error.to_string());
                    Some(Event::SpawnFailed(role, epoch))
                }
            },
            Action::Wire(edge) => {
                self.wire(edge);
                None
            }
            Action::Ping(role) => {
                self.next = self.next.wrapping_add(1);
                self.say(role, &ToRole::Ping(self.next), &[]);
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
            Action::Exit(code) => {
                self.exit = Some(code);
                None
            }
        }
    }

    /// A full or closed control channel is the peer's trouble: its death or its silence is noticed elsewhere.
    fn say(&self, role: Role, message: &ToRole, fds: &[BorrowedFd<'_>]) {
        if let Some(child) = self.children.get(&role)
            && let Err(error) = child.send(message, fds)
        {
            eprintln!("broker: {role} cannot be told: {error}");
        }
    }

    fn wire(&mut self, edge: EdgeId) {
        let Some(wire) = edge.wire() else { return };
        let Ok((client, server)) = Channel::pair_fds() else {
            eprintln!("broker: no descriptors left for {edge:?}");
            return;
        };
        let epoch = |role| self.table.facts(role).0;
        let grant = |side, peer| ToRole::Grant { edge, side, peer };
        self.say(wire.server, &grant(Side::Server, epoch(wire.client)), &[server.as_fd()]);
        if wire.client == Role::Broker {
            self.audit.attach(Channel::from_fd(client));
            self.flush_records();
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
                Err(error) => return self.condemn(role, epoch, "violation", &error.to_string()),
            }
        }
    }

    fn on_word(&mut self, role: Role, epoch: Epoch, message: FromRole) {
        match message {
            FromRole::Hello { role: claimed, schema } => {
                let setup = &self.setup;
                let answered = self.children.get_mut(&role).map(|child| child.on_hello(setup, claimed, schema));
                if let Some(Err(error)) = answered {
                    self.condemn(role, epoch, "refused", &error);
                }
            }
            FromRole::Confined(walls) => {
                let Some(child) = self.children.get_mut(&role) else { return };
                child.walls = Some(walls);
                let drift = child.attest(true);
                if drift.is_empty() {
                    self.say(role, &ToRole::Attested, &[]);
                    self.role_event(role, epoch, "attested", &format!("pid {}", self.pid(role)));
                    self.happen(Event::Attested(role, epoch));
                } else {
                    self.condemn(role, epoch, "attestation-failed", &drift.join(", "));
                }
            }
            FromRole::Ready => {
                self.role_event(role, epoch, "ready", "");
                self.happen(Event::Ready(role, epoch));
            }
            FromRole::Pong(_) => self.happen(Event::Pong(role, epoch)),
            FromRole::Drained => self.happen(Event::Drained(role, epoch)),
            FromRole::LauncherWanted if role == Role::Sandboxd => self.happen(Event::LauncherWanted),
            FromRole::LauncherWanted => self.condemn(role, epoch, "violation", "only sandboxd may want the launcher"),
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
                self.condemn(accuser, epoch, "violation", "it accused a peer it does not have");
            }
            Some(role) => {
                let epoch = self.table.facts(role).0;
                self.condemn(role, epoch, "violation", &format!("{accuser} on {edge:?}: {detail}"));
            }
        }
    }

    fn condemn(&mut self, role: Role, epoch: Epoch, event: &str, detail: &str) {
        eprintln!("broker: {role} (epoch {epoch}): {event}: {detail}");
        self.role_event(role, epoch, event, detail);
        self.happen(Event::Condemned(role, epoch));
    }

    fn bury(&mut self, role: Role) {
        let Some(child) = self.children.remove(&role) else { return };
        child.drain_log();
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
            self.audit = Client::new(role::Broker);
        }
        let event = if death.is_suspicious() { "incident" } else { "died" };
        eprintln!("broker: {role} (pid {pid}, epoch {epoch}) {event}: {death:?}");
        self.role_event(role, epoch, event, &format!("pid {pid}: {death:?}"));
        self.fail_awaited(|of, _| of == role);
        self.happen(Event::Died(role, epoch, death));
    }

    fn stop(&mut self) {
        if !self.table.is_stopping() {
            self.lifecycle("stopping");
        }
        self.happen(Event::Stop);
    }

    fn look_at_clock(&mut self) {
        self.happen(Event::Tick);
        let now = Instant::now();
        self.fail_awaited(|_, until| until <= now);
        let late: Vec<u32> = self.gathering.iter().filter(|(_, g)| g.until <= now).map(|(number, _)| *number).collect();
        for number in late {
            self.finish_status(number);
        }
        if now.duration_since(self.attested) >= ATTEST_EVERY {
            self.attested = now;
            self.attest_all();
        }
    }

    fn attest_all(&mut self) {
        for role in CHILDREN {
            let Some(child) = self.children.get_mut(&role).filter(|child| child.walls.is_some()) else { continue };
            let epoch = child.epoch;
            let drift = child.attest(false);
            // A process that is gone by now cannot be read; its death is on its way.
            if !drift.is_empty() && child.observed.seccomp != 0 {
                self.condemn(role, epoch, "drift", &drift.join(", "));
            }
        }
    }

    fn pid(&self, role: Role) -> u32 {
        self.children.get(&role).map(|child| child.process.pid).unwrap_or_default()
    }

    fn listen_address(&self) -> String {
        self.setup.listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }

    // --- records ---------------------------------------------------------------------------------------------------

    fn role_event(&mut self, role: Role, epoch: Epoch, event: &str, detail: &str) {
        let (event, detail) = (BoundedStr::truncated(event), BoundedStr::truncated(detail));
        self.hold(Record::Role { role, epoch, event, detail });
    }

    fn lifecycle(&mut self, event: &str) {
        let layout = BoundedStr::truncated(self.setup.identities.layout().name());
        self.hold(Record::Lifecycle { event: BoundedStr::truncated(event), layout });
    }

    /// Supervision cannot wait for the log it supervises: records about it are kept until auditd takes them.
    fn hold(&mut self, record: Record) {
        if self.held.len() >= MAX_HELD {
            self.held.pop_front();
            eprintln!("broker: a record was lost while auditd was away");
        }
        self.held.push_back(record);
        self.flush_records();
    }

    fn flush_records(&mut self) {
        while self.audit.is_attached()
            && let Some(record) = self.held.front()
        {
            match self.audit.call(&AuditRequest::Append(record.clone()), &[], AUDIT) {
                Ok(_) => {
                    self.held.pop_front();
                }
                Err(error) => {
                    eprintln!("broker: auditd took no record: {error}");
                    return;
                }
            }
        }
    }

    /// An operator's verb is recorded before it is carried out, or it is not carried out.
    fn record_verb(&mut self, uid: u32, pid: u32, verb: &str) -> Result<(), Refusal> {
        self.flush_records();
        let record = Record::Operator { uid, pid, verb: BoundedStr::truncated(verb) };
        self.audit.call(&AuditRequest::Append(record), &[], AUDIT).map(|_| ()).map_err(|error| {
            Refusal::new(
                "audit.unwritable",
                &format!("the verb could not be recorded, so it was not carried out: {error}"),
            )
        })
    }

    // --- the operator ----------------------------------------------------------------------------------------------

    fn serve_visitor(&mut self, number: u64) {
        loop {
            let Some(visitor) = self.visitors.iter().find(|visitor| visitor.number == number) else { return };
            let (uid, pid) = (visitor.uid, visitor.pid);
            match visitor.recv() {
                Ok((request, verb)) => {
                    if let Err(refusal) = self.on_verb(number, request, uid, pid, verb) {
                        self.answer(number, request, Err(refusal));
                    }
                }
                Err(ChannelError::WouldBlock) => return,
                Err(_) => {
                    self.visitors.retain(|visitor| visitor.number != number);
                    return;
                }
            }
        }
    }

    fn answer(&self, visitor: u64, request: RequestId, answer: Result<(OperatorReply, Option<OwnedFd>), Refusal>) {
        if let Some(visitor) = self.visitors.iter().find(|candidate| candidate.number == visitor) {
            visitor.answer(request, answer);
        }
    }

    fn on_verb(
        &mut self,
        visitor: u64,
        request: RequestId,
        uid: u32,
        pid: u32,
        verb: OperatorRequest,
    ) -> Result<(), Refusal> {
        // Looking at the state changes nothing and reveals nothing; following a log would otherwise feed itself.
        let looks = matches!(
            verb,
            OperatorRequest::Status | OperatorRequest::ReadLog { offset: 1.., .. } | OperatorRequest::DrillReport(_)
        );
        if !looks && let Err(refusal) = self.record_verb(uid, pid, verb.verb()) {
            // Coming down must work when the log does not: that is when it is wanted.
            if !matches!(verb, OperatorRequest::Down) {
                return Err(refusal);
            }
            eprintln!("broker: {refusal}; coming down all the same");
        }
        let plain = |stream| Awaited::Visitor { visitor, request, stream };
        match verb {
            OperatorRequest::Status => self.gather_status(visitor, request),
            OperatorRequest::Down => {
                self.answer(visitor, request, Ok((OperatorReply::Started, None)));
                self.stop();
            }
            OperatorRequest::Restart(Role::Broker) => {
                return Err(Refusal::new("operator.restart", "broker restarts by `moltbot down` and `moltbot up`"));
            }
            OperatorRequest::Restart(role) => {
                self.answer(visitor, request, Ok((OperatorReply::Started, None)));
                self.happen(Event::Restart(role));
            }
            OperatorRequest::DrillStart(role) => {
                let sibling = CHILDREN.into_iter().find(|other| *other != role).map_or(0, |other| self.pid(other));
                self.drills.start(&self.setup, role, sibling)?;
                self.answer(visitor, request, Ok((OperatorReply::Started, None)));
            }
            OperatorRequest::DrillReport(role) => {
                let report = self.drills.report(role)?;
                if let Some(DrillReport::Done(summary)) = &report {
                    self.role_event(role, self.table.facts(role).0, "drill", summary);
                }
                self.answer(visitor, request, Ok((OperatorReply::Drill(report), None)));
            }
            OperatorRequest::RevealGatewayToken => {
                self.ask(Role::Vault, AdminRequest::RevealGatewayToken { uid }, &[], plain(None))?;
            }
            OperatorRequest::Vault(verb) => {
                self.ask(Role::Vault, AdminRequest::Vault { uid, verb }, &[], plain(None))?;
            }
            OperatorRequest::ReadLog { stream, offset } => {
                self.ask(Role::Auditd, AdminRequest::ReadLog { stream, offset }, &[], plain(None))?;
            }
            OperatorRequest::Attach => {
                let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
                let (ours, theirs) =
                    pair.map_err(|errno| Refusal::new("broker.resource", &format!("no stream: {errno}")))?;
                self.ask(Role::Gateway, AdminRequest::AttachOperator, &[theirs.as_fd()], plain(Some(ours)))?;
            }
        }
        Ok(())
    }

    fn ask(
        &mut self,
        role: Role,
        request: AdminRequest,
        fds: &[BorrowedFd<'_>],
        awaited: Awaited,
    ) -> Result<(), Refusal> {
        let ready = self.table.state(role) == RoleState::Ready;
        let gone = || {
            Refusal::new("broker.not_ready", &format!("{role} does not serve right now; `moltbot status` shows why"))
        };
        let Some(child) = self.children.get(&role).filter(|_| ready) else { return Err(gone()) };
        self.next = self.next.wrapping_add(1);
        child.send(&ToRole::Admin(self.next, request), fds).map_err(|_| gone())?;
        self.awaited.insert(self.next, (Instant::now() + ADMIN, role, awaited));
        Ok(())
    }

    fn on_admin(&mut self, role: Role, number: u32, answer: Result<AdminReply, Refusal>) {
        // An answer after its deadline has nobody waiting.
        let Some((_, asked, awaited)) = self.awaited.remove(&number) else { return };
        if asked != role {
            let epoch = self.table.facts(role).0;
            return self.condemn(role, epoch, "violation", "an answer to another role's question");
        }
        match awaited {
            Awaited::Visitor { visitor, request, stream } => {
                let answer = answer.and_then(|reply| match (reply, stream) {
                    (AdminReply::GatewayToken(token), None) => Ok((OperatorReply::GatewayToken(token), None)),
                    (AdminReply::Vault(answer), None) => Ok((OperatorReply::Vault(answer), None)),
                    (AdminReply::LogBytes(bytes), None) => Ok((OperatorReply::LogBytes(bytes), None)),
                    (AdminReply::Attached, Some(stream)) => Ok((OperatorReply::Attached, Some(stream))),
                    (reply, _) => Err(Refusal::new("broker.answer", &format!("{role} answered with {reply:?}"))),
                });
                self.answer(visitor, request, answer);
            }
            Awaited::Status(gathering) => {
                if let Some(status) = self.gathering.get_mut(&gathering) {
                    match answer {
                        Ok(AdminReply::LogHeads(heads)) => status.heads = heads,
                        Ok(AdminReply::Sandbox { backend, detail }) => status.sandbox = (backend, detail),
                        Ok(_) => {}
                        Err(refusal) => status.sandbox = (Backend::None, BoundedStr::truncated(&refusal.to_string())),
                    }
                    status.missing = status.missing.saturating_sub(1);
                    if status.missing == 0 {
                        self.finish_status(gathering);
                    }
                }
            }
        }
    }

    fn fail_awaited(&mut self, is_lost: impl Fn(Role, Instant) -> bool) {
        let lost: Vec<u32> = self
            .awaited
            .iter()
            .filter(|(_, (until, role, _))| is_lost(*role, *until))
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            if let Some((_, role, awaited)) = self.awaited.remove(&number) {
                match awaited {
                    Awaited::Visitor { visitor, request, .. } => {
                        let refusal = Refusal::new(
                            "broker.no_answer",
                            &format!("{role} did not answer; `moltbot status` shows why"),
                        );
                        self.answer(visitor, request, Err(refusal));
                    }
                    Awaited::Status(gathering) => self.finish_status(gathering),
                }
            }
        }
    }

    fn gather_status(&mut self, visitor: u64, request: RequestId) {
        self.next = self.next.wrapping_add(1);
        let number = self.next;
        let mut missing = 0;
        for (role, question) in
            [(Role::Auditd, AdminRequest::LogHeads), (Role::Sandboxd, AdminRequest::DescribeSandbox)]
        {
            if self.ask(role, question, &[], Awaited::Status(number)).is_ok() {
                missing += 1;
            }
        }
        let sandbox = (Backend::None, BoundedStr::truncated("sandboxd did not answer"));
        let until = Instant::now() + ADMIN;
        self.gathering
            .insert(number, Gathering { visitor, request, until, missing, heads: BoundedVec::default(), sandbox });
        if missing == 0 {
            self.finish_status(number);
        }
    }

    fn finish_status(&mut self, number: u32) {
        let Some(gathered) = self.gathering.remove(&number) else { return };
        for role in CHILDREN {
            if let Some(child) = self.children.get_mut(&role) {
                let _ = child.attest(false);
            }
        }
        let roles = Role::ALL.map(|role| self.row(role)).to_vec();
        let status = Status {
            version: BoundedStr::truncated(env!("CARGO_PKG_VERSION")),
            layout: BoundedStr::truncated(self.setup.identities.layout().name()),
            listen: BoundedStr::truncated(&self.listen_address()),
            state_dir: BoundedStr::truncated(&self.setup.state_dir.path().to_string_lossy()),
            ready: self.table.is_ready(),
            backend: gathered.sandbox.0,
            backend_detail: gathered.sandbox.1,
            roles: BoundedVec::new(roles).unwrap_or_default(),
            logs: gathered.heads,
        };
        self.answer(gathered.visitor, gathered.request, Ok((OperatorReply::Status(status), None)));
    }

    fn row(&self, role: Role) -> RoleStatus {
        let (epoch, restarts, since) = self.table.facts(role);
        let state = self.table.state(role);
        let child = self.children.get(&role);
        let (pid, observed) = match child {
            Some(child) => (child.process.pid, child.observed.clone()),
            None if role == Role::Broker => {
                let mut own = confine::attest::observe(std::process::id()).unwrap_or_default();
                // What it holds; its bounding set is its children's business, and they drop it.
                own.capabilities[3] = 0;
                (std::process::id(), own)
            }
            None => (0, Observed::default()),
        };
        let degraded = child.map(Child::degraded).unwrap_or_default();
        let degraded = degraded.iter().map(|lack| BoundedStr::truncated(lack)).collect();
        RoleStatus {
            role,
            pid,
            uid: observed.uids.first().copied().unwrap_or_default(),
            epoch,
            state,
            restarts,
            uptime_s: if state == RoleState::Ready { self.now().saturating_sub(since) / 1000 } else { 0 },
            seccomp: observed.seccomp,
            no_new_privs: observed.no_new_privs,
            landlock_abi: child.and_then(|child| child.walls.as_ref()).map_or(0, |walls| walls.landlock_abi),
            capabilities: observed.capabilities.iter().fold(0, |all, set| all | set),
            degraded: BoundedVec::new(degraded).unwrap_or_default(),
        }
    }
}
