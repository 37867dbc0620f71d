//! Rules about files: nobody but their owner may look, and the master key's owner may not even write.

use super::facts::{Facts, FileFact};
use super::finding;
use config::rules::{Finding, Severity};
use std::path::Path;

/// Names in a path that say that its content leaves the machine by itself.
const SYNCED: [&str; 6] = ["Dropbox", "OneDrive", "Google Drive", "GoogleDrive", "iCloud", "Nextcloud"];

/// What a file is in the ids, and the mode that it must have; none for what is nobody's business.
#[must_use]
pub fn expected(fact: &FileFact) -> Option<(&'static str, u32)> {
    let mut parts = fact.name.iter().map(|part| part.to_string_lossy());
    let first = parts.next();
    let inner = parts.next().is_some();
    let mode = match (fact.is_way, fact.is_dir) {
        (true, _) => 0o710,
        (false, true) => 0o700,
        (false, false) => 0o600,
    };
    let kind = match (first.as_deref(), inner) {
        (None, _) => "state_dir",
        (Some("keys"), true) => return Some(("master_key", 0o400)),
        (Some("keys"), false) => "keys_dir",
        (Some("vault"), true) => "vault_store",
        (Some("vault"), false) => "vault_dir",
        (Some("logs"), true) => "log_file",
        (Some("logs"), false) => "logs_dir",
        (Some("sessions"), _) => "sessions_store",
        (Some("credentials"), _) => "credentials_dir",
        (Some("workspaces"), false) => "workspaces_dir",
        (Some("run"), false) => "run_dir",
        (Some(name), false) if name.starts_with("moltbot.json") => "config",
        (Some(name), false) if !fact.is_dir && is_configuration(name) => "config_include",
        (Some(_), false) if !fact.is_dir => "state_file",
        _ => return None,
    };
    Some((kind, mode))
}

fn is_configuration(name: &str) -> bool {
    [".json", ".json5"].iter().any(|end| name.ends_with(end)) && name != "lockdown.json"
}

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all: Vec<Finding> = facts.files.iter().filter_map(|fact| judge(&facts.dir, fact)).collect();
    let path = facts.dir.display().to_string();
    if facts.dir.iter().any(|part| SYNCED.iter().any(|name| part.to_string_lossy().starts_with(name))) {
        all.push(finding(
            Severity::Warn,
            "fs.synced_dir",
            &path,
            "the state directory lies where a program copies it elsewhere",
            "whoever has the copy has the sealed store and the log; a copy that is put back looks like a rollback",
            "move it, and say --state-dir or MOLTBOT_STATE_DIR",
        ));
    }
    all
}

fn judge(dir: &Path, fact: &FileFact) -> Option<Finding> {
    let (kind, mode) = expected(fact)?;
    let path = dir.join(&fact.name).display().to_string();
    let path = path.trim_end_matches('/');
    if fact.is_link {
        let detail = "what it points at may be written by somebody else; no role follows it";
        let id = format!("fs.{kind}.symlink");
        return Some(finding(Severity::Warn, &id, path, "it is a link", detail, "put the file itself there"));
    }
    let extra = fact.mode & !mode;
    if extra & 0o777 == 0 {
        return None;
    }
    let public = matches!(kind, "state_dir" | "state_file");
    let (severity, what, title) = match () {
        () if kind == "master_key" => {
            (Severity::Critical, "perms", "the master key is open to more than its owner's reading")
        }
        () if extra & 0o002 != 0 => {
            let what = if kind == "config" || !public { "perms_writable" } else { "perms_world_writable" };
            (Severity::Critical, what, "everybody can write it")
        }
        () if extra & 0o020 != 0 && public => (Severity::Warn, "perms_group_writable", "its group can write it"),
        () if extra & 0o020 != 0 => (Severity::Critical, "perms_writable", "its group can write it"),
        () if extra & 0o004 != 0 && matches!(kind, "config" | "config_include") => {
            (Severity::Critical, "perms_world_readable", "everybody can read it")
        }
        () if matches!(kind, "config" | "config_include") => {
            (Severity::Warn, "perms_group_readable", "its group can read it")
        }
        () => (Severity::Warn, "perms_readable", "others can look into it"),
    };
    let detail = format!("mode {:04o}, where {mode:04o} is expected", fact.mode);
    let remediation = format!("chmod {mode:04o} {path}; `moltbot security audit --fix` does");
    Some(finding(severity, &format!("fs.{kind}.{what}"), path, title, &detail, &remediation))
}
