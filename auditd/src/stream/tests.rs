//! Real files and really full file systems.

use super::*;
use crate::chain;
use crate::offline::{self, Expected, Report};
use crate::record::tests::auth;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use proto::ids::{Epoch, RequestId, Role};
use std::io::Write as _;
use std::path::Path;

mod clock;
mod crashes;
mod full;
mod lives;
mod recovery;
mod rotation;

const SOURCE: Source = Source { role: Role::Vault, epoch: Some(Epoch(1)), request: Some(RequestId(5)) };

/// A stream with everything that it needs, in a directory.
pub(crate) struct Bench {
    pub writer: Writer,
    pub ring: Ring,
    pub limits: Limits,
    pub now: Instant,
    pub log: LogStream,
    pub directory: Arc<OwnedFd>,
}

pub(crate) fn open(directory: &Arc<OwnedFd>, ring: Option<&Ring>, path: &Path) -> Result<LogStream, AppendError> {
    let names: Vec<String> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    LogStream::open(directory, Stream::Auth, &names, ring)
}

impl Bench {
    pub(crate) fn new(path: &Path) -> Self {
        let directory: Arc<OwnedFd> = Arc::new(std::fs::File::open(path).unwrap().into());
        let ring = match Ring::open(directory.as_fd()).unwrap() {
            Ok(ring) => ring,
            Err(empty) => empty.begin().unwrap(),
        };
        let log = open(&directory, Some(&ring), path).unwrap();
        let now = Writer::TEST_NOW;
        Self { writer: Writer::for_tests(), ring, limits: Limits::default(), now, log, directory }
    }

    pub(crate) fn reopened(self, path: &Path) -> Result<Self, AppendError> {
        let log = open(&self.directory, Some(&self.ring), path)?;
        Ok(Self { log, ..self })
    }

    pub(crate) fn put(&mut self, client: &str) -> Result<Receipt, AppendError> {
        self.put_all(&[auth(client, true)]).map(|receipts| receipts[0])
    }

    pub(crate) fn put_all(&mut self, records: &[Record]) -> Result<Vec<Receipt>, AppendError> {
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now: self.now };
        let batch: Vec<_> = records.iter().map(|record| (SOURCE, record)).collect();
        self.log.append(&pen, &batch)
    }

    pub(crate) fn with(&mut self, act: impl FnOnce(&mut LogStream, &Pen<'_>) -> Result<(), AppendError>) {
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now: self.now };
        act(&mut self.log, &pen).unwrap();
    }

    pub(crate) fn change_keys(&mut self) {
        self.ring.prepare().unwrap();
        self.with(LogStream::announce);
        self.ring.advance().unwrap();
    }

    pub(crate) fn first_key(&self) -> [u8; 32] {
        self.log.position().first.clone().unwrap().key.bytes()
    }
}

pub(crate) fn check(path: &Path) -> Result<Report, offline::OfflineError> {
    offline::verify(&offline::find(path, Stream::Auth).unwrap(), Stream::Auth, &Expected::default(), |_, _| {})
}

fn text(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("auth-audit.jsonl")).unwrap()
}

fn append_raw(dir: &Path, bytes: &[u8]) {
    let mut file = std::fs::OpenOptions::new().append(true).open(dir.join("auth-audit.jsonl")).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn files_are_private_and_batch_receipts_are_their_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let receipts = bench.put_all(&[auth("a", true), auth("b", false)]).unwrap();
    let text = text(dir.path());
    let leaves: Vec<_> = text.lines().map(|line| chain::leaf(line.as_bytes())).collect();
    for receipt in receipts {
        assert_eq!(leaves[usize::try_from(receipt.seq.0).unwrap()], receipt.leaf);
    }
    for name in ["auth-audit.jsonl", "auth-audit.checkpoints", "signing.key"] {
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(dir.path().join(name)).unwrap());
        assert_eq!(mode & 0o7777, 0o600, "{name}");
    }
    let last = text.lines().last().unwrap();
    assert!(last.contains("\"actor\":\"vault\",\"actorEpoch\":1,\"req\":5,"), "{last}");
}

#[test]
fn broken_chain_is_named_by_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.put("b").unwrap();
    let edited = text(dir.path()).replace("\"clientIp\":\"a\"", "\"clientIp\":\"c\"");
    std::fs::write(dir.path().join("auth-audit.jsonl"), edited).unwrap();
    let error = bench.reopened(dir.path()).err().unwrap();
    assert_eq!(error.to_string(), "auth-audit.jsonl: line 3 is not the line that was written");
}

#[test]
fn log_that_is_shorter_than_its_own_checkpoints_is_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    let before = text(dir.path());
    bench.put("b").unwrap();
    bench.with(LogStream::note);
    bench = bench.reopened(dir.path()).unwrap();
    std::fs::write(dir.path().join("auth-audit.jsonl"), before).unwrap();
    let error = bench.reopened(dir.path()).err().unwrap();
    assert!(error.to_string().contains("the log was cut"), "{error}");
}

#[test]
fn file_that_was_cut_under_us_is_not_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.log.health = Health::Sound.failed("write: test", 1);
    std::fs::write(dir.path().join("auth-audit.jsonl"), "").unwrap();
    assert!(matches!(bench.put("b"), Err(AppendError::Cut { found: 0, .. })));
}

#[test]
fn read_past_the_end_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    assert!(bench.log.read(0, 49_152).unwrap().1.starts_with(b"{\"seq\":0"));
    for offset in [1 << 20, i64::MAX as u64, u64::MAX] {
        assert!(bench.log.read(offset, 49_152).unwrap().1.is_empty());
    }
}
