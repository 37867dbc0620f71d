//! The bytes of `vault.db`: one snapshot of everything, sealed whole. `docs/FORMATS.md` specifies them.
//!
//! The file is hostile until its trailer was checked, which comes before anything in it is decrypted or decoded. The
//! trailer is an HMAC under a key of the master key, so it commits to that key, and it holds the generation and the root
//! over the records: to delete, add, swap or take back one record is to alter the file. What it cannot tell is that a
//! whole older file was put back.

use crate::adopted::Adopted;
use crate::auth::devices::Devices;
use crate::auth::password::Password;
use crate::budget::Budgets;
use crate::cipher::Key;
use crate::codec::{Reader, Writer};
use crate::days::Days;
use crate::entropy;
use crate::envelope::{Keyring, Record, VaultId};
use crate::keys::Master;
use crate::lockout::Table;
use crate::merkle::{self, Hash};
use crate::senders::Senders;
use crate::senders::lists::Lists;
use crate::senders::pending::Pending;
use crate::taints::Taints;
use crate::transcripts::{self, Transcripts};
use crate::witness::memory::Memory;
use hmac::{Hmac, Mac as _};
use rustix::io::Errno;
use sha2::Sha256;
use std::collections::BTreeMap;

const MAGIC: [u8; 8] = *b"MOLTVLT2";
const HEADER: usize = 84;
const TRAILER: usize = 64;
const TAG: usize = 16;
/// Bytes of a store at most: with the passphrase's line in front it is one block of the vault's secret memory. What a store
/// of this size takes there when it is open, twice over while keys rotate, and one more of it as it is written, fit.
pub const MAX: usize = (1 << 20) - 4096;
/// Of these, bytes for what is counted without anybody's word: failures, uses, who waits, what the log was. However full a
/// store is, a failed login finds room in it.
const COUNTED: usize = 128 << 10;
/// Bytes of all else at most.
const ASKED: usize = MAX - COUNTED;
/// Records at most; more do not fit into [`MAX`] anyway.
const MAX_RECORDS: usize = 8192;

/// Why bytes are no store of this vault.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SnapshotError {
    /// Something else, or a store of another version of the format.
    #[error("vault.db is not a store of this version")]
    Format,
    /// Cut, or something was added.
    #[error("vault.db has {found} bytes where its header says {says}: it was cut, or added to")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        says: usize,
    },
    /// Sealed with another master key.
    #[error("vault.db is not the store of this key")]
    Foreign,
    /// Its trailer does not hold.
    #[error("vault.db was altered: its trailer does not hold")]
    Altered,
    /// Its trailer holds and its inside makes no sense, which no build of this version writes.
    #[error("vault.db does not read: {0}")]
    Inside(&'static str),
    /// It would be larger than a store may be.
    #[error(
        "the vault is full: its store would have {0} bytes and {ASKED} are allowed; remove secrets that are not needed"
    )]
    Full(usize),
    /// The vault's own memory is bounded as well.
    #[error("the vault's memory is used up; remove secrets that are not needed, or start it anew")]
    Memory,
    /// The kernel gives no random bytes, or a cipher failed.
    #[error("vault.db cannot be sealed: {0}")]
    Seal(Errno),
}

/// All that the vault knows.
pub struct Contents {
    /// Keys that wrap.
    pub ring: Keyring,
    /// Secrets, sealed, by name.
    pub records: BTreeMap<String, Record>,
    /// Failures that count.
    pub lockouts: Table,
    /// Uses that count.
    pub budgets: Budgets,
    /// How a client's password is told from others, where there is one.
    pub password: Option<Password>,
    /// Devices that are paired, or were.
    pub devices: Devices,
    /// The next start draws a new master key.
    pub renew: bool,
    /// Who may speak on which channel.
    pub senders: Senders,
    /// Keys of conversations.
    pub transcripts: Transcripts,
    /// Values that came from a configuration.
    pub adopted: Adopted,
    /// Conversations that strangers' words have reached.
    pub taints: Taints,
    /// What secrets have moved and cost today.
    pub days: Days,
    /// What the log was when it was last looked at.
    pub memory: Memory,
}

