//! `agents`: what an agent is, and above all where its commands run.

use super::scalar::{Cpus, Size};
use super::{ModelChoice, choice, section};

section! {
    /// `agents`
    #[derive(Default)]
    pub struct Agents {
        /// What holds for every agent.
        pub defaults: AgentDefaults,
        /// The agents: `main`, which is there whether it stands here or not, and others beside it.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub list: Vec<Agent>,
    }
}

section! {
    /// `agents.list[]`. Conversations of an agent have keys that begin with `agent:ID:`, and workspaces of their own.
    #[derive(Default)]
    pub struct Agent {
        /// Its name in keys: lower-case letters, digits, `-` and `_`; 32 at most.
        pub id: String,
        /// Its name for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub name: Option<String>,
        /// Upstream's: who is spoken to where no agent is named. That is `main`, and true is refused for another.
        pub default: bool,
        /// Upstream's directory of an agent. No effect: workspaces lie in the state directory, where no agent's word moves them.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub workspace: Option<String>,
        /// Which model answers for it, and which are asked in its place where it fails; in place of the defaults' whole choice.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub model: Option<ModelChoice>,
        /// What it may use; narrows what every agent may.
        pub tools: ToolLists,
    }
}

section! {
    /// `agents.defaults`
    #[derive(Default)]
    pub struct AgentDefaults {
        /// Upstream's directory of an agent. No effect: workspaces lie in the state directory, where no agent's word moves them.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub workspace: Option<String>,
        /// Where commands run.
        pub sandbox: Sandbox,
        /// Which model answers, as `provider/model`, and which are asked in its place where it fails.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub model: Option<ModelChoice>,
        /// Seconds after which an answer is given up, with everything that it has under way; 600 where nothing is said.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub timeout_seconds: Option<u32>,
        /// What it may use; narrows what `tools` leaves.
        pub tools: ToolLists,
    }
}

section! {
    /// `agents.defaults.sandbox`
    pub struct Sandbox {
        /// Which conversations run in Docker, where `backend` is `auto`; every one is confined, whatever stands here.
        pub mode: SandboxMode,
        /// Lets `mode` be `off`. A critical finding of the audit while it does.
        pub dangerously_allow_off: bool,
        /// Who shares a sandbox, and with it a workspace.
        pub scope: SandboxScope,
        /// What of its agent's workspace, which is the main conversation's, another conversation's sandbox sees.
        pub workspace_access: WorkspaceAccess,
        /// Which backend may serve.
        pub backend: Backend,
        /// The lowest tier of the native backend that may serve.
        pub native_floor: NativeFloor,
        /// What a command of the native backend may use.
        pub native: Native,
        /// The Docker backend.
        pub docker: Docker,
        /// What a sandboxed conversation may use; the guide's place for `tools.sandbox.tools`.
        pub tools: ToolLists,
        /// When sandboxes are removed, beside when their conversation ends; Docker only.
        pub prune: Prune,
        /// Containers that are started before a conversation needs one, 8 at most; each takes about 8 MB.
        pub pool: u8,
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            mode: SandboxMode::default(),
            dangerously_allow_off: false,
            scope: SandboxScope::default(),
            workspace_access: WorkspaceAccess::default(),
            backend: Backend::default(),
            native_floor: NativeFloor::default(),
            native: Native::default(),
            docker: Docker::default(),
            tools: ToolLists::default(),
            prune: Prune::default(),
            pool: 1,
        }
    }
}

choice! {
    /// `agents.defaults.sandbox.mode`
    pub enum SandboxMode {
        /// Every conversation but the main one, which has the native backend.
        #[default]
        NonMain,
        /// Every one.
        All,
        /// None: each has the native backend, in its agent's workspace. Refused without `dangerouslyAllowOff`.
        Off,
    }
}

choice! {
    /// `agents.defaults.sandbox.scope`
    pub enum SandboxScope {
        /// A sandbox for every conversation.
        #[default]
        Session,
        /// One for every agent.
        Agent,
        /// One for all.
        Shared,
    }
}

choice! {
    /// `agents.defaults.sandbox.workspaceAccess`
    pub enum WorkspaceAccess {
        /// Nothing.
        #[default]
        None,
        /// To be read, as `/agent`.
        Ro,
        /// To be written, as `/workspace`, in place of one of its own.
        Rw,
    }
}

