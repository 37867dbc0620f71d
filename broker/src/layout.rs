//! The state directory, the identities and the listener: everything broker does while it may still be root.

use crate::words::Identities;
use confine::directories::{Lock, LockError, adopt, credential, private, private_file};
use confine::spawn::Identity;
use confine::startup::StartError;
use proto::control::{Layout, Resource};
use proto::ids::Role;
use rustix::fs::{AtFlags, fstat, unlinkat};
use rustix::io::Errno;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// First uid and gid of the roles where broker starts as root; each role adds its index. The range 60578 to 61183 is the
/// one that systemd's table of uids leaves unused (systemd.io/UIDS-GIDS).
pub const FIRST_UID: u32 = 60_600;
/// Name of the configuration file.
const CONFIG: &str = "moltbot.json";

/// Each directory, whose it is, and what it is handed over as.
const DIRECTORIES: [(&str, Role, Resource); 5] = [
    ("logs", Role::Auditd, Resource::LogDir),
    ("keys", Role::Vault, Resource::KeyDir),
    ("vault", Role::Vault, Resource::VaultDir),
    ("sessions", Role::Gateway, Resource::SessionDir),
    // The launcher makes and mounts workspaces; with Docker they live in the container alone.
    ("workspaces", Role::Launcher, Resource::WorkspaceDir),
];

/// The state directory, locked for this broker.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    root: OwnedFd,
    run: OwnedFd,
    directories: Vec<(Resource, OwnedFd)>,
    lock: Lock,
}

impl StateDir {
    /// Makes, repairs and locks the directory.
    ///
    /// # Errors
    /// [`StartError`]; where another broker has it, with that broker's pid.
    pub fn prepare(path: &Path) -> Result<Self, StartError> {
        let failed = |name: &str| {
            let at = path.join(name);
            move |errno: Errno| {
                StartError::permanent(format!("{}: {errno}; it must be yours, and no link", at.display()))
            }
        };
        let owner = |role: Role| is_root().then_some(FIRST_UID + role.index());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| StartError::permanent(format!("{}: {error}", parent.display())))?;
        }
        let root = private(None, path, owner(Role::Broker)).map_err(failed(""))?;
        let run = private(Some(root.as_fd()), Path::new("run"), owner(Role::Broker)).map_err(failed("run"))?;
        // Locked before anything else is touched: it may be another broker's.
        let lock = Lock::take(run.as_fd(), "lock").map_err(|error| match error {
            LockError::Held(pid) => StartError::permanent(format!(
                "moltbot already runs on {} with pid {pid}; `moltbot down` stops it",
                path.display()
            )),
            LockError::Os(error) => StartError::permanent(format!("{}: {error}", path.join("run/lock").display())),
        })?;
        let open = |(name, role, resource): (&str, Role, Resource)| {
            let directory = private(Some(root.as_fd()), Path::new(name), owner(role)).map_err(failed(name))?;
            // Workspaces hold what sandboxes made, and are the launcher's business.
            if let Some(owner) = owner(role).filter(|_| resource != Resource::WorkspaceDir) {
                adopt(directory.as_fd(), owner).map_err(failed(name))?;
            }
            Ok((resource, directory))
        };
        let mut directories = DIRECTORIES.into_iter().map(open).collect::<Result<Vec<_>, StartError>>()?;
        let key = credential("secrets.key").map_err(failed("the credential secrets.key"))?;
        directories.extend(key.map(|fd| (Resource::MasterKey, fd)));
        private_file(root.as_fd(), CONFIG, owner(Role::Broker)).map_err(failed(CONFIG))?;
        private_file(root.as_fd(), "lockdown.json", owner(Role::Broker)).map_err(failed("lockdown.json"))?;
        Ok(Self { path: path.to_owned(), root, run, directories, lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the configuration is.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The directory of sockets and the lock.
    #[must_use]
    pub const fn run(&self) -> &OwnedFd {
        &self.run
    }

    /// The directory that a role is given.
    #[must_use]
    pub fn directory(&self, resource: Resource) -> Option<&OwnedFd> {
        self.directories.iter().find(|(kind, _)| *kind == resource).map(|(_, fd)| fd)
    }

    /// Takes away what says that a broker runs here.
    pub fn leave(&self) {
        let _ = unlinkat(&self.run, "operator.sock", AtFlags::empty());
        self.lock.blank();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Binds the port on loopback. The listener stays here: while gateway restarts, clients queue and are not refused.
///
/// # Errors
/// [`StartError`] that names the port.
pub fn listen(port: u16) -> Result<TcpListener, StartError> {
    let bind = || -> std::io::Result<TcpListener> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error| {
        StartError::permanent(format!("cannot listen on 127.0.0.1:{port}: {error}; choose another with --port"))
    })
}

/// Root becomes broker's own uid with four capabilities; anybody else stays who they are, under a stricter floor.
///
/// # Errors
/// [`StartError`] where an identity cannot be taken, or one uid for all has no wall on this kernel.
pub fn become_broker(state_dir: &StateDir) -> Result<Identities, StartError> {
    if is_root() {
        let uid = FIRST_UID + Role::Broker.index();
        confine::privileges::become_broker(uid, uid)
            .map_err(|errno| StartError::permanent(format!("cannot become uid {uid}: {errno}")))?;
        return Ok(Identities::Split { owner: 0 });
    }
    // Each role asks again for itself; here it is said once, before anything starts.
    confine::walls::floor(Layout::SingleUid, confine::landlock_abi())?;
    let owner = fstat(state_dir.run().as_fd()).map_err(StartError::permanent)?.st_uid;
    Ok(Identities::Single { owner })
}

/// Who a role is to be.
#[must_use]
pub fn identity(identities: Identities, role: Role, docker_group: Option<u32>) -> Identity {
    match identities {
        Identities::Split { .. } => {
            let uid = FIRST_UID + role.index();
            let gid = if role == Role::Sandboxd { docker_group.unwrap_or(uid) } else { uid };
            Identity::Own { uid, gid }
        }
        Identities::Single { .. } => {
            Identity::Same { uid: rustix::process::getuid().as_raw(), gid: rustix::process::getgid().as_raw() }
        }
    }
}
