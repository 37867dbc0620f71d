//! The kernel refuses, or takes only a part: what is not durable is refused to its writer, and the log goes on. What takes
//! minutes is ignored here and run by `cargo xtask torture auditd`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use auditd::chain::{hex, unhex};
use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use common::auth;
use common::receipts::{RECORDS, STRACE, has_strace, recovers};
use proto::audit::{AuditRequest, Receipt, Stream};
use proto::ids::{LeafHash, Seq};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;
use std::process::{Command, Output};

fn open(logs: &Path) -> Journal {
    let writer = Writer::from_system("single-uid".to_owned()).unwrap();
    let directory = std::fs::File::open(logs).unwrap().into();
    Journal::open(directory, writer, Limits::default()).unwrap()
}

/// One record more; what came of it, for the test that started this process.
fn append(journal: &mut Journal) -> String {
    let AuditRequest::Append(record) = auth("192.0.2.1");
    match journal.append(Stream::Auth, &[(Source::OWN, &record)]) {
        Ok(receipts) => format!("=receipt {} {}\n", receipts[0].seq.0, hex(&receipts[0].leaf.0)),
        Err(error) => format!("=refused {error}\n"),
    }
}

/// The journal in a process without a wall, started by the tests below: a traced call that is made to fail is a call of
/// no number to the filter, which kills.
#[test]
#[ignore = "a part of another test"]
fn journal_without_a_wall() {
    let logs = std::env::var("FAULTS_LOGS").unwrap();
    let mut journal = open(Path::new(&logs));
    let mut said = String::new();
    for _ in 0..RECORDS {
        said.push_str(&append(&mut journal));
        let _ = journal.tick();
    }
    let _ = journal.close();
    println!("\n{said}");
}

/// This program again, as one of its parts.
fn part(name: &str, logs: &Path, under: &[&str]) -> Output {
    let own = std::env::current_exe().unwrap();
    let mut words: Vec<&std::ffi::OsStr> = under.iter().map(std::ffi::OsStr::new).collect();
    words.push(own.as_os_str());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["--ignored", "--exact", "--nocapture", name]).env("FAULTS_LOGS", logs);
    command.output().unwrap()
}

/// What a part said of its records: the receipts, and the reason of each refusal.
fn said(output: &Output, what: &str) -> (Vec<Receipt>, Vec<String>) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (mut receipts, mut refused) = (Vec::new(), Vec::new());
    for line in text.lines().filter_map(|line| line.strip_prefix('=')) {
        match line.split_once(' ') {
            Some(("receipt", of)) => {
                let (seq, leaf) = of.split_once(' ').unwrap();
                receipts.push(Receipt { seq: Seq(seq.parse().unwrap()), leaf: LeafHash(unhex(leaf).unwrap()) });
            }
            Some(("refused", why)) => refused.push(why.to_owned()),
            _ => panic!("{what}: {line}"),
        }
    }
    (receipts, refused)
}

/// Runs the journal while `call` on `file` fails with `error`, `when` it is time; also whether it was time at all.
fn injected(logs: &Path, file: &str, call: &str, error: &str, when: &str) -> (Output, bool) {
    let trace = tempfile::NamedTempFile::new().unwrap();
    let (path, kept) = (logs.join(file), trace.path().to_str().unwrap().to_owned());
    let inject = format!("inject={call}:error={error}:when={when}");
    let (trace_only, path) = (format!("trace={call}"), path.to_str().unwrap());
    let under = [STRACE, "-f", "-qq", "-o", &kept, "-e", &trace_only, "-P", path, "-e", &inject];
    let output = part("journal_without_a_wall", logs, &under);
    let hit = std::fs::read_to_string(trace.path()).unwrap().contains("(INJECTED)");
    (output, hit)
}

