//! The real process, killed at every system call and at random instants, with clients that keep their receipts. What takes
//! minutes is ignored here and run by `cargo xtask torture auditd`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::receipts::{RECORDS, STRACE, can, has_strace, kept, put, recovers, text};
use common::{Broker, PATIENCE, auth, verify};
use proto::audit::{AuditRequest, CommandRecord, Receipt, Record, RequestStep, Stream};
use proto::bounded::BoundedStr;
use proto::channel::{CallError, Client};
use proto::edge::ToAuditd;
use proto::ids::{RunId, SessionKey};
use proto::topology::EdgeId;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn strace(inject: &str) -> String {
    let calls = inject.split(':').next().unwrap_or_default();
    format!("{STRACE} -qq -o /dev/null -e trace={calls} -e inject={inject}")
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

/// A writer with its edge, its stream and something to say.
type Writer = (EdgeId, Stream, fn() -> AuditRequest);

const WRITERS: [Writer; 3] = [
    (EdgeId::VaultAuditd, Stream::Auth, || auth("192.0.2.1")),
    (EdgeId::SandboxdAuditd, Stream::Command, command),
    (EdgeId::EgressAuditd, Stream::Secret, request),
];

fn session() -> SessionKey {
    SessionKey(BoundedStr::truncated("agent:main:main"))
}

fn command() -> AuditRequest {
    AuditRequest::Append(Record::Command(CommandRecord::Intent {
        run: RunId(BoundedStr::truncated("r-1")),
        session: session(),
        command: BoundedStr::truncated("make -C /workspace all"),
        backend: BoundedStr::truncated("native"),
        allowed_by: BoundedStr::truncated("make"),
    }))
}

fn request() -> AuditRequest {
    AuditRequest::Append(Record::Request {
        id: BoundedStr::truncated("q-0123456789abcdef"),
        session: session(),
        credential: BoundedStr::truncated("model.key"),
        to: BoundedStr::truncated("api.example.org:443"),
        what: BoundedStr::truncated("POST /v1/messages"),
        step: RequestStep::Begun,
    })
}

/// Writes on its edge until it is dead; what it was told.
fn write_until_the_end(mut client: Client<ToAuditd>, say: fn() -> AuditRequest) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    while let Ok((receipt, _)) = client.call(&say(), &[], Duration::from_secs(20)) {
        receipts.push(receipt);
    }
    receipts
}

/// What was said of each stream so far, and every byte of it at the last look.
#[derive(Default)]
struct Told {
    receipts: [Vec<Receipt>; 3],
    bytes: [Vec<u8>; 3],
}

impl Told {
    /// The life that has just begun added to what the one before left, and took nothing from it.
    fn holds(&mut self, logs: &Path, what: &str) {
        for (at, (_, stream, _)) in WRITERS.iter().enumerate() {
            let now = text(logs, *stream);
            assert!(now.starts_with(&self.bytes[at]), "{what}: recovery changed what was written");
            kept(&now, &self.receipts[at], what);
            // A start accounts for every torn end; it may be writing a checkpoint just now, and then is done with it.
            let until = Instant::now() + PATIENCE;
            while verify(logs, *stream).torn {
                assert!(Instant::now() < until, "{what}: a torn end is not accounted for");
            }
        }
    }

    fn look(&mut self, logs: &Path) {
        self.bytes = WRITERS.map(|(_, stream, _)| text(logs, stream));
    }
}

/// Kills it `rounds` times while three roles write, each life going on with the log of the one before.
fn killed_at_random_instants(rounds: u32) -> usize {
    const LIVES: u32 = 50;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let (mut logs, mut told, mut receipts) = (tempfile::tempdir().unwrap(), Told::default(), 0);
    for round in 0..rounds {
        let what = format!("round {round}");
        if round % LIVES == 0 {
            (logs, told) = (tempfile::tempdir().unwrap(), Told::default());
        }
        let mut broker = Broker::ready(logs.path());
        told.holds(logs.path(), &what);
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let instant = Instant::now() + Duration::from_micros((random >> 33) % 20_000);
        let writers = WRITERS.map(|(edge, _, say)| {
            let client = broker.edge(edge);
            std::thread::spawn(move || write_until_the_end(client, say))
        });
        // The instant is the test's subject: nothing is waited for here.
        std::thread::sleep(instant.saturating_duration_since(Instant::now()));
        broker.child.kill().unwrap();
        broker.child.wait().unwrap();
        for (told, writer) in told.receipts.iter_mut().zip(writers) {
            let new = writer.join().unwrap();
            receipts += new.len();
            told.extend(new);
        }
        told.look(logs.path());
    }
    Broker::ready(logs.path()).exit();
    told.holds(logs.path(), "at the end");
    assert!(WRITERS.iter().all(|(_, stream, _)| !verify(logs.path(), *stream).torn));
    receipts
}

#[test]
fn killed_at_random_instants_under_load_it_keeps_what_it_acknowledged() {
    assert!(killed_at_random_instants(20) > 0);
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_killed_at_two_thousand_random_instants_it_keeps_what_it_acknowledged() {
    println!("{} receipts over 2000 kills, each for a line that is there", killed_at_random_instants(2_000));
}
