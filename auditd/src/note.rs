//! Signed notes (c2sp.org/signed-note) and the checkpoints in them (c2sp.org/tlog-checkpoint).
//!
//! A note is text, an empty line, and signature lines `— <name> base64(<key id, 4 bytes> <signature>)`. Anybody may add
//! a line: the vault's cosignature and an outside witness's stand beside ours, and who does not know a key ignores its
//! line. Notes are hostile when read. Base64 must be canonical, so that no two texts carry the same signature.

use crate::tree::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use std::fmt;

/// Type byte of an Ed25519 signature in a key's id and encoding.
const ED25519: u8 = 1;
/// Signature lines in a note at most, as the standard's reader has it.
const MAX_SIGNATURES: usize = 100;
/// What a signature line begins with.
const DASH: &str = "\u{2014} ";

/// Why a text is not a note, a key or a checkpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoteError {
    /// The text does not have the form of a signed note.
    #[error("is not a signed note")]
    Form,
    /// The text does not have the form of a verifier key.
    #[error("is not a verifier key (name+id+base64)")]
    Key,
    /// The note's text does not have the form of a checkpoint.
    #[error("is not a checkpoint")]
    Checkpoint,
}

/// True where `name` may stand in a note: not empty, no space, no plus.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

/// A public key with its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
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
        let Some((&ED25519, key)) = bytes.split_first() else { return Err(NoteError::Key) };
        let key = Self::new(name, key.try_into().map_err(|_| NoteError::Key)?)?;
        if crate::chain::hex(&key.id()) == id { Ok(key) } else { Err(NoteError::Key) }
    }

    /// Whose key it is: a log's origin.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 bytes of it.
    #[must_use]
    pub fn bytes(&self) -> Hash {
        self.key.to_bytes()
    }

    /// `SHA-256(name || "\n" || 0x01 || key)`, its first four bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', ED25519])
            .chain_update(self.key.as_bytes())
            .finalize();
        let mut id = [0; 4];
        id.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        id
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519];
        key.extend_from_slice(self.key.as_bytes());
        write!(f, "{}+{}+{}", self.name, crate::chain::hex(&self.id()), STANDARD.encode(key))
    }
}

/// One signature line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignatureLine {
    /// Who signed, as the line says.
    pub name: String,
    /// Key id, then signature.
    pub bytes: Vec<u8>,
}

/// A text and what was signed under it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedNote {
    text: String,
    signatures: Vec<SignatureLine>,
}

impl SignedNote {
    /// Signs `text`, which must end in a newline, with the key whose name is `name`.
    ///
    /// # Errors
    /// [`NoteError`] where the text or the name cannot stand in a note.
    pub fn sign(text: String, name: &str, key: &SigningKey) -> Result<Self, NoteError> {
        let public = PublicKey::new(name, key.verifying_key().as_bytes())?;
        let mut bytes = public.id().to_vec();
        bytes.extend_from_slice(&key.sign(text.as_bytes()).to_bytes());
        let note = Self { text, signatures: vec![SignatureLine { name: name.to_owned(), bytes }] };
        // A text that does not read back must not be signed.
        if Self::parse(&note.to_string())? == note { Ok(note) } else { Err(NoteError::Form) }
    }

    /// Reads a note.
    ///
    /// # Errors
    /// [`NoteError::Form`].
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.chars().any(|c| c.is_control() && c != '\n') {
            return Err(NoteError::Form);
        }
        let middle = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, lines) = note.split_at_checked(middle.saturating_add(1)).ok_or(NoteError::Form)?;
        let lines = lines.strip_prefix('\n').and_then(|lines| lines.strip_suffix('\n')).ok_or(NoteError::Form)?;
        let signatures = lines.split('\n').map(Self::signature).collect::<Result<Vec<_>, _>>()?;
        if signatures.len() > MAX_SIGNATURES {
            return Err(NoteError::Form);
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    fn signature(line: &str) -> Result<SignatureLine, NoteError> {
        let (name, bytes) = line.strip_prefix(DASH).and_then(|rest| rest.split_once(' ')).ok_or(NoteError::Form)?;
        let bytes = STANDARD.decode(bytes).map_err(|_| NoteError::Form)?;
        if is_name(name) && bytes.len() > 4 {
            Ok(SignatureLine { name: name.to_owned(), bytes })
        } else {
            Err(NoteError::Form)
        }
    }

    /// The text that was signed, its last newline included.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What was signed under it.
    #[must_use]
    pub fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// Adds a line, as that of a witness.
    pub fn push(&mut self, line: SignatureLine) {
        self.signatures.push(line);
    }

    /// True where a line is a good signature of `key`. A line of its name and id that is not makes the note bad.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let id = key.id();
        let mut claims = self.signatures.iter().filter(|line| line.name == key.name && line.bytes.starts_with(&id));
        let good = |line: &SignatureLine| {
            let signature = line.bytes.get(id.len()..).and_then(|bytes| Signature::from_slice(bytes).ok());
            signature.is_some_and(|signature| key.key.verify_strict(self.text.as_bytes(), &signature).is_ok())
        };
        claims.next().is_some_and(good) && claims.all(good)
    }
}

