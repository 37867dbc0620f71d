//! What the vault knows, and the only place where it changes: in memory and in the store together.

use crate::adopted::Adopted;
use crate::auth::devices::Devices;
use crate::auth::waiting::Waiting;
use crate::budget::Budgets;
use crate::cipher::Key;
use crate::days::Days;
use crate::envelope::{EnvelopeError, Keyring, Record};
use crate::keys::{self, KeyError, Master};
use crate::lockout::Table;
use crate::merkle::Hash;
use crate::permit::Policy;
use crate::senders::Senders;
use crate::senders::configured::Configured;
use crate::senders::desk::Told;
use crate::snapshot::{Contents, Place, SnapshotError};
use crate::store::{self, StoreError};
use crate::taints::Taints;
use crate::token;
use crate::transcripts::{self, Begins, Transcripts};
use crate::witness::memory::Memory;
use confine::startup::StartError;
use front::Front;
use proto::exit::Exit;
use proto::secret::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};
use witnessed::Bond;

pub mod front;
mod logins;
pub mod witnessed;

/// Name of the gateway token in the store and in records.
pub const GATEWAY_TOKEN: &str = "gateway.token";

/// The vault, open.
pub struct State {
    directory: OwnedFd,
    master: Master,
    place: Place,
    contents: Contents,
    /// True until the record of the token's making is durable.
    pub newly_made: bool,
    /// True until the record of the master key's renewal is durable.
    pub renewed: bool,
    /// True where the service manager keeps the master key: it cannot be renewed here.
    kept_elsewhere: bool,
    /// What the master key is made of, where a passphrase is a part of it.
    front: Option<Front>,
    bond: Bond,
    /// Nonces, and devices that nobody knows yet.
    waiting: Waiting,
    told: Told,
    /// Words about lines of transcripts that are noted and not on disk.
    unsaved: u64,
    /// What the configuration says of channels.
    configured: Configured,
    /// Credentials that answers need.
    answers: Vec<String>,
    /// Names whose value another name has as well, and the root over the records of which that was so.
    shared: Option<(Hash, BTreeSet<String>)>,
}

/// Words about lines of transcripts that an end without a warning may lose.
const UNSAVED: u64 = 64;

/// Seconds since 1970; a clock before that reads as 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a secret did not change, or does not open.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No secret has this name.
    #[error("there is no secret of this name")]
    NoSuchSecret,
    /// Argon2 takes 64 MiB.
    #[error("there is not the memory to take a passphrase")]
    Memory,
    /// Its envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

const fn key_exit(error: &KeyError) -> Exit {
    match error {
        KeyError::Os { .. } => Exit::Internal,
        KeyError::Missing(_) => Exit::KeyLost,
        KeyError::Form(..) => Exit::KeyForm,
        KeyError::Exposed { .. } => Exit::KeyExposed,
    }
}

fn key_failed(error: &KeyError) -> StartError {
    StartError::ends(key_exit(error), format!("keys/{error}"))
}

fn store_failed(error: &StoreError) -> StartError {
    let text = format!("vault/{error}");
    let exit = match error {
        StoreError::Missing => Exit::StoreLost,
        StoreError::Kind | StoreError::Snapshot(SnapshotError::Format) => Exit::StoreForm,
        StoreError::Snapshot(SnapshotError::Length { .. }) => Exit::StoreCut,
        StoreError::Snapshot(SnapshotError::Foreign) => Exit::KeyForeign,
        StoreError::Lock(_) | StoreError::Snapshot(SnapshotError::Altered | SnapshotError::Inside(_)) => {
            Exit::StoreAltered
        }
        StoreError::Snapshot(SnapshotError::Full(_) | SnapshotError::Memory | SnapshotError::Seal(_))
        | StoreError::Unrecorded(_)
        | StoreError::Unanswerable(_)
        | StoreError::Unwritable(_)
        | StoreError::Durability { .. }
        | StoreError::Os(_) => return StartError::internal(text),
    };
    StartError::ends(exit, format!("{text}; put keys/ and vault/ back from the same backup"))
}

