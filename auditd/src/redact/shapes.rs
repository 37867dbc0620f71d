//! What keys look like that show themselves: what those of known services begin with, and a few forms. From the services'
//! own documentation.

use super::rules::{RUN, class};
use super::{Span, random::Look};

/// Characters that a value is made of.
#[derive(Clone, Copy)]
pub(super) enum Set {
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

pub(super) fn run(bytes: &[u8], set: Set) -> usize {
    bytes.iter().take_while(|byte| set.has(**byte)).count()
}

/// What keys of a service begin with, what follows, and how much of it there is at least.
pub(super) struct Prefix(pub &'static str, pub &'static str, pub Set, pub usize);

/// In the order of their first bytes; longer ones stand before shorter ones.
pub(super) const PREFIXES: &[Prefix] = &[
    Prefix("google-token", "1//0", Set::WordDash, 40),
    Prefix("age-key", "AGE-SECRET-KEY-1", Set::UpperDigits, 50),
    Prefix("atlassian-token", "ATATT3", Set::Dotted, 40),
    Prefix("atlassian-token", "ATBB", Set::Word, 28),
    Prefix("aws-key-id", "AKIA", Set::UpperDigits, 16),
    Prefix("aws-key-id", "ASIA", Set::UpperDigits, 16),
    Prefix("aws-key-id", "A3T", Set::UpperDigits, 17),
    Prefix("google-key", "AIza", Set::WordDash, 35),
    Prefix("facebook-token", "EAA", Set::Word, 60),
    Prefix("square-token", "EAAA", Set::WordDash, 60),
    Prefix("gitlab-token", "GR1348941", Set::WordDash, 20),
    Prefix("google-secret", "GOCSPX-", Set::WordDash, 20),
    Prefix("newrelic-key", "NRAK-", Set::UpperDigits, 24),
    Prefix("postman-key", "PMAK-", Set::WordDash, 50),
    Prefix("sendgrid-key", "SG.", Set::Dotted, 40),
    Prefix("twilio-key", "SK", Set::Hex, 32),
    Prefix("adafruit-key", "aio_", Set::Word, 28),
    Prefix("terraform-token", "atlasv1", Set::Dotted, 50),
    Prefix("databricks-token", "dapi", Set::Hex, 32),
    Prefix("digitalocean-token", "dop_v1_", Set::Hex, 64),
    Prefix("digitalocean-token", "doo_v1_", Set::Hex, 64),
    Prefix("docker-token", "dckr_pat_", Set::WordDash, 20),
    Prefix("doppler-token", "dp.", Set::Dotted, 40),
    Prefix("azure-token", "eyJ", Set::Dotted, 200),
    Prefix("fastly-token", "fo1_", Set::WordDash, 30),
    Prefix("figma-token", "figd_", Set::WordDash, 30),
    Prefix("flyio-token", "fm2_", Set::Dotted, 60),
    Prefix("github-token", "github_pat_", Set::Word, 36),
    Prefix("github-token", "ghp_", Set::Word, 30),
    Prefix("github-token", "gho_", Set::Word, 30),
    Prefix("github-token", "ghs_", Set::Word, 30),
    Prefix("github-token", "ghu_", Set::Word, 30),
    Prefix("github-token", "ghr_", Set::Word, 30),
    Prefix("gitlab-token", "glpat-", Set::WordDash, 20),
    Prefix("gitlab-token", "glrt-", Set::WordDash, 20),
    Prefix("gitlab-token", "gldt-", Set::WordDash, 20),
    Prefix("gitlab-token", "glptt-", Set::Hex, 40),
    Prefix("grafana-token", "glc_", Set::Dotted, 32),
    Prefix("grafana-token", "glsa_", Set::Word, 40),
    Prefix("groq-key", "gsk_", Set::Word, 30),
    Prefix("hashicorp-token", "hvs.", Set::WordDash, 24),
    Prefix("hashicorp-token", "hvb.", Set::WordDash, 24),
    Prefix("huggingface-token", "hf_", Set::Word, 30),
    Prefix("mailgun-key", "key-", Set::Hex, 32),
    Prefix("linear-key", "lin_api_", Set::Word, 30),
    Prefix("npm-token", "npm_", Set::Word, 36),
    Prefix("notion-token", "ntn_", Set::Word, 40),
    Prefix("nuget-key", "oy2", Set::Word, 43),
    Prefix("airtable-token", "pat", Set::Dotted, 70),
    Prefix("planetscale-token", "pscale_", Set::Dotted, 32),
    Prefix("pulumi-token", "pul-", Set::Hex, 40),
    Prefix("pypi-token", "pypi-", Set::WordDash, 50),
    Prefix("rubygems-key", "rubygems_", Set::Hex, 48),
    Prefix("stripe-key", "rk_live_", Set::Word, 20),
    Prefix("stripe-key", "rk_test_", Set::Word, 20),
    Prefix("anthropic-key", "sk-ant-", Set::WordDash, 20),
    Prefix("dropbox-token", "sl.", Set::WordDash, 60),
    Prefix("notion-token", "secret_", Set::Word, 40),
    Prefix("openai-key", "sk-proj-", Set::WordDash, 20),
    Prefix("openai-key", "sk-svcacct-", Set::WordDash, 20),
    Prefix("openrouter-key", "sk-or-", Set::WordDash, 20),
    Prefix("openai-key", "sk-", Set::WordDash, 32),
    Prefix("shopify-token", "shpat_", Set::Hex, 32),
    Prefix("shopify-token", "shpca_", Set::Hex, 32),
    Prefix("shopify-token", "shppa_", Set::Hex, 32),
    Prefix("shopify-token", "shpss_", Set::Hex, 32),
    Prefix("square-token", "sq0", Set::WordDash, 22),
    Prefix("stripe-key", "sk_live_", Set::Word, 20),
    Prefix("stripe-key", "sk_test_", Set::Word, 20),
    Prefix("tailscale-key", "tskey-", Set::WordDash, 20),
    Prefix("stripe-key", "whsec_", Set::Dotted, 24),
    Prefix("sendinblue-key", "xkeysib-", Set::WordDash, 60),
    Prefix("slack-token", "xapp-", Set::WordDash, 20),
    Prefix("slack-token", "xoxb-", Set::WordDash, 20),
    Prefix("slack-token", "xoxp-", Set::WordDash, 20),
    Prefix("slack-token", "xoxa-", Set::WordDash, 20),
    Prefix("slack-token", "xoxs-", Set::WordDash, 20),
    Prefix("slack-token", "xoxe", Set::Dotted, 40),
    Prefix("xai-key", "xai-", Set::WordDash, 40),
    Prefix("google-token", "ya29.", Set::Dotted, 20),
];

/// Where those that begin with a byte begin and end in the table.
#[expect(clippy::indexing_slicing, reason = "worked out by the compiler, which would say so")]
const BEGINS: [(usize, usize); 128] = {
    let mut begins = [(0, 0); 128];
    let mut at = 0;
    while at < PREFIXES.len() {
        let first = PREFIXES[at].1.as_bytes()[0] as usize;
        if begins[first].1 == 0 {
            begins[first].0 = at;
        }
        at += 1;
        begins[first].1 = at;
    }
    begins
};

/// Bytes of the shortest of these keys.
pub(super) const SHORTEST: usize = 20;

/// A key of a known service that begins the run `start..end`, or a part of it behind a separator.
pub(super) fn prefixed(bytes: &[u8], start: usize, end: usize) -> Option<Span> {
    let mut at = start;
    while end.saturating_sub(at) >= SHORTEST {
        let here = bytes.get(at..).unwrap_or_default();
        if here.starts_with(b"eyJ")
            && let Some(length) = three_parts(here)
        {
            return Some(Span::new("jwt", at, at + length));
        }
        let first = usize::from(here.first().copied().unwrap_or_default());
        let (from, to) = BEGINS.get(first).copied().unwrap_or_default();
        let second = here.get(1);
        let found = PREFIXES.get(from..to).unwrap_or_default().iter().find_map(|Prefix(rule, prefix, set, least)| {
            // Most are told by their second byte, without a call.
            if prefix.as_bytes().get(1) != second {
                return None;
            }
            let rest = here.strip_prefix(prefix.as_bytes())?;
            let length = run(rest, *set);
            (length >= *least).then(|| Span::new(rule, at, at + prefix.len() + length))
        });
        if found.is_some() {
            return found;
        }
        // The next word of the run.
        let word = here.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        at += word
            + here.get(word..).unwrap_or_default().iter().take_while(|b| !b.is_ascii_alphanumeric()).count().max(1);
    }
    None
}

/// `name_prefix_` and something drawn behind it, as many services make their keys.
pub(super) fn labelled(run: &[u8]) -> bool {
    let tail = run.iter().rposition(|byte| matches!(byte, b'_' | b'-' | b'.')).map_or(0, |at| at + 1);
    let (label, tail) = run.split_at_checked(tail).unwrap_or_default();
    let letters = label.first().is_some_and(u8::is_ascii_lowercase)
        && label
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.'));
    let look = Look::of(tail);
    (3..=24).contains(&label.len()) && letters && tail.len() >= 24 && look.is_drawn() && !label.starts_with(b"sha")
}

/// A private key with its armour; to the end of the text where the armour does not end.
pub(super) fn armour(text: &str) -> Option<usize> {
    let label = text.strip_prefix("-----BEGIN ")?.split_once("-----")?.0;
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
pub(super) fn telegram(bytes: &[u8]) -> Option<usize> {
    let id = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let rest = bytes.get(id..)?.strip_prefix(b":")?;
    ((8..=10).contains(&id) && run(rest, Set::WordDash) == 35).then(|| id + 36)
}

/// A JSON Web Token (RFC 7519), its third part perhaps cut off.
pub(super) fn three_parts(bytes: &[u8]) -> Option<usize> {
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

/// A password's hash of crypt(3): `$2b$10$...`, `$6$...`, `$argon2id$...`. It is tried out at leisure.
pub(super) fn crypt(bytes: &[u8]) -> Option<usize> {
    let scheme = bytes.strip_prefix(b"$")?;
    let name = scheme.iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
    let known = matches!(
        scheme.get(..name)?,
        b"1" | b"2"
            | b"2a"
            | b"2b"
            | b"2x"
            | b"2y"
            | b"5"
            | b"6"
            | b"7"
            | b"8"
            | b"9"
            | b"y"
            | b"H"
            | b"P"
            | b"apr1"
            | b"argon2d"
            | b"argon2i"
            | b"argon2id"
            | b"krb5asrep"
            | b"krb5pa"
            | b"krb5tgs"
            | b"pbkdf2"
            | b"scrypt"
            | b"sha1"
    );
    let hash = |byte: &u8| class(*byte) & RUN != 0 || matches!(byte, b'$' | b',' | b'=' | b'@' | b':' | b'*');
    let length = bytes.iter().take_while(|byte| hash(byte)).count();
    (known && scheme.get(name) == Some(&b'$') && length >= 24).then_some(length)
}
