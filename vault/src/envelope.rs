//! The envelope of one secret version, and the ring of keys that wrap them.
//!
//! A data key (DEK) is drawn for every version and used for one encryption, so its nonce is zero and no counter can be
//! rolled back. HKDF makes of it the key of the body and a commitment of 32 bytes, because GCM alone lets one ciphertext
//! open under two keys (AWS Encryption SDK message format, suite 0x0478, does the same). The data key is wrapped under a
//! key of a term (KEK) with a random nonce. Both ciphertexts are bound to vault, name, version, term, date and policy: moved
//! anywhere else, or put under a laxer policy, neither opens. Records are hostile until their store's trailer was checked,
//! and this code does not rely on that check. `docs/FORMATS.md` has the bytes.

pub mod wrapped;

use crate::cipher::Key;
use crate::codec::{Reader, Writer};
use crate::entropy;
use crate::keys::Master;
use crate::permit::{self, Policy};
use hkdf::Hkdf;
use proto::secret::Secret;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Longest name, in bytes.
pub const MAX_NAME: usize = 64;
/// Wraps under one term before a new one is drawn. Nonces are random: at 2^20 of them two are the same with a probability
/// of 2^-57, far under the 2^-32 that NIST SP 800-38D section 8.3 allows.
pub const MAX_WRAPS: u32 = 1 << 20;
/// Terms in the ring at most; rotation leaves one.
const MAX_TERMS: usize = 4;
/// A body is padded to a multiple of this, so that its length tells little of its secret's.
const BLOCK: usize = 32;
const TAG: usize = 16;
/// Longest body: length, the largest secret and padding, and the tag.
const MAX_BODY: usize = (2 + Secret::MAX).next_multiple_of(BLOCK) + TAG;

/// What tells one vault from another; random.
pub type VaultId = [u8; 16];

/// Why an envelope does not open, or is not made.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The ring has no key of its term.
    #[error("no key of term {0} is in the ring")]
    Term(u32),
    /// The wrapped key was altered, or is another record's.
    #[error("the wrapped key does not open")]
    Wrap,
    /// The commitment is to another key.
    #[error("the commitment does not hold")]
    Commitment,
    /// The body was altered, or is another record's.
    #[error("the body does not open")]
    Body,
    /// What was inside is none of ours.
    #[error("the body is not padded as it should be")]
    Padding,
    /// The name is none.
    #[error("a name is 1 to {MAX_NAME} of a-z 0-9 . _ - and begins with a letter")]
    Name,
    /// The kernel gives no random bytes.
    #[error("getrandom: {0}")]
    Random(#[from] Errno),
}

/// Length-prefixed (u64, little endian), so that no two lists of fields read the same.
fn lp(into: &mut Vec<u8>, field: &[u8]) {
    into.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_le_bytes());
    into.extend_from_slice(field);
}

/// A key that wraps, of one term.
struct Kek {
    term: u32,
    created: u64,
    wraps: u32,
    nonce: [u8; 12],
    wrapped: Vec<u8>,
    key: Key,
}

impl Kek {
    const WRAPPED: usize = 32 + TAG;

    fn aad(vault: &VaultId, term: u32, created: u64) -> Vec<u8> {
        let mut aad = Vec::with_capacity(64);
        lp(&mut aad, b"kek");
        lp(&mut aad, vault);
        aad.extend_from_slice(&term.to_le_bytes());
        aad.extend_from_slice(&created.to_le_bytes());
        aad
    }

    fn wrapping(master: &Master, vault: &VaultId) -> Key {
        Key::derive(master, vault, b"moltbot/kek-wrap/v1")
    }

    fn draw(master: &Master, vault: &VaultId, term: u32, created: u64) -> Result<Self, EnvelopeError> {
        let mut nonce = [0; 12];
        entropy::fill(&mut nonce)?;
        let key = Key::draw()?;
        let aad = Self::aad(vault, term, created);
        let wrapped = Self::wrapping(master, vault).seal(nonce, &aad, key.expose()).ok_or(EnvelopeError::Wrap)?;
        Ok(Self { term, created, wraps: 0, nonce, wrapped, key })
    }
}

/// The wrapping keys, the newest last.
pub struct Keyring {
    vault: VaultId,
    keks: Vec<Kek>,
}

