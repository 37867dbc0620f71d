//! Makes confine's attempts from where it is started and prints how each ended: `tests/container.rs` builds it statically
//! and starts it inside a container, and in one without walls.
#![allow(clippy::unwrap_used, reason = "a probe that fails should stop")]

use confine::probe::{Held, Outcome, Targets, World, in_child, probes};
use proto::bounded::BoundedStr;
use proto::ids::Role;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn main() {
    let (socket, _other) = UnixStream::pair().unwrap();
    let targets = Targets {
        state_dir: BoundedStr::truncated("/nonexistent"),
        docker_socket: BoundedStr::truncated("/var/run/docker.sock"),
        // What a container has of those: its init, and what started this.
        broker: 1,
        sibling: std::os::unix::process::parent_id(),
        port: 9,
        abstract_name: BoundedStr::truncated("nobody"),
    };
    let world = World::new(targets, socket.as_raw_fd(), Held::look(Role::Sandboxd));
    for probe in probes().filter(|probe| !probe.matrix_only) {
        let outcome = in_child(Duration::from_secs(2), || probe.run(&world)).unwrap_or(Outcome::Silent);
        let lacking = matches!(outcome, Outcome::Denied(errno)
            if probe.lacking.iter().any(|(lacks, _)| *lacks == i32::from(errno)));
        println!("{} {}", probe.name, if lacking { "Lacking".to_owned() } else { format!("{outcome:?}") });
    }
}
