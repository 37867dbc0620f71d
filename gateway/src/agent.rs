//! One turn of a conversation: the text commands of the built-in `local` agent, and a model for the rest where there is one.
//! The message is hostile and only compared; a command goes to sandboxd as it is, since sandboxd alone judges commands.
//! What comes back is bytes of a stranger's program: text for the client, never instructions.

use crate::model::talk::FAILED;
use crate::model::{choice, turn};
use crate::sandbox::{self, Broken};
use crate::sessions::now_ms;
use crate::state::{Gateway, Stop};
use crate::text::Decoder;
use crate::transcripts;
use crate::turn::{End, Turn};
use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::ids::SessionKey;
use proto::sandbox::{ExecOptions, OutputChunk, SandboxReply, SandboxRequest};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// Seconds that a model's answer may take where the configuration does not say; upstream's.
const TURN_S: u64 = 600;
const DESCRIBE_WAIT: Duration = Duration::from_secs(2);

const HELP: &str = "Commands:\n\
    /help - this list\n\
    /status - version, uptime, sandbox\n\
    /exec COMMAND - run COMMAND in this session's sandbox\n\
    /model [PROVIDER/MODEL] - the models, or another one for this session\n\
    /think [off|low|medium|high] - how much it thinks before it answers\n\
    /compact [WHAT MATTERS] - make the conversation shorter: a model sums it up\n\
    /new, /reset - begin a new session; the old transcript is kept\n\
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
    /// The conversation that began it, where no person did.
    pub from: Option<String>,
    /// Who waits for what is said.
    pub told: Option<oneshot::Sender<String>>,
}

/// Runs a turn beside everything else.
pub fn start(gateway: Arc<Gateway>, mut plan: Plan) {
    tokio::spawn(async move {
        let told = plan.told.take();
        let mut turn = Turn::new(&gateway, &plan);
        turn.lifecycle(json!({"phase": "start", "startedAt": now_ms()}));
        let end = answer(&mut turn, &plan).await;
        turn.end(end);
        if let Some(told) = told {
            // Whoever waited may have gone on.
            let _ = told.send(turn.said().to_owned());
        }
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
            let standing = choice::standing(turn);
            let text = format!(
                "moltbot {}, up {} s\nsandbox: {backend} ({detail})\nsessions: {sessions}\n{standing}",
                env!("CARGO_PKG_VERSION"),
                turn.gateway.started.elapsed().as_secs(),
            );
            turn.say(&text);
        }
        "/new" | "/reset" => match transcripts::renew(turn.gateway, &plan.session).await {
            Ok(session) => turn.say(&format!("New session {}.", session.id)),
            Err(error) => return End::Error(error.to_string()),
        },
        "/model" => return choice::model(turn, rest.trim()),
        "/think" | "/thinking" | "/t" => return choice::think(turn, rest.trim()),
        "/compact" => return turn::compact(turn, plan, rest.trim()).await,
        "/exec" if rest.trim().is_empty() => turn.say("Usage: /exec COMMAND"),
        "/exec" => return exec(turn, plan, rest.trim()).await,
        other if other.starts_with('/') => turn.say(&format!("Unknown command {other}. Type /help.")),
        _ if turn.gateway.catalogue.is_empty() => turn.say(NO_MODEL),
        _ => return in_time(turn, plan).await,
    }
    End::Final
}

/// A model's answer, within the time that a turn has.
async fn in_time(turn: &mut Turn<'_>, plan: &Plan) -> End {
    let said = turn.gateway.identity.config.pointer("/agents/defaults/timeoutSeconds");
    let seconds = said.and_then(serde_json::Value::as_u64).unwrap_or(TURN_S);
    let mut late = false;
    let end = {
        let work = turn::answer(turn, plan);
        tokio::pin!(work);
        tokio::select! {
            end = &mut work => end,
            () = sleep(Duration::from_secs(seconds)) => {
                late = true;
                plan.stop.ask();
                // What is under way is taken back, and its end waited for.
                work.await
            }
        }
    };
    match end {
        End::Aborted if late => {
            turn.more = json!({"stopReason": FAILED});
            End::Error(format!("the answer took longer than {seconds} seconds (agents.defaults.timeoutSeconds)"))
        }
        end => end,
    }
}

/// The sandbox's backend and a line about it.
pub async fn backend(gateway: &Gateway) -> (String, String) {
    described(gateway, &SandboxRequest::Describe).await
}

async fn described(gateway: &Gateway, request: &SandboxRequest) -> (String, String) {
    let _permit = gateway.describes.acquire().await;
    match gateway.sandbox.call(request, DESCRIBE_WAIT).await {
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
    let session = SessionKey(session);
    let place = SandboxRequest::Where { session: session.clone() };
    let request = SandboxRequest::Exec { session, command, options: ExecOptions::default() };
    turn.gateway.kept.forget(turn.session);
    let (mut out, mut err) = (Decoder::default(), Decoder::default());
    let mut take = |turn: &mut Turn<'_>, chunk: &OutputChunk| {
        let text = match chunk {
            OutputChunk::Stdout(bytes) => out.push(bytes),
            OutputChunk::Stderr(bytes) => err.push(bytes),
            OutputChunk::Waits(_) => return,
        };
        turn.say(&text);
    };
    match sandbox::run(turn, plan, &request, &mut take).await {
        Ok(SandboxReply::Ended { end, duration_ms, dropped, .. }) => {
            turn.say(&out.finish());
            turn.say(&err.finish());
            let (backend, _) = described(turn.gateway, &place).await;
            turn.note(&trailer(end, duration_ms, dropped, &backend));
            if plan.stop.is_asked() || end == RunEnd::Aborted { End::Aborted } else { End::Final }
        }
        Ok(_) => End::Error("sandboxd gave another answer than asked for".to_owned()),
        Err(Broken::Stopped) => End::Aborted,
        Err(Broken::Refused(refusal)) => turn.refused(&refusal),
        Err(Broken::Gone(why)) => End::Error(why),
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
