//! Whether the vault may answer at all: not before it has compared its store with the log, and not while one of them is
//! known to have been put back. Then it stays up and refuses everything, so that the operator has somebody to tell.

use super::{Vault, gone, now_ms, violated};
use crate::audit::{AuditError, PATIENCE};
use crate::auth::{AskError, recorded};
use crate::lend::secret_record;
use crate::rollback::Rollback;
use crate::state::unix_now;
use crate::state::witnessed::ViewError;
use crate::store::StoreError;
use confine::startup::{Control, StartError};
use proto::channel::Channel;
use proto::control::FromRole;
use proto::edge::Refusal;
use proto::topology::EdgeId;
use proto::vault::VaultAnswer;
use std::time::Instant;

/// Why nothing is answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Bar {
    /// The log was not looked at yet.
    Unproven,
    /// The store or the log was put back, or the clock.
    PutBack(Rollback),
}

impl Bar {
    /// Why, and the way out.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Unproven => {
                "the vault has not compared its store with the log yet; auditd must answer first".to_owned()
            }
            Self::PutBack(what @ Rollback::Clock(_)) => {
                format!("{what}; set it right and restart, or go on by it: `moltbot vault accept-rollback`")
            }
            Self::PutBack(what) => format!(
                "{what}; put back what belongs together and restart, or go on with what is here: `moltbot vault accept-rollback`"
            ),
        }
    }

    const fn rule(&self) -> &'static str {
        match self {
            Self::Unproven => "vault.unproven",
            Self::PutBack(Rollback::Clock(_)) => "vault.clock",
            Self::PutBack(_) => "vault.rolled_back",
        }
    }

    /// What the operator is told.
    pub(super) fn refusal(&self) -> Refusal {
        Refusal::new(self.rule(), &self.text())
    }

    /// What a role is told, and gateway tells strangers: not what was found.
    pub(super) fn refusal_to_roles(&self) -> Refusal {
        Refusal::new(self.rule(), "the vault answers nobody now; `moltbot status` tells the operator why")
    }
}

impl Vault {
    /// A new end of the edge to the witness: the log behind it is looked at before anything else happens.
    pub(super) fn meet_witness(&mut self, channel: Channel, control: &Control) -> Result<(), StartError> {
        self.state.witness().attach(channel);
        self.bar = Some(Bar::Unproven);
        // One that is gone already is followed by another end.
        let _ = self.state.look();
        self.turn_witness(Some(Instant::now() + PATIENCE), control)
    }

    /// Takes what auditd shows, if it is there; waited for until `deadline` where there is one.
    pub(super) fn turn_witness(&mut self, deadline: Option<Instant>, control: &Control) -> Result<(), StartError> {
        match self.state.witness().view(deadline) {
            Ok(Some(view)) => match self.state.take_view(&view, unix_now()) {
                Ok(()) => self.bar = None,
                Err(ViewError::Rollback(what)) => self.lower_bar(what),
                Err(ViewError::Store(error)) => return Err(StartError::internal(format!("vault/{error}"))),
            },
            // What it could not read now it may read later.
            Err(AuditError::Refused(refusal)) if self.bar == Some(Bar::Unproven) => {
                return Err(StartError::internal(format!("the log cannot be compared with the store: {refusal}")));
            }
            Ok(None) | Err(_) => {}
        }
        if let Some(violation) = self.state.witness().take_violation() {
            control.send(&violated(EdgeId::VaultWitness, &violation)).map_err(|error| gone(&error))?;
        }
        self.become_ready(control)
    }

    fn lower_bar(&mut self, what: Rollback) {
        self.leases.end_all(now_ms());
        let bar = Bar::PutBack(what);
        eprintln!("vault: everything is refused: {}", bar.text());
        self.bar = Some(bar);
        self.bar_told = false;
        self.tell_of_bar();
    }

    /// Has it recorded that everything is refused; where that fails, the next log gets it.
    pub(super) fn tell_of_bar(&mut self) {
        if let (Some(bar @ Bar::PutBack(what)), false) = (&self.bar, self.bar_told) {
            let record = secret_record("", bar.rule(), "vault", false, &what.to_string());
            self.bar_told = recorded(&mut self.auditor, record, "the refusal").is_ok();
        }
    }

    /// Serves from here on, where there is a log to write to and it was looked at.
    pub(super) fn become_ready(&mut self, control: &Control) -> Result<(), StartError> {
        if self.ready || !self.logs || self.bar == Some(Bar::Unproven) {
            return Ok(());
        }
        self.ready = true;
        control.send(&FromRole::Ready).map_err(|error| gone(&error))
    }

    /// The operator goes on with what was put back. Recorded with what it is before it is done.
    pub(super) fn accept_rollback(&mut self, uid: u32, what: &str) -> Result<VaultAnswer, AskError> {
        let who = format!("operator:{uid}");
        recorded(&mut self.auditor, secret_record("", "vault.accept-rollback", &who, true, what), "the verb")?;
        let unseen = |error: AuditError| {
            Refusal::new("audit.unreadable", &format!("nothing is accepted, because the log cannot be seen: {error}"))
        };
        self.state.look().map_err(unseen)?;
        let view = self.state.witness().view(Some(Instant::now() + PATIENCE)).map_err(unseen)?;
        let view = view.ok_or_else(|| unseen(AuditError::Silent))?;
        let accepted = self.state.accept(&view, unix_now()).map_err(|error| match error {
            StoreError::Unwritable(_) | StoreError::Unrecorded(_) => {
                AskError::from(Refusal::new("vault.unwritable", &format!("nothing is accepted: {error}")))
            }
            other => AskError::Store(other),
        })?;
        self.bar = None;
        Ok(VaultAnswer::Done(accepted))
    }
}
