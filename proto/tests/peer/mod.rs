//! A peer that does only what it is told, rightly or wrongly: the other end of the pair, without any rule on it.
#![allow(dead_code, reason = "each test file uses its part")]

use proto::audit::RunEnd;
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::{Channel, ChannelError, frame};
use proto::edge::{Edge, GatewaySandboxd};
use proto::ids::{RequestId, RunId, SessionKey};
use proto::sandbox::{ExecOptions, OutputChunk, SandboxReply, SandboxRequest};
use proto::wire::{Kind, MAX_FRAME};
use serde::Serialize;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of output in one chunk of [`chunk`].
pub const CHUNK: usize = 1_000;

pub struct Peer(pub Channel);

impl Peer {
    pub fn pair() -> (Self, Channel) {
        let (ours, theirs) = Channel::pair().unwrap();
        (Self(ours), theirs)
    }

    pub fn send(&self, kind: Kind, id: u32, body: &impl Serialize) {
        self.raw(&frame(kind, RequestId(id), 0, body, MAX_FRAME).unwrap());
    }

    pub fn raw(&self, bytes: &[u8]) {
        self.0.send(bytes, &[]).unwrap();
    }

    /// Sends a descriptor that nobody asked for; what is given back reads as ended once no copy of it is open anywhere.
    pub fn with_descriptor(&self, bytes: &[u8]) -> UnixStream {
        let (watched, sent) = UnixStream::pair().unwrap();
        watched.set_nonblocking(true).unwrap();
        self.0.send(bytes, &[sent.as_fd()]).unwrap();
        watched
    }

    /// What came last, if it is there: kind and id.
    pub fn take(&self) -> Result<(u8, u32), ChannelError> {
        let packet = self.0.recv(MAX_FRAME, 1)?.bytes;
        Ok((packet[0], u32::from_le_bytes(packet[1..5].try_into().unwrap())))
    }

    /// What comes next; a runtime that serves the other end must run on another thread, or have run already.
    pub async fn next(&self) -> (u8, u32) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.take() {
                Err(ChannelError::WouldBlock) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
            assert!(Instant::now() < until, "nothing came");
        }
    }

    /// Nothing was answered, and the other end is closed.
    pub async fn assert_closed_unanswered(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.take() {
                Err(ChannelError::WouldBlock) => tokio::task::yield_now().await,
                Err(ChannelError::Closed) => return,
                other => panic!("an answer on an edge that is over: {other:?}"),
            }
            assert!(Instant::now() < until, "the end stays open");
        }
    }
}

pub fn exec() -> SandboxRequest {
    SandboxRequest::Exec {
        session: SessionKey(BoundedStr::truncated("agent:main:main")),
        command: BoundedStr::truncated("true"),
        options: ExecOptions::default(),
    }
}

pub fn ended() -> SandboxReply {
    let run = RunId(BoundedStr::truncated("r-0"));
    SandboxReply::Ended { run, end: RunEnd::Exited(0), duration_ms: 1, dropped: 0 }
}

pub fn chunk() -> OutputChunk {
    OutputChunk::Stdout(BoundedBytes::new(vec![b'x'; CHUNK]).unwrap())
}

/// Ways to break the protocol that no state excuses, as a client (`kind` is Request) or as a server (Reply).
pub fn malformed(kind: Kind) -> Vec<(&'static str, Vec<u8>)> {
    let (right, wrong, cap) = match kind {
        Kind::Request => (frame(kind, RequestId(1), 0, &exec(), MAX_FRAME), Kind::Reply, GatewaySandboxd::MAX_REQUEST),
        _ => (frame(kind, RequestId(0), 0, &ended(), MAX_FRAME), Kind::Request, GatewaySandboxd::MAX_REPLY),
    };
    let right = right.unwrap().to_vec();
    let with = |at: usize, byte: u8| {
        let mut bytes = right.clone();
        bytes[at] = byte;
        bytes
    };
    vec![
        ("oversize packet", vec![right[0]; cap + 1]),
        ("garbage body", [&right[..7], &[0xff; 64]].concat()),
        ("cut body", right[..right.len() - 1].to_vec()),
        ("no header", right[..3].to_vec()),
        ("trailing byte", [right.as_slice(), &[0]].concat()),
        ("unknown kind", with(0, 99)),
        ("wrong direction", with(0, wrong as u8)),
        ("a note", with(0, Kind::Note as u8)),
    ]
}
