//! Every way to change a log that we could think of, against the check of it. What takes minutes is ignored here and run
//! by `cargo xtask torture auditd`.

use super::*;
use crate::chain::{hex, leaf};
use crate::keys::Ring;
use crate::stream::LogStream;
use crate::stream::tests::{Bench, check as check_dir};
use proto::ids::{LeafHash, Seq};
use std::collections::BTreeMap;

mod files;
mod tamper;

const LOG: &str = "auth-audit.jsonl";
const NOTES: &str = "auth-audit.checkpoints";

/// A log of `records`, with changes of keys and checkpoints in it, and the last one of all its lines.
struct Honest {
    dir: tempfile::TempDir,
    log: Vec<u8>,
    notes: Vec<u8>,
    expected: Expected,
    report: Report,
    /// Every key that was, the newest last, as somebody has them who took everything at the end of its epoch.
    stolen: Vec<Ring>,
}

fn ring(dir: &Path) -> Ring {
    use std::os::fd::AsFd;
    Ring::open(File::open(dir).unwrap().as_fd()).unwrap().unwrap()
}

fn honest(records: usize) -> Honest {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits.checkpoint_every = 16;
    let mut stolen = Vec::new();
    for at in 0..records {
        bench.put(&format!("192.0.2.{at}")).unwrap();
        if at % 7 == 3 {
            bench.with(LogStream::note);
        }
        if at % 40 == 9 {
            // A copy of the file with the key, before the key is destroyed.
            let copy = tempfile::tempdir().unwrap();
            std::fs::copy(dir.path().join("signing.key"), copy.path().join("signing.key")).unwrap();
            stolen.push(ring(copy.path()));
            bench.change_keys();
        }
    }
    bench.with(LogStream::note);
    stolen.push(ring(dir.path()));
    let log = std::fs::read(dir.path().join(LOG)).unwrap();
    let notes = std::fs::read(dir.path().join(NOTES)).unwrap();
    let expected = Expected { first_key: Some(bench.first_key()), ..Expected::default() };
    let report = check_dir(dir.path()).unwrap();
    assert_eq!(report.signed, report.head.size);
    Honest { dir, log, notes, expected, report, stolen }
}

impl Honest {
    fn verdict(&self, log: &[u8], notes: Option<&[u8]>) -> Result<Report, Fault> {
        self.verdict_with(log, notes, &self.expected)
    }

    fn verdict_with(&self, log: &[u8], notes: Option<&[u8]>, expected: &Expected) -> Result<Report, Fault> {
        let dir = self.dir.path();
        std::fs::write(dir.join(LOG), log).unwrap();
        let checkpoints = notes.map(|notes| {
            std::fs::write(dir.join(NOTES), notes).unwrap();
            dir.join(NOTES)
        });
        let files = [LogPath { log: dir.join(LOG), checkpoints }];
        verify(&files, Stream::Auth, expected, |_, _| {}).map_err(|error| match error {
            OfflineError::Fault(fault) => fault,
            other => panic!("{other}"),
        })
    }

    /// With the honest checkpoints beside it.
    fn class(&self, lines: &[Vec<u8>]) -> (u64, Class) {
        let fault = self.verdict(&join(lines), Some(&self.notes)).unwrap_err();
        (fault.broken.line, fault.broken.class)
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        self.log.strip_suffix(b"\n").unwrap().split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
    }
}

fn join(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
}

/// The lines with the chain written anew, as somebody would who edits a log without being able to sign.
fn rechained(mut lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut prev = [0; 32];
    for (seq, line) in lines.iter_mut().enumerate() {
        let text = String::from_utf8(line.clone()).unwrap();
        let text = text[..text.len() - 66].to_owned() + &hex(&prev) + "\"}";
        let rest = text.split_once(",\"ts\"").unwrap().1;
        *line = format!("{{\"seq\":{seq},\"ts\"{rest}").into_bytes();
        prev = leaf(line).0;
    }
    lines
}

#[test]
fn honest_log_verifies_and_its_root_is_recomputed_from_its_lines() {
    let honest = honest(100);
    assert_eq!(honest.verdict(&honest.log, Some(&honest.notes)).as_ref(), Ok(&honest.report));
    let mut tree = crate::tree::Frontier::default();
    honest.lines().iter().for_each(|line| tree.push(crate::tree::leaf_hash(line)));
    assert_eq!((tree.root(), tree.size()), (honest.report.root, honest.report.head.size));
    assert_eq!(honest.report.key.as_ref().unwrap().epoch, 3);
    // The lines and the first key are enough; then only what a record signs is signed.
    let alone = honest.verdict(&honest.log, None).unwrap();
    assert_eq!((alone.head, alone.root), (honest.report.head, honest.report.root));
    assert!(alone.signed < alone.head.size && alone.signed + 16 > alone.head.size);
    let other = Expected { first_key: Some([3; 32]), ..Expected::default() };
    let fault = honest.verdict_with(&honest.log, None, &other).unwrap_err();
    assert_eq!(fault.broken, Broken { line: 1, class: Class::WrongKey });
}

