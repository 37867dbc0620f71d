//! `sessions_list`, `sessions_history`, `sessions_send`: the agent's other conversations.
//!
//! What is sent is said in the other conversation as what it is, and never as a person's command; the vault is asked before, and
//! marks that conversation where strangers' words have reached this one.

use super::args::Args;
use super::{Ran, Stopped, session_key};
use crate::agent::{self, Plan};
use crate::agents::is_same;
use crate::methods::{Done, Message, begin_with};
use crate::model::calls::Call;
use crate::sessions::{SessionError, normalise, uuid};
use crate::state::Gateway;
use crate::transcripts;
use crate::turn::Turn;
use proto::bounded::BoundedStr;
use proto::vault::{VaultReply, VaultRequest};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// Messages of another conversation that are read at once.
const MESSAGES: u64 = 20;
/// How long the vault may take.
const VAULT_WAIT: Duration = Duration::from_secs(10);
/// Conversations that are listed.
const LISTED: u64 = 50;
/// Seconds that an answer is waited for where a model does not say; upstream's.
const ANSWER_S: u64 = 30;
/// Longest that one is waited for, in seconds.
const MAX_ANSWER_S: u64 = 300;

pub(super) async fn run(gateway: &Gateway, own: &str, call: &Call) -> Ran {
    let done = match call.name.as_str() {
        "sessions_list" => list(gateway, own, call),
        _ => history(gateway, own, call).await,
    };
    done.map_or_else(Ran::error, Ran::ok)
}

/// Says that strangers' words reach the conversation, and comes back once that is kept.
async fn taint(gateway: &Gateway, session: &str, why: &str) -> Result<(), String> {
    let request = VaultRequest::Taint { session: session_key(session), why: BoundedStr::truncated(why) };
    match gateway.vault.call(&request, VAULT_WAIT).await {
        Ok(VaultReply::Accepted) => Ok(()),
        Ok(_) => Err("the vault gave another answer than asked for".to_owned()),
        Err(error) => Err(format!("it is not read, since that could not be written down: vault: {error}")),
    }
}

fn number(args: &Args<'_>, name: &str, most: u64) -> Result<usize, String> {
    Ok(usize::try_from(args.number(name)?.unwrap_or(most).min(most)).unwrap_or(usize::MAX))
}

fn list(gateway: &Gateway, own: &str, call: &Call) -> Result<String, String> {
    let args = Args::of(call, &["limit", "kinds", "activeMinutes", "messageLimit"])?;
    let limit = number(&args, "limit", LISTED)?;
    let sessions = gateway.sessions();
    let mut all: Vec<_> = sessions
        .iter()
        .filter(|(key, _)| is_same(own, key))
        .map(|(key, session)| (session.updated_at, key.to_owned()))
        .collect();
    all.sort_by(|a, b| b.cmp(a));
    let now = crate::sessions::now_ms();
    let line = |(at, key): &(u64, String)| {
        let own = if key == own { " (this one)" } else { "" };
        format!("{key}{own}, last spoken in {} s ago", now.saturating_sub(*at) / 1000)
    };
    Ok(all.iter().take(limit).map(line).collect::<Vec<_>>().join("\n"))
}

async fn history(gateway: &Gateway, own: &str, call: &Call) -> Result<String, String> {
    let args = Args::of(call, &["sessionKey", "limit", "includeTools"])?;
    let key = normalise(args.needed(&["sessionKey"])?).map_err(|error| format!("sessionKey {error}"))?;
    let limit = number(&args, "limit", MESSAGES)?;
    let tools = args.flag("includeTools")?;
    if !is_same(own, &key) || gateway.sessions().get(&key).is_none() {
        return Err(format!("this agent has no conversation {key}; sessions_list lists them"));
    }
    // What strangers said there is read here from now on.
    if super::offered(gateway, &key).await.outside {
        taint(gateway, own, &format!("the conversation {key}")).await?;
    }
    transcripts::open(gateway, &key).await.map_err(|error| error.to_string())?;
    let history = gateway.sessions().history(&key, limit).map_err(|error: SessionError| error.to_string())?;
    let text = |message: &Value| {
        let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
        let said = message.pointer("/content/0/text").and_then(Value::as_str).unwrap_or_default();
        let shown = (role == "user" || role == "assistant" || tools) && !said.is_empty();
        shown.then(|| format!("{role}: {said}"))
    };
    let lines: Vec<String> = history.messages.iter().filter_map(text).collect();
    Ok(if lines.is_empty() { "nothing was said in it".to_owned() } else { lines.join("\n\n") })
}

