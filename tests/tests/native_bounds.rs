//! Bombs in the native sandbox, at a sealed launcher whose workspaces are in a small file system of the test's own: each is
//! ended with an error that names its bound, and a command beside it goes on. Needs root, for the file system.

use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::channel::{Outgoing, decode_outgoing};
use proto::edge::{Edge, Refusal, SandboxdLauncher};
use proto::ids::Role;
use proto::sandbox::{Bounds, LaunchReply, LaunchRequest, WorkspaceName, shell};
use proto::topology::EdgeId;
use proto::wire::Kind;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};
use system_tests::misbehaviour::null;
use system_tests::play_broker::{Peer, Sealed};
use system_tests::{is_root, skip};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// A command's own time; no bomb gets it.
const TIME: u32 = 120;
const NEIGHBOUR: u32 = 1;
const BOMB: u32 = 2;

/// A file system of its own, gone with the test.
struct Disk(TempDir);

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

struct Launcher {
    sealed: Sealed,
    peer: Peer,
    bounds: Bounds,
    _disk: Disk,
}

fn workspace(id: u32) -> WorkspaceName {
    WorkspaceName(BoundedStr::truncated(&format!("{id:032x}")))
}

impl Launcher {
    fn on(options: &str, bounds: Bounds) -> Option<Self> {
        if !is_root() {
            skip("only root makes a file system");
            return None;
        }
        let disk = Disk(TempDir::new().unwrap());
        let made = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(disk.0.path()).status();
        assert!(made.unwrap().success(), "a tmpfs");
        let sealed = Sealed::start_in(Role::Launcher, TempDir::new_in(disk.0.path()).unwrap());
        sealed.make_ready();
        let peer = sealed.grant(EdgeId::SandboxdLauncher);
        Some(Self { sealed, peer, bounds, _disk: disk })
    }

    fn begin(&self, id: u32, command: &str) {
        let (words, cwd, bounds, null) = (shell(command).unwrap(), BoundedStr::default(), self.bounds, null());
        let request = LaunchRequest::Run { workspace: workspace(id), agent: None, words, cwd, timeout_s: TIME, bounds };
        self.peer.send(Kind::Request, id, &request, &[null.as_fd(), null.as_fd()]).unwrap();
    }

    fn end(&self) -> (u32, Result<LaunchReply, Refusal>) {
        let packet = self.peer.0.recv_by(SandboxdLauncher::MAX_REPLY, 0, Instant::now() + PATIENCE).unwrap();
        match decode_outgoing::<SandboxdLauncher>(packet).unwrap() {
            (id, Outgoing::Reply(reply, _)) => (id.0, Ok(reply)),
            (id, Outgoing::Refused(refusal)) => (id.0, Err(refusal)),
            (_, Outgoing::Chunk(_)) => panic!("no stream"),
        }
    }

    /// Which bound ends the bomb, while a neighbour goes on and ends by itself.
    fn bomb(&self, bomb: &str) -> Refusal {
        self.begin(NEIGHBOUR, ": > up; until [ -e stop ]; do read -t 1 line < /dev/zero || :; : > mine; done; exit 7");
        self.begin(BOMB, bomb);
        let (id, end) = self.end();
        let refusal = end.unwrap_err();
        assert_eq!(id, BOMB, "{refusal:?}");
        std::fs::write(self.sealed.dir().join("workspaces").join(workspace(NEIGHBOUR).0.as_str()).join("stop"), "")
            .unwrap();
        assert_eq!(self.end(), (NEIGHBOUR, Ok(LaunchReply::Ended(RunEnd::Exited(7)))), "after {refusal:?}");
        self.sealed.assert_alive();
        refusal
    }

    fn alone(&self, command: &str) -> Result<LaunchReply, Refusal> {
        self.begin(3, command);
        self.end().1
    }
}

const DONE: Result<LaunchReply, Refusal> = Ok(LaunchReply::Ended(RunEnd::Exited(0)));
const FILES: &str = "i=0; while :; do head -c 256K /dev/zero > f$i; i=$((i+1)); done";

#[test]
fn disk_bomb_of_many_files_is_ended_before_the_disk_is_full() {
    let bounds = Bounds { free_space: 512 << 20, free_inodes: 1_024, ..Bounds::default() };
    let Some(launcher) = Launcher::on("size=768m", bounds) else { return };
    let refusal = launcher.bomb(FILES);
    assert_eq!(refusal.rule.as_str(), "sandbox.native.floor");
    assert!(
        refusal.message.contains("the command was ended") && refusal.message.contains("native.freeSpace"),
        "{refusal:?}"
    );
    let full = launcher.alone("true").unwrap_err();
    assert!(full.message.contains("no command begins"), "{full:?}");
    std::fs::remove_dir_all(launcher.sealed.dir().join("workspaces").join(workspace(BOMB).0.as_str())).unwrap();
    assert_eq!(launcher.alone("true"), DONE, "with room again");
}

#[test]
fn inode_bomb_is_ended_before_no_file_can_be_made() {
    let bounds = Bounds { free_space: 1 << 20, free_inodes: 4_000, ..Bounds::default() };
    let Some(launcher) = Launcher::on("size=64m,nr_inodes=6000", bounds) else { return };
    let refusal = launcher.bomb("i=0; while :; do mkdir d$i; touch d$i/f; i=$((i+1)); done");
    assert_eq!(refusal.rule.as_str(), "sandbox.native.floor");
    assert!(
        refusal.message.contains("the command was ended") && refusal.message.contains("native.freeInodes"),
        "{refusal:?}"
    );
}

#[test]
fn command_that_writes_beyond_its_own_bound_is_ended_and_one_within_is_not() {
    let bounds = Bounds { writes: 32 << 20, free_space: 64 << 20, free_inodes: 1_024, ..Bounds::default() };
    let Some(launcher) = Launcher::on("size=1g", bounds) else { return };
    assert_eq!(launcher.bomb(FILES).rule.as_str(), "sandbox.native.writes");
    assert_eq!(launcher.alone("for i in 1 2 3; do head -c 8M /dev/zero > f$i; done; sleep 0.2"), DONE);
}

#[test]
fn memory_bomb_of_many_processes_is_ended_and_shared_memory_is_counted_once() {
    let bounds = Bounds { memory: 192 << 20, free_space: 1 << 20, free_inodes: 1_024, ..Bounds::default() };
    let Some(launcher) = Launcher::on("size=64m", bounds) else { return };
    let fill = "x=$(head -c 24M /dev/zero | tr '\\0' x)";
    let refusal =
        launcher.bomb(&format!("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do ({fill}; sleep 100; :) & done; wait"));
    assert_eq!(refusal.rule.as_str(), "sandbox.native.memory");
    assert!(refusal.message.contains("native.memory, 192 MiB"), "{refusal:?}");
    // Twelve that have the same pages.
    let shared = format!("{fill}; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do (sleep 1; :) & done; wait");
    assert_eq!(launcher.alone(&shared), DONE);
}
