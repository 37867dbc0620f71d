//! One turn of a conversation: the text commands of the built-in `local` agent, and a model for the rest where there is one.
//! The message is hostile and only compared; a command goes to sandboxd as it is, since sandboxd alone judges commands.
//! What comes back is bytes of a stranger's program: text for the client, never instructions.

use crate::model::turn;
use crate::sessions::now_ms;
use crate::state::{Gateway, Stop, log};
use crate::text::{Answer, Decoder};
use crate::transcripts;
use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::channel::{CallError, Outgoing};
use proto::ids::SessionKey;
use proto::sandbox::{ExecOptions, OutputChunk, SandboxReply, SandboxRequest};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Least time between two deltas.
const THROTTLE: Duration = Duration::from_millis(150);
/// Output that may be on its way from sandboxd, in bytes.
const CREDIT: u32 = 256 * 1024;
/// How long a command waits for sandboxd to be there.
const SANDBOX_WAIT: Duration = Duration::from_secs(15);
/// How long a stopped command may take to end.
const STOP_WAIT: Duration = Duration::from_secs(10);
const DESCRIBE_WAIT: Duration = Duration::from_secs(2);

const HELP: &str = "Commands:\n\
    /help - this list\n\
    /status - version, uptime, sandbox\n\
    /exec COMMAND - run COMMAND in this session's sandbox\n\
    /model [PROVIDER/MODEL] - the models, or another one for this session\n\
    /new - begin a new session; the old transcript is kept\n\
    /stop - stop what runs in this session";
const NO_MODEL: &str = "No model provider is configured, so I can only run commands. Type /help.\n\
    models.providers in moltbot.json names one.";

/// A turn that was accepted.
#[derive(Debug)]
pub struct Plan {
    /// Names the run.
    pub run_id: String,
    /// Key of the session.
    pub session: String,
    /// What the person said.
    pub message: String,
    /// Ends it early.
    pub stop: Arc<Stop>,
}

/// Runs a turn beside everything else.
pub fn start(gateway: Arc<Gateway>, plan: Plan) {
    tokio::spawn(async move {
        let mut turn = Turn::new(&gateway, &plan);
        turn.lifecycle(json!({"phase": "start", "startedAt": now_ms()}));
        let end = answer(&mut turn, &plan).await;
        turn.end(end);
        gateway.runs().end(&plan.run_id, std::time::Instant::now());
    });
}

async fn answer(turn: &mut Turn<'_>, plan: &Plan) -> End {
    let message = plan.message.trim();
    let (command, rest) = message.split_once(char::is_whitespace).unwrap_or((message, ""));
    match command {
        "/help" => turn.say(HELP),
        "/status" => {
            let (backend, detail) = backend(turn.gateway).await;
            // One after the other: both lock the sessions.
            let sessions = turn.gateway.sessions().len();
            let standing = turn::standing(turn);
            let text = format!(
                "moltbot {}, up {} s\nsandbox: {backend} ({detail})\nsessions: {sessions}\n{standing}",
                env!("CARGO_PKG_VERSION"),
                turn.gateway.started.elapsed().as_secs(),
            );
            turn.say(&text);
        }
        "/new" => match transcripts::renew(turn.gateway, &plan.session).await {
            Ok(session) => turn.say(&format!("New session {}.", session.id)),
            Err(error) => return End::Error(error.to_string()),
        },
        "/model" => return turn::choose(turn, rest.trim()),
        "/exec" if rest.trim().is_empty() => turn.say("Usage: /exec COMMAND"),
        "/exec" => return exec(turn, plan, rest.trim()).await,
        other if other.starts_with('/') => turn.say(&format!("Unknown command {other}. Type /help.")),
        _ if turn.gateway.catalogue.is_empty() => turn.say(NO_MODEL),
        _ => return turn::answer(turn, plan).await,
    }
    End::Final
}

/// The sandbox's backend and a line about it.
pub async fn backend(gateway: &Gateway) -> (String, String) {
    let _permit = gateway.describes.acquire().await;
    match gateway.sandbox.call(&SandboxRequest::Describe, DESCRIBE_WAIT).await {
        Ok(SandboxReply::Described { backend, detail }) => (backend.name().to_owned(), detail.to_string()),
        Ok(_) => ("unknown".to_owned(), "sandboxd gave another answer than asked for".to_owned()),
        Err(error) => ("unknown".to_owned(), format!("sandboxd: {error}")),
    }
}

