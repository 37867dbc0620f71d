//! One end of a SEQPACKET socket pair: whole packets in, whole packets out, descriptors only where the caller said so.
//!
//! A cut packet (`MSG_TRUNC`), a descriptor nobody expects and an empty read all end the channel: the first two are
//! violations, the last is the peer's end (an empty packet is never sent, so 0 bytes always means closed).

use crate::edge::{Edge, Refusal};
use crate::ids::RequestId;
use crate::topology::Asks;
use crate::wire::{self, Frame, Header, Kind, WireError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};
use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use zeroize::{Zeroize as _, Zeroizing};

thread_local! {
    /// Where packets land before their size is known: a buffer of an edge's cap, zeroed for each, costs more than the call.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Descriptors in one packet at most, on any channel.
const MAX_FDS: usize = 4;

/// What ended a channel, or kept a packet from it.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The peer's end is closed.
    #[error("peer closed the channel")]
    Closed,
    /// The peer broke the protocol. The channel must be dropped and the peer reported.
    #[error("protocol violation: {0}")]
    Violation(&'static str),
    /// The peer sent what does not decode; a violation as well.
    #[error("protocol violation")]
    Wire(#[from] WireError),
    /// Nothing to read, or no room to write, right now.
    #[error("would block")]
    WouldBlock,
    /// The deadline passed.
    #[error("deadline passed")]
    Deadline,
    /// The kernel said no.
    #[error("socket")]
    Os(#[source] Errno),
}

impl ChannelError {
    /// True where the peer, not the machine, is at fault.
    #[must_use]
    pub const fn is_violation(&self) -> bool {
        matches!(self, Self::Violation(_) | Self::Wire(_))
    }
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => Self::WouldBlock,
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            other => Self::Os(other),
        }
    }
}

/// A packet as it came.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes, at least one.
    pub bytes: Frame,
    /// Its descriptors, exactly or at most as many as the caller allowed.
    pub fds: Vec<OwnedFd>,
}

/// One end of a pair.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

impl Channel {
    /// Both ends of a new pair, non-blocking and closed on exec.
    ///
    /// # Errors
    /// What `socketpair(2)` says.
    pub fn pair() -> Result<(Self, Self), Errno> {
        let (a, b) = Self::pair_fds()?;
        Ok((Self { fd: a }, Self { fd: b }))
    }

    /// The same as bare descriptors, for handing on.
    ///
    /// # Errors
    /// What `socketpair(2)` says.
    pub fn pair_fds() -> Result<(OwnedFd, OwnedFd), Errno> {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
    }

