//! What a start makes of an end that a crash left, and of a long log.

use super::*;

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
