//! The reaction to an incident, carried out: what its table orders is told to the roles, written into the log and, where it
//! is a lockdown, kept for whatever broker comes next.

use crate::desk::Awaited;
use crate::layout::StateDir;
use crate::lockdown;
use crate::log::{self, Priority};
use crate::serve::Broker;
use proto::audit::{Record, Severity};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::control::{AdminRequest, ToRole};
use proto::ids::{Epoch, RequestId, Role, SessionKey};
use proto::operator::{Lockdown, Mode, OperatorReply};
use std::collections::VecDeque;
use supervise::incident::{Input, Order, Reaction, Step};
use supervise::state::{Cause, Event};

/// Roles through which a command reaches its sandbox: where one of them is a suspect, so is what ran.
const ON_THE_WAY: [Role; 3] = [Role::Gateway, Role::Sandboxd, Role::Launcher];

/// Where the reaction stands.
#[derive(Debug)]
pub(crate) struct React {
    table: Reaction,
    /// What is locked, and what `lockdown.json` says.
    lockdown: Lockdown,
    incident: String,
    why: String,
    suspects: Vec<Role>,
    /// Conversations whose commands were ended.
    ended: Vec<SessionKey>,
    /// What the roles said of their part of the step.
    said: Vec<String>,
    /// Inputs that came while the orders of an earlier one were being obeyed.
    inputs: VecDeque<Input>,
    obeying: bool,
    /// Operators who wait for the end.
    waiting: Vec<(u64, RequestId)>,
}

impl React {
    pub(crate) fn new(state_dir: &StateDir) -> Self {
        let lockdown = lockdown::load(state_dir);
        Self {
            table: Reaction::new(lockdown.mode == Mode::Locked),
            lockdown,
            incident: String::new(),
            why: String::new(),
            suspects: Vec::new(),
            ended: Vec::new(),
            said: Vec::new(),
            inputs: VecDeque::new(),
            obeying: false,
            waiting: Vec::new(),
        }
    }

    pub(crate) fn next_due(&self) -> Option<u64> {
        self.table.next_due()
    }

    pub(crate) fn mode(&self) -> Mode {
        self.table.mode()
    }

    /// What the operator is shown.
    pub(crate) fn lockdown(&self) -> Lockdown {
        Lockdown { mode: self.table.mode(), ..self.lockdown.clone() }
    }

    /// What a refusal says while nothing is allowed.
    fn why(&self) -> BoundedStr<256> {
        BoundedStr::truncated(if self.lockdown.why.is_empty() { &self.why } else { &self.lockdown.why })
    }
}

impl Broker {
    /// Something looks like an attack on the role, or by it.
    pub(crate) fn alarm(&mut self, role: Role, cause: Cause) {
        let why = match cause {
            Cause::Death(death) => format!("{role} died as under attack: {death:?}"),
            Cause::Violation => format!("{role} broke the protocol"),
            Cause::Unattested => format!("the walls of {role} were not what they must be"),
            Cause::Drift => format!("{role} is not what it was: a wall did not hold"),
            Cause::Breach => "a sandbox is not what it was: its containment is in doubt".to_owned(),
            Cause::Escape => "something left its sandbox".to_owned(),
            Cause::Operator => "the operator locked everything".to_owned(),
        };
        if self.react.mode() != Mode::Reacting {
            self.react.why.clone_from(&why);
        }
        // Where a sandbox is the suspect, what else ran is not.
        if !matches!(cause, Cause::Operator | Cause::Breach) {
            self.react.suspects.push(role);
        }
        log::broker(Priority::Alert, &why);
        self.advance(Input::Alarm(role, cause));
    }

