//! Logs that lost their oldest files, honestly and otherwise.

use super::*;
use crate::proof::{ProveError, prove_in};
use crate::prune::{Keep, Plan, PruneError, plan};
use crate::stream::LogStream;
use crate::stream::tests::Bench;
use std::time::Duration;

const STREAM: Stream = Stream::Auth;

/// Five files or more, with a change of keys in nearly each, one of them just before a file ends.
fn grown(dir: &Path) -> Bench {
    let mut bench = Bench::new(dir);
    bench.limits.file_bytes = 40 << 10;
    grow(&mut bench, 500);
    bench
}

fn grow(bench: &mut Bench, records: usize) {
    for at in 0..records {
        bench.put(&format!("192.0.2.{at}")).unwrap();
        bench.now.wall += Duration::from_secs(60);
        if at % 61 == 7 {
            bench.change_keys();
        }
    }
    bench.with(LogStream::note);
}

fn expected(bench: &Bench) -> Expected {
    Expected { first_key: Some(bench.first_key()), ..Expected::default() }
}

fn check(dir: &Path, expected: &Expected) -> Result<(Report, Attested), OfflineError> {
    verify(dir, STREAM, expected, |_, _| {})
}

fn class(dir: &Path, expected: &Expected) -> Class {
    match check(dir, expected) {
        Err(OfflineError::Fault(fault)) => fault.broken.class,
        other => panic!("{other:?}"),
    }
}

fn of(dir: &Path, files: usize) -> Plan {
    plan(dir, STREAM, &Keep { files: Some(files), age: None }, Duration::ZERO).unwrap().unwrap()
}

fn prune(dir: &Path, files: usize) -> Plan {
    let plan = of(dir, files);
    plan.keep_keys(dir).unwrap();
    plan.remove(dir).unwrap();
    plan
}

fn flip(dir: &Path, name: &str, at: usize) {
    let mut bytes = std::fs::read(dir.join(name)).unwrap();
    bytes[at] ^= 1;
    std::fs::write(dir.join(name), bytes).unwrap();
}

#[test]
fn pruned_log_is_checked_from_its_first_key_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = grown(dir.path());
    let expected = expected(&bench);
    let whole = check(dir.path(), &expected).unwrap().0;
    assert!(whole.files >= 5);
    let plan = prune(dir.path(), 2);
    let (report, attested) = check(dir.path(), &expected).unwrap();
    assert_eq!((report.files, report.root, report.head), (2, whole.root, whole.head));
    assert_eq!((report.first_line, attested.pruned), (plan.until, plan.until));
    assert_eq!(report.first_key, whole.first_key);
    // It goes on, and is pruned again.
    bench = bench.reopened(dir.path()).unwrap();
    grow(&mut bench, 300);
    let again = prune(dir.path(), 1);
    assert_eq!(again.first, plan.until);
    let (report, attested) = check(dir.path(), &expected).unwrap();
    assert_eq!((report.files, attested.pruned), (1, again.until));
    assert_eq!(report.key.unwrap().epoch, bench.ring.epoch());
    // Without the tiles, or without the keys, the file left stands for itself alone.
    let other = Expected { first_key: Some([9; 32]), ..Expected::default() };
    assert_eq!(class(dir.path(), &other), Class::WrongKey);
    std::fs::remove_file(dir.path().join(file(STREAM))).unwrap();
    assert_eq!(check(dir.path(), &Expected::default()).unwrap().1.pruned, 0);
    assert_eq!(class(dir.path(), &expected), Class::WrongKey);
}

#[test]
fn prune_that_is_killed_at_any_step_leaves_a_log_that_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let bench = grown(dir.path());
    let expected = expected(&bench);
    let plan = of(dir.path(), 1);
    plan.keep_keys(dir.path()).unwrap();
    check(dir.path(), &expected).unwrap();
    // The keys were torn while they were written, and are written once more.
    let kept = std::fs::read(dir.path().join(file(STREAM))).unwrap();
    for end in [1, kept.len() / 3, kept.len() - 1] {
        std::fs::write(dir.path().join(file(STREAM)), &kept[..end]).unwrap();
        check(dir.path(), &expected).unwrap();
        plan.keep_keys(dir.path()).unwrap();
    }
    for pair in &plan.files {
        std::fs::remove_file(&pair.log).unwrap();
        let (_, attested) = check(dir.path(), &expected).unwrap();
        std::fs::remove_file(pair.checkpoints.as_ref().unwrap()).unwrap();
        assert!(attested.pruned > 0 && check(dir.path(), &expected).unwrap().1 == attested);
    }
    bench.reopened(dir.path()).unwrap();
}

#[test]
fn change_to_what_is_left_of_pruned_files_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let bench = grown(dir.path());
    let expected = expected(&bench);
    let plan = prune(dir.path(), 2);
    let tile = file_name(STREAM, 0);
    for at in [0usize, 2, 17, usize::try_from(plan.until).unwrap() - 1] {
        flip(dir.path(), &tile, at * 32 + 5);
        assert!(check(dir.path(), &expected).is_err(), "{at}");
        flip(dir.path(), &tile, at * 32 + 5);
    }
    // Behind the pruned ones each hash is that of a line.
    flip(dir.path(), &tile, usize::try_from(plan.until).unwrap() * 32);
    assert_eq!(class(dir.path(), &expected), Class::Tiles);
    flip(dir.path(), &tile, usize::try_from(plan.until).unwrap() * 32);
    let text = std::fs::read_to_string(dir.path().join(file(STREAM))).unwrap();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let other = text.replacen(line, &line.replacen("\"mono\":7", "\"mono\":8", 1), 1);
        std::fs::write(dir.path().join(file(STREAM)), other).unwrap();
        assert_eq!(class(dir.path(), &expected), Class::Edited, "line {at}");
        if line.contains("\"seq\":1,") {
            // The first key needs no other to vouch for it.
            continue;
        }
        let without = text.replacen(&format!("{line}\n"), "", 1);
        std::fs::write(dir.path().join(file(STREAM)), without).unwrap();
        assert!(check(dir.path(), &expected).is_err(), "without line {at}");
    }
    std::fs::write(dir.path().join(file(STREAM)), &text).unwrap();
    check(dir.path(), &expected).unwrap();
}

