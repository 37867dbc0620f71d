//! `moltbot logs verify | checkpoint | prove | check-proof | export`: the log checked and proved from its files alone. Nothing of a
//! running Moltbot is asked, so that a fallen one cannot answer for itself.

use crate::CliError;
use crate::args::{Args, LogsCommand};
use crate::paint::{Paint, beside, harmless};
use auditd::chain::hex;
use auditd::note::{Checkpoint, PublicKey};
use auditd::offline::{self, Expected, LogPath, OfflineError, Report};
use auditd::proof::{self, Proof};
use auditd::pruned::{self, Attested};
use proto::audit::Stream;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes from which on a person wants to see that it goes on.
const LARGE: u64 = 64 << 20;
/// Bytes between two signs of life.
const STEP: u64 = 8 << 20;

/// Does what was asked.
///
/// # Errors
/// [`CliError`]: failed where the log is not what was written, unchecked where it could not be read.
pub fn run(dir: &Path, command: &LogsCommand, args: &Args) -> Result<(), CliError> {
    let logs = |path: &Option<PathBuf>| path.clone().unwrap_or_else(|| dir.join("logs"));
    match command {
        LogsCommand::Verify { path, from_key, checkpoint, cosigner, stream, progress } => {
            let logs = logs(path);
            let key = match cosigner {
                Some(text) => Some(offline::parse_cosigner(text).map_err(|what| unchecked(text, what))?),
                None => offline::find_cosigner(&logs).map_err(unreadable)?,
            };
            let mut expected = Expected { first_key: *from_key, cosigner: key, ..Expected::default() };
            for file in checkpoint {
                let text = std::fs::read_to_string(file).map_err(|error| unchecked(file.display(), error))?;
                let kept = offline::parse_kept(&text).map_err(|error| unchecked(file.display(), error))?;
                expected.checkpoints.extend(kept);
            }
            verify(&logs, stream.map(Stream::from), &expected, *progress, args)?;
            if let (None, Some(key), false) = (cosigner, &expected.cosigner, args.json) {
                println!("{}", beside(2, &format!("cosigned with {key}; once noted elsewhere, say --cosigner")));
            }
            Ok(())
        }
        LogsCommand::Checkpoint { path, qr } => checkpoints(&logs(path), *qr),
        LogsCommand::Witness { command } => crate::witness::run(dir, command, args),
        LogsCommand::Prune(options) => crate::prune::run(dir, *options, args),
        LogsCommand::Prove { seq, stream, path, record } => {
            let line = record.as_ref().map(|file| line(file)).transpose()?;
            let proof = proof::prove_in(&logs(path), (*stream).into(), *seq, line).map_err(CliError::failed)?;
            Ok(write!(std::io::stdout().lock(), "{proof}")?)
        }
        LogsCommand::CheckProof { file, key } => check_proof(&dir.join("logs"), file, *key, args),
        LogsCommand::Export { stream, to, path } => {
            let files = offline::find(&logs(path), (*stream).into()).map_err(unreadable)?;
            let lines = auditd::tiles::export(&files, to).map_err(CliError::failed)?;
            if args.json {
                println!("{}", json!({ "ok": true, "lines": lines, "to": to }));
            } else {
                println!("{lines} lines as tiles in {}", to.display());
            }
            Ok(())
        }
    }
}

/// The one line of a file.
fn line(file: &Path) -> Result<Vec<u8>, CliError> {
    let mut line = std::fs::read(file).map_err(|error| unchecked(file.display(), error))?;
    line.pop_if(|byte| *byte == b'\n');
    Ok(line)
}

fn unchecked(what: impl std::fmt::Display, error: impl std::fmt::Display) -> CliError {
    CliError::Unchecked(format!("{what}: {error}"))
}

fn unreadable(error: OfflineError) -> CliError {
    CliError::Unchecked(error.to_string())
}

