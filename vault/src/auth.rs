//! Is this client who it says: lockout, comparison, store, record, answer, in this order.
//!
//! Address, token and password come from gateway and are hostile. A failure counts before it is answered, in memory also where the
//! log cannot be written; nobody is let in before the record of it is durable.

pub mod password;
mod verbs;

use crate::audit::{AuditError, Log};
use crate::lockout::Party;
use crate::state::State;
use crate::store::StoreError;
use crate::token;
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
        StoreError::Unwritable(_) => Refusal::new("vault.unwritable", &format!("{what} is refused: {error}")).into(),
        other => AskError::Store(other),
    })
}

/// Decides on a login at `now`, in seconds since 1970.
///
/// # Errors
/// [`AskError`]: nobody is let in.
pub fn verify_client(state: &mut State, log: &mut impl Log, login: &Login, now: u64) -> Result<VaultReply, AskError> {
    let party = Party::parse(&login.address)
        .ok_or_else(|| Refusal::new("auth.address", "the client's address is not an IP address"))?;
    let locked = state.lockouts().locked(party, now);
    let (method, wrong) = match locked {
        Some(_) => (offered(login), Some(AuthReason::RateLimited)),
        None => weigh(state, login)?,
    };
    let (outcome, seconds) = match wrong {
        None => {
            // Nothing to forget is nothing to write: logins that go well cost no disk but the record.
            if state.lockouts().succeeded(party) {
                stored(state, "login")?;
            }
            (AuthOutcome::Accepted, 0)
        }
        Some(reason) => {
            let mut seconds = locked.unwrap_or_default();
            if is_guess(reason) {
                seconds = state.lockouts().failed(party, now);
                stored(state, "login")?;
            }
            (AuthOutcome::Rejected(reason), seconds)
        }
    };
    recorded(log, Record::Auth { client: login.address.clone(), method, outcome }, "login")?;
    Ok(match outcome {
        AuthOutcome::Accepted => VaultReply::Accepted,
        AuthOutcome::Rejected(reason) => {
            VaultReply::Rejected { reason, retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX) }
        }
    })
}

const fn offered(login: &Login) -> AuthMethod {
    match (&login.token, &login.password) {
        (Some(_), _) => AuthMethod::Token,
        (None, Some(_)) => AuthMethod::Password,
        (None, None) => AuthMethod::None,
    }
}

/// A client that has nothing to show yet, as a browser that was just opened, is not guessing.
const fn is_guess(reason: AuthReason) -> bool {
    !matches!(reason, AuthReason::TokenMissing | AuthReason::RateLimited)
}

