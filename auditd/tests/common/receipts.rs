//! What clients were told, held against what the next life of the log still has.

use super::{Broker, auth, verify};
use auditd::chain::leaf;
use proto::audit::{Receipt, Stream};
use proto::channel::{CallError, Client};
use proto::edge::ToAuditd;
use proto::topology::EdgeId;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

pub const STRACE: &str = "/usr/bin/strace";
/// Records of a short life.
pub const RECORDS: usize = 6;

/// True where a program can be had to do it; says so where not, and fails where CI wants it.
pub fn can(what: &str, works: bool) -> bool {
    if !works {
        assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none_or(|wish| wish != "all"), "cannot be skipped: {what}");
        eprintln!("SKIPPED: {what}");
    }
    works
}

pub fn has_strace() -> bool {
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    can(
        "strace must be installed and allowed to trace",
        quiet(Command::new(STRACE).args(["-qq", "-o", "/dev/null", "true"])),
    )
}

/// Every line that is there of a stream in one file.
pub fn text(logs: &Path, stream: Stream) -> Vec<u8> {
    std::fs::read(logs.join(format!("{}.jsonl", stream.name()))).unwrap_or_default()
}

pub fn put(client: &mut Client<ToAuditd>) -> Result<Receipt, CallError> {
    client.call(&auth("192.0.2.1"), &[], Duration::from_secs(5)).map(|(receipt, _)| receipt)
}

/// Each receipt is for the line that is there.
pub fn kept(text: &[u8], receipts: &[Receipt], what: &str) {
    let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
    for receipt in receipts {
        let line = lines.get(usize::try_from(receipt.seq.0).unwrap());
        assert_eq!(line.map(|line| leaf(line)), Some(receipt.leaf), "{what}: an acknowledged record is not there");
    }
}

/// Every receipt is for a line that is there, and the next life only appended.
pub fn recovers(logs: &Path, receipts: &[Receipt], what: &str) {
    let before = text(logs, Stream::Auth);
    let broker = Broker::ready(logs);
    let mut vault = broker.edge(EdgeId::VaultAuditd);
    put(&mut vault).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(broker.exit(), Some(0), "{what}");
    let after = text(logs, Stream::Auth);
    assert!(after.starts_with(&before), "{what}: recovery changed what was written");
    let report = verify(logs, Stream::Auth);
    assert!(!report.torn && report.signed == report.head.size, "{what}: {report:?}");
    kept(&after, receipts, what);
}
