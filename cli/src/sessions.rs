//! `moltbot sessions`: what is kept of conversations. Keys come from the vault at broker's socket, each recorded before it
//! comes; files are read and removed by this process, which is the operator's own. Gateway only hears that it shall forget.

use crate::CliError;
use crate::args::{Args, SessionsCommand};
use crate::confirm::confirm;
use crate::door::{Door, unexpected};
use crate::paint::{columns, harmless};
use crate::secrets::{ask, done, say, time};
use crate::ws;
use proto::bounded::BoundedStr;
use proto::ids::SessionKey;
use proto::taint::{TaintRow, TaintVerb};
use proto::transcripts::{TranscriptId, TranscriptRow, TranscriptVerb};
use proto::vault::{VaultAnswer, VaultVerb};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use transcript::{Found, Key};

/// Rows of a full page.
const PAGE: usize = 64;
/// Rows of a full page of conversations that strangers' words have reached.
const TAINTED_PAGE: usize = 32;
const MAIN: &str = "agent:main:main";

/// Carries out `moltbot sessions ...`.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: &SessionsCommand, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    match command {
        SessionsCommand::List => list(dir, &mut door, args),
        SessionsCommand::Show { which } => show(dir, &mut door, which, args),
        SessionsCommand::Tainted => tainted(&mut door, args),
        SessionsCommand::Untaint { session } => {
            let session = SessionKey(BoundedStr::new(whole(session)).map_err(|_| unexpected())?);
            let text = format!("{session} is held to the rules of its name alone");
            done(&mut door, VaultVerb::Taint(TaintVerb::Clear { session }))?;
            say(args, &json!({ "ok": true }), &text)
        }
        SessionsCommand::Reset { session, all: _ } => reset(&mut door, session.as_deref(), args),
        SessionsCommand::Delete { which, closed: _, yes } => delete(dir, &mut door, which.as_deref(), *yes, args),
    }
}

fn file(dir: &Path, id: TranscriptId) -> PathBuf {
    dir.join("sessions").join(format!("{id}.sealed"))
}

fn rows(door: &mut Door) -> Result<Vec<TranscriptRow>, CliError> {
    let mut rows: Vec<TranscriptRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.id);
        let VaultAnswer::Transcripts(page) = ask(door, VaultVerb::Transcripts(TranscriptVerb::List { after }))? else {
            return Err(unexpected());
        };
        let full = page.len() == PAGE;
        rows.extend(page.into_vec());
        if !full {
            break;
        }
    }
    rows.sort_by(|a, b| (&a.session.0, a.created).cmp(&(&b.session.0, b.created)));
    Ok(rows)
}

/// A conversation's whole name: `work` is `agent:main:work`.
fn whole(name: &str) -> String {
    if name.starts_with("agent:") { name.to_owned() } else { format!("agent:main:{name}") }
}

fn list(dir: &Path, door: &mut Door, args: &Args) -> Result<(), CliError> {
    let rows = rows(door)?;
    let size = |row: &TranscriptRow| std::fs::metadata(file(dir, row.id)).map_or(0, |found| found.len());
    if args.json {
        let as_json = |row: &TranscriptRow| {
            json!({ "session": row.session.0.as_str(), "id": row.id.to_string(), "since": time(row.created),
                "open": row.open, "bytes": size(row), "lines": row.lines })
        };
        return say(args, &Value::from_iter(rows.iter().map(as_json)), "");
    }
    let mut out = std::io::stdout().lock();
    // On a narrow terminal the conversation has a line of its own.
    let narrow = columns() < 112;
    let name = |session: &str| if narrow { format!("{session}\n ") } else { format!("{session:<28}") };
    writeln!(out, "{} {:<36}  {:<20}  {:>8}  STATE", name("CONVERSATION"), "TRANSCRIPT", "SINCE", "BYTES")?;
    for row in &rows {
        let state = if row.open { "open" } else { "closed" };
        let (session, since) = (harmless(&row.session.0), time(row.created));
        writeln!(out, "{} {}  {since:<20}  {:>8}  {state}", name(&session), row.id, size(row))?;
    }
    Ok(())
}

fn tainted(door: &mut Door, args: &Args) -> Result<(), CliError> {
    let mut rows: Vec<TaintRow> = Vec::new();
    loop {
        let after = rows.last().map_or_else(|| SessionKey(BoundedStr::default()), |row| row.session.clone());
        let VaultAnswer::Taints(page) = ask(door, VaultVerb::Taint(TaintVerb::List { after }))? else {
            return Err(unexpected());
        };
        let full = page.len() == TAINTED_PAGE;
        rows.extend(page.into_vec());
        if !full {
            break;
        }
    }
    let as_json = |row: &TaintRow| json!({ "session": row.session.0.as_str(), "why": row.why.as_str() });
    let line = |row: &TaintRow| format!("{}: {}", harmless(&row.session.0), harmless(&row.why));
    let text = rows.iter().map(line).collect::<Vec<_>>().join("\n");
    say(args, &Value::from_iter(rows.iter().map(as_json)), &text)
}