/// A snapshot among those of its vault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// Which vault.
    pub vault: VaultId,
    /// One more for every replacement.
    pub generation: u64,
    /// Root over the records.
    pub root: Hash,
    /// Root of the snapshot before.
    pub previous: Hash,
}

impl Contents {
    /// Root over the records, by name.
    #[must_use]
    pub fn root(&self) -> Hash {
        merkle::root(self.records.values().map(Record::encode))
    }

    /// Bytes of what is there by somebody's word, with room for what will be counted of each of it.
    fn asked_for(&self) -> usize {
        let of_record =
            |record: &Record| 4 + record.length() + Budgets::length(record.name()) + Days::length(record.name());
        let records: usize = self.records.values().map(of_record).sum();
        let lines = self.transcripts.iter().count() * transcripts::LINES;
        let others = Writer::length_of(|into| {
            self.ring.encode(into);
            self.devices.encode(into);
            self.senders.lists.encode(into);
            self.transcripts.encode(into);
            self.adopted.encode(into);
            self.taints.encode(into);
        });
        records + lines + others
    }
}

fn key_id(master: &Master) -> [u8; 16] {
    let derived = Key::derive(master, &[], b"moltbot/key-id/v1");
    let (id, _) = derived.expose().split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
    *id
}

fn body_key(master: &Master, vault: &VaultId, salt: &[u8; 32]) -> Key {
    let mut info = b"moltbot/body/v1".to_vec();
    info.extend_from_slice(vault);
    Key::derive(master, salt, &info)
}

fn trailer(master: &Master, vault: &VaultId, covered: &[u8]) -> Option<Hmac<Sha256>> {
    let key = Key::derive(master, vault, b"moltbot/trailer/v1");
    Hmac::<Sha256>::new_from_slice(key.expose()).ok().map(|mac| mac.chain_update(covered))
}

/// Seals everything as the snapshot of this vault and generation, behind `front`, which is none of it. Its root and the one
/// before are in `place`. One buffer is all that it takes, and where there is not the memory for that it is refused.
///
/// # Errors
/// [`SnapshotError::Full`], [`SnapshotError::Memory`], [`SnapshotError::Seal`].
pub fn seal(front: &[u8], master: &Master, place: &Place, contents: &Contents) -> Result<Vec<u8>, SnapshotError> {
    let (asked, body) = (contents.asked_for(), Writer::length_of(|into| encode(place, contents, into)));
    let whole = HEADER + body + TAG + TRAILER;
    if asked > ASKED || whole > MAX {
        return Err(SnapshotError::Full(asked));
    }
    let mut salt = [0; 32];
    entropy::fill(&mut salt).map_err(SnapshotError::Seal)?;
    let mut file = Writer::try_new(front.len() + whole).ok_or(SnapshotError::Memory)?;
    file.raw(front).raw(&MAGIC).raw(&key_id(master)).raw(&place.vault).number(place.generation).raw(&salt);
    file.count(body + TAG);
    encode(place, contents, &mut file);
    let mut file = file.finish();
    let failed = || SnapshotError::Seal(Errno::INVAL);
    let store = file.get_mut(front.len()..).ok_or_else(failed)?;
    let (header, body) = store.split_at_mut_checked(HEADER).ok_or_else(failed)?;
    let tag = body_key(master, &place.vault, &salt).seal_in_place([0; 12], header, body).ok_or_else(failed)?;
    file.extend_from_slice(&tag);
    file.extend_from_slice(&place.root);
    let covered = file.get(front.len()..).ok_or_else(failed)?;
    let tag = trailer(master, &place.vault, covered).ok_or_else(failed)?.finalize().into_bytes();
    file.extend_from_slice(&tag);
    // Nothing of it is plain any more.
    Ok(std::mem::take(&mut *file))
}

