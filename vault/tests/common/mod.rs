//! The real process, with the test in the places of broker, auditd and gateway.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by test programs that each use a part; a test that cannot go on has failed"
)]

pub mod device;

use proto::approval::Subject;
use proto::audit::{AuditRequest, Receipt, Record};
use proto::auth::Login;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{CallError, Channel, Client, Incoming, decode_incoming, refusal_frame, reply_frame};
use proto::control::{AdminReply, AdminRequest, FromRole, Layout, MAX_CONTROL, Resource, RoleConfig, ToRole};
use proto::edge::{Edge, EgressVault, GatewayVault, Refusal, SandboxdVault, ToAuditd, VaultWitness};
use proto::ids::{Epoch, LeafHash, RequestId, Role, Seq, SessionKey};
use proto::secret::Secret;
use proto::topology::{EdgeId, Side, role};
use proto::vault::{VaultAnswer, VaultReply, VaultRequest, VaultVerb};
use proto::wire::{self, Header, Kind};
use proto::witness::{Commitment, StoreStep, WitnessReply, WitnessRequest};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Broker {
    control: Channel,
    pub child: Child,
}

impl Broker {
    pub fn start(state: &std::path::Path) -> Self {
        Self::start_with(state, None)
    }

    /// As [`Broker::start`], with the file that a service manager keeps the master key in.
    pub fn start_with(state: &std::path::Path, key: Option<&std::path::Path>) -> Self {
        Self::start_saying(state, key, Stdio::inherit())
    }

    /// How a vault ends that does not come to serve: its status, and what it says.
    pub fn fails(state: &std::path::Path) -> (Option<i32>, String) {
        let mut broker = Self::start_saying(state, None, Stdio::piped());
        let mut said = String::new();
        broker.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (broker.child.wait().unwrap().code(), said)
    }

    fn start_saying(state: &std::path::Path, key: Option<&std::path::Path>, stderr: Stdio) -> Self {
        let (control, theirs) = Channel::pair().unwrap();
        // The shell puts the channel where broker would, and nothing else.
        let child = Command::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 0<&- 1>&-", env!("CARGO_BIN_EXE_moltbot-vault")])
            .env_clear()
            .stdin(Stdio::from(theirs.into_fd()))
            .stderr(stderr)
            .spawn()
            .unwrap();
        let broker = Self { control, child };
        let FromRole::Hello { role: Role::Vault, .. } = broker.hear() else { panic!("hello") };
        let fds = ["keys", "vault"].map(|name| {
            let path = state.join(name);
            std::fs::create_dir_all(&path).unwrap();
            OwnedFd::from(std::fs::File::open(path).unwrap())
        });
        let key = key.map(|path| OwnedFd::from(std::fs::File::open(path).unwrap()));
        let mut kinds = vec![Resource::KeyDir, Resource::VaultDir];
        kinds.extend(key.iter().map(|_| Resource::MasterKey));
        let fds: Vec<BorrowedFd<'_>> = fds.iter().chain(&key).map(AsFd::as_fd).collect();
        let resources = BoundedVec::new(kinds).unwrap();
        let config = RoleConfig::Vault { senders: BoundedVec::default(), answers: BoundedVec::default() };
        broker.say(&ToRole::Configure { layout: Layout::SplitUid, config, resources }, &fds);
        broker
    }

    /// Also plays auditd, which refuses where `writable` is false; the records come out of the receiver.
    pub fn ready(state: &std::path::Path, writable: bool) -> (Self, Receiver<Record>) {
        Self::ready_with(state, writable, usize::MAX)
    }

    /// As [`Broker::ready`], with a log that takes no more than `steps` words about the store.
    pub fn ready_with(state: &std::path::Path, writable: bool, steps: usize) -> (Self, Receiver<Record>) {
        Self::go_on(Self::start(state), state, writable, steps)
    }

    /// Brings a vault that was started to serve.
    pub fn go_on(broker: Self, state: &std::path::Path, writable: bool, steps: usize) -> (Self, Receiver<Record>) {
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
        broker.grant(EdgeId::VaultWitness, Side::Client, &witness(state, steps));
        broker.grant(EdgeId::VaultAuditd, Side::Client, &theirs);
        let FromRole::Ready = broker.hear() else { panic!("ready") };
        (broker, records)
    }

    pub fn grant(&self, edge: EdgeId, side: Side, channel: &Channel) {
        self.say(&ToRole::Grant { edge, side, peer: Epoch(1) }, &[channel.as_fd()]);
    }

