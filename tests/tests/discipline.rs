//! Protocol discipline of the real roles behind their real walls: a peer that breaks the rules gets no answer, loses its
//! edge and is reported, and the role lives on and serves everybody else. A peer that stalls, floods or dies costs the
//! role nothing that lasts.

use proto::auth::{Admission, Nonce, Scopes};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError, Incoming, decode_incoming};
use proto::edge::{Edge as _, GatewayVault};
use proto::ids::Role;
use proto::sandbox::{Bounds, LaunchRequest, WorkspaceName};
use proto::topology::{EdgeId, TOPOLOGY, Wire};
use proto::vault::{VaultReply, VaultRequest};
use proto::wire::Kind;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use system_tests::client::Client;
use system_tests::misbehaviour::{client_violations, encode, honest, null, send, server_violations};
use system_tests::play_broker::{Peer, Sealed};
use system_tests::{As, Sandbox, System, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
/// What a peer may cost a role for good, in KiB: buffers that the allocator keeps.
const GROWTH: u64 = 4 * 1024;

/// An honest question on a fresh end is answered.
fn assert_served(role: &Sealed, edge: EdgeId, what: &str) {
    let peer = role.grant(edge);
    send(&peer, edge, &honest(edge, 5), 0).unwrap();
    match peer.next(PATIENCE) {
        Ok((Kind::Reply | Kind::Refused, 5)) => {}
        other => panic!("{what}: {other:?} to an honest question of {edge:?}"),
    }
}

fn served_by(role: Role) -> impl Iterator<Item = &'static Wire> {
    TOPOLOGY.iter().filter(move |wire| wire.server == role)
}

fn asked_by(role: Role) -> impl Iterator<Item = &'static Wire> {
    TOPOLOGY.iter().filter(move |wire| wire.client == role)
}

/// Every way on every edge that the role serves.
fn client_that_breaks_the_protocol_is_not_answered_and_reported(role: Role) {
    let sealed = Sealed::start(role);
    sealed.make_ready();
    for wire in served_by(role) {
        assert_served(&sealed, wire.edge, "before");
        sealed.assert_alive();
        let descriptors = sealed.descriptors();
        for (what, bytes, extra) in client_violations(wire.edge) {
            let what = format!("{role}, {:?}, {what}", wire.edge);
            let peer = sealed.grant(wire.edge);
            send(&peer, wire.edge, &bytes, extra).unwrap();
            peer.assert_closed_unanswered(&what);
            sealed.assert_accused(wire.edge, &what);
            sealed.assert_alive();
        }
        wait_for("the descriptors of the expelled", || (sealed.descriptors() <= descriptors).then_some(()));
        assert_served(&sealed, wire.edge, "after");
    }
}

