//! Broker's place in one layout: its identity, its filter, and role after role, attempt after attempt.

use super::place::{FIRST_UID, put_bait};
use super::role::{ATTEMPT, Process, ROLES, Workshop};
use super::table::{LAYERS, layers};
use confine::probe::{Held, Outcome, Targets, World, in_child, probes};
use proto::bounded::BoundedStr;
use proto::channel::Channel;
use proto::control::Layout;
use proto::ids::Role;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

/// The argument that makes this program a stage.
pub const WORD: &str = "--stage";

/// Prints a line `layout, layer, probe, role, outcome` for every attempt.
pub fn run(layout: Layout, dir: &Path) {
    let _three = confine::spawn::reserve_control_fd().unwrap();
    if layout == Layout::SplitUid {
        let uid = FIRST_UID + Role::Broker.index();
        // Opened as root: each directory is its role's alone.
        let workshop = Workshop::open(layout, dir, &dir.join("bin"));
        confine::privileges::become_broker(uid, uid).unwrap();
        play(layout, dir, &workshop);
    } else {
        play(layout, dir, &Workshop::open(layout, dir, &dir.join("bin")));
    }
}

fn play(layout: Layout, dir: &Path, workshop: &Workshop) {
    confine::startup::seal_broker(&broker::policy::POLICY).unwrap();
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let name = format!("moltbot-matrix.{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let mut targets = Targets {
        state_dir: BoundedStr::truncated(&dir.join("state").to_string_lossy()),
        docker_socket: BoundedStr::truncated(&dir.join("docker.sock").to_string_lossy()),
        broker: std::process::id(),
        sibling: 0,
        port: port.local_addr().unwrap().port(),
        abstract_name: BoundedStr::truncated(&name),
    };
    if layout == Layout::SingleUid {
        look_in_from_outside(workshop);
    }
    attack_broker(layout, workshop, &mut targets);
    for role in ROLES {
        let other = if role == Role::Vault { Role::Gateway } else { Role::Vault };
        let mut sibling = workshop.start(other, Some(layers("sealed")));
        for layer in LAYERS {
            let mut process: Option<Process> = None;
            for (number, probe) in probes().enumerate() {
                if !sibling.lives() {
                    sibling = workshop.start(other, Some(layers("sealed")));
                }
                targets.sibling = sibling.pid();
                let mut running = match process.take() {
                    Some(running) => running,
                    None => {
                        put_bait(Path::new(&*targets.state_dir), layout);
                        workshop.start(role, Some(layers(layer)))
                    }
                };
                let outcome = running.attempt(number.try_into().unwrap(), &targets);
                println!("{}\t{layer}\t{}\t{role}\t{outcome}", layout.name(), probe.name);
                // Whatever changed nothing leaves the process fit for the next attempt.
                process = matches!(outcome, Outcome::Denied(_) | Outcome::Absent).then_some(running);
            }
        }
    }
}

/// Broker's own wall, in copies of this process, which is in broker's place.
fn attack_broker(layout: Layout, workshop: &Workshop, targets: &mut Targets) {
    let (socket, _peer) = Channel::pair_fds().unwrap();
    let mut sibling = workshop.start(Role::Vault, Some(layers("sealed")));
    for probe in probes() {
        put_bait(Path::new(&*targets.state_dir), layout);
        if !sibling.lives() {
            sibling = workshop.start(Role::Vault, Some(layers("sealed")));
        }
        targets.sibling = sibling.pid();
        let world = World::new(targets.clone(), socket.as_raw_fd(), Held::look(Role::Broker));
        let outcome = in_child(ATTEMPT, || probe.run(&world)).unwrap();
        println!("{}\tsealed\t{}\tbroker\t{outcome}", layout.name(), probe.name);
    }
}

/// Nobody of the same uid reads a sealed role's memory, and its death leaves no core. A process that takes no such care is
/// the twin, which can be read.
fn look_in_from_outside(workshop: &Workshop) {
    let open = |pid: u32, name: &str| std::fs::File::open(format!("/proc/{pid}/{name}"));
    let mut twin = Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    for name in ["mem", "environ"] {
        // It becomes another program, and readable, a moment after its start has been reported.
        system_tests::wait_for(&format!("{name} of an ordinary process of the same uid"), || {
            open(twin.id(), name).ok()
        });
    }
    twin.kill().unwrap();
    twin.wait().unwrap();
    for role in ROLES {
        let process = workshop.start(role, Some(layers("sealed")));
        for name in ["mem", "environ"] {
            let seen = open(process.pid(), name).err().map(|error| error.kind());
            assert_eq!(seen, Some(ErrorKind::PermissionDenied), "{role}: {name}");
        }
        assert!(!process.aborts_with_core(), "{role} leaves a core");
    }
}
