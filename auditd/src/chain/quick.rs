//! The fields that hold the chain together, out of a line as auditd writes most of them: compact, in ASCII, without an escape,
//! a list or an object in it. A check of a log spends its time here. Every line is hostile: what is taken is JSON in which each
//! of the fields stands once, as serde_json would read it, and whatever is not of that form is left to serde_json.

use super::Links;
use std::borrow::Cow;

/// Bytes that stand for themselves in a string of JSON, but for those beyond ASCII.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20u8;
    while byte < 0x80 {
        if let Some(slot) = plain.split_at_mut(byte as usize).1.first_mut() {
            *slot = byte != b'"' && byte != b'\\';
        }
        byte += 1;
    }
    plain
};

/// What is left of a line.
struct Rest<'l>(&'l [u8]);

impl<'l> Rest<'l> {
    fn skip(&mut self, token: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(token)?;
        Some(())
    }

    /// A string with its quotation marks.
    fn string(&mut self) -> Option<&'l str> {
        self.skip(b"\"")?;
        let plain = |byte: &u8| PLAIN.get(usize::from(*byte)).copied().unwrap_or_default();
        let (text, rest) = self.0.split_at_checked(self.0.iter().position(|byte| !plain(byte))?)?;
        self.0 = rest.strip_prefix(b"\"")?;
        std::str::from_utf8(text).ok()
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
            b'"' => self.string().map(drop),
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
        let name = rest.string()?;
        rest.skip(b":")?;
        let [ts, stream, kind, actor, prev] = &mut texts;
        let text = match name {
            "seq" if seq.is_none() => {
                seq = Some(rest.number()?);
                None
            }
            "seq" => return None,
            "ts" => Some(ts),
            "stream" => Some(stream),
            "type" => Some(kind),
            "actor" => Some(actor),
            "prev" => Some(prev),
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
