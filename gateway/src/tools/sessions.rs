//! `sessions_list`, `sessions_history`: the agent's other conversations.

use super::args::Args;
use super::{Ran, session_key};
use crate::model::calls::Call;
use crate::sessions::{SessionError, normalise};
use crate::state::Gateway;
use crate::transcripts;
use proto::bounded::BoundedStr;
use proto::vault::{VaultReply, VaultRequest};
use serde_json::Value;
use std::time::Duration;

/// Messages of another conversation that are read at once.
const MESSAGES: u64 = 20;
/// How long the vault may take.
const VAULT_WAIT: Duration = Duration::from_secs(10);
/// Conversations that are listed.
const LISTED: u64 = 50;

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
    let mut all: Vec<_> = sessions.iter().map(|(key, session)| (session.updated_at, key.to_owned())).collect();
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
    if gateway.sessions().get(&key).is_none() {
        return Err(format!("there is no conversation {key}; sessions_list lists them"));
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
