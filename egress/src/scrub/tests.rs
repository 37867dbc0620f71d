use super::*;
use proptest::prelude::*;

const SECRET: &[u8] = br#"sk-Ant/03+x"Y\z~aaab%7"#;

fn reference_base64(bytes: &[u8], alphabet: &[u8; 64]) -> Vec<u8> {
    let mut out = Vec::new();
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            out.push(alphabet[(word >> (18 - 6 * at) & 63) as usize]);
        }
    }
    out
}

fn hex(upper: bool) -> Vec<u8> {
    let text: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
    if upper { text.to_uppercase() } else { text }.into_bytes()
}

fn percent(all: bool, upper: bool) -> Vec<u8> {
    let one = |byte: &u8| match (all, upper) {
        (false, _) if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => char::from(*byte).to_string(),
        (_, true) => format!("%{byte:02X}"),
        (_, false) => format!("%{byte:02x}"),
    };
    SECRET.iter().map(one).collect::<String>().into_bytes()
}

/// Each with its name, made by other code than the scrubber's.
fn encodings() -> Vec<(String, Vec<u8>)> {
    let json = serde_json::to_string(std::str::from_utf8(SECRET).unwrap()).unwrap();
    let json = json.trim_start_matches('"').strip_suffix('"').unwrap().to_owned();
    let unicode: String = SECRET.iter().map(|byte| format!("\\u{byte:04X}")).collect();
    let mut all = vec![
        ("raw".to_owned(), SECRET.to_vec()),
        ("hex".to_owned(), hex(false)),
        ("HEX".to_owned(), hex(true)),
        ("percent".to_owned(), percent(false, true)),
        ("percent, lower".to_owned(), percent(false, false)),
        ("percent of all".to_owned(), percent(true, true)),
        ("json".to_owned(), json.clone().into_bytes()),
        ("json with \\/".to_owned(), json.replace('/', "\\/").into_bytes()),
        ("json \\u".to_owned(), unicode.into_bytes()),
    ];
    for (name, alphabet) in [("base64", STANDARD), ("base64url", URL)] {
        for before in 0..3 {
            let around = [&b"xyz"[..before], SECRET, b"!!"].concat();
            all.push((format!("{name} at {before}"), reference_base64(&around, alphabet)));
        }
    }
    all
}

/// What of the secret a reader could still make out: a window of any form of it.
fn assert_clean(name: &str, out: &[u8]) {
    assert!(out.windows(MARK.len()).any(|window| window == MARK), "{name}: nothing was taken out");
    for (form, fold) in forms(SECRET) {
        let found = out
            .windows(form.len())
            .any(|window| if fold { window.eq_ignore_ascii_case(&form) } else { window == form.as_slice() });
        assert!(!found, "{name}: {}", String::from_utf8_lossy(out));
    }
}

#[test]
fn secret_in_every_encoding_is_taken_out_at_every_border() {
    for (name, encoded) in encodings() {
        let stream = [b"{\"echo\":\"", encoded.as_slice(), b"\"}"].concat();
        for one in 0..=stream.len() {
            for two in [one, (one + 1).min(stream.len()), (one + 7).min(stream.len())] {
                let mut scrubber = Scrubber::new(Some(SECRET));
                let mut out = scrubber.push(&stream[..one]);
                out.extend(scrubber.push(&stream[one..two]));
                out.extend(scrubber.push(&stream[two..]));
                out.extend(scrubber.finish());
                assert_clean(&format!("{name} cut at {one} and {two}"), &out);
                assert!(out.starts_with(b"{\"echo\":\"") && out.ends_with(b"\"}"), "{name}: too much was taken");
            }
        }
    }
}

#[test]
fn secret_in_pieces_of_one_byte_is_taken_out() {
    for (name, encoded) in encodings() {
        let mut scrubber = Scrubber::new(Some(SECRET));
        let stream = [encoded.as_slice(), b" and ", &encoded].concat();
        let mut out: Vec<u8> = stream.iter().flat_map(|byte| scrubber.push(&[*byte])).collect();
        out.extend(scrubber.finish());
        assert_clean(&name, &out);
        assert_eq!(scrubber.taken(), 2, "{name}");
    }
}

#[test]
fn what_only_begins_like_the_secret_is_held_back_no_longer_than_needed() {
    let mut scrubber = Scrubber::new(Some(b"sk-secret-value"));
    assert_eq!(scrubber.push(b"data: sk-se"), b"data: ");
    assert_eq!(scrubber.push(b"ven "), b"sk-seven ");
    assert_eq!(scrubber.push(b"sk-secret-valu"), b"");
    assert_eq!(scrubber.finish(), b"sk-secret-valu");
    assert_eq!(scrubber.taken(), 0);
}

proptest! {
    #[test]
    fn other_bytes_are_given_back_as_they_were(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20)) {
        let mut scrubber = Scrubber::new(Some(b"0123456789abcdef0123"));
        let mut out = Vec::new();
        for piece in &pieces {
            out.extend(scrubber.push(piece));
        }
        out.extend(scrubber.finish());
        prop_assert_eq!(out, pieces.concat());
    }

    #[test]
    fn a_secret_that_repeats_itself_is_found_behind_its_own_beginnings(head in "(ab|aab|a){0,30}", cut in 0usize..200) {
        let secret = b"aabaabaaab";
        let stream = [head.as_bytes(), secret, b"..."].concat();
        let cut = cut.min(stream.len());
        let mut scrubber = Scrubber::new(Some(secret));
        let mut out = scrubber.push(&stream[..cut]);
        out.extend(scrubber.push(&stream[cut..]));
        out.extend(scrubber.finish());
        prop_assert!(!out.windows(secret.len()).any(|window| window == secret));
        prop_assert!(out.ends_with(b"..."));
    }
}
