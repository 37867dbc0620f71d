//! What operators ask. A verb is recorded before it is carried out, or it is not carried out; what a role must answer is
//! waited for without holding anything else up.

use crate::children::Child;
use crate::programs::Program;
use crate::reload::Reload;
use crate::serve::{Broker, Then};
use confine::attest::Observed;
use proto::audit::{LogHead, Record};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::ChannelError;
use proto::control::{AdminReply, AdminRequest, ToRole};
use proto::edge::Refusal;
use proto::ids::{RequestId, Role};
use proto::operator::{OperatorReply, OperatorRequest, RoleState, RoleStatus, Status};
use proto::probe::DrillReport;
use proto::sandbox::{Backend, Posture};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use supervise::state::{CHILDREN, Cause, Event};

/// How long auditd may take to record a verb.
const RECORD: Duration = Duration::from_secs(1);
/// How long a role may take for an operator's verb.
const ADMIN: Duration = Duration::from_secs(5);
/// How long one may take for its part of a status, which must tell of roles that do not answer.
const LOOK: Duration = Duration::from_secs(1);

/// A verb whose record is on its way.
#[derive(Debug)]
pub(crate) struct Asked {
    visitor: u64,
    request: RequestId,
    verb: OperatorRequest,
    with: With,
}

/// What a verb goes on with, as it was when it was recorded.
#[derive(Debug)]
enum With {
    Nothing,
    /// Another program for the role that restarts.
    Program(Program),
    /// The configuration that is applied.
    Config(Box<Reload>),
}

/// Where an answer of a role goes.
pub(crate) enum Awaited {
    /// To a visitor, as it is.
    Visitor { visitor: u64, request: RequestId, stream: Option<OwnedFd> },
    /// Into the status that is being gathered under this number.
    Status(u32),
    /// To the reaction, whose step it is.
    Checkpoint,
}

/// A status while auditd, sandboxd and the vault are asked.
struct Gathering {
    visitor: u64,
    request: RequestId,
    missing: u8,
    heads: BoundedVec<LogHead, 8>,
    sandbox: (Backend, BoundedStr<512>, Box<Posture>),
    vault: BoundedStr<512>,
}

/// Answers that are waited for.
#[derive(Default)]
pub(crate) struct Desk {
    awaited: BTreeMap<u32, (Instant, Role, Awaited)>,
    gathering: BTreeMap<u32, Gathering>,
}

