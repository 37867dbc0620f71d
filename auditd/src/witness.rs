//! auditd's end of the edge on which the vault witnesses the log. Its one client may wait: then it is answered when a stream
//! has grown, but not more than once a second, because each answer costs the vault a write of its store.
//!
//! The vault is hostile like every peer. A cosignature is checked before it is written; what the vault says that it
//! remembers decides what is proved to it and nothing else.

use crate::journal::Journal;
use crate::record::Source;
use proto::bounded::BoundedVec;
use proto::channel::{Channel, ChannelError, Incoming, decode_incoming, refusal_frame, reply_frame};
use proto::edge::{Edge, Refusal, VaultWitness};
use proto::ids::{Epoch, RequestId, Role};
use proto::witness::{Cosignature, Fingerprint, Known, WitnessReply, WitnessRequest};
use std::time::{Duration, Instant};

/// Time between two answers to a vault that waits.
const CADENCE: Duration = Duration::from_secs(1);

/// Secrets whose fingerprints are taken at most: more than a store of 1 MiB can hold.
const MAX_SECRETS: usize = 16_384;

/// A question that waits for the log to grow.
#[derive(Debug)]
struct Waiting {
    id: RequestId,
    known: BoundedVec<Known, 4>,
}

/// The edge, and who waits on it.
#[derive(Debug, Default)]
pub struct Witness {
    peer: Option<(Channel, Epoch)>,
    waiting: Option<Waiting>,
    answered: Option<Instant>,
    /// Fingerprints of secrets that have come and are not all.
    coming: Vec<Fingerprint>,
}

impl Witness {
    /// Uses this end from now on.
    pub fn grant(&mut self, channel: Channel, epoch: Epoch) {
        *self = Self { peer: Some((channel, epoch)), ..Self::default() };
    }

    /// The end, for poll.
    #[must_use]
    pub fn channel(&self) -> Option<&Channel> {
        self.peer.as_ref().map(|(channel, _)| channel)
    }

    /// How long until the waiting question is to be answered; none where nothing is to be said.
    #[must_use]
    pub fn due_in(&self, journal: &Journal) -> Option<Duration> {
        let waiting = self.waiting.as_ref()?;
        if journal.grown(&waiting.known).is_empty() {
            return None;
        }
        Some(self.answered.map_or(Duration::ZERO, |answered| CADENCE.saturating_sub(answered.elapsed())))
    }

    /// Answers what was asked where it `spoke`, and what waits where that is due.
    ///
    /// # Errors
    /// What the peer did: its end is closed then. A violation is to be reported.
    pub fn turn(&mut self, journal: &mut Journal, spoke: bool) -> Result<(), ChannelError> {
        let taken = if spoke { self.take(journal) } else { Ok(()) };
        let outcome = taken.and_then(|()| self.tell(journal));
        if outcome.is_err() {
            *self = Self::default();
        }
        outcome
    }

    fn take(&mut self, journal: &mut Journal) -> Result<(), ChannelError> {
        for _ in 0..=VaultWitness::WINDOW {
            let Some((channel, epoch)) = &self.peer else { return Ok(()) };
            let packet = match channel.recv(VaultWitness::MAX_REQUEST, VaultWitness::REQUEST_FDS) {
                Err(ChannelError::WouldBlock) => return Ok(()),
                other => other?,
            };
            match decode_incoming::<VaultWitness>(packet)? {
                Incoming::Request { id, request, deadline: _, fds: _ } => {
                    let source = Source { role: Role::Vault, epoch: Some(*epoch), request: Some(id) };
                    if let Some(answer) = self.on_request(journal, source, id, request)? {
                        self.send(id, answer)?;
                    }
                }
                Incoming::Cancel { id } => self.waiting = self.waiting.take().filter(|waiting| waiting.id != id),
                Incoming::Credit { .. } => return Err(ChannelError::Violation("credit on an edge without streams")),
            }
        }
        Ok(())
    }

    fn on_request(
        &mut self,
        journal: &mut Journal,
        source: Source,
        id: RequestId,
        request: WitnessRequest,
    ) -> Result<Option<Result<WitnessReply, Refusal>>, ChannelError> {
        match request {
            WitnessRequest::Store(step, state) => {
                let written = journal.store(source, step, state).map(|()| WitnessReply::Written);
                Ok(Some(written.map_err(|error| crate::serve::unwritable(&error))))
            }
            WitnessRequest::Know { key, secrets, more } => {
                if self.coming.len() > MAX_SECRETS {
                    return Err(ChannelError::Violation("more secrets than a store can hold"));
                }
                self.coming.extend(secrets.into_vec());
                if !more {
                    journal.know(key, std::mem::take(&mut self.coming));
                }
                Ok(Some(Ok(WitnessReply::Noted)))
            }
            WitnessRequest::Look { cosigner, known, cosigned, wait } => {
                let forged = ChannelError::Violation("a cosignature that is none");
                journal.meet(&cosigner).map_err(|_| ChannelError::Violation("a cosigner's key that is none"))?;
                let take = |one: &Cosignature| journal.take_cosignature(&cosigner, one);
                if !cosigned.iter().all(take) {
                    return Err(forged);
                }
                known.iter().for_each(|known| journal.remembered(*known));
                if !wait {
                    return Ok(Some(look(journal, &known, false)));
                }
                if self.waiting.replace(Waiting { id, known }).is_some() {
                    return Err(ChannelError::Violation("two questions that wait"));
                }
                Ok(None)
            }
        }
    }

    fn tell(&mut self, journal: &mut Journal) -> Result<(), ChannelError> {
        if self.due_in(journal) != Some(Duration::ZERO) {
            return Ok(());
        }
        let Some(waiting) = self.waiting.take() else { return Ok(()) };
        self.answered = Some(Instant::now());
        let answer = look(journal, &waiting.known, true);
        self.send(waiting.id, answer)
    }

    fn send(&self, id: RequestId, answer: Result<WitnessReply, Refusal>) -> Result<(), ChannelError> {
        let Some((channel, _)) = &self.peer else { return Ok(()) };
        let frame = match answer {
            Ok(reply) => reply_frame::<VaultWitness>(id, &reply)?,
            Err(refusal) => refusal_frame::<VaultWitness>(id, &refusal)?,
        };
        channel.send(&frame, &[]).map_err(|error| match error {
            ChannelError::WouldBlock => ChannelError::Violation("a peer that does not read its answers"),
            other => other,
        })
    }
}

/// The streams that have grown, or all, and what the log says of the store.
fn look(journal: &mut Journal, known: &[Known], only_grown: bool) -> Result<WitnessReply, Refusal> {
    let seen = journal.look(known, only_grown);
    let unread = |errno| Refusal::new("audit.unreadable", &format!("the log cannot be read: {errno}"));
    let (commitments, heads) = seen.map_err(unread)?;
    Ok(WitnessReply::Seen {
        committed: commitments.committed,
        intended: commitments.intended,
        heads: BoundedVec::new(heads).unwrap_or_default(),
    })
}