async fn exec(turn: &mut Turn<'_>, plan: &Plan, command: &str) -> End {
    let (Ok(session), Ok(command)) = (BoundedStr::new(plan.session.as_str()), BoundedStr::new(command)) else {
        turn.say("refused (command.too_long): a command has at most 8192 bytes");
        return End::Final;
    };
    let request = SandboxRequest::Exec { session: SessionKey(session), command, options: ExecOptions::default() };
    let mut stream = match turn.gateway.sandbox.stream(&request, CREDIT, SANDBOX_WAIT).await {
        Ok(stream) => stream,
        Err(CallError::Refused(refusal)) => return turn.refused(&refusal),
        Err(error) => return End::Error(format!("the command was not run: sandboxd: {error}")),
    };
    let (mut out, mut err) = (Decoder::default(), Decoder::default());
    let mut stopped = None;
    loop {
        let flush_at = turn.flush_at();
        let next = tokio::select! {
            next = stream.next() => next,
            () = plan.stop.asked(), if stopped.is_none() => {
                stopped = Some(Instant::now() + STOP_WAIT);
                // Where sandboxd is gone the stream ends by itself.
                let _ = stream.cancel().await;
                continue;
            }
            () = sleep_until(stopped.unwrap_or_else(Instant::now)), if stopped.is_some() => return End::Aborted,
            () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {
                turn.flush();
                continue;
            }
        };
        match next {
            Some(Outgoing::Chunk(chunk)) => {
                let text = match &chunk {
                    OutputChunk::Stdout(bytes) => out.push(bytes),
                    OutputChunk::Stderr(bytes) => err.push(bytes),
                };
                turn.say(&text);
                let _ = stream.credit(u32::try_from(chunk.len()).unwrap_or(u32::MAX)).await;
            }
            Some(Outgoing::Reply(SandboxReply::Ended { end, duration_ms, dropped, .. }, _)) => {
                turn.say(&out.finish());
                turn.say(&err.finish());
                let (backend, _) = backend(turn.gateway).await;
                turn.note(&trailer(end, duration_ms, dropped, &backend));
                return if stopped.is_some() || end == RunEnd::Aborted { End::Aborted } else { End::Final };
            }
            Some(Outgoing::Refused(refusal)) => return turn.refused(&refusal),
            Some(Outgoing::Reply(..)) => {
                return End::Error("sandboxd gave another answer than asked for".to_owned());
            }
            None => {
                return End::Error(
                    "sandboxd ended before the command did; what the command did is not known. It is being restarted: \
                     send the command again if that is safe."
                        .to_owned(),
                );
            }
        }
    }
}

fn trailer(end: RunEnd, duration_ms: u64, dropped: u64, backend: &str) -> String {
    let how = match end {
        RunEnd::Exited(code) => format!("exit {code}"),
        RunEnd::Signalled(signal) => format!("signal {signal}"),
        RunEnd::TimedOut => "timed out".to_owned(),
        RunEnd::Aborted => "stopped".to_owned(),
        RunEnd::Lost => "sandbox lost".to_owned(),
    };
    let dropped = if dropped > 0 { format!(", {dropped} bytes of output dropped") } else { String::new() };
    format!("[{how}, {duration_ms} ms, {backend}{dropped}]")
}

pub(crate) enum End {
    Final,
    Aborted,
    Error(String),
}

/// What a turn has said so far, and what of it the clients know.
pub(crate) struct Turn<'a> {
    pub(crate) gateway: &'a Gateway,
    run_id: &'a str,
    pub(crate) session: &'a str,
    /// What the transcript has beside the answer's text.
    pub(crate) more: Value,
    seq: u64,
    answer: Answer,
    unsent: String,
    sent_at: Option<Instant>,
}

impl<'a> Turn<'a> {
    fn new(gateway: &'a Gateway, plan: &'a Plan) -> Self {
        let (run_id, session) = (plan.run_id.as_str(), plan.session.as_str());
        let (answer, unsent, more) = (Answer::default(), String::new(), Value::Null);
        Self { gateway, run_id, session, more, seq: 0, answer, unsent, sent_at: None }
    }

    pub(crate) fn say(&mut self, text: &str) {
        let added = self.answer.push(text);
        self.unsent.push_str(&added);
        if self.flush_at().is_some_and(|at| at <= Instant::now()) {
            self.flush();
        }
    }

    fn note(&mut self, line: &str) {
        let added = self.answer.note(line);
        self.unsent.push_str(&added);
    }

    /// True where nothing was said.
    pub(crate) fn is_silent(&self) -> bool {
        self.answer.as_str().trim().is_empty()
    }

    /// True where more was said than is shown.
    pub(crate) const fn is_cut(&self) -> bool {
        self.answer.is_cut()
    }

    fn refused(&mut self, refusal: &proto::edge::Refusal) -> End {
        let line = format!("refused ({}): {}", refusal.rule.as_str(), refusal.message.as_str());
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

    fn lifecycle(&mut self, data: Value) {
        let event = self.agent("lifecycle", &data);
        self.gateway.hub.event("agent", &event);
        self.seq = self.seq.saturating_add(1);
    }

    /// Saves the answer, then tells: who has seen it must find it again.
    fn end(&mut self, end: End) {
        if let End::Error(why) = &end {
            self.note(why);
        }
        self.flush();
        let recorded = self.gateway.sessions().record_with(self.session, "assistant", self.answer.as_str(), &self.more);
        let message = recorded.unwrap_or_else(|error| {
            log(&format!("sessions: the answer of run {} is not saved: {error}", self.run_id));
            self.note("[this answer could not be saved]");
            self.message()
        });
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
