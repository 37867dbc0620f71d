//! `moltbot secrets`: the operator's verbs, and what the log says of the use of secrets.
//!
//! A value comes from a terminal without echo or from standard input, never from an argument, and goes to the vault in one
//! message. This process is the operator's own: what else runs as that uid may read it, and that is not prevented here.

use crate::CliError;
use crate::args::{Args, SecretsCommand};
use crate::door::{Door, unexpected};
use crate::logs;
use crate::paint::harmless;
use auditd::clock::{parse_rfc3339, rfc3339_micros};
use proto::audit::Stream;
use proto::bounded::BoundedStr;
use proto::operator::{OperatorReply, OperatorRequest};
use proto::secret::Secret;
use proto::vault::{SecretRow, VaultAnswer, VaultVerb};
use rustix::termios::{LocalModes, OptionalActions, isatty, tcgetattr, tcsetattr};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::path::Path;
use std::time::Duration;

/// Rows of a full page.
const PAGE: usize = 64;
/// Verbs by which a secret's bytes leave the vault, or come into it by a role's hands.
const LEAVES: [&str; 4] = ["redeem", "refresh", "secrets.reveal", "reveal"];

/// Carries out `moltbot secrets ...`.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: &SecretsCommand, args: &Args) -> Result<(), CliError> {
    match command {
        SecretsCommand::Usage { name, since } => return usage(dir, name.as_deref(), *since, args),
        SecretsCommand::Touched { since } => return touched(dir, *since, args),
        SecretsCommand::Import(options) => return crate::import::run(dir, options, args),
        _ => {}
    }
    let mut door = Door::open(dir)?;
    match command {
        SecretsCommand::List => list(&mut door, args),
        SecretsCommand::Set { name, policy } => {
            // Read before anything is asked for: a policy that cannot be read must not leave a secret without one.
            let policy = policy.as_deref().map(read_policy).transpose()?;
            let verb = VaultVerb::PutSecret { name: self::name(name)?, value: value(name)?, rotate: false };
            let version = done(&mut door, verb)?;
            let version = match policy {
                Some(text) => done(&mut door, VaultVerb::SetPolicy { name: self::name(name)?, text })?,
                None => version,
            };
            say(args, &json!({ "ok": true, "name": name, "version": version }), &format!("{name} is in the vault"))
        }
        SecretsCommand::Rotate { name } => {
            let verb = VaultVerb::PutSecret { name: self::name(name)?, value: value(name)?, rotate: true };
            let version = done(&mut door, verb)?;
            let text = format!("{name} is version {version} now");
            say(args, &json!({ "ok": true, "name": name, "version": version }), &text)
        }
        SecretsCommand::Remove { name } => {
            done(&mut door, VaultVerb::RemoveSecret { name: self::name(name)? })?;
            say(args, &json!({ "ok": true, "name": name }), &format!("{name} is gone"))
        }
        SecretsCommand::Reveal { name } => reveal(&mut door, name, args),
        SecretsCommand::Policy { name, file: None } => read(&mut door, name, args),
        SecretsCommand::Policy { name, file: Some(file) } => {
            let verb = VaultVerb::SetPolicy { name: self::name(name)?, text: read_policy(file)? };
            let version = done(&mut door, verb)?;
            let text = format!("{name} is version {version} now, under the new policy");
            say(args, &json!({ "ok": true, "name": name, "version": version }), &text)
        }
        SecretsCommand::Approve { name } => {
            done(&mut door, VaultVerb::ApproveUse { name: self::name(name)? })?;
            say(args, &json!({ "ok": true, "name": name }), &format!("{name} may be used once more"))
        }
        SecretsCommand::Revoke => {
            let ended = done(&mut door, VaultVerb::RevokeLeases)?;
            say(args, &json!({ "ok": true, "ended": ended }), &format!("{ended} leases ended"))
        }
        SecretsCommand::Usage { .. } | SecretsCommand::Touched { .. } | SecretsCommand::Import(_) => Ok(()),
    }
}

/// Carries out `moltbot gateway unlock`.
///
/// # Errors
/// [`CliError`].
pub fn forget_lockouts(door: &mut Door, args: &Args) -> Result<(), CliError> {
    let forgotten = done(door, VaultVerb::ForgetLockouts)?;
    say(args, &json!({ "ok": true, "forgotten": forgotten }), &format!("{forgotten} addresses may try again"))
}

pub(crate) fn say(args: &Args, data: &Value, text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    Ok(if args.json { writeln!(out, "{data}") } else { writeln!(out, "{text}") }?)
}

pub(crate) fn ask(door: &mut Door, verb: VaultVerb) -> Result<VaultAnswer, CliError> {
    match door.ask(&OperatorRequest::Vault(Box::new(verb)))? {
        (OperatorReply::Vault(answer), _) => Ok(answer),
        _ => Err(unexpected()),
    }
}

