//! auditd's signing keys. One is in force at a time; its successor is announced in every stream, under its signature,
//! before it is destroyed, so that whoever takes everything auditd has today can sign nothing of yesterday.
//!
//! The secret lives in `logs/signing.key`, which auditd makes and holds open: two slots that are overwritten in place,
//! because behind its wall auditd can neither replace nor remove a file. That destroys a key where the file system
//! writes in place (ext4, XFS, tmpfs). On one that copies on write, and in backups, old bytes outlive the overwrite;
//! there the limit is who reads the raw device.
//!
//! ```text
//! header   0..32   "moltbot signing 1"  8-byte instance  zeros
//! slot n  32..96 and 96..160   epoch (8, big endian)  seed (32)  SHA-256 of both, its first 24 bytes
//! 160..192                     key of the fingerprints in redacted texts, for good
//! ```

use crate::chain::hex;
use crate::note::{Checkpoint, NoteError, PublicKey, SignedNote};
use crate::redact::Redactor;
use crate::verify::EpochKey;
use ed25519_dalek::SigningKey;
use proto::audit::Stream;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;
use zeroize::Zeroizing;

/// The file's name.
pub const NAME: &str = "signing.key";
const MAGIC: &[u8; 17] = b"moltbot signing 1";
const INSTANCE: std::ops::Range<usize> = 17..25;
const HEADER: usize = 32;
const SLOT: usize = 64;
const SLOTS: usize = HEADER + 2 * SLOT;
const SIZE: usize = SLOTS + 32;

/// A signing key and its generation.
struct Secret {
    epoch: u64,
    key: SigningKey,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.epoch)
    }
}

impl Secret {
    fn new(epoch: u64) -> Result<Self, Errno> {
        let mut seed = Zeroizing::new([0; 32]);
        fill(seed.as_mut_slice())?;
        Ok(Self { epoch, key: SigningKey::from_bytes(&seed) })
    }

    fn slot(&self) -> Zeroizing<[u8; SLOT]> {
        let mut slot = Zeroizing::new([0; SLOT]);
        let seed = Zeroizing::new(self.key.to_bytes());
        let epoch = self.epoch.to_be_bytes();
        let check = check(&epoch, seed.as_slice());
        let content = epoch.iter().chain(seed.as_slice()).chain(&check);
        slot.iter_mut().zip(content).for_each(|(to, from)| *to = *from);
        slot
    }

    fn from_slot(slot: &[u8]) -> Option<Self> {
        let (epoch, rest) = slot.split_first_chunk::<8>()?;
        let (seed, sum) = rest.split_first_chunk::<32>()?;
        let good = sum == check(epoch, seed);
        good.then(|| Self { epoch: u64::from_be_bytes(*epoch), key: SigningKey::from_bytes(seed) })
    }

    const fn offset(epoch: u64) -> u64 {
        (HEADER as u64).saturating_add((epoch % 2).saturating_mul(SLOT as u64))
    }
}

fn check(epoch: &[u8; 8], seed: &[u8]) -> [u8; 24] {
    let hash = Sha256::new().chain_update(MAGIC).chain_update(epoch).chain_update(seed).finalize();
    let mut sum = [0; 24];
    sum.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    sum
}

fn fill(mut bytes: &mut [u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let got = rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty())?;
        bytes = bytes.get_mut(got..).unwrap_or_default();
    }
    Ok(())
}

/// The keys, and the file that holds them.
#[derive(Debug)]
pub struct Ring {
    file: OwnedFd,
    instance: String,
    now: Secret,
    next: Option<Secret>,
    redactor: Redactor,
}

