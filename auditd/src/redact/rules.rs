//! The rules, over a text from its first byte to its last: what a run of characters is, and what a sign says of what stands
//! behind it.

use super::random::Look;
use super::shapes::{Set, run};
use super::words::Words;
use super::{Span, named, replaced, shapes};

/// A character that words, numbers, paths and keys are made of.
pub(super) const RUN: u8 = 1;
/// One behind which a value may stand.
const SIGN: u8 = 2;

#[expect(clippy::indexing_slicing, reason = "worked out by the compiler, which would say so")]
const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let at = byte as u8;
        if at.is_ascii_alphanumeric() || matches!(at, b'_' | b'-' | b'+' | b'/' | b'.' | b'~') {
            classes[byte] = RUN;
        } else if matches!(at, b'=' | b':' | b'(' | b',' | b'>' | b'$' | b'[' | b'"' | b'\'') {
            classes[byte] = SIGN;
        }
        byte += 1;
    }
    classes
};

pub(super) fn class(byte: u8) -> u8 {
    CLASSES.get(usize::from(byte)).copied().unwrap_or_default()
}

/// Spans that the rules find, in order, none over another.
pub(super) fn by_rules(text: &str, spans: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let found = match class(*byte) {
            RUN => {
                let length = bytes.get(at..).unwrap_or_default().iter().take_while(|byte| class(**byte) == RUN).count();
                let end = at + length;
                match in_run(text, at, end) {
                    Some(span) => Some(span),
                    None => {
                        at = end;
                        continue;
                    }
                }
            }
            SIGN => match replaced(bytes.get(at..).unwrap_or_default()) {
                Some(length) => {
                    at += length;
                    continue;
                }
                None => behind_sign(text, at, *byte),
            },
            _ => None,
        };
        match found {
            Some(span) => {
                at = span.end.max(at + 1);
                spans.push(span);
            }
            None => at += 1,
        }
    }
}

fn behind_sign(text: &str, at: usize, sign: u8) -> Option<Span> {
    let rest = text.as_bytes().get(at..)?;
    match sign {
        b'$' => shapes::crypt(rest).map(|length| Span::new("password-hash", at, at + length)),
        b'[' => None,
        b':' if rest.starts_with(b"://") => named::in_address(text, at),
        // Behind a word and a blank.
        b'"' | b'\'' if !matches!(text.as_bytes().get(at.saturating_sub(2)..at), Some([word, b' ']) if word.is_ascii_alphabetic()) => {
            None
        }
        // A key that shows its service is called by that.
        _ => named::assigned(text, at).map(|span| {
            let of_service = shapes::prefixed(text.as_bytes(), span.start, span.end);
            of_service.filter(|key| key.start == span.start && key.end >= span.end).unwrap_or(span)
        }),
    }
}

/// Words that speak of keys, or name services whose keys have no shape of their own.
pub(super) static CONTEXT: Words = Words::new(&[
    "adobe",
    "algolia",
    "alibaba",
    "amplitude",
    "apikey",
    "artifactory",
    "asana",
    "atlassian",
    "auth",
    "aws",
    "azure",
    "bearer",
    "bitbucket",
    "bitly",
    "cloudflare",
    "coinbase",
    "confluent",
    "cookie",
    "cred",
    "datadog",
    "discord",
    "dropbox",
    "dsn",
    "dynatrace",
    "elastic",
    "facebook",
    "fastly",
    "firebase",
    "flickr",
    "foursquare",
    "gitter",
    "grafana",
    "heroku",
    "hubspot",
    "intercom",
    "jenkins",
    "jfrog",
    "jwt",
    "key",
    "launchdarkly",
    "license",
    "linkedin",
    "login",
    "mailchimp",
    "mailgun",
    "mapbox",
    "netlify",
    "newrelic",
    "okta",
    "pagerduty",
    "pass",
    "paypal",
    "plaid",
    "postmark",
    "pwd",
    "rapidapi",
    "salesforce",
    "secret",
    "segment",
    "sentry",
    "session",
    "sid",
    "sig",
    "slack",
    "snyk",
    "sonar",
    "spotify",
    "square",
    "telegram",
    "token",
    "trello",
    "twilio",
    "twitch",
    "twitter",
    "typeform",
    "vercel",
    "webhook",
    "yandex",
    "zendesk",
    "zoom",
]);
/// Words that speak of what is no secret.
pub(super) static HARMLESS: Words = Words::new(&[
    "blob",
    "checksum",
    "commit",
    "digest",
    "etag",
    "hash",
    "h1:",
    "integrity",
    "md5",
    "public",
    "revision",
    "sha",
]);
/// Those that speak of keys only right before one.
pub(super) static NEXT_TO: Words = Words::new(&["_pat", "access", "api_", "api/v", "private"]);
/// How far around a value is looked for them, in bytes.
const AROUND: usize = 48;
const BESIDE: usize = 16;