impl Keyring {
    /// A ring of one fresh key, of term 1.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn make(master: &Master, vault: VaultId, now: u64) -> Result<Self, EnvelopeError> {
        Ok(Self { vault, keks: vec![Kek::draw(master, &vault, 1, now)?] })
    }

    /// A ring whose one key is of the term after this ring's newest, wrapped under `master`.
    ///
    /// # Errors
    /// [`EnvelopeError::Random`].
    pub fn next(&self, master: &Master, now: u64) -> Result<Self, EnvelopeError> {
        let kek = Kek::draw(master, &self.vault, self.term().saturating_add(1), now)?;
        Ok(Self { vault: self.vault, keks: vec![kek] })
    }

    /// The vault that the ring is of.
    #[must_use]
    pub const fn vault(&self) -> &VaultId {
        &self.vault
    }

    /// The newest term; what is sealed is sealed under it.
    #[must_use]
    pub fn term(&self) -> u32 {
        self.keks.last().map_or(0, |kek| kek.term)
    }

    /// True where the newest term has wrapped enough.
    #[must_use]
    pub fn is_worn(&self) -> bool {
        self.keks.last().is_none_or(|kek| kek.wraps >= MAX_WRAPS)
    }

    /// The keys, for a test that looks for them where they must not be.
    pub fn expose(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.keks.iter().map(|kek| kek.key.expose())
    }

    /// Appends the ring as the store has it.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.keks.len());
        for kek in &self.keks {
            into.number32(kek.term).number(kek.created).number32(kek.wraps).raw(&kek.nonce).raw(&kek.wrapped);
        }
    }

    /// Reads and unwraps a ring.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>, master: &Master, vault: VaultId) -> Option<Self> {
        let wrapping = Kek::wrapping(master, &vault);
        let mut keks: Vec<Kek> = Vec::new();
        for _ in 0..from.count(MAX_TERMS)? {
            let (term, created, wraps, nonce) = (from.number32()?, from.number()?, from.number32()?, from.array()?);
            let wrapped = from.array::<{ Kek::WRAPPED }>()?.to_vec();
            let opened = wrapping.open(nonce, &Kek::aad(&vault, term, created), &wrapped)?;
            let key = Key::new(*opened.first_chunk()?);
            // Terms rise, so no term stands twice.
            if keks.last().is_some_and(|before| before.term >= term) {
                return None;
            }
            keks.push(Kek { term, created, wraps, nonce, wrapped, key });
        }
        (!keks.is_empty()).then_some(Self { vault, keks })
    }
}

/// One sealed secret. Holds no plaintext.
///
/// Behind a pointer and without spare room: thousands of them lie in a small memory, and twice as many while keys rotate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record(Box<Parts>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Parts {
    name: Box<str>,
    version: u64,
    term: u32,
    created: u64,
    policy: Box<str>,
    salt: [u8; 16],
    nonce: [u8; 12],
    wrapped: [u8; 32 + TAG],
    commit: [u8; 32],
    body: Box<[u8]>,
}

/// True where `name` is one: it stands in records and in configurations.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let character = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    name.len() <= MAX_NAME && name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(character)
}

fn expand(dek: &Key, salt: &[u8; 16]) -> (Key, [u8; 32]) {
    let mut both = Zeroizing::new([0u8; 64]);
    // 64 bytes are two blocks of the hash; only more than 255 of them are refused.
    let _ = Hkdf::<Sha256>::new(Some(salt), dek.expose()).expand(b"moltbot/secret/v1", both.as_mut_slice());
    let (mut key, mut commit) = (Zeroizing::new([0; 32]), [0; 32]);
    for (to, from) in key.iter_mut().chain(&mut commit).zip(both.iter()) {
        *to = *from;
    }
    (Key::new(*key), commit)
}

fn pad(value: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut padded = Zeroizing::new(Vec::with_capacity((2 + value.len()).next_multiple_of(BLOCK)));
    padded.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    padded.extend_from_slice(value);
    padded.resize((2 + value.len()).next_multiple_of(BLOCK), 0);
    padded
}

fn unpad(padded: &[u8]) -> Option<&[u8]> {
    let (length, rest) = padded.split_first_chunk::<2>()?;
    let (value, padding) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    (padding.len() < BLOCK && padding.iter().all(|byte| *byte == 0)).then_some(value)
}

