//! `moltbot why PATH|COMMAND|SENDER`: who may, by which rule, from what is in force: the walls of this build, the
//! configuration, the vault's lists. What is asked about may be a stranger's text; it is looked up and shown, never run.

use crate::CliError;
use crate::args::{Args, PlaceName, WhyOptions};
use crate::confine_report::{Wall, design};
use crate::door::Door;
use crate::paint::{Paint, beside, harmless};
use crate::{people, sandbox};
use config::Config;
use proto::ids::Role;
use proto::senders::{AllowedRow, SenderMode};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Parts of the state directory: whose each is, the name of its grant in the walls, and what is done with it before a wall
/// stands or past one.
const PLACES: [(&str, Role, &str, &str); 8] = [
    (
        "keys",
        Role::Vault,
        "KeyDir",
        "the vault opens the master key before its wall stands, and nothing here afterwards",
    ),
    ("vault", Role::Vault, "VaultDir", "the sealed store"),
    ("logs", Role::Auditd, "LogDir", "the log; broker hands the directory to auditd alone"),
    ("sessions", Role::Gateway, "SessionDir", "sealed transcripts, whose keys the vault holds"),
    ("workspaces", Role::Launcher, "WorkspaceDir", "each mounted into its own conversation's sandbox"),
    ("run", Role::Broker, "", "broker's lock and the operator's socket"),
    (
        "moltbot.json",
        Role::Broker,
        "",
        "broker reads it at the start and when told to; `moltbot config` writes it as you",
    ),
    ("lockdown.json", Role::Broker, "", "broker alone reads and writes it"),
];

/// The same of the host.
const PROCESSES: (&str, Role, &str, &str) =
    ("/proc", Role::Sandboxd, "Processes", "it looks whether processes in containers are what they must be");

/// What was asked about.
#[derive(Debug, Eq, PartialEq)]
enum Subject<'a> {
    Path(PathBuf),
    Sender(&'a str, &'a str),
    Command,
}

/// Prints it.
///
/// # Errors
/// [`CliError`]; for a sender also where nothing runs, since only the vault knows.
pub fn run(dir: &Path, options: &WhyOptions, args: &Args) -> Result<(), CliError> {
    match subject(&options.what) {
        Subject::Path(path) => of_path(dir, &path, args),
        Subject::Sender(channel, sender) => of_sender(dir, channel, sender, args),
        Subject::Command => {
            let backend = options.native.then_some(PlaceName::Native);
            sandbox::explain(dir, &options.what, &options.session, backend, false, args)
        }
    }
}

/// A path begins like one and has no blank; a sender is `CHANNEL:ID`; everything else is a command.
fn subject(what: &str) -> Subject<'_> {
    let blank = what.contains(char::is_whitespace);
    if !blank && (["/", "./", "../", "~/"].iter().any(|begin| what.starts_with(begin))) {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let path = what.strip_prefix("~/").map_or_else(|| PathBuf::from(what), |rest| home.join(rest));
        return Subject::Path(std::path::absolute(&path).unwrap_or(path));
    }
    match what.split_once(':') {
        Some((channel, sender))
            if !blank
                && !channel.is_empty()
                && !sender.is_empty()
                && channel.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) =>
        {
            Subject::Sender(channel, sender)
        }
        _ => Subject::Command,
    }
}

/// One role and a path.
struct Row {
    role: Role,
    may: bool,
    why: String,
}

fn of_path(dir: &Path, path: &Path, args: &Args) -> Result<(), CliError> {
    let design = design()?;
    let config = Config::load(&dir.join("moltbot.json")).map_err(CliError::failed)?;
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let place = if path.starts_with(PROCESSES.0) { Some(Some(&PROCESSES)) } else { None };
    let place = place.or_else(|| {
        path.strip_prefix(&dir).ok().map(|beneath| {
            let first = beneath.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
            PLACES.iter().find(|(name, ..)| first.as_deref() == Some(*name))
        })
    });
    let socket = path == Path::new(config.docker_socket());
    let rows: Vec<Row> =
        Role::ALL.iter().filter_map(|role| Some(judge(*role, design.wall(*role)?, place, socket))).collect();
    let lies = std::fs::symlink_metadata(path).ok();
    let inside = sandbox_sees(path, place.flatten().is_some_and(|(name, ..)| *name == "workspaces"));
    if args.json {
        let roles: Vec<Value> =
            rows.iter().map(|row| json!({ "role": row.role.name(), "may": row.may, "why": row.why })).collect();
        let file = lies.map(|lies| json!({ "uid": lies.uid(), "mode": format!("{:04o}", lies.mode() & 0o7777) }));
        println!("{}", json!({ "path": path, "file": file, "roles": roles, "sandbox": inside }));
        return Ok(());
    }
    let paint = Paint::new(args);
    println!("{}", harmless(&path.display().to_string()));
    match lies {
        Some(lies) => println!("  {:<9} uid {}, mode {:04o}", "is", lies.uid(), lies.mode() & 0o7777),
        None => println!("  {:<9} not there, or not for you to see", "is"),
    }
    for row in &rows {
        let why = beside(17, &row.why);
        let why = if row.may { paint.warn(&why) } else { paint.dim(&why) };
        println!("  {:<9} {:<4} {why}", row.role.name(), if row.may { "yes" } else { "no" });
    }
    println!("  {:<9} {inside}", "sandbox");
    println!("{}", paint.dim("moltbot explain blast-radius ROLE has all that a role may do"));
    Ok(())
}

