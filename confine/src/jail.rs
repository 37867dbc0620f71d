//! Native sandboxes: one program behind namespaces, Landlock, seccomp and limits ([`Tier::N1`]), or where user
//! namespaces are forbidden behind the last three ([`Tier::N2`]).
//!
//! Hostile: the command's text and everything it starts, hence what it writes. Nothing here may fall back to a weaker
//! tier, and nothing is taken from the sandbox but what its supervisor, which it cannot reach, reports.
//!
//! The child is made by a bare clone, like fork: it has a copy of the caller's memory and allocates nothing before exec,
//! since everything it needs was prepared by [`Jailer::new`] and [`Jailer::spawn`]. What this does not protect against is
//! the kernel, and in N2 a command that reads what metadata (`stat`) tells of the host's files.

mod child;
pub(crate) mod filter;
mod root;
mod walls;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, geteuid, getgid, pidfd_send_signal, waitid};
use std::ffi::CString;

/// How a command is confined.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tier {
    /// User, mount, pid, net, ipc, uts and cgroup namespaces, a read-only root of its own, Landlock, seccomp, limits.
    N1,
    /// Landlock, seccomp, limits.
    N2,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// The command cannot be a C string.
    #[error("the command has a NUL byte")]
    Nul,
    /// A filter does not compile: a bug.
    #[error("seccomp filter: {0}")]
    Filter(String),
    /// The machine lacks what the tier is made of.
    #[error("{0}")]
    Lacks(&'static str),
    /// The kernel said no before there was a child.
    #[error("{what}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
}

const fn os(what: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Os { what, errno }
}

/// How a sandbox ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// The program exited with this status; 127 where there is none of that name.
    Exited(u8),
    /// A signal ended the program.
    Signalled(u8),
    /// It was killed from outside: by [`Jail::kill`], or by the machine.
    Killed,
    /// It could not be made; nothing of the command ran.
    NotMade(String),
}

/// What runs.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// Absolute path of a program, and its arguments behind it.
    Words(&'a [&'a str]),
    /// The runner, by its descriptor, with this input.
    Runner(BorrowedFd<'a>),
}

/// One run.
#[derive(Debug)]
pub struct JailSpec<'a> {
    /// How to confine it; never lowered.
    pub tier: Tier,
    /// Directory that it may write to.
    pub workspace: BorrowedFd<'a>,
    /// Name of a directory beside the workspace that it may read as `/agent`; without namespaces it is not there. The caller
    /// has seen that it is a directory and no link, and nothing in a sandbox can change that.
    pub agent: Option<&'a str>,
    /// What runs.
    pub program: Program<'a>,
    /// Where, beneath the workspace; no link leads there. The workspace where empty.
    pub cwd: &'a str,
    /// Its standard output.
    pub stdout: BorrowedFd<'a>,
    /// Its standard error.
    pub stderr: BorrowedFd<'a>,
}

/// What all runs have in common, prepared once: filters, the plan of the root, `/dev/null`.
#[derive(Debug)]
pub struct Jailer {
    uid: u32,
    root: root::Plan,
    filters: Vec<seccompiler::BpfProgram>,
    no_sockets: seccompiler::BpfProgram,
    null: OwnedFd,
    runner: Option<OwnedFd>,
    landlock_abi: u8,
}

/// What the child reads; lives in the parent's frame until the clone returned, and in the child's copy for ever.
pub(crate) struct Prepared<'a> {
    tier: Tier,
    jailer: &'a Jailer,
    uid_map: CString,
    gid_map: CString,
    words: Vec<CString>,
    cwd: CString,
    /// Of what is read as `/agent`, from the workspace.
    agent: Option<CString>,
    /// Executed in place of the first word.
    runner: Option<OwnedFd>,
    /// Of `words`, and a null behind them.
    arguments: Vec<*const libc::c_char>,
    processes: u64,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    report: OwnedFd,
    workspace: OwnedFd,
}

