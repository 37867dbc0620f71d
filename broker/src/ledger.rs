//! Broker's records on their way to auditd. Supervision cannot wait for the log that it supervises, so records are posted and
//! their receipts collected when they come; what must be durable before it happens is handed back when it is.

use proto::audit::{AuditRequest, Record};
use proto::channel::{CallError, Channel};
use proto::edge::{Refusal, ToAuditd};
use proto::ids::RequestId;
use proto::outbox::Outbox;
use proto::topology::role;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long auditd may take for a record that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(1);
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

/// The records that auditd has not acknowledged.
#[derive(Debug)]
pub struct Ledger<T> {
    auditd: Outbox<ToAuditd>,
    entries: VecDeque<Entry<T>>,
}

impl<T> Default for Ledger<T> {
    fn default() -> Self {
        Self { auditd: Outbox::new(role::Broker), entries: VecDeque::new() }
    }
}

impl<T> Ledger<T> {
    /// Uses this edge from now on. What an earlier auditd did not acknowledge is posted again, unless somebody waits for it:
    /// that one was told, or will be, that it is not known to be recorded.
    pub fn attach(&mut self, channel: Channel) {
        self.auditd.attach(channel);
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
            eprintln!("broker: a record was lost while auditd was away");
        }
        self.entries.push_back(Entry { record, posted: None, then: None });
        self.post();
    }

    /// Has a record written before something is done; [`Ledger::settle`] hands `then` back.
    pub fn ask(&mut self, record: Record, then: T) {
        self.entries.push_back(Entry { record, posted: None, then: Some((then, Instant::now() + PATIENCE)) });
        self.post();
    }

    /// What was waited for: recorded, or refused with the reason.
    pub fn settle(&mut self) -> Vec<(T, Result<(), Refusal>)> {
        let mut settled = Vec::new();
        loop {
            match self.auditd.collect() {
                Ok(Some((id, answer))) => self.on_answer(id, answer.map(|_| ()), &mut settled),
                Ok(None) => break,
                Err(error) => {
                    eprintln!("broker: auditd: {error}");
                    self.forget_posted();
                }
            }
        }
        self.post();
        let now = Instant::now();
        let away = self.auditd.fd().is_none();
        let is_lost = |entry: &Entry<T>| entry.then.as_ref().is_some_and(|(_, until)| away || *until <= now);
        while let Some(at) = self.entries.iter().position(is_lost) {
            let error = if away { CallError::Gone } else { CallError::Deadline };
            settled.extend(self.entries.remove(at).and_then(|entry| entry.then).map(|(then, _)| (then, Err(unwritten(&error)))));
        }
        settled
    }

    fn on_answer(&mut self, id: RequestId, answer: Result<(), Refusal>, settled: &mut Vec<(T, Result<(), Refusal>)>) {
        // A receipt that comes after its waiter gave up is nobody's.
        let Some(at) = self.entries.iter().position(|entry| entry.posted == Some(id)) else { return };
        let Some(mut entry) = self.entries.remove(at) else { return };
        match (answer, entry.then.take()) {
            (answer, Some((then, _))) => settled.push((then, answer.map_err(|refusal| unwritten(&refusal.into())))),
            (Ok(()), None) => {}
            (Err(refusal), None) => {
                // The next look at the clock posts it again.
                eprintln!("broker: auditd took no record: {refusal}");
                entry.posted = None;
                self.entries.insert(at, entry);
            }
        }
    }

    fn post(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.posted.is_none()) {
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
