//! `moltbot gateway password`: how clients get in. A password comes from a terminal without echo, or from standard input,
//! never from an argument.

use crate::CliError;
use crate::args::{Args, PasswordCommand};
use crate::door::Door;
use crate::secrets::{done, hidden, say};
use proto::auth::LoginVerb;
use proto::vault::VaultVerb;
use rustix::termios::isatty;
use serde_json::json;

/// Carries out `moltbot gateway password ...`.
///
/// # Errors
/// [`CliError`].
pub fn password(door: &mut Door, command: PasswordCommand, args: &Args) -> Result<(), CliError> {
    match command {
        PasswordCommand::Set => {
            let password = hidden("password for clients: ")?;
            if isatty(std::io::stdin()) && hidden("once more: ")?.expose() != password.expose() {
                return Err(CliError::failed("the two are not the same; nothing has changed"));
            }
            done(door, VaultVerb::Login(LoginVerb::SetPassword { password }))?;
            say(args, &json!({ "ok": true }), "clients may log in with this password from now on")
        }
        PasswordCommand::Clear => {
            done(door, VaultVerb::Login(LoginVerb::ClearPassword))?;
            say(args, &json!({ "ok": true }), "no password lets a client in any more")
        }
    }
}