#[test]
fn end_that_is_cut_is_shown_by_the_tiles_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = grown(dir.path());
    let expected = expected(&bench);
    let last = offline::find(dir.path(), STREAM).unwrap().pop().unwrap();
    let text = std::fs::read_to_string(&last.log).unwrap();
    let cut = text[..text.len() - 1].rfind('\n').unwrap() + 1;
    std::fs::write(&last.log, &text[..cut]).unwrap();
    // Checkpoints of what is there no more are gone as well.
    std::fs::write(last.checkpoints.as_ref().unwrap(), "").unwrap();
    assert!(offline::verify(&offline::find(dir.path(), STREAM).unwrap(), STREAM, &expected, |_, _| {}).is_ok());
    assert_eq!(class(dir.path(), &expected), Class::Truncated);
}

#[test]
fn checkpoint_kept_elsewhere_counts_for_pruned_lines_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits.file_bytes = 40 << 10;
    grow(&mut bench, 30);
    let files = offline::find(dir.path(), STREAM).unwrap();
    let note = offline::newest_checkpoint(&files).unwrap().unwrap().to_string();
    grow(&mut bench, 300);
    prune(dir.path(), 1);
    let mut expected = expected(&bench);
    expected.checkpoints = offline::parse_kept(&note).unwrap();
    check(dir.path(), &expected).unwrap();
    expected.checkpoints[0].point.root = [7; 32];
    assert_eq!(class(dir.path(), &expected), Class::Rewritten);
}

#[test]
fn pruned_record_is_proved_by_whoever_kept_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let bench = grown(dir.path());
    let text = std::fs::read_to_string(dir.path().join("auth-audit.jsonl")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let plan = prune(dir.path(), 2);
    let key = bench.log.position().key.clone().unwrap().key;
    let proof = prove_in(dir.path(), STREAM, 20, Some(lines[20].into())).unwrap();
    assert_eq!((proof.record.as_slice(), proof.index), (lines[20].as_bytes(), 20));
    proof.check(&key).unwrap();
    assert!(matches!(prove_in(dir.path(), STREAM, 20, None), Err(ProveError::Pruned(20))));
    assert!(matches!(prove_in(dir.path(), STREAM, 20, Some(lines[21].into())), Err(ProveError::Other(20))));
    prove_in(dir.path(), STREAM, plan.until + 3, None).unwrap().check(&key).unwrap();
    // Inner hashes that lie make no wrong proof.
    let below = prove_in(dir.path(), STREAM, 300, None);
    flip(dir.path(), "auth-audit.tile1", 3);
    assert!(below.is_ok() == prove_in(dir.path(), STREAM, 300, None).is_ok_and(|proof| proof.check(&key).is_ok()));
}

#[test]
fn what_is_not_over_the_policy_stays_and_a_bad_log_is_not_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let bench = grown(dir.path());
    let now = bench.now.wall;
    let ask = |files, age: Option<u64>| {
        plan(dir.path(), STREAM, &Keep { files, age: age.map(|hours| Duration::from_secs(hours * 3600)) }, now)
    };
    assert_eq!(ask(None, None).unwrap(), None);
    assert_eq!(ask(Some(100), Some(24)).unwrap(), None);
    let all = offline::find(dir.path(), STREAM).unwrap().len();
    // The newest stays, whatever is said.
    assert_eq!(ask(None, Some(0)).unwrap().unwrap().files.len(), all - 1);
    assert_eq!(ask(Some(1), None).unwrap().unwrap().files.len(), all - 1);
    let some = ask(None, Some(3)).unwrap().unwrap();
    assert!((1..all - 1).contains(&some.files.len()));
    // What one of the two keeps stays: a flood of young files pushes nothing out.
    assert_eq!(ask(Some(2), Some(3)).unwrap().unwrap().files.len(), some.files.len().min(all - 2));
    assert_eq!(ask(Some(1), Some(24)).unwrap(), None);
    assert_eq!(ask(Some(all - 1), Some(0)).unwrap().unwrap().files.len(), 1);
    let usual = |days: u64| plan(dir.path(), STREAM, &Keep::USUAL, now + Duration::from_secs(days * 86_400)).unwrap();
    assert_eq!(usual(400).is_some(), all > 100, "{all} files");
    let tile = dir.path().join("auth-audit.tile0");
    let whole = std::fs::read(&tile).unwrap();
    std::fs::write(&tile, &whole[..320]).unwrap();
    assert!(matches!(ask(Some(1), None), Err(PruneError::Tiles(_))));
    std::fs::write(&tile, &whole).unwrap();
    flip(dir.path(), "auth-audit.jsonl", 4000);
    assert!(matches!(ask(Some(1), None), Err(PruneError::Log(_))));
}

#[test]
fn reader_of_a_running_log_goes_on_behind_a_pruned_file() {
    let dir = tempfile::tempdir().unwrap();
    let bench = grown(dir.path());
    let plan = prune(dir.path(), 1);
    let (from, bytes) = bench.log.read(0, 1000).unwrap();
    assert_eq!(from, plan.bytes);
    assert!(bytes.starts_with(format!("{{\"seq\":{},", plan.until).as_bytes()));
    assert_eq!(bench.log.read(from + 3, 1000).unwrap().0, from + 3);
}
