//! What a durable record costs, beside what the disk alone takes in the same seconds. Run by hand, in release:
//! `cargo test --release -p auditd --test bench -- --ignored --nocapture`
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::{Broker, PATIENCE, auth};
use proto::channel::{Channel, frame};
use proto::control::ToRole;
use proto::edge::{Edge, ToAuditd};
use proto::ids::{Epoch, RequestId};
use proto::topology::{EdgeId, Side};
use proto::wire::Kind;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Keeps a processor awake: an idle one learns of the disk's answer late, which is no matter of ours.
struct Awake(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Awake {
    fn new() -> Self {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        std::thread::spawn(move || {
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        Self(stop)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
#[ignore = "a measurement"]
fn durable_append_of_one_client_beside_the_raw_disk() {
    let logs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let broker = Broker::ready(logs.path());
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    let mut raw = std::fs::File::create(logs.path().join("raw")).unwrap();
    let line = vec![b'x'; 420];
    let _awake = Awake::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..2_000 {
        let start = Instant::now();
        vault.call(&auth("192.0.2.1"), &[], PATIENCE).unwrap();
        ours.push(start.elapsed());
        let start = Instant::now();
        raw.write_all(&line).unwrap();
        raw.sync_data().unwrap();
        theirs.push(start.elapsed());
    }
    println!("one client: {:?} durable, raw write and fdatasync {:?}", median(ours), median(theirs));
}

#[test]
#[ignore = "a measurement"]
fn throughput_of_pipelining_clients() {
    const EACH: usize = 20_000;
    let logs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let broker = Broker::ready(logs.path());
    let (ours, theirs) = Channel::pair().unwrap();
    broker.say(&ToRole::Grant { edge: EdgeId::VaultAuditd, side: Side::Server, peer: Epoch(1) }, &[theirs.as_fd()]);
    let deadline = || Instant::now() + PATIENCE;
    let start = Instant::now();
    let (mut sent, mut answered) = (0, 0);
    while answered < EACH {
        while sent < EACH && sent - answered < ToAuditd::WINDOW {
            let id = RequestId(u32::try_from(sent).unwrap());
            let packet = frame(Kind::Request, id, 1000, &auth("192.0.2.1"), ToAuditd::MAX_REQUEST).unwrap();
            ours.send_by(&packet, &[], deadline()).unwrap();
            sent += 1;
        }
        ours.recv_by(ToAuditd::MAX_REPLY, 0, deadline()).unwrap();
        answered += 1;
    }
    let took = start.elapsed();
    println!("one edge, window {}: {:.0} records/s", ToAuditd::WINDOW, EACH as f64 / took.as_secs_f64());
}

#[test]
#[ignore = "a measurement"]
fn start_beside_a_log_of_any_length_and_its_check() {
    let logs = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let first = Instant::now();
    let broker = Broker::ready(logs.path());
    println!("first start: {:?}", first.elapsed());
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    vault.call(&auth("192.0.2.1"), &[], PATIENCE).unwrap();
    assert_eq!(broker.exit(), Some(0));
    let start = || {
        let times = (0..9).map(|_| {
            let start = Instant::now();
            let broker = Broker::ready(logs.path());
            let took = start.elapsed();
            assert_eq!(broker.exit(), Some(0));
            took
        });
        median(times.collect())
    };
    println!("start with 3 records: {:?}", start());
    let writer = auditd::writer::Writer::from_system("single-uid".to_owned()).unwrap();
    let directory = std::fs::File::open(logs.path()).unwrap().into();
    let mut journal = auditd::journal::Journal::open(directory, writer, auditd::state::Limits::default()).unwrap();
    let proto::audit::AuditRequest::Append(record) = auth("192.0.2.1");
    let batch = vec![(auditd::record::Source::OWN, &record); 1000];
    for _ in 0..200 {
        journal.append(proto::audit::Stream::Auth, &batch).unwrap();
    }
    journal.close().unwrap();
    drop(journal);
    println!("start with 200 000 records: {:?}", start());
    let bytes: u64 =
        std::fs::read_dir(logs.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let begun = Instant::now();
    let report = common::verify(logs.path(), proto::audit::Stream::Auth);
    let took = begun.elapsed().as_secs_f64();
    let (records, mib) = (report.head.size as f64, bytes as f64 / 1e6);
    println!("check: {:.2} M records/s, {:.0} MB/s", records / took / 1e6, mib / took);
}

#[test]
#[ignore = "a measurement"]
fn redaction_of_ordinary_text() {
    let lock = include_str!("../../Cargo.lock").to_owned();
    // Lines of real logs, where somebody has them.
    let logs = std::env::var("REDACT_PLAIN").ok().map(|path| std::fs::read(path).unwrap());
    let logs = logs.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let redactor = auditd::redact::Redactor::new(&[7; 32]);
    for (what, text) in [("Cargo.lock", Some(lock)), ("logs", logs)] {
        let Some(text) = text else { continue };
        let speed = || {
            let start = Instant::now();
            let kept: usize = text.lines().map(|line| redactor.clean(line).len()).sum();
            kept as f64 / 1e6 / start.elapsed().as_secs_f64()
        };
        let mut speeds: Vec<_> = (0..9).map(|_| speed()).collect();
        speeds.sort_by(f64::total_cmp);
        println!("redaction of {what}: {:.0} MB/s, at best {:.0}", speeds[4], speeds[8]);
    }
}
