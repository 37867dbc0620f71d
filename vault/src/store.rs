//! `vault.db`: one sealed snapshot, replaced whole.
//!
//! The file is hostile until its seal was checked. Layout: magic `MOLTVLT1`, vault id (16 bytes), generation (u64, little
//! endian), nonce (12 bytes), then AES-256-GCM of the body, with all that stands before it as associated data. The key is
//! HKDF-SHA256 of the master key with `moltbot/store/v1` and the vault id as info; the nonce is fresh for every snapshot.
//! A replacement is written beside the store, made durable, and renamed; a reader meets the old one or the new one. It
//! does not detect that an older snapshot was put back.

use crate::entropy;
use crate::keys::Master;
use crate::lockout::{CAPACITY, Entry, Party, Table};
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use hkdf::Hkdf;
use proto::secret::Secret;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::Sha256;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd};
use zeroize::Zeroizing;

/// The store's name in its directory.
pub const NAME: &str = "vault.db";
const NEXT: &str = "vault.db.new";
const MAGIC: [u8; 8] = *b"MOLTVLT1";
const HEADER: usize = 44;
/// Bytes of a store at most, far above what secrets and a full table come to.
const MAX: u64 = 16 << 20;
/// Secrets at most.
const MAX_SECRETS: usize = 10_000;

/// Why a store cannot be used, or could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none.
    #[error("vault.db is not there")]
    Missing,
    /// No store, or one of another version.
    #[error("vault.db is not a store of this version")]
    Format,
    /// Altered, cut, or sealed with another key.
    #[error("vault.db does not open: it was altered, or it is not the store of this key")]
    Seal,
    /// The old store stands; nothing was lost.
    #[error("vault.db cannot be written: {0}")]
    Unwritable(Errno),
    /// Which store a crash would leave is not known: the process must end.
    #[error("vault.db: {step}: {errno}")]
    Durability {
        /// The call that failed.
        step: &'static str,
        /// Why.
        errno: Errno,
    },
    /// The kernel said no.
    #[error("vault.db: {0}")]
    Os(#[from] Errno),
}

/// One secret. No `Debug`: its value has none.
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Counted from 1.
    pub version: u64,
    /// Seconds since 1970.
    pub created: u64,
    /// Its bytes.
    pub value: Secret,
}

/// All that the vault knows.
#[derive(Default)]
pub struct Contents {
    /// Every secret.
    pub secrets: Vec<Kept>,
    /// Every failure that counts.
    pub lockouts: Table,
}

/// Identity of a store: what does not change when it is replaced, and how often it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Random; part of the key's derivation.
    pub id: [u8; 16],
    /// One more for every replacement.
    pub generation: u64,
}

impl Identity {
    /// Of a new store.
    ///
    /// # Errors
    /// Where the kernel gives no random bytes.
    pub fn draw() -> Result<Self, Errno> {
        let mut id = [0; 16];
        entropy::fill(&mut id)?;
        Ok(Self { id, generation: 0 })
    }

    fn cipher(&self, master: &Master) -> Result<Aes256Gcm, StoreError> {
        let mut key = Zeroizing::new([0u8; 32]);
        let derive = Hkdf::<Sha256>::new(None, master.expose());
        derive.expand_multi_info(&[b"moltbot/store/v1", &self.id], key.as_mut_slice()).map_err(|_| StoreError::Seal)?;
        Aes256Gcm::new_from_slice(key.as_slice()).map_err(|_| StoreError::Seal)
    }
}

/// Seals `contents` as a snapshot.
///
/// # Errors
/// [`StoreError`] where the kernel gives no random bytes.
pub fn seal(master: &Master, identity: Identity, contents: &Contents) -> Result<Vec<u8>, StoreError> {
    let mut nonce = [0u8; 12];
    entropy::fill(&mut nonce)?;
    let mut file = Vec::with_capacity(HEADER);
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&identity.id);
    file.extend_from_slice(&identity.generation.to_le_bytes());
    file.extend_from_slice(&nonce);
    let body = encode(contents);
    let payload = Payload { msg: body.as_slice(), aad: &file };
    let sealed = identity.cipher(master)?.encrypt(&Nonce::from(nonce), payload).map_err(|_| StoreError::Seal)?;
    file.extend_from_slice(&sealed);
    Ok(file)
}

