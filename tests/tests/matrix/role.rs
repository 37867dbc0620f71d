//! One role's process, started and configured as broker would, up to its walls.

use super::place::FIRST_UID;
use confine::probe::{Outcome, Targets, ending};
use confine::spawn::{Identity, Spawned, spawn};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError};
use proto::control::{
    BackendChoice, FromRole, Keep, Layout, LogFiles, MAX_CONTROL, Resource, RoleConfig, Scope, Sizes, ToRole,
};
use proto::ids::Role;
use proto::probe::{Layers, ToProbed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getgid, getuid, pidfd_send_signal, waitid, waitpid,
};
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use system_tests::PATIENCE;

/// Every role that broker starts.
pub const ROLES: [Role; 7] =
    [Role::Auditd, Role::Vault, Role::Sandboxd, Role::Dialer, Role::Egress, Role::Gateway, Role::Launcher];
/// How long one attempt may take.
pub const ATTEMPT: Duration = Duration::from_secs(20);

/// What roles are started from.
pub struct Workshop {
    layout: Layout,
    dir: PathBuf,
    programs: Vec<(Role, OwnedFd)>,
    directories: Vec<(Resource, OwnedFd)>,
}

impl Workshop {
    /// Opens everything, while that is still possible.
    pub fn open(layout: Layout, dir: &Path, programs: &Path) -> Self {
        let program = |role: Role| {
            let path = programs.join(format!("moltbot-{role}"));
            (role, open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap())
        };
        let directory = |(name, resource): (&str, Resource)| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            (resource, open(dir.join("state").join(name), flags, Mode::empty()).unwrap())
        };
        let directories = [
            ("logs", Resource::LogDir),
            ("keys", Resource::KeyDir),
            ("vault", Resource::VaultDir),
            ("sessions", Resource::SessionDir),
            ("workspaces", Resource::WorkspaceDir),
        ];
        Self {
            layout,
            dir: dir.to_owned(),
            programs: ROLES.into_iter().map(program).collect(),
            directories: directories.into_iter().map(directory).collect(),
        }
    }

    fn identity(&self, role: Role) -> Identity {
        match self.layout {
            Layout::SplitUid => Identity::Own { uid: FIRST_UID + role.index(), gid: FIRST_UID + role.index() },
            Layout::SingleUid => Identity::Same { uid: getuid().as_raw(), gid: getgid().as_raw() },
        }
    }

    fn config(&self, role: Role) -> RoleConfig {
        let text = |path: &str| self.dir.join(path).to_string_lossy().into_owned();
        match role {
            Role::Auditd => RoleConfig::Auditd {
                layout: BoundedStr::truncated(self.layout.name()),
                redact: BoundedVec::default(),
                files: LogFiles::default(),
            },
            Role::Vault => RoleConfig::Vault { senders: BoundedVec::default(), answers: BoundedVec::default() },
            Role::Sandboxd => RoleConfig::Sandboxd {
                docker_socket: BoundedStr::truncated(&text("docker.sock")),
                workspaces: BoundedStr::truncated(&text("state/workspaces")),
                image: BoundedStr::truncated("none"),
                backend: BackendChoice::Docker,
                instance: BoundedStr::truncated("0123456789abcdef"),
                exec: BoundedBytes::new(br#"{"ask":"off"}"#.to_vec()).unwrap(),
                tools: BoundedBytes::new(b"{}".to_vec()).unwrap(),
                modes: BoundedBytes::new(b"{}".to_vec()).unwrap(),
                sizes: Sizes::default(),
                keep: Keep::default(),
                scope: Scope::default(),
            },
            Role::Dialer => RoleConfig::Dialer {
                allow: BoundedVec::new(vec![BoundedStr::truncated("example.org:443")]).unwrap(),
                local: BoundedVec::default(),
                resolver: BoundedStr::truncated("192.0.2.53:53"),
            },
            Role::Egress => RoleConfig::Egress {
                plain: BoundedVec::default(),
                local: BoundedVec::default(),
                ca: BoundedStr::default(),
            },
            Role::Gateway => RoleConfig::Gateway {
                redacted_config: BoundedBytes::new(b"{}".to_vec()).unwrap(),
                config_path: BoundedStr::truncated(&text("state/moltbot.json")),
                state_dir: BoundedStr::truncated(&text("state")),
                host: BoundedStr::truncated("matrix"),
            },
            Role::Launcher | Role::Broker => RoleConfig::Launcher,
        }
    }

    /// Starts a role and lets it raise these layers.
    pub fn start(&self, role: Role, layers: Option<Layers>) -> Process {
        let process = self.begin(role);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let wanted: &[Resource] = match role {
            Role::Auditd => &[Resource::LogDir],
            Role::Vault => &[Resource::KeyDir, Resource::VaultDir],
            Role::Gateway => &[Resource::Listener, Resource::SessionDir],
            Role::Launcher => &[Resource::WorkspaceDir],
            _ => &[],
        };
        let fd = |resource: &Resource| match self.directories.iter().find(|(kind, _)| kind == resource) {
            Some((_, fd)) => fd.as_fd(),
            None => listener.as_fd(),
        };
        let fds: Vec<BorrowedFd<'_>> = wanted.iter().map(fd).collect();
        let resources = BoundedVec::new(wanted.to_vec()).unwrap();
        let configure = ToRole::Configure { layout: self.layout, config: self.config(role), resources };
        process.channel.send_note(&configure, MAX_CONTROL, &fds, Instant::now() + PATIENCE).unwrap();
        if let Some(layers) = layers {
            process.channel.send_note(&ToProbed::Raise(layers), MAX_CONTROL, &[], Instant::now() + PATIENCE).unwrap();
        }
        let word = process.hear();
        assert!(matches!(word, Ok(FromRole::Confined(_))), "{role} does not come behind its walls: {word:?}");
        process
    }

    /// Starts a role that has said its name and schema.
    fn begin(&self, role: Role) -> Process {
        let (ours, theirs) = Channel::pair_fds().unwrap();
        let log: OwnedFd = match std::env::var_os("MOLTBOT_MATRIX_LOG") {
            Some(path) => File::options().append(true).create(true).open(path).unwrap().into(),
            None => File::options().write(true).open("/dev/null").unwrap().into(),
        };
        let program = self.programs.iter().find(|(of, _)| *of == role).unwrap().1.as_fd();
        let spawned = spawn(program, &format!("moltbot-{role}"), theirs.as_fd(), log, self.identity(role)).unwrap();
        let process = Process { channel: Channel::from_fd(ours), spawned, over: false };
        let word = process.hear();
        assert!(matches!(word, Ok(FromRole::Hello { role: said, .. }) if said == role), "{role}: {word:?}");
        process
    }
}