    /// Feeds the reaction's table and carries out what it orders: one input after the other, though orders bring inputs.
    pub(crate) fn advance(&mut self, input: Input) {
        self.react.inputs.push_back(input);
        if std::mem::replace(&mut self.react.obeying, true) {
            return;
        }
        while let Some(input) = self.react.inputs.pop_front() {
            let now = self.now();
            let children = &self.children;
            // Before it is attested a role serves nobody, and is told of a lockdown when it is.
            let lives = |role: Role| children.get(&role).is_some_and(|child| child.attested.is_some());
            let orders = self.react.table.on(now, input, lives);
            orders.into_iter().for_each(|order| self.obey(order));
        }
        self.react.obeying = false;
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Begin => self.react.incident = incident_name(),
            Order::Lock => self.lock(),
            Order::Ask(role, Step::Evidence) => {
                if self.ask(role, AdminRequest::Checkpoint, &[], Awaited::Checkpoint).is_err() {
                    self.advance(Input::Did(role));
                }
            }
            Order::Ask(role, _) => {
                let why = self.react.why();
                self.say(role, &ToRole::Freeze { why }, &[]);
            }
            Order::Kill(role) => {
                if let Some(child) = self.children.get(&role) {
                    child.kill();
                }
                // An end of the reaction's own: it counts towards no bound of deaths, beyond which the set stops.
                self.happen(Event::Restart(role));
            }
            Order::Note(severity, step, outcome, took_ms) => {
                let said = std::mem::take(&mut self.react.said).join("; ");
                let detail = if step == Step::Intake { format!("{}; {said}", self.react.why) } else { said };
                let detail = detail.trim_end_matches("; ");
                let line = format!("{}: {} {} in {took_ms} ms {detail}", severity.name(), step.name(), outcome.name());
                log::broker(Priority::Alert, &line);
                self.ledger.keep(Record::Incident {
                    incident: BoundedStr::truncated(&self.react.incident),
                    severity,
                    step: BoundedStr::truncated(step.name()),
                    outcome: BoundedStr::truncated(outcome.name()),
                    took_ms,
                    detail: BoundedStr::truncated(detail),
                });
                if step == Step::Suspects && severity == Severity::Containment {
                    self.quarantine();
                }
            }
            Order::Revive(role) => self.happen(Event::Revive(role)),
            Order::Thaw => {
                self.children.values().for_each(|child| self.say(child.role, &ToRole::Thaw, &[]));
            }
            Order::End => {
                (self.react.suspects, self.react.ended) = (Vec::new(), Vec::new());
                for (visitor, request) in std::mem::take(&mut self.react.waiting) {
                    self.answer(visitor, request, Ok((OperatorReply::Lockdown(self.react.lockdown()), None)));
                }
            }
        }
    }

    /// A sandbox is not what it was. Its conversations stay apart whatever becomes of this process or of sandboxd.
    pub(crate) fn on_breach(&mut self, epoch: Epoch, escaped: bool, sessions: &[SessionKey], detail: &str) {
        let kept = lockdown::quarantine(&mut self.react.lockdown, sessions);
        self.save_lockdown();
        self.role_event(Role::Sandboxd, epoch, "breach", detail);
        self.alarm(Role::Sandboxd, if escaped || !kept { Cause::Escape } else { Cause::Breach });
    }

    /// A role has done its part.
    pub(crate) fn on_frozen(&mut self, role: Role, sessions: &[SessionKey], detail: &str) {
        if self.react.mode() == Mode::Reacting {
            self.react.ended.extend_from_slice(sessions);
            if !detail.is_empty() {
                self.react.said.push(format!("{role}: {detail}"));
            }
        }
        self.advance(Input::Did(role));
    }

    /// A role that starts while nothing is allowed must know it before it serves.
    pub(crate) fn tell_of_lockdown(&self, role: Role) {
        if self.react.mode() != Mode::Open {
            let why = self.react.why();
            self.say(role, &ToRole::Freeze { why }, &[]);
        }
        let quarantined = self.react.lockdown.quarantined.clone();
        if role == Role::Sandboxd && !quarantined.is_empty() {
            self.say(role, &ToRole::Quarantine(quarantined), &[]);
        }
    }

    fn lock(&mut self) {
        let react = &mut self.react;
        react.lockdown = Lockdown {
            mode: Mode::Locked,
            since_ms: lockdown::now_ms(),
            incident: BoundedStr::truncated(&react.incident),
            why: BoundedStr::truncated(&react.why),
            quarantined: react.lockdown.quarantined.clone(),
        };
        self.save_lockdown();
    }

    fn quarantine(&mut self) {
        let ended = std::mem::take(&mut self.react.ended);
        if ended.is_empty() || !self.react.suspects.iter().any(|role| ON_THE_WAY.contains(role)) {
            return;
        }
        if lockdown::quarantine(&mut self.react.lockdown, &ended) {
            self.save_lockdown();
            let quarantined = self.react.lockdown.quarantined.clone();
            self.say(Role::Sandboxd, &ToRole::Quarantine(quarantined), &[]);
        } else {
            self.react.why = "more conversations are in quarantine than are kept apart".to_owned();
            self.advance(Input::Alarm(Role::Broker, Cause::Operator));
        }
    }

    /// A lockdown that the next broker would not know of is none: then there is no next moment of this one either.
    fn save_lockdown(&mut self) {
        if let Err(error) = lockdown::save(&self.setup.state_dir, &self.react.lockdown) {
            log::broker(Priority::Alert, &format!("the lockdown cannot be kept, so everything stops: {error}"));
            self.stop();
        }
    }

    /// `moltbot lockdown on`: answered when everything is frozen.
    pub(crate) fn lock_down(&mut self, visitor: u64, request: RequestId) {
        self.react.waiting.push((visitor, request));
        self.alarm(Role::Broker, Cause::Operator);
    }

    /// `moltbot lockdown clear`; false while a reaction is under way.
    pub(crate) fn clear_lockdown(&mut self) -> bool {
        if self.react.mode() == Mode::Reacting {
            return false;
        }
        self.react.lockdown = lockdown::open();
        self.save_lockdown();
        self.say(Role::Sandboxd, &ToRole::Quarantine(BoundedVec::default()), &[]);
        self.advance(Input::Clear);
        true
    }
}

/// `i-` and 64 random bits.
fn incident_name() -> String {
    let mut bytes = [0u8; 8];
    // Without randomness the name is a poor one, and the reaction goes on.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().fold("i-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}
