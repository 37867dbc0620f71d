//! Whose act an event of the engine is: sandboxd's own, or a foreign hand's. Pure.
//!
//! An event may come before the answer to the call that caused it, so a call is announced before it is made. An exec has a
//! number of its own, and one that no answer named is foreign; while an announced call has no answer yet, an unknown number
//! waits for it. Other acts have no number: each may come as often as it was announced.

use std::collections::{BTreeMap, BTreeSet};

/// What an event is about, as far as it matters whose it is.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Act {
    /// A process was made in the container, or started; its number.
    Exec(String),
    /// Something that changes a container or reaches into it.
    Other(Kind),
}

/// Acts without a number.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Its streams were taken.
    Attach,
    /// It was started.
    Start,
    /// It was let go on.
    Unpause,
    /// Files were copied into it.
    CopyIn,
    /// Files were copied out of it.
    CopyOut,
    /// An image was made of it.
    Commit,
    /// Its files were taken as an archive.
    Export,
    /// It has another name.
    Rename,
    /// Its limits were changed.
    Update,
    /// It was started again.
    Restart,
    /// It was written to disk as it ran.
    Checkpoint,
}

impl Kind {
    /// As the engine calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attach => "attach",
            Self::Start => "start",
            Self::Unpause => "unpause",
            Self::CopyIn => "extract-to-dir",
            Self::CopyOut => "archive-path",
            Self::Commit => "commit",
            Self::Export => "export",
            Self::Rename => "rename",
            Self::Update => "update",
            Self::Restart => "restart",
            Self::Checkpoint => "checkpoint",
        }
    }

    const ALL: [Self; 11] = [
        Self::Attach,
        Self::Start,
        Self::Unpause,
        Self::CopyIn,
        Self::CopyOut,
        Self::Commit,
        Self::Export,
        Self::Rename,
        Self::Update,
        Self::Restart,
        Self::Checkpoint,
    ];
}

/// The act of an event; none where it is no matter whose it is, as of one that ends a container, or looks at it.
#[must_use]
pub fn act(action: &str, exec: Option<&str>) -> Option<Act> {
    // Behind the colon stands the command, which is a stranger's.
    let name = action.split(':').next().unwrap_or_default().trim();
    match name {
        "exec_create" | "exec_start" => Some(Act::Exec(exec.unwrap_or_default().to_owned())),
        "copy" => Some(Act::Other(Kind::CopyIn)),
        name => Kind::ALL.into_iter().find(|kind| kind.name() == name).map(Act::Other),
    }
}

/// What an act is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Whose {
    /// sandboxd asked for it.
    Own,
    /// It is known when a call that is under way has its answer.
    Unclear,
    /// Nobody here asked for it.
    Foreign,
}

#[derive(Clone, Debug, Default)]
struct Container {
    /// Exec calls without an answer.
    open: usize,
    execs: BTreeSet<String>,
    /// Numbers that came while a call was open.
    waiting: BTreeSet<String>,
    allowed: BTreeMap<Kind, usize>,
}

/// Containers that sandboxd made, and what it asked for of each.
#[derive(Clone, Debug, Default)]
pub struct Own(BTreeMap<String, Container>);

impl Own {
    /// A container was made; nothing was done with it yet.
    pub fn made(&mut self, container: &str) {
        self.0.entry(container.to_owned()).or_default();
    }

    /// It is gone, or on its way.
    pub fn forget(&mut self, container: &str) {
        self.0.remove(container);
    }

    /// True where sandboxd made it.
    #[must_use]
    pub fn knows(&self, container: &str) -> bool {
        self.0.contains_key(container)
    }

    /// An act without a number is about to be asked for.
    pub fn announce(&mut self, container: &str, kind: Kind) {
        if let Some(container) = self.0.get_mut(container) {
            let allowed = container.allowed.entry(kind).or_default();
            *allowed = allowed.saturating_add(1);
        }
    }

    /// An exec is about to be made.
    pub fn announce_exec(&mut self, container: &str) {
        if let Some(container) = self.0.get_mut(container) {
            container.open = container.open.saturating_add(1);
        }
    }

    /// The answer to an announced exec: its number, or none where it failed. Returns numbers that came meanwhile and are
    /// nobody's. A call without an answer may have made one all the same, so it excuses one.
    pub fn answered(&mut self, container: &str, exec: Option<&str>) -> Vec<String> {
        let Some(container) = self.0.get_mut(container) else { return Vec::new() };
        container.open = container.open.saturating_sub(1);
        match exec {
            Some(exec) => {
                container.waiting.remove(exec);
                container.execs.insert(exec.to_owned());
            }
            None => {
                let excused = container.waiting.pop_first();
                container.execs.extend(excused);
            }
        }
        if container.open > 0 {
            return Vec::new();
        }
        std::mem::take(&mut container.waiting).into_iter().collect()
    }

