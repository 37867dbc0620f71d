//! The vault's cosignatures (c2sp.org/tlog-cosignature): an Ed25519 signature under a key of type 4, over the time and the
//! checkpoint. It says that the vault saw this tree, that it continues the one it saw before, and that it will not forget.
//!
//! A cosignature that comes from the vault or from a file is hostile until it was checked here.

use crate::note::{NoteError, SignatureLine, SignedNote, is_name};
use crate::tree::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use proto::witness::Cosignature;
use sha2::{Digest, Sha256};
use std::fmt;

/// Type byte of a cosignature in a key's id and encoding.
const COSIGNATURE: u8 = 4;

/// A cosigner's public key with its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CosignerKey {
    name: String,
    key: VerifyingKey,
}

impl CosignerKey {
    /// The key `key` under the name `name`.
    ///
    /// # Errors
    /// [`NoteError::Key`] where the name may not stand in a note, or the bytes are no key.
    pub fn new(name: &str, key: &Hash) -> Result<Self, NoteError> {
        let key = VerifyingKey::from_bytes(key).map_err(|_| NoteError::Key)?;
        if is_name(name) && !key.is_weak() { Ok(Self { name: name.to_owned(), key }) } else { Err(NoteError::Key) }
    }

    /// Reads the text form `<name>+<id, 8 hex digits>+<base64>`.
    ///
    /// # Errors
    /// [`NoteError::Key`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key);
        };
        let bytes = STANDARD.decode(key).map_err(|_| NoteError::Key)?;
        let Some((&COSIGNATURE, key)) = bytes.split_first() else { return Err(NoteError::Key) };
        let key = Self::new(name, key.try_into().map_err(|_| NoteError::Key)?)?;
        if crate::chain::hex(&key.id()) == id { Ok(key) } else { Err(NoteError::Key) }
    }

    /// `SHA-256(name || "\n" || 0x04 || key)`, its first four bytes.
    fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', COSIGNATURE])
            .chain_update(self.key.as_bytes())
            .finalize();
        let mut id = [0; 4];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        id
    }

    /// The line that a cosignature is in a note.
    #[must_use]
    pub fn line(&self, cosignature: &Cosignature) -> SignatureLine {
        let mut bytes = self.id().to_vec();
        bytes.extend_from_slice(&cosignature.time.to_be_bytes());
        bytes.extend_from_slice(cosignature.signature.as_flattened());
        SignatureLine { name: self.name.clone(), bytes }
    }

    /// What the note holds of this cosigner: nothing, a good cosignature, or a line that claims to be one.
    #[must_use]
    pub fn check(&self, note: &SignedNote) -> Option<bool> {
        let id = self.id();
        let mut claims =
            note.signatures().iter().filter(|line| line.name == self.name && line.bytes.starts_with(&id)).peekable();
        claims.peek()?;
        Some(claims.all(|line| self.is_good(note.text(), line.bytes.get(id.len()..).unwrap_or_default())))
    }

    fn is_good(&self, text: &str, bytes: &[u8]) -> bool {
        let Some((time, signature)) = bytes.split_first_chunk::<8>() else { return false };
        let Ok(signature) = Signature::from_slice(signature) else { return false };
        let signed = format!("cosignature/v1\ntime {}\n{text}", u64::from_be_bytes(*time));
        self.key.verify_strict(signed.as_bytes(), &signature).is_ok()
    }
}

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![COSIGNATURE];
        key.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, crate::chain::hex(&self.id()), STANDARD.encode(key))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use proto::audit::Stream;

    pub(crate) const NAME: &str = "moltbot/0011223344556677/vault";

    pub(crate) fn cosigner() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    pub(crate) fn cosign(text: &str, stream: Stream, size: u64, time: u64) -> Cosignature {
        let signature = cosigner().sign(format!("cosignature/v1\ntime {time}\n{text}").as_bytes()).to_bytes();
        let (halves, _) = signature.as_chunks::<32>();
        Cosignature { stream, size, time, signature: [halves[0], halves[1]] }
    }

    fn note() -> SignedNote {
        SignedNote::sign("origin\n7\nAAAA\n".into(), "origin", &SigningKey::from_bytes(&[1; 32])).unwrap()
    }

    #[test]
    fn key_has_one_text_and_is_told_from_a_logs_key() {
        let key = CosignerKey::new(NAME, cosigner().verifying_key().as_bytes()).unwrap();
        assert_eq!(CosignerKey::parse(&key.to_string()), Ok(key.clone()));
        let log = crate::note::PublicKey::new(NAME, cosigner().verifying_key().as_bytes()).unwrap();
        assert!(CosignerKey::parse(&log.to_string()).is_err());
        assert!(crate::note::PublicKey::parse(&key.to_string()).is_err());
    }

    #[test]
    fn cosignature_is_good_for_its_note_and_time_alone() {
        let key = CosignerKey::new(NAME, cosigner().verifying_key().as_bytes()).unwrap();
        let plain = note();
        assert_eq!(key.check(&plain), None);
        let good = cosign(plain.text(), Stream::Auth, 7, 1_795_431_600);
        let with = |cosignature: &Cosignature| {
            let mut note = plain.clone();
            note.push(key.line(cosignature));
            SignedNote::parse(&note.to_string()).unwrap()
        };
        assert_eq!(key.check(&with(&good)), Some(true));
        assert_eq!(key.check(&with(&Cosignature { time: good.time + 1, ..good })), Some(false));
        assert_eq!(key.check(&with(&cosign("origin\n8\nAAAA\n", Stream::Auth, 8, good.time))), Some(false));
        let other = CosignerKey::new(NAME, SigningKey::from_bytes(&[4; 32]).verifying_key().as_bytes()).unwrap();
        assert_eq!(other.check(&with(&good)), None, "another key's line says nothing of this one");
    }
}
