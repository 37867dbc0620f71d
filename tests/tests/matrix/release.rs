//! Programs that are built without the probes have none of them.

use super::place::Place;
use super::role::{ROLES, Workshop};
use confine::probe::Targets;
use proto::bounded::BoundedStr;
use proto::control::Layout;
use std::path::{Path, PathBuf};
use std::process::Command;
use system_tests::is_root;

const ANSWERS: &str = "moltbot-probes-are-answered-here";
/// Only a test build has these: what it says at its start, and names of attempts.
const MARKERS: [&str; 3] = [ANSWERS, "process_vm_readv_sibling", "open_broker_environ"];

/// By grep, since an unoptimised search through so many bytes takes a minute.
fn holds(program: &Path, marker: &str) -> bool {
    let status = Command::new("grep").args(["--quiet", "--fixed-strings", "--", marker]).arg(program).status().unwrap();
    assert!(matches!(status.code(), Some(0 | 1)), "{}: {status}", program.display());
    status.success()
}

fn directory(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{variable} is not set: run `cargo xtask matrix`"))
}

/// The program of the drill is shipped, and has the attempts, but answers to nobody but broker.
const DRILL: &str = "moltbot-drill";

/// The roles as they are shipped lack every marker; the test builds have them, or the marker is none.
pub fn lacks_probes(faults: &mut Vec<String>) {
    let (normal, probed) = (directory("MOLTBOT_BIN_DIR"), directory("MOLTBOT_PROBE_BIN_DIR"));
    for marker in MARKERS {
        for name in ROLES.map(|role| format!("moltbot-{role}")) {
            if !holds(&probed.join(&name), marker) {
                faults.push(format!("the test build of {name} lacks the marker {marker}"));
            }
            if holds(&normal.join(&name), marker) {
                faults.push(format!("{name} holds the marker {marker} of a test build"));
            }
        }
        if holds(&normal.join(DRILL), marker) == (marker == ANSWERS) {
            faults.push(format!("{DRILL} holds the answering of probes, or lacks the attempts: {marker}"));
        }
        for name in ["moltbot-broker", "moltbot"] {
            if holds(&normal.join(name), marker) {
                faults.push(format!("{name} holds the marker {marker} of a test build"));
            }
        }
    }
}

/// The roles as they are shipped end over the word, and answer nothing. Their twins are the matrix's own processes.
pub fn answer_no_probe(faults: &mut Vec<String>) {
    let _three = confine::spawn::reserve_control_fd().unwrap();
    let place = Place::make(if is_root() { Layout::SplitUid } else { Layout::SingleUid });
    let workshop = Workshop::open(place.layout, place.path(), &directory("MOLTBOT_BIN_DIR"));
    let targets = Targets {
        state_dir: BoundedStr::truncated("/nonexistent"),
        docker_socket: BoundedStr::truncated("/nonexistent"),
        broker: std::process::id(),
        sibling: std::process::id(),
        port: 9,
        abstract_name: BoundedStr::truncated("none"),
    };
    for role in ROLES {
        if !workshop.start(role, None).refuses_probes(&targets) {
            faults.push(format!("{role} as it is shipped answers a probe, or goes on after the word for one"));
        }
    }
}
