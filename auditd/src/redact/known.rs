//! The vault's own secrets, found without holding one. For each that is long and varied enough the vault tells 18 bits of a
//! keyed hash over 16 of its bytes, where they stand in it, how long it is, and a keyed fingerprint of all of it. Texts are
//! looked through for the 16 bytes, and what fits is held against the fingerprint.
//!
//! A text may hold a secret in another coat. So it is looked through as it stands, with its percent signs and backslashes
//! undone, and wherever a run in it can be read as base 16 or base 64, at every alignment.

use super::{Rule, Span};
use hmac::{Hmac, Mac};
use proto::witness::{Fingerprint, MASK, WINDOW, tag};
use sha2::Sha256;
use std::ops::Range;
use zeroize::Zeroizing;

/// Digits of the shortest secret in base 16, and in base 64.
const HEX_RUN: usize = 2 * WINDOW;
const BASE64_RUN: usize = WINDOW * 4 / 3;

/// What the vault told.
pub struct Known {
    key: Zeroizing<[u8; 32]>,
    /// A bit for each value that a tag can have: most windows of a text are none.
    tags: Vec<u64>,
    /// In the order of their tags.
    prints: Vec<Fingerprint>,
}

impl Default for Known {
    fn default() -> Self {
        Self::new([0; 32], Vec::new())
    }
}

/// A text, or a part of it in another reading, with where each byte comes from.
struct Reading {
    bytes: Vec<u8>,
    from: Vec<u32>,
    to: u32,
}

impl Reading {
    fn range(&self, found: &Range<usize>) -> Range<usize> {
        let at = |index: usize| self.from.get(index).copied().unwrap_or(self.to) as usize;
        at(found.start)..at(found.end)
    }
}

impl Known {
    /// From fingerprints under this key.
    #[must_use]
    pub fn new(key: [u8; 32], mut prints: Vec<Fingerprint>) -> Self {
        prints.retain(|print| usize::from(print.at) + WINDOW <= usize::from(print.length));
        prints.sort_by_key(|print| print.tag);
        let mut tags = vec![0u64; if prints.is_empty() { 0 } else { MASK as usize / 64 + 1 }];
        for print in &prints {
            if let Some(word) = tags.get_mut((print.tag & MASK) as usize / 64) {
                *word |= 1 << (print.tag % 64);
            }
        }
        Self { key: Zeroizing::new(key), tags, prints }
    }

    /// How many secrets are known.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.prints.len()
    }

    /// True where none is.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.prints.is_empty()
    }

    pub(super) fn find(&self, text: &str, spans: &mut Vec<Span>) {
        if self.prints.is_empty() || text.len() < WINDOW {
            return;
        }
        let bytes = text.as_bytes();
        self.look(bytes, |found| spans.push(span(found)));
        self.look_in_runs(bytes, |found| found, spans);
        if bytes.contains(&b'%') {
            let reading = unpercent(bytes);
            self.look(&reading.bytes, |found| spans.push(span(reading.range(&found))));
            self.look_in_runs(&reading.bytes, |found| reading.range(&found), spans);
        }
        if bytes.contains(&b'\\') {
            let reading = unescape(bytes);
            self.look(&reading.bytes, |found| spans.push(span(reading.range(&found))));
            self.look_in_runs(&reading.bytes, |found| reading.range(&found), spans);
        }
    }

    /// Every place where a known secret stands in `bytes` as it is.
    fn look(&self, bytes: &[u8], mut each: impl FnMut(Range<usize>)) {
        for (at, window) in bytes.windows(WINDOW).enumerate() {
            let Ok(window) = <&[u8; WINDOW]>::try_from(window) else { continue };
            let tag = tag(&self.key, window);
            if self.tags.get(tag as usize / 64).is_some_and(|word| word >> (tag % 64) & 1 == 1)
                && let Some(found) = self.confirm(bytes, at, tag)
            {
                each(found);
            }
        }
    }

    fn confirm(&self, bytes: &[u8], at: usize, tag: u32) -> Option<Range<usize>> {
        let from = self.prints.partition_point(|print| print.tag < tag);
        let candidates = self.prints.get(from..)?.iter().take_while(|print| print.tag == tag);
        candidates.into_iter().find_map(|print| {
            let start = at.checked_sub(usize::from(print.at))?;
            let range = start..start.checked_add(usize::from(print.length))?;
            (fingerprint(&self.key, bytes.get(range.clone())?) == print.mac).then_some(range)
        })
    }

    /// Every run of digits of base 16 and base 64, read from each digit on that a byte can begin with.
    fn look_in_runs(&self, bytes: &[u8], place: impl Fn(Range<usize>) -> Range<usize>, spans: &mut Vec<Span>) {
        for run in runs(bytes, BASE64_RUN, |byte| sextet(byte).is_some()) {
            let digits = bytes.get(run.clone()).unwrap_or_default();
            for phase in 0..4 {
                let read = base64(digits.get(phase..).unwrap_or_default());
                self.look(&read, |found| {
                    let from = run.start + phase + found.start * 4 / 3;
                    let to = run.start + phase + (found.end * 4).div_ceil(3);
                    spans.push(span(place(from..to.min(run.end))));
                });
            }
            for run in
                runs(digits, HEX_RUN, |byte| nibble(byte).is_some()).map(|at| run.start + at.start..run.start + at.end)
            {
                let digits = bytes.get(run.clone()).unwrap_or_default();
                for phase in 0..2 {
                    let read = hex(digits.get(phase..).unwrap_or_default());
                    self.look(&read, |found| {
                        let start = run.start + phase;
                        spans.push(span(place(start + 2 * found.start..start + 2 * found.end)));
                    });
                }
            }
        }
    }
}

