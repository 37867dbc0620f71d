//! The vault's end of the edge on which it and auditd witness each other: it has changes of the store written down, and it
//! looks at the log. auditd's answers are hostile; one that breaks the protocol is reported by the loop.
//!
//! One question may wait for the log to grow while others are asked and answered.

pub mod consistency;
pub mod memory;

use crate::audit::{AuditError, PATIENCE};
use memory::Memory;
use proto::bounded::BoundedVec;
use proto::channel::{CallError, Channel, ChannelError};
use proto::edge::{Refusal, VaultWitness};
use proto::ids::RequestId;
use proto::outbox::Outbox;
use proto::topology::role;
use proto::witness::{
    Commitment, Cosignature, Fingerprint, MAX_FINGERPRINTS, StoreStep, TreeHead, WitnessReply, WitnessRequest,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Where auditd says that the log stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct View {
    /// The last state of the store that the log says was reached.
    pub committed: Option<Commitment>,
    /// One that was about to be reached after that.
    pub intended: Option<Commitment>,
    /// The streams that were asked for.
    pub heads: Vec<TreeHead>,
    /// True where they are all.
    pub whole: bool,
}

/// The edge.
#[derive(Debug)]
pub struct Witness {
    edge: Outbox<VaultWitness>,
    /// The open question about the log, and whether it is about all of it.
    look: Option<(RequestId, bool)>,
    /// Its answer, where it came while another was waited for.
    seen: Option<Result<View, Refusal>>,
    violation: Option<ChannelError>,
}

impl Default for Witness {
    fn default() -> Self {
        Self { edge: Outbox::new(role::Vault), look: None, seen: None, violation: None }
    }
}

impl Witness {
    /// Uses this end from now on.
    pub fn attach(&mut self, channel: Channel) {
        *self = Self::default();
        self.edge.attach(channel);
    }

    /// Readable when an answer is there, for poll.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.edge.fd()
    }

    /// True where an answer to [`Witness::ask`] came while another was waited for: nothing will be readable for it.
    #[must_use]
    pub const fn has_view(&self) -> bool {
        self.seen.is_some()
    }

    /// What auditd did, where it broke the protocol on this edge.
    pub const fn take_violation(&mut self) -> Option<ChannelError> {
        self.violation.take()
    }

    /// Has auditd write down how far a change of the store has come. Returns when that is durable.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn record(&mut self, step: StoreStep, state: Commitment) -> Result<(), AuditError> {
        self.tell(&WitnessRequest::Store(step, state), &WitnessReply::Written)
    }

    /// Says something that has one answer, and waits for that.
    fn tell(&mut self, request: &WitnessRequest, expected: &WitnessReply) -> Result<(), AuditError> {
        let id = self.post(request)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.collect_one()? {
                Some((answered, Ok(reply))) if answered == id && reply == *expected => return Ok(()),
                Some((answered, Ok(_))) if answered == id => {
                    let violation = ChannelError::Violation("an answer to another question");
                    return Err(self.failed(CallError::Violation(violation)));
                }
                Some((answered, Err(refusal))) if answered == id => return Err(AuditError::Refused(refusal)),
                // Of a question that nobody waits for any more.
                Some(_) => {}
                None => self.wait(deadline)?,
            }
        }
    }

    /// Has auditd know these secrets where they stand in a record, and no others. Returns when it does.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn make_known(&mut self, key: &[u8; 32], secrets: &[Fingerprint]) -> Result<(), AuditError> {
        let mut parts = secrets.chunks(MAX_FINGERPRINTS).peekable();
        loop {
            let part = parts.next().unwrap_or_default();
            let more = parts.peek().is_some();
            let secrets = BoundedVec::new(part.to_vec()).unwrap_or_default();
            self.tell(&WitnessRequest::Know { key: *key, secrets, more }, &WitnessReply::Noted)?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Asks where the log stands: now, or where `wait` when it has grown.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn ask(&mut self, memory: &Memory, cosigned: BoundedVec<Cosignature, 4>, wait: bool) -> Result<(), AuditError> {
        let cosigner = memory.public_key().ok_or(AuditError::Gone)?;
        let id = self.post(&WitnessRequest::Look { cosigner, known: memory.known(), cosigned, wait })?;
        (self.look, self.seen) = (Some((id, !wait)), None);
        Ok(())
    }

    /// The answer to [`Witness::ask`], if it is there; waited for until `deadline` where there is one.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn view(&mut self, deadline: Option<Instant>) -> Result<Option<View>, AuditError> {
        loop {
            if let Some(seen) = self.seen.take() {
                return seen.map(Some).map_err(AuditError::Refused);
            }
            match (self.collect_one()?, deadline) {
                (Some(_), _) => {}
                (None, _) if self.seen.is_some() => {}
                (None, None) => return Ok(None),
                (None, Some(deadline)) => self.wait(deadline)?,
            }
        }
    }

    fn post(&mut self, request: &WitnessRequest) -> Result<RequestId, AuditError> {
        let posted = self.edge.post(request, PATIENCE);
        posted.map_err(|error| self.failed(error))
    }

    /// The next answer, but that about the log, which is kept.
    #[expect(clippy::type_complexity, reason = "an answer or a refusal, if there is one")]
    fn collect_one(&mut self) -> Result<Option<(RequestId, Result<WitnessReply, Refusal>)>, AuditError> {
        let answer = self.edge.collect().map_err(|error| self.failed(error))?;
        let Some((id, answer)) = answer else { return Ok(None) };
        let Some((_, whole)) = self.look.take_if(|(look, _)| *look == id) else { return Ok(Some((id, answer))) };
        self.seen = match answer {
            Ok(WitnessReply::Seen { committed, intended, heads }) => {
                Some(Ok(View { committed, intended, heads: heads.into_vec(), whole }))
            }
            Ok(WitnessReply::Written | WitnessReply::Noted) => {
                let violation = ChannelError::Violation("an answer to another question");
                return Err(self.failed(CallError::Violation(violation)));
            }
            Err(refusal) => Some(Err(refusal)),
        };
        Ok(None)
    }

    fn wait(&self, deadline: Instant) -> Result<(), AuditError> {
        let Some(fd) = self.edge.fd() else { return Err(AuditError::Gone) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Err(AuditError::Silent);
        }
        let timeout = Timespec::try_from(left).map_err(|_| AuditError::Silent)?;
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(_) => Err(AuditError::Gone),
        }
    }

    fn failed(&mut self, error: CallError) -> AuditError {
        match error {
            CallError::Refused(refusal) => AuditError::Refused(refusal),
            CallError::Busy | CallError::Deadline => AuditError::Silent,
            CallError::Gone => AuditError::Gone,
            CallError::Violation(violation) => {
                self.edge.detach();
                self.violation = Some(violation);
                AuditError::Gone
            }
        }
    }
}
