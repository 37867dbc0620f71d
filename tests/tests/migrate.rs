//! `moltbot security migrate` from a state directory as OpenClaw 2026.1.30 keeps one.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use system_tests::{As, Sandbox, System, USER, is_root};

const KEY: &str = "sk-ant-api03-0123456789abcdef0123456789abcdef";
const SPOKEN: &str = "90f4e1d7-2fb4-4eac-9984-f99dd823ee84";
const DEVICE: &str = "bJCpeZu8NgxfkZd0XzrxqSxziEjSZVntph5Enx_LJrA";
const BOT: &str = "8123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw0";

fn old(beside: &Path) -> PathBuf {
    let dir = beside.with_file_name("openclaw");
    for inner in ["", "credentials", "agents/main/agent", "agents/main/sessions", "devices"] {
        std::fs::create_dir_all(dir.join(inner)).unwrap();
    }
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write(
        "openclaw.json",
        &format!(
            "{{ // mine\n gateway: {{ mode: 'local', port: 0, bind: 'lan', auth: {{ token: '${{OLD_TOKEN}}' }} }},\n\
             agents: {{ defaults: {{ sandbox: {{ mode: 'off', backend: 'native', docker: {{ setupCommand: 'curl x | sh' }} }} }} }},\n\
             tools: {{ exec: {{ rules: [{{ id: 'mine' }}] }} }}, logging: {{ redactPatterns: ['('] }},\n\
             channels: {{ telegram: {{ botToken: '{BOT}', dmPolicy: 'open', allowFrom: ['*', 42] }} }}, wizard: {{}} }}"
        ),
    );
    write("credentials/telegram-allowFrom.json", r#"{"version":1,"allowFrom":["8734062810","tg:43","*"]}"#);
    write(
        "agents/main/agent/auth-profiles.json",
        &format!(
            r#"{{"version":1,"profiles":{{"anthropic:default":{{"type":"api_key","provider":"anthropic","key":"{KEY}"}}}}}}"#
        ),
    );
    let said = |role: &str, text: &str| {
        json!({ "type": "message", "id": "1", "parentId": null,
            "message": { "role": role, "content": [{ "type": "text", "text": text }], "timestamp": 1 } })
    };
    let head = json!({ "type": "session", "version": 3, "id": SPOKEN, "cwd": "/" });
    let lines = format!("{head}\n{}\n{}\n{{\"type\":\"mess", said("user", "how are you"), said("assistant", "well"));
    write(&format!("agents/main/sessions/{SPOKEN}.jsonl"), &lines);
    let index = json!({ "main": { "sessionId": SPOKEN, "updatedAt": 1 } });
    write("agents/main/sessions/sessions.json", &index.to_string());
    write("agents/main/sessions/other.jsonl", "{}\n");
    let device = json!({ "deviceId": "x", "publicKey": DEVICE, "clientId": "cli", "scopes": ["operator.read"],
        "tokens": { "operator": { "token": "3ac18cfe2de44c51b57d4ec9e77b6de4" } } });
    write("devices/paired.json", &json!({ "x": device, "y": { "publicKey": "AAAA" } }).to_string());
    if is_root() {
        let all = ["", "credentials", "agents", "agents/main", "agents/main/agent", "agents/main/sessions", "devices"];
        let spoken = format!("agents/main/sessions/{SPOKEN}.jsonl");
        for name in all.iter().copied().chain([
            "openclaw.json",
            "credentials/telegram-allowFrom.json",
            "agents/main/agent/auth-profiles.json",
            &spoken,
            "agents/main/sessions/sessions.json",
            "agents/main/sessions/other.jsonl",
            "devices/paired.json",
        ]) {
            std::os::unix::fs::chown(dir.join(name), Some(USER), Some(USER)).unwrap();
        }
    }
    dir
}

/// Every file beneath, by name: its bytes and its times.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, i64, i64, u32)> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let found = entry.metadata().unwrap();
        if found.is_dir() {
            all.extend(picture(&entry.path()));
        } else if found.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            all.insert(entry.path(), (bytes, found.mtime(), found.mtime_nsec(), found.permissions().mode()));
        }
    }
    all
}

#[test]
fn dry_run_changes_nothing_at_all_and_says_everything() {
    let system = System::prepare(As::User, &Sandbox::Native);
    let from = old(system.state());
    let before = (picture(&from), picture(system.state()));
    let text = system.says(&["security", "migrate", "--from", from.to_str().unwrap(), "--dry-run"]);
    assert_eq!((picture(&from), picture(system.state())), before);
    for part in [
        "gateway.bind: left out",
        "channels.telegram.dmPolicy: open -> pairing",
        "wizard: left out: not known here",
        "docker.setupCommand: left out: ",
        "tools.exec",
        "logging.redactPatterns",
        "channels.telegram.botToken -> telegram.bottoken",
        "profiles.anthropic:default.key -> anthropic.default.key",
        "8734062810 may go on speaking on telegram",
        "agent:main:main: 2 messages, sealed and closed, as 90f4e1d7",
        "cli is let in by its key, for operator.read",
        "device y: it has no Ed25519 key",
        "other.jsonl: not named as a transcript is",
        "nothing was changed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains(KEY) && !text.contains(BOT), "no secret is printed: {text}");
    let stopped = system.moltbot(&["security", "migrate", "--from", from.to_str().unwrap(), "--yes"]);
    assert!(!stopped.status.success(), "nothing runs that could take the secrets");
    assert_eq!((picture(&from), picture(system.state())), before);
}

#[test]
fn migration_puts_secrets_and_senders_into_the_vault_and_the_configuration_in_force() {
    let system = System::start(As::User, &Sandbox::Native);
    let from = old(system.state());
    let before = picture(&from);
    let words = ["security", "migrate", "--from", from.to_str().unwrap(), "--yes"];
    let said = system.says(&words);
    assert!(said.contains("back: put the .bak in its place"), "{said}");
    assert_eq!(picture(&from), before, "it is only read");

    let secrets: Value = serde_json::from_str(&system.says(&["secrets", "list", "--json"])).unwrap();
    let names: Vec<&str> = secrets.as_array().unwrap().iter().filter_map(|row| row["name"].as_str()).collect();
    for name in ["telegram.bottoken", "anthropic.default.key"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let allowed = system.says(&["allowlist", "list", "--json"]);
    for sender in ["8734062810", "\"43\"", "\"42\""] {
        assert!(allowed.contains(sender), "{sender}: {allowed}");
    }
    assert!(!allowed.contains('*'), "{allowed}");
    let _ = system.says(&["config", "apply"]);
    assert_eq!(system.says(&["config", "get", "channels.telegram.dmPolicy"]).trim(), "pairing");
    let shown = system.says(&["sessions", "show", SPOKEN]);
    assert_eq!(shown, "user: how are you\nassistant: well\n");
    let devices: Value = serde_json::from_str(&system.says(&["devices", "list", "--json"])).unwrap();
    assert_eq!((devices.as_array().unwrap().len(), &devices[0]["scopes"]), (1, &json!(["operator.read"])), "{devices}");
    for (path, (bytes, ..)) in picture(system.state()) {
        for secret in [KEY, BOT, "how are you", "3ac18cfe2de44c51b57d4ec9e77b6de4"] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "a secret is in clear in {}", path.display());
        }
    }
    // The twin of the scan: it finds them where they still are.
    assert!(before.values().any(|(bytes, ..)| bytes.windows(BOT.len()).any(|part| part == BOT.as_bytes())));
    // A second time nothing is lost, doubled or refused.
    let _ = system.says(&words);
}
