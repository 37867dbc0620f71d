//! Values that are secret because of the name that they are given to: `name = value`, `"name": "value"`, `--name value`,
//! `scheme://user:value@host`. The value itself may look like anything.

use super::rules::HARMLESS;
use super::words::begins;
use super::{Span, random::Look};

/// How far a rule looks, in bytes: a text of many colons must not be read as often as it has colons.
const NEAR: usize = 256;

/// What a name says of its value.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Says {
    /// A key, if it looks like one.
    Perhaps,
    /// A secret, if it has the length of one and is no word.
    Secret(usize),
    /// A password, whatever it looks like.
    Password,
}

/// Parts of names that begin with this letter, and what they say.
const fn stems(letter: u8) -> &'static [(&'static str, Says)] {
    match letter {
        b'a' => &[
            ("authorization", Says::Secret(8)),
            ("auth", Says::Perhaps),
            ("apikey", Says::Secret(12)),
            ("api_key", Says::Secret(12)),
            ("api-key", Says::Secret(12)),
            ("api", Says::Perhaps),
            ("access_key", Says::Secret(12)),
            ("accesskey", Says::Secret(12)),
            ("accountkey", Says::Secret(12)),
        ],
        b'b' => &[("bearer", Says::Perhaps)],
        b'c' => &[("credential", Says::Secret(8)), ("cookie", Says::Perhaps), ("client", Says::Perhaps)],
        b'j' => &[("jwt", Says::Perhaps)],
        b'k' => &[("key", Says::Perhaps)],
        b'l' => &[("login", Says::Perhaps), ("license", Says::Perhaps)],
        b'p' => &[
            ("passw", Says::Password),
            ("passphrase", Says::Password),
            ("pass", Says::Perhaps),
            ("pwd", Says::Secret(6)),
            ("private_key", Says::Secret(12)),
            ("privatekey", Says::Secret(12)),
        ],
        b's' => &[
            ("secret", Says::Secret(8)),
            ("session", Says::Perhaps),
            ("sig", Says::Perhaps),
            ("seed", Says::Perhaps),
            ("salt", Says::Perhaps),
        ],
        b't' => &[("token", Says::Secret(12))],
        b'w' => &[("webhook", Says::Perhaps)],
        _ => &[],
    }
}

/// The first two letters of them: a bit for the second in the number for the first.
#[expect(clippy::indexing_slicing, reason = "worked out by the compiler, which would say so")]
const PAIRS: [u32; 32] = {
    let mut pairs = [0; 32];
    let mut letter = b'a';
    while letter <= b'z' {
        let mut rest = stems(letter);
        while let [(stem, _), tail @ ..] = rest {
            pairs[(letter & 31) as usize] |= 1 << (stem.as_bytes()[1] & 31);
            rest = tail;
        }
        letter += 1;
    }
    pairs
};

/// Values that stand for a value.
const PLACEHOLDERS: &[&str] =
    &["null", "none", "true", "false", "undefined", "changeme", "example", "your", "xxx", "***", "...", "redacted"];