fn judge(role: Role, wall: &Wall, place: Option<Option<&(&str, Role, &str, &str)>>, socket: bool) -> Row {
    if socket && role == Role::Sandboxd {
        return Row { role, may: true, why: "the engine's socket: it connects, and opens no file".to_owned() };
    }
    if let Some(Some((_, owner, resource, what))) = place
        && *owner == role
    {
        let grants = wall.grants();
        let grant = grants.iter().find(|(name, _)| name == resource);
        let why = grant.map_or_else(|| (*what).to_owned(), |(_, access)| format!("{access}; {what}"));
        // The key directory has no grant: what was to be read was read before.
        return Row { role, may: *resource != "KeyDir", why };
    }
    let why = match role {
        Role::Broker | Role::Launcher => "no use for it; as what it runs as, the file's mode decides",
        _ => "its wall has no grant for it",
    };
    Row { role, may: false, why: why.to_owned() }
}

/// What a command in a sandbox sees of a path of the host.
fn sandbox_sees(path: &Path, workspace: bool) -> &'static str {
    let first = path.components().find_map(|part| match part {
        Component::Normal(name) => name.to_str(),
        _ => None,
    });
    match first {
        _ if workspace => "its own conversation's workspace alone, as /workspace",
        Some("usr" | "bin" | "lib" | "lib64" | "sbin") => "native: read-only; docker: the image's own of that name",
        _ => "nothing of it",
    }
}

fn of_sender(dir: &Path, channel: &str, sender: &str, args: &Args) -> Result<(), CliError> {
    let standing = people::standing(&mut Door::open(dir)?, channel, sender)?;
    let (may, rule, why) = verdict(standing.mode, standing.row.as_ref());
    let next = match (may, standing.waits, standing.mode) {
        (true, ..) => format!("moltbot pairing revoke {channel} {sender}"),
        (false, Some(code), _) => format!("moltbot pairing approve {channel} {code}"),
        (false, None, Some(SenderMode::Disabled)) => format!("moltbot pairing mode {channel} pairing"),
        (false, None, _) => format!("moltbot allowlist add {channel} {sender}"),
    };
    if args.json {
        let value = json!({
            "channel": channel, "sender": sender, "may": may, "rule": rule, "why": why, "next": next,
            "mode": standing.mode.map(SenderMode::name),
        });
        println!("{value}");
        return Ok(());
    }
    let paint = Paint::new(args);
    let verdict = if may { paint.warn("may speak") } else { paint.good("may not speak") };
    println!("{} {verdict} on {} ({rule})", harmless(sender), harmless(channel));
    println!("  {}", beside(2, &why));
    println!("  {}", paint.dim(&format!("`{}` changes that", harmless(&next))));
    Ok(())
}

/// As the vault decides it, in words.
fn verdict(mode: Option<SenderMode>, row: Option<&AllowedRow>) -> (bool, &'static str, String) {
    match (mode, row) {
        (Some(SenderMode::Disabled), _) => {
            (false, "mode disabled", "nobody may, those on the list included".to_owned())
        }
        (_, Some(row)) => {
            let how = if row.paired { "it was paired" } else { "you added it" };
            (true, "allowlist", format!("{how} on {}", crate::secrets::time(row.since)))
        }
        (Some(SenderMode::Allowlist), None) => {
            (false, "mode allowlist", "it is not on the list, and strangers are told nothing".to_owned())
        }
        (Some(SenderMode::Pairing) | None, None) => {
            (false, "mode pairing", "it is not on the list; as a stranger it is given a code to show you".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_about_is_told_apart() {
        assert_eq!(subject("/etc/passwd"), Subject::Path("/etc/passwd".into()));
        assert!(matches!(subject("./x"), Subject::Path(_)));
        assert_eq!(subject("telegram:123"), Subject::Sender("telegram", "123"));
        assert_eq!(subject("telegram.work:123"), Subject::Sender("telegram.work", "123"));
        for command in ["ls", "/bin/ls -l", "echo a:b", ":", "a:", "x; :b", "$(x):y"] {
            assert_eq!(subject(command), Subject::Command, "{command}");
        }
    }

    #[test]
    fn path_is_its_own_roles_and_nobody_elses() {
        let design = design().unwrap();
        for place in PLACES.iter().chain([&PROCESSES]) {
            let may: Vec<Role> = Role::ALL
                .into_iter()
                .filter(|role| judge(*role, design.wall(*role).unwrap(), Some(Some(place)), false).may)
                .collect();
            // The master key's directory is open to nobody once the walls stand.
            let owners = if place.0 == "keys" { vec![] } else { vec![place.1] };
            assert_eq!(may, owners, "{}", place.0);
        }
        let anywhere = |role| judge(role, design.wall(role).unwrap(), None, false).may;
        assert!(!Role::ALL.into_iter().any(anywhere));
        let sandboxd = design.wall(Role::Sandboxd).unwrap();
        assert!(judge(Role::Sandboxd, sandboxd, None, true).may);
    }

    #[test]
    fn every_grant_of_a_wall_is_a_place() {
        for role in Role::ALL {
            for (resource, _) in design().unwrap().wall(role).unwrap().grants() {
                assert!(
                    PLACES.iter().chain([&PROCESSES]).any(|(_, owner, name, _)| *owner == role && *name == resource),
                    "{resource}"
                );
            }
        }
    }

    #[test]
    fn sender_on_no_list_may_not_speak_in_any_mode() {
        let modes = [None].into_iter().chain(SenderMode::ALL.map(Some));
        assert!(!modes.into_iter().any(|mode| verdict(mode, None).0));
    }
}