choice! {
    /// `agents.defaults.sandbox.nativeFloor`
    pub enum NativeFloor {
        /// Namespaces and all that is beneath.
        N1,
        /// Landlock, seccomp and limits, where namespaces are forbidden.
        #[default]
        N2,
    }
}

choice! {
    /// `agents.defaults.sandbox.docker.runtime`
    pub enum Runtime {
        /// The usual one.
        #[default]
        Runc,
        /// gVisor: a kernel of its own for each container.
        Runsc,
    }
}

choice! {
    /// `agents.defaults.sandbox.backend`
    pub enum Backend {
        /// Docker where an engine answers, else native.
        #[default]
        Auto,
        /// Docker or nothing.
        Docker,
        /// Native or nothing.
        Native,
    }
}

section! {
    /// `agents.defaults.sandbox.native`. The launcher looks at these while a command runs, and ends a command
    /// that is beyond one of them with all that it started.
    pub struct Native {
        /// What the processes of one command may hold together.
        pub memory: Size,
        /// By how much the files of a workspace may grow by one command.
        pub writes: Size,
        /// What stays free in the file system of the workspaces; with less no command begins.
        pub free_space: Size,
        /// How many files can still be made in it; with fewer no command begins. Of no effect where it does not count them.
        pub free_inodes: u64,
    }
}

impl Default for Native {
    fn default() -> Self {
        Self { memory: Size(1 << 30), writes: Size(4 << 30), free_space: Size(1 << 30), free_inodes: 131_072 }
    }
}

section! {
    /// `agents.defaults.sandbox.docker`. The container is sealed in sandboxd: what is here beside image, socket and sizes can
    /// only say what holds anyway, and is refused where it says otherwise.
    pub struct Docker {
        /// The sandbox's image; made by `deploy/sandbox-image/build`, never pulled.
        pub image: String,
        /// Absolute path of the engine's socket.
        pub socket: String,
        /// Which of the engine's runtimes makes containers; refused where the engine has none of that name. Its default where
        /// nothing is said.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub runtime: Option<Runtime>,
        /// A command that runs once in each new container, before anything else does; it may not fetch, and may not carry
        /// another program in its arguments.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub setup_command: Option<String>,
        /// Always true.
        pub read_only_root: bool,
        /// Always ["ALL"].
        pub cap_drop: Vec<String>,
        /// Always `none`.
        pub network: String,
        /// What is mounted empty and in memory; no effect: /tmp and /workspace are.
        pub tmpfs: Vec<String>,
        /// Memory, as `512m`; 512m at most.
        pub memory: Size,
        /// Memory and swap together: the same as `memory`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub memory_swap: Option<Size>,
        /// Processors, as "1.0" or 1; 1 at most.
        pub cpus: Cpus,
        /// Processes and threads; 100 at most.
        pub pids_limit: u32,
        /// Always ["no-new-privileges"].
        pub security_opt: Vec<String>,
        /// Directories of the host in the sandbox: none, and only an empty list is taken.
        pub binds: Vec<String>,
        /// Upstream's; refused: a filter of our own is always on.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub seccomp_profile: Option<String>,
        /// Upstream's; refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub apparmor_profile: Option<String>,
    }
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            image: "moltbot-sandbox:latest".to_owned(),
            socket: "/var/run/docker.sock".to_owned(),
            runtime: None,
            setup_command: None,
            read_only_root: true,
            cap_drop: vec!["ALL".to_owned()],
            network: "none".to_owned(),
            tmpfs: Vec::new(),
            memory: Size(512 << 20),
            memory_swap: None,
            cpus: Cpus(1_000),
            pids_limit: 100,
            security_opt: vec!["no-new-privileges".to_owned()],
            binds: Vec::new(),
            seccomp_profile: None,
            apparmor_profile: None,
        }
    }
}

section! {
    /// What may be used, by name; `deny` wins.
    #[derive(Default)]
    pub struct ToolLists {
        /// Only these, where any stands here.
        pub allow: Vec<String>,
        /// Never these.
        pub deny: Vec<String>,
    }
}

section! {
    /// `agents.defaults.sandbox.prune`
    pub struct Prune {
        /// Hours without a command.
        pub idle_hours: u32,
        /// Days since it was made.
        pub max_age_days: u32,
    }
}

impl Default for Prune {
    fn default() -> Self {
        Self { idle_hours: 24, max_age_days: 7 }
    }
}