#[test]
fn edited_line_is_named_at_every_position() {
    let honest = honest(40);
    for at in 0..honest.lines().len() {
        let mut lines = honest.lines();
        let text = String::from_utf8(lines[at].clone()).unwrap().replace("\"mono\":7", "\"mono\":8");
        lines[at] = text.into_bytes();
        assert_eq!(honest.class(&lines), (at as u64 + 1, Class::Edited));
    }
}

#[test]
fn deleted_line_is_named_and_the_last_ones_loss_is_a_truncation() {
    let honest = honest(40);
    let count = honest.lines().len();
    for at in 0..count {
        let mut lines = honest.lines();
        lines.remove(at);
        let expected = if at + 1 == count { (at as u64, Class::Truncated) } else { (at as u64 + 1, Class::Deleted) };
        assert_eq!(honest.class(&lines), expected);
    }
}

#[test]
fn swapped_moved_and_doubled_lines_are_named() {
    let honest = honest(40);
    for at in 0..honest.lines().len() - 1 {
        let mut swapped = honest.lines();
        swapped.swap(at, at + 1);
        assert_eq!(honest.class(&swapped), (at as u64 + 1, Class::Reordered));
        let mut doubled = honest.lines();
        doubled.insert(at, doubled[at].clone());
        assert_eq!(honest.class(&doubled), (at as u64 + 2, Class::Inserted));
    }
}

#[test]
fn cut_at_every_offset_of_the_last_lines_is_a_truncation() {
    let honest = honest(20);
    for cut in (0..honest.log.len()).rev().step_by(13).chain(honest.log.len() - 700..honest.log.len()) {
        let fault = honest.verdict(&honest.log[..cut], Some(&honest.notes)).unwrap_err();
        assert_eq!(fault.broken.class, Class::Truncated, "{cut}");
    }
}

#[test]
fn old_state_of_everything_is_a_rollback_where_a_receipt_or_a_checkpoint_was_kept() {
    let honest = honest(40);
    let lines = honest.lines();
    let old = join(&lines[..20]);
    // Nothing in the old state itself is wrong.
    assert_eq!(honest.verdict(&old, None).unwrap().head.size, 20);
    let receipt = Receipt { seq: Seq(30), leaf: leaf(&lines[30]) };
    let with_receipt = Expected { receipts: vec![receipt], ..honest.expected.clone() };
    honest.verdict_with(&honest.log, None, &with_receipt).unwrap();
    let fault = honest.verdict_with(&old, None, &with_receipt).unwrap_err();
    assert_eq!(fault.broken, Broken { line: 20, class: Class::RolledBack });
    let kept = parse_kept(std::str::from_utf8(&honest.notes).unwrap()).unwrap();
    let with_note = Expected { checkpoints: kept[kept.len() - 1..].to_vec(), ..honest.expected.clone() };
    honest.verdict_with(&honest.log, None, &with_note).unwrap();
    let fault = honest.verdict_with(&old, None, &with_note).unwrap_err();
    assert_eq!(fault.broken, Broken { line: 20, class: Class::RolledBack });
    let wrong = Expected { receipts: vec![Receipt { seq: Seq(30), leaf: LeafHash([1; 32]) }], ..Expected::default() };
    let fault = honest.verdict_with(&honest.log, None, &wrong).unwrap_err();
    assert_eq!(fault.broken, Broken { line: 31, class: Class::Edited });
}

#[test]
fn other_logs_lines_are_a_splice() {
    let (mine, other) = (honest(40), honest(40));
    for at in [2, 11, 23, 30] {
        let spliced: Vec<_> = mine.lines()[..at].iter().chain(&other.lines()[at..]).cloned().collect();
        assert_eq!(mine.class(&spliced), (at as u64 + 1, Class::Spliced));
    }
    assert_eq!(mine.class(&other.lines()), (1, Class::WrongKey));
    let fault = verify(
        &[LogPath { log: mine.dir.path().join(LOG), checkpoints: None }],
        Stream::Secret,
        &Expected::default(),
        |_, _| {},
    );
    assert!(matches!(fault, Err(OfflineError::Fault(Fault { broken: Broken { line: 1, class: Class::Spliced }, .. }))));
}

#[test]
fn chain_written_anew_without_a_key_does_not_have_the_signed_root() {
    let honest = honest(40);
    let count = honest.lines().len();
    for at in 3..count {
        let mut lines = honest.lines();
        let text = String::from_utf8(lines[at].clone()).unwrap();
        if !text.contains("192.0.2.") {
            continue;
        }
        lines[at] = text.replace("192.0.2.", "198.51.100.").into_bytes();
        let forged = rechained(lines);
        let (line, class) = honest.class(&forged);
        assert!(matches!(class, Class::Rewritten | Class::Edited), "{class:?}");
        assert!(line > at as u64);
        let mut dropped = honest.lines();
        dropped.remove(at);
        assert!(honest.verdict(&join(&rechained(dropped)), Some(&honest.notes)).is_err());
    }
}

