//! `moltbot logs` over the files of a log, with no Moltbot running: what it prints and what it exits with.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use proto::audit::{AuthMethod, AuthOutcome, AuthReason, CommandRecord, Record, Stream};
use proto::bounded::BoundedStr;
use proto::ids::{RunId, SessionKey};
use std::path::Path;
use std::process::{Command, Output};

/// A state directory with a log of six logins, the last of them refused.
fn state() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    std::fs::create_dir(state.path().join("logs")).unwrap();
    log_in(state.path(), 5, AuthOutcome::Accepted);
    log_in(state.path(), 1, AuthOutcome::Rejected(AuthReason::TokenMismatch));
    state
}

fn journal(state: &Path) -> Journal {
    let writer = Writer::new("00000000-0000-0000-0000-000000000000".into(), "single-uid".into());
    let directory = std::fs::File::open(state.join("logs")).unwrap().into();
    Journal::open(directory, writer, Limits::default()).unwrap()
}

/// Two commands that ran and one that was refused, of two conversations.
fn run_commands(state: &Path) {
    let mut journal = journal(state);
    let session = |name: &str| SessionKey(BoundedStr::truncated(name));
    let ran = |name, command| CommandRecord::Intent {
        run: RunId(BoundedStr::truncated("r-1")),
        session: session(name),
        command: BoundedStr::truncated(command),
        backend: BoundedStr::truncated("native"),
        allowed_by: BoundedStr::truncated("rule"),
    };
    let (command, rule) = (BoundedStr::truncated("wget -q x"), BoundedStr::truncated("network"));
    let refused = CommandRecord::Refused { session: session("agent:main:work"), command, rule };
    for record in [ran("agent:main:main", "ls -l"), ran("agent:main:work", "curl https://example.org"), refused] {
        journal.append(Stream::Command, &[(Source::OWN, &Record::Command(record))]).unwrap();
    }
    journal.close().unwrap();
}

fn log_in(state: &Path, times: usize, outcome: AuthOutcome) {
    let mut journal = journal(state);
    let client = BoundedStr::truncated("192.0.2.1\u{1b}[31m");
    let record = Record::Auth { client, method: AuthMethod::Token, outcome };
    for _ in 0..times {
        journal.append(Stream::Auth, &[(Source::OWN, &record)]).unwrap();
    }
    journal.close().unwrap();
}

fn moltbot(state: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_moltbot")).arg("--state-dir").arg(state).arg("logs").args(args).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn edit(state: &Path, from: &str, to: &str) {
    let path = state.join("logs/auth-audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn verify_exits_with_what_it_found() {
    let state = state();
    let good = moltbot(state.path(), &["verify"]);
    assert_eq!((good.status.code(), out(&good).matches("ok ").count()), (Some(0), 4));
    let key = out(&good).lines().last().unwrap().split_whitespace().nth(2).unwrap().trim_end_matches(';').to_owned();
    assert_eq!(moltbot(state.path(), &["verify", "--from-key", &key]).status.code(), Some(0));
    let other = key.replace(['0', '1', '2', '3'], "4");
    let wrong = moltbot(state.path(), &["verify", "--stream", "auth", "--from-key", &other, "--json"]);
    assert_eq!(wrong.status.code(), Some(1));
    edit(state.path(), "token_mismatch", "token_missing");
    let edited = moltbot(state.path(), &["verify", "--json"]);
    assert_eq!(edited.status.code(), Some(1));
    let verdicts: serde_json::Value = serde_json::from_str(out(&edited).lines().next().unwrap()).unwrap();
    assert_eq!((&verdicts[0]["ok"], &verdicts[0]["line"]), (&false.into(), &8.into()));
    assert_eq!((&verdicts[0]["file"], &verdicts[1]["ok"]), (&"auth-audit.jsonl".into(), &true.into()));
    assert_eq!(moltbot(state.path(), &["verify", "/nowhere"]).status.code(), Some(4));
    let lone = moltbot(state.path(), &["verify", state.path().join("logs/secret-audit.jsonl").to_str().unwrap()]);
    assert!(out(&lone).contains("secret-audit") && lone.status.success());
}

#[test]
fn checkpoint_kept_elsewhere_finds_the_rollback_that_nothing_else_does() {
    let state = state();
    let old = ["auth-audit.jsonl", "auth-audit.checkpoints", "auth-audit.tile0"]
        .map(|name| (name, std::fs::read(state.path().join("logs").join(name)).unwrap()));
    log_in(state.path(), 3, AuthOutcome::Accepted);
    let kept = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(kept.path(), moltbot(state.path(), &["checkpoint"]).stdout).unwrap();
    let verify = ["verify", "--checkpoint", kept.path().to_str().unwrap()];
    assert_eq!(moltbot(state.path(), &verify).status.code(), Some(0));
    for (name, content) in old {
        std::fs::write(state.path().join("logs").join(name), content).unwrap();
    }
    assert_eq!(moltbot(state.path(), &["verify"]).status.code(), Some(0));
    let found = moltbot(state.path(), &verify);
    assert_eq!(found.status.code(), Some(1));
    assert!(out(&found).contains("rolled-back: auth-audit.jsonl: line 8 "), "{}", out(&found));
}

#[test]
fn proof_convinces_without_the_log_and_not_once_it_is_changed() {
    let state = state();
    let proof = tempfile::NamedTempFile::new().unwrap();
    let made = moltbot(state.path(), &["prove", "7", "--stream", "auth"]);
    assert!(out(&made).starts_with("c2sp.org/tlog-proof@v1\nextra "));
    std::fs::write(proof.path(), &made.stdout).unwrap();
    let path = proof.path().to_str().unwrap();
    let checked = moltbot(state.path(), &["check-proof", path]);
    assert!(checked.status.success() && out(&checked).contains("token_mismatch"));
    let key = out(&moltbot(state.path(), &["verify", "--json"]));
    let key: serde_json::Value = serde_json::from_str(&key).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let with_key = ["check-proof", path, "--key", key[0]["key"]["key"].as_str().unwrap()];
    assert!(moltbot(elsewhere.path(), &with_key).status.success());
    std::fs::write(proof.path(), out(&made).replace("index 7", "index 6")).unwrap();
    assert_eq!(moltbot(elsewhere.path(), &with_key).status.code(), Some(1));
    assert_eq!(moltbot(state.path(), &["prove", "99", "--stream", "auth"]).status.code(), Some(1));
}

#[test]
fn records_are_shown_and_filtered_from_the_files_and_steer_no_terminal() {
    let state = state();
    let all = out(&moltbot(state.path(), &["auth", "--type", "auth"]));
    assert_eq!(all.lines().count(), 6);
    assert!(!all.contains('\u{1b}'), "{all}");
    let json = out(&moltbot(state.path(), &["auth", "--json", "--grep", "\"success\":false"]));
    assert_eq!(json.lines().count(), 1);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["reason"], "token_mismatch");
    assert_eq!(out(&moltbot(state.path(), &["auth", "-n", "2"])).lines().count(), 2);
    assert_eq!(out(&moltbot(state.path(), &["auth", "--since", "1h", "--actor", "vault"])).lines().count(), 0);
    assert_eq!(out(&moltbot(state.path(), &["auth", "--until", "1h"])).lines().count(), 0);
    let coloured = out(&moltbot(state.path(), &["auth", "--color", "always", "-n", "1"]));
    assert!(coloured.contains("\u{1b}[31mauth") && !coloured.contains("\u{1b}[31m "), "{coloured:?}");
    assert_eq!(moltbot(state.path(), &["auth", "-f"]).status.code(), Some(3));
}

