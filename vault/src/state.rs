//! What the vault knows, and the only place where it changes: in memory and in the store together.

use crate::budget::Budgets;
use crate::envelope::{EnvelopeError, Keyring, Record};
use crate::keys::{self, KeyError, Master};
use crate::lockout::Table;
use crate::permit::Policy;
use crate::snapshot::{self, Contents, Place, SnapshotError};
use crate::store::{self, StoreError};
use crate::token;
use confine::startup::StartError;
use proto::secret::Secret;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

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
}

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
    /// Its envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn key_failed(error: &KeyError) -> StartError {
    match error {
        KeyError::Os { .. } => StartError::internal(format!("keys/{error}")),
        KeyError::Missing(_) | KeyError::Wrong { .. } => StartError::integrity(format!("keys/{error}")),
    }
}

fn store_failed(error: &StoreError) -> StartError {
    let text = format!("vault/{error}");
    match error {
        StoreError::Snapshot(SnapshotError::Seal(_)) => StartError::internal(text),
        StoreError::Missing | StoreError::Kind | StoreError::Snapshot(_) => {
            StartError::integrity(format!("{text}; put keys/ and vault/ back from the same backup"))
        }
        StoreError::Unwritable(_) | StoreError::Durability { .. } | StoreError::Os(_) => StartError::internal(text),
    }
}

