//! The state directory, the identities and the listener: everything broker does while it may still be root.
//!
//! Directories are capabilities: each role's is opened once and handed over as a descriptor, so the state directory
//! itself stays 0700. Modes and owners are put right at every start, through descriptors, never through a symlink.

use crate::words::Identities;
use confine::spawn::Identity;
use confine::startup::StartError;
use proto::control::Resource;
use proto::ids::Role;
use rustix::fs::{
    AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, fchmod, fchown, flock, fstat, mkdirat, open, openat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// First uid and gid of the roles where broker starts as root; each role adds its index. The range 60578 to 61183 is the
/// one that systemd's table of uids leaves unused (systemd.io/UIDS-GIDS).
pub const FIRST_UID: u32 = 60_600;
/// Name of the configuration file.
const CONFIG: &str = "moltbot.json";

const DIRECTORIES: [(&str, Option<(Role, Resource)>); 6] = [
    ("logs", Some((Role::Auditd, Resource::LogDir))),
    ("keys", Some((Role::Vault, Resource::KeyDir))),
    ("vault", Some((Role::Vault, Resource::VaultDir))),
    ("sessions", Some((Role::Gateway, Resource::SessionDir))),
    // The launcher makes and mounts workspaces; with Docker they live in the container alone.
    ("workspaces", Some((Role::Launcher, Resource::WorkspaceDir))),
    ("run", None),
];

/// The state directory, locked for this broker.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    run: OwnedFd,
    directories: Vec<(Resource, OwnedFd)>,
    lock: File,
}

fn failed(what: &str, path: &Path, errno: Errno, todo: &str) -> StartError {
    StartError::permanent(format!("{what} {}: {errno}; {todo}", path.display()))
}

impl StateDir {
    /// Makes, repairs and locks the directory.
    ///
    /// # Errors
    /// [`StartError`]; where another broker has it, with that broker's pid.
    pub fn prepare(path: &Path) -> Result<Self, StartError> {
        let todo = "it must be a directory of yours";
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| StartError::permanent(format!("{}: {error}", parent.display())))?;
        }
        match mkdirat(rustix::fs::CWD, path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("cannot make", path, errno, todo)),
        }
        let root = open(path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed("cannot open", path, errno, todo))?;
        let mut directories = Vec::new();
        let mut run = None;
        for (name, owner) in DIRECTORIES {
            let at = path.join(name);
            let fd = directory(&root, name).map_err(|errno| failed("cannot make", &at, errno, todo))?;
            let uid = FIRST_UID + owner.map_or(Role::Broker, |(role, _)| role).index();
            set(&fd, Mode::RWXU, uid).map_err(|errno| failed("cannot repair", &at, errno, "it must belong to you"))?;
            match owner {
                Some((_, resource)) => directories.push((resource, fd)),
                None if name == "run" => run = Some(fd),
                None => {}
            }
        }
        set(&root, Mode::RWXU, FIRST_UID)
            .map_err(|errno| failed("cannot repair", path, errno, "it must belong to you"))?;
        let run = run.ok_or_else(|| StartError::internal("the table of directories has no run"))?;
        let lock = lock(&run, path)?;
        repair_config(&root, path)?;
        Ok(Self { path: path.to_owned(), run, directories, lock })
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
    pub fn leave(&mut self) {
        let _ = unlinkat(&self.run, "operator.sock", AtFlags::empty());
        let _ = self.lock.set_len(0);
    }
}

fn directory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Mode and, as root, owner of what `fd` is.
fn set(fd: &OwnedFd, mode: Mode, uid: u32) -> Result<(), Errno> {
    if is_root() {
        fchown(fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))?;
    }
    fchmod(fd, mode)
}

fn lock(run: &OwnedFd, path: &Path) -> Result<File, StartError> {
    let cannot = |errno| failed("cannot lock", path, errno, "look at run/lock in it");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(run, "lock", flags, Mode::RUSR | Mode::WUSR).map_err(cannot)?;
    let locked = flock(&fd, FlockOperation::NonBlockingLockExclusive);
    let mut file = File::from(fd);
    match locked {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(StartError::permanent(format!(
                "moltbot already runs on {} with pid {}; `moltbot down` stops it",
                path.display(),
                pid.trim()
            )));
        }
        Err(errno) => return Err(cannot(errno)),
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| StartError::permanent(format!("run/lock: {error}")))?;
    Ok(file)
}

/// The configuration may hold what others should not read.
fn repair_config(root: &OwnedFd, path: &Path) -> Result<(), StartError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(root, CONFIG, flags, Mode::empty()) {
        Ok(fd) => set(&fd, Mode::RUSR | Mode::WUSR, FIRST_UID)
            .map_err(|errno| failed("cannot repair", &path.join(CONFIG), errno, "it must belong to you")),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed("cannot open", &path.join(CONFIG), errno, "it must be a file and no link")),
    }
}

/// Occupies descriptor 3 for as long as the result lives.
///
/// # Errors
/// [`StartError`] where /dev/null cannot be opened.
pub fn reserve_descriptor_three() -> Result<Vec<OwnedFd>, StartError> {
    let mut taken = Vec::new();
    while taken.last().is_none_or(|fd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(fd) < 3) {
        let fd = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        taken.push(fd.map_err(|errno| StartError::permanent(format!("/dev/null: {errno}")))?);
    }
    Ok(taken)
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
    let abi = confine::landlock_abi();
    if abi < 6 {
        return Err(StartError::permanent(format!(
            "with one uid for all roles Landlock must rule signals (ABI 6, Linux 6.12) and this kernel has ABI {abi}; start as root, which gives each role its own uid"
        )));
    }
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
