//! What auditd is told of the secrets, so that it can take them out of what it writes: enough to know one again, and too
//! little to learn it. A secret that could be tried out with what is told is not told of at all.
//!
//! The key is drawn anew at each start, and auditd gets it: whoever holds auditd can test a guess at the cost of an HMAC.
//! So it takes 80 bits, by the alphabet that a secret is written in, and more than one kind of character; what a person
//! thought up may pass for that and be worth less (docs/adr/0026-fingerprints-of-secrets.md).

use crate::entropy;
use hmac::{Hmac, Mac as _};
use proto::secret::Secret;
use proto::witness::{Fingerprint, WINDOW, tag};
use rustix::io::Errno;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bits that a secret must be worth.
const LEAST: usize = 80;

/// What fingerprints are made under.
pub struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// One at random.
    ///
    /// # Errors
    /// What `getrandom(2)` says.
    pub fn draw() -> Result<Self, Errno> {
        let mut key = Zeroizing::new([0; 32]);
        entropy::fill(key.as_mut_slice())?;
        Ok(Self(key))
    }

    /// Its bytes, which auditd is told.
    #[must_use]
    pub fn expose(&self) -> [u8; 32] {
        *self.0
    }

    /// Of a secret; none where it can be guessed.
    #[must_use]
    pub fn print(&self, secret: &Secret) -> Option<Fingerprint> {
        let bytes = secret.expose();
        if worth(bytes) < LEAST {
            return None;
        }
        // Where it varies most: armour and prefixes stand in other texts as well.
        let windows = bytes.windows(WINDOW).enumerate();
        let (at, window) = windows.max_by_key(|(at, window)| (distinct(window), usize::MAX - at))?;
        Some(Fingerprint {
            tag: tag(&self.0, window.try_into().ok()?),
            at: u16::try_from(at).ok()?,
            length: u16::try_from(bytes.len()).ok()?,
            mac: self.mac(secret)?,
        })
    }

    /// The same of the same value, guessable or not: for what compares here and leaves nothing behind.
    #[must_use]
    pub fn mac(&self, secret: &Secret) -> Option<[u8; 16]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_slice()).ok()?;
        mac.update(secret.expose());
        let mut half = [0; 16];
        half.iter_mut().zip(mac.finalize().into_bytes()).for_each(|(to, from)| *to = from);
        Some(half)
    }
}

fn distinct(bytes: &[u8]) -> usize {
    let mut seen = [0u64; 4];
    for byte in bytes {
        if let Some(word) = seen.get_mut(usize::from(byte / 64)) {
            *word |= 1 << (byte % 64);
        }
    }
    seen.iter().map(|word| word.count_ones() as usize).sum()
}

/// Bits at most, by the alphabet: as many as it has if it was drawn at random. Nothing where it is short, or of one kind of
/// character, or repeats itself.
fn worth(bytes: &[u8]) -> usize {
    let any = |is: fn(&u8) -> bool| bytes.iter().any(is);
    let kinds = [
        (any(u8::is_ascii_lowercase), 26),
        (any(u8::is_ascii_uppercase), 26),
        (any(u8::is_ascii_digit), 10),
        (any(|byte| !byte.is_ascii_alphanumeric()), 32),
    ];
    let hex = bytes.iter().all(u8::is_ascii_hexdigit);
    let alphabet: usize = if hex { 16 } else { kinds.iter().filter(|(is, _)| *is).map(|(_, size)| size).sum() };
    let one_kind = kinds.iter().filter(|(is, _)| *is).count() < 2;
    if bytes.len() < WINDOW || one_kind || distinct(bytes) < 8 { 0 } else { bytes.len() * alphabet.ilog2() as usize }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(secret: &str) -> Option<Fingerprint> {
        Key(Zeroizing::new([7; 32])).print(&Secret::new(secret.as_bytes().to_vec()).unwrap())
    }

    #[test]
    fn secret_that_can_be_guessed_is_not_told_of_and_one_that_cannot_is() {
        for weak in [
            "hunter2",
            "correcthorsebatterystaple",
            "12345678901234567890",
            "aB1aB1aB1aB1aB1aB1aB1",
            "0123456789abcdef",
        ] {
            assert_eq!(print(weak), None, "{weak}");
        }
        for strong in ["q8WvT0zLm3Xy7RkP", "0f3a9c5b7e1d24680f3a", "correct Horse battery 7 staple"] {
            let told = print(strong).unwrap();
            assert_eq!(usize::from(told.length), strong.len());
            let at = usize::from(told.at);
            assert_eq!(told.tag, tag(&[7; 32], strong.as_bytes()[at..at + WINDOW].try_into().unwrap()));
        }
    }

    #[test]
    fn key_in_armour_is_known_by_its_middle() {
        let armour =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", "MC4CAQAwBQYDK2VwBCIEIJ8yq3");
        assert!(print(&armour).unwrap().at > 10);
    }

    #[test]
    fn another_key_makes_other_fingerprints() {
        let secret = Secret::new(b"q8WvT0zLm3Xy7RkP".to_vec()).unwrap();
        let (one, two) = (Key::draw().unwrap(), Key::draw().unwrap());
        assert_ne!(one.print(&secret).unwrap().mac, two.print(&secret).unwrap().mac);
        assert_eq!(one.print(&secret), one.print(&secret));
    }
}
