//! Calls of tools, out of the pieces in which a model streams them. Names, ids and arguments are a stranger's text: bounded here,
//! and what is no call is one all the same, with its flaw, so that the model hears of it.

use serde_json::{Map, Value};

/// Calls in one reply at most.
pub const MAX_CALLS: usize = 16;
/// Bytes of arguments of one reply; they are said back to the model with the results, in one request.
const MAX_ARGUMENTS: usize = 48 * 1024;
/// Longest name, and longest id.
const MAX_NAME: usize = 64;

/// More calls than are carried out.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it asked for more than {MAX_CALLS} tools at once")]
pub struct TooMany;

/// Why a call cannot be carried out, whatever it names.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Flaw {
    /// Cut off, or never JSON.
    #[error("the arguments are not a JSON object; call again with whole arguments")]
    NotJson,
    /// Over the bound.
    #[error("the arguments of one reply are over {MAX_ARGUMENTS} bytes; do it in smaller parts")]
    TooLong,
}

/// A call of a tool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Call {
    /// What its result is given back under.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// With what; empty where it has a flaw.
    pub arguments: Map<String, Value>,
    /// Why it is not carried out.
    pub flaw: Option<Flaw>,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Part {
    index: u64,
    id: String,
    name: String,
    arguments: String,
    cut: bool,
}

/// Calls under way.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Parts {
    parts: Vec<Part>,
    size: usize,
}

/// As much of a name as is one: providers take no other characters back.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).take(MAX_NAME).collect()
}

impl Parts {
    /// A call begins at this place, or goes on there: some repeat id and name with each piece.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn begin(&mut self, index: u64, id: &str, name: &str) -> Result<(), TooMany> {
        let id = plain(id);
        if let Some(part) = self.last(index) {
            // Another id at the same place is another call: not everybody counts.
            if id.is_empty() || part.id == id {
                if part.name.is_empty() {
                    part.name = plain(name);
                }
                return Ok(());
            }
        }
        if self.parts.len() >= MAX_CALLS {
            return Err(TooMany);
        }
        self.parts.push(Part { index, id, name: plain(name), ..Part::default() });
        Ok(())
    }

    /// More of the arguments of the call at this place.
    pub fn more(&mut self, index: u64, text: &str) {
        self.size = self.size.saturating_add(text.len());
        let fits = self.size <= MAX_ARGUMENTS;
        if let Some(part) = self.last(index) {
            if fits {
                part.arguments.push_str(text);
            } else {
                part.cut = true;
            }
        }
    }

    fn last(&mut self, index: u64) -> Option<&mut Part> {
        self.parts.iter_mut().rev().find(|part| part.index == index)
    }

    /// All of them, in order, each with an id of its own.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = Vec::new();
        for part in &self.parts {
            let taken = |id: &str| calls.iter().any(|call| call.id == id);
            let id = if part.id.is_empty() || taken(&part.id) {
                format!("call_{}", crate::sessions::uuid().replace('-', ""))
            } else {
                part.id.clone()
            };
            let text = if part.arguments.trim().is_empty() { "{}" } else { part.arguments.as_str() };
            let (arguments, flaw) = match serde_json::from_str(text) {
                _ if part.cut => (Map::new(), Some(Flaw::TooLong)),
                Ok(Value::Object(arguments)) => (arguments, None),
                _ => (Map::new(), Some(Flaw::NotJson)),
            };
            let name = if part.name.is_empty() { "unnamed".to_owned() } else { part.name.clone() };
            calls.push(Call { id, name, arguments, flaw });
        }
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pieces_become_calls_in_order() {
        let mut parts = Parts::default();
        parts.begin(1, "a", "exec").unwrap();
        parts.begin(2, "b", "read").unwrap();
        parts.more(2, r#"{"path""#);
        parts.more(1, r#"{"command":"ls"}"#);
        // Repeated with each piece, as some do.
        parts.begin(2, "b", "read").unwrap();
        parts.more(2, r#":"x"}"#);
        let calls = parts.calls();
        assert_eq!(calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>(), ["exec", "read"]);
        assert_eq!((&calls[0].arguments["command"], &calls[1].arguments["path"]), (&"ls".into(), &"x".into()));
        assert!(calls.iter().all(|call| call.flaw.is_none()));
    }

    #[test]
    fn flaws_are_named_and_the_sound_call_beside_them_is_sound() {
        let mut parts = Parts::default();
        for (index, text) in [(0, "{\"command\":"), (1, "[1]"), (2, "{}"), (3, "")] {
            parts.begin(index, "", "exec").unwrap();
            parts.more(index, text);
        }
        parts.begin(4, "x/../y", "").unwrap();
        parts.more(4, &"x".repeat(MAX_ARGUMENTS));
        let calls = parts.calls();
        let flaws: Vec<_> = calls.iter().map(|call| call.flaw).collect();
        assert_eq!(flaws, [Some(Flaw::NotJson), Some(Flaw::NotJson), None, None, Some(Flaw::TooLong)]);
        assert_eq!((calls[4].id.as_str(), calls[4].name.as_str()), ("xy", "unnamed"));
        let mut ids: Vec<_> = calls.iter().map(|call| call.id.clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 5);
    }

    #[test]
    fn calls_at_one_place_with_other_ids_are_two_and_there_is_a_bound() {
        let mut parts = Parts::default();
        for id in 0..MAX_CALLS {
            parts.begin(0, &format!("id{id}"), "ls").unwrap();
        }
        assert_eq!(parts.begin(0, "one more", "ls"), Err(TooMany));
        assert_eq!(parts.calls().len(), MAX_CALLS);
    }

    proptest! {
        #[test]
        fn any_pieces_give_calls_with_names_and_ids_of_their_own(pieces in prop::collection::vec((0u64..4, ".{0,9}", ".{0,9}", ".{0,30}"), 0..40)) {
            let mut parts = Parts::default();
            for (index, id, name, text) in pieces {
                let _ = parts.begin(index, &id, &name);
                parts.more(index, &text);
            }
            let calls = parts.calls();
            prop_assert!(calls.len() <= MAX_CALLS);
            for (at, call) in calls.iter().enumerate() {
                prop_assert!(!call.id.is_empty() && !call.name.is_empty());
                prop_assert!(calls.iter().skip(at + 1).all(|other| other.id != call.id));
            }
        }
    }
}
