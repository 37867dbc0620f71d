//! `moltbot sandbox list | logs | kill | evidence`: which sandboxes there are, what was seen of them, and ending one.

use crate::CliError;
use crate::args::Args;
use crate::door::{Door, unexpected};
use crate::logs;
use crate::paint::{Paint, harmless};
use command::show::visible;
use proto::audit::Stream;
use proto::bounded::BoundedStr;
use proto::ids::SessionKey;
use proto::operator::{OperatorReply, OperatorRequest};
use proto::watch::{Class, SandboxAnswer, SandboxRow, SandboxVerb, Sense};
use serde_json::{Value, json};
use std::path::Path;

/// The sandboxes.
///
/// # Errors
/// [`CliError`].
pub fn list(dir: &Path, args: &Args) -> Result<(), CliError> {
    let SandboxAnswer::Rows(rows) = ask(dir, SandboxVerb::List)? else { return Err(unexpected()) };
    if args.json {
        println!("{}", Value::Array(rows.iter().map(row_as_json).collect()));
        return Ok(());
    }
    if rows.is_empty() {
        println!("no sandbox is there; the next command makes one");
        return Ok(());
    }
    let paint = Paint::new(args);
    println!("CONVERSATION                      CONTAINER      RUNNING      AGE  SEEN");
    for row in rows.iter() {
        println!("{}", row_as_text(row, paint));
    }
    Ok(())
}

/// Ends what runs in a conversation's sandbox, and throws it away.
///
/// # Errors
/// [`CliError`]; also where there is none.
pub fn kill(dir: &Path, session: &str, args: &Args) -> Result<(), CliError> {
    let SandboxAnswer::Done(count) = ask(dir, SandboxVerb::Kill(key(session)?))? else { return Err(unexpected()) };
    if args.json {
        println!("{}", json!({ "ended": count }));
    } else if count > 0 {
        println!("ended; the next command of {} gets a fresh one", harmless(session));
    }
    if count > 0 || args.json {
        Ok(())
    } else {
        Err(CliError::Failed(format!(
            "{} has no sandbox; `moltbot sandbox list` shows which there are",
            harmless(session)
        )))
    }
}

/// Commands and signals, oldest first; of all conversations or of one.
///
/// # Errors
/// [`CliError`].
pub fn log(dir: &Path, session: Option<&str>, args: &Args) -> Result<(), CliError> {
    let mut records = read(dir, Stream::Command, session, &["intent", "outcome", "refused"])?;
    records.extend(read(dir, Stream::System, session, &["signal"])?);
    records.sort_by_key(|record| word(record, "ts"));
    for record in &records {
        if args.json { println!("{record}") } else { println!("{}", as_line(record)) }
    }
    Ok(())
}

/// What was kept of sandboxes that were frozen; of all conversations or of one.
///
/// # Errors
/// [`CliError`].
pub fn evidence(dir: &Path, session: Option<&str>, args: &Args) -> Result<(), CliError> {
    let records = read(dir, Stream::System, session, &["signal", "evidence"])?;
    let grave =
        |record: &Value| word(record, "type") == "evidence" || matches!(word(record, "class").as_str(), "S3" | "S4");
    let records: Vec<Value> = records.into_iter().filter(grave).collect();
    if args.json {
        records.iter().for_each(|record| println!("{record}"));
        return Ok(());
    }
    if records.is_empty() {
        println!("nothing was frozen, so there is no evidence");
    }
    for record in &records {
        if word(record, "type") == "signal" {
            println!("{}", as_line(record));
            continue;
        }
        let (part, length) = (word(record, "part"), number(record, "length"));
        println!("  {part}, {length} bytes, sha256:{}, line {}", word(record, "sha256"), number(record, "seq"));
        for line in word(record, "text").lines() {
            println!("    {}", harmless(line));
        }
    }
    Ok(())
}

