//! `moltbot security migrate`: a state directory of plaintext Moltbot, Clawdbot or OpenClaw becomes ours. What is found is
//! printed as a plan; a dry run changes nothing at all. The directory that is migrated from is only ever read: going back is
//! starting the old program again.
//!
//! Secrets and allowlists go to the vault through broker, so something must run; the configuration is written last, so that
//! a migration which was interrupted is made again from the start, and finds what it has done.

mod kept;

use crate::CliError;
use crate::args::{Args, MigrateOptions};
use crate::door::{Door, unexpected};
use crate::paint::{Paint, harmless};
use crate::secrets;
use config::migrate::{Change, Found, Migrated, migrate};
use config::secrets::name as secret_name;
use kept::{Conversation, OldDevice};
use proto::bounded::BoundedStr;
use proto::secret::Secret;
use proto::senders::{ChannelId, SenderId, SenderVerb};
use proto::vault::VaultVerb;
use rustix::termios::isatty;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Directories in which the old programs keep their state, beneath the home directory.
const HOMES: [&str; 4] = [".openclaw", ".clawdbot", ".moldbot", ".moltbot"];
/// Their configurations.
const FILES: [&str; 3] = ["openclaw.json", "clawdbot.json", "moltbot.json"];
/// Largest file of theirs that is read.
const MAX_FILE: u64 = 4 << 20;

/// Everything that would be done.
struct Plan {
    from: PathBuf,
    file: PathBuf,
    migrated: Migrated,
    conversations: Vec<Conversation>,
    devices: Vec<OldDevice>,
    /// What stays behind, and why.
    left: Vec<String>,
}

/// Carries it out.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, options: &MigrateOptions, args: &Args) -> Result<(), CliError> {
    let plan = Plan::of(dir, options.from.as_deref())?;
    if options.dry_run {
        return plan.print(args, true);
    }
    // Nothing is half done because nobody runs.
    let mut door = Door::open(dir).map_err(|error| match error {
        CliError::NotRunning(_) => {
            CliError::failed("secrets and allowlists go into the vault: `moltbot up` first, or --dry-run")
        }
        other => other,
    })?;
    if !args.json {
        plan.print(args, false)?;
    }
    if !options.yes {
        if !isatty(std::io::stdin()) {
            return Err(CliError::failed("say --yes where it is meant"));
        }
        if !crate::config::yes("do it?", false)? {
            return Err(CliError::failed("nothing was changed"));
        }
    }
    let ours = dir.join("moltbot.json");
    let config = config::Config::understand(&plan.migrated.text, &ours, &|_| None).map_err(CliError::failed)?;
    for found in &plan.migrated.secrets {
        put(&mut door, found, &config)?;
    }
    for (channel, id) in &plan.migrated.allowed {
        allow(&mut door, channel, id)?;
    }
    for conversation in &plan.conversations {
        kept::take_over(dir, &mut door, conversation)?;
    }
    for device in &plan.devices {
        kept::admit(&mut door, device)?;
    }
    let old = std::fs::read_to_string(&ours).unwrap_or_else(|_| "{}\n".to_owned());
    if old != plan.migrated.text {
        crate::config::replace(&ours, &old, &plan.migrated.text)?;
    }
    if args.json {
        return plan.print(args, false);
    }
    println!("\nmigrated; what stood in {} before is in {}.bak", ours.display(), ours.display());
    println!("next: moltbot config apply; moltbot security audit --deep");
    println!(
        "back: put the .bak in its place, and start the old program on {}, which was not changed",
        plan.from.display()
    );
    if !plan.migrated.secrets.is_empty() {
        println!(
            "{} still holds {} secrets in clear; make new ones where they come from, and remove it",
            plan.from.display(),
            plan.migrated.secrets.len()
        );
    }
    Ok(())
}

/// What the file's own rules take, and the role would not that it is for: with it nothing would start.
fn leave_out_what_no_role_takes(migrated: &mut Migrated, ours: &Path) -> Result<(), CliError> {
    loop {
        let config = config::Config::understand(&migrated.text, ours, &|_| None).map_err(CliError::failed)?;
        let Some((key, why)) = crate::config::untaken(&config) else { return Ok(()) };
        migrated.text = config::edit::unset(&migrated.text, key).map_err(CliError::failed)?;
        migrated.changes.push(Change { path: key.to_owned(), what: format!("left out: {why}") });
    }
}

