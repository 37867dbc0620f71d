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

mod crashes;

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
fn torn_tail_is_committed_to_by_appending_and_the_log_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    for torn in ["{\"seq\":1,\"ty", "x\ny", "z\n"] {
        let before = text(dir.path());
        append_raw(dir.path(), torn.as_bytes());
        assert!(check(dir.path()).unwrap().torn);
        bench = bench.reopened(dir.path()).unwrap();
        bench.put("b").unwrap();
        assert!(text(dir.path()).starts_with(&format!("{before}{torn}")));
        let report = check(dir.path()).unwrap();
        assert_eq!((report.head, report.torn), (bench.log.at.head, false));
    }
    assert_eq!(text(dir.path()).matches("\"type\":\"torn\"").count(), 3);
}

#[test]
fn log_cut_at_every_offset_of_its_last_lines_is_repaired_by_appending_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    let start = text(dir.path()).len();
    bench.put("b").unwrap();
    bench.change_keys();
    let whole = std::fs::read(dir.path().join("auth-audit.jsonl")).unwrap();
    let key = std::fs::read(dir.path().join("signing.key")).unwrap();
    // As a crash before the old key was destroyed leaves it: both keys are there.
    drop(bench);
    for cut in (start..whole.len()).step_by(7).chain([whole.len()]) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("auth-audit.jsonl"), &whole[..cut]).unwrap();
        std::fs::write(dir.path().join("auth-audit.checkpoints"), "").unwrap();
        std::fs::write(dir.path().join("signing.key"), &key).unwrap();
        let directory: Arc<OwnedFd> = Arc::new(std::fs::File::open(dir.path()).unwrap().into());
        let log = open(&directory, None, dir.path()).unwrap();
        assert!(log.at.head.size >= 3);
        assert!(text(dir.path()).as_bytes().starts_with(&whole[..cut]));
    }
}

#[test]
fn crash_after_any_line_of_a_change_of_keys_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.ring.prepare().unwrap();
    let before = text(dir.path()).len();
    bench.with(LogStream::announce);
    let whole = text(dir.path());
    let mut ends: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).filter(|at| *at >= before).collect();
    ends.extend(ends.clone().iter().map(|at| at - 1));
    ends.push(before + 20);
    for end in ends {
        std::fs::write(dir.path().join("auth-audit.jsonl"), &whole[..end]).unwrap();
        // Tiles are written behind their lines, so they cannot be of later ones.
        std::fs::remove_file(dir.path().join("auth-audit.tile0")).unwrap();
        let directory: Arc<OwnedFd> = Arc::new(std::fs::File::open(dir.path()).unwrap().into());
        let ring = Ring::open(directory.as_fd()).unwrap().unwrap();
        assert_eq!((ring.epoch(), ring.next()), (0, Some(1)));
        let log = open(&directory, Some(&ring), dir.path()).unwrap();
        let mut again = Bench {
            writer: Writer::for_tests(),
            ring,
            limits: Limits::default(),
            now: Writer::TEST_NOW,
            log,
            directory,
        };
        again.with(LogStream::announce);
        again.put("b").unwrap();
        let report = check(dir.path()).unwrap();
        assert_eq!(report.key.unwrap().epoch, 1);
        assert!(!report.torn);
    }
}

#[test]
fn whole_line_that_lacks_its_newline_is_torn_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    let bytes = std::fs::read(dir.path().join("auth-audit.jsonl")).unwrap();
    std::fs::write(dir.path().join("auth-audit.jsonl"), &bytes[..bytes.len() - 1]).unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("b").unwrap();
    assert_eq!(check(dir.path()).unwrap().head.size, 5);
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
fn device_without_room_refuses_and_nothing_is_acknowledged_until_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    let real = bench.log.file.replace_appender(full);
    let size = bench.log.at.head.size;
    for _ in 0..2 {
        let error = bench.put("a").unwrap_err();
        assert!(matches!(error, AppendError::Unwritable { step: "write", errno: Errno::NOSPC }), "{error}");
    }
    assert_eq!(bench.log.at.head.size, size);
    bench.log.file.replace_appender(real);
    assert_eq!(bench.put("b").unwrap().seq, Seq(size + 1));
    assert!(text(dir.path()).contains("\"type\":\"resumed\",\"actor\":\"auditd\""));
    assert!(text(dir.path()).contains("\"refused\":2"));
    check(dir.path()).unwrap();
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