/// Lowest number that the child's descriptors have before it moves them to their places.
const ABOVE: i32 = 16;
/// Processes and threads in one sandbox.
const PROCESSES: u64 = 128;

impl Jailer {
    /// Prepares. To be called before a wall keeps the caller from looking at `/usr` and `/dev/null`.
    ///
    /// # Errors
    /// [`JailError`].
    pub fn new() -> Result<Self, JailError> {
        if geteuid().is_root() {
            // setrlimit(2): RLIMIT_NPROC does not bind uid 0, so a fork bomb would have the machine.
            return Err(JailError::Lacks("sandboxes are not made by uid 0: its number of processes has no limit"));
        }
        let landlock_abi = crate::landlock_abi();
        let null = std::fs::File::options().read(true).open("/dev/null");
        let null = null.map_err(|error| os("/dev/null")(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        Ok(Self {
            uid: geteuid().as_raw(),
            root: root::Plan::of_this_host(),
            filters: filter::common().map_err(|error| JailError::Filter(error.to_string()))?,
            no_sockets: filter::no_sockets().map_err(|error| JailError::Filter(error.to_string()))?,
            null: null.into(),
            runner: None,
            landlock_abi,
        })
    }

    /// Takes the program that [`Program::Runner`] means.
    pub fn set_runner(&mut self, runner: OwnedFd) {
        self.runner = Some(runner);
    }

    /// True where there is one.
    #[must_use]
    pub const fn has_runner(&self) -> bool {
        self.runner.is_some()
    }

    /// Starts a sandbox. The caller must be single-threaded: the child continues on a copy of its stack and must not
    /// meet a lock that another thread held.
    ///
    /// # Errors
    /// [`JailError`]; what fails in the child comes as [`End::NotMade`].
    pub fn spawn(&self, spec: &JailSpec<'_>) -> Result<Jail, JailError> {
        if self.landlock_abi < walls::floor(spec.tier) {
            return Err(JailError::Lacks(match spec.tier {
                Tier::N1 => "Landlock is missing (ABI 2 is needed)",
                Tier::N2 => "Landlock cannot keep signals in (ABI 6 is needed, Linux 6.12)",
            }));
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(os("pipe"))?;
        let raise = |fd: BorrowedFd<'_>| fcntl_dupfd_cloexec(fd, ABOVE).map_err(os("dup"));
        let line = |id: u32| CString::new(format!("65534 {id} 1\n")).map_err(|_| JailError::Nul);
        let (words, input, runner) = match (spec.program, &self.runner) {
            (Program::Words(words), _) => (words, self.null.as_fd(), None),
            (Program::Runner(input), Some(runner)) => (&["moltbot-runner", "files"][..], input, Some(runner)),
            (Program::Runner(_), None) => {
                return Err(JailError::Lacks("there is no moltbot-runner beside the launcher"));
            }
        };
        let words: Vec<CString> =
            words.iter().map(|word| CString::new(*word)).collect::<Result<_, _>>().map_err(|_| JailError::Nul)?;
        let prepared = Prepared {
            tier: spec.tier,
            jailer: self,
            uid_map: line(self.uid)?,
            gid_map: line(getgid().as_raw())?,
            arguments: words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect(),
            words,
            cwd: CString::new(spec.cwd).map_err(|_| JailError::Nul)?,
            agent: spec.agent.map(beside).transpose()?,
            runner: runner.map(|runner| raise(runner.as_fd())).transpose()?,
            processes: match spec.tier {
                Tier::N1 => PROCESSES,
                // Without a user namespace the kernel counts all of this uid's tasks on the machine.
                Tier::N2 => tasks_of(self.uid).saturating_add(PROCESSES),
            },
            stdin: raise(input)?,
            stdout: raise(spec.stdout)?,
            stderr: raise(spec.stderr)?,
            report: raise(write.as_fd())?,
            workspace: raise(spec.workspace)?,
        };
        drop(write);
        let namespaces = match spec.tier {
            // The mount namespace comes later, in the child: see `root`.
            Tier::N1 => {
                libc::CLONE_NEWUSER
                    | libc::CLONE_NEWPID
                    | libc::CLONE_NEWNET
                    | libc::CLONE_NEWIPC
                    | libc::CLONE_NEWUTS
                    | libc::CLONE_NEWCGROUP
            }
            Tier::N2 => 0,
        };
        let mut pidfd: libc::c_int = -1;
        // SAFETY: without CLONE_VM this is a fork: the child runs on its copy of this stack and never returns from
        // `child::run`. CLONE_PIDFD stores one descriptor where the third argument points, on every architecture.
        let pid = unsafe {
            libc::syscall(
                libc::SYS_clone,
                libc::c_long::from(namespaces | libc::CLONE_PIDFD | libc::SIGCHLD),
                0usize,
                &raw mut pidfd,
                0usize,
                0usize,
            )
        };
        match pid {
            0 => child::run(&prepared),
            1.. => {
                // SAFETY: the kernel has just put it there, and nobody else knows of it.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok(Jail { tier: spec.tier, pid: pid.try_into().unwrap_or(i32::MAX), pidfd, report: read, ended: false })
            }
            _ => Err(os("clone")(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))),
        }
    }
}

/// A directory beside the working directory, by one name and no path.
fn beside(name: &str) -> Result<CString, JailError> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(JailError::Lacks("what is read beside a workspace has a plain name"));
    }
    CString::new(format!("../{name}")).map_err(|_| JailError::Nul)
}

