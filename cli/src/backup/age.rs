//! Files of age (age-encryption.org/v1, c2sp.org/age) for X25519 recipients: what `age` and `rage` write and read, as far as a
//! backup needs it.
//!
//! A file that is read is hostile: nothing of it is used before its part of the authentication holds, and lengths are
//! bounded by what is there. Not the `age` crate, which brings 137 others for translations, plugins and
//! pre-releases of post-quantum keys into the process that holds the master key (ADR 17).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use chacha20poly1305::aead::{Aead as _, KeyInit as _};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use curve25519_dalek::MontgomeryPoint;
use hkdf::Hkdf;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

const VERSION: &str = "age-encryption.org/v1";
const RECIPIENT: &str = "age";
const IDENTITY: &str = "age-secret-key-";
/// Bytes of plaintext in a chunk of the payload.
const CHUNK: usize = 64 << 10;
const TAG: usize = 16;

type Bytes = Zeroizing<Vec<u8>>;
type Key = Zeroizing<[u8; 32]>;

/// Why there is no file, or nothing in it for us.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AgeError {
    /// No recipient.
    #[error("is no recipient of age (age1...)")]
    Recipient,
    /// No identity.
    #[error("holds no identity of age (AGE-SECRET-KEY-1...)")]
    Identity,
    /// No file of age.
    #[error("is no file of age version 1")]
    Format,
    /// For somebody else.
    #[error("is not encrypted to this identity")]
    NotForUs,
    /// Its header or payload is not what was written.
    #[error("was altered, or cut")]
    Altered,
    /// The kernel gives no random bytes.
    #[error("cannot be made: there is no randomness")]
    Random,
}

/// Whom a file is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recipient([u8; 32]);

/// What opens a file.
pub struct Identity(Key);

impl Recipient {
    /// Reads `age1...`.
    ///
    /// # Errors
    /// [`AgeError::Recipient`].
    pub fn parse(text: &str) -> Result<Self, AgeError> {
        let bytes = bech32(text, RECIPIENT).ok_or(AgeError::Recipient)?;
        Ok(Self(bytes.as_slice().try_into().map_err(|_| AgeError::Recipient)?))
    }
}

impl Identity {
    /// Every identity in a file of them, as `age-keygen` writes it: one a line, `#` before what is for people.
    ///
    /// # Errors
    /// [`AgeError::Identity`].
    pub fn parse_all(text: &str) -> Result<Vec<Self>, AgeError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let all = lines.map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() { Err(AgeError::Identity) } else { Ok(all) }
    }

    fn parse(text: &str) -> Result<Self, AgeError> {
        // Upper case is its one form.
        if text.chars().any(char::is_lowercase) {
            return Err(AgeError::Identity);
        }
        let bytes = Zeroizing::new(text.to_lowercase());
        let bytes = bech32(&bytes, IDENTITY).ok_or(AgeError::Identity)?;
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(AgeError::Identity);
        }
        key.copy_from_slice(&bytes);
        Ok(Self(key))
    }

    fn public(&self) -> [u8; 32] {
        MontgomeryPoint::mul_base_clamped(*self.0).to_bytes()
    }
}