fn ask(dir: &Path, verb: SandboxVerb) -> Result<SandboxAnswer, CliError> {
    match Door::open(dir)?.ask(&OperatorRequest::Sandbox(verb))? {
        (OperatorReply::Sandbox(answer), _) => Ok(answer),
        _ => Err(unexpected()),
    }
}

/// A conversation's key, of the length that a message holds.
///
/// # Errors
/// [`CliError`] for a longer one.
pub fn key(session: &str) -> Result<SessionKey, CliError> {
    BoundedStr::new(session).map(SessionKey).map_err(|_| CliError::failed("a conversation's key has 128 bytes at most"))
}

fn read(dir: &Path, stream: Stream, session: Option<&str>, kinds: &[&str]) -> Result<Vec<Value>, CliError> {
    let mut found = Vec::new();
    logs::each(dir, stream, &mut |line| {
        let Ok(record) = serde_json::from_str::<Value>(line) else { return Ok(()) };
        let of_it = session.is_none_or(|session| word(&record, "sessionKey") == session);
        if of_it && kinds.contains(&word(&record, "type").as_str()) {
            found.push(record);
        }
        Ok(())
    })?;
    Ok(found)
}

fn word(record: &Value, field: &str) -> String {
    record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(record: &Value, field: &str) -> u64 {
    record.get(field).and_then(Value::as_u64).unwrap_or_default()
}

fn as_line(record: &Value) -> String {
    let what = match word(record, "type").as_str() {
        "signal" => format!("{} {} {}", word(record, "class"), word(record, "signal"), word(record, "detail")),
        "intent" => format!("runs {}", word(record, "command")),
        "refused" => format!("refused by {}: {}", word(record, "rule"), word(record, "command")),
        _ => match record.get("exitCode").and_then(Value::as_u64) {
            Some(code) => format!("ended with {code}"),
            None => "ended otherwise".to_owned(),
        },
    };
    visible(&format!("{} {} {what}", word(record, "ts"), word(record, "sessionKey"))).to_string()
}

/// A sandbox as JSON; its keys are an interface.
#[must_use]
pub fn row_as_json(row: &SandboxRow) -> Value {
    json!({
        "sessionKey": row.session.0.as_str(),
        "container": row.container.as_str(),
        "running": row.running,
        "ageSeconds": row.age_s,
        "class": row.class.map(Class::name),
        "signals": row.signals,
        "suspended": row.suspended,
        "quarantined": row.quarantined,
    })
}

fn row_as_text(row: &SandboxRow, paint: Paint) -> String {
    let session = if row.session.0.is_empty() { "(nobody's yet)" } else { row.session.0.as_str() };
    let container = if row.container.is_empty() { "native" } else { row.container.get(..12).unwrap_or("native") };
    let mut seen = match row.class {
        None => paint.good("nothing"),
        Some(Class::S1) => paint.warn("S1"),
        Some(class) => paint.bad(class.name()),
    };
    if row.quarantined {
        seen.push_str(" in quarantine");
    } else if row.suspended {
        seen.push_str(" everything is asked about");
    }
    format!("{:<33} {container:<12} {:>9} {:>7}s  {seen}", harmless(session), row.running, row.age_s)
}

/// A kind of signal as JSON; its keys are an interface.
#[must_use]
pub fn sense_as_json(sense: &Sense) -> Value {
    json!({
        "signal": sense.signal.as_str(),
        "name": sense.name.as_str(),
        "class": sense.class.name(),
        "on": sense.on,
        "why": sense.why.as_str(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_of_a_signal_says_class_number_and_detail_and_nothing_invisible() {
        let record = json!({ "type": "signal", "ts": "t", "sessionKey": "s", "class": "S3", "signal": "D2",
            "detail": "exec \u{1b}[2J\u{202e}" });
        let line = as_line(&record);
        assert!(
            line.starts_with("t s S3 D2 exec") && !line.contains('\u{1b}') && !line.contains('\u{202e}'),
            "{line:?}"
        );
    }
}
