//! The credential taken out of what comes back. A host that reflects its input, or is made to, would otherwise hand it to
//! gateway; so every form that a server is likely to print it in is looked for, across any border between two pieces.
//!
//! One automaton (Knuth, Morris, Pratt) for each form says after every byte how much of the form has been seen. Only what may
//! still become one is held back, so a stream that holds none loses no time. What this does not protect against: a host that
//! transforms the credential on purpose. It has the credential, and does not need gateway to get it.

use zeroize::Zeroizing;

/// What stands where a credential stood.
pub const MARK: &[u8] = b"[redacted]";
/// Fewest bytes of a credential: of a shorter one the forms would match by accident.
pub const SHORTEST: usize = 8;

/// One form, and how much of it the last bytes were.
struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    /// Matches whatever the case, where the form has digits of either.
    fold: bool,
    /// Longest border of each prefix: where to go on after a mismatch.
    borders: Vec<usize>,
    seen: usize,
}

impl Needle {
    fn new(mut bytes: Zeroizing<Vec<u8>>, fold: bool) -> Self {
        if fold {
            bytes.make_ascii_lowercase();
        }
        let mut borders = vec![0; bytes.len()];
        let mut border = 0usize;
        for at in 1..bytes.len() {
            while border > 0 && bytes.get(border) != bytes.get(at) {
                border = borders.get(border.saturating_sub(1)).copied().unwrap_or_default();
            }
            if bytes.get(border) == bytes.get(at) {
                border = border.saturating_add(1);
            }
            if let Some(slot) = borders.get_mut(at) {
                *slot = border;
            }
        }
        Self { bytes, fold, borders, seen: 0 }
    }

    /// Takes one byte; true where it completes the form.
    fn step(&mut self, byte: u8) -> bool {
        let byte = if self.fold { byte.to_ascii_lowercase() } else { byte };
        loop {
            if self.bytes.get(self.seen) == Some(&byte) {
                self.seen = self.seen.saturating_add(1);
                return self.seen == self.bytes.len();
            }
            if self.seen == 0 {
                return false;
            }
            self.seen = self.borders.get(self.seen.saturating_sub(1)).copied().unwrap_or_default();
        }
    }
}

/// Takes one credential out of one stream.
pub struct Scrubber {
    needles: Vec<Needle>,
    /// What a form can begin with.
    first: [bool; 256],
    /// What has come and is not given out yet.
    held: Zeroizing<Vec<u8>>,
    taken: u32,
}

impl Scrubber {
    /// One that looks for `secret`; for a request without a credential, for nothing.
    #[must_use]
    pub fn new(secret: Option<&[u8]>) -> Self {
        let mut needles: Vec<Needle> = Vec::new();
        for (form, fold) in secret.map(forms).unwrap_or_default() {
            let needle = Needle::new(form, fold);
            if !needle.bytes.is_empty() && !needles.iter().any(|known| known.bytes == needle.bytes) {
                needles.push(needle);
            }
        }
        let mut first = [false; 256];
        for needle in &needles {
            for byte in needle.bytes.first().into_iter().flat_map(|byte| [*byte, byte.to_ascii_uppercase()]) {
                if let Some(slot) = first.get_mut(usize::from(byte)) {
                    *slot = true;
                }
            }
        }
        Self { needles, first, held: Zeroizing::new(Vec::new()), taken: 0 }
    }

    /// Times that something was taken out.
    #[must_use]
    pub const fn taken(&self) -> u32 {
        self.taken
    }

