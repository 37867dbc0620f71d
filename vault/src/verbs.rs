//! The operator's verbs about secrets and keys. Broker has asked the kernel who the operator is; each verb is recorded
//! with that uid before it is carried out, and what comes of it is answered after it is on disk.
//!
//! Names, values and policies come from the operator's hand and may be wrong; nothing that is wrong changes anything.

use crate::audit::Log;
use crate::auth::{AskError, recorded};
use crate::envelope::{EnvelopeError, MAX_NAME, is_name};
use crate::lend::{Desk, secret_record};
use crate::passphrase::SHORTEST;
use crate::permit::Policy;
use crate::snapshot::SnapshotError;
use crate::state::{ChangeError, GATEWAY_TOKEN, unix_now};
use crate::store::StoreError;
use crate::token;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::edge::Refusal;
use proto::secret::Secret;
use proto::vault::{SecretRow, VaultAnswer, VaultVerb};

/// Rows of one page.
const PAGE: usize = 64;
/// Bytes that a gateway token which the operator chose has at least. Source: Phase 1, SEC-03.
const TOKEN: usize = 32;

pub(crate) fn refuse(rule: &str, message: &str) -> AskError {
    Refusal::new(rule, message).into()
}

pub(crate) fn changed(error: ChangeError) -> AskError {
    match error {
        ChangeError::Memory => refuse("vault.memory", &error.to_string()),
        ChangeError::NoSuchSecret => refuse("vault.no_such_secret", "there is no secret of this name"),
        ChangeError::Envelope(EnvelopeError::Name) => refuse("vault.name", &EnvelopeError::Name.to_string()),
        ChangeError::Envelope(error) => refuse("vault.envelope", &error.to_string()),
        ChangeError::Store(error @ StoreError::Unrecorded(_)) => refuse("audit.unwritable", &error.to_string()),
        ChangeError::Store(error @ StoreError::Unwritable(_)) => refuse("vault.unwritable", &error.to_string()),
        ChangeError::Store(StoreError::Snapshot(error @ SnapshotError::Full(_))) => {
            refuse("vault.full", &error.to_string())
        }
        ChangeError::Store(StoreError::Snapshot(error @ SnapshotError::Memory)) => {
            refuse("vault.memory", &error.to_string())
        }
        ChangeError::Store(error) => AskError::Store(error),
    }
}

fn parsed(policy: &str) -> Result<Policy, AskError> {
    Policy::parse(policy).map_err(|error| refuse("vault.policy", &error.to_string()))
}

/// A policy as a record has it.
fn written(policy: &str) -> Result<String, AskError> {
    parsed(policy).map(|policy| policy.to_string().replace('\n', "; "))
}

/// The name that a verb is about; empty where it is about none.
fn name_of(verb: &VaultVerb) -> &str {
    match verb {
        VaultVerb::PutSecret { name, .. }
        | VaultVerb::AdoptSecret { name, .. }
        | VaultVerb::RemoveSecret { name }
        | VaultVerb::RevealSecret { name }
        | VaultVerb::ReadPolicy { name }
        | VaultVerb::SetPolicy { name, .. }
        | VaultVerb::ApproveUse { name } => name.as_str(),
        VaultVerb::ListSecrets { .. }
        | VaultVerb::RevokeLeases
        | VaultVerb::RotateKeys
        | VaultVerb::RenewMaster
        | VaultVerb::AcceptRollback
        | VaultVerb::Approval(_)
        | VaultVerb::Unlock { .. }
        | VaultVerb::SetPassphrase { .. }
        | VaultVerb::RemovePassphrase
        | VaultVerb::RecordBackup { .. }
        | VaultVerb::Login(_)
        | VaultVerb::Senders(_)
        | VaultVerb::Transcripts(_)
        | VaultVerb::Taint(_)
        | VaultVerb::ForgetLockouts => "",
    }
}

