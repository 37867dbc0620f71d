//! The methods, and what each needs. The table is what `hello-ok` advertises, so nothing is claimed that is not here.
//! Parameters are hostile and checked before anything is done; fields that are not known are left alone, because newer
//! clients send more of them.

use crate::agent::{self, Plan};
use crate::agents::agent_of;
use crate::connect::allows;
use crate::frames::{Code, Failure, Params, Request};
use crate::reset::Reset;
use crate::sessions::{SessionError, normalise, now_ms, uuid};
use crate::shapes;
use crate::state::{Begin, Gateway};
use crate::transcripts;
use base64::Engine as _;
use proto::auth::Scopes;
use serde_json::{Value, json};
use std::time::Instant;

const READ: &str = "operator.read";
const WRITE: &str = "operator.write";
const ADMIN: &str = "operator.admin";
pub(crate) const APPROVALS: &str = "operator.approvals";

const METHODS: [(&str, &str); 15] = [
    ("health", READ),
    ("status", READ),
    ("agents.list", READ),
    ("models.list", READ),
    ("sessions.list", READ),
    ("sessions.reset", ADMIN),
    ("sessions.delete", ADMIN),
    ("config.get", READ),
    ("chat.send", WRITE),
    ("chat.history", READ),
    ("chat.abort", WRITE),
    ("channels.inbound", WRITE),
    ("exec.approval.list", APPROVALS),
    ("exec.approval.get", APPROVALS),
    ("exec.approval.resolve", APPROVALS),
];
/// Longest idempotency key, and so longest id of a run.
pub(crate) const MAX_RUN_ID: usize = 256;
/// Images that are taken.
const IMAGES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];
/// Bytes of them in one message, as base64.
const MAX_IMAGES: usize = 102_400;
/// Messages that a history has where the client does not say.
const HISTORY: u64 = 200;

/// Names of all methods.
#[must_use]
pub fn names() -> Vec<&'static str> {
    METHODS.iter().map(|(name, _)| *name).collect()
}

/// What a method came to.
#[derive(Debug)]
pub enum Done {
    /// The answer.
    Answer(Value),
    /// The answer, and a turn to be started once it is on its way.
    Turn(Value, Plan),
}

/// Carries out a request of a client that speaks `protocol` and may do what `scopes` say.
///
/// # Errors
/// A [`Failure`] for the client.
pub async fn call(gateway: &Gateway, protocol: u8, scopes: Scopes, request: Request) -> Result<Done, Failure> {
    let name = request.method.as_str();
    let Some((name, scope)) = METHODS.iter().find(|(known, _)| *known == name) else {
        let shown: String = name.chars().take(64).collect();
        return Err(Failure::invalid(format!("unknown method: {shown}")));
    };
    if !allows(scopes, scope) {
        let failure = Failure::invalid(format!("missing scope: {scope}"))
            .with(json!({"code": "MISSING_SCOPE", "missingScope": scope, "requiredScopes": [scope]}));
        return Err(if protocol == 3 { failure } else { Failure { code: Code::Forbidden, ..failure } });
    }
    let params = Params::new(name, request.params)?;
    Ok(Done::Answer(match *name {
        "health" => shapes::health(gateway),
        "status" => shapes::status(gateway, &agent::backend(gateway).await),
        "agents.list" => gateway.agents.list(),
        "models.list" => gateway.catalogue.list(),
        "sessions.list" => sessions_list(gateway, &params)?,
        "sessions.reset" => sessions_reset(gateway, &params).await?,
        "sessions.delete" => sessions_delete(gateway, &params).await?,
        "config.get" => shapes::config_get(gateway),
        "chat.history" => chat_history(gateway, &params).await?,
        "chat.abort" => chat_abort(gateway, &params)?,
        "exec.approval.list" => crate::approvals::list(gateway).await?,
        "exec.approval.get" => crate::approvals::get(gateway, &params).await?,
        "exec.approval.resolve" => crate::approvals::resolve(gateway, params).await?,
        "channels.inbound" => return crate::senders::inbound(gateway, &params).await,
        "chat.send" => return chat_send(gateway, protocol, params).await,
        other => return Err(Failure::unavailable(format!("{other} is listed and not served"))),
    }))
}

fn key(params: &Params<'_>, name: &str) -> Result<String, Failure> {
    let key = params.required(name, 1, 512)?;
    normalise(key).map_err(|error| params.wrong(name, &error.to_string().replacen("must ", "", 1)))
}