pub(crate) fn done(door: &mut Door, verb: VaultVerb) -> Result<u64, CliError> {
    match ask(door, verb)? {
        VaultAnswer::Done(number) => Ok(number),
        _ => Err(unexpected()),
    }
}

fn name(name: &str) -> Result<BoundedStr<64>, CliError> {
    BoundedStr::new(name).map_err(|error| CliError::refused("vault.name", &format!("the name: {error} bytes")))
}

fn read_policy(file: &Path) -> Result<BoundedStr<4096>, CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", file.display()));
    let mut text = String::new();
    let limit = 4097;
    if file == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_string(&mut text).map_err(failed)?;
    } else {
        std::fs::File::open(file).and_then(|file| file.take(limit).read_to_string(&mut text)).map_err(failed)?;
    }
    let long = format!("{}: a policy has at most 4096 bytes", file.display());
    BoundedStr::new(text).map_err(|_| CliError::refused("vault.policy", &long))
}

/// The value: asked for on a terminal, else all of standard input without one line end.
fn value(name: &str) -> Result<Secret, CliError> {
    hidden(&format!("value of {}: ", harmless(name)))
}

/// A secret from standard input: without echo where that is a terminal.
pub(crate) fn hidden(prompt: &str) -> Result<Secret, CliError> {
    let stdin = std::io::stdin();
    if !isatty(&stdin) {
        return take_value(false);
    }
    let before = tcgetattr(&stdin).map_err(CliError::failed)?;
    let mut quiet = before.clone();
    // Without signals too: one that ended us here would leave the terminal silent.
    quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
    eprint!("{prompt}");
    tcsetattr(&stdin, OptionalActions::Flush, &quiet).map_err(CliError::failed)?;
    let value = take_value(true);
    let restored = tcsetattr(&stdin, OptionalActions::Flush, &before);
    eprintln!();
    restored.map_err(CliError::failed)?;
    value
}

/// Read with no buffer between the kernel and what is wiped.
fn take_value(line: bool) -> Result<Secret, CliError> {
    // One byte more than a value and its line end may have, and never moved: the vector does not grow.
    let stdin = std::io::stdin();
    let mut bytes = vec![0; Secret::MAX + 3];
    let mut filled = 0;
    loop {
        let rest = bytes.get_mut(filled..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        match rustix::io::read(&stdin, rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(CliError::failed(errno)),
        }
        if line && bytes.get(..filled).is_some_and(|so_far| so_far.ends_with(b"\n")) {
            break;
        }
    }
    let given = bytes.get(..filled).unwrap_or_default();
    let given = given.strip_suffix(b"\n").unwrap_or(given);
    let length = given.strip_suffix(b"\r").unwrap_or(given).len();
    let aborted = line && given.contains(&3);
    bytes.truncate(length);
    let secret = Secret::new(bytes).map_err(|_| CliError::refused("vault.value", "a secret has at most 1024 bytes"))?;
    if aborted { Err(CliError::Failed("aborted".to_owned())) } else { Ok(secret) }
}

fn reveal(door: &mut Door, name: &str, args: &Args) -> Result<(), CliError> {
    let VaultAnswer::Revealed(value) = ask(door, VaultVerb::RevealSecret { name: self::name(name)? })? else {
        return Err(unexpected());
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        let text = std::str::from_utf8(value.expose())
            .map_err(|_| CliError::Failed("it is not text; without --json its bytes are printed".to_owned()))?;
        writeln!(out, "{}", json!({ "name": name, "value": text }))?;
    } else {
        out.write_all(value.expose())?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn read(door: &mut Door, name: &str, args: &Args) -> Result<(), CliError> {
    let VaultAnswer::Policy(text) = ask(door, VaultVerb::ReadPolicy { name: self::name(name)? })? else {
        return Err(unexpected());
    };
    let shown = if text.is_empty() { "# nothing is allowed" } else { text.trim_end() };
    say(args, &json!({ "name": name, "policy": text.as_str() }), shown)
}

/// Every secret, by its name.
///
/// # Errors
/// [`CliError`].
pub(crate) fn rows(door: &mut Door) -> Result<Vec<SecretRow>, CliError> {
    let mut rows: Vec<SecretRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.name.clone()).unwrap_or_default();
        let VaultAnswer::Secrets(page) = ask(door, VaultVerb::ListSecrets { after })? else {
            return Err(unexpected());
        };
        let full = page.len() == PAGE;
        rows.extend(page.into_vec());
        if !full {
            return Ok(rows);
        }
    }
}

fn list(door: &mut Door, args: &Args) -> Result<(), CliError> {
    let rows = rows(door)?;
    let as_json = |row: &SecretRow| {
        json!({ "name": row.name.as_str(), "version": row.version, "created": time(row.created), "verb": row.verb.as_str(),
            "purpose": row.purpose.as_str(), "honey": row.honey, "used": row.used, "budget": row.budget, "shared": row.shared })
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Value::from_iter(rows.iter().map(as_json)))?;
        return Ok(());
    }
    writeln!(out, "{:<32} {:>7}  {:<20}  {:<8} PURPOSE", "NAME", "VERSION", "SINCE", "VERB")?;
    for row in &rows {
        let verb = if row.honey { "(honey)" } else { row.verb.as_str() };
        let verb = if verb.is_empty() { "none" } else { verb };
        let (name, since) = (row.name.as_str(), time(row.created));
        writeln!(out, "{name:<32} {:>7}  {since:<20}  {verb:<8} {}", row.version, harmless(&row.purpose))?;
    }
    Ok(())
}