impl State {
    /// Opens the key beneath `keys` and the store beneath `directory`; makes both where neither was ever made. The key
    /// gets its name last, so that a first start that was interrupted is told from a store or a key that was lost.
    ///
    /// # Errors
    /// [`StartError`], permanent where key and store are not what was made.
    pub fn open(keys: &OwnedFd, directory: OwnedFd) -> Result<Self, StartError> {
        store::sweep(directory.as_fd()).map_err(|error| store_failed(&error))?;
        match keys::read(keys.as_fd(), keys::NAME) {
            Ok(master) => return Self::open_named(keys, directory, master),
            Err(KeyError::Missing(_)) => {}
            Err(error) => return Err(key_failed(&error)),
        }
        if Self::store_exists(directory.as_fd())? {
            // The store was the last but one step of a first start, or its key is lost.
            let master = keys::read(keys.as_fd(), keys::PENDING).map_err(|_| {
                let what = format!("keys/{} is lost and vault/{} needs it", keys::NAME, store::NAME);
                StartError::ends(Exit::KeyLost, format!("{what}; put it back from its backup"))
            })?;
            let mut state = Self::open_store(directory, master)?;
            keys::settle(keys.as_fd()).map_err(|error| key_failed(&error))?;
            state.newly_made = true;
            return Ok(state);
        }
        Self::make(keys, directory)
    }

    fn store_exists(directory: BorrowedFd<'_>) -> Result<bool, StartError> {
        match rustix::fs::statat(directory, store::NAME, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(store_failed(&errno.into())),
        }
    }

    fn open_store(directory: OwnedFd, master: Master) -> Result<Self, StartError> {
        let (place, contents) = store::read(directory.as_fd(), &master).map_err(|error| store_failed(&error))?;
        Ok(Self::with(directory, master, place, contents))
    }

    /// Opens the store of a key that has its name. One that followed it, and whose store is there already, takes its place;
    /// any other pending key sealed nothing.
    fn open_named(keys: &OwnedFd, directory: OwnedFd, master: Master) -> Result<Self, StartError> {
        let foreign = match store::read(directory.as_fd(), &master) {
            Ok((place, contents)) => {
                keys::discard_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
                let mut state = Self::with(directory, master, place, contents);
                if state.contents.renew {
                    state.renew_master(keys)?;
                }
                return Ok(state);
            }
            Err(error @ StoreError::Snapshot(SnapshotError::Foreign)) => store_failed(&error),
            Err(error) => return Err(store_failed(&error)),
        };
        let Ok(next) = keys::read(keys.as_fd(), keys::PENDING) else { return Err(foreign) };
        let Ok((place, contents)) = store::read(directory.as_fd(), &next) else { return Err(foreign) };
        keys::succeed(keys.as_fd()).map_err(|error| key_failed(&error))?;
        Ok(Self { renewed: true, ..Self::with(directory, next, place, contents) })
    }

    /// A new master key, and everything sealed anew under it: the key first, under its pending name; then the store; then
    /// the key's name. Whatever of this a crash leaves, the next start goes on from.
    fn renew_master(&mut self, keys: &OwnedFd) -> Result<(), StartError> {
        let sealed = |error: ChangeError| match error {
            ChangeError::Store(error) => store_failed(&error),
            other => StartError::internal(format!("vault/vault.db: {other}")),
        };
        let next = keys::make_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
        let old = std::mem::replace(&mut self.master, next);
        self.contents.renew = false;
        if let Err(error) = self.rotate_keys(unix_now()) {
            self.master = old;
            return Err(sealed(error));
        }
        keys::succeed(keys.as_fd()).map_err(|error| key_failed(&error))?;
        self.renewed = true;
        Ok(())
    }

    fn make(keys: &OwnedFd, directory: OwnedFd) -> Result<Self, StartError> {
        keys::discard_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
        let master = keys::make_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
        let mut state = Self::make_store(directory, master)?;
        state.persist().map_err(|error| store_failed(&error))?;
        keys::settle(keys.as_fd()).map_err(|error| key_failed(&error))?;
        Ok(state)
    }

