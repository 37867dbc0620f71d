//! Answers in the shapes that real clients read. Made from the gateway's own state; nothing here takes input.

use crate::agents::agent_of;
use crate::sessions::now_ms;
use crate::state::Gateway;
use serde_json::{Value, json};

/// Sessions that are listed as recent.
const RECENT: usize = 5;

/// The newest sessions: key, id, time of the last message.
fn newest(gateway: &Gateway) -> Vec<(String, String, u64)> {
    let sessions = gateway.sessions();
    let mut all: Vec<_> =
        sessions.iter().map(|(key, session)| (key.to_owned(), session.id.clone(), session.updated_at)).collect();
    all.sort_by_key(|(_, _, updated)| std::cmp::Reverse(*updated));
    all
}

/// `health`.
#[must_use]
pub fn health(gateway: &Gateway) -> Value {
    let now = now_ms();
    let all = newest(gateway);
    let recent: Vec<_> = all
        .iter()
        .take(RECENT)
        .map(|(key, _, at)| json!({"key": key, "updatedAt": at, "age": now.saturating_sub(*at)}))
        .collect();
    let sessions = json!({"path": sessions_path(gateway), "count": all.len(), "recent": recent});
    json!({
        "ok": true, "ts": now, "durationMs": 0, "channels": {}, "channelOrder": [], "channelLabels": {},
        "heartbeatSeconds": 0, "defaultAgentId": "main",
        "agents": [{"agentId": "main", "name": "main", "isDefault": true, "heartbeat": no_heartbeat(), "sessions": sessions}],
        "sessions": sessions,
    })
}

fn no_heartbeat() -> Value {
    json!({"enabled": false, "every": "0m", "everyMs": null, "prompt": "", "target": "none", "ackMaxChars": 0})
}

fn sessions_path(gateway: &Gateway) -> String {
    format!("{}/sessions", gateway.identity.state_dir)
}

/// `status`; `sandbox` is the backend and a line about it.
#[must_use]
pub fn status(gateway: &Gateway, sandbox: &(String, String)) -> Value {
    let now = now_ms();
    let all = newest(gateway);
    let recent: Vec<_> = all
        .iter()
        .take(RECENT)
        .map(|(key, id, at)| {
            json!({
                "agentId": agent_of(key), "key": key, "kind": "direct", "sessionId": id, "updatedAt": at,
                "age": now.saturating_sub(*at), "inputTokens": 0, "outputTokens": 0, "totalTokens": 0, "model": null,
                "contextTokens": null, "flags": [],
            })
        })
        .collect();
    let path = sessions_path(gateway);
    json!({
        "heartbeat": {"defaultAgentId": "main", "agents": [
            {"agentId": "main", "enabled": false, "every": "0m", "everyMs": null}
        ]},
        "channelSummary": [], "queuedSystemEvents": [],
        "sessions": {
            "paths": [path], "count": all.len(), "defaults": {"model": null, "contextTokens": null}, "recent": recent,
            "byAgent": [{"agentId": "main", "path": path, "count": all.len(), "recent": recent}],
        },
        "moltbot": {
            "version": env!("CARGO_PKG_VERSION"), "uptimeMs": gateway.uptime_ms(), "connections": gateway.hub.len(),
            "backend": sandbox.0, "backendDetail": sandbox.1,
        },
    })
}

/// `sessions.list`, those that `search` matches, newest first, at most `limit`.
#[must_use]
pub fn sessions_list(gateway: &Gateway, agent: Option<&str>, search: &str, limit: usize) -> Value {
    let rows: Vec<_> = newest(gateway)
        .iter()
        .filter(|(key, _, _)| key.contains(search) && agent.is_none_or(|agent| agent_of(key) == agent))
        .take(limit)
        .map(|(key, id, at)| {
            json!({
                "key": key, "kind": "direct", "updatedAt": at, "sessionId": id, "systemSent": false,
                "abortedLastRun": false, "inputTokens": 0, "outputTokens": 0, "totalTokens": 0, "modelProvider": null,
                "model": null, "contextTokens": null,
            })
        })
        .collect();
    json!({
        "ts": now_ms(), "path": sessions_path(gateway), "count": rows.len(),
        "defaults": {"modelProvider": null, "model": null, "contextTokens": null}, "sessions": rows,
    })
}

/// `config.get`. The text of the file never comes here, so `raw` is null; secrets were taken out by broker.
#[must_use]
pub fn config_get(gateway: &Gateway) -> Value {
    let identity = &gateway.identity;
    json!({
        "path": identity.config_path, "exists": true, "raw": null, "parsed": identity.config, "valid": true,
        "config": identity.config, "hash": identity.config_hash, "issues": [], "warnings": [], "legacyIssues": [],
    })
}