#[test]
fn call_that_fails_is_refused_at_once_with_its_reason_and_the_log_goes_on() {
    if !has_strace() {
        return;
    }
    let mut refusals = 0;
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
            let (output, _) = injected(logs.path(), "auth-audit.jsonl", call, error, when);
            let (receipts, refused) = said(&output, &what);
            assert!(refused.iter().all(|why| why.contains(says)), "{what}: {refused:?}");
            refusals += refused.len();
            // One failure costs one batch at most, and the next is taken again.
            assert!(receipts.len() >= RECORDS - 1, "{what}: {}", String::from_utf8_lossy(&output.stdout));
            recovers(logs.path(), &receipts, &what);
        }
    }
    assert!(refusals >= 7, "{refusals}");
}

/// Every call on every file of a stream, one after the other, until a life has no further one.
#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_every_call_on_every_file_fails_with_every_error() {
    assert!(has_strace());
    let mut hits = 0;
    let files = ["auth-audit.jsonl", "auth-audit.checkpoints", "auth-audit.tile0", "signing.key", ""];
    for (file, call) in files.into_iter().flat_map(|file| {
        ["openat", "write", "pwrite64", "pread64", "fdatasync", "fallocate", "fsync", "fstat"].map(|call| (file, call))
    }) {
        for error in ["ENOSPC", "EIO", "EFBIG"] {
            for when in 1.. {
                let what = format!("{call} {when} on {file:?}: {error}");
                let logs = tempfile::tempdir().unwrap();
                let (output, hit) = injected(logs.path(), file, call, error, &when.to_string());
                if !hit {
                    break;
                }
                hits += 1;
                let (receipts, refused) = said(&output, &what);
                // It does not come up at all, or all but one batch is taken.
                let came_up = receipts.len() + refused.len() == RECORDS;
                assert!(!came_up || receipts.len() >= RECORDS - 1, "{what}: {refused:?}");
                recovers(logs.path(), &receipts, &what);
            }
        }
    }
    println!("{hits} calls failed, none lost what was acknowledged");
}

/// Each life may write some bytes of its next record, and not one more; then the limit goes.
#[test]
#[ignore = "a part of another test"]
fn short_writes_without_a_wall() {
    confine::privileges::answer_file_size_limit_with_errno().unwrap();
    let directory = std::env::var("FAULTS_LOGS").unwrap();
    for short in 0u64.. {
        let logs = Path::new(&directory).join(short.to_string());
        std::fs::create_dir(&logs).unwrap();
        let mut journal = open(&logs);
        let first = append(&mut journal);
        let now = std::fs::metadata(logs.join("auth-audit.jsonl")).unwrap().len();
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(now + short), ..before }).unwrap();
        let second = append(&mut journal);
        setrlimit(Resource::Fsize, before).unwrap();
        let third = append(&mut journal);
        journal.close().unwrap();
        // As many bytes as it wanted.
        if second.starts_with("=receipt") {
            return;
        }
        println!("\n{first}{second}{third}={short} - -");
    }
}

#[test]
fn write_that_stops_short_at_any_byte_is_refused_and_accounted_for() {
    let logs = tempfile::tempdir().unwrap();
    let output = part("short_writes_without_a_wall", logs.path(), &["env"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let lives: Vec<_> = text.split("=receipt ").filter(|life| !life.is_empty()).collect();
    let shorts = text.lines().filter(|line| line.ends_with("- -")).count();
    assert!(shorts > 300, "{shorts}");
    assert_eq!(text.matches("=refused").count(), shorts, "one refusal a life");
    assert!(lives.len() >= 2 * shorts && text.matches("File too large").count() == shorts);
    for short in 0..shorts {
        let logs = logs.path().join(short.to_string());
        let report = common::verify(&logs, Stream::Auth);
        assert!(!report.torn, "{short}: {report:?}");
        let lines = std::fs::read_to_string(logs.join("auth-audit.jsonl")).unwrap();
        let parsed = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let types: Vec<_> = parsed.map(|line| line["type"].as_str().unwrap().to_owned()).collect();
        let count = |kind: &str| types.iter().filter(|found| *found == kind).count();
        // The last life wrote all of the refused one but its newline.
        let auths = 2 + usize::from(short + 1 == shorts);
        assert_eq!((count("auth"), count("torn"), count("resumed")), (auths, usize::from(short > 0), 1), "{short}");
    }
}