impl Record {
    /// Seals `value` as `version` of `name`.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn seal(
        ring: &mut Keyring,
        name: &str,
        version: u64,
        created: u64,
        policy: &Policy,
        value: &Secret,
    ) -> Result<Self, EnvelopeError> {
        if !is_name(name) {
            return Err(EnvelopeError::Name);
        }
        Self::seal_under(ring, name, version, created, &policy.to_string(), value)
    }

    /// The same version under another ring, in an envelope of its own.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn reseal(&self, old: &Keyring, new: &mut Keyring) -> Result<Self, EnvelopeError> {
        let parts = &self.0;
        Self::seal_under(new, &parts.name, parts.version, parts.created, &parts.policy, &self.open(old)?)
    }

    fn seal_under(
        ring: &mut Keyring,
        name: &str,
        version: u64,
        created: u64,
        policy: &str,
        value: &Secret,
    ) -> Result<Self, EnvelopeError> {
        // One call of the kernel for all three.
        let mut random = Zeroizing::new([0; 32 + 16 + 12]);
        entropy::fill(random.as_mut_slice())?;
        let mut drawn = Reader::new(random.as_slice());
        let drew = || EnvelopeError::Random(Errno::IO);
        let dek = Key::new(drawn.array().ok_or_else(drew)?);
        let (salt, nonce) = (drawn.array().ok_or_else(drew)?, drawn.array().ok_or_else(drew)?);
        let (enc, commit) = expand(&dek, &salt);
        let vault = ring.vault;
        let kek = ring.keks.last_mut().ok_or(EnvelopeError::Term(0))?;
        let mut parts = Box::new(Parts {
            name: name.into(),
            version,
            term: kek.term,
            created,
            policy: policy.into(),
            salt,
            nonce,
            wrapped: [0; 32 + TAG],
            commit,
            body: Box::default(),
        });
        kek.wraps = kek.wraps.saturating_add(1);
        let wrapped = kek.key.seal(nonce, &parts.aad(&vault, b"dek"), dek.expose()).ok_or(EnvelopeError::Wrap)?;
        parts.wrapped = wrapped.try_into().map_err(|_| EnvelopeError::Wrap)?;
        let body = enc.seal([0; 12], &parts.body_aad(&vault), &pad(value.expose())).ok_or(EnvelopeError::Body)?;
        parts.body = body.into();
        Ok(Self(parts))
    }

    /// Opens the envelope.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn open(&self, ring: &Keyring) -> Result<Secret, EnvelopeError> {
        let (parts, dek) = (&self.0, self.data_key(ring)?);
        let (enc, commit) = expand(&dek, &parts.salt);
        if !bool::from(commit.ct_eq(&parts.commit)) {
            return Err(EnvelopeError::Commitment);
        }
        let padded = enc.open([0; 12], &parts.body_aad(&ring.vault), &parts.body).ok_or(EnvelopeError::Body)?;
        let value = unpad(&padded).ok_or(EnvelopeError::Padding)?;
        Secret::new(value.to_vec()).map_err(|_| EnvelopeError::Padding)
    }

    /// The key that the envelope was sealed with, for a test that looks for it where it must not be.
    ///
    /// # Errors
    /// [`EnvelopeError`].
    pub fn data_key(&self, ring: &Keyring) -> Result<Key, EnvelopeError> {
        let parts = &self.0;
        let kek = ring.keks.iter().find(|kek| kek.term == parts.term).ok_or(EnvelopeError::Term(parts.term))?;
        let aad = parts.aad(&ring.vault, b"dek");
        let opened = kek.key.open(parts.nonce, &aad, &parts.wrapped).ok_or(EnvelopeError::Wrap)?;
        opened.first_chunk().map(|key| Key::new(*key)).ok_or(EnvelopeError::Wrap)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Counted from 1 for every name.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version
    }

    /// When this version was sealed, in seconds since 1970.
    #[must_use]
    pub fn created(&self) -> u64 {
        self.0.created
    }

    /// Term of the key that wraps its key.
    #[must_use]
    pub fn term(&self) -> u32 {
        self.0.term
    }

    /// The policy's text, as it is bound to the envelope.
    #[must_use]
    pub fn policy_text(&self) -> &str {
        &self.0.policy
    }

    /// The policy. One that does not parse, which only another build can have written, allows nothing.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy::parse(&self.0.policy).unwrap_or_default()
    }

    /// Appends the bytes of the record: a leaf of the tree.
    pub fn write(&self, into: &mut Writer) {
        let parts = &self.0;
        into.bytes(parts.name.as_bytes()).number(parts.version).number32(parts.term).number(parts.created);
        into.bytes(parts.policy.as_bytes()).raw(&parts.salt).raw(&parts.nonce).raw(&parts.wrapped).raw(&parts.commit);
        into.bytes(&parts.body);
    }

    /// How many those are.
    #[must_use]
    pub fn length(&self) -> usize {
        Writer::length_of(|into| self.write(into))
    }

    /// Bytes of the record.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut into = Writer::new(self.length());
        self.write(&mut into);
        into.finish()
    }

    /// Reads a record; nothing may follow it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::new(bytes);
        let parts = Parts {
            name: from.text(MAX_NAME).filter(|name| is_name(name))?.into(),
            version: from.number()?,
            term: from.number32()?,
            created: from.number()?,
            policy: from.text(permit::MAX_TEXT)?.into(),
            salt: from.array()?,
            nonce: from.array()?,
            wrapped: from.array()?,
            commit: from.array()?,
            body: from.bytes(MAX_BODY)?.into(),
        };
        from.is_done().then(|| Self(Box::new(parts)))
    }
}

impl Parts {
    fn aad(&self, vault: &VaultId, label: &[u8]) -> Vec<u8> {
        let mut aad = Vec::with_capacity(256);
        lp(&mut aad, label);
        lp(&mut aad, vault);
        lp(&mut aad, self.name.as_bytes());
        aad.extend_from_slice(&self.version.to_le_bytes());
        aad.extend_from_slice(&self.term.to_le_bytes());
        aad.extend_from_slice(&self.created.to_le_bytes());
        aad.extend_from_slice(&Sha256::digest(self.policy.as_bytes()));
        aad
    }

    fn body_aad(&self, vault: &VaultId) -> Vec<u8> {
        let mut aad = self.aad(vault, b"sec");
        aad.extend_from_slice(&self.commit);
        aad
    }
}

#[cfg(test)]
mod tests;