#[test]
fn rotation_keeps_the_chain_over_many_files_and_a_reader_sees_one_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits.file_bytes = 8 << 10;
    for at in 0..400 {
        bench.put(&format!("192.0.2.{}", at % 256)).unwrap();
        if at % 97 == 0 {
            bench.change_keys();
            bench = bench.reopened(dir.path()).unwrap();
        }
    }
    bench.with(LogStream::note);
    let report = check(dir.path()).unwrap();
    assert!(report.files >= 12, "{}", report.files);
    assert_eq!((report.head, report.signed), (bench.log.at.head, bench.log.at.head.size));
    let mut whole = Vec::new();
    loop {
        let (from, bytes) = bench.log.read(whole.len() as u64, 1000).unwrap();
        assert_eq!(from, whole.len() as u64);
        if bytes.is_empty() {
            break;
        }
        whole.extend(bytes);
    }
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let joined: Vec<u8> = files.iter().flat_map(|file| std::fs::read(&file.log).unwrap()).collect();
    assert_eq!(whole, joined);
    // A file in the middle that is gone is noticed, and one at the beginning is not missed.
    std::fs::remove_file(&files[0].log).unwrap();
    assert_eq!(check(dir.path()).unwrap().head, report.head);
    std::fs::remove_file(&files[4].log).unwrap();
    let offline::OfflineError::Fault(fault) = check(dir.path()).unwrap_err() else { panic!("unreadable") };
    assert_eq!(
        (fault.file.as_str(), fault.broken.class),
        (files[5].log.file_name().unwrap().to_str().unwrap(), Class::MissingFile)
    );
}

#[test]
fn crash_at_any_step_of_a_rotation_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.limits.file_bytes = 1;
    bench.put("b").unwrap();
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let second = files[1].log.clone();
    let content = std::fs::read(&second).unwrap();
    bench.limits.file_bytes = 10 << 20;
    for kept in [None, Some(0), Some(40), Some(content.iter().position(|byte| *byte == b'\n').unwrap())] {
        match kept {
            None => {
                std::fs::remove_file(&second).unwrap();
                std::fs::remove_file(files[1].checkpoints.as_ref().unwrap()).unwrap();
            }
            Some(bytes) => std::fs::write(&second, &content[..bytes]).unwrap(),
        }
        bench = bench.reopened(dir.path()).unwrap();
        bench.put("c").unwrap();
        let report = check(dir.path()).unwrap();
        assert_eq!((report.files, report.head), (2, bench.log.at.head), "{kept:?}");
    }
    // Between the two files of the next: the checkpoints', empty, are made first.
    let notes = files[1].checkpoints.as_ref().unwrap();
    std::fs::remove_file(&second).unwrap();
    std::fs::write(notes, "").unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("d").unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!((report.files, report.head), (2, bench.log.at.head));
    // One that says something was left by nobody here, and is not written on.
    std::fs::remove_file(&second).unwrap();
    std::fs::write(notes, "x").unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    assert!(matches!(bench.put("e"), Err(AppendError::Unwritable { step: "open", errno: Errno::EXIST })));
}

#[test]
fn clock_that_runs_back_is_owned_up_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.now.wall -= Duration::from_millis(10);
    bench.put("b").unwrap();
    assert!(!text(dir.path()).contains("\"type\":\"clock\""));
    bench.now.wall -= Duration::from_secs(60);
    bench.put("c").unwrap();
    bench.put("d").unwrap();
    assert_eq!(text(dir.path()).matches("\"type\":\"clock\"").count(), 1);
    check(dir.path()).unwrap();
}

