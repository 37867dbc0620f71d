//! Broker's records on their way to auditd. Supervision cannot wait for the log that it supervises, so records are posted and
//! their receipts collected when they come; what must be durable before it happens is handed back when it is.

use crate::log::{self, Priority};
use proto::audit::{AuditRequest, Record};
use proto::channel::{CallError, Channel, ChannelError};
use proto::edge::{Refusal, ToAuditd};
use proto::ids::RequestId;
use proto::outbox::Outbox;
use proto::topology::role;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// What auditd is told of how long somebody waits.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause before a record that auditd could not take is offered again.
const AGAIN: Duration = Duration::from_secs(1);
/// Records kept while auditd is away; the oldest would be lost first, and that is said.
const MAX_HELD: usize = 1024;

/// A record, and what waits for it.
#[derive(Debug)]
struct Entry<T> {
    record: Record,
    posted: Option<RequestId>,
    /// What is done once it is durable, and until when. A record that nothing waits for is kept until auditd takes it.
    then: Option<(T, Instant)>,
}

/// What waited for a record, and what came of it.
pub type Settled<T> = (T, Result<(), Refusal>);

/// The records that auditd has not acknowledged.
#[derive(Debug)]
pub struct Ledger<T> {
    auditd: Outbox<ToAuditd>,
    entries: VecDeque<Entry<T>>,
    refused: Option<Instant>,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self { auditd: Outbox::new(role::Broker), entries: VecDeque::new(), refused: None }
    }
}

impl<T> Ledger<T> {
    /// Uses this edge from now on. What an earlier auditd did not acknowledge is posted again: it may stand in the log twice,
    /// and it is not missing.
    pub fn attach(&mut self, channel: Channel) {
        self.auditd.attach(channel);
        self.refused = None;
        self.forget_posted();
        self.post();
    }

    /// auditd is gone.
    pub fn detach(&mut self) {
        self.auditd.detach();
        self.forget_posted();
    }

    /// Readable when receipts are there; none while auditd is away.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.auditd.fd()
    }

    /// When the first wait is over.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.entries.iter().filter_map(|entry| entry.then.as_ref().map(|(_, until)| *until)).min()
    }

    /// Keeps a record until auditd takes it.
    pub fn keep(&mut self, record: Record) {
        if self.entries.len() >= MAX_HELD {
            self.entries.pop_front();
            log::broker(Priority::Alert, "a record was lost while auditd was away");
        }
        self.entries.push_back(Entry { record, posted: None, then: None });
        self.post();
    }

    /// Has a record written before something is done; [`Ledger::settle`] hands `then` back, after `patience` at the latest.
    pub fn ask(&mut self, record: Record, then: T, patience: Duration) {
        self.entries.push_back(Entry { record, posted: None, then: Some((then, Instant::now() + patience)) });
        self.post();
    }

    /// What was waited for: recorded, or refused with the reason; and what auditd did, where it broke the protocol.
    pub fn settle(&mut self) -> (Vec<Settled<T>>, Option<ChannelError>) {
        let (mut settled, mut violated) = (Vec::new(), None);
        loop {
            match self.auditd.collect() {
                Ok(Some((id, answer))) => self.on_answer(id, answer.map(|_| ()), &mut settled),
                Ok(None) => break,
                Err(error) => {
                    self.forget_posted();
                    if let CallError::Violation(violation) = error {
                        violated = Some(violation);
                    }
                }
            }
        }
        self.post();
        let now = Instant::now();
        let is_late = |entry: &Entry<T>| entry.then.as_ref().is_some_and(|(_, until)| *until <= now);
        while let Some(at) = self.entries.iter().position(is_late) {
            let late = self.entries.remove(at).and_then(|entry| entry.then);
            settled.extend(late.map(|(then, _)| (then, Err(unwritten(&CallError::Deadline)))));
        }
        (settled, violated)
    }

    fn on_answer(&mut self, id: RequestId, answer: Result<(), Refusal>, settled: &mut Vec<Settled<T>>) {
        // A receipt that comes after its waiter gave up is nobody's.
        let Some(at) = self.entries.iter().position(|entry| entry.posted == Some(id)) else { return };
        let Some(mut entry) = self.entries.remove(at) else { return };
        match (answer, entry.then.take()) {
            (answer, Some((then, _))) => settled.push((then, answer.map_err(|refusal| unwritten(&refusal.into())))),
            (Ok(()), None) => {}
            (Err(refusal), None) => {
                log::broker(Priority::Warning, &format!("auditd took no record: {refusal}"));
                self.refused = Some(Instant::now());
                entry.posted = None;
                self.entries.insert(at, entry);
            }
        }
    }

    fn post(&mut self) {
        // A disk that is full stays so for a while; who waits is told at once all the same.
        let pause = self.refused.is_some_and(|refused| refused.elapsed() < AGAIN);
        for entry in self.entries.iter_mut().filter(|entry| entry.posted.is_none() && !(pause && entry.then.is_none()))
        {
            match self.auditd.post(&AuditRequest::Append(entry.record.clone()), PATIENCE) {
                Ok(id) => entry.posted = Some(id),
                Err(_) => return,
            }
        }
    }

    fn forget_posted(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.posted = None);
    }
}