fn show(dir: &Path, door: &mut Door, which: &str, args: &Args) -> Result<(), CliError> {
    let rows = rows(door)?;
    let id = match TranscriptId::parse(which) {
        Some(id) => id,
        None => {
            let session = whole(which);
            let open = rows.iter().find(|row| row.open && row.session.0.as_str() == session);
            open.ok_or_else(|| CliError::Failed(format!("{session} has no open transcript; `moltbot sessions list`")))?
                .id
        }
    };
    let known = rows.iter().find(|row| row.id == id).map_or(0, |row| row.lines);
    let found = read(dir, door, id)?;
    let mut out = std::io::stdout().lock();
    for (_, line) in &found.lines {
        if args.json {
            out.write_all(line)?;
            out.write_all(b"\n")?;
            continue;
        }
        let message: Value = serde_json::from_slice(line).unwrap_or_default();
        let text = |value: &Value| value.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
        let parts = message.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let role = message.get("role").and_then(Value::as_str).unwrap_or("?");
        writeln!(out, "{}: {}", harmless(role), harmless(&parts.iter().map(text).collect::<String>()))?;
    }
    let cut = known.saturating_sub(found.next());
    match (found.damaged, cut) {
        (0, 0) => Ok(()),
        (0, cut) => {
            Err(CliError::Failed(format!("the newest {cut} lines are missing: they were cut off, or lost in a crash")))
        }
        (damaged, cut) => Err(CliError::Failed(format!(
            "{} lines are damaged, out of their order, or missing",
            damaged.saturating_add(cut)
        ))),
    }
}

fn read(dir: &Path, door: &mut Door, id: TranscriptId) -> Result<Found, CliError> {
    let VaultAnswer::Transcript(key) = ask(door, VaultVerb::Transcripts(TranscriptVerb::Reveal { id }))? else {
        return Err(unexpected());
    };
    let key = Key::new(key.expose()).ok_or_else(unexpected)?;
    let path = file(dir, id);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        // Nothing was said in it yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(CliError::Failed(format!("{}: {error}", path.display()))),
    };
    Ok(transcript::read(&key, &id.0, &bytes, true))
}

fn reset(door: &mut Door, session: Option<&str>, args: &Args) -> Result<(), CliError> {
    let mut gateway = ws::Session::open(door)?;
    let keys = match session {
        Some(session) => vec![session.to_owned()],
        None => {
            let listed = gateway.request("sessions.list", json!({}))?;
            let rows = listed.get("sessions").and_then(Value::as_array).cloned().unwrap_or_default();
            rows.iter().filter_map(|row| row.get("key").and_then(Value::as_str)).map(str::to_owned).collect()
        }
    };
    for key in &keys {
        gateway.request("sessions.reset", json!({ "key": key }))?;
    }
    let text = format!("{} conversations begin anew; `moltbot sessions list` shows what is closed", keys.len());
    say(args, &json!({ "ok": true, "reset": keys }), &text)
}

fn delete(dir: &Path, door: &mut Door, which: Option<&str>, yes: bool, args: &Args) -> Result<(), CliError> {
    let id = which.and_then(TranscriptId::parse);
    let is_meant = |row: &TranscriptRow| match (which, id) {
        (_, Some(id)) => row.id == id,
        (Some(name), None) => row.session.0.as_str() == whole(name),
        (None, None) => !row.open,
    };
    let meant: Vec<_> = rows(door)?.into_iter().filter(is_meant).collect();
    if meant.is_empty() {
        return Err(CliError::failed("there is no such transcript; `moltbot sessions list` shows those there are"));
    }
    if !yes {
        let question = format!("{} transcripts will be destroyed, for good. Go on?", meant.len());
        confirm("deleting", &question)?;
    }
    // Gateway first: what it has open it would go on with.
    for row in meant.iter().filter(|row| row.open) {
        let key = row.session.0.as_str();
        let method = if key == MAIN { "sessions.reset" } else { "sessions.delete" };
        ws::Session::open(door)?.request(method, json!({ "key": key }))?;
    }
    for row in &meant {
        done(door, VaultVerb::Transcripts(TranscriptVerb::Destroy { id: row.id }))?;
        let path = file(dir, row.id);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // Without its key it is noise.
            Err(error) => eprintln!("moltbot: {}: {error}; nobody can read it any more", path.display()),
        }
    }
    let ids: Vec<_> = meant.iter().map(|row| row.id.to_string()).collect();
    say(args, &json!({ "ok": true, "destroyed": ids }), &format!("{} transcripts are destroyed", ids.len()))
}