impl State {
    /// Opens the key beneath `keys` and the store beneath `directory`; makes both where neither was ever made. The key
    /// gets its name last, so that a first start that was interrupted is told from a store or a key that was lost.
    ///
    /// # Errors
    /// [`StartError`]: integrity where key and store are not what was made.
    pub fn open(keys: &OwnedFd, directory: OwnedFd) -> Result<Self, StartError> {
        store::sweep(directory.as_fd()).map_err(|error| store_failed(&error))?;
        match keys::read(keys.as_fd(), keys::NAME) {
            Ok(master) => return Self::open_store(directory, master),
            Err(KeyError::Missing(_)) => {}
            Err(error) => return Err(key_failed(&error)),
        }
        if Self::store_exists(directory.as_fd())? {
            // The store was the last but one step of a first start, or its key is lost.
            let master = keys::read(keys.as_fd(), keys::PENDING).map_err(|_| {
                StartError::integrity(format!(
                    "keys/{} is lost and vault/{} needs it; put it back from its backup",
                    keys::NAME,
                    store::NAME
                ))
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
        Ok(Self { directory, master, place, contents, newly_made: false })
    }

    fn make(keys: &OwnedFd, directory: OwnedFd) -> Result<Self, StartError> {
        let random = |errno| StartError::internal(format!("getrandom: {errno}"));
        let sealed = |error: EnvelopeError| StartError::internal(format!("vault/vault.db: {error}"));
        keys::discard_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
        let master = keys::make_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
        let mut vault = [0; 16];
        crate::entropy::fill(&mut vault).map_err(random)?;
        let mut ring = Keyring::make(&master, vault, unix_now()).map_err(sealed)?;
        let policy = Policy { reveal: true, ..Policy::default() };
        let value = token::draw().map_err(random)?;
        let record = Record::seal(&mut ring, GATEWAY_TOKEN, 1, unix_now(), &policy, &value).map_err(sealed)?;
        let records = BTreeMap::from([(GATEWAY_TOKEN.to_owned(), record)]);
        let contents = Contents { ring, records, lockouts: Table::default(), budgets: Budgets::default() };
        let place = Place { vault, generation: 0, root: [0; 32], previous: [0; 32] };
        let mut state = Self { directory, master, place, contents, newly_made: true };
        state.persist().map_err(|error| store_failed(&error))?;
        keys::settle(keys.as_fd()).map_err(|error| key_failed(&error))?;
        Ok(state)
    }

    /// Writes everything to the store, durably.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Durability`] the process must end.
    pub fn persist(&mut self) -> Result<(), StoreError> {
        let next = Place {
            generation: self.place.generation.saturating_add(1),
            root: self.contents.root(),
            previous: self.place.root,
            ..self.place
        };
        store::replace(self.directory.as_fd(), &snapshot::seal(&self.master, &next, &self.contents)?)?;
        self.place = next;
        Ok(())
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
        let before = self.contents.budgets.clone();
        self.contents.budgets.forget(name);
        self.exchange(name, None).inspect_err(|_| self.contents.budgets = before)
    }

    fn exchange(&mut self, name: &str, record: Option<Record>) -> Result<(), ChangeError> {
        let records = &mut self.contents.records;
        let before = match record {
            Some(record) => records.insert(name.to_owned(), record),
            None => records.remove(name),
        };
        let Err(error) = self.persist() else { return Ok(()) };
        match before {
            Some(before) => self.contents.records.insert(name.to_owned(), before),
            None => self.contents.records.remove(name),
        };
        Err(error.into())
    }

    /// Draws a key of the next term and seals everything anew under it, in one snapshot: the old key wraps nothing any more.
    ///
    /// # Errors
    /// [`ChangeError`]; the old term stands.
    pub fn rotate_keys(&mut self, now: u64) -> Result<u32, ChangeError> {
        let mut ring = self.contents.ring.next(&self.master, now)?;
        let mut records = BTreeMap::new();
        for (name, old) in &self.contents.records {
            let value = old.open(&self.contents.ring)?;
            let record = Record::seal(&mut ring, name, old.version(), old.created(), &old.policy(), &value)?;
            records.insert(name.clone(), record);
        }
        let term = ring.term();
        let old_ring = std::mem::replace(&mut self.contents.ring, ring);
        let old_records = std::mem::replace(&mut self.contents.records, records);
        let Err(error) = self.persist() else { return Ok(term) };
        (self.contents.ring, self.contents.records) = (old_ring, old_records);
        Err(error.into())
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
pub(crate) mod tests {
    use super::*;
    use std::fs::File;

    pub(crate) struct Dirs {
        pub(crate) dir: tempfile::TempDir,
    }

    impl Dirs {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("keys")).unwrap();
            std::fs::create_dir(dir.path().join("vault")).unwrap();
            Self { dir }
        }

        pub(crate) fn open(&self) -> Result<State, StartError> {
            let fd = |name| OwnedFd::from(File::open(self.dir.path().join(name)).unwrap());
            State::open(&fd("keys"), fd("vault"))
        }

        fn remove(&self, name: &str) {
            std::fs::remove_file(self.dir.path().join(name)).unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            std::fs::rename(self.dir.path().join(from), self.dir.path().join(to)).unwrap();
        }
    }

    fn token(state: &State) -> Vec<u8> {
        state.gateway_token().unwrap().expose().to_vec()
    }

    #[test]
    fn first_start_makes_a_token_that_the_next_start_finds() {
        let dirs = Dirs::new();
        let first = dirs.open().unwrap();
        assert!(first.newly_made && token(&first).len() == 43);
        let second = dirs.open().unwrap();
        assert!(!second.newly_made);
        assert_eq!(token(&second), token(&first));
        assert_ne!(token(&Dirs::new().open().unwrap()), token(&first));
    }

    #[test]
    fn lost_key_and_lost_store_are_refused_and_nothing_is_made_in_their_place() {
        for name in ["keys/secrets.key", "vault/vault.db"] {
            let dirs = Dirs::new();
            dirs.open().unwrap();
            dirs.remove(name);
            assert!(dirs.open().is_err());
            assert!(!dirs.dir.path().join(name).exists());
        }
    }

    #[test]
    fn key_of_another_vault_is_refused() {
        let (dirs, other) = (Dirs::new(), Dirs::new());
        dirs.open().unwrap();
        other.open().unwrap();
        std::fs::rename(other.dir.path().join("keys/secrets.key"), dirs.dir.path().join("keys/secrets.key")).unwrap();
        assert!(dirs.open().is_err_and(|error| error.to_string().contains("not the store of this key")));
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn secret_that_was_put_rotated_rebound_and_removed_survives_a_start_each_time() {
        let dirs = Dirs::new();
        let mut state = dirs.open().unwrap();
        let permit = Policy::parse(crate::permit::tests::TELEGRAM).unwrap();
        assert_eq!(state.put("bot", &secret("one"), None, 1).unwrap(), 1);
        assert_eq!(state.set_policy("bot", &permit, 2).unwrap(), 2);
        assert_eq!(state.put("bot", &secret("two"), None, 3).unwrap(), 3);
        let mut state = dirs.open().unwrap();
        assert_eq!(state.open_secret("bot").unwrap().expose(), b"two");
        assert_eq!(state.record("bot").unwrap().policy(), permit);
        state.remove("bot").unwrap();
        assert!(matches!(state.remove("bot"), Err(ChangeError::NoSuchSecret)));
        assert!(matches!(dirs.open().unwrap().open_secret("bot"), Err(ChangeError::NoSuchSecret)));
    }

    #[test]
    fn rotated_ring_has_one_new_term_and_opens_everything() {
        let dirs = Dirs::new();
        let mut state = dirs.open().unwrap();
        state.put("bot", &secret("one"), None, 1).unwrap();
        let (kek, generation) = (*state.contents().ring.expose().next().unwrap(), state.generation());
        assert_eq!(state.rotate_keys(9).unwrap(), 2);
        let state = dirs.open().unwrap();
        assert_eq!(state.generation(), generation + 1, "one snapshot");
        assert!(state.records().all(|record| record.term() == 2));
        assert_eq!(state.open_secret("bot").unwrap().expose(), b"one");
        assert!(state.contents().ring.expose().all(|key| *key != kek));
    }

    #[test]
    fn change_that_cannot_be_written_is_undone_in_memory() {
        let dirs = Dirs::new();
        let mut state = dirs.open().unwrap();
        state.put("bot", &secret("one"), None, 1).unwrap();
        // A leftover that nobody swept: the next store cannot be made.
        let block = dirs.dir.path().join("vault/vault.db.new");
        std::fs::write(&block, b"").unwrap();
        let unwritable = |error| matches!(error, ChangeError::Store(StoreError::Unwritable(_)));
        assert!(unwritable(state.put("bot", &secret("two"), None, 2).unwrap_err()));
        assert!(unwritable(state.put("new", &secret("x"), None, 2).unwrap_err()));
        assert!(unwritable(state.remove("bot").unwrap_err()));
        assert!(unwritable(state.rotate_keys(2).unwrap_err()));
        assert_eq!(state.open_secret("bot").unwrap().expose(), b"one");
        assert!(state.record("new").is_none());
        std::fs::remove_file(&block).unwrap();
        assert_eq!(state.put("bot", &secret("two"), None, 2).unwrap(), 2);
    }

    #[test]
    fn interrupted_first_start_is_finished_by_the_next() {
        let dirs = Dirs::new();
        let made = token(&dirs.open().unwrap());
        dirs.rename("keys/secrets.key", "keys/secrets.key.new");
        let finished = dirs.open().unwrap();
        assert!(finished.newly_made);
        assert_eq!(token(&finished), made);
        dirs.rename("keys/secrets.key", "keys/secrets.key.new");
        dirs.remove("vault/vault.db");
        let afresh = dirs.open().unwrap();
        assert_ne!(token(&afresh), made);
        std::fs::write(dirs.dir.path().join("vault/vault.db.new"), b"half").unwrap();
        assert_eq!(token(&dirs.open().unwrap()), token(&afresh));
    }
}