    /// A vault with a gateway token in it, that is not on disk yet.
    fn make_store(directory: OwnedFd, master: Master) -> Result<Self, StartError> {
        let random = |errno| StartError::internal(format!("getrandom: {errno}"));
        let sealed = |error: EnvelopeError| StartError::internal(format!("vault/vault.db: {error}"));
        let mut vault = [0; 16];
        crate::entropy::fill(&mut vault).map_err(random)?;
        let mut ring = Keyring::make(&master, vault, unix_now()).map_err(sealed)?;
        let policy = Policy { reveal: true, ..Policy::default() };
        let value = token::draw().map_err(random)?;
        let record = Record::seal(&mut ring, GATEWAY_TOKEN, 1, unix_now(), &policy, &value).map_err(sealed)?;
        let records = BTreeMap::from([(GATEWAY_TOKEN.to_owned(), record)]);
        let contents = Contents {
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
        let place = Place { vault, generation: 0, root: [0; 32], previous: [0; 32] };
        Ok(Self { newly_made: true, ..Self::with(directory, master, place, contents) })
    }

    fn with(directory: OwnedFd, master: Master, place: Place, contents: Contents) -> Self {
        let (newly_made, renewed, kept_elsewhere) = (false, false, false);
        Self {
            directory,
            master,
            place,
            contents,
            newly_made,
            renewed,
            kept_elsewhere,
            front: None,
            bond: Bond::default(),
            answers: Vec::new(),
            shared: None,
            waiting: Waiting::default(),
            told: Told::default(),
            unsaved: 0,
            configured: Configured::default(),
        }
    }

    /// Seals `value` as the next version of `name`, under `policy` or the one that it has, and makes it durable. Where that
    /// fails, the version before stands, in memory as on disk.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn put(&mut self, name: &str, value: &Secret, policy: Option<&Policy>, now: u64) -> Result<u64, ChangeError> {
        let before = self.contents.records.get(name);
        let version = before.map_or(0, Record::version).saturating_add(1);
        let kept = before.map(Record::policy).unwrap_or_default();
        if self.contents.ring.is_worn() {
            self.rotate_keys(now)?;
        }
        let record = Record::seal(&mut self.contents.ring, name, version, now, policy.unwrap_or(&kept), value)?;
        self.exchange(name, Some(record))?;
        Ok(version)
    }