/// A started role.
pub struct Process {
    channel: Channel,
    spawned: Spawned,
    over: bool,
}

impl Process {
    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.spawned.pid
    }

    /// True while it runs.
    pub fn lives(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !self.over && poll(&mut [PollFd::new(&self.spawned.pidfd, PollFlags::IN)], Some(&now)) == Ok(0)
    }

    fn hear(&self) -> Result<FromRole, ChannelError> {
        let packet = self.channel.recv_by(MAX_CONTROL, 0, Instant::now() + PATIENCE)?;
        Channel::decode_note(packet, MAX_CONTROL).map(|(word, _)| word)
    }

    /// Lets it make one attempt. It may end over it.
    pub fn attempt(&mut self, number: u16, targets: &Targets) -> Outcome {
        let word = ToProbed::Probe(number, targets.clone());
        self.channel.send_note(&word, MAX_CONTROL, &[], Instant::now() + PATIENCE).unwrap();
        let answer = self.channel.recv_by(MAX_CONTROL, 0, Instant::now() + ATTEMPT);
        match answer.and_then(|packet| Channel::decode_note(packet, MAX_CONTROL)) {
            Ok((outcome, _)) => outcome,
            Err(ChannelError::Closed) => self.reap(),
            Err(_) => {
                self.kill();
                Outcome::Silent
            }
        }
    }

    /// What it says to a word that a release does not know; true where it ended over it without one of its own.
    pub fn refuses_probes(mut self, targets: &Targets) -> bool {
        let word = ToProbed::Probe(0, targets.clone());
        self.channel.send_note(&word, MAX_CONTROL, &[], Instant::now() + PATIENCE).unwrap();
        let silent =
            matches!(self.channel.recv_by(MAX_CONTROL, 0, Instant::now() + ATTEMPT), Err(ChannelError::Closed));
        silent && self.reap() == Outcome::Silent
    }

    /// Ends it as a bug would, and tells whether the kernel wrote a core.
    pub fn aborts_with_core(mut self) -> bool {
        pidfd_send_signal(&self.spawned.pidfd, Signal::ABORT).unwrap();
        self.over = true;
        let status = waitid(WaitId::PidFd(self.spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
        assert_eq!(status.terminating_signal(), Some(Signal::ABORT.as_raw()));
        status.dumped()
    }

    fn kill(&mut self) {
        let _ = pidfd_send_signal(&self.spawned.pidfd, Signal::KILL);
        let _ = self.reap();
    }

    fn reap(&mut self) -> Outcome {
        self.over = true;
        let pid = Pid::from_raw(i32::try_from(self.spawned.pid).unwrap());
        let (_, status) = waitpid(pid, WaitOptions::empty()).unwrap().unwrap();
        ending(status.terminating_signal(), status.exit_status())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.over {
            self.kill();
        }
    }
}
