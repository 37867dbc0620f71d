//! A conversation as a model is to see it: what people said, what models answered and asked for, what came of that. All of it
//! came from outside but for who said what, and that is what this keeps apart.

use crate::model::calls::Call;
use crate::model::reply::Usage;
use serde_json::Value;

/// Messages of a conversation that are looked at.
pub const HISTORY: usize = 200;
/// Why a model stopped that did not: its turn failed, and what stands there is for the person alone.
pub const FAILED: &str = "error";
/// Who says what a conversation came to before it was made shorter.
pub const SUMMARY: &str = "compactionSummary";

/// What came of a call.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// Of which call.
    pub id: String,
    /// Which tool.
    pub name: String,
    /// What it printed, or why it did not.
    pub text: String,
    /// It did not do what it should.
    pub is_error: bool,
}

/// An image, as a person sent it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// `image/png` and the like.
    pub kind: String,
    /// Base64.
    pub data: String,
}

/// One part of a conversation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// A person's words.
    Person(String, Vec<Image>),
    /// A model's.
    Model {
        /// What it said.
        text: String,
        /// Which tools it asked for; results follow, one each.
        calls: Vec<Call>,
        /// Its thoughts, for the model of this name alone.
        thoughts: Vec<Value>,
        /// Name of the model.
        by: String,
    },
    /// What came of the calls before it.
    Results(Vec<Outcome>),
}

/// A conversation for a model.
#[derive(Clone, Debug, Default)]
pub struct Talk {
    /// Its parts, the oldest first.
    pub items: Vec<Item>,
    /// Marks where text of others begins and ends.
    pub fence: String,
    /// What people say here is a stranger's as well.
    pub outside: bool,
}

fn text<'v>(message: &'v Value, path: &str) -> &'v str {
    message.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// The newest value that stands beside a message under this name.
fn newest<'v>(history: &'v [Value], name: &str) -> Option<&'v Value> {
    history.iter().rev().find_map(|message| message.get(name))
}

/// The model that was chosen for a conversation last, if one was.
#[must_use]
pub fn chosen(history: &[Value]) -> Option<&str> {
    newest(history, "modelOverride")?.as_str()
}

/// How much thought was chosen for a conversation last, if any was.
#[must_use]
pub fn thinking(history: &[Value]) -> Option<&str> {
    newest(history, "thinkingLevel")?.as_str()
}

/// What a conversation has cost: each answer of a model carries the sum.
#[must_use]
pub fn spent(history: &[Value]) -> Usage {
    let sum = newest(history, "sessionUsage");
    let number = |kind| sum.and_then(|sum| sum.get(kind)).and_then(Value::as_u64).unwrap_or_default();
    Usage { input: number("input"), output: number("output"), nanodollars: number("nanodollars") }
}