#[test]
fn clock_that_was_set_back_while_nobody_wrote_is_owned_up_to_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("b").unwrap();
    assert!(!text(dir.path()).contains("\"type\":\"clock\""));
    bench = bench.reopened(dir.path()).unwrap();
    bench.now.wall -= Duration::from_secs(60);
    bench.put("c").unwrap();
    let before = crate::clock::rfc3339_micros(Writer::TEST_NOW.wall);
    let says = format!("\"type\":\"clock\",\"actor\":\"auditd\",\"layout\":\"single-uid\",\"before\":\"{before}\"");
    assert_eq!(text(dir.path()).matches(&says).count(), 1);
    check(dir.path()).unwrap();
}

#[test]
fn long_log_is_taken_up_at_its_last_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let batch: Vec<_> = (0..64).map(|_| auth("192.0.2.1", true)).collect();
    for _ in 0..100 {
        bench.put_all(&batch).unwrap();
    }
    bench.with(LogStream::note);
    let position = bench.log.at.clone();
    // An edit far back does not stop a start, and does not escape the check.
    let mut bytes = std::fs::read(dir.path().join("auth-audit.jsonl")).unwrap();
    assert!(bytes.len() > 2 << 20);
    bytes[5000] ^= 1;
    std::fs::write(dir.path().join("auth-audit.jsonl"), &bytes).unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    assert_eq!(
        (bench.log.at.head, &bench.log.at.tree, &bench.log.at.key),
        (position.head, &position.tree, &position.key)
    );
    assert!(check(dir.path()).is_err());
    // One behind the last checkpoint does.
    let end = bytes.len() - 2000;
    bytes[end] ^= 1;
    std::fs::write(dir.path().join("auth-audit.jsonl"), &bytes).unwrap();
    assert!(bench.reopened(dir.path()).is_err());
}

#[test]
fn checkpoint_that_the_disk_tore_is_accounted_for_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.with(LogStream::note);
    let path = dir.path().join("auth-audit.checkpoints");
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend_from_slice(b"moltbot/torn\n12");
    std::fs::write(&path, &torn).unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("b").unwrap();
    bench.with(LogStream::note);
    assert!(text(dir.path()).contains("\"type\":\"torn-checkpoints\""));
    let report = check(dir.path()).unwrap();
    assert_eq!((report.checkpoints, report.torn, report.signed), (2, false, report.head.size));
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("c").unwrap();
    check(dir.path()).unwrap();
    // Junk that no record accounts for is a fault.
    std::fs::write(&path, [b"junk\n\njunk\n\n", torn.as_slice()].concat()).unwrap();
    assert!(check(dir.path()).is_err());
    assert!(bench.reopened(dir.path()).is_err());
}

#[test]
fn start_accounts_for_a_torn_checkpoint_before_anybody_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.with(LogStream::note);
    let path = dir.path().join("auth-audit.checkpoints");
    let note = std::fs::read(&path).unwrap();
    std::fs::write(&path, &note[..note.len() - 9]).unwrap();
    assert!(check(dir.path()).unwrap().torn);
    bench = bench.reopened(dir.path()).unwrap();
    bench.with(LogStream::make_ready);
    assert!(!check(dir.path()).unwrap().torn);
    assert_eq!(text(dir.path()).matches("\"type\":\"torn-checkpoints\"").count(), 1);
    bench.put("b").unwrap();
    assert_eq!(text(dir.path()).matches("\"type\":\"torn-checkpoints\"").count(), 1);
}