/// What is in a run of characters, or is told by it to be behind it.
fn in_run(text: &str, start: usize, end: usize) -> Option<Span> {
    let bytes = text.as_bytes();
    let run_bytes = bytes.get(start..end)?;
    match run_bytes.first()? {
        b'p' if run_bytes == b"password" => return named::netrc(text, start, end),
        b'-' if run_bytes.starts_with(b"-----BEGIN") => {
            return shapes::armour(text.get(start..)?).map(|length| Span::new("private-key", start, start + length));
        }
        b'-' => {
            if let Some(span) = named::flag(text, start, end) {
                return Some(span);
            }
        }
        b'0'..=b'9' if bytes.get(end) == Some(&b':') => {
            if let Some(length) = shapes::telegram(bytes.get(start..)?) {
                return Some(Span::new("telegram-token", start, start + length));
            }
        }
        b'B' | b'b' if run_bytes.eq_ignore_ascii_case(b"bearer") && bytes.get(end) == Some(&b' ') => {
            let length = run(bytes.get(end + 1..)?, Set::Dotted);
            return (length >= 16).then(|| Span::new("bearer-token", end + 1, end + 1 + length));
        }
        _ => {}
    }
    if run_bytes.len() < 16 {
        return None;
    }
    shapes::prefixed(bytes, start, end).or_else(|| drawn(bytes, start, end))
}

/// A part of the run that was drawn at random, and is a key by what stands around it.
fn drawn(bytes: &[u8], start: usize, end: usize) -> Option<Span> {
    let run_bytes = bytes.get(start..end)?;
    if !Look::may_be_drawn(run_bytes) {
        return None;
    }
    let padding = bytes.get(end..)?.iter().take(2).take_while(|byte| **byte == b'=').count();
    // Names of machines and of classes have dots, and there are many.
    let whole = if run_bytes.contains(&b'.') { None } else { Some(Look::of(run_bytes)).filter(Look::is_drawn) };
    let (from, to, look) = if let Some(whole) = whole {
        (start, end + padding, whole)
    } else {
        let mut at = start;
        run_bytes.split(|byte| matches!(byte, b'/' | b'.' | b'~')).find_map(|part| {
            let here = at;
            at += part.len() + 1;
            let short = part.len() < 16 || part.len() == run_bytes.len() || !Look::may_be_drawn(part);
            let look = if short { return None } else { Look::of(part) };
            look.is_drawn().then_some((here, here + part.len(), look))
        })?
    };
    let beside = bytes.get(from.saturating_sub(BESIDE)..from)?;
    if look.is_hex() && look.length() < 32 || HARMLESS.are_in(beside) {
        return None;
    }
    let sure = look.is_drawn_for_sure() || shapes::labelled(bytes.get(from..to)?);
    let before = bytes.get(from.saturating_sub(AROUND)..from)?;
    let key = sure || CONTEXT.are_in(before) || NEXT_TO.are_in(beside);
    key.then(|| Span::new("drawn-at-random", from, to))
}