fn verify(path: &Path, only: Option<Stream>, expected: &Expected, tell: bool, args: &Args) -> Result<(), CliError> {
    let found = if path.is_file() { offline::stream_of(path) } else { None };
    let streams: Vec<Stream> = match only.or(found) {
        Some(stream) => vec![stream],
        None if path.is_file() => return Err(unchecked(path.display(), "is not the log of any stream")),
        None => Stream::ALL.to_vec(),
    };
    let paint = Paint::new(args);
    let (mut wrong, mut results, mut keys) = (0usize, Vec::new(), BTreeSet::new());
    for stream in &streams {
        let expected = of_stream(expected, *stream);
        let outcome = offline::find(path, *stream).and_then(|files| {
            let mut progress = Progress::new(&files, *stream, tell);
            let outcome = pruned::verify(path, *stream, &expected, |_, bytes| progress.at(bytes));
            progress.end();
            outcome
        });
        match outcome {
            Ok((report, attested)) if args.json => results.push(as_json(&report, attested)),
            Ok((report, attested)) => {
                println!("{}", as_text(&report, attested, paint));
                keys.extend(report.first_key.map(|first| hex(&first.key.bytes())));
            }
            Err(OfflineError::Fault(fault)) => {
                wrong = wrong.saturating_add(1);
                let (line, class) = (fault.broken.line, fault.broken.class);
                results.push(json!({
                    "stream": stream.name(), "ok": false, "file": fault.file, "line": line, "class": class.name(),
                    "detail": fault.to_string(),
                }));
                if !args.json {
                    println!("{} {:<14} {}: {fault}", paint.bad("WRONG"), stream.name(), class.name());
                }
            }
            Err(other) => return Err(unreadable(other)),
        }
    }
    if args.json {
        println!("{}", Value::Array(results));
    } else if expected.first_key.is_none() {
        // Nothing vouches for it but the log itself: the operator's own note does.
        keys.iter().for_each(|key| {
            println!("{}", beside(2, &format!("first key {key}; once noted elsewhere, say --from-key")))
        });
    }
    match wrong {
        0 => Ok(()),
        _ => Err(CliError::Failed(format!("{wrong} of {} streams are not what was written", streams.len()))),
    }
}

fn checkpoints(path: &Path, qr: bool) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    for stream in Stream::ALL {
        let files = offline::find(path, stream).map_err(unreadable)?;
        if let Some(note) = offline::newest_checkpoint(&files).map_err(unreadable)? {
            if qr {
                writeln!(out, "{}\n{}", stream.name(), crate::qr::draw(&note.to_string())?)?;
            } else {
                writeln!(out, "{note}")?;
            }
        }
    }
    Ok(())
}

/// What is known from elsewhere of one stream: checkpoints name theirs.
fn of_stream(expected: &Expected, stream: Stream) -> Expected {
    let mut expected = expected.clone();
    expected.checkpoints.retain(|kept| kept.point.origin.ends_with(&format!("/{}", stream.name())));
    expected
}

fn as_json(report: &Report, attested: Attested) -> Value {
    let key = |key: &Option<auditd::verify::EpochKey>| {
        key.as_ref().map(|key| json!({ "epoch": key.epoch, "key": key.key.to_string() }))
    };
    json!({
        "stream": report.stream.name(),
        "ok": true,
        "files": report.files,
        "firstSeq": report.first_line,
        "size": report.head.size,
        "head": hex(&report.head.leaf.0),
        "root": hex(&report.root),
        "signed": report.signed,
        "cosigned": report.cosigned,
        "checkpoints": report.checkpoints,
        "firstKey": key(&report.first_key),
        "key": key(&report.key),
        "torn": report.torn,
        "cutShort": report.cut_short,
        "tiles": attested.tiles,
        "attestedByTilesOnly": attested.pruned,
    })
}

