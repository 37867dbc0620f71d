//! All streams and their keys, over restarts and over what somebody did to them in between.

use super::*;
use crate::offline::{self, Expected};
use crate::record::tests::{auth, intent};
use std::path::Path;

fn journal(logs: &Path, limits: Limits) -> Result<Journal, StartError> {
    Journal::open(std::fs::File::open(logs).unwrap().into(), Writer::for_tests(), limits)
}

fn put(journal: &mut Journal) {
    journal.append(Stream::Auth, &[(Source::OWN, &auth("192.0.2.1", true))]).unwrap();
    journal.append(Stream::Command, &[(Source::OWN, &intent("true"))]).unwrap();
}

fn epochs(logs: &Path) -> Vec<u64> {
    let verify = |stream| {
        let files = offline::find(logs, stream).unwrap();
        offline::verify(&files, stream, &Expected::default(), |_, _| {}).unwrap().key.unwrap().epoch
    };
    Stream::ALL.into_iter().map(verify).collect()
}

#[test]
fn key_changes_in_every_stream_once_it_is_old_and_has_signed_something() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { epoch_age: Duration::ZERO, ..Limits::default() };
    let mut journal = journal(dir.path(), limits).unwrap();
    put(&mut journal);
    journal.tick().unwrap();
    assert_eq!(epochs(dir.path()), [1, 1, 1, 1]);
    // Nothing came since: there is nothing to protect.
    journal.tick().unwrap();
    assert_eq!(epochs(dir.path()), [1, 1, 1, 1]);
    put(&mut journal);
    journal.tick().unwrap();
    assert_eq!(epochs(dir.path()), [2, 2, 2, 2]);
}

#[test]
fn young_key_stays_and_what_is_unsigned_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = journal(dir.path(), Limits::default()).unwrap();
    put(&mut journal);
    assert!(journal.due_in().is_some_and(|wait| wait <= Duration::from_secs(1)));
    journal.tick().unwrap();
    journal.close().unwrap();
    assert_eq!(epochs(dir.path()), [0, 0, 0, 0]);
    assert!(journal.due_in().is_none_or(|wait| wait > Duration::from_secs(60)));
}

#[test]
fn change_of_keys_that_a_crash_cut_short_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = journal(dir.path(), Limits::default()).unwrap();
    put(&mut before);
    before.ring.prepare().unwrap();
    let now = Instant::now();
    let pen = Pen { writer: &before.writer, ring: &before.ring, limits: &before.limits, now };
    let [auth, command, ..] = &mut before.streams;
    auth.announce(&pen).unwrap();
    command.announce(&pen).unwrap();
    drop(before);
    let mut after = journal(dir.path(), Limits::default()).unwrap();
    assert_eq!((after.ring.epoch(), after.ring.next()), (1, None));
    put(&mut after);
    assert_eq!(epochs(dir.path()), [1, 1, 1, 1]);
}

/// What a start says after `harm` was done to a log.
fn start_after(harm: impl FnOnce(&Path)) -> StartError {
    let dir = tempfile::tempdir().unwrap();
    let mut first = journal(dir.path(), Limits::default()).unwrap();
    put(&mut first);
    first.change_keys(Instant::now()).unwrap();
    put(&mut first);
    first.close().unwrap();
    drop(first);
    journal(dir.path(), Limits::default()).unwrap();
    harm(dir.path());
    journal(dir.path(), Limits::default()).err().unwrap()
}

#[test]
fn lost_key_other_key_and_missing_stream_are_evidence_and_no_start() {
    let lost = start_after(|logs| std::fs::remove_file(logs.join("signing.key")).unwrap());
    assert!(lost.to_string().contains("holds no key"), "{lost}");
    let other = start_after(|logs| {
        let elsewhere = tempfile::tempdir().unwrap();
        journal(elsewhere.path(), Limits::default()).unwrap();
        std::fs::copy(elsewhere.path().join("signing.key"), logs.join("signing.key")).unwrap();
    });
    assert!(other.to_string().contains("signed with another key"), "{other}");
    let remove = |logs: &Path, names: &[&str]| {
        names.iter().for_each(|name| std::fs::remove_file(logs.join(format!("auth-audit.{name}"))).unwrap());
    };
    let cut = start_after(|logs| remove(logs, &["jsonl", "checkpoints"]));
    assert!(cut.to_string().contains("the log was cut"), "{cut}");
    let missing = start_after(|logs| remove(logs, &["jsonl", "checkpoints", "tile0"]));
    assert!(missing.to_string().contains("is missing or empty"), "{missing}");
    let foreign = start_after(|logs| {
        std::fs::copy(logs.join("command-audit.jsonl"), logs.join("auth-audit.jsonl")).unwrap();
    });
    assert!(foreign.to_string().contains("belongs to another log"), "{foreign}");
}

#[test]
fn new_file_is_begun_by_age_and_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { file_age: Duration::ZERO, ..Limits::default() };
    let mut by_age = journal(dir.path(), limits).unwrap();
    put(&mut by_age);
    put(&mut by_age);
    assert!(offline::find(dir.path(), Stream::Auth).unwrap().len() >= 2);
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { file_bytes: 2_000, ..Limits::default() };
    let mut by_size = journal(dir.path(), limits).unwrap();
    (0..8).for_each(|_| put(&mut by_size));
    assert!(offline::find(dir.path(), Stream::Command).unwrap().len() >= 2);
    assert_eq!(epochs(dir.path()), [0, 0, 0, 0]);
}
