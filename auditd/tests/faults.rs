//! The real process, killed and lied to by the kernel at one system call after the other, with a client that keeps its
//! receipts. What takes minutes is ignored here and run by `cargo xtask torture auditd`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use auditd::chain::{hex, unhex};
use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use common::{Broker, auth, verify};
use proto::audit::{AuditRequest, Receipt, Stream};
use proto::channel::{CallError, Client};
use proto::edge::ToAuditd;
use proto::ids::{LeafHash, Seq};
use proto::topology::EdgeId;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const STRACE: &str = "/usr/bin/strace";
const RECORDS: usize = 6;
/// Longest that a client waits for a refusal.
const AT_ONCE: Duration = Duration::from_millis(100);

/// True where a program can be had to do it; says so where not, and fails where CI wants it.
fn can(what: &str, works: bool) -> bool {
    if !works {
        assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none_or(|wish| wish != "all"), "cannot be skipped: {what}");
        eprintln!("SKIPPED: {what}");
    }
    works
}

fn has_strace() -> bool {
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    can(
        "strace must be installed and allowed to trace",
        quiet(Command::new(STRACE).args(["-qq", "-o", "/dev/null", "true"])),
    )
}

fn strace(inject: &str) -> String {
    let calls = inject.split(':').next().unwrap_or_default();
    format!("{STRACE} -qq -o /dev/null -e trace={calls} -e inject={inject}")
}

fn text(logs: &Path) -> Vec<u8> {
    std::fs::read(logs.join("auth-audit.jsonl")).unwrap_or_default()
}

fn put(client: &mut Client<ToAuditd>) -> Result<Receipt, CallError> {
    client.call(&auth("192.0.2.1"), &[], Duration::from_secs(5)).map(|(receipt, _)| receipt)
}

/// One life of auditd under `inject`, which may end it anywhere. Returns the receipts, and whether it got to its end.
fn live(logs: &Path, inject: &str) -> (Vec<Receipt>, bool) {
    let mut receipts = Vec::new();
    let Some(broker) = Broker::start_under(logs, "", &strace(inject)).filter(Broker::comes_up) else {
        return (receipts, false);
    };
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    for _ in 0..RECORDS {
        match put(&mut vault) {
            Ok(receipt) => receipts.push(receipt),
            Err(CallError::Refused(_)) => {}
            Err(_) => return (receipts, false),
        }
    }
    (receipts, broker.exit() == Some(0))
}

/// Every receipt is for a line that is there, and the next life only appended.
fn recovers(logs: &Path, receipts: &[Receipt], what: &str) {
    let before = text(logs);
    let broker = Broker::ready(logs);
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    put(&mut vault).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(broker.exit(), Some(0), "{what}");
    let after = text(logs);
    assert!(after.starts_with(&before), "{what}: recovery changed what was written");
    let report = verify(logs, Stream::Auth);
    assert!(!report.torn && report.signed == report.head.size, "{what}: {report:?}");
    let lines: Vec<_> = after.split(|byte| *byte == b'\n').collect();
    for receipt in receipts {
        let line = lines[usize::try_from(receipt.seq.0).unwrap()];
        assert_eq!(auditd::chain::leaf(line), receipt.leaf, "{what}: an acknowledged record is not there");
    }
}

/// Kills before the Nth of `calls` for every N, until one life gets to its end.
fn kill_at_every(calls: &str) -> usize {
    for when in 1.. {
        let logs = tempfile::tempdir().unwrap();
        let (receipts, finished) = live(logs.path(), &format!("{calls}:signal=KILL:when={when}"));
        recovers(logs.path(), &receipts, &format!("killed before {calls} number {when}"));
        if finished {
            assert_eq!(receipts.len(), RECORDS);
            return when;
        }
    }
    0
}

#[test]
fn killed_at_every_write_and_sync_it_keeps_what_it_acknowledged() {
    if !has_strace() {
        return;
    }
    for calls in ["write", "fdatasync", "pwrite64", "fallocate", "fsync"] {
        assert!(kill_at_every(calls) > 1, "{calls} is never called");
    }
}

