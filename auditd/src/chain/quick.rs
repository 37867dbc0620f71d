//! The fields that hold the chain together, out of a line as auditd writes most of them: compact, in ASCII, without an escape,
//! a list or an object in it. A check of a log spends its time here. Every line is hostile: what is taken is JSON in which each
//! of the fields stands once, as serde_json would read it, and whatever is not of that form is left to serde_json.

use super::Links;
use std::borrow::Cow;

/// One in each byte of a word, and the highest bit of each.
const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// How many bytes at the beginning stand for themselves in a string of JSON and are ASCII: neither a quotation mark nor a
/// backslash, and no control. Eight at a time; a borrow makes a byte look special only behind one that is.
fn plain(bytes: &[u8]) -> usize {
    let holds = |word: u64, byte: u8| {
        let zero = word ^ (ONES * u64::from(byte));
        zero.wrapping_sub(ONES) & !zero
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let mut count = 0usize;
    for word in words {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let special = (control | holds(word, b'"') | holds(word, b'\\') | word) & HIGH;
        if special != 0 {
            return count.saturating_add(special.trailing_zeros() as usize / 8);
        }
        count = count.saturating_add(8);
    }
    let is_plain = |byte: &&u8| (0x20..0x80).contains(*byte) && !matches!(**byte, b'"' | b'\\');
    count.saturating_add(rest.iter().take_while(is_plain).count())
}

/// What is left of a line.
struct Rest<'l>(&'l [u8]);

impl<'l> Rest<'l> {
    fn skip(&mut self, token: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    /// A string with its quotation marks; its bytes are ASCII.
    fn bytes(&mut self) -> Option<&'l [u8]> {
        self.skip(b"\"")?;
        let (text, rest) = self.0.split_at_checked(plain(self.0))?;
        self.0 = rest.strip_prefix(b"\"")?;
        Some(text)
    }

    fn string(&mut self) -> Option<&'l str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A number without a sign, a fraction or an exponent.
    fn number(&mut self) -> Option<u64> {
        let digits = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (number, rest) = self.0.split_at_checked(digits)?;
        if digits == 0 || digits > 19 || digits > 1 && number.first() == Some(&b'0') {
            return None;
        }
        self.0 = rest;
        number.iter().try_fold(0u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
    }

    /// A value that is none of the chain's.
    fn other(&mut self) -> Option<()> {
        match self.0.first()? {
            b'"' => self.bytes().map(drop),
            b't' => self.skip(b"true"),
            b'f' => self.skip(b"false"),
            b'n' => self.skip(b"null"),
            _ => self.number().map(drop),
        }
    }
}

/// The fields of a line of that form.
pub(super) fn links(line: &[u8]) -> Option<Links<'_>> {
    let mut rest = Rest(line);
    let mut seq = None;
    let mut texts = [None; 5];
    rest.skip(b"{")?;
    loop {
        let name = rest.bytes()?;
        rest.skip(b":")?;
        let [ts, stream, kind, actor, prev] = &mut texts;
        let text = match name {
            b"seq" if seq.is_none() => {
                seq = Some(rest.number()?);
                None
            }
            b"seq" => return None,
            b"ts" => Some(ts),
            b"stream" => Some(stream),
            b"type" => Some(kind),
            b"actor" => Some(actor),
            b"prev" => Some(prev),
            _ => {
                rest.other()?;
                None
            }
        };
        if let Some(text) = text
            && text.replace(rest.string()?).is_some()
        {
            return None;
        }
        match rest.0.split_first()? {
            (b',', more) => rest.0 = more,
            (b'}', []) => break,
            _ => return None,
        }
    }
    let [ts, stream, kind, actor, prev] = texts.map(|text| text.map(Cow::Borrowed));
    Some(Links { seq: seq?, ts: ts?, stream: stream?, kind: kind?, actor: actor?, prev: prev? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = r#"{"seq":17,"ts":"2026-11-23T11:00:01.000042Z","boot":"0-0","mono":7,"stream":"auth-audit","type":"auth","actor":"vault","actorEpoch":2,"success":false,"user":null,"ok":true,"prev":"00ff"}"#;

    /// True where the line was read quickly, and then as serde_json reads it.
    fn agrees(line: &[u8]) -> bool {
        let Some(quick) = links(line) else { return false };
        let slow: Links<'_> = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_eq!(format!("{quick:?}"), format!("{slow:?}"));
        // JSON in every part of it, and not only as far as the fields go.
        let _: serde_json::Value = serde_json::from_slice(line).unwrap();
        true
    }

    proptest! {
        #[test]
        fn plain_bytes_are_counted_as_one_by_one(
            bytes in prop::collection::vec(prop_oneof![3 => 0x20u8..0x7f, 1 => any::<u8>()], 0..40),
        ) {
            let special = |byte: &u8| *byte < 0x20 || *byte >= 0x80 || matches!(byte, b'"' | b'\\');
            prop_assert_eq!(plain(&bytes), bytes.iter().position(special).unwrap_or(bytes.len()));
        }
    }

    #[test]
    fn line_as_it_is_written_is_read_quickly_and_what_is_not_is_left() {
        assert!(agrees(LINE.as_bytes()));
        for (from, to) in [
            ("17", "017"),
            ("17", "-17"),
            ("17", "1.7"),
            ("17", "18446744073709551616"),
            ("\"0-0\"", "[]"),
            ("\"0-0\"", "\"\\n\""),
            ("0-0", "é"),
            ("0-0", "\u{1}"),
            ("boot", "prev"),
            ("boot", "seq"),
            ("true", "tru"),
            (",\"boot\"", ", \"boot\""),
            ("\"prev\"", "\"prev2\""),
            ("}", "}}"),
            ("}", ",}"),
            ("}", ""),
        ] {
            assert!(!agrees(LINE.replacen(from, to, 1).as_bytes()), "{from} {to}");
        }
    }

    #[test]
    fn line_with_any_bit_flipped_or_cut_anywhere_is_read_as_serde_json_reads_it_or_left() {
        let mut quick = 0;
        for at in 0..LINE.len() {
            for bit in 0..8 {
                let mut line = LINE.as_bytes().to_vec();
                line[at] ^= 1 << bit;
                quick += usize::from(agrees(&line));
            }
            assert!(!agrees(&LINE.as_bytes()[..at]));
        }
        assert!(quick > 300, "{quick}");
    }

    proptest! {
        #[test]
        fn any_arrangement_of_pieces_is_read_as_serde_json_reads_it_or_left(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "{", "}", ",", ":", "\"seq\":1", "\"seq\":0", "\"ts\":\"a\"", "\"stream\":\"b\"", "\"type\":\"c\"", "\"actor\":\"d\"",
                "\"prev\":\"e\"", "\"x\":1", "\"x\":true", "\"x\":null", "\"\":\"\"", "\"x\":{}", "\"x\":1e3", "\"x\":\"\\u0041\"", " ",
            ]), 0..14),
        ) {
            agrees(pieces.concat().as_bytes());
            agrees(format!("{{{}}}", pieces.join(",")).as_bytes());
        }
    }
}
