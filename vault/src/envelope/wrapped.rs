//! A key of another kind under the ring: wrapped with a random nonce under the newest term, bound to what it is a key of.

use super::{EnvelopeError, Keyring, TAG, lp};
use crate::cipher::Key;
use crate::codec::{Reader, Writer};
use crate::entropy;

/// A wrapped key. Holds no plaintext.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wrapped {
    term: u32,
    nonce: [u8; 12],
    bytes: [u8; 32 + TAG],
}

/// What the key is of: a label, and fields in their order.
fn aad(ring: &Keyring, term: u32, about: &[&[u8]]) -> Vec<u8> {
    let mut aad = Vec::with_capacity(256);
    about.iter().for_each(|field| lp(&mut aad, field));
    lp(&mut aad, &ring.vault);
    aad.extend_from_slice(&term.to_le_bytes());
    aad
}

impl Wrapped {
    /// Wraps `key`, which is the key of what `about` says.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn seal(ring: &mut Keyring, about: &[&[u8]], key: &Key) -> Result<Self, EnvelopeError> {
        let mut nonce = [0; 12];
        entropy::fill(&mut nonce)?;
        let term = ring.term();
        let aad = aad(ring, term, about);
        let kek = ring.keks.last_mut().ok_or(EnvelopeError::Term(0))?;
        kek.wraps = kek.wraps.saturating_add(1);
        let bytes = kek.key.seal(nonce, &aad, key.expose()).ok_or(EnvelopeError::Wrap)?;
        Ok(Self { term, nonce, bytes: bytes.try_into().map_err(|_| EnvelopeError::Wrap)? })
    }

    /// Unwraps it.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn open(&self, ring: &Keyring, about: &[&[u8]]) -> Result<Key, EnvelopeError> {
        let kek = ring.keks.iter().find(|kek| kek.term == self.term).ok_or(EnvelopeError::Term(self.term))?;
        let opened = kek.key.open(self.nonce, &aad(ring, self.term, about), &self.bytes).ok_or(EnvelopeError::Wrap)?;
        opened.first_chunk().map(|key| Key::new(*key)).ok_or(EnvelopeError::Wrap)
    }

    /// Appends it as the store has it.
    pub fn encode(&self, into: &mut Writer) {
        into.number32(self.term).raw(&self.nonce).raw(&self.bytes);
    }

    /// Reads one.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        Some(Self { term: from.number32()?, nonce: from.array()?, bytes: from.array()? })
    }
}
