//! What a model may ask for, and having it done. A call is a stranger's wish: which tools a conversation has is sandboxd's
//! word, and sandboxd judges each call again. What cannot be done is told to the model as a result, so that it can do otherwise.

mod args;
mod exec;
mod files;
mod schemas;
mod sessions;
mod web;

use crate::agent::Plan;
use crate::model::calls::Call;
use crate::model::talk::Outcome;
use crate::state::Gateway;
use crate::turn::Turn;
use proto::bounded::BoundedStr;
use proto::ids::SessionKey;
use proto::sandbox::{SandboxReply, SandboxRequest};
pub use schemas::Tool;
use serde_json::{Value, json};
use std::time::Duration;

/// How long sandboxd may take to say what a conversation may use.
const OFFER_WAIT: Duration = Duration::from_secs(15);
/// Bytes of a result that a model is given; of a longer one, its two ends.
const MAX_RESULT: usize = 16 * 1024;

/// What came of a call.
#[derive(Debug)]
pub(crate) struct Ran {
    text: String,
    is_error: bool,
    /// For clients.
    details: Value,
}

impl Ran {
    fn ok(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false, details: Value::Null }
    }

    fn error(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: true, details: Value::Null }
    }

    fn with(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

impl From<String> for Ran {
    /// Of an argument that is none.
    fn from(why: String) -> Self {
        Self::error(why)
    }
}

/// The turn was stopped meanwhile.
#[derive(Debug)]
pub(crate) struct Stopped;

/// What a conversation may use.
pub(crate) struct Offer {
    /// The tools.
    pub(crate) tools: Vec<&'static Tool>,
    /// What people say in it is a stranger's.
    pub(crate) outside: bool,
}

pub(crate) fn session_key(session: &str) -> SessionKey {
    SessionKey(BoundedStr::truncated(session))
}

/// Asks sandboxd what the conversation may use. Nothing, where it does not say.
pub(crate) async fn offered(gateway: &Gateway, session: &str) -> Offer {
    let request = SandboxRequest::Tools { session: session_key(session) };
    match gateway.sandbox.call(&request, OFFER_WAIT).await {
        Ok(SandboxReply::Tools { names, outside }) => {
            let tools = schemas::ALL.iter().filter(|tool| names.iter().any(|name| name.as_str() == tool.name));
            Offer { tools: tools.collect(), outside }
        }
        _ => Offer { tools: Vec::new(), outside: true },
    }
}

/// Text in no more bytes than a model is given: its beginning, how much is missing, its end.
fn ends(text: &str) -> String {
    if text.len() <= MAX_RESULT {
        return text.to_owned();
    }
    let half = MAX_RESULT / 2;
    let (head, tail) = (text.floor_char_boundary(half), text.ceil_char_boundary(text.len().saturating_sub(half)));
    let (head, missing, tail) =
        (text.get(..head).unwrap_or_default(), tail.saturating_sub(head), text.get(tail..).unwrap_or_default());
    format!("{head}\n[{missing} bytes are left out here]\n{tail}")
}

/// Carries a call out, and tells clients of it.
pub(crate) async fn run(turn: &mut Turn<'_>, plan: &Plan, offer: &Offer, call: &Call) -> Result<Outcome, Stopped> {
    turn.gateway.kept.forget(turn.session);
    turn.tool(&json!({"phase": "start", "name": call.name, "toolCallId": call.id, "args": call.arguments}), false);
    let ran = if let Some(flaw) = call.flaw {
        Ok(Ran::error(flaw.to_string()))
    } else if !offer.tools.iter().any(|tool| tool.name == call.name) {
        let names: Vec<&str> = offer.tools.iter().map(|tool| tool.name).collect();
        Ok(Ran::error(format!("there is no tool {} here; there are: {}", call.name, names.join(", "))))
    } else {
        match call.name.as_str() {
            "exec" => exec::exec(turn, plan, call).await,
            "web_fetch" => web::fetch(turn, plan, call).await,
            "process" => exec::process(turn, plan, call).await,
            "sessions_list" | "sessions_history" => Ok(sessions::run(turn.gateway, turn.session, call).await),
            "sessions_send" => sessions::send(turn, plan, call).await,
            _ => files::run(turn, plan, call).await,
        }
    };
    let ran = match ran {
        Ok(ran) => ran,
        Err(Stopped) => {
            turn.tool(
                &json!({"phase": "result", "name": call.name, "toolCallId": call.id, "isError": true,
                    "result": {"content": [{"type": "text", "text": "stopped"}]}}),
                false,
            );
            return Err(Stopped);
        }
    };
    let text = ends(&ran.text);
    let content = json!([{"type": "text", "text": text}]);
    turn.tool(
        &json!({"phase": "result", "name": call.name, "toolCallId": call.id, "isError": ran.is_error,
            "result": {"content": content, "details": ran.details}}),
        false,
    );
    Ok(Outcome { id: call.id.clone(), name: call.name.clone(), text, is_error: ran.is_error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_result_keeps_both_ends_and_says_what_is_missing() {
        assert_eq!(ends("short"), "short");
        let long = format!("begin{}end", "é".repeat(20_000));
        let kept = ends(&long);
        assert!(kept.starts_with("beginé") && kept.ends_with("éend") && kept.len() < MAX_RESULT + 60);
        assert!(kept.contains("bytes are left out here"));
    }
}
