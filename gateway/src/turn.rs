//! What a turn has said so far, what of it the clients know, and what of it is written down. A turn may be of several messages,
//! where a model used tools between them: clients see one text that grows, the transcript keeps each message and each result.

use crate::agent::Plan;
use crate::model::calls::Call;
use crate::model::talk::Outcome;
use crate::sessions::{SessionError, now_ms};
use crate::state::{Gateway, log};
use crate::text::Answer;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Least time between two deltas.
pub(crate) const THROTTLE: Duration = Duration::from_millis(150);

/// How a turn ended.
pub(crate) enum End {
    Final,
    Aborted,
    Error(String),
}

/// What a turn has said so far, and what of it the clients know.
pub(crate) struct Turn<'a> {
    pub(crate) gateway: &'a Arc<Gateway>,
    run_id: &'a str,
    pub(crate) session: &'a str,
    /// What the transcript has beside the answer's text.
    pub(crate) more: Value,
    seq: u64,
    answer: Answer,
    /// Where in the answer the message begins that is not written down yet.
    mark: usize,
    unsent: String,
    sent_at: Option<Instant>,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(gateway: &'a Arc<Gateway>, plan: &'a Plan) -> Self {
        let (run_id, session) = (plan.run_id.as_str(), plan.session.as_str());
        let (answer, unsent, more) = (Answer::default(), String::new(), Value::Null);
        Self { gateway, run_id, session, more, seq: 0, answer, mark: 0, unsent, sent_at: None }
    }

    pub(crate) fn say(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        let gap = self.mark > 0 && self.answer.as_str().len() == self.mark && !self.answer.as_str().ends_with('\n');
        let mut added = if gap { self.answer.push("\n\n") } else { String::new() };
        added.push_str(&self.answer.push(text));
        self.unsent.push_str(&added);
        if self.flush_at().is_some_and(|at| at <= Instant::now()) {
            self.flush();
        }
    }

    /// A line of Moltbot's own.
    pub(crate) fn note(&mut self, line: &str) {
        let added = self.answer.note(line);
        self.unsent.push_str(&added);
    }

    /// What was said and is not written down yet.
    fn current(&self) -> &str {
        self.answer.as_str().get(self.mark..).unwrap_or_default().trim_start_matches('\n')
    }

    /// All that was said.
    pub(crate) fn said(&self) -> &str {
        self.answer.as_str()
    }

    /// True where nothing was said since something was written down.
    pub(crate) fn is_silent(&self) -> bool {
        self.current().trim().is_empty()
    }

    /// Writes a message down that asks for tools, with `more` beside it. Returns its text.
    pub(crate) fn keep(&mut self, calls: &[Call], more: &Value) -> Result<String, SessionError> {
        self.flush();
        let text = self.current().to_owned();
        let mut content = Vec::new();
        if !text.trim().is_empty() {
            content.push(json!({"type": "text", "text": text}));
        }
        content.extend(
            calls
                .iter()
                .map(|call| json!({"type": "toolCall", "id": call.id, "name": call.name, "arguments": call.arguments})),
        );
        self.gateway.sessions().record_content(self.session, "assistant", content, more)?;
        self.mark = self.answer.as_str().len();
        Ok(text)
    }

    /// Writes down what came of a call.
    pub(crate) fn keep_result(&self, outcome: &Outcome) -> Result<(), SessionError> {
        let more = json!({"toolCallId": outcome.id, "toolName": outcome.name, "isError": outcome.is_error});
        self.gateway.sessions().record_with(self.session, "toolResult", &outcome.text, &more).map(drop)
    }

    /// Tells clients of a tool: its beginning, its progress, its result.
    pub(crate) fn tool(&mut self, data: &Value, droppable: bool) {
        let event = self.agent("tool", data);
        for protocol in [3, 4] {
            self.gateway.hub.event_for(protocol, "agent", &event, droppable);
        }
        self.seq = self.seq.saturating_add(1);
    }

    /// True where more was said than is shown.
    pub(crate) const fn is_cut(&self) -> bool {
        self.answer.is_cut()
    }

    pub(crate) fn refused(&mut self, refusal: &proto::edge::Refusal) -> End {
        let line = format!("refused ({}): {}\n`{}` says more", refusal.rule, refusal.message, refusal.explained_by());
        self.note(&line);
        End::Final
    }

    /// When unsent text is due: the first at once, later ones the rarer the longer the text, since protocol 3 repeats it.
    pub(crate) fn flush_at(&self) -> Option<Instant> {
        if self.unsent.is_empty() {
            return None;
        }
        let slower = Duration::from_millis(u64::try_from(self.answer.as_str().len() / 256).unwrap_or_default());
        Some(self.sent_at.map_or_else(Instant::now, |at| at + THROTTLE + slower))
    }

    pub(crate) fn flush(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        self.sent_at = Some(Instant::now());
        let delta = std::mem::take(&mut self.unsent);
        let whole = self.message();
        let chat = self.chat("delta", json!({"message": whole}));
        self.gateway.hub.event_for(3, "chat", &chat, true);
        let chat = self.chat("delta", json!({"deltaText": delta}));
        self.gateway.hub.event_for(4, "chat", &chat, false);
        self.seq = self.seq.saturating_add(1);
        let data = json!({"text": self.answer.as_str(), "delta": delta});
        let agent = self.agent("assistant", &data);
        self.gateway.hub.event_for(3, "agent", &agent, true);
        self.gateway.hub.event_for(4, "agent", &agent, true);
        self.seq = self.seq.saturating_add(1);
    }

    fn message(&self) -> Value {
        json!({
            "role": "assistant", "content": [{"type": "text", "text": self.answer.as_str()}], "timestamp": now_ms(),
        })
    }

    fn chat(&self, state: &str, mut more: Value) -> String {
        if let Some(map) = more.as_object_mut() {
            map.insert("runId".to_owned(), self.run_id.into());
            map.insert("sessionKey".to_owned(), self.session.into());
            map.insert("seq".to_owned(), self.seq.into());
            map.insert("state".to_owned(), state.into());
        }
        more.to_string()
    }

    fn agent(&self, stream: &str, data: &Value) -> String {
        json!({
            "runId": self.run_id, "seq": self.seq, "stream": stream, "ts": now_ms(), "data": data,
            "sessionKey": self.session,
        })
        .to_string()
    }

    pub(crate) fn lifecycle(&mut self, data: Value) {
        let event = self.agent("lifecycle", &data);
        self.gateway.hub.event("agent", &event);
        self.seq = self.seq.saturating_add(1);
    }

    /// Saves the answer, then tells: who has seen it must find it again.
    pub(crate) fn end(&mut self, end: End) {
        if let End::Error(why) = &end {
            self.note(why);
        }
        self.flush();
        let recorded = self.gateway.sessions().record_with(self.session, "assistant", self.current(), &self.more);
        let mut message = recorded.unwrap_or_else(|error| {
            log(&format!("sessions: the answer of run {} is not saved: {error}", self.run_id));
            self.note("[this answer could not be saved]");
            self.message()
        });
        // Clients show all of a turn as one.
        if let Some(text) = message.pointer_mut("/content/0/text") {
            *text = self.answer.as_str().into();
        }
        let (chat, lifecycle) = match end {
            End::Final => {
                (self.chat("final", json!({"message": message})), json!({"phase": "end", "endedAt": now_ms()}))
            }
            End::Aborted => (
                self.chat("aborted", json!({"message": message})),
                json!({"phase": "end", "endedAt": now_ms(), "aborted": true}),
            ),
            End::Error(why) => (
                self.chat("error", json!({"message": message, "errorMessage": why})),
                json!({"phase": "error", "error": why, "endedAt": now_ms()}),
            ),
        };
        self.seq = self.seq.saturating_add(1);
        self.lifecycle(lifecycle);
        self.gateway.hub.event("chat", &chat);
    }
}