/// What a snapshot says of itself in clear: not to be believed before it was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Label {
    /// Which vault.
    pub vault: VaultId,
    /// One more for every replacement.
    pub generation: u64,
}

/// Reads the label of a snapshot, if it is one.
#[must_use]
pub fn label(file: &[u8]) -> Option<Label> {
    let mut header = Reader::new(file);
    header.array::<8>().filter(|magic| *magic == MAGIC)?;
    header.array::<16>()?;
    Some(Label { vault: header.array()?, generation: header.number()? })
}

/// Opens a snapshot.
///
/// # Errors
/// [`SnapshotError`].
pub fn unseal(master: &Master, file: &[u8]) -> Result<(Place, Contents), SnapshotError> {
    let mut header = Reader::new(file);
    let format = || SnapshotError::Format;
    if header.array::<8>() != Some(MAGIC) {
        return Err(format());
    }
    let cut = SnapshotError::Length { found: file.len(), says: HEADER + TAG + TRAILER };
    let id: [u8; 16] = header.array().ok_or(cut)?;
    let (vault, generation) = (header.array().ok_or(cut)?, header.number().ok_or(cut)?);
    let (salt, length) = (header.array().ok_or(cut)?, header.number32().ok_or(cut)?);
    let says = usize::try_from(length).unwrap_or(usize::MAX).saturating_add(HEADER + TRAILER);
    if says != file.len() || file.len() > MAX {
        return Err(SnapshotError::Length { found: file.len(), says });
    }
    if id != key_id(master) {
        return Err(SnapshotError::Foreign);
    }
    let altered = || SnapshotError::Altered;
    let (covered, tag) = file.split_last_chunk::<32>().ok_or(cut)?;
    trailer(master, &vault, covered).ok_or_else(altered)?.verify_slice(tag).map_err(|_| altered())?;
    let (front, root) = covered.split_last_chunk::<32>().ok_or(cut)?;
    let (aad, sealed) = front.split_at_checked(HEADER).ok_or(cut)?;
    let body = body_key(master, &vault, &salt).open([0; 12], aad, sealed).ok_or_else(altered)?;
    let (previous, contents) = decode(&body, master, vault)?;
    let place = Place { vault, generation, root: *root, previous };
    if contents.root() != place.root {
        return Err(SnapshotError::Inside("the root is not that of the records"));
    }
    Ok((place, contents))
}

/// Parts of the state beside keys and secrets, each behind a number and its length.
const LOCKOUTS: u8 = 1;
const BUDGETS: u8 = 2;
const RENEW: u8 = 3;
const PASSWORD: u8 = 4;
const DEVICES: u8 = 5;
const PENDING: u8 = 6;
const LISTS: u8 = 7;
const TRANSCRIPTS: u8 = 8;
const ADOPTED: u8 = 9;
const TAINTS: u8 = 10;
const LINES: u8 = 11;
const DAYS: u8 = 12;
const MEMORY: u8 = 16;

/// A part of the state, as it is written.
type Section<'c> = (u8, &'c dyn Fn(&mut Writer));

fn encode(place: &Place, contents: &Contents, into: &mut Writer) {
    into.raw(&place.previous);
    contents.ring.encode(into);
    into.count(contents.records.len());
    for record in contents.records.values() {
        into.counted(|into| record.write(into));
    }
    let sections: &[Section<'_>] = &[
        (LOCKOUTS, &|into| contents.lockouts.encode(into)),
        (BUDGETS, &|into| contents.budgets.encode(into)),
        (RENEW, &|into| {
            into.byte(u8::from(contents.renew));
        }),
        (PASSWORD, &|into| {
            if let Some(password) = &contents.password {
                password.encode(into);
            }
        }),
        (DEVICES, &|into| contents.devices.encode(into)),
        (PENDING, &|into| contents.senders.pending.encode(into)),
        (LISTS, &|into| contents.senders.lists.encode(into)),
        (TRANSCRIPTS, &|into| contents.transcripts.encode(into)),
        (ADOPTED, &|into| contents.adopted.encode(into)),
        (TAINTS, &|into| contents.taints.encode(into)),
        (LINES, &|into| contents.transcripts.encode_lines(into)),
        (DAYS, &|into| contents.days.encode(into)),
        (MEMORY, &|into| contents.memory.encode(into)),
    ];
    into.count(sections.len());
    for (number, write) in sections {
        into.byte(*number).counted(write);
    }
}

