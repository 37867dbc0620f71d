//! The one cipher, AES-256-GCM (NIST SP 800-38D), and keys for it. Which nonce is safe is the caller's to know: a key is used
//! once, or its nonces are random and counted. Ciphertexts are hostile; a tag that does not hold gives nothing.

use crate::entropy;
use crate::keys::Master;
use aes_gcm::aead::{Aead as _, AeadInOut as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use rustix::io::Errno;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// 256 bits that encrypt. No `Debug`, no `Clone`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// Of these bytes, of which the caller wipes its own copy.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A key at random.
    ///
    /// # Errors
    /// What `getrandom(2)` says.
    pub fn draw() -> Result<Self, Errno> {
        let mut key = Self([0; 32]);
        entropy::fill(&mut key.0)?;
        Ok(key)
    }

    /// HKDF-SHA256 (RFC 5869) of the master key.
    #[must_use]
    pub fn derive(master: &Master, salt: &[u8], info: &[u8]) -> Self {
        let mut key = Self([0; 32]);
        // 32 bytes are one block of the hash; only more than 255 of them are refused.
        let _ = Hkdf::<Sha256>::new(Some(salt), master.expose()).expand(info, &mut key.0);
        key
    }

    /// The bytes, for as long as the borrow lasts.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// AES-256-GCM.
    #[must_use]
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
        let cipher = Aes256Gcm::new_from_slice(&self.0).ok()?;
        cipher.encrypt(&Nonce::from(nonce), Payload { msg, aad }).ok()
    }

    /// AES-256-GCM where the plaintext lies; returns the tag. What is large is not held twice.
    #[must_use]
    pub fn seal_in_place(&self, nonce: [u8; 12], aad: &[u8], message: &mut [u8]) -> Option<[u8; 16]> {
        let cipher = Aes256Gcm::new_from_slice(&self.0).ok()?;
        cipher.encrypt_inout_detached(&Nonce::from(nonce), aad, message.into()).ok().map(Into::into)
    }

    /// The reverse of [`Key::seal`].
    #[must_use]
    pub fn open(&self, nonce: [u8; 12], aad: &[u8], msg: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let cipher = Aes256Gcm::new_from_slice(&self.0).ok()?;
        cipher.decrypt(&Nonce::from(nonce), Payload { msg, aad }).ok().map(Zeroizing::new)
    }
}
