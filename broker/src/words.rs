//! What each role is told at its start: its part of the configuration and its descriptors, and nothing of another's.

use crate::layout::{StateDir, identity};
use config::Config;
use confine::spawn::Identity;
use confine::startup::StartError;
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec, TooLong};
use proto::control::{BackendChoice, Keep, Layout, LogFiles, Resource, RoleConfig, Scope, Sizes};
use proto::ids::Role;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

/// Whether roles have uids of their own. `owner` is the operator's uid.
#[derive(Clone, Copy, Debug)]
pub enum Identities {
    /// Started as root: a numeric uid each.
    Split {
        /// The operator.
        owner: u32,
    },
    /// Started by a user: one uid for all.
    Single {
        /// The operator.
        owner: u32,
    },
}

impl Identities {
    /// The layout.
    #[must_use]
    pub const fn layout(self) -> Layout {
        match self {
            Self::Split { .. } => Layout::SplitUid,
            Self::Single { .. } => Layout::SingleUid,
        }
    }

    /// Whose word counts on the operator socket, beside root's.
    #[must_use]
    pub const fn owner(self) -> u32 {
        match self {
            Self::Split { owner } | Self::Single { owner } => owner,
        }
    }
}

/// Everything that was decided before broker sealed itself.
#[derive(Debug)]
pub struct Setup {
    /// Where the state is.
    pub state_dir: StateDir,
    /// What the operator configured.
    pub config: Config,
    /// Where clients connect.
    pub listener: TcpListener,
    /// Who the roles are.
    pub identities: Identities,
}

impl Setup {
    /// Who the role is to be.
    #[must_use]
    pub fn identity(&self, role: Role) -> Identity {
        // The engine's socket tells the group that may use it; sandboxd gets that one and no other role does.
        let group =
            std::fs::metadata(self.config.docker_socket()).map(|socket| socket.gid()).ok().filter(|gid| *gid != 0);
        identity(self.identities, role, group)
    }

    /// The role's part of a configuration.
    ///
    /// # Errors
    /// [`StartError`] where a value is longer than its bound.
    pub fn role_config(&self, role: Role, config: &Config) -> Result<RoleConfig, StartError> {
        self.words(role, config).map_err(|error| StartError::permanent(format!("the configuration of {role}: {error}")))
    }

    fn words(&self, role: Role, config: &Config) -> Result<RoleConfig, TooLong> {
        let path = self.state_dir.path();
        Ok(match role {
            Role::Auditd => {
                let patterns = config.logging.redact_patterns.iter().map(BoundedStr::new);
                let redact = BoundedVec::new(patterns.collect::<Result<Vec<_>, _>>()?)?;
                let files = LogFiles { bytes: config.logging.max_file_bytes, days: config.logging.max_file_days };
                RoleConfig::Auditd { layout: BoundedStr::truncated(self.identities.layout().name()), redact, files }
            }
            Role::Vault => RoleConfig::Vault {
                senders: BoundedVec::texts(config.senders())?,
                answers: BoundedVec::texts(config.answer_keys())?,
            },
            Role::Sandboxd => RoleConfig::Sandboxd {
                docker_socket: BoundedStr::new(config.docker_socket())?,
                workspaces: BoundedStr::new(path.join("workspaces").to_string_lossy())?,
                image: BoundedStr::new(config.sandbox_image())?,
                backend: match config.sandbox_backend() {
                    config::Backend::Auto => BackendChoice::Auto,
                    config::Backend::Docker => BackendChoice::Docker,
                    config::Backend::Native => BackendChoice::Native,
                },
                instance: BoundedStr::truncated(&instance(path)),
                exec: BoundedBytes::new(config.exec_json().into_bytes())?,
                tools: BoundedBytes::new(config.tools_json().into_bytes())?,
                modes: BoundedBytes::new(config.modes_json().into_bytes())?,
                sizes: sizes(&config.agents.defaults.sandbox.docker),
                keep: keep(&config.agents.defaults.sandbox),
                scope: match config.agents.defaults.sandbox.scope {
                    config::SandboxScope::Session => Scope::Session,
                    config::SandboxScope::Agent => Scope::Agent,
                    config::SandboxScope::Shared => Scope::Shared,
                },
            },
            Role::Dialer => RoleConfig::Dialer {
                allow: BoundedVec::texts(config.allowed())?,
                local: BoundedVec::texts([config.local(true), config.local(false)].concat())?,
                resolver: BoundedStr::new(config.egress.resolver.as_str())?,
            },
            Role::Egress => RoleConfig::Egress {
                plain: BoundedVec::texts(config.local(false))?,
                local: BoundedVec::texts(config.local(true))?,
                ca: BoundedStr::new(config.egress.ca.as_str())?,
            },
            Role::Gateway => RoleConfig::Gateway {
                redacted_config: BoundedBytes::new(config.redacted_json().into_bytes())?,
                config_path: BoundedStr::truncated(&self.state_dir.config_path().to_string_lossy()),
                state_dir: BoundedStr::truncated(&path.to_string_lossy()),
                host: BoundedStr::truncated(&rustix::system::uname().nodename().to_string_lossy()),
            },
            Role::Launcher | Role::Broker => RoleConfig::Launcher,
        })
    }

    /// The role's descriptors.
    #[must_use]
    pub fn resources(&self, role: Role) -> Vec<(Resource, BorrowedFd<'_>)> {
        let wanted: &[Resource] = match role {
            Role::Auditd => &[Resource::LogDir],
            Role::Vault => &[Resource::KeyDir, Resource::VaultDir, Resource::MasterKey],
            Role::Gateway => &[Resource::Listener, Resource::SessionDir],
            Role::Launcher => &[Resource::WorkspaceDir],
            Role::Sandboxd | Role::Dialer | Role::Egress | Role::Broker => &[],
        };
        let open = |resource: &Resource| match resource {
            Resource::Listener => Some((*resource, self.listener.as_fd())),
            other => self.state_dir.directory(*other).map(|fd| (*other, fd.as_fd())),
        };
        wanted.iter().filter_map(open).collect()
    }
}

const fn keep(sandbox: &config::Sandbox) -> Keep {
    let prune = &sandbox.prune;
    Keep { pool: sandbox.pool, idle_hours: prune.idle_hours, age_days: prune.max_age_days }
}

const fn sizes(docker: &config::Docker) -> Sizes {
    Sizes { memory: docker.memory.0, millicpus: docker.cpus.0, pids: docker.pids_limit }
}

/// Tells installations on one machine apart: FNV-1a of the state directory's path. Not a secret.
fn instance(path: &std::path::Path) -> String {
    let hash = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
