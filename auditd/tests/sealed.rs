//! The real process behind its real walls, with the test in broker's place.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::{Broker, PATIENCE, auth, receipts, verify};
use proto::audit::Stream;
use proto::channel::{CallError, Channel, ChannelError, frame};
use proto::control::{AdminReply, AdminRequest, FromRole, LogFiles, ToRole};
use proto::edge::{Edge, ToAuditd};
use proto::ids::{Epoch, RequestId};
use proto::topology::{EdgeId, Side};
use proto::wire::Kind;
use std::os::fd::AsFd;

#[test]
fn sealed_auditd_appends_reports_reads_and_stops() {
    let logs = tempfile::tempdir().unwrap();
    let broker = Broker::ready(logs.path());
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    let receipts: Vec<_> = (0..3).map(|_| vault.call(&auth("192.0.2.1"), &[], PATIENCE).unwrap().0).collect();
    let file = std::fs::read_to_string(logs.path().join("auth-audit.jsonl")).unwrap();
    let leaves: Vec<_> = file.lines().map(|line| auditd::chain::leaf(line.as_bytes())).collect();
    for receipt in &receipts {
        assert_eq!(receipt.leaf, leaves[usize::try_from(receipt.seq.0).unwrap()]);
    }
    broker.say(&ToRole::Admin(1, AdminRequest::LogHeads), &[]);
    let FromRole::Admin(1, Ok(AdminReply::LogHeads(heads))) = broker.hear() else { panic!("heads") };
    assert_eq!((heads[0].stream, heads[0].size, heads[0].leaf), (Stream::Auth, 5, leaves[4]));
    for (offset, expected) in [(0, file.as_bytes()), (1 << 40, b"".as_slice())] {
        broker.say(&ToRole::Admin(2, AdminRequest::ReadLog { stream: Stream::Auth, offset }), &[]);
        let FromRole::Admin(2, Ok(AdminReply::LogBytes { bytes, .. })) = broker.hear() else { panic!("bytes") };
        assert_eq!(&*bytes, expected);
    }
    broker.say(&ToRole::Ping(9), &[]);
    assert!(matches!(broker.hear(), FromRole::Pong(9)));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn record_that_is_not_the_writers_closes_its_edge_alone_and_is_reported() {
    let logs = tempfile::tempdir().unwrap();
    let broker = Broker::ready(logs.path());
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    let mut sandboxd = broker.edge(EdgeId::SandboxdAuditd);
    assert!(sandboxd.call(&auth("192.0.2.1"), &[], PATIENCE).is_err());
    assert!(matches!(broker.hear(), FromRole::Violated { edge: EdgeId::SandboxdAuditd, .. }));
    // The key and its checkpoint come first.
    assert_eq!(vault.call(&auth("192.0.2.1"), &[], PATIENCE).unwrap().0.seq.0, 2);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn text_that_is_no_utf_8_closes_its_edge_alone_and_nothing_of_it_is_in_the_log() {
    let logs = tempfile::tempdir().unwrap();
    let broker = Broker::ready(logs.path());
    let asked = |edge| {
        let (ours, theirs) = Channel::pair().unwrap();
        broker.say(&ToRole::Grant { edge, side: Side::Server, peer: Epoch(1) }, &[theirs.as_fd()]);
        ours
    };
    let vault = asked(EdgeId::VaultAuditd);
    let good = frame(Kind::Request, RequestId(1), 1_000, &auth("AAAAAAAA"), ToAuditd::MAX_REQUEST).unwrap();
    let mut bad = good.clone();
    let at = bad.windows(8).position(|window| window == b"AAAAAAAA").unwrap();
    bad[at..at + 8].copy_from_slice(b"\xff\xfeAA\xc3(AA");
    let answer = |channel: &Channel| channel.recv_by(ToAuditd::MAX_REPLY, 0, std::time::Instant::now() + PATIENCE);
    vault.send(&good, &[]).unwrap();
    assert!(answer(&vault).is_ok());
    vault.send(&bad, &[]).unwrap();
    assert!(matches!(broker.hear(), FromRole::Violated { edge: EdgeId::VaultAuditd, .. }));
    assert!(matches!(answer(&vault), Err(ChannelError::Closed)));
    // A new vault is served by the same auditd.
    let vault = asked(EdgeId::VaultAuditd);
    vault.send(&good, &[]).unwrap();
    assert!(answer(&vault).is_ok());
    assert_eq!(broker.exit(), Some(0));
    let file = std::fs::read(logs.path().join("auth-audit.jsonl")).unwrap();
    assert_eq!(String::from_utf8(file).unwrap().matches("AAAAAAAA").count(), 2);
}

#[test]
fn log_that_was_edited_is_exit_79_and_a_torn_one_is_repaired() {
    let logs = tempfile::tempdir().unwrap();
    let path = logs.path().join("auth-audit.jsonl");
    let broker = Broker::ready(logs.path());
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    for _ in 0..2 {
        vault.call(&auth("192.0.2.1"), &[], PATIENCE).unwrap();
    }
    assert_eq!(broker.exit(), Some(0));
    let honest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{honest}{{\"seq\":2,")).unwrap();
    assert_eq!(Broker::ready(logs.path()).exit(), Some(0));
    assert!(std::fs::read_to_string(&path).unwrap().contains("\"type\":\"torn\""));
    std::fs::write(&path, honest.replacen("192.0.2.1", "192.0.2.9", 1)).unwrap();
    let mut refused = Broker::start(logs.path(), "");
    assert_eq!(refused.child.wait().unwrap().code(), Some(79));
}

#[test]
fn file_size_limit_of_the_operator_is_a_refusal_and_no_death() {
    let logs = tempfile::tempdir().unwrap();
    let broker = Broker::ready_within(logs.path(), "ulimit -f 32;");
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    let refusal = loop {
        match vault.call(&auth("192.0.2.1"), &[], PATIENCE) {
            Ok(_) => {}
            Err(CallError::Refused(refusal)) => break refusal,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(refusal.message.contains("File too large"), "{refusal}");
    let text = std::fs::read_to_string(logs.path().join("auth-audit.jsonl")).unwrap();
    assert!(text.contains("\"type\":\"full\"") && text.contains("File too large"));
    broker.say(&ToRole::Ping(3), &[]);
    assert!(matches!(broker.hear(), FromRole::Pong(3)));
    assert_eq!(broker.exit(), Some(0));
    let broker = Broker::ready(logs.path());
    broker.edge(EdgeId::VaultAuditd).call(&auth("192.0.2.1"), &[], PATIENCE).unwrap();
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn sealed_auditd_goes_on_in_a_new_file_at_the_size_that_it_is_told() {
    let grow = |bytes| {
        let logs = tempfile::tempdir().unwrap();
        let broker = Broker::ready_with(logs.path(), LogFiles { bytes, ..LogFiles::default() });
        let mut vault = broker.edge(EdgeId::VaultAuditd);
        let receipts: Vec<_> = (0..500).map(|_| vault.call(&auth("192.0.2.1"), &[], PATIENCE).unwrap().0).collect();
        assert_eq!(broker.exit(), Some(0));
        let files = auditd::offline::find(logs.path(), Stream::Auth).unwrap();
        let text: Vec<u8> = files.iter().flat_map(|pair| std::fs::read(&pair.log).unwrap()).collect();
        receipts::kept(&text, &receipts, "over all files");
        assert_eq!(verify(logs.path(), Stream::Auth).files, files.len());
        let sizes = files.iter().map(|pair| std::fs::metadata(&pair.log).unwrap().len());
        (files.len(), sizes.max().unwrap())
    };
    let (files, largest) = grow(64 << 10);
    assert!(files >= 3 && largest < 66 << 10, "{files} files, the largest of {largest}");
    assert_eq!(grow(10 << 20).0, 1);
}

#[test]
fn broker_that_is_gone_ends_auditd() {
    let logs = tempfile::tempdir().unwrap();
    let mut broker = Broker::ready(logs.path());
    let (unused, _) = Channel::pair().unwrap();
    drop(std::mem::replace(&mut broker.control, unused));
    assert_eq!(broker.child.wait().unwrap().code(), Some(71));
    assert!(matches!(broker.control.recv(1, 0), Err(ChannelError::Closed)));
}

/// A small file system that can be filled, taken down at the end of its test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &std::ffi::CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        if rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(size)).is_err() {
            eprintln!("SKIPPED: mounting a tmpfs needs root");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn sealed_auditd_refuses_on_a_full_file_system_and_resumes_with_room() {
    let Some(Small(logs)) = &Small::mount(c"size=256k") else { return };
    let ballast = logs.path().join("ballast");
    std::fs::write(&ballast, vec![0; 160 << 10]).unwrap();
    let broker = Broker::ready(logs.path());
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    let mut leaves = Vec::new();
    let refusal = loop {
        match vault.call(&auth("192.0.2.1"), &[], PATIENCE) {
            Ok((receipt, _)) => leaves.push(receipt),
            Err(CallError::Refused(refusal)) => break refusal,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(refusal.rule.as_str(), "audit.unwritable");
    assert!(refusal.message.contains("No space left on device"), "{refusal}");
    assert!(matches!(vault.call(&auth("192.0.2.1"), &[], PATIENCE), Err(CallError::Refused(_))), "and again");
    let says_why = |text: String| text.contains("\"type\":\"full\"") && text.contains("No space left on device");
    assert!(says_why(std::fs::read_to_string(logs.path().join("auth-audit.jsonl")).unwrap()));
    std::fs::remove_file(&ballast).unwrap();
    leaves.push(vault.call(&auth("192.0.2.2"), &[], PATIENCE).unwrap().0);
    assert_eq!(broker.exit(), Some(0));
    let report = verify(logs.path(), Stream::Auth);
    assert_eq!((report.torn, report.signed), (false, report.head.size));
    let file = std::fs::read(logs.path().join("auth-audit.jsonl")).unwrap();
    let lines: Vec<_> = file.split(|byte| *byte == b'\n').collect();
    for receipt in leaves {
        assert_eq!(auditd::chain::leaf(lines[usize::try_from(receipt.seq.0).unwrap()]), receipt.leaf);
    }
}