/// Opens a snapshot.
///
/// # Errors
/// [`StoreError::Format`], [`StoreError::Seal`].
pub fn unseal(master: &Master, file: &[u8]) -> Result<(Identity, Contents), StoreError> {
    let (header, sealed) = file.split_first_chunk::<HEADER>().ok_or(StoreError::Format)?;
    let mut reader = Reader(header);
    if reader.array::<8>() != Some(MAGIC) {
        return Err(StoreError::Format);
    }
    let fields = (reader.array(), reader.array(), reader.array::<12>());
    let (Some(id), Some(generation), Some(nonce)) = fields else { return Err(StoreError::Format) };
    let identity = Identity { id, generation: u64::from_le_bytes(generation) };
    let payload = Payload { msg: sealed, aad: header };
    let body = identity.cipher(master)?.decrypt(&Nonce::from(nonce), payload).map_err(|_| StoreError::Seal)?;
    let body = Zeroizing::new(body);
    decode(&body).map(|contents| (identity, contents)).ok_or(StoreError::Format)
}

/// Reads the store beneath `directory`.
///
/// # Errors
/// [`StoreError`].
pub fn read(directory: BorrowedFd<'_>, master: &Master) -> Result<(Identity, Contents), StoreError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(directory, NAME, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Err(StoreError::Missing),
        Err(errno) => return Err(errno.into()),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(StoreError::Format);
    }
    let mut bytes = Vec::new();
    let read = File::from(fd).take(MAX).read_to_end(&mut bytes);
    read.map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    unseal(master, &bytes)
}

/// Puts `file` in the store's place, durably.
///
/// # Errors
/// [`StoreError::Unwritable`] where the old store stands; [`StoreError::Durability`] where the process must end.
pub fn replace(directory: BorrowedFd<'_>, file: &[u8]) -> Result<(), StoreError> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, NEXT, flags, Mode::RUSR | Mode::WUSR).map_err(StoreError::Unwritable)?;
    let mut rest = file;
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => {
                sweep(directory)?;
                return Err(StoreError::Unwritable(errno));
            }
        }
    }
    let durability = |step| move |errno| StoreError::Durability { step, errno };
    rustix::fs::fsync(&fd).map_err(durability("fsync"))?;
    rustix::fs::renameat(directory, NEXT, directory, NAME).map_err(durability("rename"))?;
    rustix::fs::fsync(directory.as_fd()).map_err(durability("fsync of its directory"))
}

/// Removes what an interrupted replacement left.
///
/// # Errors
/// [`StoreError::Durability`].
pub fn sweep(directory: BorrowedFd<'_>) -> Result<(), StoreError> {
    match rustix::fs::unlinkat(directory, NEXT, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(StoreError::Durability { step: "unlink of vault.db.new", errno }),
    }
}

fn length(of: usize) -> [u8; 4] {
    // Everything here is bounded far below; a wrong length would not open again and is caught by that.
    u32::try_from(of).unwrap_or(u32::MAX).to_le_bytes()
}

/// Sized at once: a vector that grows would leave copies of secrets behind.
fn encode(contents: &Contents) -> Zeroizing<Vec<u8>> {
    let secrets: usize = contents.secrets.iter().map(|kept| 24 + kept.name.len() + kept.value.expose().len()).sum();
    let mut body = Zeroizing::new(Vec::with_capacity(8 + secrets + contents.lockouts.entries().len() * 26));
    body.extend_from_slice(&length(contents.secrets.len()));
    for kept in &contents.secrets {
        body.extend_from_slice(&length(kept.name.len()));
        body.extend_from_slice(kept.name.as_bytes());
        body.extend_from_slice(&kept.version.to_le_bytes());
        body.extend_from_slice(&kept.created.to_le_bytes());
        body.extend_from_slice(&length(kept.value.expose().len()));
        body.extend_from_slice(kept.value.expose());
    }
    body.extend_from_slice(&length(contents.lockouts.entries().len()));
    for (party, entry) in contents.lockouts.entries() {
        let (kind, network) = match party {
            Party::V4(address) => (4, u64::from(*address)),
            Party::V6(network) => (6, *network),
        };
        body.push(kind);
        body.extend_from_slice(&network.to_le_bytes());
        body.extend_from_slice(&entry.first.to_le_bytes());
        body.push(entry.failures);
        body.extend_from_slice(&entry.until.to_le_bytes());
    }
    body
}

