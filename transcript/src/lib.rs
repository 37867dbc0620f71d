//! A conversation at rest: a file of lines, each sealed by itself with XChaCha20-Poly1305 under the conversation's own key and
//! bound to that conversation and to its number. gateway writes and reads them, the operator's command reads them.
//!
//! The file is hostile: whoever has the disk may have cut, moved, copied or altered lines. A line that does not open is no
//! line, one that was moved or copied is out of its order, and one that is missing leaves a gap; [`read`] counts all of
//! these. What it cannot see is that the newest lines were cut off: for that the vault counts them, and [`Found::next`] is held
//! against its count.
//! `docs/FORMATS.md` has the bytes.
#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a nonce: random ones do not meet (draft-irtf-cfrg-xchacha, section 3.1).
pub const NONCE: usize = 24;
const DOMAIN: &[u8] = b"moltbot/transcript/v1";

/// Names a conversation's transcript.
pub type Id = [u8; 16];

/// The key of one transcript. No `Debug`, no `Clone`; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// Of these bytes, of which the caller wipes its own copy. Nothing where there are not 32.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// What a line is bound to.
fn place(id: &Id, number: u64) -> Vec<u8> {
    [DOMAIN, id, &number.to_le_bytes()].concat()
}

/// Seals line `number` of a transcript; `nonce` must be random. The text has no line end.
#[must_use]
pub fn seal(key: &Key, id: &Id, number: u64, nonce: [u8; NONCE], text: &[u8]) -> Option<String> {
    let cipher = XChaCha20Poly1305::new_from_slice(&key.0).ok()?;
    let sealed = cipher.encrypt(&XNonce::from(nonce), Payload { msg: text, aad: &place(id, number) }).ok()?;
    let mut line = format!("{number} ");
    STANDARD_NO_PAD.encode_string([nonce.as_slice(), &sealed].concat(), &mut line);
    Some(line)
}

/// Opens a line; its number and its text, if it is a line of this transcript.
#[must_use]
pub fn open(key: &Key, id: &Id, line: &[u8]) -> Option<(u64, Zeroizing<Vec<u8>>)> {
    let at = line.iter().position(|byte| *byte == b' ')?;
    let (number, rest) = (line.get(..at)?, line.get(at.saturating_add(1)..)?);
    let written = std::str::from_utf8(number).ok()?;
    let number: u64 = written.parse().ok()?;
    // One form a number: no sign, no zero in front.
    if number.to_string() != written {
        return None;
    }
    let bytes = STANDARD_NO_PAD.decode(rest).ok()?;
    let (nonce, sealed) = bytes.split_first_chunk::<NONCE>()?;
    let cipher = XChaCha20Poly1305::new_from_slice(&key.0).ok()?;
    let opened = cipher.decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: &place(id, number) }).ok()?;
    Some((number, Zeroizing::new(opened)))
}

/// What a file, or the end of one, holds.
#[derive(Default)]
pub struct Found {
    /// Texts of the lines that are what was written, in the order in which they were.
    pub lines: Vec<(u64, Zeroizing<Vec<u8>>)>,
    /// Lines that do not open, are out of their order, or are missing between others.
    pub damaged: u64,
}

impl Found {
    /// The number of the next line.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.lines.last().map_or(0, |(number, _)| number.saturating_add(1))
    }
}

