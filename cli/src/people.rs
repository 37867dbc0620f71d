//! `moltbot pairing` and `moltbot allowlist`: who may speak to the agent. The vault decides and keeps; this shows what a
//! stranger says of itself as what it is, and asks before it lets one in.

use crate::CliError;
use crate::args::{AllowlistCommand, Args, PairingCommand};
use crate::confirm;
use crate::door::{Door, unexpected};
use crate::paint::harmless;
use crate::secrets::{ask, say, time};
use proto::bounded::BoundedStr;
use proto::senders::{
    AllowedRow, ChannelId, ChannelRow, PairingCode, PendingRow, SenderAnswer, SenderId, SenderMode, SenderVerb,
};
use proto::vault::{VaultAnswer, VaultVerb};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::Path;

/// Rows of a full page.
const PAGE: usize = 64;

fn verb(door: &mut Door, verb: SenderVerb) -> Result<SenderAnswer, CliError> {
    match ask(door, VaultVerb::Senders(verb))? {
        VaultAnswer::Senders(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

fn channel(name: &str) -> Result<ChannelId, CliError> {
    BoundedStr::new(name).map(ChannelId).map_err(|error| CliError::Failed(format!("the channel: {error} bytes")))
}

fn sender(id: &str) -> Result<SenderId, CliError> {
    BoundedStr::new(id).map(SenderId).map_err(|error| CliError::Failed(format!("the sender: {error} bytes")))
}

/// Carries out `moltbot pairing ...`.
///
/// # Errors
/// [`CliError`].
pub fn pairing(dir: &Path, command: &PairingCommand, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    match command {
        PairingCommand::List { channel } => {
            let rows: Vec<_> =
                pending(&mut door)?.into_iter().filter(|row| is_of(&row.channel, channel.as_ref())).collect();
            if args.json {
                return say(args, &Value::from_iter(rows.iter().map(pending_json)), "");
            }
            if rows.is_empty() {
                return say(args, &Value::Null, "nobody waits");
            }
            let mut out = std::io::stdout().lock();
            writeln!(out, "{:<16} {:<8}  {:>4}  {:<24} NAME (as it says)", "CHANNEL", "CODE", "MIN", "SENDER")?;
            for row in rows {
                let (channel, sender, minutes) = (row.channel.0, row.sender.0, row.seconds.div_ceil(60));
                writeln!(out, "{channel:<16} {}  {minutes:>4}  {sender:<24} {}", row.code, line(&row.name))?;
            }
            Ok(())
        }
        PairingCommand::Approve { channel: name, code, yes } => {
            let channel = channel(name)?;
            if !yes {
                ask_first(&mut door, &channel, *code)?;
            }
            let SenderAnswer::Listed(row) = verb(&mut door, SenderVerb::Approve { channel, code: *code })? else {
                return Err(unexpected());
            };
            let text = format!("{} may speak on {name}", row.sender.0);
            say(args, &json!({ "ok": true, "allowed": allowed_json(&row) }), &text)
        }
        PairingCommand::Revoke { channel: name, sender: id } => {
            let (channel, sender) = (channel(name)?, sender(id)?);
            verb(&mut door, SenderVerb::Revoke { channel, sender })?;
            say(args, &json!({ "ok": true }), &format!("{} may not speak on {name} any more", line(id)))
        }
        PairingCommand::Mode { channel: name, mode } => {
            verb(&mut door, SenderVerb::SetMode { channel: channel(name)?, mode: (*mode).into() })?;
            let mode = proto::senders::SenderMode::from(*mode).name();
            say(args, &json!({ "ok": true, "channel": name, "mode": mode }), &format!("{name} is in mode {mode} now"))
        }
    }
}

/// Carries out `moltbot allowlist ...`.
///
/// # Errors
/// [`CliError`].
pub fn allowlist(dir: &Path, command: &AllowlistCommand, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    match command {
        AllowlistCommand::List { channel } => list(&mut door, channel.as_ref(), args),
        AllowlistCommand::Add { channel: on, sender: id, name } => {
            let name =
                BoundedStr::new(name.as_str()).map_err(|error| CliError::Failed(format!("the name: {error} bytes")))?;
            let request = SenderVerb::Allow { channel: channel(on)?, sender: sender(id)?, name };
            let SenderAnswer::Listed(row) = verb(&mut door, request)? else { return Err(unexpected()) };
            let text = format!("{} may speak on {on}", row.sender.0);
            say(args, &json!({ "ok": true, "allowed": allowed_json(&row) }), &text)
        }
        AllowlistCommand::Remove { channel: on, sender: id } => {
            verb(&mut door, SenderVerb::Disallow { channel: channel(on)?, sender: sender(id)? })?;
            say(args, &json!({ "ok": true }), &format!("{} is not on the list of {on} any more", line(id)))
        }
    }
}

/// Shows who would be let in, and what that means; goes on only after a yes.
fn ask_first(door: &mut Door, channel: &ChannelId, code: PairingCode) -> Result<(), CliError> {
    let row = pending(door)?.into_iter().find(|row| row.channel == *channel && row.code == code);
    // One that is not there is the vault's to refuse: it counts.
    let Some(row) = row else { return Ok(()) };
    eprintln!("channel: {}\nsender:  {}\nname:    {} (as it says)", channel.0, row.sender.0, line(&row.name));
    let question =
        "This sender will be able to talk to your agent, and to have it do whatever you allow it to. Approve?";
    confirm::confirm("approving", question)
}

/// Strangers that wait.
///
/// # Errors
/// [`CliError`].
pub fn pending(door: &mut Door) -> Result<Vec<PendingRow>, CliError> {
    match verb(door, SenderVerb::Pending)? {
        SenderAnswer::Pending(rows) => Ok(rows.into_vec()),
        _ => Err(unexpected()),
    }
}

/// What the vault has of one sender.
pub struct Standing {
    /// How the channel stands; none where nothing was ever said of it.
    pub mode: Option<SenderMode>,
    /// The sender's line of the list.
    pub row: Option<AllowedRow>,
    /// The code that it was shown, where it waits.
    pub waits: Option<PairingCode>,
}

/// Looks a sender up.
///
/// # Errors
/// [`CliError`].
pub fn standing(door: &mut Door, channel: &str, sender: &str) -> Result<Standing, CliError> {
    let mode = channels(door)?.iter().find(|row| row.channel.0.as_str() == channel).map(|row| row.mode);
    let is_it = |on: &ChannelId, id: &SenderId| on.0.as_str() == channel && id.0.as_str() == sender;
    let row = allowed(door)?.into_iter().find(|row| is_it(&row.channel, &row.sender));
    let waits = pending(door)?.into_iter().find(|row| is_it(&row.channel, &row.sender)).map(|row| row.code);
    Ok(Standing { mode, row, waits })
}

fn channels(door: &mut Door) -> Result<Vec<ChannelRow>, CliError> {
    match verb(door, SenderVerb::Channels)? {
        SenderAnswer::Channels(rows) => Ok(rows.into_vec()),
        _ => Err(unexpected()),
    }
}

/// Everybody on a list.
///
/// # Errors
/// [`CliError`].
pub fn allowed(door: &mut Door) -> Result<Vec<AllowedRow>, CliError> {
    let mut rows: Vec<AllowedRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| (row.channel.clone(), row.sender.clone()));
        let SenderAnswer::Allowed(page) = verb(door, SenderVerb::Allowed { after })? else { return Err(unexpected()) };
        let full = page.len() == PAGE;
        rows.extend(page.into_vec());
        if !full {
            return Ok(rows);
        }
    }
}

fn list(door: &mut Door, only: Option<&String>, args: &Args) -> Result<(), CliError> {
    let (channels, rows) = (channels(door)?, allowed(door)?);
    let channels: Vec<&ChannelRow> = channels.iter().filter(|row| is_of(&row.channel, only)).collect();
    let of = |row: &&ChannelRow| rows.iter().filter(|found| found.channel == row.channel).collect::<Vec<_>>();
    if args.json {
        let as_json = |row: &&ChannelRow| {
            json!({ "channel": row.channel.0.as_str(), "mode": row.mode.name(), "pending": row.pending,
                "allowed": of(row).into_iter().map(allowed_json).collect::<Vec<_>>() })
        };
        return say(args, &Value::from_iter(channels.iter().map(as_json)), "");
    }
    if channels.is_empty() {
        return say(args, &Value::Null, "nobody may speak on any channel");
    }
    let mut out = std::io::stdout().lock();
    for row in &channels {
        let waiting = if row.pending > 0 { format!(", {} wait", row.pending) } else { String::new() };
        writeln!(out, "{} ({}{waiting})", row.channel.0, row.mode.name())?;
        for entry in of(row) {
            let how = if entry.paired { "paired" } else { "added" };
            // The configuration does not say since when.
            let since = if entry.since == 0 { "-".to_owned() } else { time(entry.since) };
            writeln!(out, "  {:<24} {how:<6} {since:<20}  {}", entry.sender.0, line(&entry.name))?;
        }
    }
    Ok(())
}

fn is_of(channel: &ChannelId, only: Option<&String>) -> bool {
    only.is_none_or(|only| channel.0.as_str() == only)
}

/// A stranger's words, on one line.
fn line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

fn pending_json(row: &PendingRow) -> Value {
    json!({ "channel": row.channel.0.as_str(), "sender": row.sender.0.as_str(), "name": row.name.as_str(),
        "code": row.code.to_string(), "expiresIn": row.seconds })
}

fn allowed_json(row: &AllowedRow) -> Value {
    json!({ "channel": row.channel.0.as_str(), "sender": row.sender.0.as_str(), "name": row.name.as_str(),
        "since": time(row.since), "paired": row.paired })
}