/// Forges a log as well as can be with the secrets of one epoch: edits, writes the chain anew, and signs every checkpoint
/// anew that its key can sign.
fn forged(honest: &Honest, edit: &str, ring: &Ring) -> Vec<u8> {
    let mut tree = crate::tree::Frontier::default();
    let mut head = Head::EMPTY;
    let (mut lines, mut changed) = (Vec::new(), false);
    for line in honest.lines() {
        let text = String::from_utf8(line.clone()).unwrap();
        changed |= text.contains(edit);
        if !changed {
            head = head.after(leaf(&line));
            tree.push(leaf(&line).0);
            lines.push(line);
            continue;
        }
        let text = text.replace(edit, "\"clientIp\":\"203.0.113.1\"");
        let mut value: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        if let Some(epoch) = value.get("keyEpoch").and_then(serde_json::Value::as_u64)
            && value.contains_key("note")
        {
            if let Ok(note) = ring.sign(Stream::Auth, epoch, head.size, tree.root()) {
                value.insert("note".into(), note.to_string().into());
            }
            value.insert("frontier".into(), crate::verify::frontier_text(&tree).into());
        }
        value.insert("prev".into(), hex(&head.leaf.0).into());
        let line = serde_json::to_vec(&value).unwrap();
        head = head.after(leaf(&line));
        tree.push(leaf(&line).0);
        lines.push(line);
    }
    join(&lines)
}

#[test]
fn stolen_key_forges_its_own_epoch_and_no_earlier_one() {
    let honest = honest(120);
    assert_eq!(honest.stolen.iter().map(Ring::epoch).collect::<Vec<_>>(), [0, 1, 2, 3]);
    // Epochs end behind records 9, 49 and 89.
    for (record, epoch) in [(5, 0), (30, 1), (70, 2), (95, 3)] {
        let edit = format!("\"clientIp\":\"192.0.2.{record}\"");
        for ring in &honest.stolen {
            let verdict = honest.verdict(&forged(&honest, &edit, ring), None);
            // Whoever holds the last epoch's key can write its end anew, and with an older one only up to the next.
            assert_eq!(verdict.is_ok(), ring.epoch() == epoch && epoch == 3, "record {record}, key {}", ring.epoch());
        }
    }
}

#[test]
fn key_that_nobody_vouched_for_is_no_key() {
    let (honest, other) = (honest(20), honest(20));
    let foreign = &other.stolen[0];
    let mut lines = honest.lines();
    let at = lines.iter().position(|line| line.windows(14).any(|window| window == b"\"keyEpoch\":1,\"")).unwrap();
    let mine = honest.stolen[1].public(Stream::Auth, 1).unwrap().key;
    let theirs =
        crate::note::PublicKey::new(mine.name(), &foreign.public(Stream::Auth, 0).unwrap().key.bytes()).unwrap();
    let text = String::from_utf8(lines[at].clone()).unwrap().replace(&mine.to_string(), &theirs.to_string());
    assert_ne!(text.as_bytes(), lines[at]);
    lines[at] = text.into_bytes();
    let fault = honest.verdict(&join(&rechained(lines)), None).unwrap_err();
    assert!(matches!(fault.broken.class, Class::Edited | Class::Rewritten), "{fault}");
}

#[test]
fn checkpoint_comes_again_with_a_witness_and_a_smaller_one_does_not() {
    let honest = honest(20);
    let notes = notes::parse(&honest.notes, &[]).unwrap().entries;
    let mut last = notes.last().unwrap().note.clone();
    last.push(crate::note::SignatureLine { name: "vault".into(), bytes: vec![4; 76] });
    let again = format!("{}{last}\n", String::from_utf8(honest.notes.clone()).unwrap());
    let report = honest.verdict(&honest.log, Some(again.as_bytes())).unwrap();
    assert_eq!((report.signed, report.checkpoints), (honest.report.signed, notes.len() + 1));
    let smaller = format!("{}{}\n", String::from_utf8(honest.notes.clone()).unwrap(), notes[0].note);
    let fault = honest.verdict(&honest.log, Some(smaller.as_bytes())).unwrap_err();
    assert_eq!((fault.file.as_str(), fault.broken.class), (NOTES, Class::Reordered));
}

#[test]
fn newer_format_is_said_to_be_newer() {
    let honest = honest(3);
    let mut lines = honest.lines();
    lines[0] = String::from_utf8(lines[0].clone()).unwrap().replace("\"format\":1", "\"format\":2").into_bytes();
    assert_eq!(honest.class(&rechained(lines)), (1, Class::Newer));
}

#[test]
fn arbitrary_bytes_are_refused_without_a_panic() {
    use proptest::prelude::*;
    let honest = honest(3);
    let mut runner = proptest::test_runner::TestRunner::default();
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        prop::sample::select(honest.lines()),
        prop::sample::select(vec![b"{".to_vec(), b"\n".to_vec(), b"null".to_vec(), b"{\"seq\":0}".to_vec()]),
    ];
    let pieces = prop::collection::vec(piece, 0..8);
    runner
        .run(&(pieces.clone(), pieces), |(log, notes)| {
            let _ = honest.verdict(&log.join(&b'\n'), Some(&notes.concat()));
            let _ = honest.verdict(&log.concat(), None);
            Ok(())
        })
        .unwrap();
}
