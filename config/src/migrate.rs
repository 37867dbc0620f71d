//! A configuration of Moltbot, Clawdbot or OpenClaw as one of ours: what is known stays, what would not be carried out is set
//! to what holds here, secrets come out of it, and every such step is said. Pure: a text goes in, a text comes out.
//!
//! `${NAME}` stays as it is written, comments do not: the result is a new file, and the old one stays where it was.

use crate::edit::{Step as PathStep, parse_path};
use crate::rules::{Severity, findings};
use crate::secrets::{REFERENCE, is_secret_key, name};
use crate::source::{self, is_reference};
use crate::{Config, ConfigError};
use serde_json::{Value, json};
use serde_path_to_error::Segment;
use std::path::Path;

/// Steps after which a text is given up on: every key of upstream's schema, with room.
const MAX_STEPS: usize = 4_000;
/// Where keys of providers stand.
const PROVIDERS: &str = "models.providers";

/// Something that was done to the text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// The key.
    pub path: String,
    /// What was done, and why.
    pub what: String,
}

/// A secret that stood in the text in clear.
pub struct Found {
    /// Where, as `channels.telegram.botToken`.
    pub path: String,
    /// It.
    pub value: String,
}

impl std::fmt::Debug for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.path)
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Migrated {
    /// The new text: strict JSON, which loads.
    pub text: String,
    /// Every step.
    pub changes: Vec<Change>,
    /// For the vault.
    pub secrets: Vec<Found>,
    /// Who was allowed, by channel: for the vault.
    pub allowed: Vec<(String, String)>,
}

/// Migrates a text that stands for the file `file`.
///
/// # Errors
/// [`ConfigError`] where it is no JSON5, or nothing can be made of it.
pub fn migrate(text: &str, file: &Path) -> Result<Migrated, ConfigError> {
    let keep = |name: &str| Some(format!("${{{name}}}"));
    let source = source::read(text, file, &keep)?;
    let mut value = source.value.clone();
    let mut migrated = Migrated { text: String::new(), changes: Vec::new(), secrets: Vec::new(), allowed: Vec::new() };
    take_secrets(&mut value, &mut Vec::new(), &mut migrated);
    take_allowed(&mut value, &mut migrated);
    for _ in 0..MAX_STEPS {
        let config: Config = match serde_path_to_error::deserialize(&value) {
            Ok(config) => config,
            Err(error) => {
                let message = error.inner().to_string();
                let mut path: Vec<PathStep> = error.path().iter().filter_map(segment).collect();
                // Where the key itself is not known, some formats name its parent.
                if let Some(key) = unknown_key(&message)
                    && path.last() != Some(&PathStep::Key(key.to_owned()))
                {
                    path.push(PathStep::Key(key.to_owned()));
                }
                let why =
                    if unknown_key(&message).is_some() { "not known here" } else { "not a value that is known here" };
                if remove(&mut value, &path).is_none() {
                    return Err(source_error(&source, file, &message));
                }
                migrated.change(&shown(&path), &format!("left out: {why}"));
                continue;
            }
        };
        let Some(found) = findings(&config).into_iter().find(|found| found.severity == Severity::Refused) else {
            if config.logging.redact_sensitive == crate::Redact::Off {
                put(&mut value, "logging.redactSensitive", json!("tools"));
                migrated.change("logging.redactSensitive", "off -> tools");
            }
            migrated.text = serde_json::to_string_pretty(&value).unwrap_or_default() + "\n";
            return Ok(migrated);
        };
        let path = parse_path(&found.path).unwrap_or_default();
        let what = match found.id.as_str() {
            id if id.ends_with("dm.open") => {
                put(&mut value, &found.path, json!("pairing"));
                "open -> pairing: strangers ask, and you approve".to_owned()
            }
            "channels.groups.open" => {
                put(&mut value, &found.path, json!("allowlist"));
                "open -> allowlist: nobody speaks in a group who is not listed".to_owned()
            }
            _ => {
                let mut gone = remove(&mut value, &path);
                // A name with points in it is no path, and a key may be missing: what it would stand in goes whole.
                for length in (2..path.len()).rev() {
                    if gone.is_none() {
                        gone = path.get(..length).and_then(|path| remove(&mut value, path));
                    }
                }
                if gone.is_none() {
                    return Err(source_error(&source, file, &found.title));
                }
                format!("left out: {}", found.title)
            }
        };
        migrated.change(&found.path, &what);
    }
    Err(source_error(&source, file, "it has more keys than any configuration"))
}