#[test]
fn every_filter_leaves_its_records_and_no_others() {
    let state = state();
    run_commands(state.path());
    for (option, value, count, other) in [
        ("--session", "agent:main:work", 2, "agent:main"),
        ("--type", "refused", 1, "outcome"),
        ("--actor", "auditd", 5, "gateway"),
        ("--grep", "wget -q", 1, "wget -v"),
        ("--since", "1h", 5, "9999-01-01"),
        ("--until", "9999-01-01", 5, "1h"),
        ("--since", "1970-01-01T00:00:00Z", 5, "9999-01-01T00:00:00Z"),
    ] {
        for (value, count) in [(value, count), (other, 0)] {
            let said = out(&moltbot(state.path(), &["command", "--json", option, value]));
            assert_eq!(said.lines().count(), count, "{option} {value}: {said}");
        }
    }
    // Together they leave what each of them does.
    let both = ["command", "--json", "--session", "agent:main:work", "--type", "intent"];
    assert!(out(&moltbot(state.path(), &both)).contains("curl"));
    assert_eq!(out(&moltbot(state.path(), &both)).lines().count(), 1);
}

/// What the Phase 1 guide has people type after an incident.
#[test]
fn searches_of_the_guide_find_what_they_are_for() {
    let state = state();
    run_commands(state.path());
    let typed = |line: &str| {
        let logs = state.path().join("logs");
        out(&Command::new("sh").args(["-c", line]).current_dir(logs).output().unwrap()).lines().count()
    };
    assert_eq!(typed("cat auth-audit.jsonl | grep '\"success\":false'"), 1);
    assert_eq!(typed("cat auth-audit.jsonl | grep '\"success\":true'"), 5);
    assert_eq!(typed("cat command-audit.jsonl | grep -E '(eval|wget|curl)'"), 2);
    assert_eq!(typed("cat command-audit.jsonl | grep '\"user\":\"operator\"'"), 3);
    assert_eq!(typed("cat command-audit.jsonl | grep '\"approved\":false'"), 1);
}

#[test]
fn check_says_how_far_it_is_where_it_is_asked_to() {
    let state = state();
    let said = |args: &[&str]| String::from_utf8(moltbot(state.path(), args).stderr).unwrap();
    let told = said(&["verify", "--progress"]);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert!(lines[0].starts_with("auth-audit: 100 % of ") && lines[3].starts_with("system-audit: 100 % of "), "{told}");
    assert_eq!(said(&["verify"]), "");
}

#[test]
fn checkpoint_is_drawn_for_a_camera_or_printed_to_be_read_back() {
    let state = state();
    let plain = out(&moltbot(state.path(), &["checkpoint"]));
    let drawn = out(&moltbot(state.path(), &["checkpoint", "--qr"]));
    let block = |c: char| matches!(c, '\u{2588}' | '\u{2580}' | '\u{2584}');
    assert!(plain.contains("/auth-audit\n") && !plain.contains(block));
    for stream in Stream::ALL {
        assert!(drawn.lines().any(|line| line == stream.name()));
    }
    let codes: Vec<_> =
        drawn.split(|c: char| c.is_ascii_lowercase() || c == '-').filter(|c| c.contains(block)).collect();
    assert_eq!(codes.len(), 4);
    assert!(codes.iter().all(|code| code.lines().filter(|line| line.contains(block)).count() >= 20));
    assert!(codes.windows(2).all(|pair| pair[0] != pair[1]), "each its own");
}
