//! Secrets that stand in clear in a configuration, or in a file beside one: found by the names of their keys, given a name in
//! the vault, and taken out of the text with everything else left as it is. Pure; values are strangers' only in so far as the
//! file is.

use crate::edit::{self, EditError};
use crate::source::{self, Env, Source};
use crate::{ConfigError, join};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What a key's name ends with whose value is a secret, without regard to case, hyphens and underscores.
const ENDINGS: [&str; 10] = [
    "token",
    "password",
    "passphrase",
    "apikey",
    "secret",
    "secretkey",
    "privatekey",
    "privatekeypem",
    "authorization",
    "botkey",
];
/// Keys of a profile of credentials that are one as well.
const OF_PROFILES: [&str; 3] = ["key", "access", "refresh"];
/// Beginnings of a path that say nothing about the secret.
const NOISE: [&str; 4] = ["channels.", "models.providers.", "profiles.", "config."];
/// Paths whose secret the vault keeps under a name of its own.
const OWN: [(&str, &str); 2] = [("gateway.auth.token", "gateway.token"), ("gateway.auth.password", PASSWORD)];
/// The name that stands for the password: the vault keeps no password, only how to tell it from others.
pub const PASSWORD: &str = "gateway.password";
/// What stands where a secret stood.
pub const REFERENCE: &str = "vault:";
/// Longest name in the vault, in bytes.
const MAX_NAME: usize = 64;

/// A secret in clear.
#[derive(Clone, Eq, PartialEq)]
pub struct Clear {
    /// Where it stands, as `gateway.auth.token`.
    pub path: String,
    /// The name that it is given in the vault.
    pub name: String,
    /// It.
    pub value: String,
}

/// Everything but the value.
impl std::fmt::Debug for Clear {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.path, self.name)
    }
}

/// Where a secret of our own configuration was found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// In the file, in clear.
    File,
    /// In clear in a file that it includes.
    Included(PathBuf),
    /// In the environment, which the file names.
    Environment,
}

/// A secret that our own configuration holds or names a variable for. In a loaded configuration its value is not kept.
#[derive(Clone, Eq, PartialEq)]
pub struct Held {
    /// Where it stands, as `gateway.auth.token`.
    pub path: String,
    /// The name that the vault has it under.
    pub name: String,
    /// Where it was found.
    pub origin: Origin,
    /// It, where it is there.
    pub value: Option<String>,
}

/// Everything but the value.
impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {} ({:?})", self.path, self.name, self.origin)
    }
}

/// The secrets of our own configuration, with their values.
///
/// # Errors
/// [`ConfigError`] where it is not one.
pub fn held(text: &str, file: &Path, env: Env<'_>) -> Result<Vec<Held>, ConfigError> {
    Ok(lift(&source::read(text, file, env)?).1)
}

/// The values with a reference in the place of each secret, and the secrets.
pub(crate) fn lift(source: &Source) -> (Value, Vec<Held>) {
    let mut value = source.value.clone();
    let mut held = Vec::new();
    lift_from(&mut value, source, &Step::default(), &mut held);
    (value, held)
}

/// A place on the way down: its path as the source has it, as it is written, and its last key.
#[derive(Clone, Default)]
struct Step {
    plain: String,
    written: String,
    key: String,
}

fn lift_from(value: &mut Value, source: &Source, at: &Step, held: &mut Vec<Held>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members.iter_mut() {
                let at = Step { plain: join(&at.plain, key), written: step(&at.written, key), key: key.clone() };
                lift_from(value, source, &at, held);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter_mut().enumerate() {
                let (plain, written) = (format!("{}[{number}]", at.plain), format!("{}[{number}]", at.written));
                lift_from(item, source, &Step { plain, written, key: at.key.clone() }, held);
            }
        }
        Value::String(text) if is_secret_key(&at.key) && !text.trim().is_empty() && !text.starts_with(REFERENCE) => {
            let missing = source::is_reference(text);
            let file = source.place(&at.plain).file;
            let origin = if missing || source.from_env.contains(&at.plain) {
                Origin::Environment
            } else if file == source.file {
                Origin::File
            } else {
                Origin::Included(file)
            };
            let wanted = name(&at.written);
            let mut name = wanted.clone();
            // Two spellings that come to one name stay two secrets.
            for number in 2.. {
                if !held.iter().any(|other| other.name == name) {
                    break;
                }
                name = format!("{}-{number}", wanted.get(..wanted.len().min(58)).unwrap_or(&wanted));
            }
            let lifted = std::mem::replace(text, format!("{REFERENCE}{name}"));
            held.push(Held { path: at.written.clone(), name, origin, value: (!missing).then_some(lifted) });
        }
        _ => {}
    }
}

/// True where a key of this name holds a secret.
#[must_use]
pub fn is_secret_key(key: &str) -> bool {
    let plain: String = key.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_ascii_lowercase();
    ENDINGS.iter().any(|ending| plain.ends_with(ending))
}

/// True where the text stands for a secret that lies elsewhere, or for none.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    text.trim().is_empty() || text.starts_with("${") || text.starts_with(REFERENCE)
}

/// A name in the vault for what stands at this path: `telegram.bottoken`.
#[must_use]
pub fn name(path: &str) -> String {
    if let Some((_, own)) = OWN.iter().find(|(own, _)| *own == path) {
        return (*own).to_owned();
    }
    let mut path = path;
    for noise in NOISE {
        path = path.strip_prefix(noise).unwrap_or(path);
    }
    let mut name = String::new();
    for c in path.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' | '_' | '-' => name.push(c),
            _ if !name.is_empty() && !name.ends_with('.') => name.push('.'),
            _ => {}
        }
    }
    let name = name.trim_end_matches('.');
    let name =
        if name.starts_with(|first: char| first.is_ascii_lowercase()) { name.to_owned() } else { format!("s.{name}") };
    if name.len() <= MAX_NAME {
        return name;
    }
    // FNV-1a: two long paths stay two names.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}-{hash:08x}", name.get(..MAX_NAME - 9).unwrap_or_default())
}

