//! What the vault knows, and the only place where it changes: in memory and in the store together.

use crate::keys::{self, KeyError, Master};
use crate::lockout::Table;
use crate::store::{self, Contents, Identity, Kept, StoreError};
use crate::token;
use confine::startup::StartError;
use proto::secret::Secret;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the gateway token in the store and in records.
pub const GATEWAY_TOKEN: &str = "gateway.token";

/// The vault, open.
pub struct State {
    directory: OwnedFd,
    master: Master,
    identity: Identity,
    contents: Contents,
    /// True until the record of the token's making is durable.
    pub newly_made: bool,
}

/// Seconds since 1970; a clock before that reads as 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
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
        StoreError::Missing | StoreError::Format | StoreError::Seal => {
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
        let (identity, contents) = store::read(directory.as_fd(), &master).map_err(|error| store_failed(&error))?;
        Ok(Self { directory, master, identity, contents, newly_made: false })
    }

    fn make(keys: &OwnedFd, directory: OwnedFd) -> Result<Self, StartError> {
        let random = |errno| StartError::internal(format!("getrandom: {errno}"));
        keys::discard_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
        let master = keys::make_pending(keys.as_fd()).map_err(|error| key_failed(&error))?;
        let value = token::draw().map_err(random)?;
        let kept = Kept { name: GATEWAY_TOKEN.to_owned(), version: 1, created: unix_now(), value };
        let contents = Contents { secrets: vec![kept], lockouts: Table::default() };
        let identity = Identity::draw().map_err(random)?;
        let mut state = Self { directory, master, identity, contents, newly_made: true };
        state.persist().map_err(|error| store_failed(&error))?;
        keys::settle(keys.as_fd()).map_err(|error| key_failed(&error))?;
        Ok(state)
    }

    /// Writes everything to the store, durably.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Durability`] the process must end.
    pub fn persist(&mut self) -> Result<(), StoreError> {
        let next = Identity { generation: self.identity.generation.saturating_add(1), ..self.identity };
        store::replace(self.directory.as_fd(), &store::seal(&self.master, next, &self.contents)?)?;
        self.identity = next;
        Ok(())
    }

    /// The failures that count.
    pub const fn lockouts(&mut self) -> &mut Table {
        &mut self.contents.lockouts
    }

    /// The gateway token, if there is one.
    #[must_use]
    pub fn gateway_token(&self) -> Option<&Secret> {
        self.contents.secrets.iter().find(|kept| kept.name == GATEWAY_TOKEN).map(|kept| &kept.value)
    }

    /// How often the store was replaced.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.identity.generation
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