#[test]
fn crash_while_the_last_checkpoint_of_a_closed_file_is_written_raises_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.limits.file_bytes = 1;
    bench.put("b").unwrap();
    bench.limits.file_bytes = 10 << 20;
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let first = files[0].checkpoints.clone().unwrap();
    let notes = std::fs::read(&first).unwrap();
    for cut in 1..notes.len() {
        std::fs::write(&first, &notes[..notes.len() - cut]).unwrap();
        // Before the next file was made.
        for path in [&files[1].log, files[1].checkpoints.as_ref().unwrap()] {
            let _ = std::fs::remove_file(path);
        }
        bench = bench.reopened(dir.path()).unwrap();
        bench.put("c").unwrap();
        let report = check(dir.path()).unwrap_or_else(|error| panic!("{cut}: {error}"));
        assert_eq!((report.files, report.head, report.torn), (2, bench.log.at.head, false), "{cut}");
        let whole = cut == notes.len() || notes[..notes.len() - cut].is_empty();
        assert_eq!(report.cut_short.len(), usize::from(!whole), "{cut}");
    }
    // Lines are another matter: those of a closed file end in whole records.
    let lines = std::fs::read(&files[0].log).unwrap();
    std::fs::write(&files[0].log, &lines[..lines.len() - 3]).unwrap();
    assert!(check(dir.path()).is_err());
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
fn full_file_system_refuses_says_why_in_its_last_record_and_resumes_with_room() {
    let Some(Small(dir)) = &Small::mount(c"size=256k") else { return };
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![0; 128 << 10]).unwrap();
    let mut bench = Bench::new(dir.path());
    let mut acknowledged = Vec::new();
    let error = loop {
        match bench.put("192.0.2.1") {
            Ok(receipt) => acknowledged.push(receipt),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Unwritable { errno: Errno::NOSPC, .. }), "{error}");
    assert!(!acknowledged.is_empty());
    let last = text(dir.path()).lines().rev().nth(1).unwrap().to_owned();
    assert!(last.contains("\"type\":\"full\"") && last.contains("No space left on device"), "{last}");
    assert_eq!(check(dir.path()).unwrap().signed, bench.log.at.head.size - 1);
    for _ in 0..3 {
        assert!(bench.put("192.0.2.2").is_err());
    }
    assert_eq!(text(dir.path()).matches("\"type\":\"full\"").count(), 1);
    std::fs::remove_file(&ballast).unwrap();
    acknowledged.push(bench.put("192.0.2.3").unwrap());
    let report = check(dir.path()).unwrap();
    let leaves: Vec<_> = text(dir.path()).lines().map(|line| chain::leaf(line.as_bytes())).collect();
    for receipt in &acknowledged {
        assert_eq!(leaves[usize::try_from(receipt.seq.0).unwrap()], receipt.leaf);
    }
    assert_eq!(report.head, bench.log.at.head);
    assert!(text(dir.path()).contains("\"refused\":4"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn position_after_reopen_is_the_position_before(
        batches in prop::collection::vec(1usize..9, 0..6),
        cut in 0usize..36,
        keys in 0usize..3,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new(dir.path());
        bench.put("x").unwrap();
        (0..keys).for_each(|_| bench.change_keys());
        let record = auth("203.0.113.5", false);
        for size in batches {
            bench.put_all(&vec![record.clone(); size]).unwrap();
        }
        let at = bench.log.at.clone();
        let mut bench = bench.reopened(dir.path()).unwrap();
        prop_assert_eq!(&bench.log.at, &at);
        // A half line behind it changes nothing of what was durable.
        append_raw(dir.path(), &b"{\"seq\":99,\"ts\":\"2026-11-23T11:00:00\""[..cut]);
        bench = bench.reopened(dir.path()).unwrap();
        prop_assert_eq!(&bench.log.at, &at);
    }
}

/// One thing that happens to a log in its life.
#[derive(Clone, Debug)]
enum Event {
    Batch(usize),
    Note,
    Keys,
    Restart,
    /// The process died within a write; what it wrote of a line stays.
    Torn(Vec<u8>),
    /// The same for a checkpoint.
    TornNote(usize),
    /// The disk took nothing for a while.
    Refused,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1usize..6).prop_map(Event::Batch),
        2 => Just(Event::Note),
        1 => Just(Event::Keys),
        2 => Just(Event::Restart),
        1 => prop::collection::vec(prop_oneof![Just(b'\n'), Just(0u8), Just(b'{'), any::<u8>()], 1..40).prop_map(Event::Torn),
        1 => (1usize..200).prop_map(Event::TornNote),
        1 => Just(Event::Refused),
    ];
    prop::collection::vec(event, 0..24)
}