    /// Whose act an event on a container is. One that sandboxd did not make is not watched.
    pub fn on_event(&mut self, container: &str, act: &Act) -> Whose {
        let Some(container) = self.0.get_mut(container) else { return Whose::Own };
        match act {
            Act::Exec(exec) if container.execs.contains(exec) => Whose::Own,
            Act::Exec(exec) if container.open > 0 => {
                container.waiting.insert(exec.clone());
                Whose::Unclear
            }
            Act::Exec(_) => Whose::Foreign,
            Act::Other(kind) => match container.allowed.get_mut(kind) {
                Some(allowed) if *allowed > 0 => {
                    *allowed = allowed.saturating_sub(1);
                    Whose::Own
                }
                _ => Whose::Foreign,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: &str = "c";

    fn exec(number: &str) -> Act {
        Act::Exec(number.to_owned())
    }

    fn own() -> Own {
        let mut own = Own::default();
        own.made(ID);
        own
    }

    #[test]
    fn events_are_read_and_the_command_in_them_is_not() {
        assert_eq!(act("exec_create: sh -c attach", Some("e1")), Some(exec("e1")));
        assert_eq!(act("exec_start: true ", None), Some(exec("")));
        assert_eq!(act("archive-path", None), Some(Act::Other(Kind::CopyOut)));
        for calm in
            ["create", "die", "kill", "destroy", "top", "pause", "exec_die", "resize", "oom", "health_status: healthy"]
        {
            assert_eq!(act(calm, None), None, "{calm}");
        }
        for kind in Kind::ALL {
            assert_eq!(act(kind.name(), None), Some(Act::Other(kind)));
        }
    }

    #[test]
    fn act_is_own_as_often_as_it_was_announced() {
        let mut own = own();
        own.announce(ID, Kind::Attach);
        assert_eq!(own.on_event(ID, &Act::Other(Kind::Attach)), Whose::Own);
        assert_eq!(own.on_event(ID, &Act::Other(Kind::Attach)), Whose::Foreign);
        assert_eq!(own.on_event(ID, &Act::Other(Kind::CopyIn)), Whose::Foreign);
        assert_eq!(own.on_event("someone else's", &Act::Other(Kind::CopyIn)), Whose::Own);
    }

    #[test]
    fn exec_is_known_by_its_number_whether_event_or_answer_comes_first() {
        let mut own = own();
        own.announce_exec(ID);
        assert_eq!(own.on_event(ID, &exec("mine")), Whose::Unclear);
        assert!(own.answered(ID, Some("mine")).is_empty());
        assert_eq!(own.on_event(ID, &exec("mine")), Whose::Own);
        assert_eq!(own.on_event(ID, &exec("foreign")), Whose::Foreign);
        own.announce_exec(ID);
        assert_eq!(own.on_event(ID, &exec("foreign")), Whose::Unclear);
        assert_eq!(own.answered(ID, Some("second")), ["foreign"]);
    }

    #[test]
    fn call_without_an_answer_excuses_one_and_no_more() {
        let mut own = own();
        own.announce_exec(ID);
        assert_eq!(own.on_event(ID, &exec("perhaps mine")), Whose::Unclear);
        assert_eq!(own.on_event(ID, &exec("surely not")), Whose::Unclear);
        assert_eq!(own.answered(ID, None).len(), 1);
    }

    proptest! {
        /// Any interleaving of own calls, their answers, their events, and foreign events: no own one is called foreign, and
        /// every foreign one is by the time that no call is open.
        #[test]
        fn no_own_exec_is_foreign_and_no_foreign_one_is_missed(order in prop::collection::vec(0u8..4, 1..200)) {
            let (mut own, mut open, mut answered, mut foreign, mut found) = (own(), Vec::new(), Vec::new(), 0, 0);
            let mut next = 0;
            for step in order {
                match step {
                    0 => {
                        own.announce_exec(ID);
                        open.push(format!("own{next}"));
                        next += 1;
                    }
                    1 => if let Some(number) = open.pop() {
                        let found_now = own.answered(ID, Some(&number));
                        prop_assert!(found_now.iter().all(|number| number.starts_with("bad")));
                        found += found_now.len();
                        answered.push(number);
                    },
                    2 => for number in open.iter().chain(&answered) {
                        prop_assert_ne!(own.on_event(ID, &exec(number)), Whose::Foreign);
                    },
                    _ => {
                        foreign += 1;
                        match own.on_event(ID, &exec(&format!("bad{foreign}"))) {
                            Whose::Foreign => found += 1,
                            Whose::Unclear => {}
                            Whose::Own => prop_assert!(false, "taken for an own one"),
                        }
                    }
                }
            }
            while let Some(number) = open.pop() {
                found += own.answered(ID, Some(&number)).len();
            }
            prop_assert_eq!(found, foreign);
        }
    }
}