fn as_text(report: &Report, attested: Attested, paint: Paint) -> String {
    let head = format!(
        "{} {:<14} {} records in {} file(s), signed up to {}, cosigned up to {}, root {}",
        paint.good("ok   "),
        report.stream.name(),
        report.head.size.saturating_sub(report.first_line),
        report.files,
        report.signed,
        report.cosigned,
        hex(&report.root)
    );
    let mut text = beside(6, &head);
    match report.first_line.checked_sub(1) {
        Some(last) if attested.pruned > 0 => text.push_str(&format!(
            "\n      {}",
            paint.warn(&format!("records 0 to {last} were pruned: attested by their hashes in the tiles alone"))
        )),
        Some(last) => text.push_str(&format!(
            "\n      {}",
            paint.warn(&format!("begins at record {}; nothing here attests records 0 to {last}", report.first_line))
        )),
        None => {}
    }
    if report.torn {
        text.push_str(&format!("\n      {}", paint.warn("ends in a torn line, which the next start accounts for")));
    }
    for file in &report.cut_short {
        let what = format!("{file} ends in a part of a checkpoint; the next file's first record signs the same lines");
        text.push_str(&format!("\n      {}", paint.warn(&what)));
    }
    if report.first_key.is_none() {
        text.push_str(&format!("\n      {}", paint.warn("names no key: chained, not signed")));
    }
    text
}

/// Signs of life on standard error: on one line where a person looks on and the log is large, a line each where asked for.
struct Progress {
    stream: Stream,
    total: u64,
    next: u64,
    /// One line for all of them.
    over: bool,
    shown: bool,
}

impl Progress {
    fn new(files: &[LogPath], stream: Stream, tell: bool) -> Self {
        let total = files.iter().filter_map(|pair| std::fs::metadata(&pair.log).ok()).map(|meta| meta.len()).sum();
        let over = std::io::stderr().is_terminal();
        let next = if tell || total >= LARGE && over { STEP.min(total) } else { u64::MAX };
        Self { stream, total, next, over, shown: false }
    }

    fn at(&mut self, bytes: u64) {
        if bytes < self.next {
            return;
        }
        self.next = if bytes >= self.total { u64::MAX } else { bytes.saturating_add(STEP).min(self.total) };
        self.shown = true;
        let percent = bytes.saturating_mul(100).checked_div(self.total).unwrap_or(100);
        let (begin, end) = if self.over { ("\r", "") } else { ("", "\n") };
        eprint!("{begin}{}: {percent:>3} % of {} KiB{end}", self.stream.name(), self.total >> 10);
    }

    fn end(&self) {
        if self.shown && self.over {
            eprint!("\r\x1b[K");
        }
    }
}

fn check_proof(logs: &Path, file: &Path, key: Option<[u8; 32]>, args: &Args) -> Result<(), CliError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|error| unchecked(file.display(), error))?;
    let proof = Proof::parse(&text).map_err(CliError::failed)?;
    let point = Checkpoint::parse(proof.checkpoint.text()).map_err(CliError::failed)?;
    let key = match key {
        Some(key) => PublicKey::new(&point.origin, &key).map_err(CliError::failed)?,
        None => key_of(logs, &point)?,
    };
    proof.check(&key).map_err(CliError::failed)?;
    let record = String::from_utf8_lossy(&proof.record);
    if args.json {
        let record: Value = serde_json::from_str(&record).unwrap_or(Value::String(record.into_owned()));
        println!(
            "{}",
            json!({ "ok": true, "index": proof.index, "size": point.size, "origin": point.origin, "record": record })
        );
    } else {
        eprintln!("record {} of {} is in the tree of {} records", proof.index, point.origin, point.size);
        println!("{}", harmless(&record));
    }
    Ok(())
}

/// The key in force of the log here, once that log is checked.
fn key_of(logs: &Path, point: &Checkpoint) -> Result<PublicKey, CliError> {
    let stream = Stream::ALL.into_iter().find(|stream| point.origin.ends_with(&format!("/{}", stream.name())));
    let stream = stream.ok_or_else(|| CliError::failed("the proof is of no stream of ours; say --key"))?;
    let files = offline::find(logs, stream).map_err(unreadable)?;
    let report = offline::verify(&files, stream, &Expected::default(), |_, _| {}).map_err(CliError::failed)?;
    let key = report.key.filter(|key| key.key.name() == point.origin).map(|key| key.key);
    key.ok_or_else(|| CliError::failed("the proof is of another log than the one here; say --key"))
}