fn decode(body: &[u8]) -> Option<Contents> {
    let mut reader = Reader(body);
    let mut secrets = Vec::new();
    for _ in 0..reader.count(MAX_SECRETS)? {
        let name = reader.bytes()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        let (version, created) = (reader.number()?, reader.number()?);
        secrets.push(Kept { name, version, created, value: Secret::new(reader.bytes()?.to_vec()).ok()? });
    }
    let mut lockouts = Vec::new();
    for _ in 0..reader.count(CAPACITY)? {
        let [kind] = reader.array()?;
        let network = reader.number()?;
        let party = match kind {
            4 => Party::V4(u32::try_from(network).ok()?),
            6 => Party::V6(network),
            _ => return None,
        };
        let (first, [failures], until) = (reader.number()?, reader.array()?, reader.number()?);
        lockouts.push((party, Entry { first, failures, until }));
    }
    reader.0.is_empty().then(|| Contents { secrets, lockouts: Table::restore(lockouts) })
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, most: usize) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok().filter(|count| *count <= most)
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let count = self.count(Secret::MAX)?;
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    fn master(byte: u8) -> Master {
        Master::from_bytes([byte; 32])
    }

    fn contents() -> Contents {
        let value = Secret::new(b"a secret of some length".to_vec()).unwrap();
        let secrets = vec![Kept { name: "gateway.token".into(), version: 1, created: 7, value }];
        let entry = Entry { first: 1, failures: 3, until: 0 };
        Contents { secrets, lockouts: Table::restore([(Party::V4(9), entry), (Party::V6(10), entry)]) }
    }

    const IDENTITY: Identity = Identity { id: [3; 16], generation: 41 };

    #[test]
    fn store_round_trip_returns_everything_and_hides_it_on_disk() {
        let file = seal(&master(1), IDENTITY, &contents()).unwrap();
        let (identity, found) = unseal(&master(1), &file).unwrap();
        assert_eq!(identity, IDENTITY);
        assert_eq!(found.secrets[0].value.expose(), b"a secret of some length");
        assert_eq!(
            (found.secrets[0].name.as_str(), found.secrets[0].version, found.secrets[0].created),
            ("gateway.token", 1, 7)
        );
        assert_eq!(found.lockouts, contents().lockouts);
        assert!(!file.windows(8).any(|window| window == b"a secret" || window == b"gateway."));
        assert_ne!(file, seal(&master(1), IDENTITY, &contents()).unwrap(), "the nonce is fresh");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let file = seal(&master(1), IDENTITY, &contents()).unwrap();
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut bad = file.clone();
                bad[at] ^= 1 << bit;
                assert!(unseal(&master(1), &bad).is_err(), "byte {at} bit {bit}");
            }
            assert!(unseal(&master(1), &file[..at]).is_err(), "cut at {at}");
        }
        assert!(unseal(&master(1), &file).is_ok());
    }

    #[test]
    fn store_of_another_key_is_refused() {
        let file = seal(&master(1), IDENTITY, &contents()).unwrap();
        assert!(matches!(unseal(&master(2), &file), Err(StoreError::Seal)));
    }

    #[test]
    fn replacement_takes_the_place_and_leftovers_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        assert!(matches!(read(fd.as_fd(), &master(1)), Err(StoreError::Missing)));
        replace(fd.as_fd(), &seal(&master(1), IDENTITY, &contents()).unwrap()).unwrap();
        std::fs::write(dir.path().join(NEXT), b"half of a store").unwrap();
        assert_eq!(read(fd.as_fd(), &master(1)).unwrap().0, IDENTITY);
        sweep(fd.as_fd()).unwrap();
        let next = Identity { generation: 42, ..IDENTITY };
        replace(fd.as_fd(), &seal(&master(1), next, &contents()).unwrap()).unwrap();
        assert_eq!(read(fd.as_fd(), &master(1)).unwrap().0, next);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// A small file system that can be filled, taken down at the end of its test.
    struct Small(tempfile::TempDir);

    impl Small {
        fn mount(size: &std::ffi::CStr) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let flags = rustix::mount::MountFlags::empty();
            if rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(size)).is_err() {
                eprintln!("SKIPPED: mounting a tmpfs needs root");
                return None;
            }
            Some(Self(dir))
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[test]
    fn full_file_system_leaves_the_old_store_and_no_leftover() {
        let Some(Small(dir)) = &Small::mount(c"size=16k") else { return };
        let fd: OwnedFd = File::open(dir.path()).unwrap().into();
        replace(fd.as_fd(), &seal(&master(1), IDENTITY, &contents()).unwrap()).unwrap();
        assert!(matches!(replace(fd.as_fd(), &vec![0; 1 << 20]), Err(StoreError::Unwritable(Errno::NOSPC))));
        assert_eq!(read(fd.as_fd(), &master(1)).unwrap().0, IDENTITY);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
