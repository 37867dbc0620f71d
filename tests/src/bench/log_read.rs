//! A4, A14, A15 and P11 for the log: its check, its proofs, what is taken out of its texts, and how each of them grows.

use super::log::{auth, intent, open};
use super::vault::processor_ms;
use super::{Bound, Row, alternate, median, us};
use auditd::chain::leaf;
use auditd::offline::{self, Expected};
use auditd::record::Source;
use auditd::redact::Redactor;
use proto::audit::Stream;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A log of this many records in its auth stream, made in this process.
fn grown(records: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(dir.path());
    let record = auth();
    let mut left = records;
    while left > 0 {
        let batch = left.min(1_000);
        journal.append(Stream::Auth, &vec![(Source::OWN, &record); batch]).unwrap();
        left -= batch;
    }
    journal.close().unwrap();
    dir
}

fn bytes(dir: &Path) -> f64 {
    let files = offline::find(dir, Stream::Auth).unwrap();
    count(files.iter().map(|pair| std::fs::metadata(&pair.log).unwrap().len()).sum())
}

#[expect(clippy::cast_precision_loss, reason = "a measurement")]
fn count(of: u64) -> f64 {
    of as f64
}

/// Seconds of a core for the check of the whole stream.
fn check(dir: &Path, records: u64) -> f64 {
    let files = offline::find(dir, Stream::Auth).unwrap();
    let before = processor_ms();
    let report = offline::verify(&files, Stream::Auth, &Expected::default(), |_, _| {}).unwrap();
    assert!(report.head.size >= records && report.signed == report.head.size);
    (processor_ms() - before) / 1e3
}

/// The least that a check does: every line is read and hashed.
fn hashed(dir: &Path) -> f64 {
    let before = processor_ms();
    let mut sum = 0u8;
    for pair in offline::find(dir, Stream::Auth).unwrap() {
        let mut reader = BufReader::with_capacity(1 << 18, std::fs::File::open(pair.log).unwrap());
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).unwrap() > 0 {
            sum ^= leaf(&line).0[0];
            line.clear();
        }
    }
    std::hint::black_box(sum);
    (processor_ms() - before) / 1e3
}

fn row(goal: &'static str, what: &str, (measured, control): (f64, f64), unit: &'static str, bound: Bound) -> Row {
    Row { goal, what: what.to_owned(), measured, control, unit, bound, published: "" }
}

/// The check and the proofs.
pub fn a4(full: bool) -> Vec<Row> {
    let records = if full { 1_000_000u32 } else { 200_000 };
    let dir = grown(usize::try_from(records).unwrap());
    let path = dir.path();
    let (checked, floor) = alternate(5, || check(path, u64::from(records)), || hashed(path));
    let (number, size) = (f64::from(records), bytes(path));
    let proofs = (0..200u32).map(|at| proof(path, u64::from(records / 200 * at)));
    let (made, checks): (Vec<f64>, Vec<f64>) = proofs.unzip();
    let most = made.iter().copied().fold(0.0, f64::max);
    vec![
        row(
            "A4",
            &format!("check of {records} records by one core / their lines read and hashed"),
            (number / checked / 1e6, number / floor / 1e6),
            "M/s",
            Bound::AtLeast(1.0),
        ),
        row("A4", "the same in bytes", (size / checked / 1e6, size / floor / 1e6), "MB/s", Bound::AtLeast(300.0)),
        row(
            "A4",
            "proof of a record by the tiles, the slowest of 200 / the middle one",
            (most, median(made.into_iter())),
            "ms",
            Bound::AtMost(5.0),
        ),
        row(
            "A4",
            "check of a proof / one of its Ed25519 signatures alone",
            (median(checks.into_iter()), signature()),
            "us",
            Bound::AtMost(60.0),
        ),
    ]
}

/// Milliseconds of a core to make a proof, microseconds to check it.
fn proof(dir: &Path, seq: u64) -> (f64, f64) {
    let before = processor_ms();
    let proof = auditd::proof::prove_in(dir, Stream::Auth, seq, None).unwrap();
    let made = processor_ms() - before;
    assert!(proof.hashes.len() <= 24);
    let key = {
        let files = offline::find(dir, Stream::Auth).unwrap();
        let last = files.last().map(std::slice::from_ref).unwrap();
        offline::verify(last, Stream::Auth, &Expected::default(), |_, _| {}).unwrap().key.unwrap().key
    };
    let before = processor_ms();
    proof.check(&key).unwrap();
    (made, (processor_ms() - before) * 1e3)
}

