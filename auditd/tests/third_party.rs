//! The log as read by tools that we did not write: an honest one passes, and one that was changed does not.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use auditd::clock::Instant;
use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use proto::audit::{AuthMethod, AuthOutcome, Record, Stream};
use proto::bounded::BoundedStr;
use proto::ids::{Epoch, RequestId, Role};
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/third-party/check.sh");

/// True where every tool is there; else says so, and fails where CI wants them all.
fn tools(names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none_or(|wish| wish != "all"), "{missing:?} must be installed");
    eprintln!("SKIPPED: {missing:?} are not installed");
    false
}

fn has(name: &str) -> bool {
    let found = |dir: std::path::PathBuf| dir.join(name).exists();
    name.starts_with('/') && Path::new(name).exists()
        || std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(found))
}

/// Two changes of keys, checkpoints in the lines and beside them, texts of strangers.
fn log() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let writer = Writer::new("00000000-0000-0000-0000-000000000000".into(), "single-uid".into());
    let limits = Limits { checkpoint_every: 16, note_interval: std::time::Duration::ZERO, ..Limits::default() };
    let mut journal = Journal::open(std::fs::File::open(dir.path()).unwrap().into(), writer, limits).unwrap();
    for at in 0..100u32 {
        let client = BoundedStr::truncated(&format!("\u{fffd}\"\\ \u{1b}[31m {at} ü"));
        let record = Record::Auth { client, method: AuthMethod::Token, outcome: AuthOutcome::Accepted };
        let source = Source { role: Role::Vault, epoch: Some(Epoch(1)), request: Some(RequestId(at)) };
        journal.append(Stream::Auth, &[(source, &record)]).unwrap();
        if at % 9 == 0 {
            journal.tick().unwrap();
        }
        if at % 40 == 20 {
            journal.change_keys(Instant::now()).unwrap();
        }
    }
    journal.close().unwrap();
    dir
}

fn check(what: &str, dir: &Path) -> Result<String, String> {
    let mut command = Command::new(SCRIPT);
    command.arg(what).arg(dir.join("auth-audit.jsonl"));
    if what != "chain" {
        command.arg(dir.join("auth-audit.checkpoints"));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn edit(dir: &Path, name: &str, from: &str, to: &str) {
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(dir.join(name), text.replacen(from, to, 1)).unwrap();
}

#[test]
fn jq_and_sha256sum_follow_the_chain_and_stop_at_an_edit() {
    if !tools(&["bash", "jq", "sha256sum"]) {
        return;
    }
    let dir = log();
    assert!(check("chain", dir.path()).unwrap().contains("lines"));
    edit(dir.path(), "auth-audit.jsonl", "\"req\":50", "\"req\":51");
    assert!(check("chain", dir.path()).unwrap_err().contains("prev is not the leaf"));
}

#[test]
fn openssl_verifies_every_checkpoint_and_no_other_text() {
    if !tools(&["bash", "jq", "openssl", "xxd", "awk"]) {
        return;
    }
    let dir = log();
    let text = check("signatures", dir.path()).unwrap();
    assert!(text.split_whitespace().next().unwrap().parse::<u32>().unwrap() >= 10, "{text}");
    let notes = std::fs::read_to_string(dir.path().join("auth-audit.checkpoints")).unwrap();
    let size = format!("\n{}\n", notes.lines().nth(1).unwrap());
    edit(dir.path(), "auth-audit.checkpoints", &size, &size.replace(&size[1..2], "9"));
    assert!(check("signatures", dir.path()).unwrap_err().contains("bad signature"));
}

#[test]
fn go_sumdb_packages_agree_on_notes_roots_and_proofs() {
    if !tools(&["bash", "jq", "go", "/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog"]) {
        return;
    }
    let dir = log();
    let text = check("tree", dir.path()).unwrap();
    assert!(text.contains("200 edits refused"), "{text}");
    edit(dir.path(), "auth-audit.jsonl", "\"req\":50", "\"req\":51");
    assert!(check("tree", dir.path()).unwrap_err().contains("is not the signed one"));
}