/// What a name says of its value; the strongest part of it counts.
pub(super) fn says(name: &[u8]) -> Option<Says> {
    // A name that is shouted is one of the environment.
    let shouted = name.len() >= 6 && name.contains(&b'_') && !name.iter().any(u8::is_ascii_lowercase);
    let mut strongest = shouted.then_some(Says::Perhaps);
    if name.len() >= 4 && name.get(name.len() - 4..).is_some_and(|tail| tail.eq_ignore_ascii_case(b"pass")) {
        return Some(Says::Password);
    }
    for (at, pair) in name.windows(2).enumerate() {
        let [one, two] = pair else { continue };
        if PAIRS.get(usize::from(one & 31)).is_none_or(|seconds| seconds >> (two & 31) & 1 == 0) {
            continue;
        }
        let rest = name.get(at..).unwrap_or_default();
        for (stem, says) in stems(one | 0x20) {
            // Most are told by their second letter, without a call.
            if stem.as_bytes().get(1) == Some(&(two | 0x20)) && begins(rest, stem) {
                strongest = strongest.max(Some(*says));
            }
        }
    }
    strongest
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// The value that stands behind the `=`, `:`, `>`, `,`, `(` or quotation mark at `at`, if what is before it says that it is
/// secret.
pub(super) fn assigned(text: &str, at: usize) -> Option<Span> {
    let bytes = text.as_bytes();
    let sign = *bytes.get(at)?;
    // Times, addresses and numbers are many.
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    if digit(at.checked_sub(1)) && digit(at.checked_sub(2)) && digit(at.checked_add(1)) {
        return None;
    }
    let before = bytes.get(at.saturating_sub(NEAR)..at)?;
    if before.last().is_some_and(|byte| matches!(byte, b'=' | b':')) && sign != b'=' {
        return None;
    }
    let blank =
        |byte: &u8| matches!(byte, b' ' | b'"' | b'\'' | b'\\' | b':' | b'=' | b'`' | b')' | b']' | b'?' | b'!');
    let end = before.iter().rposition(|byte| !blank(byte))?.checked_add(1)?;
    let start = before.get(..end)?.iter().rposition(|byte| !is_name(*byte)).map_or(0, |at| at + 1);
    let name = before.get(start..end)?;
    let said = match name {
        // `name="password" value="..."`, `the password is '...'`.
        b"value" | b"Value" if sign == b'=' => last_words(before.get(..start)?),
        b"is" | b"be" | b"by" | b"was" | b"to" if matches!(sign, b'"' | b'\'') => last_words(before.get(..start)?),
        _ => says(name),
    }?;
    // What is listed, passed or enclosed is a value only between quotation marks or tags.
    let next = bytes.get(at + 1..)?.iter().find(|byte| !matches!(byte, b' ' | b'=' | b'>'))?;
    match sign {
        b',' | b'(' if !matches!(next, b'"' | b'\'' | b'`') => return None,
        b'"' | b'\'' if said == Says::Perhaps || before.last() != Some(&b' ') => return None,
        b'>' if before.get(start.checked_sub(1)?) != Some(&b'<') && before.last() != Some(&b'=') => return None,
        _ => {}
    }
    let harmless = said == Says::Perhaps && HARMLESS.are_in(name);
    if harmless { None } else { value(text, if matches!(sign, b'"' | b'\'') { at } else { at + 1 }, said) }
}

/// What a sentence, or the attributes of an element, says of what comes next.
fn last_words(before: &[u8]) -> Option<Says> {
    let line = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let words = before.get(line.max(before.len().saturating_sub(64))..)?;
    says(words).filter(|says| *says > Says::Perhaps)
}

/// The password of a URL's userinfo (RFC 3986 section 3.2.1), whose `://` stands at `at`.
pub(super) fn in_address(text: &str, at: usize) -> Option<Span> {
    let start = at.checked_add(3)?;
    let rest = text.get(start..text.floor_char_boundary(start.saturating_add(NEAR)))?;
    let end = rest.find(['/', ' ', '"', '\'', '?', '#', '\n', '<', '>']).unwrap_or(rest.len());
    let end = rest.get(..end)?.rfind('@')?;
    let (user, password) = rest.get(..end)?.split_once(':')?;
    let from = start.checked_add(user.len())?.checked_add(1)?;
    let stands = password.is_empty() || password.starts_with(['$', '[', '<', '{', '%']);
    (!stands).then(|| Span::new("password", from, from + password.len()))
}

/// `--name value`, and `-u user:value`, whose word is `start..end`.
pub(super) fn flag(text: &str, start: usize, end: usize) -> Option<Span> {
    let bytes = text.as_bytes();
    if bytes.get(end) != Some(&b' ') {
        return None;
    }
    let name = text.get(start..end)?;
    let begin = end.checked_add(1)?;
    let argument = text.get(begin..text.floor_char_boundary(begin.saturating_add(NEAR)))?;
    if matches!(name, "-u" | "--user") {
        let user = argument.find(':')?;
        let password = argument.get(user + 1..)?;
        let length = password.find([' ', '"', '\'', '\n']).unwrap_or(password.len());
        // `docker -u 1000:1000` is who, not what.
        if argument.get(..user)?.contains([' ', '\n'])
            || password.bytes().take(length).all(|byte| byte.is_ascii_digit())
        {
            return None;
        }
        return value(text, begin + user + 1, Says::Password);
    }
    if name == "-p" {
        // Of many programs; a port, a path or a flag is none. Behind a user it is a password.
        let word = argument.get(..argument.find([' ', '\n']).unwrap_or(argument.len()))?;
        let before = bytes.get(start.saturating_sub(64)..start)?;
        if before.windows(4).any(|window| window == b" -u ") && !word.starts_with('-') {
            return value(text, begin, Says::Password);
        }
        let plain = word.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.' | b'/' | b'-'));
        let path = word.contains('/') || word.bytes().all(|byte| byte.is_ascii_lowercase());
        return if plain || path { None } else { value(text, begin, Says::Secret(6)) };
    }
    let name = name.strip_prefix("--").or_else(|| name.strip_prefix('-').filter(|name| name.len() >= 4))?;
    let says = says(name.as_bytes())?;
    if argument.starts_with('-') { None } else { value(text, begin, says) }
}

/// `login NAME password VALUE` of a netrc, whose word `password` is `start..end`.
pub(super) fn netrc(text: &str, start: usize, end: usize) -> Option<Span> {
    let before = text.as_bytes().get(start.saturating_sub(96)..start)?;
    let login = before.windows(6).any(|window| window == b"login ");
    if login && text.as_bytes().get(end) == Some(&b' ') { value(text, end + 1, Says::Password) } else { None }
}

/// The value that begins at `at`, behind blanks and a quotation mark, if it looks like one.
fn value(text: &str, at: usize, says: Says) -> Option<Span> {
    let rest = text.get(at..)?;
    let inner = rest.trim_start_matches([' ', '=', '>', ':', '[', '(']).trim_start_matches('\\');
    let quote = inner.chars().next().filter(|c| matches!(c, '"' | '\'' | '`'));
    let inner = if quote.is_some() { inner.get(1..)? } else { inner };
    // A quotation mark within another, as of a shell's argument.
    let inner = inner.strip_prefix("\\\"").or_else(|| inner.strip_prefix('"')).unwrap_or(inner);
    // `Authorization: Basic dXNlcjpwYXNz`: the scheme is no secret.
    let inner = ["Basic ", "Token ", "Bearer "].iter().find_map(|scheme| inner.strip_prefix(scheme)).unwrap_or(inner);
    let start = text.len().checked_sub(inner.len())?;
    let ends = |c: char| match quote {
        // Between quotation marks anything goes, but for the end of the line.
        Some(quote) => c == quote || matches!(c, '\\' | '\n' | '"'),
        None => {
            c.is_whitespace() || matches!(c, '"' | '\'' | '\\' | ',' | ';' | '&' | '|' | ')' | '}' | '<' | '`' | ']')
        }
    };
    let value = inner.get(..inner.find(ends).unwrap_or(inner.len()))?;
    let stands_for_one = value.starts_with(['$', '<', '{', '%', '/', '[', '=', '~'])
        || value.contains("://")
        || value.contains("[redacted:")
        || PLACEHOLDERS.iter().any(|word| begins(value.as_bytes(), word));
    let same = value.len() < 20 && value.bytes().all(|byte| Some(byte) == value.bytes().next());
    let span = |rule| Some(Span::new(rule, start, start + value.len()));
    let good = !value.is_empty() && !stands_for_one && !same;
    match says {
        Says::Password if good && value.len() >= 4 => span("password"),
        Says::Secret(least) if good && value.len() >= least && !is_word(value, quote.is_some()) => {
            span("assigned-secret")
        }
        Says::Perhaps if good && Look::of(value.as_bytes()).is_drawn() && !value.contains(' ') => {
            span("assigned-secret")
        }
        _ => None,
    }
}

/// Short words are words; what is long, or has a figure in it, is not.
fn is_word(value: &str, quoted: bool) -> bool {
    let tail = value.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let one_case = tail.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.' | b'-'));
    value.contains(' ') || !quoted && value.contains('(') || value.len() < 20 && one_case
}