/// Tasks of `uid` on this machine, as far as `/proc` shows them.
fn tasks_of(uid: u32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir("/proc") else { return PROCESSES };
    let ours = entries.flatten().filter(|entry| {
        let is_process = entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
        is_process && entry.metadata().is_ok_and(|data| data.uid() == uid)
    });
    let tasks = ours.map(|entry| std::fs::read_dir(entry.path().join("task")).map_or(1, Iterator::count));
    // Processes that are not dumpable, such as Moltbot's own, show as root's: some room for those.
    u64::try_from(tasks.sum::<usize>()).unwrap_or(u64::MAX).saturating_add(64)
}

/// A sandbox that runs, or has ended. Dropped, it is killed with all that is in it.
#[derive(Debug)]
pub struct Jail {
    tier: Tier,
    pid: i32,
    pidfd: OwnedFd,
    report: OwnedFd,
    ended: bool,
}

impl Jail {
    /// The supervisor, which is an ancestor of all that runs in the sandbox. The number is its own until [`Jail::try_wait`]
    /// said how it ended.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Ends it, with everything it started. Its end still comes through [`Jail::try_wait`].
    pub fn kill(&self) {
        let signal = match self.tier {
            // Init of a pid namespace: the kernel kills the others with it, and none can outrun that.
            Tier::N1 => Signal::KILL,
            // Its supervisor kills what is in its signal scope and only then ends.
            Tier::N2 => Signal::TERM,
        };
        // It can only fail where the process is gone, and then there is nothing to kill.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// How it ended, once it has. The pidfd ([`AsFd`]) becomes readable then.
    pub fn try_wait(&mut self) -> Option<End> {
        if self.ended {
            return None;
        }
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                Ok(status) => break status,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.ended = true;
                    return Some(End::Killed);
                }
            }
        };
        status?;
        self.ended = true;
        let mut report = [0u8; child::REPORT];
        match rustix::io::read(&self.report, &mut report) {
            Ok(child::REPORT) => Some(child::decode(report)),
            _ => Some(End::Killed),
        }
    }
}

impl AsFd for Jail {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
            // Bounded by the kernel's work of ending the sandbox: both supervisors end on their signal at once.
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
        }
    }
}

impl Prepared<'_> {
    fn fd(fd: &OwnedFd) -> libc::c_int {
        fd.as_raw_fd()
    }
}
