//! `moltbot logs`: the audit streams, read through broker and auditd.

use crate::CliError;
use crate::args::{Args, StreamName};
use crate::door::{Door, unexpected};
use crate::paint::{Paint, harmless};
use proto::audit::Stream;
use proto::operator::{OperatorReply, OperatorRequest};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Fields that every record has, or that stand elsewhere in the line.
const COMMON: [&str; 10] = ["seq", "ts", "timestamp", "boot", "mono", "stream", "type", "actor", "layout", "prev"];

/// Prints records, oldest first.
///
/// # Errors
/// [`CliError`].
pub fn show(dir: &Path, stream: StreamName, follow: bool, last: Option<usize>, args: &Args) -> Result<(), CliError> {
    let stream = match stream {
        StreamName::Auth => Stream::Auth,
        StreamName::Command => Stream::Command,
        StreamName::Secret => Stream::Secret,
        StreamName::System => Stream::System,
    };
    let mut door = Door::open(dir)?;
    let (mut offset, mut partial) = (0, Vec::new());
    let mut lines = read_on(&mut door, stream, &mut offset, &mut partial)?;
    if let Some(last) = last {
        lines.drain(..lines.len().saturating_sub(last));
    }
    let paint = Paint::new(args);
    let mut out = std::io::stdout().lock();
    loop {
        for line in &lines {
            writeln!(out, "{}", if args.json { line.clone() } else { render(line, paint) })?;
        }
        out.flush()?;
        if !follow {
            return Ok(());
        }
        std::thread::sleep(FOLLOW_EVERY);
        lines = read_on(&mut door, stream, &mut offset, &mut partial)?;
    }
}

fn read_on(door: &mut Door, stream: Stream, offset: &mut u64, partial: &mut Vec<u8>) -> Result<Vec<String>, CliError> {
    let mut lines = Vec::new();
    loop {
        let (OperatorReply::LogBytes(bytes), _) = door.ask(&OperatorRequest::ReadLog { stream, offset: *offset })?
        else {
            return Err(unexpected());
        };
        if bytes.is_empty() {
            return Ok(lines);
        }
        *offset += u64::try_from(bytes.len()).unwrap_or_default();
        partial.extend_from_slice(&bytes);
        while let Some(end) = partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(&line)).into_owned());
        }
    }
}

fn render(line: &str, paint: Paint) -> String {
    let Ok(Value::Object(record)) = serde_json::from_str(line) else { return paint.bad(&harmless(line)) };
    let text = |key: &str| record.get(key).map(plain).unwrap_or_default();
    let kind = text("type");
    let failed = record.get("success") == Some(&Value::Bool(false)) || matches!(kind.as_str(), "refused" | "incident");
    let rest: Vec<String> = record
        .iter()
        .filter(|(key, _)| !COMMON.contains(&key.as_str()))
        .map(|(key, value)| format!("{}={}", paint.dim(key), plain(value)))
        .collect();
    let kind = format!("{kind:<10}");
    let kind = if failed { paint.bad(&kind) } else { paint.good(&kind) };
    format!("{} {:<9} {kind} {}", paint.dim(&text("ts")), text("actor"), rest.join(" "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text).replace('\n', "\\n"),
        other => other.to_string(),
    }
}
