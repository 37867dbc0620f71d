//! A thousand secrets, planted in every coat at every place, and nothing else found.

use super::*;
use crate::redact::Redactor;
use ::base64::Engine as _;
use ::base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

const KEY: [u8; 32] = [9; 32];

/// As the vault makes it.
fn print(secret: &[u8], at: usize) -> Fingerprint {
    Fingerprint {
        tag: tag(&KEY, secret[at..at + WINDOW].try_into().unwrap()),
        at: at.try_into().unwrap(),
        length: secret.len().try_into().unwrap(),
        mac: fingerprint(&KEY, secret),
    }
}

fn knowing(secrets: &[Vec<u8>]) -> Redactor {
    let mut redactor = Redactor::new(&[7; 32]);
    let prints = secrets.iter().map(|secret| print(secret, secret.len() / 2 - WINDOW / 2)).collect();
    redactor.learn(Known::new(KEY, prints));
    redactor
}

/// Numbers that look drawn, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    /// Of letters and signs that no rule of a shape or a name takes for a key: what is found is found by its fingerprint.
    fn secret(&mut self) -> Vec<u8> {
        const SIGNS: &[u8] = b"qwzx!#^&*;?|<{}@\"\\\xc3\xa9 ";
        let length = 16 + self.below(60);
        let mut secret: Vec<u8> = (0..length).map(|_| SIGNS[self.below(SIGNS.len())]).collect();
        // Text, as all that auditd writes.
        secret = String::from_utf8_lossy(&secret).into_owned().into_bytes();
        secret
    }
}

fn percent(bytes: &[u8], all: bool) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() && !all;
    bytes.iter().map(|byte| if plain(byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Every coat that a secret is planted in, with `before` and `behind` as its neighbours within the coat.
fn coats(secret: &[u8], before: &str, behind: &str) -> Vec<(&'static str, String)> {
    let text = String::from_utf8(secret.to_vec()).unwrap();
    let inner = [before.as_bytes(), secret, behind.as_bytes()].concat();
    let json = serde_json::to_string(&text).unwrap();
    let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    let lower = crate::chain::hex(&inner);
    vec![
        ("raw", text),
        ("base64", STANDARD.encode(&inner)),
        ("base64 for addresses", URL_SAFE_NO_PAD.encode(&inner)),
        ("hex", lower.clone()),
        ("upper hex", lower.to_uppercase()),
        ("percent", percent(secret, false)),
        ("percent of all", percent(secret, true)),
        ("percent of base64", percent(STANDARD.encode(&inner).as_bytes(), false)),
        ("JSON", json[1..json.len() - 1].to_owned()),
        ("JSON of all", escaped),
    ]
}

/// Plants each of a thousand secrets, in those of the coats and alignments that `takes` says.
fn plant(takes: impl Fn(usize) -> bool) -> usize {
    let mut random = Random(1);
    let secrets: Vec<_> = (0..1_000).map(|_| random.secret()).collect();
    let redactor = knowing(&secrets);
    let (mut way, mut planted) = (0, 0);
    for secret in &secrets {
        for alignment in 0..3 {
            for (coat, dressed) in coats(secret, &"abc"[..alignment], &"xyz"[..random.below(4)]) {
                way += 1;
                if !takes(way) {
                    continue;
                }
                let before = "run it with the thing that was said and no other ".repeat(3);
                let from = random.below(before.len());
                let clean = redactor.clean(&format!("{} {dressed} --fast", &before[from..])).into_owned();
                planted += 1;
                assert!(clean.contains("[redacted:vault-secret:"), "{coat} of {secret:?} at {alignment}: {clean}");
                assert!(!clean.contains(&dressed), "{coat}");
            }
        }
    }
    planted
}

#[test]
fn thousand_secrets_are_found_whatever_their_coat() {
    // 13 has nothing in common with the number of ways, so that each comes up.
    assert_eq!(plant(|way| way % 13 == 0), 2_307);
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_thousand_secrets_are_found_in_every_coat_at_every_place_and_alignment() {
    assert_eq!(plant(|_| true), 30_000);
}

#[test]
fn nothing_is_found_in_texts_without_a_secret() {
    let mut random = Random(2);
    let secrets: Vec<_> = (0..1_000).map(|_| random.secret()).collect();
    let known = knowing(&secrets).known;
    let mut spans = Vec::new();
    for text in [include_str!("../../../../Cargo.lock"), include_str!("../../../../docs/FORMATS.md")] {
        text.lines().chain([text]).for_each(|line| known.find(line, &mut spans));
    }
    let other = random.secret();
    coats(&other, "", "").iter().for_each(|(_, dressed)| known.find(dressed, &mut spans));
    assert_eq!(spans, []);
}

#[test]
fn secret_that_is_a_byte_off_is_another() {
    let secret = b"qwzx!#^&*;?|<{}@ qwzx".to_vec();
    let redactor = knowing(std::slice::from_ref(&secret));
    for at in 0..secret.len() {
        let mut other = secret.clone();
        other[at] = if other[at] == b'q' { b'w' } else { b'q' };
        let text = String::from_utf8(other).unwrap();
        assert_eq!(redactor.clean(&text), text, "{at}");
    }
    assert!(redactor.clean("qwzx!#^&*;?|<{}@ qwzx").starts_with("[redacted:vault-secret:"));
}

#[test]
fn new_secrets_replace_those_that_were_known() {
    let (old, new) = (b"qwzx!#^&*;?|<{}@ old".to_vec(), b"qwzx!#^&*;?|<{}@ new".to_vec());
    let mut redactor = knowing(&[old]);
    redactor.learn(Known::new(KEY, vec![print(&new, 4)]));
    assert_eq!(redactor.clean("say qwzx!#^&*;?|<{}@ old"), "say qwzx!#^&*;?|<{}@ old");
    assert!(redactor.clean_name("qwzx!#^&*;?|<{}@ new").starts_with("[redacted:vault-secret:"));
}

#[test]
fn fingerprint_that_makes_no_sense_is_left_out() {
    let secret = b"qwzx!#^&*;?|<{}@ qwzx".to_vec();
    let good = print(&secret, 2);
    let known = Known::new(KEY, vec![Fingerprint { at: u16::MAX, ..good }, Fingerprint { length: 3, ..good }, good]);
    assert_eq!(known.len(), 1);
}

proptest! {
    #[test]
    fn hostile_text_never_panics_and_spans_lie_in_it(text in "[%\\\\u0-9a-fA-F+/=\u{e9}A-Z]{0,200}") {
        let known = Known::new(KEY, vec![print(b"qwzx!#^&*;?|<{}@ qwzx", 2)]);
        let mut spans = Vec::new();
        known.find(&text, &mut spans);
        prop_assert!(spans.iter().all(|span| span.start <= span.end && span.end <= text.len()));
        for run in runs(text.as_bytes(), 7, |byte| nibble(byte).is_some()) {
            prop_assert!(run.len() >= 7 && text.as_bytes()[run].iter().all(u8::is_ascii_hexdigit));
        }
    }

    #[test]
    fn runs_are_all_that_there_are(bytes in prop::collection::vec(prop_oneof![4 => Just(b'a'), 1 => Just(b' ')], 0..80)) {
        let found: Vec<_> = runs(&bytes, 5, |byte| byte == b'a').collect();
        let mut expected = Vec::new();
        let mut at = 0;
        for word in bytes.split(|byte| *byte == b' ') {
            if word.len() >= 5 {
                expected.push(at..at + word.len());
            }
            at += word.len() + 1;
        }
        prop_assert_eq!(found, expected);
    }
}
