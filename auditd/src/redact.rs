//! Secrets taken out of texts before they are hashed, because nothing can be taken out afterwards.
//!
//! The texts are strangers': commands that a model wrote, reasons that another process gave. Rules are a table of what
//! keys of known services begin with, and a few forms: a private key in armour, a token of three parts, a password in an
//! address, a value given to a name that says what it is. A rule that is too eager costs a reader a word; one that is
//! too shy costs a secret. This is no wall: a secret that looks like nothing goes through.
//!
//! What is taken out is replaced by the rule's name and a keyed fingerprint, so that equal values can be told to be equal
//! and cannot be tried out without the key.

use crate::chain::hex;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::borrow::Cow;
use std::ops::Range;
use zeroize::Zeroizing;

/// Takes secrets out of texts.
pub struct Redactor {
    key: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redactor")
    }
}

/// What a rule found: bytes of the text.
struct Found {
    rule: &'static str,
    range: Range<usize>,
}

impl Redactor {
    /// With this key for fingerprints.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: Zeroizing::new(*key) }
    }

    /// The text without what looks like a secret.
    #[must_use]
    pub fn clean<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut clean = String::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() {
            if let Some(length) = replaced(bytes_at(text, at)) {
                at = at.saturating_add(length);
                continue;
            }
            let Some(found) = find(text, at) else {
                at = at.saturating_add(1);
                continue;
            };
            let (Some(before), Some(value)) = (text.get(from..found.range.start), text.get(found.range.clone())) else {
                at = at.saturating_add(1);
                continue;
            };
            clean.push_str(before);
            clean.push_str(&format!("[redacted:{}:{}]", found.rule, self.fingerprint(value)));
            from = found.range.end;
            at = from.max(at.saturating_add(1));
        }
        match text.get(from..) {
            Some(rest) if from > 0 => {
                clean.push_str(rest);
                Cow::Owned(clean)
            }
            _ => Cow::Borrowed(text),
        }
    }

    fn fingerprint(&self, value: &str) -> String {
        // A key of any length makes an HMAC.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.as_slice()) else { return String::new() };
        mac.update(value.as_bytes());
        hex(mac.finalize().into_bytes().get(..4).unwrap_or_default())
    }
}

/// Characters that a value is made of.
#[derive(Clone, Copy)]
enum Set {
    Hex,
    UpperDigits,
    Word,
    WordDash,
    Dotted,
}

impl Set {
    const fn has(self, byte: u8) -> bool {
        match self {
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::UpperDigits => byte.is_ascii_uppercase() || byte.is_ascii_digit(),
            Self::Word => byte.is_ascii_alphanumeric() || byte == b'_',
            Self::WordDash => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'),
            Self::Dotted => byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'=' | b'/' | b'+'),
        }
    }
}

/// What keys of a service begin with, what follows, and how much of it there is at least.
struct Prefix(&'static str, &'static str, Set, usize);