/// A peer that asks without end and reads nothing: it loses its edge or is left waiting, and nobody else notices.
fn flood_is_bounded_and_others_are_served(role: Role) {
    let sealed = Sealed::start(role);
    sealed.make_ready();
    for wire in served_by(role) {
        assert_served(&sealed, wire.edge, "before");
        let (memory, descriptors) = (sealed.resident_kib(), sealed.descriptors());
        let flood = sealed.grant(wire.edge);
        let until = Instant::now() + PATIENCE;
        let (mut id, mut high) = (0, 0);
        let ended = loop {
            match send(&flood, wire.edge, &honest(wire.edge, id), 0) {
                Ok(()) => id += 1,
                Err(ChannelError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => break error,
            }
            if id % 64 == 0 {
                high = high.max(sealed.descriptors());
                for other in served_by(role).filter(|other| other.edge != wire.edge) {
                    assert_served(&sealed, other.edge, "during a flood");
                }
            }
            assert!(Instant::now() < until, "{role} lets {:?} flood it: {id} requests", wire.edge);
        };
        assert!(matches!(ended, ChannelError::Closed), "{ended}");
        sealed.assert_accused(wire.edge, "flood");
        sealed.assert_alive();
        assert!(high < descriptors + 200, "{high} descriptors of {role} for a flood");
        drop(flood);
        wait_for("the descriptors of a flood", || (sealed.descriptors() <= descriptors).then_some(()));
        let now = sealed.resident_kib();
        assert!(now < memory + GROWTH, "{role} grew from {memory} to {now} KiB");
        assert_served(&sealed, wire.edge, "after");
    }
}

/// A peer that asks and is gone: in the middle of a question, of an answer, of everything.
fn peer_that_dies_mid_frame_leaves_nothing_behind(role: Role) {
    let sealed = Sealed::start(role);
    sealed.make_ready();
    for wire in served_by(role) {
        assert_served(&sealed, wire.edge, "before");
        sealed.assert_alive();
        let descriptors = sealed.descriptors();
        for round in 0..100 {
            let peer = sealed.grant(wire.edge);
            for id in 0..=round % 4 {
                let _ = send(&peer, wire.edge, &honest(wire.edge, id), 0);
            }
        }
        // A word of accusation would come before the answer to the ping.
        sealed.assert_alive();
        wait_for("the descriptors of the dead", || (sealed.descriptors() <= descriptors).then_some(()));
        assert_served(&sealed, wire.edge, "after");
    }
}

/// Every way on every edge that the role asks on.
fn server_that_breaks_the_protocol_loses_its_edge(role: Role) {
    let sealed = Sealed::start(role);
    sealed.make_ready();
    for wire in asked_by(role) {
        for (what, bytes, descriptor) in server_violations() {
            let what = format!("{role}, {:?}, {what}", wire.edge);
            let peer = sealed.grant(wire.edge);
            let null = null();
            let fds = if descriptor { vec![null.as_fd()] } else { Vec::new() };
            peer.0.send(&bytes, &fds).unwrap();
            peer.assert_closed_unanswered(&what);
            sealed.assert_accused(wire.edge, &what);
            sealed.assert_alive();
        }
    }
}

macro_rules! of_roles {
    ($test:ident: $($name:ident $role:ident),*) => {
        mod $test {
            $(#[test] fn $name() { super::$test(proto::ids::Role::$role); })*
        }
    };
}

of_roles!(client_that_breaks_the_protocol_is_not_answered_and_reported:
    auditd Auditd, vault Vault, sandboxd Sandboxd, dialer Dialer, egress Egress, launcher Launcher);
of_roles!(flood_is_bounded_and_others_are_served:
    auditd Auditd, vault Vault, sandboxd Sandboxd, dialer Dialer, egress Egress, launcher Launcher);
of_roles!(peer_that_dies_mid_frame_leaves_nothing_behind:
    auditd Auditd, vault Vault, sandboxd Sandboxd, dialer Dialer, egress Egress, launcher Launcher);
// vault reads its one server only while it asks: its own test is below.
of_roles!(server_that_breaks_the_protocol_loses_its_edge: sandboxd Sandboxd, egress Egress, gateway Gateway);

#[test]
fn vault_gives_auditd_up_where_it_breaks_the_protocol_and_answers_nobody_without_it() {
    let vault = Sealed::start(Role::Vault);
    vault.make_ready();
    for (what, bytes, descriptor) in server_violations() {
        let auditd = vault.grant(EdgeId::VaultAuditd);
        let gateway = vault.grant(EdgeId::GatewayVault);
        let null = null();
        let fds = if descriptor { vec![null.as_fd()] } else { Vec::new() };
        auditd.0.send(&bytes, &fds).unwrap();
        send(&gateway, EdgeId::GatewayVault, &honest(EdgeId::GatewayVault, 1), 0).unwrap();
        // What cannot be recorded is refused, not answered.
        assert_eq!(gateway.next(PATIENCE).unwrap(), (Kind::Refused, 1), "{what}");
        vault.assert_accused(EdgeId::VaultAuditd, what);
        assert_eq!(auditd.next(PATIENCE).unwrap().0, Kind::Request, "{what}: the record that it was asked to write");
        auditd.assert_closed_unanswered(what);
        vault.assert_alive();
    }
}

#[test]
fn vault_gives_the_witness_up_where_it_breaks_the_protocol_and_answers_nobody_until_it_saw_another() {
    let vault = Sealed::start(Role::Vault);
    vault.make_ready();
    for (what, bytes, descriptor) in server_violations() {
        let (auditd, null) = (vault.grant(EdgeId::VaultWitness), null());
        let fds = if descriptor { vec![null.as_fd()] } else { Vec::new() };
        auditd.0.send(&bytes, &fds).unwrap();
        vault.assert_accused(EdgeId::VaultWitness, what);
        assert_eq!(auditd.next(PATIENCE).unwrap().0, Kind::Request, "{what}: where the log stands");
        auditd.assert_closed_unanswered(what);
        let gateway = vault.grant(EdgeId::GatewayVault);
        send(&gateway, EdgeId::GatewayVault, &honest(EdgeId::GatewayVault, 1), 0).unwrap();
        assert_eq!(gateway.next(PATIENCE).unwrap(), (Kind::Refused, 1), "{what}");
    }
    vault.stand_in(EdgeId::VaultWitness);
    vault.assert_alive();
}

#[test]
fn launcher_runs_a_window_of_commands_and_ends_them_all_at_one_more() {
    let launcher = Sealed::start(Role::Launcher);
    launcher.make_ready();
    let edge = EdgeId::SandboxdLauncher;
    let run = |id: u32, command: &str| {
        let workspace = WorkspaceName(BoundedStr::truncated(&format!("{id:032x}")));
        let words = proto::sandbox::shell(command).unwrap();
        encode(
            id,
            &LaunchRequest::Run {
                workspace,
                agent: None,
                words,
                cwd: BoundedStr::default(),
                timeout_s: 60,
                bounds: Bounds::default(),
            },
        )
    };
    let honest = launcher.grant(edge);
    send(&honest, edge, &run(1, "exit 0"), 0).unwrap();
    assert_eq!(honest.next(PATIENCE).unwrap(), (Kind::Reply, 1));
    let descriptors = launcher.descriptors();
    let peer = launcher.grant(edge);
    let window = u32::try_from(<proto::edge::SandboxdLauncher as proto::edge::Edge>::WINDOW).unwrap();
    for id in 0..window {
        send(&peer, edge, &run(id, "while :; do read line < /dev/zero; done"), 0).unwrap();
    }
    wait_for("a window of sandboxes", || (launcher.descriptors() >= descriptors + u64::from(window)).then_some(()));
    launcher.assert_alive();
    send(&peer, edge, &run(window, "exit 0"), 0).unwrap();
    peer.assert_closed_unanswered("one more than the window");
    launcher.assert_accused(edge, "one more than the window");
    wait_for("the end of every sandbox", || (launcher.descriptors() <= descriptors).then_some(()));
    assert_served(&launcher, edge, "after");
}

/// Plays a vault until it is asked who a client is; returns the question's id.
fn asked_to_verify(vault: &Peer) -> u32 {
    loop {
        let packet = vault.0.recv_by(GatewayVault::MAX_REQUEST, 0, Instant::now() + PATIENCE).unwrap();
        match decode_incoming::<GatewayVault>(packet).unwrap() {
            Incoming::Request { id, request: VaultRequest::VerifyClient(_), .. } => return id.0,
            Incoming::Request { id, request: VaultRequest::Challenge(connection), .. } => {
                vault.send(Kind::Reply, id.0, &VaultReply::Challenge(Nonce(connection.0)), &[]).unwrap();
            }
            // What it would be told when something was taken back.
            Incoming::Request { request: VaultRequest::Watch(_), .. } => {}
            _ => panic!("another question"),
        }
    }
}

#[test]
fn gateway_goes_on_with_a_fresh_vault_after_one_broke_the_protocol() {
    let gateway = Sealed::start(Role::Gateway);
    gateway.make_ready();
    let vault = gateway.grant(EdgeId::GatewayVault);
    vault.0.send(&[0xff; 40], &[]).unwrap();
    vault.assert_closed_unanswered("garbage");
    gateway.assert_accused(EdgeId::GatewayVault, "garbage");
    let vault = gateway.grant(EdgeId::GatewayVault);
    let port = gateway.port();
    let login = std::thread::spawn(move || Client::connect(port).log_in(4, 4, "any"));
    let id = asked_to_verify(&vault);
    let admission = Admission { scopes: Scopes::ALL, by: BoundedVec::default() };
    vault.send(Kind::Reply, id, &VaultReply::Admitted(admission), &[]).unwrap();
    let hello = login.join().unwrap();
    assert_eq!(hello["ok"], true, "{hello}");
}

#[test]
fn gateway_refuses_a_login_in_time_where_the_vault_is_silent() {
    let gateway = Sealed::start(Role::Gateway);
    gateway.make_ready();
    let vault = gateway.grant(EdgeId::GatewayVault);
    let port = gateway.port();
    let login = std::thread::spawn(move || Client::connect(port).log_in(4, 4, "any"));
    asked_to_verify(&vault);
    let begin = Instant::now();
    let answer = login.join().unwrap();
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(begin.elapsed() < PATIENCE);
    // What it asks beside that is not about this client.
    while vault.next(PATIENCE).unwrap().0 != Kind::Cancel {}
    gateway.assert_alive();
}

/// The real set, and one of its processes fallen: root takes gateway's ends of its edges and writes garbage on each, as
/// code in gateway's place would.
#[test]
fn fallen_gateway_is_reported_recorded_and_replaced() {
    system_tests::play_broker::reserve();
    if !system_tests::is_root() {
        return system_tests::skip("not root: nobody else may take a descriptor of a sealed process");
    }
    let system = System::start(As::Root, &Sandbox::Native);
    let token = system.token();
    let pid = system.pid("gateway");
    let Some(edges) = edges_of(pid) else {
        return system_tests::skip("pidfd_getfd is forbidden here");
    };
    assert_eq!(edges.len(), 3, "gateway has three edges");
    edges[0].send(&[0xff; 40], &[]).unwrap();
    drop(edges);
    system.wait_epoch("gateway", 2);
    let records = system.records("system-audit");
    let violation = records.iter().find(|record| record["event"] == "violation").expect("a record of the violation");
    assert_eq!(violation["role"], "gateway", "{violation}");
    assert!(violation.to_string().contains("protocol violation"), "{violation}");
    assert!(!system_tests::is_alive(pid));
    assert!(Client::logged_in(system.port(), &token).chat("/help", "after").contains("/exec"));
}

/// Copies of every edge of a process: its packet sockets but the control channel.
fn edges_of(pid: u32) -> Option<Vec<Channel>> {
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let process = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).unwrap();
    let mut edges = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let number: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
        let copy = rustix::process::pidfd_getfd(&process, number, rustix::process::PidfdGetfdFlags::empty()).ok()?;
        if number != 3 && rustix::net::sockopt::socket_type(&copy) == Ok(rustix::net::SocketType::SEQPACKET) {
            edges.push(Channel::from_fd(copy));
        }
    }
    Some(edges)
}
