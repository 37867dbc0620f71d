//! `moltbot devices`: which devices may log in by their key. What a device says of itself was said by a stranger; only its
//! name, a hash of its key, tells it from another, and it is best compared with what the device shows.

use crate::CliError;
use crate::args::{Args, DevicesCommand};
use crate::door::{Door, unexpected};
use crate::paint::harmless;
use crate::secrets::{ask, done, say, time};
use proto::auth::{DeviceRow, DeviceState, LoginAnswer, LoginVerb, Scopes};
use proto::vault::{VaultAnswer, VaultVerb};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Digits of a device's name that a list shows.
const SHOWN: usize = 12;
const PREFIX: &str = "operator.";

/// Carries out `moltbot devices ...`.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: &DevicesCommand, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    let rows = rows(&mut door)?;
    let login = |door: &mut Door, verb| done(door, VaultVerb::Login(verb));
    match command {
        DevicesCommand::List => list(&rows, args),
        DevicesCommand::Show { device } => show(find(&rows, device)?, args),
        DevicesCommand::Approve { device, scopes } => {
            let row = find(&rows, device)?;
            // What was shown is what is allowed, whatever the device asks for meanwhile.
            let scopes = if scopes.is_empty() { row.scopes } else { chosen(scopes)? };
            login(&mut door, LoginVerb::ApproveDevice { id: row.id, scopes })?;
            let text = format!("{} is paired for {}", short(row), words(scopes));
            say(args, &json!({ "ok": true, "id": row.id.to_string(), "scopes": scopes.names() }), &text)
        }
        DevicesCommand::Deny { device } => {
            let row = find(&rows, device)?;
            login(&mut door, LoginVerb::DenyDevice { id: row.id })?;
            told(args, row, "does not wait any more")
        }
        DevicesCommand::Revoke { device, token: false } => {
            let row = find(&rows, device)?;
            login(&mut door, LoginVerb::RevokeDevice { id: row.id })?;
            told(args, row, "is not let in any more; its connections are closed")
        }
        DevicesCommand::Revoke { device, token: true } => {
            let row = find(&rows, device)?;
            login(&mut door, LoginVerb::RevokeToken { id: row.id })?;
            told(args, row, "is not let in before `moltbot devices rotate` draws it another token")
        }
        DevicesCommand::Rotate { device } => {
            let row = find(&rows, device)?;
            let verb = VaultVerb::Login(LoginVerb::RotateToken { id: row.id });
            let VaultAnswer::Login(LoginAnswer::Token(token)) = ask(&mut door, verb)? else {
                return Err(unexpected());
            };
            let token = String::from_utf8_lossy(token.expose());
            // On a line of its own, so that it can be piped; it is not shown again.
            say(args, &json!({ "ok": true, "id": row.id.to_string(), "token": token }), &token)
        }
    }
}

fn told(args: &Args, row: &DeviceRow, what: &str) -> Result<(), CliError> {
    say(args, &json!({ "ok": true, "id": row.id.to_string() }), &format!("{} {what}", short(row)))
}

/// Every device, those that wait first.
///
/// # Errors
/// [`CliError`].
pub fn rows(door: &mut Door) -> Result<Vec<DeviceRow>, CliError> {
    match ask(door, VaultVerb::Login(LoginVerb::ListDevices))? {
        VaultAnswer::Login(LoginAnswer::Devices(rows)) => Ok(rows.into_vec()),
        _ => Err(unexpected()),
    }
}

/// The one device whose name begins so. One that waits comes first in the list, and so does its wish for more.
fn find<'r>(rows: &'r [DeviceRow], name: &str) -> Result<&'r DeviceRow, CliError> {
    let name = name.to_ascii_lowercase();
    let mut fit = rows.iter().filter(|row| !name.is_empty() && row.id.to_string().starts_with(&name));
    let first =
        fit.next().ok_or_else(|| CliError::Failed(format!("there is no device {name}; `moltbot devices list`")))?;
    if fit.any(|other| other.id != first.id) {
        return Err(CliError::Failed(format!("several devices begin with {name}; say more of it")));
    }
    Ok(first)
}

