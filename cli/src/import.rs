//! `moltbot secrets import`: credentials that lie in clear in the state directory of a Moltbot, Clawdbot or OpenClaw go into
//! the vault, and are written over where they lay. A file is changed only once the vault has all that is taken out of it.
//!
//! The directory is the operator's own, but what is in it may be anybody's: nothing is followed that is a link, and nothing
//! that is read is run or believed. Copies that something else made of these files are not found by this.

use crate::CliError;
use crate::args::{Args, ImportOptions};
use crate::confirm::confirm;
use crate::door::Door;
use crate::overwrite::{open, write_over};
use crate::paint::harmless;
use crate::secrets::{ask, say};
use config::secrets::{Clear, find, find_in_env, take};
use proto::bounded::BoundedStr;
use proto::secret::Secret;
use proto::senders::{ChannelId, SenderId, SenderVerb};
use proto::vault::VaultVerb;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// Largest file that is looked into.
const MAX_FILE: u64 = 1 << 20;
/// Configurations, by the names that they had.
const CONFIGS: [&str; 3] = ["moltbot.json", "clawdbot.json", "openclaw.json"];
/// Files beside them that hold credentials.
const BESIDE: [&str; 3] = ["exec-approvals.json", "identity/device-auth.json", "identity/device.json"];

/// A file with secrets in clear.
struct Source {
    path: PathBuf,
    text: String,
    clear: Vec<Clear>,
    kind: Kind,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    /// A configuration, or a file of credentials.
    Json,
    /// Lines `NAME=value`.
    Env,
}

/// Everything that is to be moved.
#[derive(Default)]
struct Plan {
    sources: Vec<Source>,
    /// Senders that were let in, by channel.
    allowed: BTreeSet<(String, String)>,
    /// What is left alone, and why.
    left: Vec<String>,
    /// Names by value: what stands in two files is one secret.
    names: BTreeMap<String, String>,
}

/// Carries it out.
///
/// # Errors
/// [`CliError`]; what was moved until then is moved.
pub fn run(dir: &Path, options: &ImportOptions, args: &Args) -> Result<(), CliError> {
    let mut plan = Plan::default();
    plan.look(&options.from)?;
    if !args.json {
        plan.print(&options.from)?;
    }
    let count: usize = plan.sources.iter().map(|source| source.clear.len()).sum();
    if options.dry_run || (count == 0 && plan.allowed.is_empty()) {
        let shown = json!({ "ok": true, "dryRun": options.dry_run, "secrets": plan.as_json(), "left": plan.left });
        return say(args, &shown, "nothing was changed");
    }
    if !options.yes {
        confirm("importing", "These go into the vault, and are written over where they lie. Go on?")?;
    }
    let mut door = Door::open(dir)?;
    let moved = plan.carry_out(&mut door, options.replace)?;
    let shown = json!({ "ok": plan.left.is_empty(), "moved": moved, "left": plan.left });
    if plan.left.is_empty() {
        return say(
            args,
            &shown,
            &format!("{} secrets are in the vault; no role may use one before it has a policy", moved.len()),
        );
    }
    if args.json {
        println!("{shown}");
    }
    let left: String = plan.left.iter().map(|line| format!("\n  {}", harmless(line))).collect();
    Err(CliError::Failed(format!("{} secrets are in the vault; left where they lie:{left}", moved.len())))
}

/// The file, if it is one of its own and not too large. Nothing where it is not there.
fn read(path: &Path) -> Result<Option<String>, String> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown}: {error}")),
        Ok(found) if !found.is_file() => return Err(format!("{shown}: it is no regular file")),
        Ok(found) if found.len() > MAX_FILE => return Err(format!("{shown}: it is larger than {MAX_FILE} bytes")),
        Ok(_) => {}
    }
    let file = open(path, false).map_err(|error| format!("{shown}: {error}"))?;
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| format!("{shown}: {error}"))?;
    Ok(Some(text))
}

/// Entries of a directory that are no links, by name. None where there is no such directory.
fn entries(dir: &Path) -> Vec<PathBuf> {
    if !std::fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir()) {
        return Vec::new();
    }
    let mut found: Vec<_> = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

