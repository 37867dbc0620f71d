//! The test in broker's place: one real role behind its real walls, started by the recipe that broker uses, with every
//! edge of it in the test's hands.

use crate::{USER, is_root, programs};
use confine::spawn::{Identity, Spawned, reserve_control_fd, spawn};
use proto::approval::{ApprovalReply, ApprovalRequest};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError, Incoming, decode_incoming, frame};
use proto::control::{
    AdminReply, AdminRequest, BackendChoice, FromRole, Keep, Layout, LogFiles, MAX_CONTROL, Resource, RoleConfig,
    Scope, Sizes, ToRole,
};
use proto::edge::{Refusal, SandboxdVault, VaultWitness};
use proto::ids::{Epoch, RequestId, Role};
use proto::topology::{EdgeId, Side, TOPOLOGY};
use proto::wire::{self, Kind, MAX_FRAME};
use proto::witness::{StoreStep, WitnessReply, WitnessRequest};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use serde::Serialize;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest that a role may take for one step.
const STEP: Duration = Duration::from_secs(20);

/// Keeps the descriptor that every child's control channel takes from being used for anything else in this process.
pub fn reserve() {
    static HELD: OnceLock<Vec<OwnedFd>> = OnceLock::new();
    let _ = HELD.get_or_init(|| reserve_control_fd().unwrap());
}

/// A role, sealed and attested, that has been granted nothing yet.
pub struct Sealed {
    role: Role,
    control: Channel,
    process: Spawned,
    port: u16,
    dir: Option<TempDir>,
}

impl Sealed {
    /// Starts it.
    ///
    /// # Panics
    /// Where it does not come as far as its walls.
    #[must_use]
    pub fn start(role: Role) -> Self {
        Self::start_with(role, config(role))
    }

    /// Starts it with a configuration of the test's own.
    ///
    /// # Panics
    /// Where it does not come as far as its walls.
    #[must_use]
    pub fn start_with(role: Role, config: RoleConfig) -> Self {
        let dir = tempfile::Builder::new().prefix("moltbot-role.").tempdir().unwrap();
        Self::start_both(role, config, dir)
    }

    /// Starts it on directories that are there already, or are made beneath this one.
    ///
    /// # Panics
    /// Where it does not come as far as its walls.
    #[must_use]
    pub fn start_in(role: Role, dir: TempDir) -> Self {
        Self::start_both(role, config(role), dir)
    }

    fn start_both(role: Role, config: RoleConfig, dir: TempDir) -> Self {
        reserve();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let resources = resources(role, &dir, listener);
        let (control, theirs) = Channel::pair().unwrap();
        let program = std::fs::File::open(programs().join(format!("moltbot-{role}"))).unwrap();
        // A pipe, as from broker: where this process's own output is a file, a role's limit of files would end it.
        let (mut logged, log) = std::io::pipe().unwrap();
        std::thread::spawn(move || std::io::copy(&mut logged, &mut std::io::stderr()));
        let log = OwnedFd::from(log);
        let process = spawn(program.as_fd(), &format!("moltbot-{role}"), theirs.as_fd(), log, identity(role)).unwrap();
        drop(theirs);
        let sealed = Self { role, control, process, port, dir: Some(dir) };
        match sealed.hear() {
            FromRole::Hello { role: said, schema: proto::SCHEMA_HASH } if said == role => {}
            other => panic!("{role} began with {other:?}"),
        }
        let kinds = resources.iter().map(|(kind, _)| *kind).collect();
        let fds: Vec<BorrowedFd<'_>> = resources.iter().map(|(_, fd)| fd.as_fd()).collect();
        let resources = BoundedVec::new(kinds).unwrap();
        let layout = if is_root() { Layout::SplitUid } else { Layout::SingleUid };
        sealed.say(&ToRole::Configure { layout, config, resources }, &fds);
        match sealed.hear() {
            FromRole::Confined(walls) if walls.seccomp_rules > 0 => {}
            other => panic!("{role} is not confined: {other:?}"),
        }
        sealed.say(&ToRole::Attested, &[]);
        sealed
    }