/// What lets the client in, or what it offered and why that does not. The password is looked at last: it costs.
fn weigh(state: &State, login: &Login) -> Result<(AuthMethod, Option<AuthReason>), AskError> {
    if let Some(offered) = &login.token {
        if state.gateway_token().is_some_and(|kept| token::same(&kept, offered)) {
            return Ok((AuthMethod::Token, None));
        }
        if login.password.is_none() || state.password().is_none() {
            return Ok((AuthMethod::Token, Some(AuthReason::TokenMismatch)));
        }
    }
    let Some(typed) = &login.password else { return Ok((AuthMethod::None, Some(AuthReason::TokenMissing))) };
    let wrong = match state.password() {
        None => Some(AuthReason::PasswordUnset),
        Some(kept) => {
            let is = kept.is(typed).map_err(|error| Refusal::new("vault.memory", &error.to_string()))?;
            (!is).then_some(AuthReason::PasswordMismatch)
        }
    };
    Ok((AuthMethod::Password, wrong))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::auth::password::Password;
    use crate::state::tests::Dirs;
    use proto::bounded::BoundedStr;
    use proto::secret::Secret;

    const NOW: u64 = 1_795_431_600;

    /// A log that keeps what it is told, and can be made to fail.
    #[derive(Default)]
    pub(crate) struct Kept {
        pub(crate) records: Vec<Record>,
        pub(crate) broken: bool,
    }

    impl Log for Kept {
        fn append(&mut self, record: Record) -> Result<(), AuditError> {
            if self.broken {
                return Err(AuditError::Refused(Refusal::new("audit.unwritable", "write: No space left on device")));
            }
            self.records.push(record);
            Ok(())
        }
    }

    fn offered(state: &State, good: bool) -> Secret {
        let bytes = if good { state.gateway_token().unwrap().expose().to_vec() } else { b"wrong".to_vec() };
        Secret::new(bytes).unwrap()
    }

    fn login(state: &mut State, log: &mut Kept, good: bool, now: u64) -> Result<VaultReply, AskError> {
        let login = Login::with_token(BoundedStr::truncated("192.0.2.1"), Some(offered(state, good)));
        verify_client(state, log, &login, now)
    }

    fn rejected(reason: AuthReason, retry_after_s: u32) -> VaultReply {
        VaultReply::Rejected { reason, retry_after_s }
    }

    #[test]
    fn right_token_is_accepted_recorded_and_writes_no_store() {
        let mut state = Dirs::new().open().unwrap();
        let (mut log, generation) = (Kept::default(), state.generation());
        assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), VaultReply::Accepted);
        assert_eq!(state.generation(), generation);
        assert!(matches!(log.records[..], [Record::Auth { outcome: AuthOutcome::Accepted, .. }]));
    }

    #[test]
    fn five_failures_lock_for_300_seconds_over_a_restart() {
        let dirs = Dirs::new();
        let mut log = Kept::default();
        for at in 0..5 {
            // Every attempt meets a vault that was just started.
            let reply = login(&mut dirs.open().unwrap(), &mut log, false, NOW).unwrap();
            assert_eq!(reply, rejected(AuthReason::TokenMismatch, if at == 4 { 300 } else { 0 }));
        }
        let mut state = dirs.open().unwrap();
        assert_eq!(login(&mut state, &mut log, true, NOW + 299).unwrap(), rejected(AuthReason::RateLimited, 1));
        assert_eq!(login(&mut state, &mut log, true, NOW + 300).unwrap(), VaultReply::Accepted);
        assert_eq!(log.records.len(), 7);
        assert_eq!(
            login(&mut dirs.open().unwrap(), &mut log, false, NOW + 300).unwrap(),
            rejected(AuthReason::TokenMismatch, 0)
        );
    }

    #[test]
    fn missing_token_is_recorded_and_counts_as_no_failure() {
        let mut state = Dirs::new().open().unwrap();
        let mut log = Kept::default();
        for _ in 0..9 {
            let nothing = Login::with_token(BoundedStr::truncated("192.0.2.1"), None);
            let reply = verify_client(&mut state, &mut log, &nothing, NOW).unwrap();
            assert_eq!(reply, rejected(AuthReason::TokenMissing, 0));
        }
        assert_eq!(log.records.len(), 9);
        assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), VaultReply::Accepted);
    }

    fn by_password(state: &mut State, log: &mut Kept, typed: &str, now: u64) -> VaultReply {
        let password = Secret::new(typed.as_bytes().to_vec()).ok();
        let nothing = Login::with_token(BoundedStr::truncated("192.0.2.1"), None);
        verify_client(state, log, &Login { password, ..nothing }, now).unwrap()
    }

    fn set_password(state: &mut State, typed: &str) {
        let kept = Password::keep(&Secret::new(typed.as_bytes().to_vec()).unwrap(), state.generation() + 1).unwrap();
        state.set_password(Some(kept)).unwrap();
    }

    #[test]
    fn password_lets_in_over_a_restart_until_it_is_cleared() {
        let dirs = Dirs::new();
        let mut log = Kept::default();
        let mut state = dirs.open().unwrap();
        assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), rejected(AuthReason::PasswordUnset, 0));
        set_password(&mut state, "correct horse");
        drop(state);
        let mut state = dirs.open().unwrap();
        assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), VaultReply::Accepted);
        let accepted = AuthOutcome::Accepted;
        assert!(
            matches!(log.records.last(), Some(Record::Auth { method: AuthMethod::Password, outcome, .. }) if *outcome == accepted)
        );
        assert_eq!(by_password(&mut state, &mut log, "correct horsf", NOW), rejected(AuthReason::PasswordMismatch, 0));
        state.set_password(None).unwrap();
        drop(state);
        let mut state = dirs.open().unwrap();
        assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), rejected(AuthReason::PasswordUnset, 0));
    }

    #[test]
    fn guesses_of_token_and_password_are_counted_together() {
        let dirs = Dirs::new();
        let mut state = dirs.open().unwrap();
        let mut log = Kept::default();
        set_password(&mut state, "correct horse");
        for _ in 0..2 {
            assert_eq!(login(&mut state, &mut log, false, NOW).unwrap(), rejected(AuthReason::TokenMismatch, 0));
            assert_eq!(by_password(&mut state, &mut log, "wrong", NOW), rejected(AuthReason::PasswordMismatch, 0));
        }
        assert_eq!(by_password(&mut state, &mut log, "wrong", NOW), rejected(AuthReason::PasswordMismatch, 300));
        assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW), rejected(AuthReason::RateLimited, 300));
        assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), rejected(AuthReason::RateLimited, 300));
        assert_eq!(by_password(&mut state, &mut log, "correct horse", NOW + 300), VaultReply::Accepted);
    }

    #[test]
    fn login_that_cannot_be_recorded_is_refused_and_its_failure_counts() {
        let mut state = Dirs::new().open().unwrap();
        let mut log = Kept { broken: true, ..Kept::default() };
        let refused = |outcome: Result<VaultReply, AskError>| match outcome {
            Err(AskError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        let refusal = refused(login(&mut state, &mut log, true, NOW));
        assert_eq!(refusal.rule.as_str(), "audit.unwritable");
        assert!(refusal.message.contains("No space left on device"));
        for _ in 0..5 {
            refused(login(&mut state, &mut log, false, NOW));
        }
        log.broken = false;
        assert_eq!(login(&mut state, &mut log, true, NOW).unwrap(), rejected(AuthReason::RateLimited, 300));
    }

    #[test]
    fn address_that_is_none_is_refused() {
        let mut state = Dirs::new().open().unwrap();
        let nowhere = Login::with_token(BoundedStr::truncated("unknown"), None);
        let outcome = verify_client(&mut state, &mut Kept::default(), &nowhere, NOW);
        assert!(matches!(outcome, Err(AskError::Refused(refusal)) if refusal.rule.as_str() == "auth.address"));
    }
}
