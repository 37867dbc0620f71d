//! Each role alone, frozen: it refuses by itself, whatever gateway is by then. The test is in broker's place and in the
//! peers'.

use proto::auth::Login;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::control::{FromRole, ToRole};
use proto::edge::Refusal;
use proto::ids::{Role, SessionKey};
use proto::sandbox::{Bounds, ExecOptions, LaunchRequest, SandboxRequest, WorkspaceName};
use proto::topology::EdgeId;
use proto::vault::{LeaseRequest, VaultRequest};
use proto::wire::{Kind, MAX_FRAME};
use serde::Serialize;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use system_tests::misbehaviour::{honest, null, send};
use system_tests::play_broker::{Peer, Sealed};

const PATIENCE: Duration = Duration::from_secs(20);

fn freeze(sealed: &Sealed) {
    sealed.say(&ToRole::Freeze { why: BoundedStr::truncated("a test") }, &[]);
    match sealed.hear() {
        FromRole::Frozen { .. } => {}
        other => panic!("{} said {other:?}", sealed.role()),
    }
}

/// The rule that a request is refused by; none where it is answered.
fn refused_by(peer: &Peer) -> Option<String> {
    let packet = peer.0.recv_by(MAX_FRAME, 4, Instant::now() + PATIENCE).unwrap();
    let (header, body) = proto::wire::split(&packet.bytes, MAX_FRAME).unwrap();
    (header.kind == Kind::Refused).then(|| proto::wire::decode::<Refusal>(body).unwrap().rule.to_string())
}

/// Asks what the edge's client asks, honestly.
fn ask(peer: &Peer, edge: EdgeId, id: u32) -> Option<String> {
    peer.0.send(&honest(edge, id), &[]).unwrap();
    refused_by(peer)
}

/// Frozen, thawed, and frozen again: the rule refuses while it is, and does not while it is not.
fn holds_and_lets_go(sealed: &Sealed, edge: EdgeId) {
    let peer = sealed.grant(edge);
    assert_ne!(ask(&peer, edge, 1).as_deref(), Some("lockdown"));
    freeze(sealed);
    assert_eq!(ask(&peer, edge, 2).as_deref(), Some("lockdown"));
    // Nor on a new end, of a new gateway.
    assert_eq!(ask(&sealed.grant(edge), edge, 1).as_deref(), Some("lockdown"));
    let peer = sealed.grant(edge);
    sealed.say(&ToRole::Thaw, &[]);
    sealed.assert_alive();
    assert_ne!(ask(&peer, edge, 1).as_deref(), Some("lockdown"));
    freeze(sealed);
    freeze(sealed);
    assert_eq!(ask(&peer, edge, 2).as_deref(), Some("lockdown"));
}

fn ready(role: Role) -> Sealed {
    let sealed = Sealed::start(role);
    sealed.make_ready();
    sealed
}

#[test]
fn vault_lets_nobody_in_and_leases_nothing() {
    for edge in [EdgeId::GatewayVault, EdgeId::EgressVault, EdgeId::SandboxdVault] {
        holds_and_lets_go(&ready(Role::Vault), edge);
    }
}

#[test]
fn right_token_is_refused_as_well() {
    let vault = ready(Role::Vault);
    let token = || Some(proto::secret::Secret::new(vault.gateway_token()).unwrap());
    let verify =
        || VaultRequest::VerifyClient(Box::new(Login::with_token(BoundedStr::truncated("192.0.2.7"), token())));
    let peer = vault.grant(EdgeId::GatewayVault);
    peer.send(Kind::Request, 1, &verify(), &[]).unwrap();
    assert_eq!(refused_by(&peer), None);
    freeze(&vault);
    peer.send(Kind::Request, 2, &verify(), &[]).unwrap();
    assert_eq!(refused_by(&peer).as_deref(), Some("lockdown"));
}

#[test]
fn egress_and_dialer_let_nothing_out() {
    holds_and_lets_go(&ready(Role::Egress), EdgeId::GatewayEgress);
    holds_and_lets_go(&ready(Role::Dialer), EdgeId::EgressDialer);
}

#[test]
fn request_under_way_in_egress_is_ended() {
    let egress = Sealed::start(Role::Egress);
    // A vault that takes the question and says nothing.
    let vault = egress.grant(EdgeId::EgressVault);
    egress.stand_in(EdgeId::EgressDialer);
    egress.stand_in(EdgeId::EgressAuditd);
    assert!(matches!(egress.hear(), FromRole::Ready));
    let peer = egress.grant(EdgeId::GatewayEgress);
    peer.0.send(&honest(EdgeId::GatewayEgress, 1), &[]).unwrap();
    let asked = vault.0.recv_by(MAX_FRAME, 0, Instant::now() + PATIENCE).unwrap();
    let (_, body) = proto::wire::split(&asked.bytes, MAX_FRAME).unwrap();
    let _: LeaseRequest = proto::wire::decode(body).unwrap();
    freeze(&egress);
    assert_eq!(refused_by(&peer).as_deref(), Some("lockdown"));
}

fn exec(peer: &Peer, id: u32, session: &str) -> Option<String> {
    let session = SessionKey(BoundedStr::truncated(session));
    let request =
        SandboxRequest::Exec { session, command: BoundedStr::truncated("true"), options: ExecOptions::default() };
    peer.send(Kind::Request, id, &request, &[]).unwrap();
    refused_by(peer)
}

