//! A passphrase in front of the store: what seals it is then made of the key file and of the passphrase, so that neither a
//! copy of the disk nor a guess is enough.
//!
//! ```text
//! stretched = Argon2id(passphrase, salt, 64 MiB, 3 passes, 1 lane)      (RFC 9106)
//! MK        = HKDF-SHA256(ikm = key file || stretched, salt, "moltbot/passphrase/v1")
//! ```
//!
//! Salt and costs stand in clear before the store, and are hostile: whoever changes them changes the key, and the store does
//! not open. Costs are bounded, so that a file cannot make the vault take all memory. The passphrase comes from the
//! operator's hand. Argon2's blocks are too large for secret memory: while it runs, root that reads this process's memory
//! could take what it makes of the passphrase. They are wiped when it is done.

use crate::codec::Reader;
use crate::entropy;
use crate::keys::Master;
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hkdf::Hkdf;
use proto::secret::Secret;
use rustix::io::Errno;
use sha2::Sha256;
use zeroize::Zeroizing;

const MAGIC: [u8; 8] = *b"MOLTPASS";
/// Bytes that stand before a store that a passphrase seals.
pub const LENGTH: usize = 52;
/// A passphrase has at least so many bytes.
pub const SHORTEST: usize = 8;
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
/// What a file may ask for at most.
const MOST: (u32, u32, u32) = (256 << 10, 16, 4);

/// What is known of a passphrase without it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lock {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 32],
}

/// The salt and costs before a store are none that a vault writes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("what stands before it is no passphrase's salt and costs")]
pub struct NoLock;

impl Lock {
    /// With a salt of its own.
    ///
    /// # Errors
    /// What `getrandom(2)` says.
    pub fn draw() -> Result<Self, Errno> {
        let mut lock = Self { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1, salt: [0; 32] };
        entropy::fill(&mut lock.salt)?;
        Ok(lock)
    }

    /// What stands before the store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let numbers = [self.memory_kib, self.passes, self.lanes].map(u32::to_le_bytes);
        [&MAGIC[..], numbers.as_flattened(), &self.salt].concat()
    }

    /// Takes a file apart: what stands before the store, if a passphrase seals it, and the store.
    ///
    /// # Errors
    /// [`NoLock`].
    pub fn split(file: &[u8]) -> Result<(Option<Self>, &[u8]), NoLock> {
        if !file.starts_with(&MAGIC) {
            return Ok((None, file));
        }
        let (front, store) = file.split_at_checked(LENGTH).ok_or(NoLock)?;
        let mut from = Reader::new(front.get(MAGIC.len()..).unwrap_or_default());
        let mut number = || from.number32().ok_or(NoLock);
        let (memory_kib, passes, lanes) = (number()?, number()?, number()?);
        let lock = Self { memory_kib, passes, lanes, salt: from.array().ok_or(NoLock)? };
        let (memory, most_passes, most_lanes) = MOST;
        // Bounds first: `Params` multiplies what it is given.
        if memory_kib > memory || passes > most_passes || lanes > most_lanes || lock.params().is_none() {
            return Err(NoLock);
        }
        Ok((Some(lock), store))
    }

    fn params(&self) -> Option<Params> {
        Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok()
    }

    /// What seals the store: of the key file's half and the passphrase. None where there is not the memory for it.
    #[must_use]
    pub fn combine(&self, half: &Master, passphrase: &Secret) -> Option<Master> {
        // The key file stands first, the stretched passphrase second.
        let mut parts = Zeroizing::new([0; 64]);
        let (first, second) = parts.split_first_chunk_mut::<32>()?;
        first.copy_from_slice(half.expose());
        stretch(passphrase, &self.salt, self.params()?, second)?;
        let mut combined = Zeroizing::new([0; 32]);
        let hkdf = Hkdf::<Sha256>::new(Some(&self.salt), parts.as_slice());
        hkdf.expand(b"moltbot/passphrase/v1", combined.as_mut_slice()).ok()?;
        Some(Master::from_bytes(*combined))
    }
}

/// Argon2id of what a person typed. None where there is not the memory for it.
#[must_use]
pub fn stretch(typed: &Secret, salt: &[u8; 32], params: Params, into: &mut [u8]) -> Option<()> {
    let mut blocks: Vec<Block> = Vec::new();
    blocks.try_reserve_exact(params.block_count()).ok()?;
    blocks.resize(params.block_count(), Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(typed.expose(), salt, into, &mut blocks).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn key_is_of_both_halves_and_of_the_salt() {
        let lock = Lock { memory_kib: 64, passes: 1, lanes: 1, salt: [1; 32] };
        let key = |lock: &Lock, half: u8, text| {
            *lock.combine(&Master::from_bytes([half; 32]), &secret(text)).unwrap().expose()
        };
        let right = key(&lock, 7, "correct horse");
        assert_eq!(key(&lock, 7, "correct horse"), right);
        assert_ne!(key(&lock, 8, "correct horse"), right);
        assert_ne!(key(&lock, 7, "correct horsf"), right);
        assert_ne!(key(&Lock { salt: [2; 32], ..lock.clone() }, 7, "correct horse"), right);
        assert_ne!(key(&Lock { passes: 2, ..lock }, 7, "correct horse"), right);
    }

    #[test]
    fn front_reads_back_and_one_that_asks_for_too_much_is_refused() {
        let lock = Lock::draw().unwrap();
        let file = [lock.encode(), b"store".to_vec()].concat();
        assert_eq!(Lock::split(&file), Ok((Some(lock.clone()), b"store".as_slice())));
        assert_eq!(Lock::split(b"MOLTVLT2 and so on"), Ok((None, b"MOLTVLT2 and so on".as_slice())));
        for greedy in [
            Lock { memory_kib: u32::MAX, ..lock.clone() },
            Lock { passes: 17, ..lock.clone() },
            Lock { lanes: 5, ..lock.clone() },
            Lock { lanes: u32::MAX, ..lock.clone() },
            Lock { passes: 0, ..lock.clone() },
        ] {
            assert_eq!(Lock::split(&greedy.encode()), Err(NoLock));
        }
        assert_eq!(Lock::split(&lock.encode()[..40]), Err(NoLock));
    }
}