    pub fn say(&self, message: &ToRole, fds: &[BorrowedFd<'_>]) {
        let header = Header { kind: Kind::Note, id: RequestId(0), deadline_ms: 0 };
        self.control.send(&wire::encode(header, message, MAX_CONTROL).unwrap(), fds).unwrap();
    }

    pub fn hear(&self) -> FromRole {
        let packet = self.control.recv_by(MAX_CONTROL, 0, Instant::now() + PATIENCE).unwrap();
        wire::decode(wire::split(&packet.bytes, MAX_CONTROL).unwrap().1).unwrap()
    }

    pub fn client(&self, edge: EdgeId) -> Client<GatewayVault> {
        self.attached(edge, Client::new(role::Gateway))
    }

    pub fn egress(&self) -> Client<EgressVault> {
        self.attached(EdgeId::EgressVault, Client::new(role::Egress))
    }

    pub fn sandboxd(&self) -> Client<SandboxdVault> {
        self.attached(EdgeId::SandboxdVault, Client::new(role::Sandboxd))
    }

    fn attached<E: Edge>(&self, edge: EdgeId, mut client: Client<E>) -> Client<E> {
        let (ours, theirs) = Channel::pair().unwrap();
        self.grant(edge, Side::Server, &theirs);
        client.attach(ours);
        client
    }

    /// A verb of the operator of uid 1000, whose answer is not waited for.
    pub fn tell_verb(&self, verb: VaultVerb) {
        self.say(&ToRole::Admin(5, AdminRequest::Vault { uid: 1000, verb: Box::new(verb) }), &[]);
    }

    /// A verb of the operator of uid 1000.
    pub fn verb(&self, verb: VaultVerb) -> Result<VaultAnswer, Refusal> {
        self.say(&ToRole::Admin(5, AdminRequest::Vault { uid: 1000, verb: Box::new(verb) }), &[]);
        match self.hear() {
            FromRole::Admin(5, Ok(AdminReply::Vault(answer))) => Ok(answer),
            FromRole::Admin(5, Err(refusal)) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub fn reveal(&self) -> Result<Vec<u8>, Refusal> {
        self.say(&ToRole::Admin(4, AdminRequest::RevealGatewayToken { uid: 1000 }), &[]);
        match self.hear() {
            FromRole::Admin(4, Ok(AdminReply::GatewayToken(token))) => Ok(token.expose().to_vec()),
            FromRole::Admin(4, Err(refusal)) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    pub fn exit(mut self) -> Option<i32> {
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

/// What each store's log says of it, for as long as the tests run.
static LOGS: Mutex<BTreeMap<PathBuf, Commitments>> = Mutex::new(BTreeMap::new());

#[derive(Clone, Copy, Default)]
pub struct Commitments {
    pub committed: Option<Commitment>,
    pub intended: Option<Commitment>,
}

/// What the log of this store says of it.
pub fn logged(state: &Path) -> Commitments {
    LOGS.lock().unwrap().get(state).copied().unwrap_or_default()
}

/// Puts another log in its place.
pub fn put_log_back(state: &Path, log: Commitments) {
    LOGS.lock().unwrap().insert(state.to_owned(), log);
}

/// The vault's end of an edge to an auditd whose log has no lines, and which writes down what it is told.
pub fn witness(state: &Path, mut steps: usize) -> Channel {
    let (ours, theirs) = Channel::pair().unwrap();
    let state = state.to_owned();
    std::thread::spawn(move || {
        while let Ok(packet) = ours.recv_by(VaultWitness::MAX_REQUEST, 0, Instant::now() + PATIENCE) {
            let Ok(Incoming::Request { id, request, .. }) = decode_incoming::<VaultWitness>(packet) else { return };
            let reply = {
                let mut logs = LOGS.lock().unwrap();
                let log = logs.entry(state.clone()).or_default();
                match request {
                    WitnessRequest::Look { wait: true, .. } => continue,
                    WitnessRequest::Know { .. } => WitnessReply::Noted,
                    WitnessRequest::Look { .. } => {
                        let Commitments { committed, intended } = *log;
                        WitnessReply::Seen { committed, intended, heads: BoundedVec::default() }
                    }
                    WitnessRequest::Store(..) if steps == 0 => {
                        let refusal = Refusal::new("audit.unwritable", "write: No space left on device");
                        ours.send(&refusal_frame::<VaultWitness>(id, &refusal).unwrap(), &[]).unwrap();
                        continue;
                    }
                    WitnessRequest::Store(StoreStep::Intended, state) => {
                        steps -= 1;
                        log.intended = Some(state);
                        WitnessReply::Written
                    }
                    WitnessRequest::Store(StoreStep::Committed, state) => {
                        steps -= 1;
                        *log = Commitments { committed: Some(state), intended: None };
                        WitnessReply::Written
                    }
                }
            };
            if ours.send(&reply_frame::<VaultWitness>(id, &reply).unwrap(), &[]).is_err() {
                return;
            }
        }
    });
    theirs
}

pub fn login(gateway: &mut Client<GatewayVault>, token: &[u8]) -> Result<VaultReply, CallError> {
    let token = Some(Secret::new(token.to_vec()).unwrap());
    let request = VaultRequest::VerifyClient(Box::new(Login::with_token(BoundedStr::truncated("192.0.2.1"), token)));
    gateway.call(&request, &[], PATIENCE).map(|(reply, _)| reply)
}

/// A question about this command.
pub fn subject(command: &str) -> Subject {
    let text = "-";
    Subject {
        session: SessionKey(BoundedStr::truncated("agent:main:main")),
        command: BoundedStr::truncated(command),
        why: BoundedStr::truncated(text),
        runs: BoundedStr::truncated(command),
        cwd: BoundedStr::truncated(text),
        environment: BoundedStr::truncated(text),
        image: BoundedStr::truncated(text),
        mounts: BoundedStr::truncated(text),
        network: BoundedStr::truncated(text),
        secrets: BoundedStr::truncated(text),
    }
}
