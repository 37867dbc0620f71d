//! What may be asked on each edge, and the ways to ask or answer it wrongly.

use crate::play_broker::Peer;
use proto::audit::{AuditRequest, AuthMethod, AuthOutcome, CommandRecord, Record, RequestStep};
use proto::auth::Login;
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{ChannelError, frame};
use proto::egress::{DialRequest, EgressRequest};
use proto::ids::{RequestId, SessionKey};
use proto::sandbox::{LaunchRequest, SandboxRequest};
use proto::topology::EdgeId;
use proto::vault::{Destination, LeaseRequest, VaultRequest};
use proto::wire::{HEADER, Kind, MAX_FRAME};
use proto::witness::{Commitment, StoreStep, WitnessRequest};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A descriptor of no interest.
#[must_use]
pub fn null() -> OwnedFd {
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
}

/// A question that the edge's client may ask at any time and that is answered at once.
#[must_use]
pub fn honest(edge: EdgeId, id: u32) -> Vec<u8> {
    let bytes = match edge {
        EdgeId::GatewayVault => {
            let address = BoundedStr::truncated("192.0.2.1");
            encode(id, &VaultRequest::VerifyClient(Box::new(Login::with_token(address, None))))
        }
        EdgeId::EgressVault => {
            let to = Destination { host: BoundedStr::truncated("api.example.com"), port: 443 };
            let (credential, method) = (BoundedStr::truncated("model"), BoundedStr::truncated("GET"));
            encode(
                id,
                &LeaseRequest::Lease {
                    session: SessionKey(BoundedStr::truncated("agent:main:main")),
                    credential,
                    to,
                    method,
                    path: BoundedStr::truncated("/"),
                    digest: [0; 32],
                },
            )
        }
        EdgeId::SandboxdVault => encode(id, &proto::approval::ApprovalRequest::Key),
        EdgeId::GatewaySandboxd => encode(id, &SandboxRequest::Describe),
        EdgeId::SandboxdLauncher => encode(id, &LaunchRequest::Probe),
        EdgeId::EgressDialer => {
            let host = BoundedStr::truncated("api.example.com");
            encode(id, &DialRequest::Connect { host, port: 443 })
        }
        EdgeId::GatewayEgress => encode(
            id,
            &EgressRequest::Http {
                session: SessionKey(BoundedStr::truncated("agent:main:main")),
                credential: Some(BoundedStr::truncated("model")),
                host: BoundedStr::truncated("api.example.com"),
                port: 443,
                method: BoundedStr::truncated("GET"),
                path: BoundedStr::truncated("/"),
                headers: BoundedVec::default(),
                patience_s: 60,
                body: BoundedBytes::default(),
            },
        ),
        EdgeId::VaultWitness => {
            let state = Commitment { generation: 1, root: [0; 32] };
            encode(id, &WitnessRequest::Store(StoreStep::Committed, state))
        }
        EdgeId::VaultAuditd => {
            let client = BoundedStr::truncated("192.0.2.1");
            append(id, Record::Auth { client, method: AuthMethod::Token, outcome: AuthOutcome::Accepted })
        }
        EdgeId::SandboxdAuditd => {
            let session = SessionKey(BoundedStr::truncated("agent:main:main"));
            let (command, rule) = (BoundedStr::truncated("true"), BoundedStr::truncated("sandbox.busy"));
            append(id, Record::Command(CommandRecord::Refused { session, command, rule }))
        }
        EdgeId::EgressAuditd => append(
            id,
            Record::Request {
                id: BoundedStr::truncated("q-0"),
                session: SessionKey(BoundedStr::truncated("agent:main:main")),
                credential: BoundedStr::truncated("model"),
                to: BoundedStr::truncated("api.example.com:443"),
                what: BoundedStr::truncated("GET /"),
                step: RequestStep::Begun,
            },
        ),
        EdgeId::BrokerAuditd => {
            let (event, layout) = (BoundedStr::truncated("started"), BoundedStr::truncated("single-uid"));
            append(id, Record::Lifecycle { event, layout })
        }
    };
    assert!(bytes.len() > HEADER);
    bytes
}