/// Nothing begins for an agent that is not there; what it said before can be read and removed.
fn has_agent(gateway: &Gateway, session: &str) -> Result<(), Failure> {
    if gateway.agents.have(session) {
        return Ok(());
    }
    let agent = agent_of(session);
    Err(Failure::invalid(format!("there is no agent {agent}: agents.list of the configuration does not name it")))
}

fn store_failure(error: &SessionError) -> Failure {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::unavailable(format!("sessions: {error}{cause}"))
}

fn sessions_list(gateway: &Gateway, params: &Params<'_>) -> Result<Value, Failure> {
    let limit = params.number("limit", 1, u64::from(u32::MAX))?.unwrap_or(u64::MAX);
    params.number("activeMinutes", 1, u64::from(u32::MAX))?;
    for flag in ["includeGlobal", "includeUnknown", "includeDerivedTitles", "includeLastMessage"] {
        params.kind(flag, "boolean")?;
    }
    let agent = params.text("agentId", 1, 64)?;
    let search = params.text("search", 0, 256)?.unwrap_or_default();
    Ok(shapes::sessions_list(gateway, agent, search, usize::try_from(limit).unwrap_or(usize::MAX)))
}

async fn sessions_reset(gateway: &Gateway, params: &Params<'_>) -> Result<Value, Failure> {
    let key = key(params, "key")?;
    has_agent(gateway, &key)?;
    gateway.runs().stop(&key, None);
    let session = transcripts::renew(gateway, &key).await?;
    Ok(json!({"ok": true, "key": key, "entry": {"sessionId": session.id, "updatedAt": session.updated_at}}))
}

/// The transcript is closed, not destroyed: that is the operator's.
async fn sessions_delete(gateway: &Gateway, params: &Params<'_>) -> Result<Value, Failure> {
    let key = key(params, "key")?;
    params.kind("deleteTranscript", "boolean")?;
    if gateway.agents.have(&key) && key == format!("agent:{}:main", agent_of(&key)) {
        return Err(Failure::invalid(format!("Cannot delete the main session ({key}).")));
    }
    gateway.runs().stop(&key, None);
    let closed = transcripts::forget(gateway, &key).await?;
    Ok(json!({"ok": true, "key": key, "deleted": closed.is_some(), "archived": Vec::from_iter(closed)}))
}

async fn chat_history(gateway: &Gateway, params: &Params<'_>) -> Result<Value, Failure> {
    let key = key(params, "sessionKey")?;
    let limit = params.number("limit", 1, 1000)?.unwrap_or(HISTORY);
    if gateway.sessions().get(&key).is_some() {
        transcripts::open(gateway, &key).await?;
    }
    let sessions = gateway.sessions();
    let history = sessions.history(&key, usize::try_from(limit).unwrap_or(1)).map_err(|error| store_failure(&error))?;
    let id = sessions.get(&key).map(|session| session.id.as_str());
    let mut answer = json!({"sessionKey": key, "sessionId": id, "messages": history.messages, "thinkingLevel": "off"});
    if let (true, Some(answer)) = (history.damaged > 0, answer.as_object_mut()) {
        answer.insert("moltbot".to_owned(), json!({"damagedLines": history.damaged}));
    }
    Ok(answer)
}

fn chat_abort(gateway: &Gateway, params: &Params<'_>) -> Result<Value, Failure> {
    let key = key(params, "sessionKey")?;
    let run = params.text("runId", 1, MAX_RUN_ID)?;
    Ok(aborted(gateway, &key, run))
}

fn aborted(gateway: &Gateway, key: &str, run: Option<&str>) -> Value {
    let stopped = gateway.runs().stop(key, run);
    json!({"ok": true, "aborted": !stopped.is_empty(), "runIds": stopped})
}

async fn chat_send(gateway: &Gateway, protocol: u8, mut params: Params<'_>) -> Result<Done, Failure> {
    let session = key(&params, "sessionKey")?;
    let message = params.required("message", 0, crate::connect::MAX_PAYLOAD)?.to_owned();
    params.text("thinking", 0, 64)?;
    params.kind("deliver", "boolean")?;
    params.number("timeoutMs", 0, u64::from(u32::MAX))?;
    let run_id = match params.text("idempotencyKey", 1, MAX_RUN_ID)? {
        Some(id) => id.to_owned(),
        None if protocol == 3 => return Err(params.missing("idempotencyKey")),
        None => uuid(),
    };
    params.kind("attachments", "array")?;
    let images = match params.take("attachments") {
        Some(Value::Array(items)) => images(&items).map_err(|why| params.wrong("attachments", why))?,
        _ => Vec::new(),
    };
    begin_with(gateway, Message { session, text: message, images, from: None }, run_id).await
}