impl Plan {
    fn of(dir: &Path, from: Option<&Path>) -> Result<Self, CliError> {
        let found = match from {
            Some(from) => configuration(from).map(|file| (from.to_owned(), file)),
            None => std::env::var_os("HOME").map(PathBuf::from).and_then(|home| {
                let candidates = HOMES.iter().map(|name| home.join(name)).chain([dir.to_owned()]);
                candidates.into_iter().find_map(|from| configuration(&from).map(|file| (from, file)))
            }),
        };
        let (from, file) = found
            .ok_or_else(|| CliError::Failed(format!("there is no {} to migrate; say --from DIR", FILES.join(", "))))?;
        let text = read(&file)?;
        let mut migrated = migrate(&text, &file).map_err(CliError::failed)?;
        let ours = dir.join("moltbot.json");
        leave_out_what_no_role_takes(&mut migrated, &ours)?;
        stores(&from, &mut migrated)?;
        profiles(&from, &mut migrated)?;
        migrated.allowed.sort();
        migrated.allowed.dedup();
        let mut left = Vec::new();
        let weak = |found: &Found| secret_name(&found.path) == "gateway.token" && is_weak(&found.value);
        if migrated.secrets.iter().any(weak) {
            migrated.secrets.retain(|found| !weak(found));
            left.push(
                "the old gateway token has less than 32 bytes, or less than 20 different ones: clients need the new one, \
                 `moltbot gateway token --reveal`"
                    .to_owned(),
            );
        }
        let conversations = kept::conversations(&from, &mut left);
        let devices = kept::devices(&from, &mut left)?;
        if from.join("exec-approvals.json").is_file() {
            left.push("exec-approvals.json: what may run unasked is decided by rules here".to_owned());
        }
        Ok(Self { from, file, migrated, conversations, devices, left })
    }

    fn print(&self, args: &Args, dry_run: bool) -> Result<(), CliError> {
        let secrets: Vec<Value> = self
            .migrated
            .secrets
            .iter()
            .map(|found| json!({ "from": found.path, "to": secret_name(&found.path) }))
            .collect();
        if args.json {
            let changes: Vec<Value> =
                self.migrated.changes.iter().map(|it| json!({ "path": it.path, "what": it.what })).collect();
            let allowed: Vec<Value> =
                self.migrated.allowed.iter().map(|(channel, id)| json!({ "channel": channel, "sender": id })).collect();
            let text: Value = serde_json::from_str(&self.migrated.text).unwrap_or_default();
            let conversations: Vec<Value> = self
                .conversations
                .iter()
                .map(|it| json!({ "session": it.session, "id": it.id.to_string(), "messages": it.messages }))
                .collect();
            let devices: Vec<Value> =
                self.devices.iter().map(|it| json!({ "name": it.name, "scopes": it.scopes.names() })).collect();
            println!(
                "{}",
                json!({ "ok": true, "dryRun": dry_run, "from": self.from, "config": text, "changes": changes,
                "secrets": secrets, "allowed": allowed, "conversations": conversations, "devices": devices,
                "left": self.left })
            );
            return Ok(());
        }
        let paint = Paint::new(args);
        println!("from {}", self.file.display());
        for change in &self.migrated.changes {
            println!("  [Config]   {}: {}", harmless(&change.path), harmless(&change.what));
        }
        for found in &self.migrated.secrets {
            println!("  [Secrets]  {} -> {}", harmless(&found.path), paint.good(&secret_name(&found.path)));
        }
        for (channel, id) in &self.migrated.allowed {
            println!("  [Senders]  {} may go on speaking on {}", harmless(id), harmless(channel));
        }
        for it in &self.conversations {
            let (session, id) = (harmless(&it.session), it.id);
            println!("  [Sessions] {session}: {} messages, sealed and closed, as {id}", it.messages);
        }
        for it in &self.devices {
            let scopes = it.scopes.names().join(" ");
            println!(
                "  [Devices]  {} is let in by its key, for {scopes}; its old token stays behind",
                harmless(&it.name)
            );
        }
        for what in &self.left {
            println!("  [Left]     {}", paint.warn(&harmless(what)));
        }
        if dry_run {
            println!("nothing was changed");
        }
        Ok(())
    }
}

fn configuration(dir: &Path) -> Option<PathBuf> {
    FILES.iter().map(|name| dir.join(name)).find(|file| file.is_file())
}