/// A request's frame.
#[must_use]
pub fn encode(id: u32, request: &impl serde::Serialize) -> Vec<u8> {
    frame(Kind::Request, RequestId(id), 1_000, request, MAX_FRAME).unwrap().to_vec()
}

fn append(id: u32, record: Record) -> Vec<u8> {
    encode(id, &AuditRequest::Append(record))
}

/// Descriptors that each request of the edge carries.
fn carried(edge: EdgeId) -> usize {
    if edge == EdgeId::SandboxdLauncher { 2 } else { 0 }
}

/// Sends a frame with the descriptors that the edge's requests carry, and `extra` more.
///
/// # Errors
/// What the channel says.
pub fn send(peer: &Peer, edge: EdgeId, bytes: &[u8], extra: usize) -> Result<(), ChannelError> {
    let null = null();
    let fds: Vec<BorrowedFd<'_>> = (0..carried(edge) + extra).map(|_| null.as_fd()).collect();
    peer.0.send(bytes, &fds)
}

/// Ways to break the protocol as the asking end: bytes, and descriptors beyond those that belong.
#[must_use]
pub fn client_violations(edge: EdgeId) -> Vec<(&'static str, Vec<u8>, usize)> {
    let right = honest(edge, 1);
    let first = |byte: u8| [&[byte], &right[1..]].concat();
    let mut ways = vec![
        ("oversize packet", vec![1; cap(edge) + 1], 0),
        ("garbage body", [&right[..HEADER], &[0xff; 40]].concat(), 0),
        ("trailing byte", [right.as_slice(), &[0]].concat(), 0),
        ("no header", right[..3].to_vec(), 0),
        ("unknown kind", first(99), 0),
        ("frame that only a server sends", first(Kind::Reply as u8), 0),
        ("note", first(Kind::Note as u8), 0),
        ("unexpected descriptor", right.clone(), 1),
        ("four unexpected descriptors", right.clone(), 4 - carried(edge)),
    ];
    // Where the last field may be cut without becoming another value.
    if right.len() > HEADER + 1 {
        ways.push(("cut body", right[..right.len() - 1].to_vec(), 0));
    }
    if edge == EdgeId::SandboxdAuditd {
        let bytes = [&[1, 1, 0, 0, 0, 0, 0], &honest(EdgeId::BrokerAuditd, 1)[HEADER..]].concat();
        ways.push(("another writer's record", bytes, 0));
    }
    ways
}

fn cap(edge: EdgeId) -> usize {
    use proto::edge::{self, Edge};
    match edge {
        EdgeId::GatewayVault => edge::GatewayVault::MAX_REQUEST,
        EdgeId::GatewaySandboxd => edge::GatewaySandboxd::MAX_REQUEST,
        EdgeId::GatewayEgress => edge::GatewayEgress::MAX_REQUEST,
        EdgeId::SandboxdVault => edge::SandboxdVault::MAX_REQUEST,
        EdgeId::EgressVault => edge::EgressVault::MAX_REQUEST,
        EdgeId::EgressDialer => edge::EgressDialer::MAX_REQUEST,
        EdgeId::SandboxdLauncher => edge::SandboxdLauncher::MAX_REQUEST,
        EdgeId::VaultWitness => edge::VaultWitness::MAX_REQUEST,
        EdgeId::VaultAuditd | EdgeId::SandboxdAuditd | EdgeId::EgressAuditd | EdgeId::BrokerAuditd => {
            edge::ToAuditd::MAX_REQUEST
        }
    }
}

/// Ways to break the protocol as the answering end.
#[must_use]
pub fn server_violations() -> Vec<(&'static str, Vec<u8>, bool)> {
    let answer =
        |kind| frame(kind, RequestId(4_000_000), 0, &proto::edge::Refusal::new("a.b", "c"), 4096).unwrap().to_vec();
    vec![
        ("oversize packet", vec![Kind::Reply as u8; MAX_FRAME + 1], false),
        ("garbage", vec![0xff; 40], false),
        ("no header", vec![Kind::Reply as u8], false),
        ("frame that only a client sends", answer(Kind::Request), false),
        ("answer to no question", answer(Kind::Refused), false),
        ("trailing byte", [answer(Kind::Refused), vec![0]].concat(), false),
        ("unexpected descriptor", answer(Kind::Refused), true),
    ]
}