impl Plan {
    fn look(&mut self, from: &Path) -> Result<(), CliError> {
        if !from.is_dir() {
            return Err(CliError::Failed(format!("{}: it is no directory", from.display())));
        }
        for path in entries(from) {
            // With the backups that were kept beside them.
            if CONFIGS.iter().any(|config| file_name(&path).starts_with(config)) {
                self.look_into(&path, "", Kind::Json);
            }
        }
        for name in BESIDE {
            let path = from.join(name);
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
            self.look_into(&path, &format!("{stem}."), Kind::Json);
        }
        self.look_into(&from.join(".env"), "", Kind::Env);
        for path in entries(&from.join("credentials")) {
            let stem = file_name(&path).strip_suffix(".json").unwrap_or_default().to_owned();
            match (stem.strip_suffix("-allowFrom"), stem.ends_with("-pairing")) {
                (Some(channel), _) => self.look_at_allowed(&path, channel),
                // Codes of another gateway are good for nothing here.
                (None, true) => {}
                (None, false) if !stem.is_empty() => self.look_into(&path, &format!("{stem}."), Kind::Json),
                (None, false) => {}
            }
        }
        for agent in entries(&from.join("agents")) {
            let prefix = format!("auth.{}.", file_name(&agent));
            self.look_into(&agent.join("agent/auth-profiles.json"), &prefix, Kind::Json);
        }
        Ok(())
    }

    fn look_into(&mut self, path: &Path, prefix: &str, kind: Kind) {
        let text = match read(path) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(why) => return self.left.push(why),
        };
        let mut clear = match kind {
            Kind::Env => find_in_env(&text).into_iter().map(|(_, clear)| clear).collect(),
            Kind::Json => match config::read_value(&text) {
                Some(value) => find(&value, prefix),
                None => return self.left.push(format!("{}: it does not read as JSON5", path.display())),
            },
        };
        clear.retain(|clear| {
            let fits = clear.value.len() <= Secret::MAX;
            if !fits {
                let why = format!("{}: {}: longer than a secret may be", path.display(), clear.path);
                self.left.push(why);
            }
            fits
        });
        for clear in &mut clear {
            clear.name = self.name(&clear.value, &clear.name);
        }
        if !clear.is_empty() {
            self.sources.push(Source { path: path.to_owned(), text, clear, kind });
        }
    }

    /// The name of a value: the one that it has already, or one that no other value has.
    fn name(&mut self, value: &str, wanted: &str) -> String {
        if let Some(name) = self.names.get(value) {
            return name.clone();
        }
        let taken = |name: &str| self.names.values().any(|other| other == name);
        let mut name = wanted.to_owned();
        let mut number = 2;
        while taken(&name) {
            let stem = wanted.get(..wanted.len().min(58)).unwrap_or(wanted);
            name = format!("{stem}-{number}");
            number += 1;
        }
        self.names.insert(value.to_owned(), name.clone());
        name
    }

    fn look_at_allowed(&mut self, path: &Path, channel: &str) {
        let text = match read(path) {
            Ok(Some(text)) => text,
            Ok(None) => return,
            Err(why) => return self.left.push(why),
        };
        let value = config::read_value(&text).unwrap_or_default();
        let ids = value.get("allowFrom").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for id in
            ids.iter().filter_map(|id| id.as_str().map(str::to_owned).or_else(|| id.as_i64().map(|n| n.to_string())))
        {
            self.allowed.insert((channel.to_owned(), id));
        }
    }

    fn print(&self, from: &Path) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        for source in &self.sources {
            writeln!(out, "{}", harmless(&source.path.display().to_string()))?;
            for clear in &source.clear {
                writeln!(out, "  {} -> {}", harmless(&clear.path), clear.name)?;
            }
        }
        for (channel, sender) in &self.allowed {
            writeln!(out, "allowed on {}: {}", harmless(channel), harmless(sender))?;
        }
        for why in &self.left {
            writeln!(out, "left alone: {}", harmless(why))?;
        }
        if self.sources.is_empty() && self.allowed.is_empty() {
            writeln!(out, "no secret lies in clear in {}", from.display())?;
        }
        Ok(())
    }

    fn as_json(&self) -> Vec<Value> {
        let of = |source: &Source| {
            let file = source.path.display().to_string();
            source
                .clear
                .iter()
                .map(move |clear| json!({ "file": file, "path": clear.path, "name": clear.name }))
                .collect::<Vec<_>>()
        };
        self.sources.iter().flat_map(of).collect()
    }

    /// Returns the names that went into the vault.
    fn carry_out(&mut self, door: &mut Door, replace: bool) -> Result<Vec<String>, CliError> {
        let mut moved = BTreeSet::new();
        let mut failed = BTreeSet::new();
        for source in &self.sources {
            let mut text = source.text.clone();
            for clear in &source.clear {
                if !moved.contains(&clear.name) && !failed.contains(&clear.name) {
                    if let Err(why) = put(door, clear, replace) {
                        self.left.push(format!("{}: {}: {why}", source.path.display(), clear.path));
                        failed.insert(clear.name.clone());
                    } else {
                        moved.insert(clear.name.clone());
                    }
                }
                if moved.contains(&clear.name) {
                    text = without(&text, clear, source.kind).map_err(CliError::Failed)?;
                }
            }
            if text != source.text {
                write_over(&source.path, &text)
                    .map_err(|error| CliError::Failed(format!("{}: {error}", source.path.display())))?;
            }
        }
        for (channel, sender) in &self.allowed {
            let (Ok(on), Ok(id)) = (BoundedStr::new(channel.as_str()), BoundedStr::new(sender.as_str())) else {
                self.left.push(format!("allowed on {channel}: {sender}: too long"));
                continue;
            };
            let name = BoundedStr::truncated("imported");
            let verb = SenderVerb::Allow { channel: ChannelId(on), sender: SenderId(id), name };
            if let Err(error) = ask(door, VaultVerb::Senders(verb)) {
                self.left.push(format!("allowed on {channel}: {sender}: {error}"));
            }
        }
        Ok(moved.into_iter().collect())
    }
}