fn read(file: &Path) -> Result<String, CliError> {
    let failed = |what: &dyn std::fmt::Display| CliError::Failed(format!("{}: {what}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| failed(&error))?.len();
    if size > MAX_FILE {
        return Err(failed(&"it is larger than 4 MiB"));
    }
    std::fs::read_to_string(file).map_err(|error| failed(&error))
}

/// Files of a directory whose names end so.
fn named(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    files.sort();
    files
}

/// `credentials/<channel>-allowFrom.json`: whom pairing let in.
fn stores(from: &Path, migrated: &mut Migrated) -> Result<(), CliError> {
    const END: &str = "-allowFrom.json";
    for file in named(&from.join("credentials"), END) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let channel = name.strip_suffix(END).unwrap_or(&name).to_owned();
        let store: Value = serde_json::from_str(&read(&file)?)
            .map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))?;
        for id in store.get("allowFrom").and_then(Value::as_array).into_iter().flatten() {
            if let Some(id) = id.as_str().filter(|id| *id != "*") {
                migrated.allowed.push((channel.clone(), id.to_owned()));
            }
        }
    }
    Ok(())
}

/// `agents/<id>/agent/auth-profiles.json`: keys and tokens of model providers.
fn profiles(from: &Path, migrated: &mut Migrated) -> Result<(), CliError> {
    for agent in named(&from.join("agents"), "") {
        let file = agent.join("agent/auth-profiles.json");
        if !file.is_file() {
            continue;
        }
        let store: Value = serde_json::from_str(&read(&file)?)
            .map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))?;
        for (id, profile) in store.get("profiles").and_then(Value::as_object).into_iter().flatten() {
            for key in ["key", "apiKey", "token", "access", "accessToken", "refresh", "refreshToken"] {
                if let Some(value) = profile.get(key).and_then(Value::as_str).filter(|value| !value.is_empty()) {
                    migrated.secrets.push(Found { path: format!("profiles.{id}.{key}"), value: value.to_owned() });
                }
            }
        }
    }
    Ok(())
}

/// As the vault judges a token for the gateway. Source: Phase 1, SEC-03.
fn is_weak(token: &str) -> bool {
    token.len() < 32 || vault::token::distinct(token.as_bytes()) < vault::token::DISTINCT
}

fn put(door: &mut Door, found: &Found, config: &config::Config) -> Result<(), CliError> {
    let name = secret_name(&found.path);
    if name == config::secrets::PASSWORD || name == "gateway.token" {
        return crate::config::seal::take_over(door, &name, &found.value, "").map(drop);
    }
    let name = BoundedStr::truncated(&name);
    let value = Secret::new(found.value.clone().into_bytes())
        .map_err(|error| CliError::Failed(format!("{}: {error}", found.path)))?;
    match secrets::ask(door, VaultVerb::PutSecret { name: name.clone(), value, rotate: false }) {
        // It was put in by an earlier run, or by hand: that one stays.
        Err(CliError::Refused(refusal)) if refusal.rule.as_str() == "vault.exists" => return Ok(()),
        other => other.map(drop)?,
    }
    // Of a provider's key it is known where it belongs.
    let Some(policy) = config.key_policy(&name) else { return Ok(()) };
    let text = BoundedStr::new(policy).map_err(CliError::failed)?;
    secrets::ask(door, VaultVerb::SetPolicy { name, text }).map(drop)
}

fn allow(door: &mut Door, channel: &str, id: &str) -> Result<(), CliError> {
    let long = |error: &dyn std::fmt::Display| CliError::Failed(format!("{channel} {id}: {error}"));
    // Prefixes that upstream takes and the channel does not have.
    let id = id
        .strip_prefix("telegram:")
        .or_else(|| id.strip_prefix("tg:"))
        .or_else(|| id.strip_prefix("user:"))
        .unwrap_or(id);
    let request = SenderVerb::Allow {
        channel: ChannelId(BoundedStr::new(channel).map_err(|error| long(&error))?),
        sender: SenderId(BoundedStr::new(id).map_err(|error| long(&error))?),
        name: BoundedStr::truncated("migrated"),
    };
    match secrets::ask(door, VaultVerb::Senders(request))? {
        proto::vault::VaultAnswer::Senders(_) => Ok(()),
        _ => Err(unexpected()),
    }
}
