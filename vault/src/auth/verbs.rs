//! The operator's verbs about how clients get in. Recorded by the desk before they are carried out, as every verb is.

use super::AskError;
use super::password::{Password, PasswordError, SHORTEST};
use crate::audit::Log;
use crate::lend::Desk;
use crate::state::ChangeError;
use crate::verbs::{changed, refuse};
use proto::auth::LoginVerb;
use proto::vault::VaultAnswer;

fn not_taken(error: PasswordError) -> AskError {
    refuse("vault.memory", &error.to_string())
}

impl<L: Log> Desk<'_, L> {
    /// May this verb change what it would change? Returns what the record says beside it.
    pub(crate) fn check_login(&self, verb: &LoginVerb) -> Result<String, AskError> {
        match verb {
            LoginVerb::SetPassword { password } if password.expose().len() < SHORTEST => Err(refuse(
                "auth.password_short",
                &format!("a password has at least {SHORTEST} bytes; more and not to be guessed"),
            )),
            LoginVerb::SetPassword { .. } => Ok(String::new()),
            LoginVerb::ClearPassword if self.state.password().is_none() => {
                Err(refuse("auth.no_password", "there is no password to clear"))
            }
            LoginVerb::ClearPassword => Ok(String::new()),
        }
    }

    pub(crate) fn carry_out_login(&mut self, verb: LoginVerb) -> Result<VaultAnswer, AskError> {
        let since = self.state.generation().saturating_add(1);
        let password = match verb {
            LoginVerb::SetPassword { password } => Some(Password::keep(&password, since).map_err(not_taken)?),
            LoginVerb::ClearPassword => None,
        };
        self.state.set_password(password).map_err(|error| changed(ChangeError::Store(error)))?;
        Ok(VaultAnswer::Done(self.state.generation()))
    }
}
