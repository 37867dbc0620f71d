//! The reaction to an incident as a pure table, as `state` is for supervision: alarms and answers go in, orders and notes
//! for the log come out. No clock, no I/O.
//!
//! The steps come one after the other, each with a deadline: gateway takes nothing more in; sandboxd ends every sandbox; the
//! vault and egress end every lease and request; auditd signs what is written; the suspects start again. Whoever is a
//! suspect, or does not do its step in time, is killed instead of asked, so that no step needs the process it is about.

use crate::state::Cause;
use proto::audit::Severity;
use proto::ids::Role;
use proto::operator::Mode;

/// Two incidents within this time are an attack that goes on, in milliseconds.
const AGAIN_MS: u64 = 3_600_000;

/// One step of the reaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing new comes in.
    Intake,
    /// Nothing runs.
    Sandboxes,
    /// No credential is in use.
    Leases,
    /// What is written is signed.
    Evidence,
    /// The suspects are replaced.
    Suspects,
}

impl Step {
    /// The step's name in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intake => "freeze-intake",
            Self::Sandboxes => "end-sandboxes",
            Self::Leases => "revoke-leases",
            Self::Evidence => "checkpoint-log",
            Self::Suspects => "restart-suspects",
        }
    }

    /// Whose part it is, and how long they may take, in milliseconds.
    const fn parts(self) -> (&'static [Role], u64) {
        match self {
            Self::Intake => (&[Role::Gateway], 1_000),
            Self::Sandboxes => (&[Role::Sandboxd, Role::Launcher], 5_000),
            Self::Leases => (&[Role::Vault, Role::Egress, Role::Dialer], 1_000),
            Self::Evidence => (&[Role::Auditd], 2_000),
            Self::Suspects => (&[], 0),
        }
    }

    const fn next(self) -> Option<Self> {
        match self {
            Self::Intake => Some(Self::Sandboxes),
            Self::Sandboxes => Some(Self::Leases),
            Self::Leases => Some(Self::Evidence),
            Self::Evidence => Some(Self::Suspects),
            Self::Suspects => None,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Input {
    /// Something looks like an attack on the role, or by it.
    Alarm(Role, Cause),
    /// The role has done its part of the step.
    Did(Role),
    /// The role's process is gone.
    Gone(Role),
    /// The operator ends a lockdown.
    Clear,
    /// Nothing; look at the clock.
    Tick,
}

/// What to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// An incident begins: give it a name.
    Begin,
    /// Tell the role to do its part of this step.
    Ask(Role, Step),
    /// SIGKILL.
    Kill(Role),
    /// A step is over: severity, how it went, milliseconds.
    Note(Severity, Step, Outcome, u64),
    /// Start a suspect again.
    Revive(Role),
    /// Remember, for longer than this process lives, that everything is locked.
    Lock,
    /// Everybody may work again.
    Thaw,
    /// The incident is over.
    End,
}

/// How a step went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Everybody did it.
    Done,
    /// Somebody was a suspect and was killed instead.
    Killed,
    /// Somebody did not do it in time and was killed.
    TimedOut,
}

impl Outcome {
    /// The outcome's name in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Killed => "killed",
            Self::TimedOut => "timed-out",
        }
    }
}

#[derive(Clone, Debug)]
struct Incident {
    severity: Severity,
    suspects: Vec<Role>,
    /// Who reported it: it does its own step, since it alone holds the evidence, and is replaced with the other suspects.
    reporter: Option<Role>,
    step: Step,
    since: u64,
    due: u64,
    waits: Vec<Role>,
    outcome: Outcome,
}

/// Where the reaction stands.
#[derive(Clone, Debug)]
pub struct Reaction {
    mode: Mode,
    incident: Option<Incident>,
    last: Option<u64>,
}

impl Reaction {
    /// At a start; `locked` where an earlier broker left a lockdown.
    #[must_use]
    pub const fn new(locked: bool) -> Self {
        Self { mode: if locked { Mode::Locked } else { Mode::Open }, incident: None, last: None }
    }

