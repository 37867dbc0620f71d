//! `moltbot incident report`: one archive for whoever has to find out what happened. What vouches for it is the log: broker
//! has the archive's digest recorded, and the proof that this record is in the signed and cosigned log lies beside it, so
//! that a responder needs the log's key and nobody's word.
//!
//! It holds records, which name people, hosts and commands; no secret, because the log has none.

use crate::CliError;
use crate::args::{Args, ReportOptions};
use crate::backup::tar;
use crate::door::{Door, unexpected};
use auditd::clock::{Instant, parse_rfc3339};
use auditd::proof;
use proto::audit::Stream;
use proto::operator::{OperatorReply, OperatorRequest};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Longest archive: what the tar of a backup carries in memory.
const MAX: usize = 256 << 20;

/// Writes it.
///
/// # Errors
/// [`CliError`].
pub fn report(dir: &Path, options: &ReportOptions, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    let status = door.status()?;
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: &str, content: Vec<u8>| files.push((name.to_owned(), content));
    add("status.json", pretty(&crate::status::as_json(&status))?);
    add("audit.json", pretty(&crate::audit::as_json(dir)?)?);
    add("walls.json", pretty(&json!(crate::confine_report::all_deviations(&status)))?);
    let file = dir.join("moltbot.json");
    let config = config::Config::load(&file).map_or_else(|error| json!({ "error": error.to_string() }), |it| json!(it));
    add("config.json", pretty(&config)?);
    let mut count = 0usize;
    for stream in Stream::ALL {
        let mut lines = Vec::new();
        crate::logs::each(dir, stream, &mut |line| {
            if is_since(line, options.since) {
                count += 1;
                lines.extend_from_slice(line.as_bytes());
                lines.push(b'\n');
            }
            Ok(())
        })?;
        add(&format!("records/{}.jsonl", stream.name()), lines);
        let checkpoints = dir.join("logs").join(format!("{}.checkpoints", stream.name()));
        if let Ok(notes) = std::fs::read(checkpoints) {
            add(&format!("checkpoints/{}", stream.name()), notes);
        }
    }
    let manifest: Map<String, Value> =
        files.iter().map(|(name, content)| (name.clone(), json!(hex(&Sha256::digest(content))))).collect();
    files.insert(0, ("manifest.json".to_owned(), pretty(&Value::Object(manifest))?));
    if files.iter().map(|(_, content)| content.len()).sum::<usize>() > MAX {
        return Err(CliError::failed("it would be over 256 MiB; choose a later --since"));
    }
    let parts: Vec<(&str, u32, &[u8])> = files.iter().map(|(name, content)| (&**name, 0o600, &**content)).collect();
    let archive = tar::write(&parts, Instant::now().wall.as_secs());
    let sha256: [u8; 32] = Sha256::digest(&archive).into();
    write(&options.out, &archive)?;
    match door.ask(&OperatorRequest::IncidentReport { sha256 })? {
        (OperatorReply::Started, _) => {}
        _ => return Err(unexpected()),
    }
    let proof = prove(dir, &hex(&sha256))?;
    let mut beside = options.out.clone().into_os_string();
    beside.push(".proof");
    write(Path::new(&beside), proof.as_bytes())?;
    let (out, beside) = (options.out.display(), Path::new(&beside).display());
    let text = format!(
        "{out}: {count} records, sha256 {}\n{beside}: that the log has this digest; `moltbot logs check-proof {beside}`",
        hex(&sha256)
    );
    crate::secrets::say(
        args,
        &json!({ "ok": true, "file": options.out, "records": count, "sha256": hex(&sha256), "proof": beside.to_string() }),
        &text,
    )
}

/// The proof of the record that names the digest.
fn prove(dir: &Path, digest: &str) -> Result<String, CliError> {
    let mut seq = None;
    crate::logs::each(dir, Stream::System, &mut |line| {
        if line.contains(digest) {
            let record: Option<Value> = serde_json::from_str(line).ok();
            seq = record.and_then(|record| record.get("seq").and_then(Value::as_u64)).or(seq);
        }
        Ok(())
    })?;
    let seq = seq.ok_or_else(|| CliError::failed("the log has no record of the report"))?;
    let proof = proof::prove_in(&dir.join("logs"), Stream::System, seq, None).map_err(CliError::failed)?;
    Ok(proof.to_string())
}

fn is_since(line: &str, since: Duration) -> bool {
    let record: Option<Map<String, Value>> = serde_json::from_str(line).ok();
    let time = record.and_then(|record| record.get("ts").and_then(Value::as_str).and_then(parse_rfc3339));
    // What cannot be read is what a responder wants to see.
    time.is_none_or(|time| time >= since)
}

fn pretty(value: &Value) -> Result<Vec<u8>, CliError> {
    serde_json::to_vec_pretty(value).map_err(CliError::failed)
}

fn hex(bytes: &[u8]) -> String {
    auditd::chain::hex(bytes)
}

/// Makes a file that is not there, for its owner alone: a report is never written over another.
fn write(file: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", file.display()));
    let mut made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    made.write_all(bytes).and_then(|()| made.sync_all()).map_err(failed)
}
