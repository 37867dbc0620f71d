//! Moltbot as its users have it: real processes, started by the real command, in a state directory of the test's own.
//!
//! Everything a test starts it ends, by pid. What a test needs and does not find it skips loudly; with
//! `MOLTBOT_TEST_REQUIRE=all`, as CI sets it, that is a failure.
pub mod bench;
pub mod chaos;
pub mod client;
pub mod forms;
pub mod misbehaviour;
pub mod model;
pub mod play_broker;
pub mod servers;
pub mod way_out;

use proto::channel::{Channel, Client};
use proto::edge::OperatorBroker;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// An ordinary user's uid and gid, of nobody in particular.
pub const USER: u32 = 12_345;
/// Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Who starts Moltbot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum As {
    /// Root: a uid for every role.
    Root,
    /// An ordinary user: one uid for all.
    User,
}

/// Where commands run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sandbox {
    /// The native backend.
    Native,
    /// Docker, behind this socket.
    Docker(PathBuf),
}

/// Says what is missing. Under CI a skip is a failure.
pub fn skip(why: &str) {
    assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none(), "cannot be skipped here: {why}");
    eprintln!("SKIPPED: {why}");
}

/// True where the test process is root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The Docker socket that the environment names for tests.
#[must_use]
pub fn docker_socket() -> Option<PathBuf> {
    let socket = std::env::var_os("MOLTBOT_TEST_DOCKER_SOCKET").map(PathBuf::from);
    if socket.is_none() {
        skip("MOLTBOT_TEST_DOCKER_SOCKET names no engine");
    }
    socket
}

/// The programs, copied once to where any user can execute them: a checkout may lie in a home directory.
pub fn programs() -> &'static Path {
    static DIR: OnceLock<TempDir> = OnceLock::new();
    let make = || {
        let from = std::env::var_os("MOLTBOT_BIN_DIR")
            .map(PathBuf::from)
            .unwrap_or_else(|| std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned());
        let dir = tempfile::Builder::new().prefix("moltbot-bin.").tempdir().unwrap();
        set_mode(dir.path(), 0o755);
        for entry in std::fs::read_dir(&from).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if (name == "moltbot" || name.starts_with("moltbot-")) && !name.contains('.') {
                std::fs::copy(entry.path(), dir.path().join(&name)).unwrap();
                set_mode(&dir.path().join(&name), 0o755);
            }
        }
        remove_after(dir.path());
        assert!(dir.path().join("moltbot").exists(), "{} holds no programs: run `cargo xtask test`", from.display());
        dir
    };
    DIR.get_or_init(make).path()
}

/// Has the directory removed when this process is gone, however it ends: nothing static is ever dropped.
fn remove_after(dir: &Path) {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("sh");
    command.args(["-c", "cat; rm -rf -- \"$0\""]).arg(dir).process_group(0);
    let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Its input ends with this process.
    std::mem::forget(child);
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// True where any 16 bytes of `needle` stand together in memory that the process may write to; root is asked for.
///
/// # Panics
/// Where its memory cannot be read.
#[must_use]
pub fn remembers(pid: u32, needle: &[u8]) -> bool {
    use std::os::unix::fs::FileExt as _;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let writable = maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|it| it.starts_with("rw")));
    let holds = |bytes: &[u8]| needle.windows(16).any(|part| bytes.windows(part.len()).any(|window| window == part));
    writable.into_iter().any(|line| {
        let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        memory.read_exact_at(&mut bytes, from).is_ok() && holds(&bytes)
    })
}

/// Waits until `ready` gives something.
///
/// # Panics
/// When it does not within [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True while the process is there and no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The parent of a process, while it is there.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// The machine's load, for whoever reads a figure.
#[must_use]
pub fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// A running Moltbot.
pub struct System {
    who: As,
    dir: TempDir,
    state: PathBuf,
    port: u16,
    /// Group that an ordinary user needs for the engine's socket.
    group: Option<u32>,
}

