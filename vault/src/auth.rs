//! Is this client who it says: lockout, comparison, store, record, answer, in this order.
//!
//! Address, token and password come from gateway and are hostile. A failure counts before it is answered, in memory also where the
//! log cannot be written; nobody is let in before the record of it is durable.

pub mod devices;
pub mod password;
pub mod signature;
mod verbs;
pub mod waiting;
mod weigh;

use crate::audit::{AuditError, Log};
use crate::lockout::Party;
use crate::snapshot::SnapshotError;
use crate::state::State;
use crate::store::StoreError;
use proto::audit::{AuthMethod, AuthOutcome, AuthReason, Record};
use proto::auth::Login;
use proto::edge::Refusal;
use proto::vault::VaultReply;

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Refused, by a rule.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log's keeper broke the protocol.
    #[error("auditd broke the protocol: {0}")]
    AuditdViolated(proto::channel::ChannelError),
    /// Somebody asked for a honey secret of this name: its edge is closed, and broker is told.
    #[error("the honey secret {0} was asked for")]
    Honey(String),
    /// Which store is on disk is not known: the process must end.
    #[error(transparent)]
    Store(StoreError),
}

/// Makes `record` durable, or says why what it is of does not happen.
///
/// # Errors
/// [`AskError`].
pub fn recorded(log: &mut impl Log, record: Record, what: &str) -> Result<(), AskError> {
    log.append(record).map_err(|error| match error {
        AuditError::Violation(violation) => AskError::AuditdViolated(violation),
        AuditError::Refused(_) | AuditError::Gone | AuditError::Silent => unrecorded(what, &error).into(),
    })
}

fn unrecorded(what: &str, error: &AuditError) -> Refusal {
    Refusal::new("audit.unwritable", &format!("{what} is refused, because it cannot be recorded: {error}"))
}

/// Makes what was counted durable, or says why what it is of does not happen.
///
/// # Errors
/// [`AskError`].
pub fn stored(state: &mut State, what: &str) -> Result<(), AskError> {
    state.persist().map_err(|error| match error {
        // In the words of `recorded`: whether there was something to store is nobody's to learn.
        StoreError::Unrecorded(error) => unrecorded(what, &error).into(),
        StoreError::Snapshot(SnapshotError::Full(_)) => {
            Refusal::new("vault.full", &format!("{what} is refused: {error}")).into()
        }
        StoreError::Snapshot(SnapshotError::Memory) => {
            Refusal::new("vault.memory", &format!("{what} is refused: {error}")).into()
        }
        StoreError::Unwritable(_) => Refusal::new("vault.unwritable", &format!("{what} is refused: {error}")).into(),
        other => AskError::Store(other),
    })
}

/// When a login is decided on, by two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Seconds since 1970.
    pub now: u64,
    /// Milliseconds of a clock that does not go back.
    pub now_ms: u64,
}

/// Decides on a login.
///
/// # Errors
/// [`AskError`]: nobody is let in.
pub fn verify_client(state: &mut State, log: &mut impl Log, login: &Login, at: Moment) -> Result<VaultReply, AskError> {
    let party = Party::parse(&login.address)
        .ok_or_else(|| Refusal::new("auth.address", "the client's address is not an IP address"))?;
    let locked = state.lockouts().locked(party, at.now);
    let (method, outcome) = match locked {
        Some(_) => (weigh::offered(login), Err(AuthReason::RateLimited)),
        None => weigh::weigh(state, login, party, at)?,
    };
    let mut seconds = locked.unwrap_or_default();
    match &outcome {
        // One that may little must not wipe out its guesses at what may all.
        Ok(_) if matches!(method, AuthMethod::Device(_)) => {}
        // Nothing to forget is nothing to write: logins that go well cost no disk but the record.
        Ok(_) if state.lockouts().succeeded(party) => stored(state, "login")?,
        Err(reason) if reason.is_guess() => {
            seconds = state.lockouts().failed(party, at.now);
            stored(state, "login")?;
        }
        Ok(_) | Err(_) => {}
    }
    let said = outcome.as_ref().map_or_else(|reason| AuthOutcome::Rejected(*reason), |_| AuthOutcome::Accepted);
    recorded(log, Record::Auth { client: login.address.clone(), method, outcome: said }, "login")?;
    Ok(match outcome {
        Ok(admission) => VaultReply::Admitted(admission),
        Err(reason) => VaultReply::Rejected { reason, retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX) },
    })
}

#[cfg(test)]
pub(crate) mod tests;