/// From the services' own documentation of their keys. Longer prefixes stand before shorter ones.
const PREFIXES: &[Prefix] = &[
    Prefix("age-key", "AGE-SECRET-KEY-1", Set::UpperDigits, 50),
    Prefix("anthropic-key", "sk-ant-", Set::WordDash, 20),
    Prefix("aws-key-id", "AKIA", Set::UpperDigits, 16),
    Prefix("aws-key-id", "ASIA", Set::UpperDigits, 16),
    Prefix("databricks-token", "dapi", Set::Hex, 32),
    Prefix("digitalocean-token", "dop_v1_", Set::Hex, 64),
    Prefix("doppler-token", "dp.pt.", Set::Word, 40),
    Prefix("github-token", "github_pat_", Set::Word, 36),
    Prefix("github-token", "ghp_", Set::Word, 30),
    Prefix("github-token", "gho_", Set::Word, 30),
    Prefix("github-token", "ghs_", Set::Word, 30),
    Prefix("github-token", "ghu_", Set::Word, 30),
    Prefix("github-token", "ghr_", Set::Word, 30),
    Prefix("gitlab-token", "glpat-", Set::WordDash, 20),
    Prefix("google-key", "AIza", Set::WordDash, 35),
    Prefix("google-secret", "GOCSPX-", Set::WordDash, 20),
    Prefix("google-token", "ya29.", Set::Dotted, 20),
    Prefix("groq-key", "gsk_", Set::Word, 30),
    Prefix("huggingface-token", "hf_", Set::Word, 30),
    Prefix("linear-key", "lin_api_", Set::Word, 30),
    Prefix("npm-token", "npm_", Set::Word, 36),
    Prefix("notion-token", "ntn_", Set::Word, 40),
    Prefix("openai-key", "sk-proj-", Set::WordDash, 20),
    Prefix("openai-key", "sk-svcacct-", Set::WordDash, 20),
    Prefix("openrouter-key", "sk-or-", Set::WordDash, 20),
    Prefix("openai-key", "sk-", Set::WordDash, 32),
    Prefix("pypi-token", "pypi-", Set::WordDash, 50),
    Prefix("sendgrid-key", "SG.", Set::Dotted, 40),
    Prefix("shopify-token", "shpat_", Set::Hex, 32),
    Prefix("slack-token", "xapp-", Set::WordDash, 20),
    Prefix("slack-token", "xoxb-", Set::WordDash, 20),
    Prefix("slack-token", "xoxp-", Set::WordDash, 20),
    Prefix("slack-token", "xoxa-", Set::WordDash, 20),
    Prefix("slack-token", "xoxs-", Set::WordDash, 20),
    Prefix("stripe-key", "sk_live_", Set::Word, 20),
    Prefix("stripe-key", "sk_test_", Set::Word, 20),
    Prefix("stripe-key", "rk_live_", Set::Word, 20),
    Prefix("stripe-key", "whsec_", Set::Dotted, 24),
    Prefix("twilio-key", "SK", Set::Hex, 32),
    Prefix("xai-key", "xai-", Set::WordDash, 40),
];

/// Bytes of the shortest of these keys.
const SHORTEST: usize = 20;

/// Parts of names whose value is a secret, and how long such a value is at least.
const NAMES: &[(&str, usize)] = &[
    ("password", 4),
    ("passwd", 4),
    ("passphrase", 4),
    ("pwd", 6),
    ("secret", 8),
    ("token", 12),
    ("apikey", 12),
    ("api_key", 12),
    ("api-key", 12),
    ("access_key", 12),
    ("private_key", 12),
    ("credential", 8),
    ("authorization", 8),
];

/// Values that stand for a value.
const PLACEHOLDERS: &[&str] =
    &["null", "none", "true", "false", "undefined", "changeme", "example", "your", "xxx", "***", "...", "redacted"];

/// How far a rule looks, in bytes: a text of many colons must not be read as often as it has colons.
const NEAR: usize = 256;

/// At most [`NEAR`] bytes before `at`.
fn before(text: &str, at: usize) -> &str {
    text.get(text.floor_char_boundary(at.saturating_sub(NEAR))..at).unwrap_or_default()
}

/// At most [`NEAR`] bytes from `at` on.
fn behind(text: &str, at: usize) -> &str {
    text.get(at..text.floor_char_boundary(at.saturating_add(NEAR))).unwrap_or_default()
}

fn bytes_at(text: &str, at: usize) -> &[u8] {
    text.as_bytes().get(at..).unwrap_or_default()
}

/// How long the replacement is that stands here, in exactly the form that [`Redactor::clean`] gives it.
fn replaced(bytes: &[u8]) -> Option<usize> {
    let head = b"[redacted:";
    let rest = bytes.strip_prefix(head)?;
    let rule = rest.iter().take_while(|byte| byte.is_ascii_lowercase() || **byte == b'-').count();
    let fingerprint = rest.get(rule..)?.strip_prefix(b":")?;
    let whole = run(fingerprint, Set::Hex) == 8 && fingerprint.get(8) == Some(&b']');
    whole.then(|| head.len().saturating_add(rule).saturating_add(10))
}

