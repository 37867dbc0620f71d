//! Moves the secrets of the configuration into the vault: those that stand in the file, which then names them, and those of
//! the variables that it names, which are written nowhere. A file changes only once the vault has all that is taken out of it.

use super::NAME;
use crate::CliError;
use crate::args::Args;
use crate::door::Door;
use crate::overwrite::write_over;
use crate::secrets::{ask, done, say};
use config::Config;
use config::secrets::{Held, Origin, PASSWORD, held, take};
use proto::auth::LoginVerb;
use proto::bounded::BoundedStr;
use proto::secret::Secret;
use proto::vault::VaultVerb;
use serde_json::json;
use std::path::{Path, PathBuf};

/// What became of the secrets.
#[derive(Debug, Default)]
pub struct Sealed {
    /// Names that the vault took a value for.
    pub taken: Vec<String>,
    /// Names whose value it had, or had taken once before.
    pub known: Vec<String>,
    /// Files in which a name stands now where a secret stood.
    pub files: Vec<PathBuf>,
}

impl Sealed {
    /// For a person; empty where there is nothing to tell.
    #[must_use]
    pub fn as_text(&self) -> String {
        let mut parts = Vec::new();
        if !self.taken.is_empty() {
            parts.push(format!("into the vault: {}", self.taken.join(", ")));
        }
        if !self.files.is_empty() {
            let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
            parts.push(format!("no longer in clear in {}", files.join(", ")));
        }
        parts.join("; ")
    }
}

/// `config seal`
pub fn run(dir: &Path, args: &Args) -> Result<(), CliError> {
    let mut door = open(dir)?;
    let sealed = seal(dir, &mut door)?;
    let files: Vec<_> = sealed.files.iter().map(|file| file.display().to_string()).collect();
    let shown = json!({ "ok": true, "taken": sealed.taken, "known": sealed.known, "files": files });
    let text = sealed.as_text();
    say(args, &shown, if text.is_empty() { "no secret stands in the configuration in clear" } else { &text })
}

/// The door to a vault that can take something.
pub fn open(dir: &Path) -> Result<Door, CliError> {
    Door::open(dir).map_err(|error| match error {
        CliError::NotRunning(_) => CliError::failed("it goes into the vault: `moltbot up` first"),
        other => other,
    })
}

/// Moves them.
///
/// # Errors
/// [`CliError`] with the secret that the vault did not take; what was moved until then is moved, and the file as it was.
pub fn seal(dir: &Path, door: &mut Door) -> Result<Sealed, CliError> {
    let file = dir.join(NAME);
    let mut sealed = Sealed::default();
    let text = super::read(&file)?;
    let new = seal_text(&text, &file, door, &mut sealed)?;
    if new != text {
        over(&file, &new, &mut sealed)?;
    }
    for backup in backups(&file) {
        let Ok(text) = std::fs::read_to_string(&backup) else { continue };
        let new = without_secrets(&text);
        if new != text {
            over(&backup, &new, &mut sealed)?;
        }
    }
    Ok(sealed)
}

fn over(file: &Path, text: &str, sealed: &mut Sealed) -> Result<(), CliError> {
    write_over(file, text).map_err(|error| CliError::Failed(format!("{}: {error}", file.display())))?;
    sealed.files.push(file.to_owned());
    Ok(())
}

/// Puts the secrets of a text that stands for `file` into the vault, and returns the text without them.
pub fn seal_text(text: &str, file: &Path, door: &mut Door, sealed: &mut Sealed) -> Result<String, CliError> {
    let mut new = text.to_owned();
    let config = Config::understand(text, file, &variable).map_err(CliError::failed)?;
    for held in all(text, file).map_err(CliError::failed)? {
        let Some(value) = &held.value else { continue };
        let policy = config.key_policy(&held.name).unwrap_or_default();
        let taken = take_over(door, &held.name, value, &policy)
            .map_err(|error| CliError::Failed(format!("{}: {error}; it was not moved", held.path)))?;
        if taken { &mut sealed.taken } else { &mut sealed.known }.push(held.name.clone());
        if held.origin == Origin::File {
            new = take(&new, &held.path, &held.name).map_err(CliError::failed)?;
        }
    }
    Ok(new)
}

/// Secrets that stand in a text in clear, by their paths.
pub fn in_clear(text: &str, file: &Path) -> Vec<Held> {
    all(text, file).unwrap_or_default().into_iter().filter(|held| held.origin == Origin::File).collect()
}

fn all(text: &str, file: &Path) -> Result<Vec<Held>, config::ConfigError> {
    held(text, file, &variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A text without the secrets in it, each named as the vault would name it: for what is kept beside the file. A text that
/// cannot be read is left alone.
pub fn without_secrets(text: &str) -> String {
    // Not by `held`: what an earlier file included may be gone.
    let Some(value) = config::read_value(text) else { return text.to_owned() };
    let found = config::secrets::find(&value, "");
    found.iter().fold(text.to_owned(), |text, clear| take(&text, &clear.path, &clear.name).unwrap_or(text))
}

/// Earlier texts that `moltbot config` and `moltbot security migrate` kept.
fn backups(file: &Path) -> Vec<PathBuf> {
    let first = file.with_added_extension("bak");
    let later = (1..super::write::BACKUPS).map(|number| file.with_added_extension(format!("bak.{number}")));
    std::iter::once(first).chain(later).filter(|path| path.is_file()).collect()
}

/// Has the vault take a value over, which may be used as the policy says where its name is new there. True where it did,
/// false where it knows it.
pub fn take_over(door: &mut Door, name: &str, value: &str, policy: &str) -> Result<bool, CliError> {
    let value = Secret::new(value.as_bytes().to_vec()).map_err(CliError::failed)?;
    if name == PASSWORD {
        return ask(door, VaultVerb::Login(LoginVerb::SetPassword { password: value })).map(|_| true);
    }
    let name = BoundedStr::new(name).map_err(CliError::failed)?;
    let policy = BoundedStr::new(policy).map_err(CliError::failed)?;
    Ok(done(door, VaultVerb::AdoptSecret { name, value, policy })? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_kept_beside_the_file_names_its_secrets_and_one_that_does_not_read_is_left() {
        let text = "{ // mine\n gateway: { auth: { token: 'clear' } }, channels: { discord: { token: '${D}' } } }";
        let kept = without_secrets(text);
        assert!(!kept.contains("clear") && kept.contains("// mine") && kept.contains("${D}"), "{kept}");
        assert!(kept.contains("vault:gateway.token"), "{kept}");
        assert_eq!(without_secrets("{ token: 'clear'"), "{ token: 'clear'");
    }

    #[test]
    fn secret_in_the_file_is_in_clear_and_one_of_a_variable_or_a_reference_is_not() {
        let at = |text: &str| in_clear(text, Path::new("moltbot.json")).len();
        assert_eq!(at("{ gateway: { auth: { token: 'clear' } } }"), 1);
        assert_eq!(at("{ gateway: { auth: { token: '${MOLTBOT_TEST_NO_SUCH}' } } }"), 0);
        assert_eq!(at("{ gateway: { auth: { token: 'vault:gateway.token' } } }"), 0);
    }
}
