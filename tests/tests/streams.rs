//! sandboxd between a gateway that does not read, a launcher that does not end, and a log that does not take: played by the
//! test on the edges of the one real process.

use proto::audit::{AuditRequest, CommandRecord, Receipt, Record, RunEnd};
use proto::bounded::BoundedStr;
use proto::channel::ChannelError;
use proto::control::FromRole;
use proto::edge::Refusal;
use proto::ids::{LeafHash, Role, Seq, SessionKey};
use proto::sandbox::{Backend, ExecOptions, LaunchReply, LaunchRequest, SandboxRequest};
use proto::topology::EdgeId;
use proto::wire::{Kind, MAX_FRAME};
use std::time::{Duration, Instant};
use system_tests::misbehaviour::{honest, send};
use system_tests::play_broker::{Peer, Sealed};

const PATIENCE: Duration = Duration::from_secs(20);
/// What a peer may cost the role for good, in KiB: buffers that the allocator keeps.
const GROWTH: u64 = 4 * 1024;

fn assert_served(sealed: &Sealed) {
    let edge = EdgeId::GatewaySandboxd;
    let peer = sealed.grant(edge);
    send(&peer, edge, &honest(edge, 5), 0).unwrap();
    assert_eq!(peer.next(PATIENCE).unwrap(), (Kind::Reply, 5));
}

/// How the commands of a played launcher go.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Commands {
    /// They write without end until they are cancelled.
    Endless,
    /// They end at once, well.
    Short,
}

/// A launcher. Says which runs were cancelled.
fn launcher(peer: Peer, commands: Commands) -> std::sync::mpsc::Receiver<u32> {
    let (cancelled, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok(packet) = peer.0.recv_by(MAX_FRAME, 2, Instant::now() + 3 * PATIENCE) {
            let (header, body) = proto::wire::split(&packet.bytes, MAX_FRAME).unwrap();
            let id = header.id.0;
            if header.kind == Kind::Cancel {
                peer.send(Kind::Reply, id, &LaunchReply::Ended(RunEnd::Aborted), &[]).unwrap();
                cancelled.send(id).unwrap();
                continue;
            }
            if matches!(proto::wire::decode(body).unwrap(), LaunchRequest::Probe) {
                let tier =
                    LaunchReply::Tier { backend: Backend::NativeN1, detail: BoundedStr::truncated("played by a test") };
                peer.send(Kind::Reply, id, &tier, &[]).unwrap();
                continue;
            }
            if commands == Commands::Short {
                drop(packet.fds);
                peer.send(Kind::Reply, id, &LaunchReply::Ended(RunEnd::Exited(0)), &[]).unwrap();
                continue;
            }
            let mut output = std::fs::File::from(packet.fds.into_iter().next().unwrap());
            std::thread::spawn(move || while std::io::Write::write_all(&mut output, &[b'x'; 4096]).is_ok() {});
        }
    });
    receiver
}

fn command(sealed: &Sealed, credit: u32) -> Peer {
    let peer = sealed.grant(EdgeId::GatewaySandboxd);
    let session = SessionKey(BoundedStr::truncated("agent:main:main"));
    let request =
        SandboxRequest::Exec { session, command: BoundedStr::truncated("yes"), options: ExecOptions::default() };
    peer.send(Kind::Request, 1, &request, &[]).unwrap();
    peer.send(Kind::Credit, 1, &credit, &[]).unwrap();
    peer
}

fn sandboxd_with_endless_output() -> (Sealed, std::sync::mpsc::Receiver<u32>) {
    let sealed = Sealed::start(Role::Sandboxd);
    sealed.stand_in(EdgeId::SandboxdAuditd);
    sealed.stand_in(EdgeId::SandboxdVault);
    let cancelled = launcher(sealed.grant(EdgeId::SandboxdLauncher), Commands::Endless);
    assert!(matches!(sealed.hear(), FromRole::Ready));
    (sealed, cancelled)
}

#[test]
fn stream_stops_at_its_credit_and_ends_with_its_client() {
    let (sealed, cancelled) = sandboxd_with_endless_output();
    let peer = command(&sealed, 40_000);
    let mut bytes = 0;
    // What the credit allows comes, however long it takes; then two seconds of nothing are the end of it.
    let patience = |bytes: usize| if bytes < 20_000 { PATIENCE } else { Duration::from_secs(2) };
    while let Ok(packet) = peer.0.recv_by(MAX_FRAME, 0, Instant::now() + patience(bytes)) {
        assert_eq!(packet.bytes[0], Kind::Chunk as u8);
        bytes += packet.bytes.len();
    }
    assert!((20_000..=40_000 + 1_000).contains(&bytes), "{bytes} bytes for a credit of 40,000");
    peer.send(Kind::Credit, 1, &40_000u32, &[]).unwrap();
    assert_eq!(peer.next(PATIENCE).unwrap(), (Kind::Chunk, 1));
    drop(peer);
    // What runs for nobody is ended, and nobody is accused of having died.
    cancelled.recv_timeout(PATIENCE).unwrap();
    sealed.assert_alive();
    assert_served(&sealed);
}

#[test]
fn stream_that_is_given_credit_and_not_read_ends_its_edge_and_its_command() {
    let (sealed, cancelled) = sandboxd_with_endless_output();
    let memory = sealed.resident_kib();
    let peer = command(&sealed, 16 << 20);
    sealed.assert_accused(EdgeId::GatewaySandboxd, "a stream that nobody reads");
    cancelled.recv_timeout(PATIENCE).unwrap();
    let now = sealed.resident_kib();
    assert!(now < memory + GROWTH, "sandboxd grew from {memory} to {now} KiB");
    // What had been sent before can still be read; then comes the end, and no answer.
    loop {
        match peer.next(PATIENCE) {
            Ok((Kind::Chunk, 1)) => {}
            Err(ChannelError::Closed) => break,
            other => panic!("{other:?}"),
        }
    }
    sealed.assert_alive();
    assert_served(&sealed);
}

/// A log that takes intents, and outcomes where `takes_outcomes`.
fn auditd(peer: Peer, takes_outcomes: bool) {
    std::thread::spawn(move || {
        while let Ok(packet) = peer.0.recv_by(MAX_FRAME, 0, Instant::now() + 3 * PATIENCE) {
            let (header, body) = proto::wire::split(&packet.bytes, MAX_FRAME).unwrap();
            let AuditRequest::Append(record) = proto::wire::decode(body).unwrap();
            let refused = matches!(record, Record::Command(CommandRecord::Outcome { .. })) && !takes_outcomes;
            if refused {
                let refusal = Refusal::new("audit.unwritable", "write: No space left on device");
                peer.send(Kind::Refused, header.id.0, &refusal, &[]).unwrap();
            } else {
                let receipt = Receipt { seq: Seq(0), leaf: LeafHash([0; 32]) };
                peer.send(Kind::Reply, header.id.0, &receipt, &[]).unwrap();
            }
        }
    });
}

#[test]
fn end_of_a_command_is_told_only_where_it_is_recorded() {
    for (takes_outcomes, told) in [(true, Kind::Reply), (false, Kind::Refused)] {
        let sealed = Sealed::start(Role::Sandboxd);
        sealed.stand_in(EdgeId::SandboxdVault);
        auditd(sealed.grant(EdgeId::SandboxdAuditd), takes_outcomes);
        let _cancelled = launcher(sealed.grant(EdgeId::SandboxdLauncher), Commands::Short);
        assert!(matches!(sealed.hear(), FromRole::Ready));
        let peer = command(&sealed, 40_000);
        assert_eq!(peer.next(PATIENCE).unwrap(), (told, 1));
    }
}