/// True where no word goes on from before `at`.
fn begins_word(text: &str, at: usize) -> bool {
    at.checked_sub(1).and_then(|before| text.as_bytes().get(before)).is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

fn run(bytes: &[u8], set: Set) -> usize {
    bytes.iter().take_while(|byte| set.has(**byte)).count()
}

/// What begins at `at`, or is given to the name that ends there.
fn find(text: &str, at: usize) -> Option<Found> {
    let bytes = bytes_at(text, at);
    let found = |rule, from: usize, length: usize| {
        let start = at.saturating_add(from);
        Some(Found { rule, range: start..start.saturating_add(length) })
    };
    match bytes.first()? {
        b'=' | b':' => return assigned(text, at),
        b'-' if bytes.starts_with(b"-----BEGIN ") => {
            return armour(text.get(at..)?).and_then(|length| found("private-key", 0, length));
        }
        b'-' if begins_word(text, at) => return flag(text, at),
        b'0'..=b'9' if begins_word(text, at) => {
            return telegram(bytes).and_then(|length| found("telegram-token", 0, length));
        }
        b'B' | b'b'
            if begins_word(text, at) && bytes.get(..7).is_some_and(|word| word.eq_ignore_ascii_case(b"bearer ")) =>
        {
            let length = run(bytes.get(7..)?, Set::Dotted);
            return if length >= 16 { found("bearer-token", 7, length) } else { None };
        }
        byte if !byte.is_ascii_alphabetic() || !begins_word(text, at) => return None,
        b'e' if bytes.starts_with(b"eyJ") => return three_parts(bytes).and_then(|length| found("jwt", 0, length)),
        _ => {}
    }
    // Words are short and keys are not.
    if !bytes.get(..SHORTEST)?.iter().all(|byte| Set::Dotted.has(*byte)) {
        return None;
    }
    PREFIXES.iter().find_map(|Prefix(rule, prefix, set, least)| {
        let rest = bytes.strip_prefix(prefix.as_bytes())?;
        let length = run(rest, *set);
        if length >= *least { found(rule, 0, prefix.len().saturating_add(length)) } else { None }
    })
}

/// A private key with its armour; to the end of the text where the armour does not end.
fn armour(text: &str) -> Option<usize> {
    let label = text.get(11..)?.split_once("-----")?.0;
    if !label.ends_with("PRIVATE KEY") && !label.ends_with("PRIVATE KEY BLOCK") {
        return None;
    }
    let end = text.find("-----END ").and_then(|end| {
        let tail = text.get(end.checked_add(9)?..)?;
        end.checked_add(14)?.checked_add(tail.find("-----")?)
    });
    Some(end.unwrap_or(text.len()))
}

/// `<id>:<35 characters>`, the token of a Telegram bot.
fn telegram(bytes: &[u8]) -> Option<usize> {
    let id = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = bytes.get(id..)?.strip_prefix(b":")?;
    ((8..=10).contains(&id) && run(rest, Set::WordDash) == 35).then(|| id.saturating_add(36))
}

/// A JSON Web Token (RFC 7519).
fn three_parts(bytes: &[u8]) -> Option<usize> {
    let mut length = 0usize;
    for part in 0..3 {
        let rest = bytes.get(length..)?;
        let rest = if part == 0 { rest } else { rest.strip_prefix(b".")? };
        let run = run(rest, Set::WordDash);
        if run < 8 {
            return None;
        }
        length = length.saturating_add(run).saturating_add(usize::from(part > 0));
    }
    Some(length)
}

fn wanted_length(name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    NAMES.iter().filter(|(part, _)| name.contains(part)).map(|(_, least)| *least).min()
}

/// `name = value`, `"name": "value"`, `scheme://user:value@host`.
fn assigned(text: &str, at: usize) -> Option<Found> {
    if text.as_bytes().get(at.checked_sub(1)?).is_some_and(|byte| matches!(byte, b'=' | b':')) {
        return None;
    }
    let named = before(text, at).trim_end_matches([' ', '"', '\'', '\\', ':']);
    let name_at = named.rfind(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '.'));
    let name = named.get(name_at.map_or(0, |at| at.saturating_add(1))..)?;
    if let Some(found) = in_address(text, at) {
        return Some(found);
    }
    let least = wanted_length(name)?;
    let rule = if name.to_ascii_lowercase().contains("pass") { "password" } else { "assigned-secret" };
    value(text, at.saturating_add(1), least, rule)
}

