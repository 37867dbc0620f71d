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
fn log_of_a_newer_format_is_no_start_and_is_said_to_be_newer() {
    let newer = start_after(|logs| {
        let path = logs.join("auth-audit.jsonl");
        let lines = std::fs::read_to_string(&path).unwrap();
        assert!(lines.contains("\"format\":1,"));
        std::fs::write(&path, lines.replacen("\"format\":1,", "\"format\":2,", 1)).unwrap();
    });
    assert!(newer.to_string().contains("auth-audit.jsonl: line 1 is of a newer format"), "{newer}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    #[test]
    fn start_on_files_of_anybody_is_a_start_or_an_error_and_no_panic(
        at in 0usize..5,
        junk in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        whole in proptest::prelude::any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut honest = journal(dir.path(), Limits::default()).unwrap();
        put(&mut honest);
        drop(honest);
        let names = ["auth-audit.jsonl", "auth-audit.checkpoints", "auth-audit.tile0", "auth-audit.tile1", "signing.key"];
        let path = dir.path().join(names[at]);
        let mut bytes = if whole { Vec::new() } else { std::fs::read(&path).unwrap() };
        bytes.extend_from_slice(&junk);
        std::fs::write(&path, bytes).unwrap();
        match journal(dir.path(), Limits::default()) {
            // What does not fit may come to light with the next record alone, as in tiles that end in a part of a hash.
            Ok(mut open) => drop(open.append(Stream::Auth, &[(Source::OWN, &auth("192.0.2.1", true))])),
            Err(error) => proptest::prop_assert!(error.to_string().contains("logs"), "{}", error),
        }
    }
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

/// The vault's side of a look: what it knows of a stream.
fn known(stream: Stream, size: u64) -> proto::witness::Known {
    proto::witness::Known { stream, size }
}

#[test]
fn every_earlier_tree_is_proved_to_be_the_beginning_over_rotations_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { file_bytes: 4_096, ..Limits::default() };
    let mut open = journal(dir.path(), limits).unwrap();
    let mut seen = Vec::new();
    for round in 0..40 {
        put(&mut open);
        if round % 7 == 0 {
            open = journal(dir.path(), limits).unwrap();
        }
        let at = open.streams[0].position();
        seen.push((at.head.size, at.tree.root()));
    }
    assert!(open.streams[0].file_first() > 0, "the log went on in other files");
    // Forwards, as the vault asks, and backwards, which finds nothing that was kept.
    for (old, root) in seen.iter().chain(seen.iter().rev()) {
        let (_, heads) = open.look(&[known(Stream::Auth, *old)], false).unwrap();
        let head = heads.iter().find(|head| head.stream == Stream::Auth).unwrap();
        assert!(crate::tree::extends(root, *old, &head.root, head.size, &head.proof), "{old}");
    }
    let (_, heads) = open.look(&[known(Stream::Auth, 1_000)], true).unwrap();
    let head = heads.iter().find(|head| head.stream == Stream::Auth).unwrap();
    assert!(head.size < 1_000 && head.proof.is_empty(), "what is not there is not proved");
}

#[test]
fn what_the_log_says_of_the_store_is_found_again_and_carried_into_each_new_file() {
    use proto::witness::{Commitment, StoreStep};
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { file_bytes: 4_096, ..Limits::default() };
    let mut open = journal(dir.path(), limits).unwrap();
    let state = |generation| Commitment { generation, root: [7; 32] };
    open.look(&[], false).unwrap();
    open.meet(crate::cosign::tests::cosigner().verifying_key().as_bytes()).unwrap();
    open.store(Source::OWN, StoreStep::Committed, state(4)).unwrap();
    open.store(Source::OWN, StoreStep::Intended, state(5)).unwrap();
    let found = |open: &mut Journal| open.look(&[], false).unwrap().0;
    let mut open = journal(dir.path(), limits).unwrap();
    assert_eq!((found(&mut open).committed, found(&mut open).intended), (Some(state(4)), Some(state(5))));
    open.store(Source::OWN, StoreStep::Committed, state(5)).unwrap();
    let secret = crate::record::tests::secret("lease");
    for _ in 0..40 {
        open.append(Stream::Secret, &[(Source::OWN, &secret)]).unwrap();
        open.tick().unwrap();
    }
    let newest = open.streams[2].file_name().to_owned();
    let text = std::fs::read_to_string(dir.path().join(newest)).unwrap();
    assert!(text.contains("\"store-committed\"") && text.contains("\"cosigner\""), "{text}");
    let mut open = journal(dir.path(), limits).unwrap();
    let found = found(&mut open);
    assert_eq!((found.committed, found.intended, found.cosigner.is_some()), (Some(state(5)), None, true));
}

#[test]
fn cosignature_stands_under_its_checkpoint_though_later_ones_came_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut open = journal(dir.path(), Limits::default()).unwrap();
    put(&mut open);
    let key = crate::cosign::tests::cosigner().verifying_key().to_bytes();
    let (_, heads) = open.look(&[], false).unwrap();
    let head = heads.iter().find(|head| head.stream == Stream::Auth).unwrap().clone();
    put(&mut open);
    open.checkpoint().unwrap();
    let text =
        crate::note::Checkpoint { origin: head.origin.to_string(), size: head.size, root: head.root }.to_string();
    let good = crate::cosign::tests::cosign(&text, Stream::Auth, head.size, 9);
    let forged = proto::witness::Cosignature { time: 10, ..good };
    assert!(!open.take_cosignature(&key, &forged) && open.heads()[0].cosigned == 0);
    assert!(open.take_cosignature(&key, &good));
    assert_eq!(open.heads()[0].cosigned, head.size);
    open.close().unwrap();
    let cosigner = Some(crate::cosign::CosignerKey::new(&open.ring.cosigner(), &key).unwrap());
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let expected = Expected { cosigner, ..Expected::default() };
    assert_eq!(offline::verify(&files, Stream::Auth, &expected, |_, _| {}).unwrap().cosigned, head.size);
    // A line that says that it is the vault's, and is not.
    let path = dir.path().join("auth-audit.checkpoints");
    let line = offline::newest_checkpoint(&files).unwrap().unwrap();
    let (forger, mut note) = (expected.cosigner.as_ref().unwrap(), line);
    note.push(forger.line(&forged));
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, format!("{note}\n").as_bytes()).unwrap();
    let refused = offline::verify(&files, Stream::Auth, &expected, |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("checkpoint"), "{refused}");
}