    /// As [`State::put`], for a value that a server gave in the place of one that it takes: what was used of the one before
    /// counts against the same budget, or a role could begin it anew.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn renew(&mut self, name: &str, value: &Secret, now: u64) -> Result<u64, ChangeError> {
        let (before, version) = (self.contents.budgets.clone(), self.record(name).map_or(0, Record::version));
        self.contents.budgets.carry(name, version, version.saturating_add(1));
        self.put(name, value, None, now).inspect_err(|_| self.contents.budgets = before)
    }

    /// True where a value that stands in a configuration is not to be taken over: the vault took it already, or has it.
    #[must_use]
    pub fn knows(&self, name: &str, value: &Secret) -> bool {
        let is_current = || self.open_secret(name).is_ok_and(|current| token::same(&current, value));
        self.contents.adopted.has(name, value) || is_current()
    }

    /// Takes a value over from a configuration, as the next version of `name`, and notes that. The policy is for a name that
    /// is new; another keeps its own.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has changed.
    pub fn adopt(&mut self, name: &str, value: &Secret, policy: &Policy, now: u64) -> Result<u64, ChangeError> {
        let before = self.contents.adopted.clone();
        self.contents.adopted.note(name, value);
        let policy = self.record(name).is_none().then_some(policy);
        self.put(name, value, policy, now).inspect_err(|_| self.contents.adopted = before)
    }

    /// Binds `name` to another policy: a new version with the same value, because the old envelope would open under the old
    /// policy alone.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn set_policy(&mut self, name: &str, policy: &Policy, now: u64) -> Result<u64, ChangeError> {
        let value = self.open_secret(name)?;
        self.put(name, &value, Some(policy), now)
    }

    /// Forgets `name`, durably.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub fn remove(&mut self, name: &str) -> Result<(), ChangeError> {
        if !self.contents.records.contains_key(name) {
            return Err(ChangeError::NoSuchSecret);
        }
        let Contents { budgets, days, adopted, .. } = &mut self.contents;
        let before = (budgets.clone(), days.clone(), adopted.clone());
        budgets.forget(name);
        days.forget(name);
        adopted.forget(name);
        self.exchange(name, None).inspect_err(|_| {
            (self.contents.budgets, self.contents.days, self.contents.adopted) = before;
        })
    }

    fn exchange(&mut self, name: &str, record: Option<Record>) -> Result<(), ChangeError> {
        let records = &mut self.contents.records;
        let before = match record {
            Some(record) => records.insert(name.to_owned(), record),
            None => records.remove(name),
        };
        let Err(error) = self.persist() else {
            self.make_secrets_known();
            return Ok(());
        };
        match before {
            Some(before) => self.contents.records.insert(name.to_owned(), before),
            None => self.contents.records.remove(name),
        };
        Err(error.into())
    }

    /// Bytes of memory, at most, of another copy of all that the ring's keys wrap: with what a table's node and the blocks'
    /// rounding add.
    fn second_copy(&self) -> usize {
        let records: usize = self.contents.records.values().map(|record| 320 + 2 * record.length()).sum();
        records + 512 * self.contents.transcripts.iter().count()
    }

    /// Draws a key of the next term and seals everything anew under it, in one snapshot: the old key wraps nothing any more.
    ///
    /// # Errors
    /// [`ChangeError`]; the old term stands.
    pub fn rotate_keys(&mut self, now: u64) -> Result<u32, ChangeError> {
        self.spare(self.second_copy())?;
        let mut ring = self.contents.ring.next(&self.master, now)?;
        let mut records = BTreeMap::new();
        for (name, old) in &self.contents.records {
            records.insert(name.clone(), old.reseal(&self.contents.ring, &mut ring)?);
        }
        let transcripts = self.contents.transcripts.reseal(&self.contents.ring, &mut ring)?;
        let term = ring.term();
        let old_ring = std::mem::replace(&mut self.contents.ring, ring);
        let old_transcripts = std::mem::replace(&mut self.contents.transcripts, transcripts);
        let old_records = std::mem::replace(&mut self.contents.records, records);
        let Err(error) = self.persist() else { return Ok(term) };
        (self.contents.ring, self.contents.records) = (old_ring, old_records);
        self.contents.transcripts = old_transcripts;
        Err(error.into())
    }

    /// Has the next start draw a new master key: behind the walls no key can be written.
    ///
    /// # Errors
    /// [`StoreError`]; then it is not so.
    pub fn want_new_master(&mut self) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut self.contents.renew, true);
        self.persist().inspect_err(|_| self.contents.renew = before)
    }

    /// Every secret, sealed.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.contents.records.values()
    }

    /// The secret of this name, sealed.
    #[must_use]
    pub fn record(&self, name: &str) -> Option<&Record> {
        self.contents.records.get(name)
    }

    /// The secret of this name, open.
    ///
    /// # Errors
    /// [`ChangeError::NoSuchSecret`], [`ChangeError::Envelope`].
    pub fn open_secret(&self, name: &str) -> Result<Secret, ChangeError> {
        Ok(self.record(name).ok_or(ChangeError::NoSuchSecret)?.open(&self.contents.ring)?)
    }

    /// Everything, for a test that looks for keys where they must not be.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Forgets every failure, durably. Returns how many addresses were remembered.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing is forgotten.
    pub fn unlock(&mut self) -> Result<usize, StoreError> {
        let before = self.contents.lockouts.clone();
        let forgotten = self.contents.lockouts.clear();
        if let Err(error) = self.persist() {
            self.contents.lockouts = before;
            return Err(error);
        }
        Ok(forgotten)
    }

    /// The failures that count.
    pub const fn lockouts(&mut self) -> &mut Table {
        &mut self.contents.lockouts
    }

    /// The uses that count.
    pub const fn budgets(&mut self) -> &mut Budgets {
        &mut self.contents.budgets
    }

    /// What secrets have moved and cost today.
    pub const fn days(&mut self) -> &mut Days {
        &mut self.contents.days
    }

    /// Draws the key of a new transcript, and makes it durable.
    ///
    /// # Errors
    /// [`ChangeError`]; then there is none.
    pub fn make_transcript(
        &mut self,
        id: transcripts::Id,
        session: &str,
        begins: Begins,
        now: u64,
    ) -> Result<Key, ChangeError> {
        if self.contents.ring.is_worn() {
            self.rotate_keys(now)?;
        }
        let key = Key::draw().map_err(EnvelopeError::Random)?;
        let before = self.contents.transcripts.clone();
        self.contents.transcripts.add(&mut self.contents.ring, id, session, begins, now, &key)?;
        self.persist().inspect_err(|_| self.contents.transcripts = before)?;
        Ok(key)
    }

    /// Changes the transcripts, durably where something changed.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has.
    pub fn change_transcripts(&mut self, change: impl FnOnce(&mut Transcripts) -> bool) -> Result<bool, ChangeError> {
        let before = self.contents.transcripts.clone();
        let changed = change(&mut self.contents.transcripts);
        if changed {
            self.persist().inspect_err(|_| self.contents.transcripts = before)?;
        }
        Ok(changed)
    }

    /// With what the configuration says of channels.
    #[must_use]
    pub fn configure(self, configured: Configured) -> Self {
        Self { configured, ..self }
    }

    /// What the configuration says of channels.
    #[must_use]
    pub const fn configured(&self) -> &Configured {
        &self.configured
    }

    /// Notes how many lines a transcript has, and returns the most that it ever had; none where there is no such transcript.
    /// On disk with whatever is written next, and by itself once [`UNSAVED`] of these words are not.
    ///
    /// # Errors
    /// [`StoreError`]; what is noted stays noted.
    pub fn wrote(&mut self, id: &transcripts::Id, lines: u64) -> Result<Option<u64>, StoreError> {
        let Some((more, known)) = self.contents.transcripts.wrote(id, lines) else { return Ok(None) };
        self.unsaved = self.unsaved.saturating_add(u64::from(more > 0));
        if self.unsaved >= UNSAVED {
            self.persist()?;
        }
        Ok(Some(known))
    }

    /// Puts on disk what was only noted, before an orderly end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn settle(&mut self) -> Result<(), StoreError> {
        if self.unsaved > 0 { self.persist() } else { Ok(()) }
    }

    /// Changes which conversations strangers' words have reached, durably where something changed.
    ///
    /// # Errors
    /// [`ChangeError`]; then nothing has.
    pub fn change_taints(&mut self, change: impl FnOnce(&mut Taints) -> bool) -> Result<bool, ChangeError> {
        let before = self.contents.taints.clone();
        let changed = change(&mut self.contents.taints);
        if changed {
            self.persist().inspect_err(|_| self.contents.taints = before)?;
        }
        Ok(changed)
    }

    /// Says which credentials answers need: the configuration's word.
    pub fn set_answers(&mut self, names: Vec<String>) {
        self.answers = names;
    }

    /// True where answers need this credential.
    #[must_use]
    pub fn is_answer(&self, name: &str) -> bool {
        self.answers.iter().any(|known| known == name)
    }

    /// Whose refusal is in the log already.
    pub const fn told(&mut self) -> &mut Told {
        &mut self.told
    }

    /// Puts other tables of senders in the place of these, durably.
    ///
    /// # Errors
    /// [`StoreError`]; then these stand.
    pub fn set_senders(&mut self, next: Senders) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut self.contents.senders, next);
        self.persist().inspect_err(|_| self.contents.senders = before)
    }

    /// The gateway token, if there is one.
    #[must_use]
    pub fn gateway_token(&self) -> Option<Secret> {
        self.open_secret(GATEWAY_TOKEN).ok()
    }

    /// How often the store was replaced.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.place.generation
    }
}

#[cfg(test)]
pub(crate) mod tests;
