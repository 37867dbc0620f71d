//! A state directory as broker lays it out, with bait in it, and what probes knock at.

use confine::directories::{private, private_file};
use proto::control::Layout;
use proto::ids::Role;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use system_tests::{USER, is_root};
use tempfile::TempDir;

/// As broker's: a uid for each role from here on.
pub const FIRST_UID: u32 = 60_600;

/// Both layouts.
pub const LAYOUTS: [Layout; 2] = [Layout::SplitUid, Layout::SingleUid];

/// Whose a thing of this role is, where that must be said.
fn owner(layout: Layout, role: Role) -> Option<u32> {
    match layout {
        Layout::SplitUid => Some(FIRST_UID + role.index()),
        Layout::SingleUid => is_root().then_some(USER),
    }
}

const DIRECTORIES: [(&str, Role); 6] = [
    ("run", Role::Broker),
    ("logs", Role::Auditd),
    ("keys", Role::Vault),
    ("vault", Role::Vault),
    ("sessions", Role::Gateway),
    ("workspaces", Role::Launcher),
];
/// Files that are bait. The vault makes its own.
const BAIT: [(&str, &str, Role); 5] = [
    ("sessions", "bait.jsonl", Role::Gateway),
    ("logs", "bait.jsonl", Role::Auditd),
    ("logs", "auth-audit.jsonl", Role::Auditd),
    ("run", "lock", Role::Broker),
    ("", "moltbot.json", Role::Broker),
];

/// The place, and the sockets that listen there.
pub struct Place {
    /// Who the roles are.
    pub layout: Layout,
    dir: TempDir,
    _docker: UnixListener,
    _operator: OwnedFd,
}

impl Place {
    /// Makes it, with the roles' programs of the test build.
    pub fn make(layout: Layout) -> Self {
        let dir = tempfile::Builder::new().prefix("moltbot-matrix.").tempdir().unwrap();
        open_to_all(dir.path());
        let state = dir.path().join("state");
        let root = private(None, &state, owner(layout, Role::Broker)).unwrap();
        for (name, role) in DIRECTORIES {
            private(Some(root.as_fd()), Path::new(name), owner(layout, role)).unwrap();
        }
        put_bait(&state, layout);
        let docker = UnixListener::bind(dir.path().join("docker.sock")).unwrap();
        // As an engine's socket: root's, and the group's that sandboxd gets.
        let group = (layout == Layout::SplitUid).then_some(FIRST_UID + Role::Sandboxd.index());
        let user = (layout == Layout::SingleUid && is_root()).then_some(USER);
        chown(dir.path().join("docker.sock"), user, group).unwrap();
        set_mode(&dir.path().join("docker.sock"), 0o660);
        let operator = door(&state.join("run/operator.sock"), owner(layout, Role::Broker));
        copy_programs(&dir.path().join("bin"));
        Self { layout, dir, _docker: docker, _operator: operator }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// This program, where the layout's user can execute it.
    pub fn own_program(&self) -> PathBuf {
        self.dir.path().join("bin/matrix")
    }
}

/// Puts back what an allowed attempt has taken, where that is possible.
pub fn put_bait(state: &Path, layout: Layout) {
    for (dir, name, role) in BAIT {
        let dir = state.join(dir);
        let file = dir.join(name);
        if !file.exists() && std::fs::write(&file, "").is_ok() {
            let dir = std::fs::File::open(dir).unwrap();
            let of = is_root().then(|| owner(layout, role)).flatten();
            private_file(dir.as_fd(), name, of).unwrap();
        }
    }
}

fn door(path: &Path, owner: Option<u32>) -> OwnedFd {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    chown(path, owner, owner).unwrap();
    set_mode(path, 0o660);
    listen(&socket, 16).unwrap();
    socket
}

fn copy_programs(to: &Path) {
    let from = std::env::var_os("MOLTBOT_PROBE_BIN_DIR").map(PathBuf::from);
    let from = from.expect("MOLTBOT_PROBE_BIN_DIR is not set: run `cargo xtask matrix`");
    std::fs::create_dir(to).unwrap();
    open_to_all(to);
    for role in super::role::ROLES {
        std::fs::copy(from.join(format!("moltbot-{role}")), to.join(format!("moltbot-{role}"))).unwrap();
        set_mode(&to.join(format!("moltbot-{role}")), 0o755);
    }
    std::fs::copy(std::env::current_exe().unwrap(), to.join("matrix")).unwrap();
    set_mode(&to.join("matrix"), 0o755);
}

fn open_to_all(path: &Path) {
    set_mode(path, 0o755);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
