//! A client that never waits: questions are posted, answers are collected when the descriptor is readable. For broker,
//! which must go on supervising while the role that it asks is slow, stopped or dead.

use crate::channel::{CallError, Channel, ChannelError, Outgoing, decode_outgoing, frame};
use crate::edge::{Edge, Refusal};
use crate::ids::RequestId;
use crate::topology::Asks;
use crate::wire::Kind;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// The end of one edge, and what was asked on it.
#[derive(Debug)]
pub struct Outbox<E: Edge> {
    channel: Option<Channel>,
    next: u32,
    asked: Vec<RequestId>,
    edge: PhantomData<E>,
}

impl<E: Edge> Outbox<E> {
    /// An outbox without a peer yet.
    #[must_use]
    pub const fn new<R: Asks<E>>(_owner: R) -> Self {
        Self { channel: None, next: 0, asked: Vec::new(), edge: PhantomData }
    }

    /// Uses this end from now on. What was asked on an earlier one is not answered any more.
    pub fn attach(&mut self, channel: Channel) {
        self.channel = Some(channel);
        self.asked.clear();
    }

    /// Gives the end up.
    pub fn detach(&mut self) {
        self.channel = None;
        self.asked.clear();
    }

    /// Readable when an answer is there, for poll; none without a peer.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Asks. `patience` is what the peer is told of how long somebody waits.
    ///
    /// # Errors
    /// [`CallError::Gone`] without a peer, [`CallError::Busy`] where the window or the socket is full: ask again later.
    pub fn post(&mut self, request: &E::Request, patience: Duration) -> Result<RequestId, CallError> {
        let Some(channel) = &self.channel else { return Err(CallError::Gone) };
        if self.asked.len() >= E::WINDOW {
            return Err(CallError::Busy);
        }
        self.next = self.next.wrapping_add(1);
        let id = RequestId(self.next);
        let wait = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        let sent = frame(Kind::Request, id, wait, request, E::MAX_REQUEST)
            .map_err(ChannelError::from)
            .and_then(|packet| channel.send(&packet, &[]));
        match sent {
            Ok(()) => {
                self.asked.push(id);
                Ok(id)
            }
            Err(ChannelError::WouldBlock) => Err(CallError::Busy),
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The next answer that is there; none where none is.
    ///
    /// # Errors
    /// [`CallError::Gone`] or [`CallError::Violation`]; the end is given up then.
    #[expect(clippy::type_complexity, reason = "an answer or a refusal, if there is one, or no peer: each once")]
    pub fn collect(&mut self) -> Result<Option<(RequestId, Result<E::Reply, Refusal>)>, CallError> {
        let Some(channel) = &self.channel else { return Ok(None) };
        let (id, answer) = match channel.recv(E::MAX_REPLY, 0).and_then(decode_outgoing::<E>) {
            Ok(answer) => answer,
            Err(ChannelError::WouldBlock) => return Ok(None),
            Err(error) => return Err(self.fail(error)),
        };
        let Some(at) = self.asked.iter().position(|asked| *asked == id) else {
            return Err(self.fail(ChannelError::Violation("an answer to no question")));
        };
        self.asked.swap_remove(at);
        match answer {
            Outgoing::Reply(reply, _) => Ok(Some((id, Ok(reply)))),
            Outgoing::Refused(refusal) => Ok(Some((id, Err(refusal)))),
            Outgoing::Chunk(_) => Err(self.fail(ChannelError::Violation("a stream nobody asked for"))),
        }
    }

    fn fail(&mut self, error: ChannelError) -> CallError {
        self.detach();
        match error {
            ChannelError::Closed | ChannelError::Os(_) => CallError::Gone,
            violation => CallError::Violation(violation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{AuditRequest, Receipt, Record};
    use crate::bounded::BoundedStr;
    use crate::channel::{Incoming, decode_incoming, refusal_frame, reply_frame};
    use crate::edge::ToAuditd;
    use crate::ids::{LeafHash, Seq};
    use crate::topology::role;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn request() -> AuditRequest {
        let text = BoundedStr::truncated("x");
        AuditRequest::Append(Record::Lifecycle { event: text.clone(), layout: text })
    }

    fn pair() -> (Outbox<ToAuditd>, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut outbox = Outbox::new(role::Broker);
        outbox.attach(ours);
        (outbox, theirs)
    }

    fn receipt(seq: u64) -> Receipt {
        Receipt { seq: Seq(seq), leaf: LeafHash([0; 32]) }
    }

    #[test]
    fn answers_are_collected_in_any_order_and_nothing_waits() {
        let (mut outbox, peer) = pair();
        assert!(outbox.collect().unwrap().is_none());
        let one = outbox.post(&request(), PATIENCE).unwrap();
        let two = outbox.post(&request(), PATIENCE).unwrap();
        assert!(outbox.collect().unwrap().is_none());
        for expected in [one, two] {
            let packet = peer.recv(ToAuditd::MAX_REQUEST, 0).unwrap();
            let Incoming::Request { id, .. } = decode_incoming::<ToAuditd>(packet).unwrap() else {
                panic!("no request")
            };
            assert_eq!(id, expected);
        }
        peer.send(&refusal_frame::<ToAuditd>(two, &Refusal::new("audit.unwritable", "full")).unwrap(), &[]).unwrap();
        peer.send(&reply_frame::<ToAuditd>(one, &receipt(7)).unwrap(), &[]).unwrap();
        let (id, answer) = outbox.collect().unwrap().unwrap();
        assert!(id == two && answer.unwrap_err().rule.as_str() == "audit.unwritable");
        let (id, answer) = outbox.collect().unwrap().unwrap();
        assert!(id == one && answer.unwrap() == receipt(7));
    }

    #[test]
    fn answer_to_no_question_ends_the_edge() {
        let (mut outbox, peer) = pair();
        let id = outbox.post(&request(), PATIENCE).unwrap();
        peer.send(&reply_frame::<ToAuditd>(RequestId(id.0 + 1), &receipt(0)).unwrap(), &[]).unwrap();
        assert!(matches!(outbox.collect(), Err(CallError::Violation(_))));
        assert!(outbox.fd().is_none() && matches!(outbox.post(&request(), PATIENCE), Err(CallError::Gone)));
    }

    #[test]
    fn full_window_is_busy_and_a_dead_peer_is_gone() {
        let (mut outbox, peer) = pair();
        let posted = std::iter::repeat_with(|| outbox.post(&request(), PATIENCE)).take_while(Result::is_ok).count();
        assert!((1..=ToAuditd::WINDOW).contains(&posted));
        assert!(matches!(outbox.post(&request(), PATIENCE), Err(CallError::Busy)));
        drop(peer);
        assert!(matches!(outbox.collect(), Err(CallError::Gone)));
    }
}
