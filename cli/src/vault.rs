//! `moltbot vault`: the operator's verbs about the vault itself. What is said to it goes over broker's socket and is
//! recorded before it is done.

use crate::CliError;
use crate::args::{Args, PassphraseCommand, VaultCommand};
use crate::backup;
use crate::door::Door;
use crate::secrets::{done, hidden, say};
use proto::ids::Role;
use proto::operator::OperatorRequest;
use proto::secret::Secret;
use proto::vault::VaultVerb;
use rustix::termios::isatty;
use serde_json::json;
use std::path::Path;

/// Carries it out.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: &VaultCommand, args: &Args) -> Result<(), CliError> {
    if backup::run(dir, command, args)? {
        return Ok(());
    }
    let mut door = Door::open(dir)?;
    match command {
        // Done above.
        VaultCommand::Backup { .. } | VaultCommand::Restore { .. } => Ok(()),
        VaultCommand::Rotate { master: true } => {
            done(&mut door, VaultVerb::RenewMaster)?;
            door.ask(&OperatorRequest::Restart(Role::Vault))?;
            say(args, &json!({ "ok": true, "role": "vault" }), "vault restarts, and draws a new master key")
        }
        VaultCommand::Rotate { master: false } => {
            let term = done(&mut door, VaultVerb::RotateKeys)?;
            let text = format!("every secret is sealed under a key of term {term}");
            say(args, &json!({ "ok": true, "term": term }), &text)
        }
        VaultCommand::Unlock => {
            done(&mut door, VaultVerb::Unlock { passphrase: hidden("passphrase of the vault: ")? })?;
            say(args, &json!({ "ok": true }), "the vault is open")
        }
        VaultCommand::Passphrase { command: PassphraseCommand::Set } => {
            done(&mut door, VaultVerb::SetPassphrase { passphrase: new_passphrase()? })?;
            let text = "the store is sealed with it; after the next start: `moltbot vault unlock`";
            say(args, &json!({ "ok": true }), text)
        }
        VaultCommand::Passphrase { command: PassphraseCommand::Remove } => {
            done(&mut door, VaultVerb::RemovePassphrase)?;
            say(args, &json!({ "ok": true }), "the store is sealed with the key file alone")
        }
        VaultCommand::AcceptRollback => {
            // Said before it is done: what is accepted is not to be guessed afterwards.
            let what = door.status()?.vault.to_string();
            let generation = done(&mut door, VaultVerb::AcceptRollback)?;
            let what = what.split_once("; ").map_or(what.as_str(), |(what, _)| what);
            let text = format!("accepted: {what}\nthe vault goes on as generation {generation}, and answers again");
            say(args, &json!({ "ok": true, "accepted": what, "generation": generation }), &text)
        }
    }
}

/// A person at a terminal, who does not see it, says it twice.
fn new_passphrase() -> Result<Secret, CliError> {
    let passphrase = hidden("new passphrase of the vault: ")?;
    if isatty(std::io::stdin()) && hidden("once more: ")?.expose() != passphrase.expose() {
        return Err(CliError::failed("they are not the same; nothing was changed"));
    }
    Ok(passphrase)
}