const fn span(found: Range<usize>) -> Span {
    Span { rule: Rule::Own(super::VAULT), start: found.start, end: found.end }
}

/// The keyed fingerprint of a whole secret: the first half of an HMAC-SHA-256.
#[must_use]
pub fn fingerprint(key: &[u8; 32], secret: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    // A key of any length makes an HMAC.
    if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) {
        mac.update(secret);
        half.iter_mut().zip(mac.finalize().into_bytes()).for_each(|(to, from)| *to = from);
    }
    half
}

/// The longest ranges of at least `least` bytes that are all `of`.
fn runs(bytes: &[u8], least: usize, of: impl Fn(u8) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= least) {
            // Where the last one that must be is none, nothing before it can begin a run.
            if rest.get(least - 1).is_some_and(|byte| !of(*byte)) {
                at += least;
                continue;
            }
            let back = rest.get(..least).unwrap_or_default().iter().rposition(|byte| !of(*byte));
            let start = at + back.map_or(0, |back| back + 1);
            let length = bytes.get(start..).unwrap_or_default().iter().take_while(|byte| of(**byte)).count();
            at = start + length.max(1);
            if length >= least {
                return Some(start..start + length);
            }
        }
        None
    })
}

const fn nibble(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Both alphabets of RFC 4648.
const fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

fn hex(digits: &[u8]) -> Zeroizing<Vec<u8>> {
    let (pairs, _) = digits.as_chunks::<2>();
    Zeroizing::new(pairs.iter().filter_map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect())
}

fn base64(digits: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() * 3 / 4 + 2));
    for group in digits.chunks(4) {
        let bits = group.iter().filter_map(|digit| sextet(*digit)).fold(0u32, |bits, six| bits << 6 | u32::from(six));
        let [_, one, two, three] = (bits << (6 * (4 - group.len()))).to_be_bytes();
        bytes.extend([one, two, three].iter().take(group.len().saturating_sub(1)));
    }
    bytes
}

fn read(bytes: &[u8], mut next: impl FnMut(&[u8]) -> Option<(u32, usize)>) -> Reading {
    let mut reading = Reading { bytes: Vec::with_capacity(bytes.len()), from: Vec::with_capacity(bytes.len()), to: 0 };
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let here = u32::try_from(at).unwrap_or(u32::MAX);
        let (read, length) = next(rest).unwrap_or((u32::from(*rest.first().unwrap_or(&0)) | RAW, 1));
        let mut utf8 = [0; 4];
        let read: &[u8] = match char::from_u32(read) {
            Some(c) => c.encode_utf8(&mut utf8).as_bytes(),
            // One byte as it stands.
            None => {
                utf8[0] = u8::try_from(read & 0xff).unwrap_or_default();
                utf8.get(..1).unwrap_or_default()
            }
        };
        for byte in read {
            reading.bytes.push(*byte);
            reading.from.push(here);
        }
        at += length;
    }
    reading.to = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    reading
}

/// Marks a byte that is no character: beyond what `char` can be.
const RAW: u32 = 0x8000_0000;

/// RFC 3986 section 2.1.
fn unpercent(bytes: &[u8]) -> Reading {
    read(bytes, |rest| match rest {
        [b'%', high, low, ..] => Some((u32::from(nibble(*high)? << 4 | nibble(*low)?) | RAW, 3)),
        _ => None,
    })
}

/// RFC 8259 section 7.
fn unescape(bytes: &[u8]) -> Reading {
    read(bytes, |rest| match rest {
        [b'\\', b'u', digits @ ..] => {
            let four =
                digits.get(..4)?.iter().try_fold(0u32, |value, digit| Some(value << 4 | u32::from(nibble(*digit)?)))?;
            char::from_u32(four).map(|c| (u32::from(c), 6))
        }
        [b'\\', b'n', ..] => Some((u32::from('\n'), 2)),
        [b'\\', b'r', ..] => Some((u32::from('\r'), 2)),
        [b'\\', b't', ..] => Some((u32::from('\t'), 2)),
        [b'\\', b'b', ..] => Some((8, 2)),
        [b'\\', b'f', ..] => Some((12, 2)),
        [b'\\', byte @ (b'"' | b'\\' | b'/' | b'\''), ..] => Some((u32::from(*byte), 2)),
        _ => None,
    })
}

#[cfg(test)]
mod tests;
