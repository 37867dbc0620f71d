//! How clients get in, as far as the vault keeps it: the password's verifier and the paired devices in the store, and in
//! memory what waits.

use super::{GATEWAY_TOKEN, State};
use crate::auth::devices::Devices;
use crate::auth::password::Password;
use crate::auth::waiting::Waiting;
use crate::envelope::Record;
use crate::store::StoreError;
use proto::auth::Standing;
use proto::bounded::BoundedVec;

impl State {
    /// How a client's password is told from others, where there is one.
    #[must_use]
    pub const fn password(&self) -> Option<&Password> {
        self.contents.password.as_ref()
    }

    /// Puts another password, or none, in the place of the one there is, durably.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing has changed.
    pub fn set_password(&mut self, password: Option<Password>) -> Result<(), StoreError> {
        let before = std::mem::replace(&mut self.contents.password, password);
        self.persist().inspect_err(|_| self.contents.password = before)
    }

    /// The devices that are known.
    #[must_use]
    pub const fn devices(&self) -> &Devices {
        &self.contents.devices
    }

    /// Changes the devices, durably, and returns what the change does: none where it changed nothing. It gets the number of the
    /// generation that it becomes a part of.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing has changed.
    pub fn change_devices<R>(
        &mut self,
        change: impl FnOnce(&mut Devices, u64) -> Option<R>,
    ) -> Result<Option<R>, StoreError> {
        let before = self.contents.devices.clone();
        let Some(done) = change(&mut self.contents.devices, self.place.generation.saturating_add(1)) else {
            self.contents.devices = before;
            return Ok(None);
        };
        self.persist().inspect_err(|_| self.contents.devices = before)?;
        Ok(Some(done))
    }

    /// What waits: nonces, and devices that nobody knows yet.
    pub const fn waiting(&mut self) -> &mut Waiting {
        &mut self.waiting
    }

    /// Version of the gateway token.
    #[must_use]
    pub fn token_version(&self) -> u64 {
        self.record(GATEWAY_TOKEN).map_or(0, Record::version)
    }

    /// What lets clients in now.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            as_of: self.place.generation,
            token: self.token_version(),
            password: self.password().map(|password| password.since),
            devices: BoundedVec::new(self.devices().standing()).unwrap_or_default(),
        }
    }
}