/// Names of the system calls of one undisturbed life.
fn calls_of_a_life() -> BTreeSet<String> {
    let (logs, trace) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let under = format!("{STRACE} -qq -o {}", trace.path().display());
    let broker = Broker::start_under(logs.path(), "", &under).filter(Broker::comes_up).unwrap();
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    for _ in 0..RECORDS {
        put(&mut vault).unwrap();
    }
    assert_eq!(broker.exit(), Some(0));
    let text = std::fs::read_to_string(trace.path()).unwrap();
    text.lines().filter_map(|line| line.split_once('(')).map(|(name, _)| name.to_owned()).collect()
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_killed_at_every_system_call_it_keeps_what_it_acknowledged() {
    assert!(has_strace());
    let calls = calls_of_a_life();
    assert!(calls.contains("fdatasync") && calls.contains("sendmsg"), "{calls:?}");
    // strace counts each call by itself. The first execve is strace's own.
    let counted = |call: &String| (call.as_str() != "execve").then(|| kill_at_every(call) - 1);
    println!("{} system calls of {} kinds", calls.iter().filter_map(counted).sum::<usize>(), calls.len());
}

/// The journal in a process without a wall, started by the test below: a traced call that is made to fail is a call of
/// no number to the filter, which kills.
#[test]
#[ignore = "a part of another test"]
fn journal_without_a_wall() {
    let logs = std::env::var("FAULTS_LOGS").unwrap();
    let writer = Writer::from_system("single-uid".to_owned()).unwrap();
    let directory = std::fs::File::open(logs).unwrap().into();
    let mut journal = Journal::open(directory, writer, Limits::default()).unwrap();
    let AuditRequest::Append(record) = auth("192.0.2.1");
    let mut said = String::new();
    for _ in 0..RECORDS {
        let begun = Instant::now();
        let outcome = journal.append(Stream::Auth, &[(Source::OWN, &record)]);
        let took = begun.elapsed().as_micros();
        match outcome {
            Ok(receipts) => said.push_str(&format!("=receipt {} {}\n", receipts[0].seq.0, hex(&receipts[0].leaf.0))),
            Err(error) => said.push_str(&format!("=refused {took} {error}\n")),
        }
        let _ = journal.tick();
    }
    let _ = journal.close();
    println!("\n{said}");
}

#[test]
fn call_that_fails_is_refused_at_once_with_its_reason_and_the_log_goes_on() {
    if !has_strace() {
        return;
    }
    let mut refused = 0;
    for (call, error, says) in [
        ("write", "ENOSPC", "No space left"),
        ("write", "EIO", "Input/output error"),
        ("write", "EFBIG", "File too large"),
        ("write", "EDQUOT", "Disk quota exceeded"),
        ("fdatasync", "EIO", "Input/output error"),
        ("fdatasync", "ENOSPC", "No space left"),
        ("fallocate", "ENOSPC", "No space left"),
    ] {
        // The first one brings the key in, the others are records; room is promised for many at once.
        for when in if call == "fallocate" { ["1..2", "1..3"].as_slice() } else { &["1", "2", "4", "7"] } {
            let what = format!("{call} {error} {when}");
            let logs = tempfile::tempdir().unwrap();
            let output = Command::new(STRACE)
                .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}"), "-P"])
                .arg(logs.path().join("auth-audit.jsonl"))
                .args(["-e", &format!("inject={call}:error={error}:when={when}")])
                .arg(std::env::current_exe().unwrap())
                .args(["--ignored", "--exact", "--nocapture", "journal_without_a_wall"])
                .env("FAULTS_LOGS", logs.path())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let mut receipts = Vec::new();
            for line in text.lines().filter_map(|line| line.strip_prefix('=')) {
                let mut words = line.splitn(3, ' ');
                match (words.next(), words.next(), words.next()) {
                    (Some("receipt"), Some(seq), Some(leaf)) => {
                        receipts.push(Receipt { seq: Seq(seq.parse().unwrap()), leaf: LeafHash(unhex(leaf).unwrap()) })
                    }
                    (Some("refused"), Some(micros), Some(why)) => {
                        assert!(micros.parse::<u128>().unwrap() < AT_ONCE.as_micros(), "{what}: {micros}");
                        assert!(why.contains(says), "{what}: {why}");
                        refused += 1;
                    }
                    _ => panic!("{what}: {line}"),
                }
            }
            // One failure costs one batch at most, and the next is taken again.
            assert!(receipts.len() >= RECORDS - 1, "{what}: {text}");
            recovers(logs.path(), &receipts, &what);
        }
    }
    assert!(refused >= 7, "{refused}");
}

#[test]
fn file_system_that_cannot_allocate_ahead_is_written_to_all_the_same() {
    if !has_strace() {
        return;
    }
    let logs = tempfile::tempdir().unwrap();
    let (receipts, finished) = live(logs.path(), "fallocate:error=EOPNOTSUPP");
    assert!(finished && receipts.len() == RECORDS);
    recovers(logs.path(), &receipts, "no fallocate");
}

/// Takes the attribute off again, so that the directory can be removed.
struct AppendOnly(tempfile::TempDir);

impl AppendOnly {
    fn chattr(&self, what: &str) -> bool {
        let entries = std::fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path());
        let logs = entries.filter(|path| path.extension().is_some_and(|kind| kind == "jsonl" || kind == "checkpoints"));
        let mut command = Command::new("chattr");
        command.arg(what).args(logs).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for AppendOnly {
    fn drop(&mut self) {
        self.chattr("-a");
    }
}

#[test]
fn append_only_files_of_the_kernel_are_enough_to_write_repair_and_restart() {
    // Not on tmpfs, which knows no attributes.
    let logs = AppendOnly(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
    let path = logs.0.path();
    let (receipts, _) = first_life(path);
    std::fs::OpenOptions::new()
        .append(true)
        .open(path.join("auth-audit.jsonl"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b"{\"seq\""))
        .unwrap();
    if !can("chattr +a needs root and ext4", logs.chattr("+a")) {
        return;
    }
    // The attribute works: what auditd does not do cannot be done.
    assert!(std::fs::OpenOptions::new().write(true).open(path.join("auth-audit.jsonl")).is_err());
    assert!(std::fs::remove_file(path.join("auth-audit.jsonl")).is_err());
    recovers(path, &receipts, "chattr +a");
}

fn first_life(logs: &Path) -> (Vec<Receipt>, bool) {
    let broker = Broker::ready(logs);
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    let receipts = (0..RECORDS).map(|_| put(&mut vault).unwrap()).collect();
    (receipts, broker.exit() == Some(0))
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_killed_at_random_instants_under_load_it_keeps_what_it_acknowledged() {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..2_000 {
        let logs = tempfile::tempdir().unwrap();
        let mut broker = Broker::ready(logs.path());
        let mut vault = broker.edge(EdgeId::VaultAuditd);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let instant = Instant::now() + Duration::from_micros((random >> 33) % 20_000);
        let pid = rustix::process::Pid::from_child(&broker.child);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(instant.saturating_duration_since(Instant::now()));
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        });
        let mut receipts = Vec::new();
        while let Ok(receipt) = put(&mut vault) {
            receipts.push(receipt);
        }
        killer.join().unwrap();
        let _ = broker.child.wait();
        recovers(logs.path(), &receipts, &format!("round {round}"));
    }
}