    /// Which role it is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Where clients reach it, where it is gateway.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Says something to the role.
    ///
    /// # Panics
    /// Where it does not listen.
    pub fn say(&self, word: &ToRole, fds: &[BorrowedFd<'_>]) {
        self.control.send_note(word, MAX_CONTROL, fds, Instant::now() + STEP).unwrap();
    }

    /// What the role says next; that sandboxd wants the launcher is no news here.
    ///
    /// # Panics
    /// Where it says nothing, or is dead.
    #[must_use]
    pub fn hear(&self) -> FromRole {
        loop {
            let packet = self.control.recv_by(MAX_CONTROL, 0, Instant::now() + STEP);
            let packet = packet.unwrap_or_else(|error| panic!("{} is silent: {error}", self.role));
            match Channel::decode_note(packet, MAX_CONTROL).unwrap().0 {
                FromRole::LauncherWanted => {}
                word => return word,
            }
        }
    }

    /// A new end of one of the role's edges, the other one being the role's.
    ///
    /// # Panics
    /// Where the role has no such edge.
    #[must_use]
    pub fn grant(&self, edge: EdgeId) -> Peer {
        let wire = edge.wire().unwrap();
        let side = if wire.server == self.role { Side::Server } else { Side::Client };
        assert!(side == Side::Server || wire.client == self.role, "{edge:?} is no edge of {}", self.role);
        let (ours, theirs) = Channel::pair().unwrap();
        self.say(&ToRole::Grant { edge, side, peer: Epoch(1) }, &[theirs.as_fd()]);
        Peer(ours)
    }

    /// Grants an edge between two roles that are both in the test's hands.
    ///
    /// # Panics
    /// Where they have no such edge.
    pub fn wire(edge: EdgeId, client: &Self, server: &Self) {
        let wire = edge.wire().unwrap();
        assert_eq!((wire.client, wire.server), (client.role, server.role));
        let (asks, answers) = Channel::pair().unwrap();
        server.say(&ToRole::Grant { edge, side: Side::Server, peer: Epoch(1) }, &[answers.as_fd()]);
        client.say(&ToRole::Grant { edge, side: Side::Client, peer: Epoch(1) }, &[asks.as_fd()]);
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid
    }

    /// The directory that its own directories are in.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        self.dir.as_ref().unwrap().path()
    }

    /// Ends the role; its directories stay.
    ///
    /// # Panics
    /// Never: a role has them until then.
    #[must_use]
    pub fn stop(mut self) -> TempDir {
        self.dir.take().unwrap()
    }

    /// Grants what the role itself asks on, with a stand-in at the other end of each, and waits until it serves.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub fn make_ready(&self) {
        for wire in TOPOLOGY.iter().filter(|wire| wire.client == self.role) {
            self.stand_in(wire.edge);
        }
        self.assert_ready();
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// Where it does not become ready.
    pub fn assert_ready(&self) {
        match self.hear() {
            FromRole::Ready => {}
            other => panic!("{} is not ready: {other:?}", self.role),
        }
    }

    /// Grants an edge that the role asks on, with a stand-in at its other end.
    pub fn stand_in(&self, edge: EdgeId) {
        if edge == EdgeId::VaultWitness {
            return Standin::witness(self.grant(edge));
        }
        if edge == EdgeId::SandboxdVault {
            return Standin::untainting(self.grant(edge));
        }
        Standin::run(edge.wire().unwrap().server, self.grant(edge));
    }

    /// The role lives, and listens to broker.
    ///
    /// # Panics
    /// Where it does not, or says something else first.
    pub fn assert_alive(&self) {
        self.say(&ToRole::Ping(77), &[]);
        match self.hear() {
            FromRole::Pong(77) => {}
            other => panic!("{} said {other:?} instead of answering a ping", self.role),
        }
    }

    /// The role has accused the peer on this edge.
    ///
    /// # Panics
    /// Where it has not.
    pub fn assert_accused(&self, expected: EdgeId, what: &str) {
        match self.hear() {
            FromRole::Violated { edge, detail } if edge == expected && !detail.is_empty() => {}
            other => panic!("{what}: {} said {other:?}", self.role),
        }
    }

