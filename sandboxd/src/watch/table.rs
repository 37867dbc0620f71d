//! Signals, how grave each is, and what a conversation's signals come to together: a pure table without a clock.
//!
//! Hostile: the order and the number of signals, and of some what they say. What a text alone can cause stays in the lowest
//! class however often it comes; everything above it is a fact that the kernel or the engine states.

use proto::ids::SessionKey;
use proto::watch::Class;
use std::collections::{BTreeMap, VecDeque};

/// How long a signal counts, in milliseconds.
pub const WINDOW_MS: u64 = 60_000;
/// Facts of the lowest class in that time that are a violation together.
const MANY: usize = 5;
/// Signals of the lowest class that are recorded of one conversation in that time; more only count.
const RECORDED: usize = 8;
/// Signals of the lowest class that are counted of one conversation and one sort.
const KEPT: usize = 256;
/// Conversations that are remembered; the one that was quiet the longest is forgotten first.
const REMEMBERED: usize = 256;

/// What can be seen. The numbers are those of `docs/OPERATIONS.md`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Signal {
    /// A running container is not the one that was asked for.
    SpecDrift,
    /// The engine did something with a container that sandboxd did not ask for.
    ForeignAction,
    /// Something was written beside what is mounted.
    WriteLayer,
    /// A command made a call that no honest program makes, and its filter ended it.
    SeccompKill,
    /// A command exited with the status that a filter's end is said with: its own word.
    SaidKill,
    /// A process in a container has another uid, a capability, or no filter.
    Credentials,
    /// A process is in other namespaces than its container.
    Namespaces,
    /// What is mounted changed.
    Mounts,
    /// A program ran from memory.
    MemoryExec,
    /// The kernel's process events.
    ProcessEvents,
    /// The kernel's record of a filter's kill.
    AuditRecord,
    /// A trapped call of the native backend.
    Notified,
    /// The kernel's record of a Landlock refusal.
    LandlockRecord,
    /// A file of the host that nothing in a container can reach was opened.
    HostFile,
    /// A word that stands only where no container reaches came out of one.
    Canary,
    /// The engine's socket was looked for, where something else listens.
    HoneySocket,
    /// The memory limit ended a process.
    MemoryLimit,
    /// The limit of processes was reached.
    ProcessLimit,
    /// Output that reads like an escape.
    OutputText,
    /// A command that reads like an escape.
    CommandText,
}

impl Signal {
    /// Every signal.
    pub const ALL: [Self; 20] = [
        Self::SpecDrift,
        Self::ForeignAction,
        Self::WriteLayer,
        Self::SeccompKill,
        Self::SaidKill,
        Self::Credentials,
        Self::Namespaces,
        Self::Mounts,
        Self::MemoryExec,
        Self::ProcessEvents,
        Self::AuditRecord,
        Self::Notified,
        Self::LandlockRecord,
        Self::HostFile,
        Self::Canary,
        Self::HoneySocket,
        Self::MemoryLimit,
        Self::ProcessLimit,
        Self::OutputText,
        Self::CommandText,
    ];

    /// Its number, its name, and the class that one of it leads to.
    #[must_use]
    pub const fn facts(self) -> (&'static str, &'static str, Class) {
        match self {
            Self::SpecDrift => ("D1", "container compared again while it runs", Class::S3),
            Self::ForeignAction => ("D2", "engine's events", Class::S3),
            Self::WriteLayer => ("D3", "engine's list of changed files", Class::S3),
            Self::SeccompKill => ("D4", "ends by SIGSYS", Class::S2),
            Self::SaidKill => ("D4s", "exits with 159", Class::S1),
            Self::Credentials => ("D5", "/proc/PID/status of every process", Class::S3),
            Self::Namespaces => ("D6", "/proc/PID/ns of every process", Class::S3),
            Self::Mounts => ("D7", "/proc/PID/mountinfo", Class::S3),
            Self::MemoryExec => ("D8", "/proc/PID/exe of every process", Class::S2),
            Self::ProcessEvents => ("D9", "process connector", Class::S1),
            Self::AuditRecord => ("D10", "audit records of seccomp", Class::S2),
            Self::Notified => ("D11", "seccomp notification, native", Class::S2),
            Self::LandlockRecord => ("D12", "audit records of Landlock", Class::S1),
            Self::HostFile => ("D13", "fanotify on files of the host", Class::S4),
            Self::Canary => ("D14", "canary tokens in output", Class::S4),
            Self::HoneySocket => ("D15", "honey socket in the container", Class::S2),
            Self::MemoryLimit => ("D16", "memory limit", Class::S1),
            Self::ProcessLimit => ("D16p", "limit of processes", Class::S1),
            Self::OutputText => ("D17", "texts in output", Class::S1),
            Self::CommandText => ("D18", "texts in commands", Class::S1),
        }
    }

    /// Its class by itself.
    #[must_use]
    pub const fn class(self) -> Class {
        self.facts().2
    }