/// Reads lines; `whole` is false where the first ones were left out. A line that begins with `#` is a remark and none of the
/// transcript.
#[must_use]
pub fn read(key: &Key, id: &Id, bytes: &[u8], whole: bool) -> Found {
    let mut found = Found::default();
    let mut expected = whole.then_some(0);
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty() && !line.starts_with(b"#")) {
        match open(key, id, line) {
            Some((number, text)) if expected.is_none_or(|expected| number >= expected) => {
                found.damaged =
                    found.damaged.saturating_add(expected.map_or(0, |expected| number.saturating_sub(expected)));
                expected = Some(number.saturating_add(1));
                found.lines.push((number, text));
            }
            // Not told from one that a crash cut: that one was never answered, and leaves no gap.
            Some(_) | None => found.damaged = found.damaged.saturating_add(1),
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: Id = [7; 16];

    fn key(byte: u8) -> Key {
        Key::new(&[byte; 32]).unwrap()
    }

    /// Nonces are counted here, so that a failure repeats.
    fn lines(count: u64) -> Vec<String> {
        (0..count)
            .map(|n| {
                seal(&key(1), &ID, n, [u8::try_from(n).unwrap(); NONCE], format!("message {n}").as_bytes()).unwrap()
            })
            .collect()
    }

    fn found(lines: &[String], whole: bool) -> (Vec<u64>, u64) {
        let found = read(&key(1), &ID, lines.join("\n").as_bytes(), whole);
        (found.lines.iter().map(|(number, _)| *number).collect(), found.damaged)
    }

    #[test]
    fn lines_read_back_in_their_order_and_hold_no_text() {
        let lines = lines(5);
        assert!(!lines.join("").contains("message"));
        let read = read(&key(1), &ID, lines.join("\n").as_bytes(), true);
        assert_eq!((read.next(), read.damaged), (5, 0));
        assert_eq!(read.lines[4].1.as_slice(), b"message 4");
    }

    #[test]
    fn line_opens_under_its_own_key_conversation_and_number_alone() {
        let line = &lines(2)[1];
        assert!(open(&key(1), &ID, line.as_bytes()).is_some());
        assert!(open(&key(2), &ID, line.as_bytes()).is_none());
        assert!(open(&key(1), &[8; 16], line.as_bytes()).is_none());
        for other in ["0", "2", "01", "+1", "", "18446744073709551616"] {
            let moved = line.replacen('1', other, 1);
            assert!(open(&key(1), &ID, moved.as_bytes()).is_none(), "{moved}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_line_is_no_line() {
        let line = lines(1)[0].clone().into_bytes();
        for bit in 0..line.len() * 8 {
            let mut bad = line.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&key(1), &ID, &bad).is_none(), "bit {bit}");
        }
        for cut in 0..line.len() {
            assert!(open(&key(1), &ID, &line[..cut]).is_none(), "{cut}");
        }
    }

    #[test]
    fn lines_cut_out_swapped_copied_and_replaced_are_all_counted() {
        let all = lines(6);
        assert_eq!(found(&all, true), (vec![0, 1, 2, 3, 4, 5], 0));
        let mut cut = all.clone();
        cut.drain(2..4);
        assert_eq!(found(&cut, true), (vec![0, 1, 4, 5], 2));
        assert_eq!(found(&all[2..], true), (vec![2, 3, 4, 5], 2), "the beginning is missed where there was all of it");
        assert_eq!(found(&all[2..], false), (vec![2, 3, 4, 5], 0));
        let mut swapped = all.clone();
        swapped.swap(2, 3);
        assert_eq!(found(&swapped, true), (vec![0, 1, 3, 4, 5], 2));
        let mut copied = all.clone();
        copied.push(all[1].clone());
        assert_eq!(found(&copied, true), (vec![0, 1, 2, 3, 4, 5], 1));
        let mut replaced = all.clone();
        replaced[3] = "3 garbage".to_owned();
        assert_eq!(found(&replaced, true), (vec![0, 1, 2, 4, 5], 2));
        let mut torn = all;
        torn.insert(6, "6 AAA".to_owned());
        assert_eq!(found(&torn, true).1, 1);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), whole: bool) {
            prop_assert!(read(&key(1), &ID, &bytes, whole).lines.is_empty());
        }

        #[test]
        fn any_text_reads_back(text in prop::collection::vec(any::<u8>(), 0..500), number: u64, nonce: [u8; NONCE]) {
            let line = seal(&key(1), &ID, number, nonce, &text).unwrap();
            let (found, opened) = open(&key(1), &ID, line.as_bytes()).unwrap();
            prop_assert_eq!((found, opened.as_slice()), (number, text.as_slice()));
        }
    }
}