/// A port that is free, and stays so while its set is down for a moment: below those that the kernel hands out
/// (`net.ipv4.ip_local_port_range`), which it would give to another test meanwhile.
fn free_port() -> u16 {
    use std::hash::{BuildHasher as _, Hasher as _};
    loop {
        let random = std::hash::RandomState::new().build_hasher().finish() % 12_000;
        let port = 20_000 + u16::try_from(random).unwrap();
        if std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

impl System {
    /// Starts one.
    #[must_use]
    pub fn start(who: As, sandbox: &Sandbox) -> Self {
        let mut system = Self::prepare(who, sandbox);
        system.up();
        system
    }

    /// Makes the state directory and the configuration, and starts nothing.
    #[must_use]
    pub fn prepare(who: As, sandbox: &Sandbox) -> Self {
        let dir = tempfile::Builder::new().prefix("moltbot-test.").tempdir().unwrap();
        set_mode(dir.path(), 0o755);
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let config = match sandbox {
            Sandbox::Native => serde_json::json!({ "backend": "native" }),
            // Tests count containers, so none waits.
            Sandbox::Docker(socket) => {
                let image = std::env::var("MOLTBOT_TEST_SANDBOX_IMAGE");
                let image = image.unwrap_or_else(|_| "moltbot-sandbox:latest".to_owned());
                let docker = serde_json::json!({ "socket": socket, "image": image });
                serde_json::json!({ "backend": "docker", "docker": docker, "pool": 0 })
            }
        };
        // Most tests are not about who is asked.
        let exec = serde_json::json!({ "ask": "off" });
        let config = serde_json::json!({ "agents": { "defaults": { "sandbox": config } }, "tools": { "exec": exec } });
        std::fs::write(state.join("moltbot.json"), config.to_string()).unwrap();
        let group = match sandbox {
            Sandbox::Docker(socket) => {
                std::fs::metadata(socket).ok().map(|data| std::os::unix::fs::MetadataExt::gid(&data))
            }
            Sandbox::Native => None,
        };
        let system = Self { who, dir, state, port: 0, group };
        if is_root() && who == As::User {
            for path in [&system.state, &system.state.join("moltbot.json")] {
                std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
            }
        }
        system
    }

    /// Sets `tools.exec`; the next start has it.
    pub fn set_exec(&self, exec: Value) {
        let path = self.state.join("moltbot.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["tools"]["exec"] = exec;
        std::fs::write(&path, config.to_string()).unwrap();
    }

    /// `moltbot up`, which must succeed.
    pub fn up(&mut self) {
        if self.port == 0 {
            self.port = free_port();
        }
        let port = self.port.to_string();
        let output = self.moltbot(&["up", "--json", "--port", &port]);
        assert!(output.status.success(), "up: {}", String::from_utf8_lossy(&output.stderr));
        let status: Value = serde_json::from_slice(&output.stdout).unwrap();
        // The same port after a restart: the address is part of what users keep.
        self.port = status["listen"].as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
    }

    /// A command, not yet run, as the user who started this Moltbot.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        if is_root() && self.who == As::User {
            let mut command = Command::new("setpriv");
            let id = USER.to_string();
            command.args(["--reuid", &id, "--regid", &id]);
            match self.group {
                Some(group) => command.args(["--groups", &group.to_string()]),
                None => command.arg("--clear-groups"),
            };
            command.arg("--").arg(program);
            command
        } else {
            Command::new(program)
        }
    }

    /// Runs `moltbot` with these arguments.
    #[must_use]
    pub fn moltbot(&self, args: &[&str]) -> Output {
        let mut command = self.command(&programs().join("moltbot"));
        command.arg("--state-dir").arg(&self.state).args(args).stdin(Stdio::null()).current_dir(self.dir.path());
        command.env_remove("MOLTBOT_STATE_DIR").output().unwrap()
    }

    /// Runs `moltbot` with this on its standard input.
    #[must_use]
    pub fn fed(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command(&programs().join("moltbot"));
        command.arg("--state-dir").arg(&self.state).args(args).env_remove("MOLTBOT_STATE_DIR");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs `moltbot`, which must succeed, and returns what it printed.
    pub fn says(&self, args: &[&str]) -> String {
        let output = self.moltbot(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "moltbot {args:?}: {error}\n{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            self.log()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// One chat message's answer.
    #[must_use]
    pub fn chat(&self, message: &str) -> String {
        self.says(&["chat", message])
    }

    /// A connection of the operator's, for what `moltbot` has none that stays.
    ///
    /// # Panics
    /// Where nobody listens.
    #[must_use]
    pub fn knock(&self) -> Client<OperatorBroker> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        connect(&socket, &SocketAddrUnix::new(self.state().join("run/operator.sock")).unwrap()).unwrap();
        let mut client = Client::new(proto::topology::role::Operator);
        client.attach(Channel::from_fd(socket));
        client
    }

    /// `moltbot status --json`.
    #[must_use]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.says(&["status", "--json"])).unwrap()
    }

    /// The row of one role.
    #[must_use]
    pub fn role(&self, name: &str) -> Value {
        let status = self.status();
        let rows = status["roles"].as_array().unwrap();
        rows.iter().find(|row| row["role"] == name).unwrap_or_else(|| panic!("no row for {name} in {status}")).clone()
    }

    /// The pid of one role.
    #[must_use]
    pub fn pid(&self, name: &str) -> u32 {
        u32::try_from(self.role(name)["pid"].as_u64().unwrap()).unwrap()
    }

    /// The gateway token.
    #[must_use]
    pub fn token(&self) -> String {
        self.says(&["gateway", "token", "--reveal"]).trim().to_owned()
    }

    /// Where clients connect.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Who started it.
    #[must_use]
    pub fn who(&self) -> As {
        self.who
    }

    /// Broker's own log, for the text of a failure.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.state.join("broker.log")).unwrap_or_default()
    }

    /// Records of an audit stream, as `command-audit`.
    #[must_use]
    pub fn records(&self, stream: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.state.join(format!("logs/{stream}.jsonl"))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// SIGKILL for one role.
    pub fn kill(&self, role: &str) {
        signal(self.pid(role), Signal::KILL);
    }

    /// Waits until the role serves under this epoch.
    pub fn wait_epoch(&self, role: &str, epoch: u64) {
        wait_for(&format!("{role} of epoch {epoch}"), || {
            let row = self.role(role);
            (row["epoch"] == epoch && row["state"] == "ready").then_some(())
        });
        wait_for("the set", || self.status()["ready"].as_bool().filter(|ready| *ready));
    }

    /// `moltbot down`, which must succeed.
    pub fn down(&self) {
        let _ = self.says(&["down"]);
    }
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Sets how large a file may become that a process writes, in bytes; none gives back what it had. Of a process that runs,
/// so that what its disk refuses can change under it.
///
/// # Panics
/// Where the process is not ours to limit.
pub fn limit_files(pid: u32, bytes: Option<u64>) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let own = |field: &str| {
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // Whose process it is may do that; root may not everywhere.
    let mut command = if is_root() { Command::new("setpriv") } else { Command::new("prlimit") };
    if is_root() {
        command.args(["--reuid", &own("Uid:"), "--regid", &own("Gid:"), "--clear-groups", "--", "prlimit"]);
    }
    let soft = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
    let output = command.args(["--pid", &pid.to_string(), &format!("--fsize={soft}:")]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Drop for System {
    fn drop(&mut self) {
        let output = self.moltbot(&["down"]);
        if !output.status.success() && std::thread::panicking() {
            eprintln!("--- broker.log\n{}", self.log());
        }
        let lock = std::fs::read_to_string(self.state.join("run/lock")).unwrap_or_default();
        if let Ok(pid) = lock.trim().parse::<u32>()
            && std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("moltbot-broker"))
        {
            signal(pid, Signal::KILL);
        }
    }
}

/// Makes each function a test as root and one as an ordinary user, with the native backend.
#[macro_export]
macro_rules! in_both_layouts {
    ($($(#[$doc:meta])* fn $name:ident($system:ident: System) $body:block)*) => {
        $($(#[$doc])* fn $name($system: $crate::System) $body)*
        mod as_root {
            $(#[test] fn $name() {
                if $crate::is_root() {
                    super::$name($crate::System::start($crate::As::Root, &$crate::Sandbox::Native));
                } else {
                    $crate::skip("not root");
                }
            })*
        }
        mod as_user {
            $(#[test] fn $name() {
                super::$name($crate::System::start($crate::As::User, &$crate::Sandbox::Native));
            })*
        }
    };
}