impl<L: Log> Desk<'_, L> {
    /// Carries out what the operator of this uid asks.
    ///
    /// # Errors
    /// [`AskError`]; where it is a refusal, nothing has changed.
    pub fn on_verb(&mut self, uid: u32, verb: VaultVerb) -> Result<VaultAnswer, AskError> {
        if let VaultVerb::Senders(verb) = &verb {
            return self.on_sender_verb(uid, verb, unix_now()).map(VaultAnswer::Senders);
        }
        if let VaultVerb::Taint(verb) = &verb {
            return self.on_taint_verb(uid, verb);
        }
        if let VaultVerb::Transcripts(verb) = &verb {
            return self.on_transcript_verb(uid, verb);
        }
        let (name, said, who) = (name_of(&verb).to_owned(), verb.name(), format!("operator:{uid}"));
        if matches!(verb, VaultVerb::RevokeLeases) {
            return self.end_leases(&who).map(VaultAnswer::Done);
        }
        let outcome = self.check(&verb);
        let (granted, detail) = match &outcome {
            Ok(detail) => (true, detail.clone()),
            Err(AskError::Refused(refusal)) => (false, refusal.rule.to_string()),
            Err(_) => (false, String::new()),
        };
        recorded(self.log, secret_record(&name, said, &who, granted, &detail), "the verb")?;
        outcome?;
        let done = self.carry_out(verb);
        if let Err(AskError::Refused(refusal)) = &done {
            recorded(self.log, secret_record(&name, said, &who, false, &refusal.rule), "the failure")?;
        }
        done
    }

    /// Ends every lease and every approval. The one thing that is done before it is recorded: taking a right back must
    /// work when the log does not.
    ///
    /// # Errors
    /// [`AskError`] where it was done and could not be recorded.
    pub fn end_leases(&mut self, who: &str) -> Result<u64, AskError> {
        let (ended, names) = self.leases.end_all(self.now_ms);
        let detail = format!("{ended} ended: {}", names.join(" "));
        recorded(self.log, secret_record("", "secrets.revoke", who, true, &detail), "the answer, not the revocation,")?;
        Ok(u64::try_from(ended).unwrap_or(u64::MAX))
    }

    /// Would it change what may be changed? Returns what the record says beside the verb.
    fn check(&mut self, verb: &VaultVerb) -> Result<String, AskError> {
        let name = name_of(verb);
        if !name.is_empty() && !is_name(name) {
            return Err(refuse("vault.name", &EnvelopeError::Name.to_string()));
        }
        let record = self.state.record(name);
        let policy = record.map(crate::envelope::Record::policy);
        match verb {
            VaultVerb::PutSecret { value, rotate, .. } => {
                Self::check_value(name, value)?;
                match (rotate, record) {
                    (true, None) => Err(changed(ChangeError::NoSuchSecret)),
                    (false, Some(_)) => {
                        Err(refuse("vault.exists", "there is one of this name; `moltbot secrets rotate` replaces it"))
                    }
                    (_, record) => Ok(format!("version {}", record.map_or(0, |record| record.version()) + 1)),
                }
            }
            VaultVerb::AdoptSecret { value, .. } if self.state.knows(name, value) => Ok("known already".to_owned()),
            VaultVerb::AdoptSecret { value, policy, .. } => {
                Self::check_value(name, value)?;
                match record {
                    // What the operator said of it holds, also where that was nothing.
                    Some(record) => Ok(format!("version {}", record.version() + 1)),
                    None => {
                        written(policy).map(|policy| format!("version 1; {policy}").trim_end_matches("; ").to_owned())
                    }
                }
            }
            VaultVerb::RenewMaster if self.state.is_key_kept_elsewhere() => Err(refuse(
                "vault.kept_elsewhere",
                "the service manager keeps the master key: only it can replace it; `moltbot vault rotate` renews the rest",
            )),
            VaultVerb::RenewMaster if self.state.has_passphrase() => Err(refuse(
                "vault.passphrase",
                "a passphrase is part of the master key; `moltbot vault passphrase remove` first, and set it anew after",
            )),
            VaultVerb::RecordBackup { to } => Ok(to.to_string()),
            VaultVerb::Login(verb) => self.check_login(verb),
            VaultVerb::Unlock { .. } => Err(refuse("vault.not_locked", "the vault is not locked")),
            VaultVerb::SetPassphrase { passphrase } if passphrase.expose().len() < SHORTEST => Err(refuse(
                "vault.short",
                &format!("a passphrase has at least {SHORTEST} bytes; more and not to be guessed"),
            )),
            VaultVerb::RemovePassphrase if !self.state.has_passphrase() => {
                Err(refuse("vault.no_passphrase", "there is no passphrase to remove"))
            }
            // It goes another way.
            VaultVerb::Taint(_) => Err(refuse("taint.unknown", "taints are no secrets")),
            VaultVerb::Approval(_) => Err(refuse("approvals.unknown", "approvals are no secrets")),
            VaultVerb::AcceptRollback => Err(refuse(
                "vault.not_rolled_back",
                "neither the store nor the log was put back: there is nothing to accept",
            )),
            VaultVerb::ListSecrets { .. }
            | VaultVerb::RevokeLeases
            | VaultVerb::RotateKeys
            | VaultVerb::RenewMaster
            | VaultVerb::SetPassphrase { .. }
            | VaultVerb::RemovePassphrase
            | VaultVerb::Senders(_)
            | VaultVerb::Transcripts(_)
            | VaultVerb::ForgetLockouts => Ok(String::new()),
            _ if record.is_none() => Err(changed(ChangeError::NoSuchSecret)),
            VaultVerb::RemoveSecret { .. } | VaultVerb::SetPolicy { .. } if name == GATEWAY_TOKEN => {
                Err(refuse("vault.reserved", "gateway.token is the vault's own; it can be rotated and nothing else"))
            }
            VaultVerb::RevealSecret { .. } => match policy {
                Some(policy) if policy.honey => Err(refuse("vault.honey", "a honey secret is shown to nobody")),
                Some(policy) if policy.reveal => Ok(String::new()),
                _ => Err(refuse("vault.reveal", "its policy does not say `reveal yes`")),
            },
            VaultVerb::SetPolicy { text, .. } => written(text),
            VaultVerb::ApproveUse { .. } => {
                if policy.and_then(|policy| policy.grant).is_some_and(|grant| grant.approval) {
                    Ok(String::new())
                } else {
                    Err(refuse("vault.approval", "its policy does not ask for approval"))
                }
            }
            VaultVerb::RemoveSecret { .. } | VaultVerb::ReadPolicy { .. } => Ok(String::new()),
        }
    }

    fn check_value(name: &str, value: &Secret) -> Result<(), AskError> {
        if name.is_empty() {
            return Err(refuse("vault.name", &format!("a name has 1 to {MAX_NAME} bytes")));
        }
        if value.expose().is_empty() {
            return Err(refuse("vault.empty", "a secret of no bytes protects nothing"));
        }
        if name == GATEWAY_TOKEN && value.expose().len() < TOKEN {
            return Err(refuse("vault.short", &format!("a gateway token has at least {TOKEN} bytes")));
        }
        if name == GATEWAY_TOKEN && token::distinct(value.expose()) < token::DISTINCT {
            let why = format!(
                "a gateway token has at least {} different bytes: `openssl rand -base64 32` makes one",
                token::DISTINCT
            );
            return Err(refuse("vault.weak", &why));
        }
        Ok(())
    }

    fn carry_out(&mut self, verb: VaultVerb) -> Result<VaultAnswer, AskError> {
        let now = unix_now();
        match verb {
            VaultVerb::ListSecrets { after } => Ok(VaultAnswer::Secrets(self.page(&after))),
            VaultVerb::PutSecret { name, value, rotate: _ } => {
                let version = self.state.put(&name, &value, None, now).map_err(changed)?;
                self.leases.forget(&name);
                Ok(VaultAnswer::Done(version))
            }
            VaultVerb::AdoptSecret { name, value, .. } if self.state.knows(&name, &value) => Ok(VaultAnswer::Done(0)),
            VaultVerb::AdoptSecret { name, value, policy } => {
                let policy = if self.state.record(&name).is_none() { parsed(&policy)? } else { Policy::default() };
                let version = self.state.adopt(&name, &value, &policy, now).map_err(changed)?;
                self.leases.forget(&name);
                Ok(VaultAnswer::Done(version))
            }
            VaultVerb::SetPolicy { name, text } => {
                let policy = parsed(&text)?;
                let version = self.state.set_policy(&name, &policy, now).map_err(changed)?;
                self.leases.forget(&name);
                Ok(VaultAnswer::Done(version))
            }
            VaultVerb::RemoveSecret { name } => {
                self.state.remove(&name).map_err(changed)?;
                self.leases.forget(&name);
                Ok(VaultAnswer::Done(0))
            }
            VaultVerb::RevealSecret { name } => {
                self.state.open_secret(&name).map(VaultAnswer::Revealed).map_err(changed)
            }
            VaultVerb::ReadPolicy { name } => {
                let record = self.state.record(&name).ok_or_else(|| changed(ChangeError::NoSuchSecret))?;
                Ok(VaultAnswer::Policy(BoundedStr::truncated(record.policy_text())))
            }
            VaultVerb::ApproveUse { name } => {
                let version = self.state.record(&name).map_or(0, crate::envelope::Record::version);
                self.leases.approve(&name, version);
                Ok(VaultAnswer::Done(1))
            }
            // Refused before it comes here, and carried out by the loop where there is something to accept.
            VaultVerb::AcceptRollback
            | VaultVerb::Unlock { .. }
            | VaultVerb::Approval(_)
            | VaultVerb::Taint(_)
            | VaultVerb::Senders(_)
            | VaultVerb::Transcripts(_) => Ok(VaultAnswer::Done(0)),
            VaultVerb::RecordBackup { .. } => Ok(VaultAnswer::Done(self.state.generation())),
            VaultVerb::SetPassphrase { passphrase } => {
                self.state.set_passphrase(Some(&passphrase)).map_err(changed)?;
                Ok(VaultAnswer::Done(self.state.generation()))
            }
            VaultVerb::RemovePassphrase => {
                self.state.set_passphrase(None).map_err(changed)?;
                Ok(VaultAnswer::Done(self.state.generation()))
            }
            VaultVerb::RevokeLeases => self.end_leases("operator").map(VaultAnswer::Done),
            VaultVerb::RotateKeys => {
                self.state.rotate_keys(now).map(|term| VaultAnswer::Done(u64::from(term))).map_err(changed)
            }
            VaultVerb::RenewMaster => {
                self.state.want_new_master().map_err(|error| changed(ChangeError::Store(error)))?;
                Ok(VaultAnswer::Done(self.state.generation()))
            }
            VaultVerb::Login(verb) => self.carry_out_login(verb),
            VaultVerb::ForgetLockouts => {
                let forgotten = self.state.unlock().map_err(|error| changed(ChangeError::Store(error)))?;
                Ok(VaultAnswer::Done(u64::try_from(forgotten).unwrap_or(u64::MAX)))
            }
        }
    }

    fn page(&mut self, after: &str) -> BoundedVec<SecretRow, PAGE> {
        self.state.compare_values();
        let rows: Vec<_> = self.state.records().filter(|record| record.name() > after).take(PAGE).collect();
        let rows: Vec<SecretRow> = rows
            .into_iter()
            .map(|record| {
                let policy = record.policy();
                let grant = policy.grant.as_ref();
                SecretRow {
                    name: BoundedStr::truncated(record.name()),
                    version: record.version(),
                    created: record.created(),
                    verb: BoundedStr::truncated(grant.map_or("", |grant| grant.verb.name())),
                    purpose: BoundedStr::truncated(grant.map_or("", |grant| grant.purpose.as_str())),
                    honey: policy.honey,
                    used: self.state.contents().budgets.used(record.name(), record.version()),
                    budget: grant.and_then(|grant| grant.budget),
                    shared: self.state.is_shared(record.name()),
                }
            })
            .collect();
        BoundedVec::new(rows).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
