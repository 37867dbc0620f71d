//! `moltbot logs witness`: checkpoints of the log cosigned by somebody who is not on this machine (c2sp.org/tlog-witness), and
//! held against the log afterwards. auditd has no network and never will: it is the operator's process that pushes.
//!
//! auditd's keys change each hour, and a witness knows a log by one key. So the operator has a key of their own, made at the
//! first `add`: it signs, beside auditd, what this process has checked from the first line on. What comes back from a
//! witness is hostile until its cosignature was checked.

mod remembered;
mod transport;

use crate::CliError;
use crate::args::{Args, WitnessCommand};
use crate::paint::Paint;
use auditd::cosign::CosignerKey;
use auditd::note::{Checkpoint, SignedNote};
use auditd::offline::{self, Expected};
use auditd::tiles::stored::StoredTiles;
use auditd::tree::{Hash, Prover};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proto::audit::Stream;
use remembered::{Store, Witness};
use serde_json::json;
use std::path::Path;

/// Does what was asked.
///
/// # Errors
/// [`CliError`]: failed where the log is not what a witness saw, unchecked where a witness could not be asked.
pub fn run(dir: &Path, command: &WitnessCommand, args: &Args) -> Result<(), CliError> {
    let store = Store::at(dir);
    match command {
        WitnessCommand::Add { name, url, key } => {
            let key = CosignerKey::parse(key)
                .map_err(|_| CliError::failed("--key: no witness's key line (name+id+base64 of type 4)"))?;
            store.add(&Witness { name: name.clone(), url: url.clone(), key: key.to_string() })?;
            let keys = keys(dir, &store)?;
            if args.json {
                println!("{}", json!({ "name": name, "logKeys": keys }));
            } else {
                println!("the witness must know these keys, one for each log:");
                keys.iter().for_each(|key| println!("{key}"));
                println!("then: moltbot logs witness check {name}");
            }
            Ok(())
        }
        WitnessCommand::Remove { name } => store.remove(name),
        WitnessCommand::List => list(&store, args),
        WitnessCommand::Check { name } => {
            let witnesses = store.all()?;
            let wanted: Vec<_> =
                witnesses.iter().filter(|one| name.as_ref().is_none_or(|name| one.name == *name)).collect();
            if wanted.is_empty() {
                return Err(CliError::failed("there is no such witness; `moltbot logs witness list` shows them"));
            }
            wanted.into_iter().try_for_each(|witness| check(dir, &store, witness, args))
        }
    }
}

fn list(store: &Store, args: &Args) -> Result<(), CliError> {
    let all = store.all()?;
    if args.json {
        let rows: Vec<_> = all
            .iter()
            .map(|one| json!({ "name": one.name, "url": one.url, "key": one.key, "cosigned": sizes(store, one) }))
            .collect();
        println!("{}", serde_json::Value::Array(rows));
        return Ok(());
    }
    for one in &all {
        println!("{}  {}\n  {}", one.name, one.url, one.key);
        sizes(store, one).iter().for_each(|(stream, size)| println!("  {stream:<14} {size} records"));
    }
    if all.is_empty() {
        println!("nobody witnesses this log; `moltbot logs witness add` names one");
    }
    Ok(())
}

/// Records that a witness has cosigned, of each stream.
fn sizes(store: &Store, witness: &Witness) -> serde_json::Map<String, serde_json::Value> {
    let size = |stream: Stream| {
        let note = store.note(witness, stream).ok()??;
        Checkpoint::parse(note.text()).ok().map(|point| (stream.name().to_owned(), point.size.into()))
    };
    Stream::ALL.into_iter().filter_map(size).collect()
}

/// The operator's keys under the names of the logs, as a witness is to know them.
fn keys(dir: &Path, store: &Store) -> Result<Vec<String>, CliError> {
    let mut keys = Vec::new();
    for stream in Stream::ALL {
        let files = offline::find(&dir.join("logs"), stream).map_err(|error| CliError::Unchecked(error.to_string()))?;
        let note = offline::newest_checkpoint(&files).map_err(|error| CliError::Unchecked(error.to_string()))?;
        if let Some(point) = note.and_then(|note| Checkpoint::parse(note.text()).ok()) {
            keys.push(store.key()?.public(&point.origin)?);
        }
    }
    Ok(keys)
}

/// Holds the log against what the witness saw last, and has it see what there is now.
fn check(dir: &Path, store: &Store, witness: &Witness, args: &Args) -> Result<(), CliError> {
    let paint = Paint::new(args);
    for stream in Stream::ALL {
        let logs = dir.join("logs");
        let before = store.note(witness, stream)?;
        let (note, point) = verified(&logs, stream, before.as_ref())?;
        let old = before.as_ref().and_then(|note| Checkpoint::parse(note.text()).ok());
        let cosigned = match &old {
            Some(old) if old.size == point.size => None,
            _ => Some(push(store, witness, &logs, stream, (note, &point), old.map_or(0, |old| old.size))?),
        };
        if let Some(note) = &cosigned {
            store.remember(witness, stream, note)?;
        }
        let new = cosigned.is_some();
        if args.json {
            println!(
                "{}",
                json!({ "witness": witness.name, "stream": stream.name(), "ok": true, "size": point.size, "new": new })
            );
        } else {
            let what = if new { "cosigned up to" } else { "nothing new behind" };
            println!("{} {:<14} {what} {} by {}", paint.good("ok   "), stream.name(), point.size, witness.name);
        }
    }
    Ok(())
}