    /// The gateway token of a vault that is ready.
    ///
    /// # Panics
    /// Where it is none, or does not answer.
    #[must_use]
    pub fn gateway_token(&self) -> Vec<u8> {
        self.say(&ToRole::Admin(1, AdminRequest::RevealGatewayToken { uid: 0 }), &[]);
        match self.hear() {
            FromRole::Admin(1, Ok(AdminReply::GatewayToken(token))) => token.expose().to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Open descriptors of the role, as the kernel counts them.
    #[must_use]
    pub fn descriptors(&self) -> u64 {
        confine::attest::observe(self.process.pid).unwrap().descriptors
    }

    /// Resident memory of the role in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.process.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// The test's end of an edge: any bytes, right or wrong.
pub struct Peer(pub Channel);

impl Peer {
    /// Sends a frame.
    ///
    /// # Errors
    /// What the channel says.
    pub fn send(&self, kind: Kind, id: u32, body: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.0.send(&frame(kind, RequestId(id), 0, body, MAX_FRAME).unwrap(), fds)
    }

    /// The next frame: its kind, its id.
    ///
    /// # Errors
    /// What the channel says, [`ChannelError::Deadline`] included.
    pub fn next(&self, within: Duration) -> Result<(Kind, u32), ChannelError> {
        let packet = self.0.recv_by(MAX_FRAME, 4, Instant::now() + within)?;
        let (header, _) = wire::split(&packet.bytes, MAX_FRAME).unwrap();
        Ok((header.kind, header.id.0))
    }

    /// The role has closed this end and answered nothing on it.
    ///
    /// # Panics
    /// Where it has not.
    pub fn assert_closed_unanswered(&self, what: &str) {
        loop {
            match self.next(STEP) {
                Err(ChannelError::Closed) => return,
                // What the role asks of its own accord is no answer.
                Ok((Kind::Request, _)) => {}
                other => panic!("{what}: {other:?} instead of the end of the edge"),
            }
        }
    }
}

/// An honest server of little use: it refuses whatever it is asked; auditd's says of every record that it is written.
struct Standin;

impl Standin {
    /// A witness with an empty log, which writes down what it is told.
    fn witness(peer: Peer) {
        std::thread::spawn(move || {
            let (mut committed, mut intended) = (None, None);
            while let Ok(packet) = peer.0.recv_by(MAX_FRAME, 0, Instant::now() + 6 * STEP) {
                let Ok(Incoming::Request { id, request, .. }) = decode_incoming::<VaultWitness>(packet) else { return };
                let reply = match request {
                    WitnessRequest::Look { wait: true, .. } => continue,
                    WitnessRequest::Look { .. } => {
                        WitnessReply::Seen { committed, intended, heads: BoundedVec::default() }
                    }
                    WitnessRequest::Store(StoreStep::Intended, state) => {
                        intended = Some(state);
                        WitnessReply::Written
                    }
                    WitnessRequest::Store(StoreStep::Committed, state) => {
                        (committed, intended) = (Some(state), None);
                        WitnessReply::Written
                    }
                    WitnessRequest::Know { .. } => WitnessReply::Noted,
                };
                if peer.send(Kind::Reply, id.0, &reply, &[]).is_err() {
                    return;
                }
            }
        });
    }

    /// A vault that knows of no conversation that strangers' words have reached, and says no to the rest.
    fn untainting(peer: Peer) {
        std::thread::spawn(move || {
            while let Ok(packet) = peer.0.recv_by(MAX_FRAME, 0, Instant::now() + 6 * STEP) {
                let sent = match decode_incoming::<SandboxdVault>(packet) {
                    Ok(Incoming::Request { id, request: ApprovalRequest::Standing { .. }, .. }) => {
                        peer.send(Kind::Reply, id.0, &ApprovalReply::Standing { tainted: false, suspended: false }, &[])
                    }
                    Ok(Incoming::Request { id, .. }) => {
                        peer.send(Kind::Refused, id.0, &Refusal::new("standin", "nobody is here"), &[])
                    }
                    Ok(_) => continue,
                    Err(_) => return,
                };
                if sent.is_err() {
                    return;
                }
            }
        });
    }

    fn run(server: Role, peer: Peer) {
        std::thread::spawn(move || {
            while let Ok(packet) = peer.0.recv_by(MAX_FRAME, 4, Instant::now() + 6 * STEP) {
                let (header, _) = wire::split(&packet.bytes, MAX_FRAME).unwrap();
                if header.kind != Kind::Request {
                    continue;
                }
                let sent = if server == Role::Auditd {
                    peer.send(Kind::Reply, header.id.0, &receipt(), &[])
                } else {
                    peer.send(Kind::Refused, header.id.0, &Refusal::new("standin", "nobody is here"), &[])
                };
                if sent.is_err() {
                    return;
                }
            }
        });
    }
}

fn receipt() -> proto::audit::Receipt {
    proto::audit::Receipt { seq: proto::ids::Seq(0), leaf: proto::ids::LeafHash([0; 32]) }
}

fn identity(role: Role) -> Identity {
    if is_root() {
        let id = USER + 1 + role.index();
        Identity::Own { uid: id, gid: id }
    } else {
        Identity::Same { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
    }
}

fn resources(role: Role, dir: &TempDir, listener: TcpListener) -> Vec<(Resource, OwnedFd)> {
    let wanted: &[(Resource, &str)] = match role {
        Role::Auditd => &[(Resource::LogDir, "logs")],
        Role::Vault => &[(Resource::KeyDir, "keys"), (Resource::VaultDir, "vault")],
        Role::Gateway => &[(Resource::SessionDir, "sessions")],
        Role::Launcher => &[(Resource::WorkspaceDir, "workspaces")],
        Role::Broker | Role::Sandboxd | Role::Dialer | Role::Egress => &[],
    };
    let open = |(kind, name): &(Resource, &str)| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        crate::set_mode(&path, 0o700);
        if let Identity::Own { uid, gid } = identity(role) {
            let files = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            for path in files.chain([path.clone()]) {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        (*kind, OwnedFd::from(std::fs::File::open(&path).unwrap()))
    };
    let mut resources: Vec<_> = wanted.iter().map(open).collect();
    if role == Role::Gateway {
        resources.push((Resource::Listener, listener.into()));
    }
    resources
}

fn config(role: Role) -> RoleConfig {
    match role {
        Role::Auditd => RoleConfig::Auditd {
            layout: BoundedStr::truncated("single-uid"),
            redact: BoundedVec::default(),
            files: LogFiles::default(),
        },
        Role::Vault => RoleConfig::Vault { senders: BoundedVec::default(), answers: BoundedVec::default() },
        Role::Sandboxd => RoleConfig::Sandboxd {
            docker_socket: BoundedStr::truncated("/nonexistent/docker.sock"),
            workspaces: BoundedStr::truncated("/nonexistent/workspaces"),
            image: BoundedStr::truncated("none"),
            backend: BackendChoice::Native,
            instance: BoundedStr::truncated("0123456789abcdef"),
            exec: BoundedBytes::new(br#"{"ask":"off"}"#.to_vec()).unwrap(),
            tools: BoundedBytes::new(b"{}".to_vec()).unwrap(),
            modes: BoundedBytes::new(b"{}".to_vec()).unwrap(),
            sizes: Sizes::default(),
            keep: Keep::default(),
            scope: Scope::default(),
        },
        Role::Dialer => RoleConfig::Dialer {
            allow: BoundedVec::default(),
            local: BoundedVec::default(),
            resolver: BoundedStr::default(),
        },
        Role::Egress => {
            RoleConfig::Egress { plain: BoundedVec::default(), local: BoundedVec::default(), ca: BoundedStr::default() }
        }
        Role::Gateway => RoleConfig::Gateway {
            redacted_config: BoundedBytes::new(b"{}".to_vec()).unwrap(),
            config_path: BoundedStr::truncated("moltbot.json"),
            state_dir: BoundedStr::truncated("state"),
            host: BoundedStr::truncated("test"),
        },
        Role::Launcher | Role::Broker => RoleConfig::Launcher,
    }
}