    /// True where a stranger's text, or a program's own word, is enough to cause it.
    #[must_use]
    pub const fn is_text(self) -> bool {
        matches!(self, Self::OutputText | Self::CommandText | Self::SaidKill)
    }
}

/// What to do about a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reaction {
    /// How far it goes.
    pub class: Class,
    /// Whether it is recorded: of what comes in numbers, the first ones are.
    pub recorded: bool,
}

/// What one conversation has come to.
#[derive(Clone, Debug, Default)]
struct Score {
    seen: VecDeque<(u64, Signal)>,
    gravest: Option<Class>,
    suspended: bool,
}

impl Score {
    fn forget_old(&mut self, now_ms: u64) {
        while self.seen.front().is_some_and(|(at, _)| now_ms.saturating_sub(*at) >= WINDOW_MS) {
            self.seen.pop_front();
        }
    }

    fn count(&self, counts: impl Fn(Signal) -> bool) -> usize {
        self.seen.iter().filter(|(_, signal)| counts(*signal)).count()
    }
}

/// All conversations.
#[derive(Clone, Debug, Default)]
pub struct Table {
    scores: BTreeMap<SessionKey, Score>,
    /// Signals of the third class since the start, each with its container: a restart of sandboxd follows the first.
    doubts: Vec<(String, Signal)>,
}

impl Table {
    /// Takes a signal about a conversation's container at time `now_ms`. An empty key is a container that is nobody's yet.
    pub fn on(&mut self, now_ms: u64, session: &SessionKey, container: &str, signal: Signal) -> Reaction {
        if !self.scores.contains_key(session) {
            self.make_room();
        }
        let score = self.scores.entry(session.clone()).or_default();
        score.forget_old(now_ms);
        let low = |signal: Signal| signal.class() == Class::S1;
        // Each sort for itself: a flood of texts hides no fact, neither in the log nor in the count.
        let of_its_sort = score.count(|other| low(other) && other.is_text() == signal.is_text());
        let recorded = of_its_sort < RECORDED;
        if of_its_sort < KEPT || !low(signal) {
            score.seen.push_back((now_ms, signal));
        }
        let mut class = signal.class();
        let facts = score.count(|signal| low(signal) && !signal.is_text());
        let crowded = score.count(|signal| signal == Signal::ProcessLimit) >= 2;
        if class == Class::S1 && !signal.is_text() && (facts >= MANY || crowded) {
            class = Class::S2;
            score.seen.retain(|(_, signal)| !low(*signal) || signal.is_text());
        }
        if class == Class::S3 && self.is_second_doubt(container, signal) {
            class = Class::S4;
        }
        let score = self.scores.entry(session.clone()).or_default();
        score.gravest = score.gravest.max(Some(class));
        score.suspended |= class >= Class::S2;
        Reaction { class, recorded: recorded || class > Class::S1 }
    }

    /// Two doubts of different kinds are an escape. What somebody did to a container by way of the engine shows in it in
    /// other ways too, and they are one doubt.
    fn is_second_doubt(&mut self, container: &str, signal: Signal) -> bool {
        let one_act = |(other, kind): &(String, Signal)| {
            *kind == signal
                || (other == container && (*kind == Signal::ForeignAction || signal == Signal::ForeignAction))
        };
        let second = !self.doubts.iter().all(one_act);
        if self.doubts.len() < 64 {
            self.doubts.push((container.to_owned(), signal));
        }
        second
    }

    fn make_room(&mut self) {
        if self.scores.len() < REMEMBERED {
            return;
        }
        let quietest = self
            .scores
            .iter()
            .min_by_key(|(_, score)| (score.suspended, score.seen.back().map(|(at, _)| *at)))
            .map(|(session, _)| session.clone());
        if let Some(session) = quietest {
            self.scores.remove(&session);
        }
    }

    /// True where the conversation's sandbox is looked at more often.
    #[must_use]
    pub fn is_suspicious(&self, now_ms: u64, session: &SessionKey) -> bool {
        self.signals(now_ms, session) > 0
    }

    /// Signals of the conversation that still count.
    #[must_use]
    pub fn signals(&self, now_ms: u64, session: &SessionKey) -> usize {
        let seen = self.scores.get(session).map(|score| &score.seen).into_iter().flatten();
        seen.filter(|(at, _)| now_ms.saturating_sub(*at) < WINDOW_MS).count()
    }

    /// True where nothing of the conversation runs unasked any more.
    #[must_use]
    pub fn is_suspended(&self, session: &SessionKey) -> bool {
        self.scores.get(session).is_some_and(|score| score.suspended)
    }

    /// The vault keeps from now on that nothing of the conversation runs unasked, so that the operator can end it there.
    pub fn entrust(&mut self, session: &SessionKey) {
        if let Some(score) = self.scores.get_mut(session) {
            score.suspended = false;
        }
    }

