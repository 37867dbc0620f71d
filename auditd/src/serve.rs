//! The loop: one round takes everything that can be read from every edge, appends it per stream with one write and one
//! fdatasync, and then answers all. The batch's size adapts by itself, without a timer. Checkpoints and new keys, which
//! nobody waits for, come between rounds.
//!
//! Every edge is hostile. A peer that breaks the protocol loses its edge and is reported; one that does not read its
//! answers as well, so that nobody can make the log wait for him.

use crate::file::AppendError;
use crate::journal::Journal;
use crate::record::Source;
use crate::state;
use crate::witness::Witness;
use confine::startup::{Control, Sealed, StartError};
use proto::audit::{AuditRequest, Receipt, Record, Stream};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError, Incoming, decode_incoming, refusal_frame, reply_frame};
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::edge::{Edge, Refusal, ToAuditd};
use proto::exit::Exit;
use proto::ids::{Epoch, RequestId, Role};
use proto::topology::{EdgeId, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Bytes of a log in one answer to an operator.
const READ: usize = 49_152;

/// Serves until broker says stop, or is gone.
///
/// # Errors
/// [`StartError`]: integrity where a file changed under us, internal where the machine fails.
pub fn serve(_walls: &Sealed, control: &Control, mut journal: Journal) -> Result<Exit, StartError> {
    let gone = |error: ChannelError| StartError::internal(format!("control channel: {error}"));
    let mut edges = Edges::default();
    control.send(&FromRole::Ready).map_err(gone)?;
    loop {
        let due = [journal.due_in(), edges.witness.due_in(&journal)].into_iter().flatten().min();
        let spoke = edges.wait(control, due).map_err(|errno| StartError::internal(format!("poll: {errno}")))?;
        let stop = spoke.broker
            && loop {
                match control.recv() {
                    Ok((message, fds)) => match on_control(message, fds, &mut edges, &mut journal)? {
                        Next::Answer(answer) => control.send(&answer).map_err(gone)?,
                        Next::Nothing => {}
                        Next::Stop => break true,
                    },
                    Err(ChannelError::WouldBlock) => break false,
                    Err(ChannelError::Closed) => return Ok(Exit::BrokerGone),
                    Err(error) => return Err(gone(error)),
                }
            };
        // The last round takes from every edge what was sent before broker's word.
        let ready = if stop { edges.all() } else { spoke.writers };
        for violated in edges.round(&ready, &mut journal)? {
            control.send(&violated).map_err(gone)?;
        }
        if let Err(error) = edges.witness.turn(&mut journal, spoke.vault || stop)
            && error.is_violation()
        {
            control.send(&violated(EdgeId::VaultWitness, &error)).map_err(gone)?;
        }
        if stop {
            // The records are durable already; what fails here costs only their last checkpoint.
            let _ = journal.close();
            return Ok(Exit::Ok);
        }
        journal.tick().map_err(StartError::integrity)?;
    }
}

/// What follows from a word of broker.
#[derive(Debug)]
enum Next {
    Answer(FromRole),
    Nothing,
    Stop,
}

fn on_control(
    message: ToRole,
    fds: Vec<OwnedFd>,
    edges: &mut Edges,
    journal: &mut Journal,
) -> Result<Next, StartError> {
    Ok(match message {
        ToRole::Grant { edge: EdgeId::VaultWitness, side: Side::Server, peer } => match <[OwnedFd; 1]>::try_from(fds) {
            Ok([fd]) => {
                edges.witness.grant(Channel::from_fd(fd), peer);
                Next::Nothing
            }
            Err(_) => return Err(StartError::internal("broker granted an edge without its end")),
        },
        ToRole::Grant { edge, side: Side::Server, peer } => match (writer(edge), <[OwnedFd; 1]>::try_from(fds)) {
            (Some(role), Ok([fd])) => {
                edges.grant(Peer { edge, role, epoch: peer, channel: Channel::from_fd(fd) });
                Next::Nothing
            }
            _ => return Err(StartError::internal("broker granted an edge that is not auditd's")),
        },
        ToRole::Ping(number) => Next::Answer(FromRole::Pong(number)),
        ToRole::Admin(number, request) => Next::Answer(FromRole::Admin(number, on_admin(&request, journal))),
        // The log goes on: an incident is when it is wanted.
        ToRole::Freeze { .. } => Next::Answer(FromRole::Frozen {
            sessions: BoundedVec::default(),
            detail: BoundedStr::truncated("the log goes on"),
        }),
        ToRole::Thaw => Next::Nothing,
        ToRole::Drain => Next::Answer(FromRole::Drained),
        ToRole::Stop => Next::Stop,
        ToRole::Configure { .. } | ToRole::Attested | ToRole::Grant { .. } | ToRole::Quarantine(_) => {
            return Err(StartError::internal("a word of broker that is out of order"));
        }
    })
}

/// Who writes on an edge, if it is one of ours.
fn writer(edge: EdgeId) -> Option<Role> {
    edge.wire().filter(|wire| wire.server == Role::Auditd).map(|wire| wire.client)
}

fn on_admin(request: &AdminRequest, journal: &mut Journal) -> Result<AdminReply, Refusal> {
    match request {
        AdminRequest::LogHeads => Ok(AdminReply::LogHeads(BoundedVec::new(journal.heads()).unwrap_or_default())),
        AdminRequest::Checkpoint => {
            let signed = journal.checkpoint();
            signed.map_err(|error| Refusal::new("audit.unwritable", &error.to_string()))?;
            Ok(AdminReply::LogHeads(BoundedVec::new(journal.heads()).unwrap_or_default()))
        }
        AdminRequest::ReadLog { stream, offset } => {
            let (from, bytes) = journal
                .read(*stream, *offset, READ)
                .map_err(|errno| Refusal::new("audit.unreadable", &format!("{}: {errno}", stream.name())))?;
            Ok(AdminReply::LogBytes { from, bytes: BoundedBytes::new(bytes).unwrap_or_default() })
        }
        AdminRequest::RevealGatewayToken { .. }
        | AdminRequest::Vault { .. }
        | AdminRequest::Standing
        | AdminRequest::DescribeSandbox
        | AdminRequest::Sandbox(_)
        | AdminRequest::AttachOperator => Err(Refusal::new("audit.not_mine", "auditd answers for the log only")),
    }
}

/// One edge, open.
#[derive(Debug)]
struct Peer {
    edge: EdgeId,
    role: Role,
    epoch: Epoch,
    channel: Channel,
}

/// A record that waits for this round's commit.
#[derive(Debug)]
struct Pending {
    edge: EdgeId,
    id: RequestId,
    source: Source,
    record: Record,
}

/// Who has something to say: nobody else is asked, because a question to the kernel costs what a tenth of a record does.
#[derive(Debug)]
struct Spoke {
    broker: bool,
    writers: Vec<EdgeId>,
    /// On the edge on which it witnesses.
    vault: bool,
}

/// Every edge there is now.
#[derive(Debug, Default)]
pub struct Edges {
    peers: Vec<Peer>,
    witness: Witness,
}

impl Edges {
    fn grant(&mut self, new: Peer) {
        self.peers.retain(|peer| peer.edge != new.edge);
        self.peers.push(new);
    }

    fn all(&self) -> Vec<EdgeId> {
        self.peers.iter().map(|peer| peer.edge).collect()
    }

    /// Waits for a word of broker or of a peer, or until something else is due.
    fn wait(&self, control: &Control, due_in: Option<Duration>) -> Result<Spoke, Errno> {
        let mut fds = vec![PollFd::new(control, PollFlags::IN)];
        fds.extend(self.witness.channel().map(|channel| PollFd::new(channel, PollFlags::IN)));
        let fixed = fds.len();
        fds.extend(self.peers.iter().map(|peer| PollFd::new(&peer.channel, PollFlags::IN)));
        let timeout = due_in.and_then(|wait| Timespec::try_from(wait).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let mut spoke = fds.iter().map(|fd| !fd.revents().is_empty());
        let broker = spoke.next().unwrap_or_default();
        let vault = fixed > 1 && spoke.next().unwrap_or_default();
        let writers = spoke.zip(&self.peers).filter(|(spoke, _)| *spoke).map(|(_, peer)| peer.edge).collect();
        Ok(Spoke { broker, writers, vault })
    }

    /// Takes what the edges `ready` hold, commits it, answers it. Returns the violations to report.
    fn round(&mut self, ready: &[EdgeId], journal: &mut Journal) -> Result<Vec<FromRole>, StartError> {
        let mut reports = Vec::new();
        let mut batch = Vec::new();
        for edge in ready {
            if let Err(error) = self.take(*edge, &mut batch) {
                self.close(*edge, &error, &mut reports);
            }
        }
        for stream in Stream::ALL {
            let pending: Vec<&Pending> = batch.iter().filter(|pending| pending.record.stream() == stream).collect();
            if pending.is_empty() {
                continue;
            }
            let records: Vec<_> = pending.iter().map(|pending| (pending.source, &pending.record)).collect();
            let outcome = journal.append(stream, &records);
            self.answer(&pending, &outcome, &mut reports);
            match outcome {
                Err(error) if error.is_final() => return Err(StartError::integrity(error)),
                // Said to every writer; what it means is theirs to decide, and theirs to say to a person.
                Err(_) | Ok(_) => {}
            }
        }
        Ok(reports)
    }

    /// Reads one edge empty, up to its window.
    fn take(&self, edge: EdgeId, batch: &mut Vec<Pending>) -> Result<(), ChannelError> {
        let Some(peer) = self.peers.iter().find(|peer| peer.edge == edge) else { return Ok(()) };
        let mut taken = 0;
        loop {
            let packet = match peer.channel.recv(ToAuditd::MAX_REQUEST, ToAuditd::REQUEST_FDS) {
                Err(ChannelError::WouldBlock) => return Ok(()),
                other => other?,
            };
            match decode_incoming::<ToAuditd>(packet)? {
                Incoming::Request { id, request: AuditRequest::Append(record), deadline: _, fds: _ } => {
                    state::admit(peer.role, &record)
                        .map_err(|_| ChannelError::Violation("a record that is not the writer's to write"))?;
                    taken += 1;
                    if taken > ToAuditd::WINDOW {
                        return Err(ChannelError::Violation("more requests than the window"));
                    }
                    let source = Source { role: peer.role, epoch: Some(peer.epoch), request: Some(id) };
                    batch.push(Pending { edge, id, source, record });
                }
                // What was asked to be written is written; the answer comes all the same.
                Incoming::Cancel { .. } => {}
                Incoming::Credit { .. } => return Err(ChannelError::Violation("credit on an edge without streams")),
            }
        }
    }

    fn answer(
        &mut self,
        pending: &[&Pending],
        outcome: &Result<Vec<Receipt>, AppendError>,
        reports: &mut Vec<FromRole>,
    ) {
        for (at, pending) in pending.iter().enumerate() {
            let Some(peer) = self.peers.iter().find(|peer| peer.edge == pending.edge) else { continue };
            let frame = match outcome {
                Ok(receipts) => match receipts.get(at) {
                    Some(receipt) => reply_frame::<ToAuditd>(pending.id, receipt),
                    None => continue,
                },
                Err(error) => refusal_frame::<ToAuditd>(pending.id, &unwritable(error)),
            };
            let sent = frame.map_err(ChannelError::from).and_then(|frame| peer.channel.send(&frame, &[]));
            if let Err(error) = sent {
                let error = match error {
                    ChannelError::WouldBlock => ChannelError::Violation("a peer that does not read its answers"),
                    other => other,
                };
                self.close(pending.edge, &error, reports);
            }
        }
    }

    /// Drops an edge; reports its peer where the peer is at fault.
    fn close(&mut self, edge: EdgeId, error: &ChannelError, reports: &mut Vec<FromRole>) {
        self.peers.retain(|peer| peer.edge != edge);
        if error.is_violation() {
            reports.push(violated(edge, error));
        }
    }
}

/// What a writer is told whose record is not in the log.
pub(crate) fn unwritable(error: &AppendError) -> Refusal {
    let why = format!("the audit log cannot be written ({error}); nothing is done that cannot be recorded");
    Refusal::new("audit.unwritable", &why)
}

fn violated(edge: EdgeId, error: &ChannelError) -> FromRole {
    let cause = std::error::Error::source(error);
    let detail = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    FromRole::Violated { edge, detail: BoundedStr::truncated(&detail) }
}
