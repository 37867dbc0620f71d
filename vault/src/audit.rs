//! The vault's way to the log: one record at a time, waited for until it is durable.
//!
//! Not `proto::channel::Client`, which gives its end up after a deadline: broker would not know that it must wire the two
//! again, and a slow disk would cost the vault its log for good. A late answer is told from the next one by its id.

use proto::audit::{AuditRequest, Record};
use proto::channel::{Channel, ChannelError, Outgoing, decode_outgoing, frame};
use proto::edge::{Edge, Refusal, ToAuditd};
use proto::ids::RequestId;
use proto::wire::Kind;
use std::time::{Duration, Instant};

/// How long a record may take.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Why a record is not known to be durable.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// auditd said no.
    #[error("{0}")]
    Refused(Refusal),
    /// There is no auditd now.
    #[error("auditd is not there")]
    Gone,
    /// It did not answer in time, or has not yet answered what it was asked before.
    #[error("auditd does not answer")]
    Silent,
    /// It broke the protocol; its edge is closed.
    #[error("auditd broke the protocol: {0}")]
    Violation(ChannelError),
}

/// What can make a record durable.
pub trait Log {
    /// Returns when `record` is durable.
    ///
    /// # Errors
    /// [`AuditError`]: what the record is of must not happen.
    fn append(&mut self, record: Record) -> Result<(), AuditError>;
}

/// The client's end of the edge to auditd.
#[derive(Debug, Default)]
pub struct Auditor {
    channel: Option<Channel>,
    last: u32,
    waits: bool,
}

impl Auditor {
    /// Uses this end from now on, in place of any other.
    pub fn attach(&mut self, channel: Channel) {
        *self = Self { channel: Some(channel), last: 0, waits: false };
    }

    fn receive(&mut self, channel: &Channel, deadline: Instant) -> Result<(), AuditError> {
        let packet = channel.recv_by(ToAuditd::MAX_REPLY, ToAuditd::REPLY_FDS, deadline);
        let (id, answer) = match packet.and_then(decode_outgoing::<ToAuditd>) {
            Ok(answer) => answer,
            Err(ChannelError::Deadline | ChannelError::WouldBlock) => return Err(AuditError::Silent),
            Err(ChannelError::Closed | ChannelError::Os(_)) => return Err(AuditError::Gone),
            Err(violation) => return Err(AuditError::Violation(violation)),
        };
        if id != RequestId(self.last) || !self.waits {
            return Err(AuditError::Violation(ChannelError::Violation("an answer to no question")));
        }
        self.waits = false;
        match answer {
            Outgoing::Reply(_receipt, _) => Ok(()),
            Outgoing::Refused(refusal) => Err(AuditError::Refused(refusal)),
            Outgoing::Chunk(none) => match none {},
        }
    }

    fn exchange(&mut self, channel: &Channel, record: Record) -> Result<(), AuditError> {
        if self.waits {
            // Only one question is ever open. Its answer is of no use any more, but it must come before the next.
            match self.receive(channel, Instant::now()) {
                Ok(()) | Err(AuditError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let deadline = Instant::now().checked_add(PATIENCE).ok_or(AuditError::Silent)?;
        self.last = self.last.wrapping_add(1);
        let patience = u16::try_from(PATIENCE.as_millis()).unwrap_or(u16::MAX);
        let request = AuditRequest::Append(record);
        let packet = frame(Kind::Request, RequestId(self.last), patience, &request, ToAuditd::MAX_REQUEST)
            .map_err(|error| AuditError::Violation(error.into()))?;
        match channel.send_by(&packet, &[], deadline) {
            Ok(()) => self.waits = true,
            Err(ChannelError::Deadline | ChannelError::WouldBlock) => return Err(AuditError::Silent),
            Err(_) => return Err(AuditError::Gone),
        }
        self.receive(channel, deadline)
    }
}

impl Log for Auditor {
    fn append(&mut self, record: Record) -> Result<(), AuditError> {
        let Some(channel) = self.channel.take() else { return Err(AuditError::Gone) };
        let outcome = self.exchange(&channel, record);
        if !matches!(outcome, Err(AuditError::Gone | AuditError::Violation(_))) {
            self.channel = Some(channel);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::audit::{AuthMethod, AuthOutcome, Receipt};
    use proto::bounded::BoundedStr;
    use proto::channel::{Incoming, decode_incoming, reply_frame};
    use proto::ids::{LeafHash, Seq};

    fn record() -> Record {
        let client = BoundedStr::truncated("192.0.2.1");
        Record::Auth { client, method: AuthMethod::Token, outcome: AuthOutcome::Accepted }
    }

    fn answer(peer: &Channel) {
        let packet = peer.recv_by(ToAuditd::MAX_REQUEST, 0, Instant::now() + Duration::from_secs(5)).unwrap();
        let Incoming::Request { id, .. } = decode_incoming::<ToAuditd>(packet).unwrap() else { panic!("no request") };
        let receipt = Receipt { seq: Seq(0), leaf: LeafHash([0; 32]) };
        peer.send(&reply_frame::<ToAuditd>(id, &receipt).unwrap(), &[]).unwrap();
    }

    #[test]
    fn late_answer_ends_the_silence_and_is_not_taken_for_the_next() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut auditor = Auditor::default();
        assert!(matches!(auditor.append(record()), Err(AuditError::Gone)));
        auditor.attach(ours);
        assert!(matches!(auditor.append(record()), Err(AuditError::Silent)));
        // Refused at once while the first is open: nothing more was asked.
        assert!(matches!(auditor.append(record()), Err(AuditError::Silent)));
        answer(&theirs);
        assert!(matches!(theirs.recv(64, 0), Err(ChannelError::WouldBlock)));
        let server = std::thread::spawn(move || answer(&theirs));
        auditor.append(record()).unwrap();
        server.join().unwrap();
    }

    #[test]
    fn answer_to_no_question_is_a_violation() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut auditor = Auditor::default();
        auditor.attach(ours);
        let receipt = Receipt { seq: Seq(0), leaf: LeafHash([0; 32]) };
        theirs.send(&reply_frame::<ToAuditd>(RequestId(77), &receipt).unwrap(), &[]).unwrap();
        assert!(matches!(auditor.append(record()), Err(AuditError::Violation(_))));
        assert!(matches!(auditor.append(record()), Err(AuditError::Gone)));
    }
}
