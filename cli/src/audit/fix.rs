//! `--fix`: what can be mended without taking anything from anybody. Modes are set on the file that was opened, never by
//! path and never through a link; the configuration is edited in place, so `${NAME}` and comments stay.

use super::facts::{Facts, FileFact};
use super::files::expected;
use crate::CliError;
use config::Redact;
use rustix::fs::{CWD, Mode, OFlags, fchmod, fstat, openat};
use serde_json::json;
use std::path::{Path, PathBuf};

/// What was done to one thing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Action {
    /// The finding's id, or the key.
    pub what: String,
    /// The file.
    pub path: PathBuf,
    /// From what to what.
    pub change: String,
    /// Why it was not done.
    pub error: Option<String>,
}

/// Mends; with `dry_run` only says what it would.
///
/// # Errors
/// [`CliError`] where the configuration cannot be written.
pub fn fix(dir: &Path, facts: &Facts, dry_run: bool) -> Result<Vec<Action>, CliError> {
    let mut actions = modes(dir, &facts.files, dry_run);
    if facts.config.as_ref().is_ok_and(|config| config.logging.redact_sensitive == Redact::Off) {
        let file = dir.join("moltbot.json");
        let key = "logging.redactSensitive";
        if !dry_run {
            let text = std::fs::read_to_string(&file)?;
            let new = config::edit::set(&text, key, &json!("tools")).map_err(CliError::failed)?;
            crate::config::replace(&file, &text, &new)?;
        }
        actions.push(Action { what: key.to_owned(), path: file, change: "off -> tools".to_owned(), error: None });
    }
    Ok(actions)
}

/// Takes away what others may do with these files, and nothing else.
#[must_use]
pub fn modes(dir: &Path, files: &[FileFact], dry_run: bool) -> Vec<Action> {
    files.iter().filter_map(|fact| mode(dir, fact, dry_run)).collect()
}

fn mode(dir: &Path, fact: &FileFact, dry_run: bool) -> Option<Action> {
    let (kind, mode) = expected(fact)?;
    if fact.is_link || fact.mode & !mode & 0o777 == 0 {
        return None;
    }
    // Only ever less than it was: who made a file more private than it need be had a reason.
    let target = fact.mode & mode;
    let change = format!("mode {:04o} -> {target:04o}", fact.mode);
    let error = if dry_run { None } else { set(dir, fact, target).err().map(|errno| errno.to_string()) };
    Some(Action { what: format!("fs.{kind}"), path: dir.join(&fact.name), change, error })
}

fn set(dir: &Path, fact: &FileFact, mode: u32) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = openat(CWD, dir, flags | OFlags::DIRECTORY, Mode::empty())?;
    let parts: Vec<_> = fact.name.iter().collect();
    for (at, part) in parts.iter().enumerate() {
        let last = at + 1 == parts.len();
        let more = if last && !fact.is_dir { OFlags::empty() } else { OFlags::DIRECTORY };
        file = openat(&file, Path::new(part), flags | more, Mode::empty())?;
    }
    // It is the file that was looked at, or something that was put in its place since.
    if fstat(&file)?.st_mode & 0o7777 != fact.mode {
        return Err(rustix::io::Errno::STALE);
    }
    fchmod(&file, Mode::from_raw_mode(mode))
}