fn put(door: &mut Door, clear: &Clear, replace: bool) -> Result<(), String> {
    if clear.name == config::secrets::PASSWORD {
        return crate::config::seal::take_over(door, &clear.name, &clear.value, "")
            .map(drop)
            .map_err(|e| e.to_string());
    }
    let name = BoundedStr::new(clear.name.as_str()).map_err(|error| error.to_string())?;
    let secret = || Secret::new(clear.value.as_bytes().to_vec()).map_err(|error| error.to_string());
    let verb = VaultVerb::PutSecret { name: name.clone(), value: secret()?, rotate: false };
    let why = match ask(door, verb) {
        Ok(_) => return Ok(()),
        Err(error) => error.to_string(),
    };
    if !why.contains("vault.exists") {
        return Err(why);
    }
    if !replace {
        return Err(format!("{} is in the vault already; with --replace this becomes its next version", clear.name));
    }
    let verb = VaultVerb::PutSecret { name, value: secret()?, rotate: true };
    ask(door, verb).map(drop).map_err(|error| error.to_string())
}

fn without(text: &str, clear: &Clear, kind: Kind) -> Result<String, String> {
    if kind != Kind::Env {
        return take(text, &clear.path, &clear.name).map_err(|error| error.to_string());
    }
    let lines: BTreeSet<usize> =
        find_in_env(text).into_iter().filter(|(_, found)| found.path == clear.path).map(|(at, _)| at).collect();
    let mut new = String::new();
    for (at, line) in text.lines().enumerate() {
        if lines.contains(&at) {
            new.push_str(&format!("# {} is in the vault of Moltbot as {}", clear.path, clear.name));
        } else {
            new.push_str(line);
        }
        new.push('\n');
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_is_neither_read_nor_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("a.json"), dir.path().join("openclaw.json"));
        std::fs::write(&path, "{ token: 'plain' }").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(write_over(&link, "x").is_err());
        let mut plan = Plan::default();
        plan.look(dir.path()).unwrap();
        assert!(plan.sources.is_empty() && plan.left.len() == 1, "{:?}", plan.left);
    }
}
