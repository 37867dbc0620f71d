//! The oldest files of the log go by the operator's hand, recorded before, and what they held can still be checked.

use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use proto::audit::{AuthMethod, AuthOutcome, Record, Stream};
use proto::bounded::BoundedStr;
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use system_tests::{As, Sandbox, System, USER, is_root, programs, skip, wait_for};

/// A log from before, of files of this size.
fn grown(system: &System, file_bytes: u64) {
    let logs = system.state().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let writer = Writer::from_system("single-uid".to_owned()).unwrap();
    let limits = Limits { file_bytes, ..Limits::default() };
    let mut journal = Journal::open(std::fs::File::open(&logs).unwrap().into(), writer, limits).unwrap();
    let client = BoundedStr::truncated("192.0.2.1");
    let record = Record::Auth { client, method: AuthMethod::Token, outcome: AuthOutcome::Accepted };
    for _ in 0..200 {
        journal.append(Stream::Auth, &[(Source::OWN, &record)]).unwrap();
    }
    journal.close().unwrap();
    if is_root() && system.who() == As::User {
        let entries = std::fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().path());
        entries.chain([logs]).for_each(|path| std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap());
    }
}

fn auth_files(logs: &Path) -> usize {
    auditd::offline::find(logs, Stream::Auth).unwrap().len()
}

fn auth(system: &System, args: &[&str]) -> Value {
    let all: Value = serde_json::from_str(&system.says(args)).unwrap();
    all.as_array().unwrap().iter().find(|row| row["stream"] == "auth-audit").cloned().unwrap_or_default()
}

fn pruned_log_verifies_from_its_first_key(who: As) {
    let mut system = System::prepare(who, &Sandbox::Native);
    let logs = system.state().join("logs");
    grown(&system, 20 << 10);
    let before = auth_files(&logs);
    assert!(before >= 3);
    // What cannot be recorded is not done.
    assert!(!system.moltbot(&["logs", "prune", "--keep-files", "1"]).status.success());
    assert_eq!(auth_files(&logs), before);
    system.up();
    assert!(system.says(&["logs", "prune"]).contains("nothing is over what is to be kept"));
    assert_eq!(auth_files(&logs), before);
    let would = auth(&system, &["logs", "prune", "--keep-files", "1", "--dry-run", "--json"]);
    assert_eq!((would["gone"].as_bool(), auth_files(&logs)), (Some(false), before));
    let first = auth(&system, &["logs", "verify", "--json"])["firstKey"]["key"].as_str().unwrap().to_owned();
    let gone = auth(&system, &["logs", "prune", "--keep-files", "1", "--json"]);
    assert_eq!((gone["gone"].as_bool(), auth_files(&logs)), (Some(true), 1));
    let records = system.records("system-audit");
    let recorded = records.iter().rfind(|record| record["verb"] == "logs.prune").unwrap();
    assert!(recorded["detail"].as_str().unwrap().starts_with("auth-audit lines 0 to "), "{recorded}");
    for _ in 0..2 {
        let checked = auth(&system, &["logs", "verify", "--stream", "auth", "--from-key", &first, "--json"]);
        assert_eq!((&checked["ok"], &checked["attestedByTilesOnly"]), (&Value::Bool(true), &gone["nextSeq"]));
        // Through broker and, after it, from the files: the oldest record is the one that stayed.
        let oldest = system.says(&["logs", "auth", "--json"]);
        let oldest: Value = serde_json::from_str(oldest.lines().next().unwrap()).unwrap();
        assert_eq!(oldest["seq"], gone["nextSeq"]);
        let _ = system.says(&["down"]);
        system.up();
    }
    let _ = system.says(&["down"]);
}

#[test]
fn pruned_log_verifies_from_its_first_key_as_root() {
    if !is_root() {
        return skip("not root");
    }
    pruned_log_verifies_from_its_first_key(As::Root);
}

#[test]
fn pruned_log_verifies_from_its_first_key_as_user() {
    pruned_log_verifies_from_its_first_key(As::User);
}

#[test]
fn file_of_the_log_becomes_as_large_as_the_configuration_says() {
    for (configured, files) in [(Some(65_536), 2), (None, 1)] {
        let mut system = System::prepare(As::User, &Sandbox::Native);
        if let Some(bytes) = configured {
            let _ = system.says(&["config", "set", "logging.maxFileBytes", &bytes.to_string(), "--yes"]);
        }
        // More than 64 KiB, far less than 10 MiB.
        grown(&system, 10 << 20);
        system.up();
        let logs = system.state().join("logs");
        assert_eq!(auth_files(&logs), files, "{configured:?}");
        let checked = auth(&system, &["logs", "verify", "--stream", "auth", "--json"]);
        assert_eq!((&checked["ok"], &checked["files"]), (&Value::Bool(true), &Value::from(files)));
        let _ = system.says(&["down"]);
    }
}

#[test]
fn prune_that_stays_follows_the_policy_and_goes_on_looking() {
    let mut system = System::prepare(As::User, &Sandbox::Native);
    grown(&system, 20 << 10);
    system.up();
    let logs = system.state().join("logs");
    let before = auth_files(&logs);
    assert!(before >= 3);
    let watch = || {
        let mut command = system.command(&programs().join("moltbot"));
        command.arg("--state-dir").arg(system.state()).args(["logs", "prune", "--watch", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    };
    // Its first look is over once it has said what it did.
    let looked = |child: &mut std::process::Child| {
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let mut idle = watch();
    assert_eq!(
        (looked(&mut idle), auth_files(&logs)),
        (Value::Array(Vec::new()), before),
        "the usual policy keeps what is young"
    );
    let _ = system.says(&["config", "set", "logging.keepFiles", "2", "--yes"]);
    let mut busy = watch();
    let gone = looked(&mut busy);
    let row = gone.as_array().unwrap().iter().find(|row| row["stream"] == "auth-audit").unwrap();
    assert_eq!((row["gone"].as_bool(), auth_files(&logs)), (Some(true), 2));
    for mut child in [idle, busy] {
        assert!(child.try_wait().unwrap().is_none(), "it stays");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    wait_for("the log to be whole", || {
        auth(&system, &["logs", "verify", "--stream", "auth", "--json"])["ok"].as_bool().filter(|ok| *ok)
    });
    let _ = system.says(&["down"]);
}