/// Where it goes, what is said, and how many seconds an answer is waited for.
fn wish(turn: &Turn<'_>, plan: &Plan, call: &Call) -> Result<(String, String, u64), String> {
    let args = Args::of(call, &["sessionKey", "message", "timeoutSeconds"])?;
    let key = normalise(args.needed(&["sessionKey"])?).map_err(|error| format!("sessionKey {error}"))?;
    let message = args.needed(&["message"])?.trim();
    let seconds = args.number("timeoutSeconds")?.unwrap_or(ANSWER_S).min(MAX_ANSWER_S);
    if message.is_empty() {
        return Err("sessions_send: message is empty".to_owned());
    }
    if key == turn.session {
        return Err("that is this conversation; just answer".to_owned());
    }
    // Two that answer each other would do so for ever.
    if let Some(from) = &plan.from {
        return Err(format!("{from} began this turn and reads its answer; a turn that a person began can send"));
    }
    if !is_same(turn.session, &key) || turn.gateway.sessions().get(&key).is_none() {
        return Err(format!("this agent has no conversation {key}; sessions_list lists them"));
    }
    Ok((key, message.to_owned(), seconds))
}

/// Asks the vault whether words of this conversation may go there; comes back once the mark that goes with them is kept.
async fn carry(turn: &Turn<'_>, key: &str) -> Result<(), String> {
    let request = VaultRequest::Carry { from: session_key(turn.session), to: session_key(key) };
    match turn.gateway.vault.call(&request, VAULT_WAIT).await {
        Ok(VaultReply::Accepted) => Ok(()),
        Ok(_) => Err("the vault gave another answer than asked for".to_owned()),
        Err(error) => Err(format!("it was not sent: vault: {error}")),
    }
}

pub(super) async fn send(turn: &Turn<'_>, plan: &Plan, call: &Call) -> Result<Ran, Stopped> {
    let (key, message, seconds) = match wish(turn, plan, call) {
        Ok(wish) => wish,
        Err(why) => return Ok(why.into()),
    };
    if let Err(why) = carry(turn, &key).await {
        return Ok(why.into());
    }
    let (gateway, run) = (turn.gateway, uuid());
    let text = format!("[the agent says this, from its conversation {}]\n{message}", turn.session);
    let message = Message { session: key.clone(), text, images: Vec::new(), from: Some(turn.session.to_owned()) };
    let mut plan_there = match begin_with(gateway, message, run.clone()).await {
        Ok(Done::Turn(_, plan)) => plan,
        Ok(Done::Answer(_)) => return Ok(Ran::error("it was not sent: it is said already")),
        Err(failure) => return Ok(Ran::error(format!("it was not sent: {}", failure.message))),
    };
    let (told, answered) = oneshot::channel();
    plan_there.told = Some(told);
    agent::start(Arc::clone(gateway), plan_there);
    let details = |status: &str| json!({"runId": run, "sessionKey": key, "status": status});
    if seconds == 0 {
        return Ok(Ran::ok(format!("it is said in {key}")).with(details("accepted")));
    }
    let answer = tokio::select! {
        answer = answered => answer.unwrap_or_default(),
        () = sleep(Duration::from_secs(seconds)) => {
            let why = format!("no answer within {seconds} seconds; sessions_history reads it when it is there");
            return Ok(Ran::ok(why).with(details("timeout")));
        }
        () = plan.stop.asked() => {
            gateway.runs().stop(&key, Some(&run));
            return Err(Stopped);
        }
    };
    // What strangers said there, or what it read meanwhile, is read here from now on.
    if super::offered(gateway, &key).await.outside
        && let Err(why) = taint(gateway, turn.session, &format!("the conversation {key}")).await
    {
        return Ok(why.into());
    }
    let answer = if answer.trim().is_empty() { "nothing was answered".to_owned() } else { answer };
    Ok(Ran::ok(answer).with(details("ok")))
}
