//! Real files and really full file systems.

use super::*;
use crate::record::tests::auth;
use proptest::prelude::*;
use std::io::Write as _;

fn directory() -> (tempfile::TempDir, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    let fd = std::fs::File::open(dir.path()).unwrap().into();
    (dir, fd)
}

fn log(dir: &OwnedFd) -> LogFile {
    LogFile::open(dir.as_fd(), Stream::Auth).unwrap()
}

fn text(dir: &tempfile::TempDir) -> String {
    std::fs::read_to_string(dir.path().join("auth-audit.jsonl")).unwrap()
}

fn whole(dir: &tempfile::TempDir) -> Scan {
    let scan = chain::verify_lines(text(dir).as_bytes(), Stream::Auth).unwrap();
    assert_eq!(scan.tail, Tail::Clean);
    scan
}

fn put(log: &mut LogFile, client: &str) -> Result<Vec<Receipt>, AppendError> {
    log.append(&Writer::for_tests(), &[(Role::Vault, &auth(client, true))])
}

#[test]
fn file_is_private_and_batch_receipts_are_its_leaves() {
    let (dir, fd) = directory();
    let mut log = log(&fd);
    let records = [auth("a", true), auth("b", false)];
    let receipts = log.append(&Writer::for_tests(), &[(Role::Vault, &records[0]), (Role::Vault, &records[1])]).unwrap();
    let leaves: Vec<_> = text(&dir).lines().map(|line| chain::leaf(line.as_bytes())).collect();
    assert_eq!(receipts.iter().map(|receipt| receipt.leaf).collect::<Vec<_>>(), leaves);
    assert_eq!(receipts[1].seq, Seq(1));
    let mode = rustix::fs::fstat(&log.fd).unwrap().st_mode & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn torn_tail_is_committed_to_by_appending_and_the_log_goes_on() {
    let (dir, fd) = directory();
    put(&mut log(&fd), "a").unwrap();
    for torn in ["{\"seq\":1,\"ty", "x\ny", "z\n"] {
        let before = text(&dir);
        std::fs::OpenOptions::new()
            .append(true)
            .open(dir.path().join("auth-audit.jsonl"))
            .unwrap()
            .write_all(torn.as_bytes())
            .unwrap();
        let mut log = log(&fd);
        put(&mut log, "b").unwrap();
        assert!(text(&dir).starts_with(&format!("{before}{torn}")));
        assert_eq!(whole(&dir).head, Head { size: log.head.size, leaf: log.head.leaf });
    }
    assert_eq!(text(&dir).matches("\"type\":\"torn\"").count(), 3);
}

#[test]
fn whole_line_that_lacks_its_newline_is_torn_as_well() {
    let (dir, fd) = directory();
    put(&mut log(&fd), "a").unwrap();
    let path = dir.path().join("auth-audit.jsonl");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    put(&mut log(&fd), "b").unwrap();
    assert_eq!(whole(&dir).head.size, 3);
}

#[test]
fn broken_chain_is_named_by_file_and_line() {
    let (dir, fd) = directory();
    let mut first = log(&fd);
    put(&mut first, "a").unwrap();
    put(&mut first, "b").unwrap();
    std::fs::write(dir.path().join("auth-audit.jsonl"), text(&dir).replace("\"clientIp\":\"a\"", "\"clientIp\":\"c\""))
        .unwrap();
    let error = LogFile::open(fd.as_fd(), Stream::Auth).unwrap_err();
    assert_eq!(error.to_string(), "auth-audit.jsonl: line 1 is not the line that the next one commits to");
}

#[test]
fn device_without_room_refuses_and_nothing_is_acknowledged_until_it_has() {
    let (dir, fd) = directory();
    let mut log = log(&fd);
    let real =
        std::mem::replace(&mut log.fd, std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
    for _ in 0..2 {
        let error = put(&mut log, "a").unwrap_err();
        assert!(matches!(error, AppendError::Unwritable { step: "write", errno: Errno::NOSPC }), "{error}");
    }
    assert_eq!(log.head.size, 0);
    log.fd = real;
    assert_eq!(put(&mut log, "b").unwrap()[0].seq, Seq(1));
    assert!(text(&dir).contains("\"type\":\"resumed\",\"actor\":\"auditd\""));
    assert!(text(&dir).contains("\"refused\":2"));
    whole(&dir);
}

#[test]
fn file_that_was_cut_under_us_is_not_appended_to() {
    let (dir, fd) = directory();
    let mut log = log(&fd);
    put(&mut log, "a").unwrap();
    log.health = Health::Sound.failed("write: test", 1);
    std::fs::write(dir.path().join("auth-audit.jsonl"), "").unwrap();
    assert!(matches!(put(&mut log, "b"), Err(AppendError::Cut { found: 0, .. })));
}

#[test]
fn read_past_the_end_is_empty() {
    let (_dir, fd) = directory();
    let mut log = log(&fd);
    put(&mut log, "a").unwrap();
    assert!(log.read(0, 49_152).unwrap().starts_with(b"{\"seq\":0"));
    for offset in [1 << 20, i64::MAX as u64, u64::MAX] {
        assert!(log.read(offset, 49_152).unwrap().is_empty());
    }
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
fn full_file_system_refuses_keeps_what_was_acknowledged_and_resumes_with_room() {
    let Some(Small(dir)) = &Small::mount(c"size=64k") else { return };
    let fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![0; 32 << 10]).unwrap();
    let mut log = log(&fd);
    let mut acknowledged = Vec::new();
    let error = loop {
        match put(&mut log, "192.0.2.1") {
            Ok(receipts) => acknowledged.extend(receipts),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Unwritable { errno: Errno::NOSPC, .. }), "{error}");
    for _ in 0..3 {
        assert!(put(&mut log, "192.0.2.2").is_err());
    }
    std::fs::remove_file(&ballast).unwrap();
    acknowledged.extend(put(&mut log, "192.0.2.3").unwrap());
    let scan = whole(dir);
    let leaves: Vec<_> = text(dir).lines().map(|line| chain::leaf(line.as_bytes())).collect();
    for receipt in &acknowledged {
        assert_eq!(leaves[usize::try_from(receipt.seq.0).unwrap()], receipt.leaf);
    }
    assert_eq!(scan.head, log.head);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn head_after_reopen_is_the_head_before(batches in prop::collection::vec(1usize..9, 0..6), cut in 0usize..36) {
        let (dir, fd) = directory();
        let mut first = log(&fd);
        let record = auth("203.0.113.5", false);
        for size in batches {
            first.append(&Writer::for_tests(), &vec![(Role::Vault, &record); size]).unwrap();
        }
        let head = first.head;
        drop(first);
        prop_assert_eq!(log(&fd).head, head);
        // A half line behind it changes nothing of what was durable.
        let junk = &b"{\"seq\":99,\"ts\":\"2026-11-23T11:00:00\""[..cut];
        std::fs::OpenOptions::new().append(true).open(dir.path().join("auth-audit.jsonl")).unwrap().write_all(junk).unwrap();
        prop_assert_eq!(log(&fd).head, head);
    }
}
