//! The real process behind its real walls, with the test in the places of broker, auditd and gateway.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use proto::audit::{AuditRequest, AuthReason, Receipt, Record};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{CallError, Channel, Client, Incoming, decode_incoming, refusal_frame, reply_frame};
use proto::control::{AdminReply, AdminRequest, FromRole, Layout, MAX_CONTROL, Resource, RoleConfig, ToRole};
use proto::edge::{Edge, EgressVault, GatewayVault, Refusal, ToAuditd};
use proto::ids::{Epoch, LeafHash, RequestId, Role, Seq};
use proto::secret::Secret;
use proto::topology::{EdgeId, Side, role};
use proto::vault::{LeaseRequest, VaultReply, VaultRequest};
use proto::wire::{self, Header, Kind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

struct Broker {
    control: Channel,
    child: Child,
}

impl Broker {
    fn start(state: &std::path::Path) -> Self {
        let (control, theirs) = Channel::pair().unwrap();
        // The shell puts the channel where broker would, and nothing else.
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 0<&- 1>&-", env!("CARGO_BIN_EXE_moltbot-vault")])
            .env_clear()
            .stdin(Stdio::from(theirs.into_fd()))
            .spawn()
            .unwrap();
        let broker = Self { control, child };
        let FromRole::Hello { role: Role::Vault, .. } = broker.hear() else { panic!("hello") };
        let fds = ["keys", "vault"].map(|name| {
            let path = state.join(name);
            std::fs::create_dir_all(&path).unwrap();
            OwnedFd::from(std::fs::File::open(path).unwrap())
        });
        let resources = BoundedVec::new(vec![Resource::KeyDir, Resource::VaultDir]).unwrap();
        broker.say(
            &ToRole::Configure { layout: Layout::SplitUid, config: RoleConfig::Vault, resources },
            &[fds[0].as_fd(), fds[1].as_fd()],
        );
        broker
    }

    /// Also plays auditd, which refuses where `writable` is false; the records come out of the receiver.
    fn ready(state: &std::path::Path, writable: bool) -> (Self, Receiver<Record>) {
        let broker = Self::start(state);
        let FromRole::Confined(walls) = broker.hear() else { panic!("confined") };
        assert!(walls.landlock_abi >= 2 && walls.seccomp_rules > 0);
        broker.say(&ToRole::Attested, &[]);
        let (ours, theirs) = Channel::pair().unwrap();
        let (send, records) = channel();
        std::thread::spawn(move || {
            while let Ok(packet) = ours.recv_by(ToAuditd::MAX_REQUEST, 0, Instant::now() + PATIENCE) {
                let Ok(Incoming::Request { id, request, .. }) = decode_incoming::<ToAuditd>(packet) else { return };
                let AuditRequest::Append(record) = request;
                let frame = if writable {
                    let _ = send.send(record);
                    reply_frame::<ToAuditd>(id, &Receipt { seq: Seq(0), leaf: LeafHash([0; 32]) })
                } else {
                    refusal_frame::<ToAuditd>(id, &Refusal::new("audit.unwritable", "write: No space left on device"))
                };
                ours.send(&frame.unwrap(), &[]).unwrap();
            }
        });
        broker.grant(EdgeId::VaultAuditd, Side::Client, &theirs);
        let FromRole::Ready = broker.hear() else { panic!("ready") };
        (broker, records)
    }

    fn grant(&self, edge: EdgeId, side: Side, channel: &Channel) {
        self.say(&ToRole::Grant { edge, side, peer: Epoch(1) }, &[channel.as_fd()]);
    }

    fn say(&self, message: &ToRole, fds: &[BorrowedFd<'_>]) {
        let header = Header { kind: Kind::Note, id: RequestId(0), deadline_ms: 0 };
        self.control.send(&wire::encode(header, message, MAX_CONTROL).unwrap(), fds).unwrap();
    }

    fn hear(&self) -> FromRole {
        let packet = self.control.recv_by(MAX_CONTROL, 0, Instant::now() + PATIENCE).unwrap();
        wire::decode(wire::split(&packet.bytes, MAX_CONTROL).unwrap().1).unwrap()
    }

    fn client(&self, edge: EdgeId) -> Client<GatewayVault> {
        self.attached(edge, Client::new(role::Gateway))
    }

    fn attached<E: Edge>(&self, edge: EdgeId, mut client: Client<E>) -> Client<E> {
        let (ours, theirs) = Channel::pair().unwrap();
        self.grant(edge, Side::Server, &theirs);
        client.attach(ours);
        client
    }

    fn reveal(&self) -> Result<Vec<u8>, Refusal> {
        self.say(&ToRole::Admin(4, AdminRequest::RevealGatewayToken { uid: 1000 }), &[]);
        match self.hear() {
            FromRole::Admin(4, Ok(AdminReply::GatewayToken(token))) => Ok(token.expose().to_vec()),
            FromRole::Admin(4, Err(refusal)) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    fn exit(mut self) -> Option<i32> {
        self.say(&ToRole::Stop, &[]);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn login(gateway: &mut Client<GatewayVault>, token: &[u8]) -> Result<VaultReply, CallError> {
    let token = Some(Secret::new(token.to_vec()).unwrap());
    let request = VaultRequest::VerifyClient { address: BoundedStr::truncated("192.0.2.1"), token };
    gateway.call(&request, &[], PATIENCE).map(|(reply, _)| reply)
}

#[test]
fn sealed_vault_reveals_its_token_recorded_and_lets_it_in() {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    let verb = |record| match record {
        Record::Secret { verb, requester, granted, .. } => (verb.to_string(), requester.to_string(), granted),
        other => panic!("{other:?}"),
    };
    assert_eq!(verb(records.recv().unwrap()), ("create".into(), "vault".into(), true));
    let token = broker.reveal().unwrap();
    assert_eq!(verb(records.recv().unwrap()), ("reveal".into(), "operator:1000".into(), true));
    let mut gateway = broker.client(EdgeId::GatewayVault);
    assert_eq!(login(&mut gateway, &token).unwrap(), VaultReply::Accepted);
    assert!(matches!(records.recv().unwrap(), Record::Auth { .. }));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn sealed_vault_locks_after_five_failures_and_a_restart_does_not_forget() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let token = broker.reveal().unwrap();
    let mut gateway = broker.client(EdgeId::GatewayVault);
    for _ in 0..5 {
        let reply = login(&mut gateway, b"wrong").unwrap();
        assert!(matches!(reply, VaultReply::Rejected { reason: AuthReason::TokenMismatch, .. }));
    }
    // No farewell: what was answered is on disk.
    drop(broker);
    let (broker, _records) = Broker::ready(state.path(), true);
    let reply = login(&mut broker.client(EdgeId::GatewayVault), &token).unwrap();
    assert!(matches!(reply, VaultReply::Rejected { reason: AuthReason::RateLimited, retry_after_s: 1..=300 }));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn sealed_vault_refuses_everything_while_nothing_can_be_recorded() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), false);
    assert_eq!(broker.reveal().unwrap_err().rule.as_str(), "audit.unwritable");
    let refused = login(&mut broker.client(EdgeId::GatewayVault), b"x").unwrap_err();
    assert!(matches!(refused, CallError::Refused(refusal) if refusal.message.contains("No space left")));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn lease_without_a_policy_is_recorded_and_refused() {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    let request = LeaseRequest::Lease {
        credential: BoundedStr::truncated("gateway.token"),
        host: BoundedStr::truncated("example.org"),
        port: 443,
        digest: BoundedBytes::new(vec![0; 32]).unwrap(),
    };
    let mut egress = broker.attached::<EgressVault>(EdgeId::EgressVault, Client::new(role::Egress));
    let Err(CallError::Refused(refusal)) = egress.call(&request, &[], PATIENCE) else { panic!("granted") };
    assert_eq!(refusal.rule.as_str(), "vault.no_such_credential");
    let last = records.recv().and_then(|_made| records.recv()).unwrap();
    assert!(matches!(last, Record::Secret { granted: false, .. }));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn garbage_on_an_edge_closes_it_alone_and_is_reported() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let (ours, theirs) = Channel::pair().unwrap();
    broker.grant(EdgeId::EgressVault, Side::Server, &theirs);
    ours.send(b"garbage garbage", &[]).unwrap();
    assert!(matches!(broker.hear(), FromRole::Violated { edge: EdgeId::EgressVault, .. }));
    assert!(matches!(login(&mut gateway, b"x").unwrap(), VaultReply::Rejected { .. }));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn altered_store_is_exit_79() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(broker.exit(), Some(0));
    let path = state.path().join("vault/vault.db");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut refused = Broker::start(state.path());
    assert_eq!(refused.child.wait().unwrap().code(), Some(79));
}

/// A small file system that can be filled, taken down at the end of its test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &std::ffi::CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        if rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(size)).is_err() {
            eprintln!("SKIPPED: mounting a tmpfs needs root");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn sealed_vault_refuses_a_login_whose_failure_it_cannot_store_and_goes_on() {
    let Some(Small(state)) = &Small::mount(c"size=64k") else { return };
    let (broker, _records) = Broker::ready(state.path(), true);
    let token = broker.reveal().unwrap();
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let ballast = state.path().join("ballast");
    assert!(std::fs::write(&ballast, vec![0; 1 << 20]).is_err());
    let Err(CallError::Refused(refusal)) = login(&mut gateway, b"wrong") else { panic!("answered") };
    assert_eq!(refusal.rule.as_str(), "vault.unwritable");
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(login(&mut gateway, &token).unwrap(), VaultReply::Accepted);
    assert_eq!(broker.exit(), Some(0));
    assert_eq!(std::fs::read_dir(state.path().join("vault")).unwrap().count(), 1);
}