fn decode(body: &[u8], master: &Master, vault: VaultId) -> Result<(Hash, Contents), SnapshotError> {
    let mut from = Reader::new(body);
    let previous = from.array().ok_or(SnapshotError::Inside("no root of the snapshot before"))?;
    let ring = Keyring::decode(&mut from, master, vault).ok_or(SnapshotError::Inside("the key ring does not open"))?;
    let records = decode_records(&mut from).ok_or(SnapshotError::Inside("the records are not in order"))?;
    let mut contents = Contents {
        ring,
        records,
        lockouts: Table::default(),
        budgets: Budgets::default(),
        password: None,
        devices: Devices::default(),
        renew: false,
        senders: Senders::default(),
        transcripts: Transcripts::default(),
        adopted: Adopted::default(),
        taints: Taints::default(),
        days: Days::default(),
        memory: Memory::default(),
    };
    decode_sections(&mut from, &mut contents).ok_or(SnapshotError::Inside("the state is not in order"))?;
    if !from.is_done() {
        return Err(SnapshotError::Inside("bytes follow the state"));
    }
    Ok((previous, contents))
}

fn decode_records(from: &mut Reader<'_>) -> Option<BTreeMap<String, Record>> {
    let mut records = BTreeMap::new();
    for _ in 0..from.count(MAX_RECORDS)? {
        let record = Record::decode(from.bytes(MAX)?)?;
        // Names rise, so no name stands twice and a set of records has one form.
        if records.last_key_value().is_some_and(|(before, _): (&String, _)| before.as_str() >= record.name()) {
            return None;
        }
        records.insert(record.name().to_owned(), record);
    }
    Some(records)
}

fn decode_sections(from: &mut Reader<'_>, contents: &mut Contents) -> Option<()> {
    let mut last = 0;
    for _ in 0..from.count(usize::from(u8::MAX))? {
        let number = from.byte().filter(|number| *number > last)?;
        last = number;
        let mut section = Reader::new(from.bytes(MAX)?);
        match number {
            LOCKOUTS => contents.lockouts = Table::decode(&mut section)?,
            BUDGETS => contents.budgets = Budgets::decode(&mut section)?,
            PENDING => contents.senders.pending = Pending::decode(&mut section)?,
            LISTS => contents.senders.lists = Lists::decode(&mut section)?,
            TRANSCRIPTS => contents.transcripts = Transcripts::decode(&mut section)?,
            ADOPTED => contents.adopted = Adopted::decode(&mut section)?,
            TAINTS => contents.taints = Taints::decode(&mut section)?,
            LINES => contents.transcripts.decode_lines(&mut section)?,
            DAYS => contents.days = Days::decode(&mut section)?,
            MEMORY => contents.memory = Memory::decode(&mut section)?,
            PASSWORD if section.is_done() => {}
            PASSWORD => contents.password = Some(Password::decode(&mut section)?),
            DEVICES => contents.devices = Devices::decode(&mut section)?,
            RENEW => contents.renew = section.byte().filter(|byte| *byte <= 1)? == 1,
            _ => return None,
        }
        if !section.is_done() {
            return None;
        }
    }
    Some(())
}

#[cfg(test)]
pub(crate) mod tests;