impl Broker {
    pub(crate) fn serve_visitor(&mut self, number: u64) {
        loop {
            let Some(visitor) = self.visitors.iter().find(|visitor| visitor.number == number) else { return };
            match visitor.recv() {
                Ok((request, verb)) => {
                    if let Err(refusal) = self.on_verb(number, request, verb) {
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

    pub(crate) fn answer(
        &self,
        visitor: u64,
        request: RequestId,
        answer: Result<(OperatorReply, Option<OwnedFd>), Refusal>,
    ) {
        if let Some(visitor) = self.visitors.iter().find(|candidate| candidate.number == visitor) {
            visitor.answer(request, answer);
        }
    }

    fn on_verb(&mut self, number: u64, request: RequestId, verb: OperatorRequest) -> Result<(), Refusal> {
        let (with, detail) = self.what_it_is_about(&verb)?;
        let Some(visitor) = self.visitors.iter().find(|visitor| visitor.number == number) else { return Ok(()) };
        let (uid, pid, name) = (visitor.uid, visitor.pid, verb.verb());
        let looks_again = verb.looks() && visitor.looked.contains(name);
        let asked = Asked { visitor: number, request, verb, with };
        if looks_again {
            return self.carry_out(asked);
        }
        let (verb, detail) = (BoundedStr::truncated(name), BoundedStr::truncated(&detail));
        self.ledger.ask(Record::Operator { uid, pid, verb, detail }, Then::Verb(Box::new(asked)), RECORD);
        Ok(())
    }

    /// What is recorded beside the verb: for a restart the role, and its program where that is another one now.
    fn what_it_is_about(&self, verb: &OperatorRequest) -> Result<(With, String), Refusal> {
        match verb {
            OperatorRequest::Restart(Role::Broker) => {
                Err(Refusal::new("operator.restart", "broker restarts by `moltbot down` and `moltbot up`"))
            }
            OperatorRequest::Restart(role) => {
                let newer = self.programs.newer(*role);
                let newer = newer.map_err(|error| Refusal::new("operator.restart", &error.to_string()))?;
                let detail = match &newer {
                    Some(program) => format!("{role}, new executable sha256:{}", program.sha256),
                    None => role.name().to_owned(),
                };
                Ok((newer.map_or(With::Nothing, With::Program), detail))
            }
            OperatorRequest::ReloadConfig => {
                let reload = self.read_config()?;
                let detail = reload.detail();
                Ok((With::Config(Box::new(reload)), detail))
            }
            _ => Ok((With::Nothing, verb.about())),
        }
    }

    /// The verb's record is durable, or never will be.
    pub(crate) fn on_recorded(&mut self, asked: Asked, outcome: Result<(), Refusal>) {
        let (visitor, request) = (asked.visitor, asked.request);
        // Coming down, locking, and seeing what is wrong must work when the log does not: that is when they are wanted.
        let needed =
            matches!(asked.verb, OperatorRequest::Down | OperatorRequest::LockdownOn | OperatorRequest::Status);
        if let (Ok(()), Some(seen)) = (&outcome, self.visitors.iter_mut().find(|seen| seen.number == visitor)) {
            seen.looked.insert(asked.verb.verb());
        }
        let done = match outcome {
            Err(refusal) if !needed => Err(refusal),
            _ => self.carry_out(asked),
        };
        if let Err(refusal) = done {
            self.answer(visitor, request, Err(refusal));
        }
    }

    fn carry_out(&mut self, asked: Asked) -> Result<(), Refusal> {
        let Asked { visitor, request, verb, with } = asked;
        let plain = Awaited::Visitor { visitor, request, stream: None };
        let uid = self.visitors.iter().find(|seen| seen.number == visitor).map_or(u32::MAX, |seen| seen.uid);
        match verb {
            OperatorRequest::Status => self.gather_status(visitor, request),
            OperatorRequest::Down => {
                self.answer(visitor, request, Ok((OperatorReply::Started, None)));
                self.stop();
            }
            OperatorRequest::Restart(role) => {
                if let With::Program(program) = with {
                    self.programs.adopt(role, program);
                    self.programs.set_recorded(role, &self.setup.state_dir);
                }
                self.answer(visitor, request, Ok((OperatorReply::Started, None)));
                self.happen(Event::Restart(role));
            }
            OperatorRequest::ReloadConfig => {
                if let With::Config(reload) = with {
                    let reply = self.apply_config(*reload);
                    self.answer(visitor, request, Ok((reply, None)));
                }
            }
            // Broker has no right to the log's files: its record is all that the operator's command waits for.
            OperatorRequest::PruneLogs { .. } => self.answer(visitor, request, Ok((OperatorReply::Started, None))),
            // Signed at once: a responder wants the proof now, and not at the next checkpoint.
            OperatorRequest::IncidentReport { .. } => self.ask(Role::Auditd, AdminRequest::Checkpoint, &[], plain)?,
            OperatorRequest::LockdownOn => self.lock_down(visitor, request),
            OperatorRequest::LockdownClear => {
                if !self.clear_lockdown() {
                    let busy = "the reaction to an incident is under way; it takes seconds";
                    return Err(Refusal::new("lockdown.reacting", busy));
                }
                self.answer(visitor, request, Ok((OperatorReply::Lockdown(self.react.lockdown()), None)));
            }
            OperatorRequest::DrillStart(role) => {
                let sibling = CHILDREN.into_iter().find(|other| *other != role).map_or(0, |other| self.pid(other));
                self.drills.start(self.programs.drill(), &self.setup, role, sibling)?;
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
                self.ask(Role::Vault, AdminRequest::RevealGatewayToken { uid }, &[], plain)?;
            }
            OperatorRequest::Vault(verb) => self.ask(Role::Vault, AdminRequest::Vault { uid, verb }, &[], plain)?,
            OperatorRequest::Sandbox(verb) => self.ask(Role::Sandboxd, AdminRequest::Sandbox(verb), &[], plain)?,
            OperatorRequest::ReadLog { stream, offset } => {
                self.ask(Role::Auditd, AdminRequest::ReadLog { stream, offset }, &[], plain)?;
            }
            OperatorRequest::Attach => {
                let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
                let (ours, theirs) =
                    pair.map_err(|errno| Refusal::new("broker.resource", &format!("no stream: {errno}")))?;
                self.ask(
                    Role::Gateway,
                    AdminRequest::AttachOperator,
                    &[theirs.as_fd()],
                    Awaited::Visitor { visitor, request, stream: Some(ours) },
                )?;
            }
        }
        Ok(())
    }

    pub(crate) fn ask(
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
        let number = self.number();
        let Some(child) = self.children.get(&role).filter(|_| ready) else { return Err(gone()) };
        child.send(&ToRole::Admin(number, request), fds).map_err(|_| gone())?;
        let patience = if matches!(awaited, Awaited::Status(_)) { LOOK } else { ADMIN };
        self.desk.awaited.insert(number, (Instant::now() + patience, role, awaited));
        Ok(())
    }

    pub(crate) fn on_admin(&mut self, role: Role, number: u32, answer: Result<AdminReply, Refusal>) {
        // An answer after its deadline has nobody waiting.
        let Some((_, asked, awaited)) = self.desk.awaited.remove(&number) else { return };
        if asked != role {
            let epoch = self.table.facts(role).0;
            return self.condemn(role, epoch, Cause::Violation, "an answer to another role's question");
        }
        match awaited {
            Awaited::Visitor { visitor, request, stream } => {
                let answer = answer.and_then(|reply| match (reply, stream) {
                    (AdminReply::GatewayToken(token), None) => Ok((OperatorReply::GatewayToken(token), None)),
                    (AdminReply::Sandboxes(answer), None) => Ok((OperatorReply::Sandbox(answer), None)),
                    (AdminReply::Vault(answer), None) => Ok((OperatorReply::Vault(answer), None)),
                    (AdminReply::LogBytes { from, bytes }, None) => Ok((OperatorReply::LogBytes { from, bytes }, None)),
                    (AdminReply::LogHeads(_), None) => Ok((OperatorReply::Started, None)),
                    (AdminReply::Attached, Some(stream)) => Ok((OperatorReply::Attached, Some(stream))),
                    (reply, _) => Err(Refusal::new("broker.answer", &format!("{role} answered with {reply:?}"))),
                });
                self.answer(visitor, request, answer);
            }
            Awaited::Status(gathering) => self.on_part(gathering, Some(answer)),
            Awaited::Checkpoint => {
                let said = match answer {
                    Ok(_) => "signed".to_owned(),
                    Err(refusal) => refusal.to_string(),
                };
                self.on_frozen(role, &[], &said);
            }
        }
    }

    pub(crate) fn fail_awaited(&mut self, is_lost: impl Fn(Role, Instant) -> bool) {
        let lost: Vec<u32> = self
            .desk
            .awaited
            .iter()
            .filter(|(_, (until, role, _))| is_lost(*role, *until))
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            match self.desk.awaited.remove(&number) {
                Some((_, role, Awaited::Visitor { visitor, request, .. })) => {
                    let why = format!("{role} did not answer; `moltbot status` shows why");
                    self.answer(visitor, request, Err(Refusal::new("broker.no_answer", &why)));
                }
                Some((_, _, Awaited::Status(gathering))) => self.on_part(gathering, None),
                // Its step has a deadline of its own.
                Some((_, _, Awaited::Checkpoint)) | None => {}
            }
        }
    }

    fn gather_status(&mut self, visitor: u64, request: RequestId) {
        let number = self.number();
        let sandbox = (Backend::None, BoundedStr::truncated("sandboxd does not answer"), Box::default());
        let questions = [
            (Role::Auditd, AdminRequest::LogHeads),
            (Role::Sandboxd, AdminRequest::DescribeSandbox),
            (Role::Vault, AdminRequest::Standing),
        ];
        // One more than the questions: a status of which every part failed at once is finished as well.
        let missing = 4;
        let (heads, vault) = (BoundedVec::default(), BoundedStr::default());
        self.desk.gathering.insert(number, Gathering { visitor, request, missing, heads, sandbox, vault });
        for (role, question) in questions {
            if self.ask(role, question, &[], Awaited::Status(number)).is_err() {
                self.on_part(number, None);
            }
        }
        self.on_part(number, None);
    }

    /// A part of a status is there, or will not come.
    fn on_part(&mut self, number: u32, answer: Option<Result<AdminReply, Refusal>>) {
        let Some(status) = self.desk.gathering.get_mut(&number) else { return };
        match answer {
            Some(Ok(AdminReply::LogHeads(heads))) => status.heads = heads,
            Some(Ok(AdminReply::Standing(why))) => status.vault = why,
            Some(Ok(AdminReply::Sandbox { backend, detail, posture })) => status.sandbox = (backend, detail, posture),
            Some(Err(refusal)) => {
                status.sandbox = (Backend::None, BoundedStr::truncated(&refusal.to_string()), Box::default());
            }
            Some(Ok(_)) | None => {}
        }
        status.missing = status.missing.saturating_sub(1);
        if status.missing == 0
            && let Some(gathered) = self.desk.gathering.remove(&number)
        {
            let (visitor, request) = (gathered.visitor, gathered.request);
            self.answer(visitor, request, Ok((OperatorReply::Status(Box::new(self.status(gathered))), None)));
        }
    }

    fn status(&self, gathered: Gathering) -> Status {
        Status {
            version: BoundedStr::truncated(env!("CARGO_PKG_VERSION")),
            layout: BoundedStr::truncated(self.setup.identities.layout().name()),
            listen: BoundedStr::truncated(&self.listen_address()),
            state_dir: BoundedStr::truncated(&self.setup.state_dir.path().to_string_lossy()),
            ready: self.table.is_ready(),
            lockdown: self.react.lockdown(),
            backend: gathered.sandbox.0,
            backend_detail: gathered.sandbox.1,
            vault: gathered.vault,
            posture: gathered.sandbox.2,
            roles: BoundedVec::new(Role::ALL.map(|role| self.row(role)).to_vec()).unwrap_or_default(),
            logs: gathered.heads,
        }
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
        let attested = child.and_then(|child| child.attested).map(|attested| attested.elapsed().as_millis());
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
            attested_ms: attested.map_or(0, |ms| u64::try_from(ms).unwrap_or(u64::MAX).max(1)),
            degraded: BoundedVec::new(degraded).unwrap_or_default(),
        }
    }
}
