//! The real process behind its real walls, with the test in broker's place.
#![allow(dead_code, reason = "each test takes of it what it needs")]

pub mod receipts;

use proto::audit::{AuditRequest, AuthMethod, AuthOutcome, Record, Stream};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, Client};
use proto::control::{FromRole, Layout, LogFiles, MAX_CONTROL, Resource, RoleConfig, ToRole};
use proto::edge::ToAuditd;
use proto::ids::{Epoch, RequestId, Role};
use proto::topology::{EdgeId, Side, role};
use proto::wire::{self, Header, Kind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Broker {
    pub control: Channel,
    pub child: Child,
}

impl Broker {
    pub fn start(logs: &std::path::Path, limit: &str) -> Self {
        Self::start_under(logs, limit, "").unwrap()
    }

    /// Behind what `limit` sets, as a child of the program `under`, which must pass descriptor 3 on; none where it
    /// dies before it is configured.
    pub fn start_under(logs: &std::path::Path, limit: &str, under: &str) -> Option<Self> {
        Self::start_with(logs, limit, under, LogFiles::default())
    }

    fn start_with(logs: &std::path::Path, limit: &str, under: &str, files: LogFiles) -> Option<Self> {
        let (control, theirs) = Channel::pair().unwrap();
        // The shell puts the channel where broker would, and nothing else.
        let child = Command::new("sh")
            .args(["-c", &format!("{limit} exec {under} \"$0\" 3<&0 0<&- 1>&-"), env!("CARGO_BIN_EXE_moltbot-auditd")])
            .env_clear()
            .stdin(Stdio::from(theirs.into_fd()))
            .spawn()
            .unwrap();
        let broker = Self { control, child };
        let FromRole::Hello { role: Role::Auditd, schema: proto::SCHEMA_HASH } = broker.try_hear()? else {
            panic!("hello")
        };
        let directory: OwnedFd = std::fs::File::open(logs).unwrap().into();
        let config =
            RoleConfig::Auditd { layout: BoundedStr::truncated("single-uid"), redact: BoundedVec::default(), files };
        let resources = BoundedVec::new(vec![Resource::LogDir]).unwrap();
        broker
            .tell(&ToRole::Configure { layout: Layout::SplitUid, config, resources }, &[directory.as_fd()])
            .then_some(broker)
    }

    /// Brings it to Ready; false where it ends before.
    pub fn comes_up(&self) -> bool {
        let Some(FromRole::Confined(_)) = self.try_hear() else { return false };
        self.tell(&ToRole::Attested, &[]) && matches!(self.try_hear(), Some(FromRole::Ready))
    }

    fn try_hear(&self) -> Option<FromRole> {
        let packet = self.control.recv_by(MAX_CONTROL, 0, Instant::now() + Duration::from_secs(20)).ok()?;
        wire::decode(wire::split(&packet.bytes, MAX_CONTROL).unwrap().1).ok()
    }

    pub fn ready(logs: &std::path::Path) -> Self {
        Self::ready_within(logs, "")
    }

    pub fn ready_within(logs: &std::path::Path, limit: &str) -> Self {
        let broker = Self::start(logs, limit);
        let FromRole::Confined(walls) = broker.hear() else { panic!("confined") };
        assert!(walls.landlock_abi >= 2 && walls.seccomp_rules > 0);
        broker.say(&ToRole::Attested, &[]);
        let FromRole::Ready = broker.hear() else { panic!("ready") };
        broker
    }

    /// With files of the log of this size and age.
    pub fn ready_with(logs: &std::path::Path, files: LogFiles) -> Self {
        let broker = Self::start_with(logs, "", "", files).unwrap();
        assert!(broker.comes_up());
        broker
    }

    pub fn say(&self, message: &ToRole, fds: &[BorrowedFd<'_>]) {
        assert!(self.tell(message, fds), "auditd is gone");
    }

    /// False where it is gone.
    pub fn tell(&self, message: &ToRole, fds: &[BorrowedFd<'_>]) -> bool {
        let header = Header { kind: Kind::Note, id: RequestId(0), deadline_ms: 0 };
        self.control.send(&wire::encode(header, message, MAX_CONTROL).unwrap(), fds).is_ok()
    }

    pub fn hear(&self) -> FromRole {
        let packet = self.control.recv_by(MAX_CONTROL, 0, Instant::now() + Duration::from_secs(20)).unwrap();
        wire::decode(wire::split(&packet.bytes, MAX_CONTROL).unwrap().1).unwrap()
    }

    pub fn edge(&self, edge: EdgeId) -> Client<ToAuditd> {
        let (ours, theirs) = Channel::pair().unwrap();
        // Where it is gone, the first call says so.
        self.tell(&ToRole::Grant { edge, side: Side::Server, peer: Epoch(1) }, &[theirs.as_fd()]);
        let mut client = Client::new(role::Vault);
        client.attach(ours);
        client
    }

    pub fn exit(mut self) -> Option<i32> {
        self.tell(&ToRole::Stop, &[]);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn verify(logs: &std::path::Path, stream: Stream) -> auditd::offline::Report {
    let files = auditd::offline::find(logs, stream).unwrap();
    auditd::offline::verify(&files, stream, &auditd::offline::Expected::default(), |_, _| {}).unwrap()
}

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn auth(client: &str) -> AuditRequest {
    let client = BoundedStr::truncated(client);
    AuditRequest::Append(Record::Auth { client, method: AuthMethod::Token, outcome: AuthOutcome::Accepted })
}