impl fmt::Display for SignedNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| writeln!(f, "{DASH}{} {}", line.name, STANDARD.encode(&line.bytes)))
    }
}

/// How large a tree is and what its root is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Which log: `moltbot/<instance>/<stream>`.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// Root of the tree of them.
    pub root: Hash,
}

impl Checkpoint {
    /// Reads a note's text. Lines after the third are allowed by the standard and mean nothing here.
    ///
    /// # Errors
    /// [`NoteError::Checkpoint`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.strip_suffix('\n').ok_or(NoteError::Checkpoint)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(NoteError::Checkpoint);
        };
        let number: u64 = size.parse().map_err(|_| NoteError::Checkpoint)?;
        let root = STANDARD.decode(root).map_err(|_| NoteError::Checkpoint)?;
        let root = root.try_into().map_err(|_| NoteError::Checkpoint)?;
        // One number has one text: no sign, no leading zero.
        if origin.is_empty() || number.to_string() != size || lines.any(str::is_empty) {
            return Err(NoteError::Checkpoint);
        }
        Ok(Self { origin: origin.to_owned(), size: number, root })
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of c2sp.org/signed-note and of Go's x/mod/sumdb/note.
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn signing() -> SigningKey {
        SigningKey::from_bytes(&[9; 32])
    }

    fn checkpoint() -> Checkpoint {
        Checkpoint { origin: "moltbot/0011223344556677/auth-audit".into(), size: 42, root: [7; 32] }
    }

    #[test]
    fn note_of_the_standard_reads_verifies_and_prints_as_it_was() {
        let key = PublicKey::parse(PETER).unwrap();
        assert_eq!(key.to_string(), PETER);
        let note = SignedNote::parse(NOTE).unwrap();
        assert!(note.is_signed_by(&key));
        assert_eq!(note.to_string(), NOTE);
        assert!(!SignedNote::parse(&NOTE.replace("think", "thunk")).unwrap().is_signed_by(&key));
    }

    #[test]
    fn our_note_verifies_with_our_key_beside_a_witness_and_not_with_another() {
        let point = checkpoint();
        let mut note = SignedNote::sign(point.to_string(), &point.origin, &signing()).unwrap();
        let key = PublicKey::new(&point.origin, signing().verifying_key().as_bytes()).unwrap();
        note.push(SignatureLine { name: "witness.example".into(), bytes: vec![1; 72] });
        let read = SignedNote::parse(&note.to_string()).unwrap();
        assert!(read.is_signed_by(&key));
        assert_eq!(Checkpoint::parse(read.text()), Ok(point.clone()));
        let other = SigningKey::from_bytes(&[8; 32]);
        assert!(!read.is_signed_by(&PublicKey::new(&point.origin, other.verifying_key().as_bytes()).unwrap()));
        assert!(!read.is_signed_by(&PublicKey::new("moltbot/x", signing().verifying_key().as_bytes()).unwrap()));
    }

    #[test]
    fn text_that_would_read_back_otherwise_is_not_signed() {
        for text in ["no newline at the end", "control \u{7}\n"] {
            assert!(SignedNote::sign(text.to_owned(), "name", &signing()).is_err(), "{text:?}");
        }
        assert!(SignedNote::sign("fine\n".to_owned(), "name", &signing()).is_ok());
    }

    #[test]
    fn checkpoint_has_one_text() {
        let text = checkpoint().to_string();
        assert_eq!(Checkpoint::parse(&text), Ok(checkpoint()));
        assert!(Checkpoint::parse(&format!("{text}extension\n")).is_ok());
        for bad in [text.replace("42", "042"), text.replace("42", "+42"), format!("{text}\n"), text.replace("c=", "d=")]
        {
            assert_eq!(Checkpoint::parse(&bad), Err(NoteError::Checkpoint), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics_and_what_parses_prints_as_it_was(text in "[\\PC\n]{0,200}") {
            if let Ok(note) = SignedNote::parse(&text) {
                prop_assert_eq!(note.to_string(), text.clone());
            }
            let _ = Checkpoint::parse(&text);
            let _ = PublicKey::parse(&text);
        }

        #[test]
        fn every_flipped_bit_of_a_note_is_noticed(at: prop::sample::Index, bit in 0u8..8) {
            let point = checkpoint();
            let note = SignedNote::sign(point.to_string(), &point.origin, &signing()).unwrap().to_string();
            let key = PublicKey::new(&point.origin, signing().verifying_key().as_bytes()).unwrap();
            let mut bytes = note.into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let good = String::from_utf8(bytes).is_ok_and(|text| SignedNote::parse(&text).is_ok_and(|note| note.is_signed_by(&key)));
            prop_assert!(!good);
        }
    }
}
