//! Every probe unconfined, as root, in a child of its own: it must be allowed there, or this kernel must lack the thing in
//! one of the ways that are written beside the probe.

use super::place::Place;
use confine::probe::{Held, Outcome, Targets, World, in_child, probes};
use proto::bounded::BoundedStr;
use proto::control::Layout;
use proto::ids::Role;
use rustix::fs::{Mode, OFlags, open};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use system_tests::PATIENCE;

/// A process of ours that does nothing.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&mut self) -> u32 {
        if self.0.try_wait().unwrap().is_some() {
            *self = Self::start();
        }
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// None, for who may not.
pub fn none() -> BTreeMap<&'static str, Outcome> {
    BTreeMap::new()
}

/// Runs them all.
pub fn run(faults: &mut Vec<String>) -> BTreeMap<&'static str, Outcome> {
    let place = Place::make(Layout::SplitUid);
    let state = place.path().join("state");
    for file in ["keys/secrets.key", "vault/vault.db"] {
        std::fs::write(state.join(file), "").unwrap();
    }
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let name = format!("moltbot-twins.{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let (socket, _peer) = UnixStream::pair().unwrap();
    let (mut broker, mut sibling) = (Sleeper::start(), Sleeper::start());
    let mut outcomes = BTreeMap::new();
    for probe in probes() {
        super::place::put_bait(&state, Layout::SplitUid);
        let targets = Targets {
            state_dir: BoundedStr::truncated(&state.to_string_lossy()),
            docker_socket: BoundedStr::truncated(&place.path().join("docker.sock").to_string_lossy()),
            broker: broker.pid(),
            sibling: sibling.pid(),
            port: port.local_addr().unwrap().port(),
            abstract_name: BoundedStr::truncated(&name),
        };
        let _held = held(&state);
        let world = World::new(targets, socket.as_raw_fd(), Held::look(Role::Gateway));
        let outcome = in_child(Duration::from_secs(5).min(PATIENCE), || probe.run(&world)).unwrap();
        let lacks = |(errno, _): &(i32, &str)| {
            outcome.to_string() == Outcome::Denied(u16::try_from(*errno).unwrap()).to_string()
        };
        if outcome != Outcome::Allowed {
            match probe.lacking.iter().find(|it| lacks(it)) {
                Some((_, why)) => println!("{}: {outcome} unconfined: {why}", probe.name),
                None => faults.push(format!("{}: {outcome} unconfined, so it proves nothing", probe.name)),
            }
        }
        outcomes.insert(probe.name, outcome);
    }
    outcomes
}

/// What roles hold: a log, a directory, a listener.
fn held(state: &Path) -> (OwnedFd, OwnedFd, TcpListener) {
    let log = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC;
    let log = open(state.join("logs/auth-audit.jsonl"), log, Mode::empty()).unwrap();
    let dir = open(state.join("sessions"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    (log, dir, listener)
}