/// Every secret in clear, its name beginning with `prefix`.
#[must_use]
pub fn find(value: &Value, prefix: &str) -> Vec<Clear> {
    let mut found = Vec::new();
    walk(value, "", "", prefix, &mut found);
    found
}

fn walk(value: &Value, path: &str, key: &str, prefix: &str, found: &mut Vec<Clear>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                walk(value, &step(path, key), key, prefix, found);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                walk(item, &format!("{path}[{at}]"), key, prefix, found);
            }
        }
        Value::String(text) if !is_reference(text) => {
            let of_profile = path.starts_with("profiles") && OF_PROFILES.contains(&key);
            if is_secret_key(key) || of_profile {
                let name = name(&format!("{prefix}{path}"));
                found.push(Clear { path: path.to_owned(), name, value: text.clone() });
            }
        }
        _ => {}
    }
}

fn step(path: &str, key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    match (plain, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[\"{key}\"]"),
    }
}

/// The text with a reference in the place of the secret that stands at `path`.
///
/// # Errors
/// [`EditError`].
pub fn take(text: &str, path: &str, name: &str) -> Result<String, EditError> {
    edit::set(text, path, &Value::String(format!("{REFERENCE}{name}")))
}

/// Secrets of a file of lines `NAME=value`: line, name in the vault, value.
#[must_use]
pub fn find_in_env(text: &str) -> Vec<(usize, Clear)> {
    let parse = |line: &str| {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim()).to_owned();
        let (key, value) = line.split_once('=')?;
        let value = value.trim();
        let quoted = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        let key = key.trim();
        (is_secret_key(key) && !is_reference(value)).then(|| Clear {
            path: key.to_owned(),
            name: name(&format!("env.{key}")),
            value: value.to_owned(),
        })
    };
    text.lines().enumerate().filter_map(|(at, line)| parse(line).map(|clear| (at, clear))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
  // mine
  gateway: { auth: { token: "plain-token-of-the-gateway", mode: "token" } },
  channels: { telegram: { botToken: "123:abc", tokenFile: "/x" }, slack: { appToken: "${SLACK}" } },
  models: { providers: { "open.ai": { apiKey: 'sk-1', maxTokens: 5, headers: { Authorization: "Bearer z" } } } },
  list: [ { password: "in a list" } ], // the end
}"#;

    fn found() -> Vec<Clear> {
        find(&crate::read_value(TEXT).unwrap(), "")
    }

    #[test]
    fn secrets_are_found_by_their_keys_and_references_and_numbers_are_none() {
        let mut names: Vec<_> = found().into_iter().map(|clear| (clear.path, clear.name)).collect();
        names.sort();
        let expected = [
            ("channels.telegram.botToken", "telegram.bottoken"),
            ("gateway.auth.token", "gateway.token"),
            ("list[0].password", "list.0.password"),
            ("models.providers[\"open.ai\"].apiKey", "models.providers.open.ai.apikey"),
            ("models.providers[\"open.ai\"].headers.Authorization", "models.providers.open.ai.headers.authorization"),
        ];
        assert_eq!(names, expected.map(|(path, name)| (path.to_owned(), name.to_owned())));
    }

    #[test]
    fn profiles_of_credentials_are_found_by_their_own_keys() {
        let text = r#"{"version":1,"profiles":{"anthropic:default":{"type":"api_key","provider":"anthropic","key":"sk"},
            "o":{"type":"oauth","access":"a","refresh":"r","expires":5}}}"#;
        let names: Vec<_> =
            find(&crate::read_value(text).unwrap(), "auth.").into_iter().map(|clear| clear.name).collect();
        assert_eq!(names, ["auth.profiles.anthropic.default.key", "auth.profiles.o.access", "auth.profiles.o.refresh"]);
    }

    #[test]
    fn text_that_they_were_taken_from_holds_none_and_keeps_the_rest() {
        let mut text = TEXT.to_owned();
        for clear in found() {
            text = take(&text, &clear.path, &clear.name).unwrap();
        }
        for clear in found() {
            assert!(!text.contains(&clear.value), "{clear:?}: {text}");
            assert!(text.contains(&format!("vault:{}", clear.name)), "{text}");
        }
        assert!(text.contains("// mine") && text.contains("// the end") && text.contains("${SLACK}"), "{text}");
        assert!(find(&crate::read_value(&text).unwrap(), "").is_empty(), "{text}");
    }

    #[test]
    fn names_are_ones_that_the_vault_takes_and_long_ones_stay_apart() {
        assert_eq!(name("9x.Token"), "s.9x.token");
        let long = |end: &str| name(&format!("{}.{end}", "a".repeat(90)));
        assert!(long("token").len() <= 64 && long("token") != long("password"));
    }

    #[test]
    fn lines_of_an_environment_are_told_apart() {
        let text = "# c\nexport OPENAI_API_KEY=\"sk-2\"\nHOME=/x\nBOT_TOKEN='1:2'\nEMPTY_TOKEN=\nREF_TOKEN=${OTHER}\n";
        let found: Vec<_> = find_in_env(text).into_iter().map(|(at, clear)| (at, clear.name, clear.value)).collect();
        assert_eq!(
            found,
            [
                (1, "env.openai_api_key".to_owned(), "sk-2".to_owned()),
                (3, "env.bot_token".to_owned(), "1:2".to_owned())
            ]
        );
    }
}