/// RFC 3339 to the second.
pub(crate) fn time(seconds: u64) -> String {
    let micros = rfc3339_micros(Duration::from_secs(seconds));
    format!("{}Z", micros.split_once('.').map_or(micros.as_str(), |(whole, _)| whole))
}

/// One use as the log has it.
struct Use {
    ts: String,
    name: String,
    verb: String,
    requester: String,
    granted: bool,
    detail: String,
}

fn use_of(line: &str, since: Option<Duration>) -> Option<Use> {
    let record: Map<String, Value> = serde_json::from_str(line).ok()?;
    let text = |field: &str| record.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let ts = text("ts");
    let late = since.is_none_or(|since| parse_rfc3339(&ts).is_some_and(|time| time >= since));
    let granted = record.get("success").and_then(Value::as_bool)?;
    let (name, verb) = (text("name"), text("verb"));
    (late && !verb.is_empty()).then(|| Use {
        ts,
        name,
        verb,
        requester: text("requester"),
        granted,
        detail: text("detail"),
    })
}

fn usage(dir: &Path, name: Option<&str>, since: Option<Duration>, args: &Args) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    logs::each(dir, Stream::Secret, &mut |line| {
        let Some(of) = use_of(line, since).filter(|of| name.is_none_or(|name| of.name == name)) else { return Ok(()) };
        if args.json {
            writeln!(out, "{}", line.trim_end())?;
        } else {
            let outcome = if of.granted { "granted" } else { "refused" };
            let line = format!("{} {} {} {} by {}  {}", of.ts, of.name, of.verb, outcome, of.requester, of.detail);
            // Whoever asked chose the name: it must not look like another line.
            writeln!(out, "{}", harmless(line.trim_end()).replace('\n', " "))?;
        }
        Ok(())
    })
}

fn touched(dir: &Path, since: Duration, args: &Args) -> Result<(), CliError> {
    let mut left: BTreeMap<String, (u64, String)> = BTreeMap::new();
    logs::each(dir, Stream::Secret, &mut |line| {
        if let Some(of) = use_of(line, Some(since)).filter(|of| of.granted && LEAVES.contains(&of.verb.as_str())) {
            let entry = left.entry(of.name).or_default();
            *entry = (entry.0.saturating_add(1), of.ts);
        }
        Ok(())
    })?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let rows = left.iter().map(|(name, (times, last))| json!({ "name": name, "times": times, "last": last }));
        writeln!(out, "{}", Value::from_iter(rows))?;
    } else if left.is_empty() {
        writeln!(out, "no secret left the vault")?;
    }
    if !args.json {
        for (name, (times, last)) in &left {
            writeln!(out, "{}", harmless(&format!("{name}  {times} times, last at {last}")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"seq":3,"ts":"2026-11-23T10:00:00.000000Z","type":"secret","actor":"vault","name":"bot","verb":"redeem","requester":"egress","success":true,"detail":"lease 01"}"#;

    #[test]
    fn line_of_the_log_is_read_as_a_use_and_other_lines_are_not() {
        let of = use_of(LINE, None).unwrap();
        assert_eq!((of.name.as_str(), of.verb.as_str(), of.granted), ("bot", "redeem", true));
        let at = parse_rfc3339("2026-11-23T10:00:00Z").unwrap();
        assert!(use_of(LINE, Some(at)).is_some());
        assert!(use_of(LINE, Some(at + Duration::from_secs(1))).is_none());
        for other in [r#"{"type":"checkpoint","ts":"2026-11-23T10:00:00.000000Z","note":"x"}"#, "garbage", ""] {
            assert!(use_of(other, None).is_none());
        }
    }

    #[test]
    fn time_is_printed_to_the_second() {
        assert_eq!(time(1_795_431_600), "2026-11-23T11:00:00Z");
    }
}