    /// What is allowed.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// When the table next wants a [`Input::Tick`].
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        self.incident.as_ref().map(|incident| incident.due)
    }

    /// Takes one input at time `now`. `lives` says whether a role has a process.
    pub fn on(&mut self, now: u64, input: Input, lives: impl Fn(Role) -> bool) -> Vec<Order> {
        let mut orders = Vec::new();
        match input {
            Input::Alarm(role, cause) => self.alarm(now, role, cause, &lives, &mut orders),
            Input::Did(role) | Input::Gone(role) => {
                if let Some(incident) = &mut self.incident {
                    incident.waits.retain(|waited| *waited != role);
                }
            }
            Input::Clear if self.incident.is_none() => {
                (self.mode, self.last) = (Mode::Open, None);
                orders.push(Order::Thaw);
            }
            Input::Clear | Input::Tick => {}
        }
        self.go_on(now, &lives, &mut orders);
        orders
    }

    fn severity(&self, now: u64, cause: Cause) -> Severity {
        let again = self.last.is_some_and(|last| now.saturating_sub(last) < AGAIN_MS);
        if is_grave(cause) || again || self.mode == Mode::Locked { Severity::Lockdown } else { Severity::Containment }
    }

    fn alarm(&mut self, now: u64, role: Role, cause: Cause, lives: &impl Fn(Role) -> bool, orders: &mut Vec<Order>) {
        let suspect = (cause != Cause::Operator).then_some(role);
        if let Some(incident) = &mut self.incident {
            // A second role: what began with the first goes on through it. Who reports is not suspected for that.
            let spreads = suspect.is_some_and(|suspect| !incident.suspects.contains(&suspect)) && !is_report(cause);
            if (spreads || is_grave(cause)) && incident.severity != Severity::Lockdown {
                incident.severity = Severity::Lockdown;
                orders.push(Order::Lock);
            }
            incident.suspects.extend(suspect.filter(|_| spreads));
            incident.waits.retain(|waited| Some(*waited) != suspect || is_report(cause));
            return;
        }
        let severity = self.severity(now, cause);
        self.last = Some(now);
        self.mode = Mode::Reacting;
        orders.push(Order::Begin);
        // First of all, so that nothing that happens on the way can undo it.
        if severity == Severity::Lockdown {
            orders.push(Order::Lock);
        }
        let mut suspects: Vec<Role> = suspect.into_iter().collect();
        let reporter = suspect.filter(|_| is_report(cause));
        // What ran in the sandbox came by way of it.
        suspects.extend(reporter.map(|_| Role::Gateway));
        let (step, outcome) = (Step::Intake, Outcome::Done);
        let mut incident =
            Incident { severity, suspects, reporter, step, since: now, due: now, waits: Vec::new(), outcome };
        incident.begin(now, step, lives, orders);
        self.incident = Some(incident);
    }

    fn go_on(&mut self, now: u64, lives: &impl Fn(Role) -> bool, orders: &mut Vec<Order>) {
        while let Some(incident) = &mut self.incident {
            if !incident.waits.is_empty() && now < incident.due {
                return;
            }
            for role in std::mem::take(&mut incident.waits) {
                incident.outcome = Outcome::TimedOut;
                orders.push(Order::Kill(role));
            }
            let took = now.saturating_sub(incident.since);
            if incident.step == Step::Suspects {
                orders.extend(incident.reporter.map(Order::Kill));
                orders.extend(incident.suspects.iter().map(|role| Order::Revive(*role)));
            }
            orders.push(Order::Note(incident.severity, incident.step, incident.outcome, took));
            if let Some(next) = incident.step.next() {
                incident.begin(now, next, lives, orders);
                continue;
            }
            self.mode = match incident.severity {
                Severity::Containment => Mode::Open,
                Severity::Lockdown => Mode::Locked,
            };
            if self.mode == Mode::Open {
                orders.push(Order::Thaw);
            }
            orders.push(Order::End);
            self.incident = None;
        }
    }
}

impl Incident {
    fn begin(&mut self, now: u64, step: Step, lives: &impl Fn(Role) -> bool, orders: &mut Vec<Order>) {
        let (parts, deadline) = step.parts();
        (self.step, self.since, self.due, self.outcome) = (step, now, now.saturating_add(deadline), Outcome::Done);
        for role in parts.iter().copied().filter(|role| lives(*role)) {
            if self.suspects.contains(&role) && self.reporter != Some(role) {
                self.outcome = Outcome::Killed;
                orders.push(Order::Kill(role));
            } else {
                self.waits.push(role);
                orders.push(Order::Ask(role, step));
            }
        }
    }
}

/// True where one is enough: a wall that did not hold, and the operator's word.
const fn is_grave(cause: Cause) -> bool {
    match cause {
        Cause::Drift | Cause::Escape | Cause::Operator => true,
        Cause::Death(_) | Cause::Violation | Cause::Unattested | Cause::Breach => false,
    }
}

/// True where the role tells of its sandboxes and not of itself.
const fn is_report(cause: Cause) -> bool {
    matches!(cause, Cause::Breach | Cause::Escape)
}

#[cfg(test)]
mod tests;