impl Ring {
    /// Opens the file beneath `directory`; none where it holds no key, as before the first start.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(directory: BorrowedFd<'_>) -> Result<Result<Self, Empty>, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(directory, NAME, flags, mode)?;
        rustix::fs::fchmod(&file, mode)?;
        let mut bytes = Zeroizing::new([0; SIZE]);
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let read = rustix::io::pread(&file, rest, u64::try_from(filled).unwrap_or(u64::MAX))?;
            if read == 0 {
                break;
            }
            filled = filled.saturating_add(read);
        }
        let slots = bytes.get(HEADER..SLOTS).unwrap_or_default().chunks_exact(SLOT);
        let mut secrets: Vec<Secret> = slots.filter_map(Secret::from_slot).collect();
        secrets.sort_by_key(|secret| secret.epoch);
        let instance = bytes.get(INSTANCE).filter(|_| bytes.starts_with(MAGIC)).map(hex);
        let redactor = bytes.last_chunk::<32>().map(Redactor::new);
        let mut secrets = secrets.into_iter();
        Ok(match (instance, secrets.next(), redactor) {
            (Some(instance), Some(now), Some(redactor)) => {
                Ok(Self { file, instance, now, next: secrets.next(), redactor })
            }
            _ => Err(Empty { file }),
        })
    }

    /// What takes secrets out of texts.
    #[must_use]
    pub const fn redactor(&self) -> &Redactor {
        &self.redactor
    }

    /// The same, to be told what else to take out.
    pub const fn redactor_mut(&mut self) -> &mut Redactor {
        &mut self.redactor
    }

    /// The key in force.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.now.epoch
    }

    /// Time since the file was last written, which is when the key in force came in.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        let written = u64::try_from(rustix::fs::fstat(&self.file).ok()?.st_mtime).ok()?;
        crate::clock::Instant::now().wall.checked_sub(Duration::from_secs(written))
    }

    /// The generation that is being brought in.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        self.next.as_ref().map(|next| next.epoch)
    }

    /// Makes the next key and keeps it, without using it yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn prepare(&mut self) -> Result<(), Errno> {
        if self.next.is_none() {
            let next = Secret::new(self.now.epoch.saturating_add(1))?;
            self.write(Secret::offset(next.epoch), next.slot().as_slice())?;
            self.next = Some(next);
        }
        Ok(())
    }

    /// Destroys the key in force and puts the next in its place. Every stream must have announced it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn advance(&mut self) -> Result<(), Errno> {
        if self.next.is_some() {
            self.write(Secret::offset(self.now.epoch), &[0; SLOT])?;
            if let Some(next) = self.next.take() {
                self.now = next;
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        write(&self.file, offset, bytes)
    }

    /// Name of a stream's log: `moltbot/<instance>/<stream>`.
    #[must_use]
    pub fn origin(&self, stream: Stream) -> String {
        format!("moltbot/{}/{}", self.instance, stream.name())
    }

    /// Name of the key that the vault cosigns with: `moltbot/<instance>/vault`.
    #[must_use]
    pub fn cosigner(&self) -> String {
        format!("moltbot/{}/vault", self.instance)
    }

    fn secret(&self, epoch: u64) -> Option<&Secret> {
        [Some(&self.now), self.next.as_ref()].into_iter().flatten().find(|secret| secret.epoch == epoch)
    }

    /// The public key of a generation, if its secret is here.
    #[must_use]
    pub fn public(&self, stream: Stream, epoch: u64) -> Option<EpochKey> {
        let secret = self.secret(epoch)?;
        let key = PublicKey::new(&self.origin(stream), secret.key.verifying_key().as_bytes()).ok()?;
        Some(EpochKey { epoch, key })
    }

    /// Signs a checkpoint of a stream.
    ///
    /// # Errors
    /// [`NoteError::Key`] where there is no secret of this generation.
    pub fn sign(&self, stream: Stream, epoch: u64, size: u64, root: [u8; 32]) -> Result<SignedNote, NoteError> {
        let secret = self.secret(epoch).ok_or(NoteError::Key)?;
        let origin = self.origin(stream);
        let text = Checkpoint { origin: origin.clone(), size, root }.to_string();
        SignedNote::sign(text, &origin, &secret.key)
    }
}

/// The file without a key in it.
#[derive(Debug)]
pub struct Empty {
    file: OwnedFd,
}

impl Empty {
    /// Makes the first key of a new installation.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn begin(self) -> Result<Ring, Errno> {
        let mut instance = [0; 8];
        fill(&mut instance)?;
        let now = Secret::new(0)?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&instance);
        header.resize(HEADER, 0);
        header.extend_from_slice(now.slot().as_slice());
        header.resize(SLOTS, 0);
        let mut fingerprints = Zeroizing::new([0; 32]);
        fill(fingerprints.as_mut_slice())?;
        header.extend_from_slice(fingerprints.as_slice());
        write(&self.file, 0, &Zeroizing::new(header))?;
        let redactor = Redactor::new(&fingerprints);
        Ok(Ring { file: self.file, instance: hex(&instance), now, next: None, redactor })
    }
}

fn write(file: &OwnedFd, mut offset: u64, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, offset)?;
        bytes = bytes.get(written..).unwrap_or_default();
        offset = offset.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
    }
    rustix::fs::fdatasync(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn key_survives_a_restart_and_is_gone_from_the_disk_once_it_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        let Ok(Err(empty)) = Ring::open(fd.as_fd()) else { panic!("a key from nowhere") };
        let mut ring = empty.begin().unwrap();
        let seed = ring.now.key.to_bytes();
        let holds = |needle: &[u8]| {
            std::fs::read(dir.path().join(NAME)).unwrap().windows(needle.len()).any(|window| window == needle)
        };
        let again = Ring::open(fd.as_fd()).unwrap().unwrap();
        assert_eq!(again.public(Stream::Auth, 0), ring.public(Stream::Auth, 0));
        ring.prepare().unwrap();
        let between = Ring::open(fd.as_fd()).unwrap().unwrap();
        assert_eq!((between.epoch(), between.next()), (0, Some(1)));
        assert!(holds(&seed));
        ring.advance().unwrap();
        assert!(!holds(&seed));
        let after = Ring::open(fd.as_fd()).unwrap().unwrap();
        assert_eq!((after.epoch(), after.next()), (1, None));
        assert!(after.sign(Stream::Auth, 0, 1, [0; 32]).is_err());
        let note = after.sign(Stream::Auth, 1, 1, [0; 32]).unwrap();
        assert!(note.is_signed_by(&after.public(Stream::Auth, 1).unwrap().key));
        assert!(!note.is_signed_by(&after.public(Stream::Secret, 1).unwrap().key));
    }

    #[test]
    fn slot_with_any_bit_flipped_is_no_key() {
        let slot = Secret::new(3).unwrap().slot();
        assert_eq!(Secret::from_slot(slot.as_slice()).unwrap().epoch, 3);
        for bit in 0..SLOT * 8 {
            let mut bad = *slot;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Secret::from_slot(&bad).is_none());
        }
    }
}
