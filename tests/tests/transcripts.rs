//! Conversations at rest, over real processes: what a thief of the state directory finds, who may read, and what deleting does.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, in_both_layouts, wait_for};

const WORDS: &str = "the heron waits by the weir";

/// Every regular file beneath a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Files beneath the state directory that hold the words.
fn holding(system: &System, words: &str) -> Vec<PathBuf> {
    let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    files(system.state()).into_iter().filter(|path| has(&std::fs::read(path).unwrap(), words.as_bytes())).collect()
}

fn sessions(system: &System, args: &[&str]) -> Value {
    let output = system.moltbot(&[&["--json", "sessions"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

in_both_layouts! {
    fn state_directory_holds_no_word_of_a_conversation_and_it_reads_back_after_restarts(system: System) {
        let mut system = system;
        let token = system.token();
        let answer = Client::logged_in(system.port(), &token).chat(&format!("/exec echo {WORDS}"), "c1");
        assert!(answer.contains(WORDS), "{answer}");
        // The command itself is in the log, as every command is; nothing else has the words.
        let log = system.state().join("logs");
        let found = holding(&system, WORDS);
        assert!(found.iter().all(|path| path.starts_with(&log)), "{found:?}");
        let _ = Client::logged_in(system.port(), &token).chat(&format!("hello, {WORDS} too"), "c2");
        assert!(holding(&system, &format!("{WORDS} too")).is_empty());
        // The positive twin: the same search finds it where it lies.
        let planted = system.state().join("sessions/planted");
        std::fs::write(&planted, format!("... {WORDS} too ...")).unwrap();
        assert_eq!(holding(&system, &format!("{WORDS} too")), std::slice::from_ref(&planted));
        std::fs::remove_file(planted).unwrap();

        system.kill("gateway");
        system.wait_epoch("gateway", 2);
        system.kill("vault");
        system.wait_epoch("vault", 2);
        let history = Client::logged_in(system.port(), &token).call("chat.history", &json!({ "sessionKey": "main" }));
        assert!(history.to_string().contains(&format!("hello, {WORDS} too")), "{history}");
        system.down();
        system.up();
        let history = Client::logged_in(system.port(), &token).call("chat.history", &json!({ "sessionKey": "main" }));
        assert!(history.to_string().contains(&format!("hello, {WORDS} too")), "{history}");
        assert!(history["moltbot"].is_null(), "nothing is damaged: {history}");
    }

    fn lines_that_were_moved_are_told_and_deleted_transcripts_are_read_by_nobody(system: System) {
        let token = system.token();
        let mut client = Client::logged_in(system.port(), &token);
        for run in ["a", "b", "c"] {
            let _ = client.chat(&format!("message {run}"), run);
        }
        let rows = sessions(&system, &["list"]);
        assert_eq!((rows[0]["session"].as_str(), rows[0]["open"].as_bool()), (Some("agent:main:main"), Some(true)));
        let id = rows[0]["id"].as_str().unwrap().to_owned();
        let shown = system.says(&["sessions", "show", "main"]);
        assert!(shown.starts_with("user: message a\n"), "{shown}");

        // Two lines swapped by somebody who has the disk.
        let path = system.state().join(format!("sessions/{id}.sealed"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.swap(0, 1);
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let history = client.call("chat.history", &json!({ "sessionKey": "main" }));
        assert_eq!(history["moltbot"]["damagedLines"], 2, "{history}");
        assert!(!system.moltbot(&["sessions", "show", "main"]).status.success());

        let before = sessions(&system, &["reset", "--all"]);
        assert_eq!(before["reset"], json!(["agent:main:main"]));
        let rows = sessions(&system, &["list"]);
        assert_eq!(rows.as_array().unwrap().len(), 2);
        assert!(rows.as_array().unwrap().iter().any(|row| row["id"] == id.as_str() && row["open"] == false));
        assert!(client.call("chat.history", &json!({ "sessionKey": "main" }))["messages"].as_array().unwrap().is_empty());

        assert!(!system.moltbot(&["sessions", "delete", &id]).status.success(), "not without a yes");
        assert!(path.exists());
        assert_eq!(sessions(&system, &["delete", &id, "--yes"])["destroyed"], json!([id]));
        assert!(!path.exists());
        let gone = system.moltbot(&["sessions", "show", &id]);
        assert!(String::from_utf8_lossy(&gone.stderr).contains("transcript.unknown"));

        // A conversation that is open goes with all it has, and gateway does not go on with it.
        client.send("w", "chat.send", &json!({ "sessionKey": "work", "message": "/help", "idempotencyKey": "w" }));
        assert_eq!(client.answer("w")["ok"], true);
        sessions(&system, &["delete", "work", "--yes"]);
        assert!(sessions(&system, &["list"]).as_array().unwrap().iter().all(|row| row["session"] != "agent:main:work"));
        let listed = client.call("sessions.list", &json!({}));
        assert!(!listed.to_string().contains("agent:main:work"), "{listed}");
        let records = system.records("secret-audit");
        for verb in ["transcript.make", "sessions.show", "sessions.delete"] {
            assert!(records.iter().any(|record| record["verb"] == verb && record["success"] == true), "{verb}");
        }
    }

    fn newest_lines_that_were_cut_off_are_missed_after_a_restart_of_everything(system: System) {
        let mut system = system;
        let token = system.token();
        for run in ["a", "b", "c"] {
            let _ = Client::logged_in(system.port(), &token).chat(&format!("message {run}"), run);
        }
        // The vault is told beside the conversation, which does not wait for it.
        wait_for("the vault to count six lines", || (sessions(&system, &["list"])[0]["lines"] == 6).then_some(()));
        let _ = system.says(&["sessions", "show", "main"]);
        let id = sessions(&system, &["list"])[0]["id"].as_str().unwrap().to_owned();
        system.down();
        let path = system.state().join(format!("sessions/{id}.sealed"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.split_inclusive('\n').take(4).collect::<String>()).unwrap();
        system.up();
        let shown = system.moltbot(&["sessions", "show", "main"]);
        let error = String::from_utf8_lossy(&shown.stderr).into_owned();
        assert!(!shown.status.success() && error.contains("newest 2 lines are missing"), "{error}");
        // What is said afterwards does not cover it up.
        let _ = Client::logged_in(system.port(), &token).chat("message d", "d");
        wait_for("lines behind the gap", || (sessions(&system, &["list"])[0]["lines"] == 8).then_some(()));
        let history = Client::logged_in(system.port(), &token).call("chat.history", &json!({ "sessionKey": "main" }));
        assert_eq!(history["moltbot"]["damagedLines"], 2, "{history}");
        assert!(!system.moltbot(&["sessions", "show", "main"]).status.success());
    }
}

fn upgraded(who: As) {
    let mut system = System::start(who, &Sandbox::Native);
    let token = system.token();
    system.down();
    let sessions_dir = system.state().join("sessions");
    let id = "0b8a5f1c-2f0e-4f6a-9d51-0f1e2d3c4b5a";
    let plain = sessions_dir.join(format!("{id}.jsonl"));
    let message = json!({ "role": "user", "content": [{ "type": "text", "text": WORDS }], "timestamp": 1 });
    std::fs::write(&plain, format!("{message}\n").repeat(50)).unwrap();
    let index = json!({ "key": "agent:main:old", "sessionId": id, "createdAt": 1 });
    std::fs::write(sessions_dir.join("index.jsonl"), format!("{index}\n")).unwrap();
    assert_eq!(holding(&system, WORDS), std::slice::from_ref(&plain));
    // Broker gives files that belong to root back at the start; an ordinary user owns them already.
    if system_tests::is_root() && who == As::User {
        for path in [&plain, &sessions_dir.join("index.jsonl")] {
            std::os::unix::fs::chown(path, Some(system_tests::USER), Some(system_tests::USER)).unwrap();
        }
    }
    system.up();
    wait_for("the plain transcript's end", || (!plain.exists()).then_some(()));
    assert!(holding(&system, WORDS).is_empty());
    let history = wait_for("gateway", || {
        let output =
            system.moltbot(&["--json", "gateway", "call", "chat.history", "--params", r#"{"sessionKey":"old"}"#]);
        output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).unwrap())
    });
    assert_eq!(history["messages"].as_array().unwrap().len(), 50, "{history}");
    assert!(history["moltbot"].is_null(), "{history}");
    let mut client = Client::logged_in(system.port(), &token);
    client.send("o", "chat.send", &json!({ "sessionKey": "old", "message": "on", "idempotencyKey": "o" }));
    assert_eq!(client.answer("o")["ok"], true);
}

#[test]
fn plain_transcripts_of_an_older_version_are_sealed_and_destroyed_as_root() {
    if !system_tests::is_root() {
        return system_tests::skip("not root");
    }
    upgraded(As::Root);
}

#[test]
fn plain_transcripts_of_an_older_version_are_sealed_and_destroyed_as_a_user() {
    upgraded(As::User);
}