/// The password of a URL's userinfo (RFC 3986 section 3.2.1).
fn in_address(text: &str, at: usize) -> Option<Found> {
    let before = before(text, at);
    let user = before.get(before.rfind("://")?.checked_add(3)?..)?;
    if user.contains(['/', ' ', '@', '?', '#']) {
        return None;
    }
    let start = at.checked_add(1)?;
    let rest = behind(text, start);
    let end = rest.find(['@', '/', ' ', '"', '\'', '?', '#'])?;
    let is_password = end > 0 && rest.as_bytes().get(end) == Some(&b'@') && !rest.starts_with(['$', '[']);
    is_password.then(|| Found { rule: "password", range: start..start.saturating_add(end) })
}

/// `--name value`, and `-u user:value`.
fn flag(text: &str, at: usize) -> Option<Found> {
    let (name, argument) = behind(text, at).split_once(' ')?;
    let start = at.checked_add(name.len())?.checked_add(1)?;
    if matches!(name, "-u" | "--user") {
        let (user, password) = argument.split_once(':')?;
        let length = password.find([' ', '"', '\'']).unwrap_or(password.len());
        // `docker -u 1000:1000` is who, not what.
        if user.contains(' ') || password.bytes().take(length).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        return value(text, start.checked_add(user.len())?.checked_add(1)?, 4, "password");
    }
    let least = name.strip_prefix("--").filter(|name| !name.contains('=')).and_then(wanted_length)?;
    if argument.starts_with('-') { None } else { value(text, start, least, "password") }
}

/// The value that begins at `at`, behind blanks and a quotation mark, if it looks like one.
fn value(text: &str, at: usize, least: usize, rule: &'static str) -> Option<Found> {
    let rest = text.get(at..)?;
    let inner = rest.trim_start_matches([' ', '\\', '"', '\'']);
    // `Authorization: Basic dXNlcjpwYXNz`: the scheme is no secret.
    let inner = ["Basic ", "Token ", "Bearer "].iter().find_map(|scheme| inner.strip_prefix(scheme)).unwrap_or(inner);
    let start = text.len().checked_sub(inner.len())?;
    let length =
        inner.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ',' | ';' | '&' | '|' | ')' | '}'));
    let value = inner.get(..length.unwrap_or(inner.len()))?;
    let lower = value.to_ascii_lowercase();
    let stands_for_one = value.starts_with(['$', '<', '{', '%', '/', '[', '(', '=', '~'])
        || value.contains("://")
        || PLACEHOLDERS.iter().any(|word| lower.starts_with(word));
    let same = value.bytes().all(|byte| Some(byte) == value.bytes().next());
    // Short words are words; what is long, or has a figure in it, is not.
    let tail = value.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let one_case = tail.is_empty() || tail.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let wordy = least >= 8 && value.len() < 20 && one_case;
    let good = value.len() >= least && !stands_for_one && !same && !wordy;
    good.then(|| Found { rule, range: start..start.saturating_add(value.len()) })
}

#[cfg(test)]
mod tests;