#[test]
fn file_that_last_says_where_the_store_stands_is_not_pruned_and_one_whose_word_was_carried_on_is() {
    use crate::prune::{Keep, plan};
    use proto::witness::{Commitment, StoreStep};
    let dir = tempfile::tempdir().unwrap();
    let mut open = journal(dir.path(), Limits { file_bytes: 4_096, ..Limits::default() }).unwrap();
    let secret = crate::record::tests::secret("lease");
    let write = |open: &mut Journal| {
        for _ in 0..40 {
            open.append(Stream::Secret, &[(Source::OWN, &secret)]).unwrap();
            open.tick().unwrap();
        }
        open.checkpoint().unwrap();
    };
    let keep = Keep { files: Some(1), age: None };
    let may_go = || plan(dir.path(), Stream::Secret, &keep, Duration::ZERO).unwrap().map(|plan| plan.files.len());
    write(&mut open);
    assert!(offline::find(dir.path(), Stream::Secret).unwrap().len() > 3);
    assert_eq!(may_go(), None);
    // The vault comes to know the log, and from then on each new file says it again.
    open.look(&[], false).unwrap();
    open.meet(crate::cosign::tests::cosigner().verifying_key().as_bytes()).unwrap();
    open.store(Source::OWN, StoreStep::Committed, Commitment { generation: 4, root: [7; 32] }).unwrap();
    write(&mut open);
    let files = offline::find(dir.path(), Stream::Secret).unwrap().len();
    assert!(may_go().is_some_and(|count| count + 2 >= files), "{:?} of {files}", may_go());
}
