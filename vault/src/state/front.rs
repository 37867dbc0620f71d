//! The state of a vault whose store a passphrase seals: opened with it, and sealed with it from then on.

use super::{ChangeError, State, key_exit, key_failed, store_failed, unix_now};
use crate::envelope::EnvelopeError;
use crate::keys::{self, Master};
use crate::passphrase::Lock;
use crate::snapshot::{self, Place, SnapshotError};
use crate::store::{self, StoreError};
use confine::startup::StartError;
use proto::secret::Secret;
use std::os::fd::{AsFd as _, OwnedFd};

/// What makes the master key beside the passphrase.
pub(super) struct Front {
    pub(super) lock: Lock,
    pub(super) half: Master,
}

/// A store that waits for its passphrase. It was read before the walls went up; behind them nothing can be.
pub struct Locked {
    front: Front,
    store: Vec<u8>,
    directory: OwnedFd,
    kept_elsewhere: bool,
}

/// What a start finds.
pub enum Opened {
    /// A vault that can serve.
    State(Box<State>),
    /// One that waits for its passphrase.
    Locked(Locked),
}

/// Why a passphrase opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// It is not the one, or the key file is not.
    #[error("the passphrase is wrong, or keys/secrets.key is not the one that sealed the store")]
    Wrong,
    /// Argon2 takes 64 MiB.
    #[error("there is not the memory to try a passphrase")]
    Memory,
    /// It is, and the store is not what was written.
    #[error(transparent)]
    Store(SnapshotError),
}

impl State {
    /// Opens what is there, with the key that the service manager keeps or the one in `keys`.
    ///
    /// # Errors
    /// [`StartError`], as [`State::open`].
    pub fn open_or_wait(
        keys: &OwnedFd,
        directory: OwnedFd,
        credential: Option<&OwnedFd>,
    ) -> Result<Opened, StartError> {
        store::sweep(directory.as_fd()).map_err(|error| store_failed(&error))?;
        let found = store::load(directory.as_fd());
        let (lock, store) = match &found {
            Ok(file) => Lock::split(file).map_err(|error| store_failed(&error.into()))?,
            Err(StoreError::Missing) => (None, [].as_slice()),
            Err(error) => return Err(store_failed(error)),
        };
        let Some(lock) = lock else {
            let state = match credential {
                Some(key) => Self::open_with_credential(keys, directory, key)?,
                None => Self::open(keys, directory)?,
            };
            return Ok(Opened::State(Box::new(state)));
        };
        let half = match credential {
            Some(key) => {
                Self::refuse_two_keys(keys)?;
                keys::read_credential(key).map_err(|error| StartError::ends(key_exit(&error), error))?
            }
            None => keys::read(keys.as_fd(), keys::NAME).map_err(|error| key_failed(&error))?,
        };
        let (front, kept_elsewhere) = (Front { lock, half }, credential.is_some());
        Ok(Opened::Locked(Locked { front, store: store.to_vec(), directory, kept_elsewhere }))
    }

    /// As [`State::open`], with the master key that the service manager keeps; there must be none in `keys`. A first start
    /// cannot be told from a store that was lost, but by the log, which knows of the one that there was.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open_with_credential(keys: &OwnedFd, directory: OwnedFd, key: &OwnedFd) -> Result<Self, StartError> {
        store::sweep(directory.as_fd()).map_err(|error| store_failed(&error))?;
        Self::refuse_two_keys(keys)?;
        let master = keys::read_credential(key).map_err(|error| StartError::ends(key_exit(&error), error))?;
        let mut state = match Self::store_exists(directory.as_fd())? {
            true => Self::open_store(directory, master)?,
            false => {
                let mut state = Self::make_store(directory, master)?;
                state.persist().map_err(|error| store_failed(&error))?;
                state
            }
        };
        state.contents.renew = false;
        state.kept_elsewhere = true;
        Ok(state)
    }

    fn refuse_two_keys(keys: &OwnedFd) -> Result<(), StartError> {
        for name in [keys::NAME, keys::PENDING] {
            if keys::exists(keys.as_fd(), name).map_err(|error| key_failed(&error))? {
                return Err(StartError::permanent(format!(
                    "keys/{name} and {} are both there; which one sealed the store? Remove the other",
                    keys::CREDENTIAL
                )));
            }
        }
        Ok(())
    }

    /// True where the master key cannot be renewed here.
    #[must_use]
    pub const fn is_key_kept_elsewhere(&self) -> bool {
        self.kept_elsewhere
    }

    /// The bytes of the store as the snapshot at `place`, behind what the passphrase needs where there is one.
    pub(super) fn sealed(&self, place: &Place) -> Result<Vec<u8>, SnapshotError> {
        let front = self.front.as_ref().map(|front| front.lock.encode()).unwrap_or_default();
        snapshot::seal(&front, &self.master, place, &self.contents)
    }

    /// True where a passphrase seals the store.
    #[must_use]
    pub const fn has_passphrase(&self) -> bool {
        self.front.is_some()
    }

    /// Seals everything anew under the key file and this passphrase, or the key file alone, in one snapshot.
    ///
    /// # Errors
    /// [`ChangeError`]; then everything is as it was.
    pub fn set_passphrase(&mut self, passphrase: Option<&Secret>) -> Result<(), ChangeError> {
        let half = self.front.as_ref().map_or(&self.master, |front| &front.half).duplicate();
        let (master, front) = match passphrase {
            Some(passphrase) => {
                let lock = Lock::draw().map_err(EnvelopeError::Random)?;
                let master = lock.combine(&half, passphrase).ok_or(ChangeError::Memory)?;
                (master, Some(Front { lock, half }))
            }
            None => (half, None),
        };
        let (master, front) = (std::mem::replace(&mut self.master, master), std::mem::replace(&mut self.front, front));
        let renew = std::mem::replace(&mut self.contents.renew, false);
        if let Err(error) = self.rotate_keys(unix_now()) {
            (self.master, self.front, self.contents.renew) = (master, front, renew);
            return Err(error);
        }
        Ok(())
    }
}

impl Locked {
    /// Opens the store.
    ///
    /// # Errors
    /// [`UnlockError`], with what is locked still.
    pub fn unlock(self, passphrase: &Secret) -> Result<State, (Box<Self>, UnlockError)> {
        let Some(master) = self.front.lock.combine(&self.front.half, passphrase) else {
            return Err((Box::new(self), UnlockError::Memory));
        };
        match snapshot::unseal(&master, &self.store) {
            Ok((place, contents)) => {
                let state = State::with(self.directory, master, place, contents);
                Ok(State { front: Some(self.front), kept_elsewhere: self.kept_elsewhere, ..state })
            }
            Err(SnapshotError::Foreign) => Err((Box::new(self), UnlockError::Wrong)),
            Err(error) => Err((Box::new(self), UnlockError::Store(error))),
        }
    }
}