/// The parts of a message: its text, its images, the calls in it.
fn parts(message: &Value) -> (String, Vec<Image>, Vec<Call>) {
    let (mut said, mut images, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for part in message.get("content").and_then(Value::as_array).into_iter().flatten() {
        match text(part, "/type") {
            "text" => said.push(text(part, "/text")),
            "image" => {
                images.push(Image { kind: text(part, "/mimeType").to_owned(), data: text(part, "/data").to_owned() });
            }
            "toolCall" => calls.push(Call {
                id: text(part, "/id").to_owned(),
                name: text(part, "/name").to_owned(),
                arguments: part.get("arguments").and_then(Value::as_object).cloned().unwrap_or_default(),
                flaw: None,
            }),
            _ => {}
        }
    }
    (said.join("\n"), images, calls)
}

impl Talk {
    /// From a transcript, whose last message is the person's. Commands to Moltbot itself are nothing to a model, and neither
    /// is what it said where a model failed.
    #[must_use]
    pub fn of(history: &[Value], fence: &str, outside: bool) -> Self {
        let mut talk = Self { items: Vec::new(), fence: fence.to_owned(), outside };
        let mut command = false;
        for message in history {
            let (said, images, calls) = parts(message);
            let role = text(message, "/role");
            if role == "user" {
                command = said.trim_start().starts_with('/') && !said.trim_start().starts_with("/exec ");
            }
            if role == SUMMARY {
                let keeps = message.get("keepsLast").and_then(Value::as_bool).unwrap_or_default();
                let last = talk.items.pop().filter(|_| keeps);
                talk.shortened(message, last);
                continue;
            }
            if command || (role == "assistant" && text(message, "/stopReason") == FAILED) {
                continue;
            }
            match role {
                "user" => talk.person(&said, images),
                "assistant" => talk.model(said, calls, Vec::new(), String::new()),
                "toolResult" => talk.result(Outcome {
                    id: text(message, "/toolCallId").to_owned(),
                    name: text(message, "/toolName").to_owned(),
                    text: said,
                    is_error: message.get("isError").and_then(Value::as_bool).unwrap_or_default(),
                }),
                _ => {}
            }
        }
        talk.mend();
        talk
    }

    /// Goes on from a summary, and from the last message where it is not in that.
    pub fn shortened(&mut self, summary: &Value, last: Option<Item>) {
        self.items.clear();
        let said = format!("What was said before, in short:\n\n{}", parts(summary).0);
        self.items.push(Item::Person(said, Vec::new()));
        if let Some(Item::Person(said, images)) = last {
            self.person(&said, images);
        }
    }

    fn person(&mut self, said: &str, images: Vec<Image>) {
        if said.trim().is_empty() && images.is_empty() {
            return;
        }
        match self.items.last_mut() {
            Some(Item::Person(last, pictures)) => {
                last.push_str("\n\n");
                last.push_str(said);
                pictures.extend(images);
            }
            _ => self.items.push(Item::Person(said.to_owned(), images)),
        }
    }

    /// A model answered, or asked for tools.
    pub fn model(&mut self, said: String, calls: Vec<Call>, thoughts: Vec<Value>, by: String) {
        if said.trim().is_empty() && calls.is_empty() {
            return;
        }
        match self.items.last_mut() {
            // A conversation begins with a person.
            None => {}
            Some(Item::Model { text, calls: asked, .. }) if asked.is_empty() => {
                text.push_str("\n\n");
                text.push_str(&said);
                *asked = calls;
            }
            Some(_) => self.items.push(Item::Model { text: said, calls, thoughts, by }),
        }
    }

    /// Something came of a call.
    pub fn result(&mut self, outcome: Outcome) {
        match self.items.last_mut() {
            Some(Item::Results(outcomes)) => outcomes.push(outcome),
            Some(Item::Model { calls, .. }) if !calls.is_empty() => self.items.push(Item::Results(vec![outcome])),
            _ => {}
        }
    }

    /// Every call gets one result: a turn may have been stopped, or gateway have died, between the two.
    fn mend(&mut self) {
        let mut items = Vec::with_capacity(self.items.len());
        let mut waiting: Vec<Call> = Vec::new();
        for item in std::mem::take(&mut self.items) {
            let came = match &item {
                Item::Results(outcomes) => outcomes.as_slice(),
                _ => &[],
            };
            if !waiting.is_empty() {
                let outcomes = std::mem::take(&mut waiting).into_iter().map(|call| {
                    came.iter().find(|outcome| outcome.id == call.id).cloned().unwrap_or_else(|| Outcome {
                        id: call.id,
                        name: call.name,
                        text: "the turn was ended before this call did; what it did is not known".to_owned(),
                        is_error: true,
                    })
                });
                items.push(Item::Results(outcomes.collect()));
            }
            match item {
                Item::Results(_) => continue,
                Item::Model { ref calls, .. } => waiting.clone_from(calls),
                Item::Person(..) => {}
            }
            items.push(item);
        }
        self.items = items;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(role: &str, text: &str) -> Value {
        json!({"role": role, "content": [{"type": "text", "text": text}], "timestamp": 0})
    }

    fn call(id: &str) -> Value {
        json!({"role": "assistant", "content": [
            {"type": "text", "text": "let me see"},
            {"type": "toolCall", "id": id, "name": "exec", "arguments": {"command": "ls"}},
        ]})
    }

    fn result(id: &str, text: &str) -> Value {
        json!({"role": "toolResult", "toolCallId": id, "toolName": "exec", "isError": false,
            "content": [{"type": "text", "text": text}]})
    }

    #[test]
    fn talk_alternates_and_leaves_commands_and_failures_out() {
        let mut failed = line("assistant", "p/m: it answered 500");
        failed["stopReason"] = FAILED.into();
        let history = [
            line("assistant", "left over"),
            line("user", "one"),
            failed,
            line("user", "two"),
            line("assistant", "three"),
            line("user", "/model p/m"),
            line("assistant", "set"),
            line("user", "/exec ls"),
            line("assistant", "a.txt"),
            line("user", "four"),
        ];
        let said: Vec<String> = Talk::of(&history, "", false)
            .items
            .into_iter()
            .map(|item| match item {
                Item::Person(said, _) => said,
                Item::Model { text, .. } => text,
                Item::Results(_) => panic!("there are none"),
            })
            .collect();
        assert_eq!(said, ["one\n\ntwo", "three", "/exec ls", "a.txt", "four"]);
    }

    #[test]
    fn every_call_has_one_result_and_every_result_a_call() {
        let history = [
            line("user", "list"),
            result("lost", "of nothing"),
            call("a"),
            result("b", "of another"),
            result("a", "a.txt"),
            call("c"),
            line("user", "are you there?"),
            call("d"),
        ];
        let talk = Talk::of(&history, "", false);
        let results: Vec<_> = talk
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Results(outcomes) => {
                    Some(outcomes.iter().map(|o| (o.id.as_str(), o.is_error)).collect::<Vec<_>>())
                }
                _ => None,
            })
            .collect();
        assert_eq!(results, [vec![("a", false)], vec![("c", true)]]);
        assert!(matches!(talk.items.last(), Some(Item::Model { calls, .. }) if calls[0].id == "d"));
    }

    #[test]
    fn summary_stands_for_what_was_before_it() {
        let history = [line("user", "old"), line("assistant", "older"), line(SUMMARY, "they met"), line("user", "new")];
        let talk = Talk::of(&history, "", false);
        let mut kept = line(SUMMARY, "they met");
        kept["keepsLast"] = true.into();
        let automatic =
            Talk::of(&[line("user", "old"), line("assistant", "older"), line("user", "new"), kept], "", false);
        assert_eq!(talk.items, automatic.items);
        assert_eq!(
            talk.items,
            [Item::Person("What was said before, in short:\n\nthey met\n\nnew".to_owned(), Vec::new())]
        );
    }

    #[test]
    fn choice_and_cost_are_in_the_transcript() {
        let mut chose = line("assistant", "set");
        chose["modelOverride"] = "p/m".into();
        let mut cost = line("assistant", "x");
        cost["sessionUsage"] = json!({"input": 5, "output": 7, "nanodollars": 9});
        let history = [chose, cost, line("assistant", "of a command")];
        assert_eq!(chosen(&history), Some("p/m"));
        assert_eq!(spent(&history), Usage { input: 5, output: 7, nanodollars: 9 });
        assert_eq!((chosen(&[line("user", "x")]), spent(&[])), (None, Usage::default()));
    }
}