fn unwritten(error: &CallError) -> Refusal {
    Refusal::new("audit.unwritable", &format!("it could not be recorded, so it was not carried out: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::audit::Receipt;
    use proto::bounded::BoundedStr;
    use proto::channel::{Incoming, decode_incoming, refusal_frame, reply_frame};
    use proto::edge::Edge;
    use proto::ids::{LeafHash, Seq};

    const LONG: Duration = Duration::from_secs(60);

    fn record(event: &str) -> Record {
        Record::Lifecycle { event: BoundedStr::truncated(event), layout: BoundedStr::truncated("single-uid") }
    }

    fn pair() -> (Ledger<u8>, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut ledger = Ledger::default();
        ledger.attach(ours);
        (ledger, theirs)
    }

    /// The next record that was posted, answered.
    fn answer(auditd: &Channel, refused: bool) -> Record {
        let packet = auditd.recv(ToAuditd::MAX_REQUEST, 0).unwrap();
        let Incoming::Request { id, request: AuditRequest::Append(record), .. } =
            decode_incoming::<ToAuditd>(packet).unwrap()
        else {
            panic!("no record")
        };
        let receipt = Receipt { seq: Seq(0), leaf: LeafHash([0; 32]) };
        let packet = if refused {
            refusal_frame::<ToAuditd>(id, &Refusal::new("audit.unwritable", "no space"))
        } else {
            reply_frame::<ToAuditd>(id, &receipt)
        };
        auditd.send(&packet.unwrap(), &[]).unwrap();
        record
    }

    #[test]
    fn what_waits_is_handed_back_when_it_is_durable_and_not_before() {
        let (mut ledger, auditd) = pair();
        ledger.ask(record("down"), 7, LONG);
        assert!(ledger.settle().0.is_empty());
        assert_eq!(answer(&auditd, false), record("down"));
        let (settled, violated) = ledger.settle();
        assert!(violated.is_none() && matches!(settled.as_slice(), [(7, Ok(()))]));
        assert!(ledger.settle().0.is_empty());
    }

    #[test]
    fn what_cannot_be_recorded_is_refused_and_what_takes_too_long_too() {
        let (mut ledger, auditd) = pair();
        ledger.ask(record("one"), 1, LONG);
        answer(&auditd, true);
        ledger.ask(record("two"), 2, Duration::ZERO);
        let settled = ledger.settle().0;
        assert!(settled.iter().all(|(_, outcome)| outcome.as_ref().unwrap_err().rule.as_str() == "audit.unwritable"));
        assert_eq!(settled.iter().map(|(then, _)| *then).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn record_outlives_an_auditd_that_did_not_acknowledge_it() {
        let (mut ledger, auditd) = pair();
        ledger.keep(record("kept"));
        drop(auditd);
        assert!(ledger.settle().0.is_empty() && ledger.fd().is_none());
        let (ours, theirs) = Channel::pair().unwrap();
        ledger.attach(ours);
        assert_eq!(answer(&theirs, false), record("kept"));
        ledger.settle();
        assert!(theirs.recv(ToAuditd::MAX_REQUEST, 0).is_err(), "it is posted once to each");
    }

    #[test]
    fn refused_record_is_kept_and_does_not_hold_up_who_waits() {
        let (mut ledger, auditd) = pair();
        ledger.keep(record("kept"));
        answer(&auditd, true);
        ledger.settle();
        ledger.ask(record("verb"), 3, LONG);
        assert_eq!(answer(&auditd, false), record("verb"));
        assert!(matches!(ledger.settle().0.as_slice(), [(3, Ok(()))]));
        ledger.refused = None;
        ledger.settle();
        assert_eq!(answer(&auditd, false), record("kept"));
    }

    #[test]
    fn auditd_that_breaks_the_protocol_is_named() {
        let (mut ledger, auditd) = pair();
        auditd.send(b"nonsense", &[]).unwrap();
        assert!(ledger.settle().1.is_some());
    }
}