fn chosen(names: &[String]) -> Result<Scopes, CliError> {
    let full: Vec<_> = names
        .iter()
        .map(|name| if name.starts_with(PREFIX) { name.clone() } else { format!("{PREFIX}{name}") })
        .collect();
    for name in &full {
        if Scopes::of([name.as_str()]).is_empty() {
            return Err(CliError::Failed(format!("there is no scope {name}; there are {}", words(Scopes::ALL))));
        }
    }
    Ok(Scopes::of(full.iter().map(String::as_str)))
}

fn words(scopes: Scopes) -> String {
    let names = scopes.names();
    let names: Vec<_> = names.iter().map(|name| name.strip_prefix(PREFIX).unwrap_or(name)).collect();
    if names.is_empty() { "nothing".to_owned() } else { names.join(",") }
}

fn short(row: &DeviceRow) -> String {
    row.id.to_string().chars().take(SHOWN).collect()
}

fn as_json(row: &DeviceRow) -> Value {
    json!({ "id": row.id.to_string(), "state": row.state.name(), "scopes": row.scopes.names(), "since": time(row.since),
        "name": row.name.as_str(), "client": row.client.as_str(), "platform": row.platform.as_str(),
        "address": row.address.as_str() })
}

/// In one line: whoever chose the text must not make it look like two.
fn plain(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

fn list(rows: &[DeviceRow], args: &Args) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Value::from_iter(rows.iter().map(as_json)))?;
        return Ok(());
    }
    if rows.is_empty() {
        writeln!(out, "no device is paired, and none waits")?;
        return Ok(());
    }
    writeln!(out, "{:<SHOWN$}  {:<13}  {:<20}  {:<22}  SAYS THAT IT IS", "DEVICE", "STATE", "SINCE", "SCOPES")?;
    for row in rows {
        let (since, scopes) = (time(row.since), words(row.scopes));
        let says = plain(&format!("{} {} {} {}", row.name, row.client, row.platform, row.address));
        writeln!(out, "{}  {:<13}  {since:<20}  {scopes:<22}  {says}", short(row), row.state.name())?;
    }
    if rows.iter().any(|row| row.state == DeviceState::Waits) {
        writeln!(out, "\nCompare the name with what the device shows before `moltbot devices approve DEVICE`.")?;
    }
    Ok(())
}

fn show(row: &DeviceRow, args: &Args) -> Result<(), CliError> {
    let text = format!(
        "device    {}\nstate     {}\nsince     {}\nscopes    {}\nname      {}\nclient    {}\nplatform  {}\naddress   {}",
        row.id,
        row.state.name(),
        time(row.since),
        words(row.scopes),
        plain(&row.name),
        plain(&row.client),
        plain(&row.platform),
        plain(&row.address)
    );
    say(args, &as_json(row), &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::auth::DeviceId;
    use proto::bounded::BoundedStr;

    fn row(id: u8) -> DeviceRow {
        let text = BoundedStr::truncated("x\ny\u{1b}[31m");
        DeviceRow {
            id: DeviceId([id; 32]),
            state: DeviceState::Waits,
            scopes: Scopes::default(),
            since: 0,
            name: text.clone(),
            client: text.clone(),
            platform: text.clone(),
            address: text,
        }
    }

    #[test]
    fn device_is_found_by_a_beginning_that_is_its_alone() {
        let rows = [row(0x1a), row(0x1b), row(0x1a)];
        assert_eq!(find(&rows, "1A").unwrap().id, DeviceId([0x1a; 32]));
        for name in ["1", "2", ""] {
            assert!(find(&rows, name).is_err(), "{name}");
        }
    }

    #[test]
    fn scopes_are_said_with_or_without_their_prefix_and_unknown_ones_are_refused() {
        let names = |names: &[&str]| chosen(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(words(names(&["operator.write", "read"]).unwrap()), "read,write");
        assert!(names(&["read", "everything"]).is_err());
    }

    #[test]
    fn what_a_device_says_stays_in_its_line() {
        assert!(!plain(&row(1).name).contains(['\n', '\u{1b}']));
    }
}