    /// Takes a piece of the stream; returns what can be given out now.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        if self.needles.is_empty() {
            return piece.to_vec();
        }
        let mut out = Vec::with_capacity(piece.len());
        let mut idle = self.needles.iter().all(|needle| needle.seen == 0);
        for byte in piece {
            self.held.push(*byte);
            if idle && !self.first.get(usize::from(*byte)).is_some_and(|first| *first) {
                continue;
            }
            let (mut complete, mut seen) = (0, 0);
            for needle in &mut self.needles {
                if needle.step(*byte) {
                    complete = complete.max(needle.seen);
                }
                seen = seen.max(needle.seen);
            }
            idle = seen == 0;
            if complete > 0 {
                let keep = self.held.len().saturating_sub(complete);
                out.extend_from_slice(self.held.get(..keep).unwrap_or_default());
                out.extend_from_slice(MARK);
                self.restart();
                idle = true;
            }
        }
        let back = self.needles.iter().map(|needle| needle.seen).max().unwrap_or_default();
        let keep = self.held.len().saturating_sub(back);
        out.extend_from_slice(self.held.get(..keep).unwrap_or_default());
        self.held.drain(..keep);
        out
    }

    /// The stream is over: what was held back is no credential.
    pub fn finish(&mut self) -> Vec<u8> {
        for needle in &mut self.needles {
            needle.seen = 0;
        }
        std::mem::take(&mut *self.held)
    }

    /// A whole text at once.
    pub fn text(&mut self, text: &str) -> String {
        let mut bytes = self.push(text.as_bytes());
        bytes.extend(self.finish());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn restart(&mut self) {
        self.taken = self.taken.saturating_add(1);
        self.held.clear();
        for needle in &mut self.needles {
            needle.seen = 0;
        }
    }
}

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Every form, and whether the case of its letters says nothing.
fn forms(secret: &[u8]) -> Vec<(Zeroizing<Vec<u8>>, bool)> {
    let each = |form: &dyn Fn(u8, &mut Vec<u8>)| {
        let mut bytes = Zeroizing::new(Vec::with_capacity(secret.len().saturating_mul(6)));
        secret.iter().for_each(|byte| form(*byte, &mut bytes));
        bytes
    };
    let hex = |byte: u8, bytes: &mut Vec<u8>| bytes.extend_from_slice(&digits(byte));
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let percent = |byte: u8, upper: bool, all: bool, bytes: &mut Vec<u8>| {
        if unreserved(byte) && !all {
            return bytes.push(byte);
        }
        bytes.push(b'%');
        bytes.extend(digits(byte).map(|digit| if upper { digit.to_ascii_uppercase() } else { digit }));
    };
    // As it stands in a path that it was sent in, which a server gives back where it says what it did not find.
    let in_path = |byte: u8, upper: bool, bytes: &mut Vec<u8>| {
        if crate::template::stands_in_path(byte) { bytes.push(byte) } else { percent(byte, upper, true, bytes) }
    };
    let escaped = |byte: u8, slash: bool, bytes: &mut Vec<u8>| {
        if matches!(byte, b'"' | b'\\') || (slash && byte == b'/') {
            bytes.push(b'\\');
        }
        bytes.push(byte);
    };
    let mut forms = vec![
        (each(&|byte, bytes| bytes.push(byte)), false),
        (each(&hex), true),
        (each(&|byte, bytes| percent(byte, true, true, bytes)), true),
        (each(&|byte, bytes| percent(byte, true, false, bytes)), false),
        (each(&|byte, bytes| percent(byte, false, false, bytes)), false),
        (each(&|byte, bytes| in_path(byte, true, bytes)), false),
        (each(&|byte, bytes| in_path(byte, false, bytes)), false),
        (each(&|byte, bytes| escaped(byte, false, bytes)), false),
        (each(&|byte, bytes| escaped(byte, true, bytes)), false),
        (
            each(&|byte, bytes| {
                bytes.extend_from_slice(b"\\u00");
                hex(byte, bytes);
            }),
            true,
        ),
    ];
    for alphabet in [STANDARD, URL] {
        forms.extend((0..3).map(|before| (base64(secret, before, alphabet), false)));
    }
    forms
}

fn digits(byte: u8) -> [u8; 2] {
    let digit = |value: u8| if value < 10 { b'0'.saturating_add(value) } else { b'a'.saturating_add(value - 10) };
    [digit(byte >> 4), digit(byte & 15)]
}

/// The characters that say nothing but `secret` where `before` bytes stand in front of it in their group of three.
fn base64(secret: &[u8], before: usize, alphabet: &[u8; 64]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(secret.len().saturating_mul(2)));
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in std::iter::repeat_n(&0, before).chain(secret) {
        bits = (bits << 8 | u32::from(*byte)) & 0xffff;
        count = count.saturating_add(8);
        while count >= 6 {
            count = count.saturating_sub(6);
            let sextet = usize::try_from(bits >> count & 63).unwrap_or_default();
            out.push(alphabet.get(sextet).copied().unwrap_or_default());
        }
    }
    // The first characters hold bits of what stands in front.
    let mixed = [0, 2, 3].get(before).copied().unwrap_or_default().min(out.len());
    out.drain(..mixed);
    out
}

#[cfg(test)]
mod tests;