fn happen(mut bench: Bench, event: &Event, path: &Path) -> Bench {
    let limits = bench.limits;
    let last = bench.log.file_name().to_owned();
    let append = |name: &str, bytes: &[u8]| {
        let mut file = std::fs::OpenOptions::new().append(true).open(path.join(name)).unwrap();
        file.write_all(bytes).unwrap();
    };
    match event {
        Event::Batch(size) => drop(bench.put_all(&vec![auth("192.0.2.1", true); *size]).unwrap()),
        Event::Note => bench.with(LogStream::note),
        Event::Keys => bench.change_keys(),
        Event::Restart => bench = bench.reopened(path).unwrap(),
        Event::Torn(bytes) => {
            append(&last, bytes);
            bench = bench.reopened(path).unwrap();
        }
        Event::TornNote(length) => {
            // What is torn already is accounted for before another is written.
            bench.with(LogStream::make_ready);
            bench.with(LogStream::note);
            let last = bench.log.file_name().to_owned();
            let note = bench.ring.sign(Stream::Auth, bench.ring.epoch(), 99_999, [1; 32]).unwrap().to_string();
            append(&last.replace(".jsonl", ".checkpoints"), &note.as_bytes()[..(*length).min(note.len() - 1)]);
            bench = bench.reopened(path).unwrap();
        }
        Event::Refused => {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
            let real = bench.log.file.replace_appender(full);
            assert!(bench.put("192.0.2.9").is_err());
            bench.log.file.replace_appender(real);
        }
    }
    bench.limits = limits;
    bench
}

/// Lives a life, checking the log after everything that happens in it.
fn live(events: &[Event], size: u64) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits = Limits { file_bytes: size, checkpoint_every: 5, ..Limits::default() };
    bench.put("192.0.2.1").unwrap();
    for event in events {
        bench = happen(bench, event, dir.path());
        let report = check(dir.path());
        prop_assert!(report.is_ok(), "{event:?}: {}", report.unwrap_err());
    }
    bench.put("192.0.2.1").unwrap();
    bench.with(LogStream::close);
    let report = check(dir.path()).unwrap();
    prop_assert_eq!((report.head, report.signed, report.torn), (bench.log.at.head, report.head.size, false));
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let lines = |bytes: Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    prop_assert_eq!(files.iter().map(|file| lines(std::fs::read(&file.log).unwrap())).sum::<u64>(), report.head.size);
    Ok(())
}

fn lives(cases: u32) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner.run(&(events(), 1_500u64..20_000), |(events, size)| live(&events, size)).unwrap();
}

#[test]
fn honest_log_of_any_life_raises_no_alarm() {
    lives(48);
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_ten_thousand_honest_lives_raise_no_alarm() {
    lives(10_000);
}

#[test]
fn reader_of_a_growing_log_always_sees_an_honest_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits = Limits { file_bytes: 16 << 10, checkpoint_every: 8, ..Limits::default() };
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (seen, path) = (Arc::clone(&stop), dir.path().to_owned());
    let reader = std::thread::spawn(move || {
        let (mut checks, mut size) = (0, 0);
        while !seen.load(std::sync::atomic::Ordering::Relaxed) {
            let report = check(&path).unwrap_or_else(|error| panic!("{error}"));
            assert!(report.head.size >= size);
            (checks, size) = (checks + 1, report.head.size);
        }
        checks
    });
    for at in 0..600 {
        bench.put("192.0.2.1").unwrap();
        if at % 3 == 0 {
            bench.with(LogStream::note);
        }
        if at % 100 == 0 {
            bench.change_keys();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 3);
    assert!(check(dir.path()).unwrap().files > 10);
}