/// Microseconds for one signature to be checked.
fn signature() -> f64 {
    let dir = grown(10);
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let report = offline::verify(&files, Stream::Auth, &Expected::default(), |_, _| {}).unwrap();
    let note = offline::newest_checkpoint(&files).unwrap().unwrap();
    let key = report.key.unwrap().key;
    super::p50_us(200, || assert!(note.is_signed_by(&key)))
}

/// Texts through the redactor.
pub fn a14(_full: bool) -> Vec<Row> {
    // Lines of real logs, where somebody has them.
    let plain = std::env::var("REDACT_PLAIN").ok().map(|path| std::fs::read(path).unwrap());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let own = || std::fs::read(root.join("Cargo.lock")).unwrap();
    let (what, text) = plain.map_or_else(|| ("Cargo.lock", own()), |plain| ("lines of real logs", plain));
    let text = String::from_utf8_lossy(&text).into_owned();
    let redactor = Redactor::new(&[7; 32]);
    let speed = |clean: &dyn Fn(&str) -> usize| {
        let before = processor_ms();
        let kept: usize = text.lines().map(clean).sum();
        std::hint::black_box(kept);
        count(u64::try_from(text.len()).unwrap()) / 1e3 / (processor_ms() - before)
    };
    let look =
        |line: &str| line.bytes().filter(|byte| matches!(byte, b'=' | b':' | b'"')).count() + line.to_owned().len();
    let both = alternate(9, || speed(&|line| redactor.clean(line).len()), || speed(&look));
    let what = format!("redaction of {what} by one core / the same lines counted for three signs and copied");
    vec![row("A14", &what, both, "MB/s", Bound::AtLeast(150.0))]
}

/// Each of a thousand secrets in ten coats at three alignments.
pub fn a15(_full: bool) -> Vec<Row> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let words = ["test", "--release", "-p", "auditd", "--lib", "torture_thousand", "--", "--ignored", "--nocapture"];
    let output = Command::new("cargo").args(words).current_dir(root).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let planted = text.lines().find_map(|line| line.split_once(" secrets planted")?.0.trim().parse::<f64>().ok());
    let missed = if output.status.success() { 0.0 } else { 1.0 };
    let what = "secrets of the vault's that are still in a text / secrets planted, in ten coats at three alignments";
    vec![row("A15", what, (missed, planted.unwrap_or(0.0)), "", Bound::AtMost(0.0))]
}

/// A record's cost in a long log beside a short one's.
pub fn p11(full: bool) -> Vec<Row> {
    let long = if full { 1_000_000 } else { 100_000 };
    let logs = [100, long].map(grown);
    let [short_log, long_log] = logs.each_ref().map(tempfile::TempDir::path);
    let mut journals = [open(short_log), open(long_log)];
    let [short, grown] = &mut journals;
    let record = intent("make -C /workspace all");
    // In batches, so that the disk's share of a record is small.
    let append = |journal: &mut auditd::journal::Journal| {
        let begun = Instant::now();
        for _ in 0..20 {
            journal.append(Stream::Command, &vec![(Source::OWN, &record); 256]).unwrap();
            journal.tick().unwrap();
        }
        us(begun.elapsed()) / (20.0 * 256.0)
    };
    let appended = alternate(7, || append(grown), || append(short));
    drop(journals);
    // The short log is checked so often that both take as long.
    let records = count(u64::try_from(long).unwrap());
    let per_check = |dir: &Path, records: u64, times: u32| {
        (0..times).map(|_| check(dir, records)).sum::<f64>() * 1e6 / (f64::from(times) * count(records))
    };
    let checked =
        alternate(5, || per_check(long_log, u64::try_from(long).unwrap(), 1), || per_check(short_log, 100, 200));
    let prove = |dir: &Path, step: u64| median((0..99).map(|at| proof(dir, at * step).0 * 1e3));
    let step = u64::try_from(long / 100).unwrap();
    let proved = alternate(5, || prove(long_log, step), || prove(short_log, 1));
    let flat = |what: &str, both| {
        let what = format!("{what} among {records} records / among 100");
        row("P11", &what, both, "us", Bound::RatioAtMost(1.5))
    };
    vec![flat("a record appended", appended), flat("a record checked", checked), flat("a record proved", proved)]
}