impl Migrated {
    fn change(&mut self, path: &str, what: &str) {
        self.changes.push(Change { path: path.to_owned(), what: what.to_owned() });
    }
}

fn source_error(source: &source::Source, file: &Path, message: &str) -> ConfigError {
    ConfigError::Invalid { path: file.to_owned(), problems: vec![source.problem("", message.to_owned())] }
}

fn segment(segment: &Segment) -> Option<PathStep> {
    match segment {
        Segment::Map { key } => Some(PathStep::Key(key.clone())),
        Segment::Seq { index } => Some(PathStep::Index(*index)),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn unknown_key(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field `")?.split('`').next()
}

fn shown(path: &[PathStep]) -> String {
    path.iter().fold(String::new(), |text, step| match step {
        PathStep::Key(key) => source::join(&text, key),
        PathStep::Index(at) => format!("{text}[{at}]"),
    })
}

fn inner<'v>(value: &'v mut Value, step: &PathStep) -> Option<&'v mut Value> {
    match step {
        PathStep::Key(key) => value.get_mut(key),
        PathStep::Index(at) => value.get_mut(at),
    }
}

fn remove(value: &mut Value, path: &[PathStep]) -> Option<Value> {
    let (last, way) = path.split_last()?;
    let holder = way.iter().try_fold(value, inner)?;
    match (last, holder) {
        (PathStep::Key(key), Value::Object(members)) => members.remove(key),
        (PathStep::Index(at), Value::Array(list)) if *at < list.len() => Some(list.remove(*at)),
        _ => None,
    }
}

fn put(value: &mut Value, path: &str, new: Value) {
    let path = parse_path(path).unwrap_or_default();
    if let Some(place) = path.iter().try_fold(value, inner) {
        *place = new;
    }
}

/// Takes secrets in clear out; a reference to the environment goes as well, and is named: the vault takes its place.
fn take_secrets(value: &mut Value, path: &mut Vec<PathStep>, migrated: &mut Migrated) {
    match value {
        Value::Object(members) => {
            let names: Vec<String> = members.keys().cloned().collect();
            for key in names {
                path.push(PathStep::Key(key.clone()));
                let secret = is_secret_key(&key);
                match members.get_mut(&key) {
                    Some(Value::String(text)) if secret => take_secret(text, &shown(path), migrated),
                    Some(inner) => take_secrets(inner, path, migrated),
                    None => {}
                }
                if secret && members.get(&key).is_some_and(|left| left == "") {
                    members.remove(&key);
                }
                path.pop();
            }
        }
        Value::Array(list) => {
            for (at, inner) in list.iter_mut().enumerate() {
                path.push(PathStep::Index(at));
                take_secrets(inner, path, migrated);
                path.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Nothing is left of it, but for the key of a provider: there alone a secret's name stands where it stood.
fn take_secret(text: &mut String, path: &str, migrated: &mut Migrated) {
    let of_provider = path.starts_with(PROVIDERS);
    if text.is_empty() || text.starts_with(REFERENCE) {
        return;
    }
    if is_reference(text) {
        migrated.change(path, "left out: put it into the vault once, instead of into every environment");
        text.clear();
        return;
    }
    migrated.change(path, "moves into the vault");
    let left = if of_provider { format!("{REFERENCE}{}", name(path)) } else { String::new() };
    migrated.secrets.push(Found { path: path.to_owned(), value: std::mem::replace(text, left) });
}

/// Who may write directly is the vault's to know. `*` is nobody there.
fn take_allowed(value: &mut Value, migrated: &mut Migrated) {
    let Some(channels) = value.get_mut("channels").and_then(Value::as_object_mut) else { return };
    for (name, channel) in channels.iter_mut() {
        for key in ["allowFrom", "dm.allowFrom"] {
            let (holder, key, path) = match key.split_once('.') {
                Some((outer, inner)) => (channel.get_mut(outer), inner, format!("channels.{name}.{key}")),
                None => (Some(&mut *channel), key, format!("channels.{name}.{key}")),
            };
            let list = holder.and_then(Value::as_object_mut).and_then(|members| members.remove(key));
            let Some(Value::Array(list)) = list else { continue };
            for id in list {
                let id = match id {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                let what = if id == "*" {
                    "left out: * would be everybody".to_owned()
                } else {
                    migrated.allowed.push((name.clone(), id.clone()));
                    format!("{id} moves into the vault's allowlist")
                };
                migrated.change(&path, &what);
            }
        }
    }
}

#[cfg(test)]
mod tests;