/// Encrypts `plain` to all of `recipients`.
///
/// # Errors
/// [`AgeError::Random`].
pub fn encrypt(plain: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, AgeError> {
    let file_key = random::<16>()?;
    let mut header = format!("{VERSION}\n");
    for recipient in recipients {
        let ephemeral = random::<32>()?;
        let share = MontgomeryPoint::mul_base_clamped(*ephemeral).to_bytes();
        let key = wrap_key(&ephemeral, &recipient.0, &share, &recipient.0).ok_or(AgeError::Recipient)?;
        let body = seal(&key, [0; 12], file_key.as_slice()).ok_or(AgeError::Random)?;
        header.push_str(&format!("-> X25519 {}\n{}\n", STANDARD_NO_PAD.encode(share), STANDARD_NO_PAD.encode(body)));
    }
    header.push_str("---");
    let mac = header_mac(file_key.as_slice(), header.as_bytes()).ok_or(AgeError::Random)?.finalize().into_bytes();
    header.push_str(&format!(" {}\n", STANDARD_NO_PAD.encode(mac)));
    let nonce = random::<16>()?;
    let key = derive(nonce.as_slice(), file_key.as_slice(), "payload");
    let mut file = header.into_bytes();
    file.extend_from_slice(nonce.as_slice());
    let chunks: Vec<&[u8]> = if plain.is_empty() { vec![&[]] } else { plain.chunks(CHUNK).collect() };
    for (at, chunk) in chunks.iter().enumerate() {
        let is_last = at.saturating_add(1) == chunks.len();
        file.extend_from_slice(&seal(&key, nonce_of(at, is_last), chunk).ok_or(AgeError::Random)?);
    }
    Ok(file)
}

/// Decrypts a file.
///
/// # Errors
/// [`AgeError`].
pub fn decrypt(file: &[u8], identities: &[Identity]) -> Result<Bytes, AgeError> {
    let (header, mac, payload) = split(file).ok_or(AgeError::Format)?;
    let mut lines = header.split('\n');
    if lines.next() != Some(VERSION) {
        return Err(AgeError::Format);
    }
    let mut found = None;
    while let Some(line) = lines.next().filter(|line| *line != "---") {
        let mut words = line.strip_prefix("-> ").ok_or(AgeError::Format)?.split(' ');
        let (kind, share) = (words.next(), words.next());
        let mut body = String::new();
        // Lines of 64 columns, and a shorter one that ends it.
        loop {
            let part = lines.next().filter(|part| part.len() <= 64).ok_or(AgeError::Format)?;
            body.push_str(part);
            if part.len() < 64 {
                break;
            }
        }
        if let (Some("X25519"), Some(share), None) = (kind, share, found.as_ref()) {
            found = open_stanza(share, &body, identities)?;
        }
    }
    let file_key = found.ok_or(AgeError::NotForUs)?;
    let expected = header_mac(&file_key, header.as_bytes()).ok_or(AgeError::Altered)?;
    expected.verify_slice(&mac).map_err(|_| AgeError::Altered)?;
    open_payload(&file_key, payload)
}

/// The header up to and with `---`, its code, and what follows.
fn split(file: &[u8]) -> Option<(&str, Vec<u8>, &[u8])> {
    let at = file.windows(5).position(|window| window == b"\n--- ")?.checked_add(4)?;
    let (header, rest) = file.split_at_checked(at)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (mac, payload) = rest.split_at_checked(end)?;
    let mac = STANDARD_NO_PAD.decode(mac.strip_prefix(b" ")?).ok()?;
    Some((std::str::from_utf8(header).ok()?, mac, payload.get(1..)?))
}

fn open_stanza(share: &str, body: &str, identities: &[Identity]) -> Result<Option<Bytes>, AgeError> {
    let share: [u8; 32] =
        STANDARD_NO_PAD.decode(share).ok().and_then(|share| share.try_into().ok()).ok_or(AgeError::Format)?;
    let body = STANDARD_NO_PAD.decode(body).map_err(|_| AgeError::Format)?;
    if body.len() != 16 + TAG {
        return Err(AgeError::Format);
    }
    for identity in identities {
        let key = wrap_key(&identity.0, &share, &share, &identity.public()).ok_or(AgeError::Format)?;
        if let Some(file_key) = open(&key, [0; 12], &body) {
            return Ok(Some(file_key));
        }
    }
    Ok(None)
}

fn open_payload(file_key: &[u8], payload: &[u8]) -> Result<Bytes, AgeError> {
    let (nonce, rest) = payload.split_at_checked(16).ok_or(AgeError::Altered)?;
    let key = derive(nonce, file_key, "payload");
    let chunks: Vec<&[u8]> = rest.chunks(CHUNK + TAG).collect();
    // Never moved: a vector that grows leaves copies of what it held.
    let mut plain = Zeroizing::new(Vec::with_capacity(rest.len()));
    for (at, chunk) in chunks.iter().enumerate() {
        let is_last = at.saturating_add(1) == chunks.len();
        let part = open(&key, nonce_of(at, is_last), chunk).ok_or(AgeError::Altered)?;
        // An empty chunk is the whole of an empty file or nothing.
        if part.is_empty() && at > 0 {
            return Err(AgeError::Altered);
        }
        plain.extend_from_slice(&part);
    }
    if chunks.is_empty() { Err(AgeError::Altered) } else { Ok(plain) }
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, AgeError> {
    let mut bytes = Zeroizing::new([0; N]);
    let got = rustix::rand::getrandom(bytes.as_mut_slice(), rustix::rand::GetRandomFlags::empty());
    if got == Ok(N) { Ok(bytes) } else { Err(AgeError::Random) }
}

fn derive(salt: &[u8], ikm: &[u8], info: &str) -> Key {
    let mut key = Zeroizing::new([0; 32]);
    // 32 bytes are one block of the hash; only more than 255 of them are refused.
    let _ = Hkdf::<Sha256>::new(Some(salt), ikm).expand(info.as_bytes(), key.as_mut_slice());
    key
}

/// The key that wraps the file's key; none where the point is one of the few that make it known to everybody.
fn wrap_key(secret: &[u8; 32], point: &[u8; 32], share: &[u8; 32], recipient: &[u8; 32]) -> Option<Key> {
    let shared = Zeroizing::new(MontgomeryPoint(*point).mul_clamped(*secret).to_bytes());
    let salt = [share.as_slice(), recipient].concat();
    (*shared != [0; 32]).then(|| derive(&salt, shared.as_slice(), "age-encryption.org/v1/X25519"))
}

fn header_mac(file_key: &[u8], header: &[u8]) -> Option<Hmac<Sha256>> {
    let key = derive(&[], file_key, "header");
    Hmac::<Sha256>::new_from_slice(key.as_slice()).ok().map(|mac| mac.chain_update(header))
}

fn nonce_of(at: usize, is_last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    let counter = u64::try_from(at).unwrap_or(u64::MAX).to_be_bytes();
    nonce.iter_mut().skip(3).zip(counter).for_each(|(to, from)| *to = from);
    if let Some(last) = nonce.last_mut() {
        *last = u8::from(is_last);
    }
    nonce
}

fn seal(key: &Key, nonce: [u8; 12], plain: &[u8]) -> Option<Vec<u8>> {
    ChaCha20Poly1305::new_from_slice(key.as_slice()).ok()?.encrypt(&Nonce::from(nonce), plain).ok()
}

fn open(key: &Key, nonce: [u8; 12], sealed: &[u8]) -> Option<Bytes> {
    let cipher = ChaCha20Poly1305::new_from_slice(key.as_slice()).ok()?;
    cipher.decrypt(&Nonce::from(nonce), sealed).ok().map(Zeroizing::new)
}

/// The bytes of a bech32 text (BIP 173) with this prefix, in lower case.
fn bech32(text: &str, prefix: &str) -> Option<Bytes> {
    const DIGITS: &str = "qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    let digits = text.strip_prefix(prefix)?.strip_prefix('1')?;
    let values: Zeroizing<Vec<u8>> = Zeroizing::new(
        digits.chars().map(|c| DIGITS.find(c).and_then(|at| u8::try_from(at).ok())).collect::<Option<_>>()?,
    );
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    if polymod(high.chain([0]).chain(low).chain(values.iter().copied())) != 1 {
        return None;
    }
    let data = values.get(..values.len().checked_sub(6)?)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(data.len()));
    let (mut bits, mut held) = (0u32, 0u32);
    for value in data {
        (held, bits) = ((held << 5 | u32::from(*value)) & 0xfff, bits + 5);
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    // What is left over is less than a digit, and zero.
    (bits < 5 && held & ((1 << bits) - 1) == 0).then_some(bytes)
}

fn polymod(values: impl Iterator<Item = u8>) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    values.fold(1, |check, value| {
        let top = check >> 25;
        let check = (check & 0x01ff_ffff) << 5 ^ u32::from(value);
        GENERATOR.iter().enumerate().filter(|(at, _)| top >> at & 1 == 1).fold(check, |check, (_, one)| check ^ one)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair of the specification (c2sp.org/age).
    const ALICE: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
    const ALICE_PUBLIC: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

    fn alice() -> Vec<Identity> {
        Identity::parse_all(&format!("# a comment\n\n{ALICE}\n")).unwrap()
    }

    #[test]
    fn file_opens_with_its_identity_at_every_length_around_a_chunk() {
        assert_eq!(Recipient::parse(ALICE_PUBLIC).unwrap().0, alice()[0].public());
        let to = [Recipient([9; 32]), Recipient::parse(ALICE_PUBLIC).unwrap()];
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK] {
            let plain = vec![7; length];
            let file = encrypt(&plain, &to).unwrap();
            assert_eq!(decrypt(&file, &alice()).unwrap().as_slice(), plain, "{length}");
        }
    }

    #[test]
    fn every_altered_byte_and_every_cut_is_noticed() {
        let file = encrypt(b"the key and the store", &[Recipient(alice()[0].public())]).unwrap();
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1;
            assert!(decrypt(&altered, &alice()).is_err(), "byte {at}");
            assert!(decrypt(&file[..at], &alice()).is_err(), "cut at {at}");
        }
        assert!(decrypt(&[file.as_slice(), b"x"].concat(), &alice()).is_err());
        let other = encrypt(b"x", &[Recipient([9; 32])]).unwrap();
        assert_eq!(decrypt(&other, &alice()).unwrap_err(), AgeError::NotForUs);
    }

    #[test]
    fn recipients_and_identities_with_a_wrong_letter_are_none() {
        for at in 0..ALICE.len() {
            let mut text = ALICE.as_bytes().to_vec();
            text[at] = if text[at] == b'Q' { b'P' } else { b'Q' };
            assert!(Identity::parse_all(std::str::from_utf8(&text).unwrap()).is_err(), "{at}");
        }
        for bad in ["", "age1", "age1qqqq", ALICE, "# only a comment"] {
            assert!(Recipient::parse(bad).is_err(), "{bad}");
        }
        assert!(
            Identity::parse_all("# only a comment").is_err() && Identity::parse_all(&ALICE.to_lowercase()).is_err()
        );
    }
}