    /// Takes a descriptor that is an end of a pair.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Gives the descriptor up.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends one packet, with `fds` attached.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`] where the socket's buffer is full, [`ChannelError::Closed`], [`ChannelError::Os`].
    pub fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        debug_assert!(!packet.is_empty() && fds.len() <= MAX_FDS);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ChannelError::Os(Errno::INVAL));
        }
        loop {
            match sendmsg(&self.fd, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives one packet of at most `cap` bytes with at most `max_fds` descriptors.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`], [`ChannelError::Closed`], or a violation.
    pub fn recv(&self, cap: usize, max_fds: usize) -> Result<Packet, ChannelError> {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < cap {
                *scratch = vec![0; cap];
            }
            self.recv_in(scratch.get_mut(..cap).unwrap_or_default(), max_fds)
        })
    }

    /// Receives by way of `room`, in which nothing of the packet stays behind.
    fn recv_in(&self, room: &mut [u8], max_fds: usize) -> Result<Packet, ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        // Without a control buffer the kernel drops descriptors that come anyway and says so: they never enter our table.
        let mut control =
            if max_fds == 0 { RecvAncillaryBuffer::default() } else { RecvAncillaryBuffer::new(&mut space) };
        let message = loop {
            match recvmsg(&self.fd, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message,
                // A peer that ends with packets unread resets, once; what it had sent before is still here to be read.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(errno.into()),
            }
        };
        let packet = room.get_mut(..message.bytes).unwrap_or_default();
        let bytes = Zeroizing::new(packet.to_vec());
        packet.zeroize();
        let mut fds = Vec::new();
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = item {
                fds.extend(rights);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(ChannelError::Violation("descriptors that were not asked for"));
        }
        if message.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(ChannelError::Violation("packet over the cap of its edge"));
        }
        if fds.len() > max_fds {
            return Err(ChannelError::Violation("more descriptors than the edge allows"));
        }
        Ok(Packet { bytes, fds })
    }

    /// Waits until the channel can be read, or `deadline`.
    ///
    /// # Errors
    /// [`ChannelError::Deadline`], [`ChannelError::Os`].
    pub fn wait_readable(&self, deadline: Instant) -> Result<(), ChannelError> {
        self.wait(PollFlags::IN, deadline)
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> Result<(), ChannelError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            match poll(&mut [PollFd::new(&self.fd, flags)], Some(&timeout)) {
                Ok(0) => return Err(ChannelError::Deadline),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ChannelError::Os(errno)),
            }
        }
    }

    /// [`Channel::send`], waiting for room until `deadline`.
    ///
    /// # Errors
    /// As `send`, and [`ChannelError::Deadline`].
    pub fn send_by(&self, packet: &[u8], fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<(), ChannelError> {
        loop {
            match self.send(packet, fds) {
                Err(ChannelError::WouldBlock) => self.wait(PollFlags::OUT, deadline)?,
                other => return other,
            }
        }
    }

    /// [`Channel::recv`], waiting until `deadline`.
    ///
    /// # Errors
    /// As `recv`, and [`ChannelError::Deadline`].
    pub fn recv_by(&self, cap: usize, max_fds: usize, deadline: Instant) -> Result<Packet, ChannelError> {
        loop {
            match self.recv(cap, max_fds) {
                Err(ChannelError::WouldBlock) => self.wait_readable(deadline)?,
                other => return other,
            }
        }
    }
}

impl Channel {
    /// Sends a one-way message, as the control channels carry.
    ///
    /// # Errors
    /// As [`Channel::send_by`].
    pub fn send_note<T: Serialize>(
        &self,
        note: &T,
        cap: usize,
        fds: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<(), ChannelError> {
        self.send_by(&frame(Kind::Note, RequestId(0), 0, note, cap)?, fds, deadline)
    }

    /// Receives a one-way message, if there is one now.
    ///
    /// # Errors
    /// As [`Channel::recv`]; a violation where it is anything else.
    pub fn recv_note<T: DeserializeOwned>(
        &self,
        cap: usize,
        max_fds: usize,
    ) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        Self::decode_note(self.recv(cap, max_fds)?, cap)
    }

    /// Decodes a one-way message.
    ///
    /// # Errors
    /// A violation.
    pub fn decode_note<T: DeserializeOwned>(packet: Packet, cap: usize) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        match wire::split(&packet.bytes, cap)? {
            (Header { kind: Kind::Note, .. }, body) => Ok((wire::decode(body)?, packet.fds)),
            _ => Err(ChannelError::Violation("a frame that is no note")),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A request as a server sees it.
#[derive(Debug)]
pub enum Incoming<E: Edge> {
    /// Do this, and answer to `id`.
    Request {
        /// Answer to this.
        id: RequestId,
        /// What is asked.
        request: E::Request,
        /// How long the client waits.
        deadline: Duration,
        /// Exactly [`Edge::REQUEST_FDS`] descriptors.
        fds: Vec<OwnedFd>,
    },
    /// So many more bytes of chunks may be sent for `id`.
    Credit {
        /// The request.
        id: RequestId,
        /// Bytes.
        bytes: u32,
    },
    /// The client no longer wants `id`.
    Cancel {
        /// The request.
        id: RequestId,
    },
}

/// Decodes what a client sent.
///
/// # Errors
/// A violation in every case.
pub fn decode_incoming<E: Edge>(packet: Packet) -> Result<Incoming<E>, ChannelError> {
    let (header, body) = wire::split(&packet.bytes, E::MAX_REQUEST)?;
    let wanted = if header.kind == Kind::Request { E::REQUEST_FDS } else { 0 };
    if packet.fds.len() != wanted {
        return Err(ChannelError::Violation("wrong number of descriptors"));
    }
    Ok(match header.kind {
        Kind::Request => Incoming::Request {
            id: header.id,
            request: wire::decode(body)?,
            deadline: Duration::from_millis(u64::from(header.deadline_ms)),
            fds: packet.fds,
        },
        Kind::Credit => Incoming::Credit { id: header.id, bytes: wire::decode(body)? },
        Kind::Cancel => {
            wire::decode::<()>(body)?;
            Incoming::Cancel { id: header.id }
        }
        Kind::Reply | Kind::Refused | Kind::Chunk | Kind::Note => {
            return Err(ChannelError::Violation("frame kind that only a server sends"));
        }
    })
}

/// What a server answered.
#[derive(Debug)]
pub enum Outgoing<E: Edge> {
    /// Carried out; descriptors as the edge allows.
    Reply(E::Reply, Vec<OwnedFd>),
    /// Not carried out.
    Refused(Refusal),
    /// Part of a stream.
    Chunk(E::Chunk),
}

/// Decodes what a server sent.
///
/// # Errors
/// A violation in every case.
pub fn decode_outgoing<E: Edge>(packet: Packet) -> Result<(RequestId, Outgoing<E>), ChannelError> {
    let Packet { bytes, fds } = packet;
    let (header, body) = wire::split(&bytes, E::MAX_REPLY)?;
    if header.kind != Kind::Reply && !fds.is_empty() {
        return Err(ChannelError::Violation("descriptors on a frame that is no reply"));
    }
    let answer = match header.kind {
        Kind::Reply => Outgoing::Reply(wire::decode(body)?, fds),
        Kind::Refused => Outgoing::Refused(wire::decode(body)?),
        Kind::Chunk => Outgoing::Chunk(wire::decode(body)?),
        Kind::Request | Kind::Credit | Kind::Cancel | Kind::Note => {
            return Err(ChannelError::Violation("frame kind that only a client sends"));
        }
    };
    Ok((header.id, answer))
}

/// Encodes any frame; `cap` is the edge's for that direction.
///
/// # Errors
/// [`WireError`]: a bug of the caller.
pub fn frame<T: Serialize>(
    kind: Kind,
    id: RequestId,
    deadline_ms: u16,
    body: &T,
    cap: usize,
) -> Result<Frame, WireError> {
    wire::encode(Header { kind, id, deadline_ms }, body, cap)
}

/// Encodes a reply of edge `E`.
///
/// # Errors
/// [`WireError`].
pub fn reply_frame<E: Edge>(id: RequestId, reply: &E::Reply) -> Result<Frame, WireError> {
    frame(Kind::Reply, id, 0, reply, E::MAX_REPLY)
}

/// Encodes a refusal on edge `E`.
///
/// # Errors
/// [`WireError`].
pub fn refusal_frame<E: Edge>(id: RequestId, refusal: &Refusal) -> Result<Frame, WireError> {
    frame(Kind::Refused, id, 0, refusal, E::MAX_REPLY)
}

/// Why a call brought no reply.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The server understood, and did not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No server: it is dead or being restarted.
    #[error("the peer is not there")]
    Gone,
    /// The deadline passed.
    #[error("the peer did not answer in time")]
    Deadline,
    /// The window of the edge is full.
    #[error("too many requests in flight")]
    Busy,
    /// The server broke the protocol; its edge is closed.
    #[error("the peer broke the protocol")]
    Violation(#[source] ChannelError),
}

/// A blocking client: one call at a time. For roles without a runtime.
#[derive(Debug)]
pub struct Client<E: Edge> {
    channel: Option<Channel>,
    next: u32,
    /// Questions given up at their deadline: their answers may still come, and are passed over.
    late: Vec<RequestId>,
    edge: PhantomData<E>,
}

impl<E: Edge> Client<E> {
    /// A client without a peer yet. The wiring decides at compile time who may have one.
    #[must_use]
    pub const fn new<R: Asks<E>>(_owner: R) -> Self {
        Self { channel: None, next: 0, late: Vec::new(), edge: PhantomData }
    }

    /// Uses this end from now on, in place of any other.
    pub fn attach(&mut self, channel: Channel) {
        self.channel = Some(channel);
        self.late.clear();
    }

    /// True while there is an end that has not failed.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.channel.is_some()
    }

    /// Asks, and waits for the answer until `timeout`. A peer that is slow keeps its end; one that is gone, or breaks the
    /// protocol, loses it.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn call(
        &mut self,
        request: &E::Request,
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(E::Reply, Vec<OwnedFd>), CallError> {
        if self.late.len() >= E::WINDOW {
            self.forget_answered();
        }
        let Some(channel) = &self.channel else { return Err(CallError::Gone) };
        if self.late.len() >= E::WINDOW {
            return Err(CallError::Busy);
        }
        self.next = self.next.wrapping_add(1);
        let id = RequestId(self.next);
        match Self::exchange(channel, &mut self.late, id, request, fds, timeout) {
            Ok(Outgoing::Reply(reply, fds)) => Ok((reply, fds)),
            Ok(Outgoing::Refused(refusal)) => Err(CallError::Refused(refusal)),
            Err(ChannelError::Deadline | ChannelError::WouldBlock) => Err(CallError::Deadline),
            Err(ChannelError::Closed | ChannelError::Os(_)) => {
                self.channel = None;
                Err(CallError::Gone)
            }
            Ok(Outgoing::Chunk(_)) => {
                self.channel = None;
                Err(CallError::Violation(ChannelError::Violation("a stream nobody asked for")))
            }
            Err(violation) => {
                self.channel = None;
                Err(CallError::Violation(violation))
            }
        }
    }

    fn exchange(
        channel: &Channel,
        late: &mut Vec<RequestId>,
        id: RequestId,
        request: &E::Request,
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Outgoing<E>, ChannelError> {
        let deadline = Instant::now().checked_add(timeout).ok_or(ChannelError::Deadline)?;
        let wait = u16::try_from(timeout.as_millis()).unwrap_or(u16::MAX);
        let packet = frame(Kind::Request, id, wait, request, E::MAX_REQUEST)?;
        match channel.send_by(&packet, fds, deadline) {
            // What it said before it went is still here to be read.
            Err(ChannelError::Closed) => {}
            sent => sent?,
        }
        loop {
            let packet = match channel.recv_by(E::MAX_REPLY, E::REPLY_FDS, deadline) {
                Err(ChannelError::Deadline) => {
                    late.push(id);
                    return Err(ChannelError::Deadline);
                }
                other => other?,
            };
            let (found, answer) = decode_outgoing::<E>(packet)?;
            if found == id {
                return Ok(answer);
            }
            let at = late.iter().position(|given_up| *given_up == found);
            late.swap_remove(at.ok_or(ChannelError::Violation("an answer to no question"))?);
        }
    }

    /// Takes the answers that have come too late by now.
    fn forget_answered(&mut self) {
        while let Some(channel) = &self.channel {
            match channel.recv(E::MAX_REPLY, E::REPLY_FDS).and_then(decode_outgoing::<E>) {
                Ok((found, _)) => self.late.retain(|given_up| *given_up != found),
                Err(ChannelError::WouldBlock) => return,
                Err(_) => self.channel = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{AuditRequest, AuthMethod, AuthOutcome, Receipt, Record};
    use crate::bounded::BoundedStr;
    use crate::edge::ToAuditd;
    use crate::ids::{LeafHash, Seq};
    use crate::topology::role;

    fn record() -> AuditRequest {
        AuditRequest::Append(Record::Auth {
            client: BoundedStr::truncated("127.0.0.1"),
            method: AuthMethod::Token,
            outcome: AuthOutcome::Accepted,
        })
    }

    #[test]
    fn packet_over_cap_is_a_violation_and_one_at_cap_is_not() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&[1; 64], &[]).unwrap();
        assert_eq!(b.recv(64, 0).unwrap().bytes.len(), 64);
        a.send(&[1; 65], &[]).unwrap();
        assert!(matches!(b.recv(64, 0), Err(ChannelError::Violation(_))));
    }

    #[test]
    fn nothing_of_a_packet_stays_where_it_landed() {
        let (a, b) = Channel::pair().unwrap();
        a.send(b"a token", &[]).unwrap();
        assert_eq!(b.recv(64, 0).unwrap().bytes.as_slice(), b"a token");
        a.send(&[b't'; 65], &[]).unwrap();
        assert!(b.recv(64, 0).is_err());
        SCRATCH.with_borrow(|scratch| assert!(scratch.len() >= 64 && scratch.iter().all(|byte| *byte == 0)));
    }

    #[test]
    fn unexpected_descriptor_is_a_violation_and_an_expected_one_arrives() {
        let (a, b) = Channel::pair().unwrap();
        let file = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap();
        a.send(&[1], &[file.as_fd()]).unwrap();
        assert!(matches!(b.recv(64, 0), Err(ChannelError::Violation(_))));
        a.send(&[1], &[file.as_fd()]).unwrap();
        assert_eq!(b.recv(64, 1).unwrap().fds.len(), 1);
    }

    #[test]
    fn closed_peer_is_closed_and_empty_socket_would_block() {
        let (a, b) = Channel::pair().unwrap();
        assert!(matches!(b.recv(64, 0), Err(ChannelError::WouldBlock)));
        drop(a);
        assert!(matches!(b.recv(64, 0), Err(ChannelError::Closed)));
    }

    #[test]
    fn last_words_of_a_peer_that_left_packets_unread_still_arrive() {
        let (a, b) = Channel::pair().unwrap();
        b.send(&[1], &[]).unwrap();
        a.send(&[2], &[]).unwrap();
        drop(a);
        assert_eq!(b.recv(64, 0).unwrap().bytes.as_slice(), [2]);
        assert!(matches!(b.recv(64, 0), Err(ChannelError::Closed)));
    }

    #[test]
    fn call_returns_the_reply_of_its_own_id() {
        let (a, b) = Channel::pair().unwrap();
        let server = std::thread::spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(5);
            let packet = b.recv_by(ToAuditd::MAX_REQUEST, 0, deadline).unwrap();
            let Incoming::Request { id, .. } = decode_incoming::<ToAuditd>(packet).unwrap() else { panic!("request") };
            let receipt = Receipt { seq: Seq(3), leaf: LeafHash([7; 32]) };
            b.send(&reply_frame::<ToAuditd>(id, &receipt).unwrap(), &[]).unwrap();
        });
        let mut client = Client::<ToAuditd>::new(role::Vault);
        client.attach(a);
        let (receipt, _) = client.call(&record(), &[], Duration::from_secs(5)).unwrap();
        assert_eq!(receipt.seq, Seq(3));
        server.join().unwrap();
    }

    #[test]
    fn late_answer_is_passed_over_and_the_next_call_gets_its_own() {
        let (a, b) = Channel::pair().unwrap();
        let mut client = Client::<ToAuditd>::new(role::Vault);
        client.attach(a);
        assert!(matches!(client.call(&record(), &[], Duration::from_millis(20)), Err(CallError::Deadline)));
        let receipt = |seq| Receipt { seq: Seq(seq), leaf: LeafHash([0; 32]) };
        for id in [1, 2] {
            b.send(&reply_frame::<ToAuditd>(RequestId(id), &receipt(u64::from(id))).unwrap(), &[]).unwrap();
        }
        let (answer, _) = client.call(&record(), &[], Duration::from_secs(5)).unwrap();
        assert_eq!(answer.seq, Seq(2));
    }

    #[test]
    fn answer_to_no_question_ends_the_edge() {
        let (a, b) = Channel::pair().unwrap();
        let mut client = Client::<ToAuditd>::new(role::Vault);
        client.attach(a);
        let receipt = Receipt { seq: Seq(0), leaf: LeafHash([0; 32]) };
        b.send(&reply_frame::<ToAuditd>(RequestId(99), &receipt).unwrap(), &[]).unwrap();
        assert!(matches!(client.call(&record(), &[], Duration::from_secs(5)), Err(CallError::Violation(_))));
        assert!(!client.is_attached());
    }

    #[test]
    fn server_frame_sent_by_a_client_is_a_violation() {
        let bytes = refusal_frame::<ToAuditd>(RequestId(1), &Refusal::new("a.b", "c")).unwrap();
        assert!(decode_incoming::<ToAuditd>(Packet { bytes: bytes.clone(), fds: vec![] }).unwrap_err().is_violation());
        assert!(decode_outgoing::<ToAuditd>(Packet { bytes, fds: vec![] }).is_ok());
    }
}