#[test]
fn sandboxd_runs_nothing_while_frozen_and_nothing_for_who_is_in_quarantine() {
    let sealed = ready(Role::Sandboxd);
    let peer = sealed.grant(EdgeId::GatewaySandboxd);
    // The launcher here is a stand-in that makes no sandbox: what is refused for that reason got as far as it could.
    let free = exec(&peer, 1, "agent:main:one");
    assert!(free.as_deref().is_some_and(|rule| rule != "lockdown" && rule != "quarantine"), "{free:?}");
    freeze(&sealed);
    assert_eq!(exec(&peer, 2, "agent:main:one").as_deref(), Some("lockdown"));
    let one = SessionKey(BoundedStr::truncated("agent:main:one"));
    sealed.say(&ToRole::Quarantine(BoundedVec::new(vec![one]).unwrap()), &[]);
    sealed.say(&ToRole::Thaw, &[]);
    sealed.assert_alive();
    assert_eq!(exec(&peer, 3, "agent:main:one").as_deref(), Some("quarantine"));
    assert_eq!(exec(&peer, 4, "agent:main:two"), free);
    sealed.say(&ToRole::Quarantine(BoundedVec::default()), &[]);
    sealed.assert_alive();
    assert_eq!(exec(&peer, 5, "agent:main:one"), free);
}

#[test]
fn freeze_before_the_first_edge_holds_when_the_edges_come() {
    for (role, edge) in [
        (Role::Vault, EdgeId::GatewayVault),
        (Role::Sandboxd, EdgeId::GatewaySandboxd),
        (Role::Egress, EdgeId::GatewayEgress),
    ] {
        let sealed = Sealed::start(role);
        freeze(&sealed);
        sealed.make_ready();
        let peer = sealed.grant(edge);
        let rule =
            if edge == EdgeId::GatewaySandboxd { exec(&peer, 1, "agent:main:main") } else { ask(&peer, edge, 1) };
        assert_eq!(rule.as_deref(), Some("lockdown"), "{role}");
    }
}

fn launch(peer: &Peer, id: u32, command: &str) {
    let workspace = WorkspaceName(BoundedStr::truncated("0123456789abcdef0123456789abcdef"));
    let words = proto::sandbox::shell(command).unwrap();
    let request = LaunchRequest::Run {
        workspace,
        agent: None,
        words,
        cwd: BoundedStr::default(),
        timeout_s: 60,
        bounds: Bounds::default(),
    };
    let null = null();
    peer.send(Kind::Request, id, &request, &[null.as_fd(), null.as_fd()]).unwrap();
}

#[test]
fn launcher_kills_what_runs_and_runs_nothing() {
    let sealed = Sealed::start(Role::Launcher);
    assert!(matches!(sealed.hear(), FromRole::Ready));
    let peer = sealed.grant(EdgeId::SandboxdLauncher);
    launch(&peer, 1, "true");
    assert_eq!(refused_by(&peer), None, "it runs what it is told to");
    launch(&peer, 2, "sleep 60");
    // Questions are taken in their order: when this one is answered, that one runs.
    send(&peer, EdgeId::SandboxdLauncher, &honest(EdgeId::SandboxdLauncher, 9), 0).unwrap();
    assert_eq!(refused_by(&peer), None);
    let begun = Instant::now();
    freeze(&sealed);
    assert_eq!(refused_by(&peer), None, "the one that ran is answered as ended");
    assert!(begun.elapsed() < Duration::from_secs(10));
    launch(&peer, 3, "true");
    assert_eq!(refused_by(&peer).as_deref(), Some("lockdown"));
    sealed.say(&ToRole::Thaw, &[]);
    sealed.assert_alive();
    launch(&peer, 4, "true");
    assert_eq!(refused_by(&peer), None);
}

#[test]
fn auditd_goes_on_and_signs_when_it_is_told_to() {
    let sealed = ready(Role::Auditd);
    freeze(&sealed);
    let peer = sealed.grant(EdgeId::VaultAuditd);
    assert_eq!(ask(&peer, EdgeId::VaultAuditd, 1), None, "the log goes on");
    sealed.say(&ToRole::Admin(9, proto::control::AdminRequest::Checkpoint), &[]);
    match sealed.hear() {
        FromRole::Admin(9, Ok(proto::control::AdminReply::LogHeads(heads))) => {
            assert!(heads.iter().any(|head| head.size > 0))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn words_of_the_reaction_fit_into_a_control_frame() {
    fn size(word: &impl Serialize) -> usize {
        proto::channel::frame(Kind::Note, proto::ids::RequestId(0), 0, word, proto::control::MAX_CONTROL).unwrap().len()
    }
    let longest = SessionKey(BoundedStr::new("x".repeat(128)).unwrap());
    let sessions = BoundedVec::new(vec![longest; proto::control::MAX_QUARANTINED]).unwrap();
    assert!(size(&ToRole::Quarantine(sessions.clone())) < proto::control::MAX_CONTROL);
    let detail = BoundedStr::new("x".repeat(256)).unwrap();
    assert!(size(&FromRole::Frozen { sessions, detail }) < proto::control::MAX_CONTROL);
}
