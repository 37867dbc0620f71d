//! `moltbot security migrate` from a state directory as OpenClaw 2026.1.30 keeps one.

use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use system_tests::{As, Sandbox, System, USER, is_root};

const KEY: &str = "sk-ant-api03-0123456789abcdef0123456789abcdef";
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
             agents: {{ defaults: {{ sandbox: {{ mode: 'off', backend: 'native' }} }} }},\n\
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
    write("agents/main/sessions/a.jsonl", "{}\n");
    write("devices/paired.json", "{}");
    if is_root() {
        let all = ["", "credentials", "agents", "agents/main", "agents/main/agent", "agents/main/sessions", "devices"];
        for name in all.iter().copied().chain([
            "openclaw.json",
            "credentials/telegram-allowFrom.json",
            "agents/main/agent/auth-profiles.json",
            "agents/main/sessions/a.jsonl",
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
        "channels.telegram.botToken -> telegram.bottoken",
        "profiles.anthropic:default.key -> anthropic.default.key",
        "8734062810 may go on speaking on telegram",
        "1 conversations stay",
        "paired devices ask again",
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
    for (path, (bytes, ..)) in picture(system.state()) {
        for secret in [KEY, BOT] {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "a secret is in clear in {}", path.display());
        }
    }
    // The twin of the scan: it finds them where they still are.
    assert!(before.values().any(|(bytes, ..)| bytes.windows(BOT.len()).any(|part| part == BOT.as_bytes())));
    // A second time nothing is lost, doubled or refused.
    let _ = system.says(&words);
}
