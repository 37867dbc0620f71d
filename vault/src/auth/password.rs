//! The password that lets a client in, as far as it is kept: what Argon2id (RFC 9106) makes of it, which tells it from
//! others and does not give it back. The store that holds it is sealed as a whole.
//!
//! A try costs 19 MiB and some tens of milliseconds, and the vault does nothing else meanwhile. So a try comes after the
//! lockout was asked, of which there are [`crate::lockout::CEILING`] in five minutes for everybody together, and the loop
//! looks at the other edges after each. Argon2's blocks are too large for secret memory; they are wiped when it is done.

use crate::codec::{Reader, Writer};
use crate::entropy;
use crate::passphrase::stretch;
use argon2::Params;
use proto::secret::Secret;
use rustix::io::Errno;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A password has at least so many bytes.
pub const SHORTEST: usize = 8;
/// What a try costs: memory in KiB and passes, over one lane.
const COST: (u32, u32) = (19 << 10, 2);
/// What a store may ask for at most.
const MOST: (u32, u32) = (64 << 10, 8);

/// What is kept of a password.
pub struct Password {
    memory_kib: u32,
    passes: u32,
    salt: [u8; 32],
    verifier: Zeroizing<[u8; 32]>,
    /// Generation of the store that it came with: tells it from the one before.
    pub since: u64,
}

/// Why a password cannot be taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PasswordError {
    /// No random bytes.
    #[error("getrandom: {0}")]
    Random(#[from] Errno),
    /// Argon2 takes its memory whole.
    #[error("there is not the memory to try a password")]
    Memory,
}

impl Password {
    /// Keeps what tells `typed` from others, under a salt of its own.
    ///
    /// # Errors
    /// [`PasswordError`].
    pub fn keep(typed: &Secret, since: u64) -> Result<Self, PasswordError> {
        let mut salt = [0; 32];
        entropy::fill(&mut salt)?;
        let (memory_kib, passes) = COST;
        let mut kept = Self { memory_kib, passes, salt, verifier: Zeroizing::new([0; 32]), since };
        kept.verifier = kept.stretched(typed).ok_or(PasswordError::Memory)?;
        Ok(kept)
    }

    /// True where `typed` is the password.
    ///
    /// # Errors
    /// [`PasswordError::Memory`].
    pub fn is(&self, typed: &Secret) -> Result<bool, PasswordError> {
        let stretched = self.stretched(typed).ok_or(PasswordError::Memory)?;
        Ok(self.verifier.as_slice().ct_eq(stretched.as_slice()).into())
    }

    fn stretched(&self, typed: &Secret) -> Option<Zeroizing<[u8; 32]>> {
        let params = Params::new(self.memory_kib, self.passes, 1, Some(32)).ok()?;
        let mut stretched = Zeroizing::new([0; 32]);
        stretch(typed, &self.salt, params, stretched.as_mut_slice())?;
        Some(stretched)
    }

    /// Appends what there is to store.
    pub fn encode(&self, into: &mut Writer) {
        into.number32(self.memory_kib).number32(self.passes).raw(&self.salt);
        into.raw(self.verifier.as_slice()).number(self.since);
    }

    /// Reads what was stored.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let (memory_kib, passes) = (from.number32()?, from.number32()?);
        if memory_kib > MOST.0 || passes > MOST.1 || Params::new(memory_kib, passes, 1, Some(32)).is_err() {
            return None;
        }
        let (salt, verifier) = (from.array()?, Zeroizing::new(from.array()?));
        Some(Self { memory_kib, passes, salt, verifier, since: from.number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn kept_password_is_itself_alone_and_reads_back() {
        let kept = Password::keep(&secret("correct horse"), 7).unwrap();
        let mut stored = Writer::new(128);
        kept.encode(&mut stored);
        let stored = stored.finish();
        let mut from = Reader::new(&stored);
        let back = Password::decode(&mut from).unwrap();
        assert!(from.is_done());
        assert_eq!(back.since, 7);
        for (typed, right) in
            [("correct horse", true), ("correct horsf", false), ("", false), ("correct horse ", false)]
        {
            assert_eq!((kept.is(&secret(typed)), back.is(&secret(typed))), (Ok(right), Ok(right)));
        }
        let again = Password::keep(&secret("correct horse"), 7).unwrap();
        assert_ne!(*again.verifier, *kept.verifier, "two salts");
    }

    #[test]
    fn stored_costs_over_the_bound_are_refused() {
        let stored = |memory_kib, passes| {
            let mut stored = Writer::new(128);
            let password = Password { memory_kib, passes, salt: [1; 32], verifier: Zeroizing::new([2; 32]), since: 1 };
            password.encode(&mut stored);
            Password::decode(&mut Reader::new(&stored.finish())).is_some()
        };
        assert!(stored(MOST.0, MOST.1));
        for (memory_kib, passes) in [(MOST.0 + 1, 1), (64, MOST.1 + 1), (u32::MAX, 1), (64, 0), (0, 1)] {
            assert!(!stored(memory_kib, passes), "{memory_kib} KiB, {passes} passes");
        }
    }
}
