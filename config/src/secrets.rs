//! Secrets that stand in clear in a configuration, or in a file beside one: found by the names of their keys, given a name in
//! the vault, and taken out of the text with everything else left as it is. Pure; values are strangers' only in so far as the
//! file is.

use crate::edit::{self, EditError};
use serde_json::Value;

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

/// The text with a reference in the secret's place; or without its key, where `remove` says so.
///
/// # Errors
/// [`EditError`].
pub fn take(text: &str, clear: &Clear, remove: bool) -> Result<String, EditError> {
    if remove {
        return edit::unset(text, &clear.path);
    }
    edit::set(text, &clear.path, &Value::String(format!("{REFERENCE}{}", clear.name)))
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
            ("gateway.auth.token", "gateway.auth.token"),
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
        for remove in [false, true] {
            let mut text = TEXT.to_owned();
            for clear in found() {
                text = take(&text, &clear, remove).unwrap();
            }
            for clear in found() {
                assert!(!text.contains(&clear.value), "{clear:?}: {text}");
                assert_eq!(text.contains(&format!("vault:{}", clear.name)), !remove, "{text}");
            }
            assert!(text.contains("// mine") && text.contains("// the end") && text.contains("${SLACK}"), "{text}");
            assert!(find(&crate::read_value(&text).unwrap(), "").is_empty(), "{text}");
        }
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