    /// The gravest that the conversation came to.
    #[must_use]
    pub fn gravest(&self, session: &SessionKey) -> Option<Class> {
        self.scores.get(session).and_then(|score| score.gravest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::bounded::BoundedStr;

    fn key(name: &str) -> SessionKey {
        SessionKey(BoundedStr::truncated(name))
    }

    fn class(table: &mut Table, at: u64, signal: Signal) -> Class {
        table.on(at, &key("s"), "c", signal).class
    }

    #[test]
    fn each_signal_alone_leads_to_its_own_class() {
        for signal in Signal::ALL {
            assert_eq!(class(&mut Table::default(), 0, signal), signal.class(), "{signal:?}");
        }
    }

    #[test]
    fn five_facts_within_a_minute_are_a_violation_and_spread_out_they_are_not() {
        let mut table = Table::default();
        for at in 0..4 {
            assert_eq!(class(&mut table, at, Signal::MemoryLimit), Class::S1);
        }
        assert_eq!(class(&mut table, 5, Signal::MemoryLimit), Class::S2);
        assert!(table.is_suspended(&key("s")) && !table.is_suspended(&key("t")));
        assert_eq!(class(&mut table, 6, Signal::MemoryLimit), Class::S1, "a new count begins");
        let mut slow = Table::default();
        for at in 0..50 {
            assert_eq!(class(&mut slow, at * WINDOW_MS / 4, Signal::MemoryLimit), Class::S1);
        }
        assert_eq!(slow.gravest(&key("s")), Some(Class::S1));
    }

    #[test]
    fn suspension_that_the_vault_keeps_is_the_vault_s_to_end() {
        let mut table = Table::default();
        table.on(0, &key("s"), "c", Signal::SeccompKill);
        assert!(table.is_suspended(&key("s")));
        table.entrust(&key("s"));
        assert!(!table.is_suspended(&key("s")) && table.gravest(&key("s")) == Some(Class::S2));
    }

    #[test]
    fn process_limit_twice_is_a_violation() {
        let mut table = Table::default();
        assert_eq!(class(&mut table, 0, Signal::ProcessLimit), Class::S1);
        assert_eq!(class(&mut table, 1, Signal::ProcessLimit), Class::S2);
    }

    #[test]
    fn two_doubts_of_different_kinds_are_an_escape_and_one_act_is_one_doubt() {
        let mut table = Table::default();
        assert_eq!(class(&mut table, 0, Signal::Credentials), Class::S3);
        assert_eq!(class(&mut table, 1, Signal::Credentials), Class::S3);
        assert_eq!(class(&mut table, 2, Signal::Mounts), Class::S4);
        // A hand that starts root in a container: seen by the engine's event, and in /proc.
        let mut table = Table::default();
        assert_eq!(class(&mut table, 0, Signal::ForeignAction), Class::S3);
        assert_eq!(class(&mut table, 1, Signal::Credentials), Class::S3);
        assert_eq!(
            table.on(2, &key("t"), "other", Signal::Mounts).class,
            Class::S4,
            "another container is another doubt"
        );
    }

    #[test]
    fn texts_are_recorded_up_to_a_number_and_then_only_counted() {
        let mut table = Table::default();
        let recorded = (0..100).filter(|at| table.on(*at, &key("s"), "", Signal::OutputText).recorded).count();
        assert_eq!(recorded, RECORDED);
        assert_eq!(table.signals(100, &key("s")), 100);
        assert!(table.is_suspicious(100, &key("s")) && !table.is_suspicious(100 + WINDOW_MS, &key("s")));
    }

    #[test]
    fn remembered_conversations_are_bounded_and_a_suspended_one_stays() {
        let mut table = Table::default();
        table.on(0, &key("bad"), "", Signal::SeccompKill);
        for number in 0..1_000u64 {
            table.on(number, &key(&number.to_string()), "", Signal::OutputText);
        }
        assert!(table.scores.len() <= REMEMBERED && table.is_suspended(&key("bad")));
    }

    proptest! {
        /// Whatever texts come, in whatever order and number, beside whatever facts of the lowest class of others.
        #[test]
        fn texts_never_exceed_the_lowest_class(
            steps in prop::collection::vec((0u64..100_000, 0usize..3, 0usize..3), 1..300),
        ) {
            let (mut table, mut now) = (Table::default(), 0);
            for (passed, what, who) in steps {
                now += passed;
                let signal = [Signal::OutputText, Signal::CommandText, Signal::SaidKill][what];
                let session = key(["a", "b", ""][who]);
                prop_assert_eq!(table.on(now, &session, "c", signal).class, Class::S1);
                prop_assert!(!table.is_suspended(&session));
            }
        }

        /// Texts among facts change nothing about what the facts come to.
        #[test]
        fn facts_come_to_the_same_with_texts_among_them(
            steps in prop::collection::vec((0u64..20_000, 0usize..Signal::ALL.len()), 1..200),
        ) {
            let (mut with, mut without, mut now) = (Table::default(), Table::default(), 0);
            for (passed, at) in steps {
                now += passed;
                let signal = Signal::ALL[at];
                let class = with.on(now, &key("s"), "c", signal).class;
                prop_assert!(class >= signal.class());
                if !signal.is_text() {
                    prop_assert_eq!(class, without.on(now, &key("s"), "c", signal).class);
                }
            }
        }
    }
}