/// The newest checkpoint, once the log was checked from its first line to its last, and found to go on from `before`.
fn verified(logs: &Path, stream: Stream, before: Option<&SignedNote>) -> Result<(SignedNote, Checkpoint), CliError> {
    let unchecked = |error: &dyn std::fmt::Display| CliError::Unchecked(format!("{}: {error}", stream.name()));
    let mut expected = Expected::default();
    if let Some(note) = before {
        let text = note.to_string();
        expected.checkpoints = offline::parse_kept(&text).map_err(|error| unchecked(&error))?;
    }
    auditd::pruned::verify(logs, stream, &expected, |_, _| {})
        .map_err(|error| CliError::Failed(format!("{}: {error}", stream.name())))?;
    let files = offline::find(logs, stream).map_err(|error| unchecked(&error))?;
    let note = offline::newest_checkpoint(&files).map_err(|error| unchecked(&error))?;
    let note = note.ok_or_else(|| unchecked(&"there is no checkpoint yet"))?;
    let point = Checkpoint::parse(note.text()).map_err(|error| unchecked(&error))?;
    Ok((note, point))
}

fn push(
    store: &Store,
    witness: &Witness,
    logs: &Path,
    stream: Stream,
    (mut note, point): (SignedNote, &Checkpoint),
    mut old: u64,
) -> Result<SignedNote, CliError> {
    note.push(store.key()?.sign(note.text(), &point.origin)?);
    // Once more where the witness knows another size than we remember.
    for again in [true, false] {
        let request = format!("old {old}\n{}\n{note}", proof(logs, stream, old, point.size)?);
        let answer = transport::post(&witness.url, &request)?;
        match answer.status {
            200 => return cosigned(witness, note, &answer.body),
            409 if again => {
                let said = answer.body.trim().parse().map_err(|_| refused(witness, 409, &answer.body))?;
                if said > point.size {
                    return Err(CliError::Failed(format!(
                        "{} has seen {said} records of {}, and here are {}: the log was rolled back",
                        witness.name,
                        stream.name(),
                        point.size
                    )));
                }
                old = said;
            }
            status => return Err(refused(witness, status, &answer.body)),
        }
    }
    Err(CliError::Unchecked(format!("{} does not say twice the same size", witness.name)))
}

fn refused(witness: &Witness, status: u16, body: &str) -> CliError {
    let body = crate::paint::harmless(body.trim());
    match status {
        // The proof or the signature does not hold for the witness: the log is not what it saw.
        409 | 422 => CliError::Failed(format!(
            "{} refused ({status}): this is not the log that it has seen. {body}",
            witness.name
        )),
        403 | 404 => CliError::Unchecked(format!(
            "{} refused ({status}): it does not know this log or its key; `moltbot logs witness add` printed the keys. {body}",
            witness.name
        )),
        _ => CliError::Unchecked(format!("{} answered {status}. {body}", witness.name)),
    }
}

/// The lines of the consistency proof.
fn proof(logs: &Path, stream: Stream, old: u64, size: u64) -> Result<String, CliError> {
    if old == 0 || old == size {
        return Ok(String::new());
    }
    let tiles = StoredTiles::open(logs, stream).map_err(|error| CliError::Unchecked(error.to_string()))?;
    let hashes = tiles.and_then(|tiles| consistency(&tiles, old, size));
    let hashes = hashes.ok_or_else(|| {
        CliError::Unchecked(format!("the tiles of {} do not reach to its checkpoint yet; try again", stream.name()))
    })?;
    Ok(hashes.iter().map(|hash| format!("{}\n", STANDARD.encode(hash))).collect())
}

fn consistency(tiles: &StoredTiles, old: u64, size: u64) -> Option<Vec<Hash>> {
    let mut prover = Prover::consistency(old, size)?;
    prover.fill(|from, size| tiles.subtree(from, size))?;
    prover.finish()
}

/// The note with the witness's lines, if one of them is its cosignature and none is a false one.
fn cosigned(witness: &Witness, mut note: SignedNote, body: &str) -> Result<SignedNote, CliError> {
    let false_line = || CliError::Failed(format!("what {} answered is no cosignature of its key", witness.name));
    let lines = SignedNote::parse(&format!("{}\n{}", note.text(), body)).map_err(|_| false_line())?;
    lines.signatures().iter().for_each(|line| note.push(line.clone()));
    let key = CosignerKey::parse(&witness.key).map_err(|_| false_line())?;
    if key.check(&note) == Some(true) { Ok(note) } else { Err(false_line()) }
}
