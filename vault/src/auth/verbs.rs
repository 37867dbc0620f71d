//! The operator's verbs about how clients get in. Recorded by the desk before they are carried out, as every verb is.
//!
//! What a device says of itself was said by a stranger; the log gets its name, which is a hash, and nothing else of it.

use super::devices::{Beside, Device};
use super::password::{Password, PasswordError, SHORTEST};
use super::{AskError, signature};
use crate::audit::Log;
use crate::lend::Desk;
use crate::state::{ChangeError, unix_now};
use crate::store::StoreError;
use crate::token;
use crate::verbs::{changed, refuse};
use proto::auth::{DeviceId, LoginAnswer, LoginVerb, MAX_DEVICES, Scopes};
use proto::bounded::BoundedVec;
use proto::vault::VaultAnswer;

fn not_taken(error: PasswordError) -> AskError {
    refuse("vault.memory", &error.to_string())
}

fn not_stored(error: StoreError) -> AskError {
    changed(ChangeError::Store(error))
}

fn unknown() -> AskError {
    refuse("auth.no_such_device", "there is no such device in the state that this needs; `moltbot devices list`")
}

impl<L: Log> Desk<'_, L> {
    /// May this verb change what it would change? Returns what the record says beside it.
    pub(crate) fn check_login(&mut self, verb: &LoginVerb) -> Result<String, AskError> {
        let known = |id: &DeviceId| self.state.devices().get(*id).filter(|device| device.stands);
        let named = |holds: bool, id: &DeviceId| if holds { Ok(id.to_string()) } else { Err(unknown()) };
        match verb {
            LoginVerb::SetPassword { password } if password.expose().len() < SHORTEST => Err(refuse(
                "auth.password_short",
                &format!("a password has at least {SHORTEST} bytes; more and not to be guessed"),
            )),
            LoginVerb::ClearPassword if self.state.password().is_none() => {
                Err(refuse("auth.no_password", "there is no password to clear"))
            }
            LoginVerb::SetPassword { .. } | LoginVerb::ClearPassword | LoginVerb::ListDevices => Ok(String::new()),
            LoginVerb::ApproveDevice { scopes, .. } | LoginVerb::AdmitDevice { scopes, .. } if scopes.is_empty() => {
                Err(refuse("auth.no_scopes", "a device that may do nothing need not be paired"))
            }
            LoginVerb::ApproveDevice { id, scopes } => {
                let waits = self.state.waiting().rows(unix_now()).iter().any(|row| row.id == *id);
                let named = if waits || self.state.devices().get(*id).is_some() { Ok(()) } else { Err(unknown()) };
                named.map(|()| format!("{id} for {}", scopes.names().join(" ")))
            }
            LoginVerb::AdmitDevice { public_key, scopes, .. } => {
                let id = signature::device_of(public_key);
                match self.state.devices().get(id) {
                    Some(_) => Err(refuse(
                        "auth.device_known",
                        "this device is known; `moltbot devices list` shows how it stands",
                    )),
                    None => Ok(format!("{id} for {}", scopes.names().join(" "))),
                }
            }
            LoginVerb::DenyDevice { id } => {
                let waits = self.state.waiting().rows(unix_now()).iter().any(|row| row.id == *id);
                if waits { Ok(id.to_string()) } else { Err(unknown()) }
            }
            LoginVerb::RevokeDevice { id } | LoginVerb::RotateToken { id } => named(known(id).is_some(), id),
            LoginVerb::RevokeToken { id } => {
                named(known(id).is_some_and(|device| matches!(device.beside, Beside::Token(_))), id)
            }
        }
    }

    pub(crate) fn carry_out_login(&mut self, verb: LoginVerb) -> Result<VaultAnswer, AskError> {
        match verb {
            LoginVerb::SetPassword { password } => {
                let since = self.state.generation().saturating_add(1);
                let kept = Password::keep(&password, since).map_err(not_taken)?;
                self.state.set_password(Some(kept)).map_err(not_stored)?;
            }
            LoginVerb::ClearPassword => self.state.set_password(None).map_err(not_stored)?,
            LoginVerb::ListDevices => {
                let mut rows = self.state.waiting().rows(unix_now());
                rows.extend(self.state.devices().rows());
                let rows = BoundedVec::new(rows).unwrap_or_default();
                return Ok(VaultAnswer::Login(LoginAnswer::Devices(rows)));
            }
            LoginVerb::ApproveDevice { id, scopes } => self.approve(id, scopes)?,
            LoginVerb::AdmitDevice { public_key, name, scopes } => {
                let device = Device::admitted(public_key, name, scopes, unix_now());
                self.let_in(signature::device_of(&public_key), device)?;
            }
            LoginVerb::DenyDevice { id } => self.state.waiting().forget(id),
            LoginVerb::RevokeDevice { id } => {
                self.state.waiting().forget(id);
                self.change(id, |device| {
                    device.stands = false;
                    device.exchange(None);
                })?;
            }
            LoginVerb::RotateToken { id } => {
                let token = token::draw().map_err(|errno| not_taken(errno.into()))?;
                self.change(id, |device| device.exchange(Some(&token)))?;
                return Ok(VaultAnswer::Login(LoginAnswer::Token(token)));
            }
            LoginVerb::RevokeToken { id } => self.change(id, |device| device.exchange(None))?,
        }
        Ok(VaultAnswer::Done(self.state.generation()))
    }

    fn change(&mut self, id: DeviceId, change: impl FnOnce(&mut Device)) -> Result<(), AskError> {
        let done = self.state.change_devices(|devices, since| {
            let device = devices.get_mut(id)?;
            device.since = since;
            change(device);
            Some(())
        });
        done.map_err(not_stored)?.ok_or_else(unknown)
    }

    /// Pairs a device that waits. One that is known keeps its token; one whose pairing was taken back has none.
    fn approve(&mut self, id: DeviceId, scopes: Scopes) -> Result<(), AskError> {
        let now = unix_now();
        let waits = self.state.waiting().request(id).map(|(row, key)| Device::new(key, row, now));
        let done = self.state.change_devices(|devices, since| {
            let mut device = match (devices.get(id).cloned(), waits) {
                (Some(mut known), waits) if known.stands => {
                    known.says = waits.map_or(known.says, |asks| asks.says);
                    known
                }
                (_, Some(asks)) => asks,
                (Some(mut known), None) => {
                    (known.beside, known.stands) = (Beside::Nothing, true);
                    known
                }
                (None, None) => return None,
            };
            (device.scopes, device.paired, device.since) = (scopes, now, since);
            devices.add(id, device).then_some(())
        });
        done.map_err(not_stored)?.ok_or_else(full)?;
        self.state.waiting().forget(id);
        Ok(())
    }

    /// Pairs one that was paired elsewhere.
    fn let_in(&mut self, id: DeviceId, mut device: Device) -> Result<(), AskError> {
        let done = self.state.change_devices(|devices, since| {
            device.since = since;
            devices.add(id, device).then_some(())
        });
        done.map_err(not_stored)?.ok_or_else(full)
    }
}

fn full() -> AskError {
    refuse("auth.devices_full", &format!("{MAX_DEVICES} devices are paired; `moltbot devices revoke` makes room"))
}