/// Images of a message, as the transcript keeps them.
fn images(items: &[Value]) -> Result<Vec<Value>, &'static str> {
    let mut size = 0usize;
    items
        .iter()
        .map(|item| {
            let text = |name: &str| item.get(name).and_then(Value::as_str);
            let kind =
                text("mimeType").filter(|kind| IMAGES.contains(kind)).ok_or("be images: png, jpeg, gif or webp")?;
            let data = text("content").ok_or("have content, in base64")?;
            // As clients write it, with its kind in front.
            let data = data.rsplit_once(";base64,").map_or(data, |(_, data)| data);
            base64::engine::general_purpose::STANDARD.decode(data).map_err(|_| "have content, in base64")?;
            size = size.saturating_add(data.len());
            if size > MAX_IMAGES {
                return Err("have no more than 100 KB together: a request to a model has no room for more");
            }
            Ok(json!({"type": "image", "mimeType": kind, "data": data}))
        })
        .collect()
}

/// Begins a turn of a conversation, unless it is a word that needs none.
///
/// # Errors
/// A [`Failure`] for the client.
pub(crate) async fn begin(
    gateway: &Gateway,
    session: String,
    message: String,
    run_id: String,
) -> Result<Done, Failure> {
    begin_with(gateway, Message { session, text: message, images: Vec::new(), from: None }, run_id).await
}

/// What a turn begins with.
pub(crate) struct Message {
    /// The conversation.
    pub(crate) session: String,
    /// What was said.
    pub(crate) text: String,
    /// Images, as the transcript keeps them.
    pub(crate) images: Vec<Value>,
    /// The conversation that it comes from, where no person said it.
    pub(crate) from: Option<String>,
}

/// As [`begin`], whoever speaks.
///
/// # Errors
/// A [`Failure`].
pub(crate) async fn begin_with(gateway: &Gateway, message: Message, run_id: String) -> Result<Done, Failure> {
    let Message { session, text: message, images, from } = message;
    has_agent(gateway, &session)?;
    if message.trim().is_empty() && images.is_empty() {
        return Err(Failure::invalid("message or attachment required"));
    }
    if message.trim() == "/stop" {
        return Ok(Done::Answer(aborted(gateway, &session, None)));
    }
    let begun = gateway.runs().begin(&run_id, &session, Instant::now());
    let stop = match begun {
        Begin::New(stop) => stop,
        Begin::InFlight => return Ok(Done::Answer(json!({"runId": run_id, "status": "in_flight"}))),
        Begin::Done => return Ok(Done::Answer(json!({"runId": run_id, "status": "ok"}))),
        Begin::Full => return Err(Failure::unavailable("too many runs at once; try again when one has ended")),
    };
    // What ends a transcript does not go into it, so that a full one can be left.
    if !matches!(message.trim(), "/new" | "/reset")
        && let Err(failure) = write_down(gateway, &session, &message, images, from.as_deref()).await
    {
        gateway.runs().end(&run_id, Instant::now());
        return Err(failure);
    }
    let answer = json!({"runId": run_id, "status": "started"});
    Ok(Done::Turn(answer, Plan { run_id, session, message, stop, from, told: None }))
}

async fn write_down(
    gateway: &Gateway,
    session: &str,
    message: &str,
    images: Vec<Value>,
    from: Option<&str>,
) -> Result<(), Failure> {
    let updated = gateway.sessions().get(session).map_or(0, |session| session.updated_at);
    if Reset::of(&gateway.identity.config, session).is_due(updated, now_ms()) {
        transcripts::renew(gateway, session).await?;
    }
    transcripts::open(gateway, session).await?;
    let mut content = vec![json!({"type": "text", "text": message})];
    content.extend(images);
    let more = from.map_or(Value::Null, |from| json!({"from": from}));
    let recorded = gateway.sessions().record_content(session, "user", content, &more);
    recorded.map(drop).map_err(|error| store_failure(&error))
}
