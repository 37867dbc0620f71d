//! The child's side, between clone and exec: it allocates nothing, takes no lock, and leaves by `_exit` or `execve` only.
//!
//! The first child is the supervisor: init of its pid namespace in N1, a subreaper in N2. It starts the program, reaps, and
//! reports how that ended on a pipe that nobody else holds. The program's process raises its walls last, because each
//! wall would keep it from building the next. `/proc/1` is out of the command's reach: the supervisor is not dumpable.

use super::root::write_file;
use super::{End, Jailer, Prepared, Tier, walls};
use crate::privileges;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr;

/// Bytes of a report: a tag, a byte, and an errno.
pub(super) const REPORT: usize = 6;
const TAG_EXITED: u8 = 1;
const TAG_SIGNALLED: u8 = 2;
const TAG_FAILED: u8 = 3;
const TAG_KILLED: u8 = 4;
/// Where the report pipe and the workspace are put.
const REPORT_FD: libc::c_int = 3;
const WORKSPACE_FD: libc::c_int = 4;
/// Where the runner is put, if it is what runs.
const RUNNER_FD: libc::c_int = 5;
/// Exit status of a child that could not make the sandbox; never seen by anybody but `ps`.
const NOT_MADE: libc::c_int = 126;

/// What was being done when it failed.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Step {
    Descriptors,
    Death,
    Map,
    Unshare,
    Mount,
    Attributes,
    Root,
    Pivot,
    HostName,
    Supervisor,
    Fork,
    Directory,
    Cwd,
    Capabilities,
    Limits,
    Landlock,
    Seccomp,
    Exec,
}

const STEPS: [&str; 18] = [
    "descriptors",
    "death signal",
    "uid map",
    "mount namespace",
    "mount",
    "mount attributes",
    "files of the root",
    "pivot_root",
    "host name",
    "supervisor",
    "fork",
    "working directory",
    "directory of the workspace",
    "capabilities",
    "limits",
    "landlock",
    "seccomp",
    "exec",
];

#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) step: Step,
    pub(super) errno: libc::c_int,
}

pub(super) fn errno() -> libc::c_int {
    // SAFETY: the address of this thread's errno is always valid.
    unsafe { *libc::__errno_location() }
}

pub(super) fn check(step: Step, result: libc::c_long) -> Result<(), Failure> {
    if result < 0 { Err(Failure { step, errno: errno() }) } else { Ok(()) }
}

fn check_int(step: Step, result: libc::c_int) -> Result<(), Failure> {
    check(step, libc::c_long::from(result))
}

fn priv_step(step: Step) -> impl Fn(nix::errno::Errno) -> Failure {
    move |errno| Failure { step, errno: errno as libc::c_int }
}

fn exit(status: libc::c_int) -> ! {
    // SAFETY: ends the process without running anything of the parent's.
    unsafe { libc::_exit(status) }
}

fn report(tag: u8, byte: u8, errno: libc::c_int) {
    let [a, b, c, d] = errno.to_le_bytes();
    let bytes = [tag, byte, a, b, c, d];
    // SAFETY: the buffer is REPORT bytes long. A lost report reads as a sandbox that was killed.
    let _ = unsafe { libc::write(REPORT_FD, bytes.as_ptr().cast(), REPORT) };
}

fn fail(failure: Failure) -> ! {
    report(TAG_FAILED, failure.step as u8, failure.errno);
    exit(NOT_MADE)
}

/// What a report says.
pub(super) fn decode(bytes: [u8; REPORT]) -> End {
    let [tag, byte, a, b, c, d] = bytes;
    match tag {
        TAG_EXITED => End::Exited(byte),
        TAG_SIGNALLED => End::Signalled(byte),
        TAG_FAILED => {
            let step = STEPS.get(usize::from(byte)).copied().unwrap_or("unknown step");
            End::NotMade(format!("{step}: {}", std::io::Error::from_raw_os_error(i32::from_le_bytes([a, b, c, d]))))
        }
        _ => End::Killed,
    }
}

/// The child's whole life.
pub(super) fn run(prepared: &Prepared<'_>) -> ! {
    // Descriptors first: before that a report would go to the parent's descriptor of the same number.
    if arrange(prepared).is_err() {
        exit(NOT_MADE);
    }
    if let Err(failure) = settle(prepared) {
        fail(failure);
    }
    // SAFETY: a bare fork of a process with one thread.
    let shell =
        unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD), 0usize, 0usize, 0usize, 0usize) };
    match shell {
        0 => match become_shell(prepared) {
            Ok(never) => match never {},
            Err(failure) => fail(failure),
        },
        1.. => supervise(prepared.tier, libc::pid_t::try_from(shell).unwrap_or(-1)),
        _ => fail(Failure { step: Step::Fork, errno: errno() }),
    }
}

/// 0 to 2 are the command's, 3 the report, 4 the workspace, 5 the runner where it is what runs; nothing else is left open.
fn arrange(prepared: &Prepared<'_>) -> Result<(), Failure> {
    let places = [
        (Prepared::fd(&prepared.stdin), 0, 0),
        (Prepared::fd(&prepared.stdout), 1, 0),
        (Prepared::fd(&prepared.stderr), 2, 0),
    ];
    let own = [
        (Prepared::fd(&prepared.report), REPORT_FD, libc::O_CLOEXEC),
        (Prepared::fd(&prepared.workspace), WORKSPACE_FD, libc::O_CLOEXEC),
    ];
    for (from, to, flags) in places.into_iter().chain(own) {
        // SAFETY: integers. The sources have numbers above all targets, so none is overwritten before its turn.
        check_int(Step::Descriptors, unsafe { libc::dup3(from, to, flags) })?;
    }
    let mut first = WORKSPACE_FD + 1;
    if let Some(runner) = &prepared.runner {
        // SAFETY: integers, as above.
        check_int(Step::Descriptors, unsafe { libc::dup3(Prepared::fd(runner), RUNNER_FD, libc::O_CLOEXEC) })?;
        first = RUNNER_FD + 1;
    }
    // SAFETY: integers.
    check(Step::Descriptors, unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0u32) })
}

/// Everything that supervisor and shell share.
fn settle(prepared: &Prepared<'_>) -> Result<(), Failure> {
    let death = match prepared.tier {
        Tier::N1 => libc::SIGKILL,
        Tier::N2 => {
            block_supervisor_signals()?;
            libc::SIGTERM
        }
    };
    privileges::prctl(libc::PR_SET_PDEATHSIG, u64::from(death.unsigned_abs())).map_err(priv_step(Step::Death))?;
    if !parent_reads() {
        exit(NOT_MADE);
    }
    // Rust's runtime ignores SIGPIPE, and exec keeps what is ignored.
    // SAFETY: a standard disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    // SAFETY: no arguments. It fails only for a group leader, which a fresh child is not.
    unsafe { libc::setsid() };
    // SAFETY: integers.
    unsafe { libc::umask(0o022) };
    match prepared.tier {
        Tier::N1 => enter_namespaces(prepared),
        Tier::N2 => {
            privileges::prctl(libc::PR_SET_DUMPABLE, 0).map_err(priv_step(Step::Supervisor))?;
            privileges::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(priv_step(Step::Supervisor))?;
            privileges::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).map_err(priv_step(Step::Supervisor))?;
            walls::enter_scope(prepared.jailer.landlock_abi)
        }
    }
}

/// False where the parent died before its death could be signalled: then nobody reads the report pipe.
fn parent_reads() -> bool {
    let mut poll = libc::pollfd { fd: REPORT_FD, events: 0, revents: 0 };
    // SAFETY: one structure that lives here.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents & libc::POLLERR == 0
}

fn enter_namespaces(prepared: &Prepared<'_>) -> Result<(), Failure> {
    // The launcher is not dumpable, and neither is its child: /proc/self would be root's and the maps not writable. The
    // child's copy of memory holds nothing that the launcher's own uid may not see.
    privileges::prctl(libc::PR_SET_DUMPABLE, 1).map_err(priv_step(Step::Map))?;
    write_file(Step::Map, c"/proc/self/setgroups", b"deny", 0)?;
    write_file(Step::Map, c"/proc/self/uid_map", prepared.uid_map.as_bytes(), 0)?;
    write_file(Step::Map, c"/proc/self/gid_map", prepared.gid_map.as_bytes(), 0)?;
    privileges::prctl(libc::PR_SET_DUMPABLE, 0).map_err(priv_step(Step::Map))?;
    // SAFETY: integers and a buffer with its length.
    unsafe {
        check_int(Step::Directory, libc::fchdir(WORKSPACE_FD))?;
        check_int(Step::Unshare, libc::unshare(libc::CLONE_NEWNS))?;
        check_int(Step::HostName, libc::sethostname(c"sandbox".as_ptr(), 7))?;
    }
    prepared.jailer.root.enter(prepared.agent.as_deref())
}

enum Never {}

fn become_shell(prepared: &Prepared<'_>) -> Result<Never, Failure> {
    let jailer: &Jailer = prepared.jailer;
    // SAFETY: C strings and integers.
    let moved = unsafe {
        match prepared.tier {
            Tier::N1 => libc::chdir(c"/workspace".as_ptr()),
            Tier::N2 => libc::fchdir(WORKSPACE_FD),
        }
    };
    check_int(Step::Directory, moved)?;
    if !prepared.cwd.is_empty() {
        go_down(&prepared.cwd)?;
    }
    drop_rights(prepared.tier)?;
    unblock_signals()?;
    walls::limit(prepared.processes)?;
    let runner = prepared.runner.is_some().then_some(RUNNER_FD);
    walls::enter(prepared.tier, jailer.landlock_abi, WORKSPACE_FD, runner)?;
    let only_n2 = matches!(prepared.tier, Tier::N2).then_some(&jailer.no_sockets);
    for program in only_n2.into_iter().chain(&jailer.filters) {
        seccompiler::apply_filter(program).map_err(|_| Failure { step: Step::Seccomp, errno: errno() })?;
    }
    exec(prepared)
}

/// Into a directory beneath the one it is in, by no link.
fn go_down(path: &CStr) -> Result<(), Failure> {
    // SAFETY: a structure of integers, for which zeroes are a value.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC).unsigned_abs());
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: a C string and a structure with its size, which live across the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), &raw const how, size_of::<libc::open_how>())
    };
    check(Step::Cwd, fd)?;
    let fd = libc::c_int::try_from(fd).unwrap_or(-1);
    // SAFETY: integers; the descriptor is ours and closes at exec.
    check_int(Step::Cwd, unsafe { libc::fchdir(fd) })
}

/// No capability in any set, none to be had again, and no privilege from set-uid files.
fn drop_rights(tier: Tier) -> Result<(), Failure> {
    privileges::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(priv_step(Step::Capabilities))?;
    let bounding = privileges::drop_bounding(u64::MAX).map_err(priv_step(Step::Capabilities));
    // Without a user namespace this takes CAP_SETPCAP, which the launcher has not: there is nothing in its permitted set,
    // and no-new-privileges keeps it so.
    if matches!(tier, Tier::N1) {
        bounding?;
    }
    privileges::set_capabilities(0).map_err(priv_step(Step::Capabilities))
}

fn exec(prepared: &Prepared<'_>) -> Result<Never, Failure> {
    let Some(program) = prepared.words.first() else { return Err(Failure { step: Step::Exec, errno: libc::EINVAL }) };
    let (home, temporary) = match prepared.tier {
        Tier::N1 => (c"HOME=/workspace", c"TMPDIR=/tmp"),
        // The workspace's path may lead through directories that this uid cannot pass.
        Tier::N2 => (c"HOME=.", c"TMPDIR=."),
    };
    let environment = [
        c"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin".as_ptr(),
        c"LANG=C.UTF-8".as_ptr(),
        home.as_ptr(),
        temporary.as_ptr(),
        ptr::null(),
    ];
    if prepared.runner.is_some() {
        let (arguments, environment) = (prepared.arguments.as_ptr(), environment.as_ptr());
        // SAFETY: an empty C string, and both lists end in null and hold C strings that live until exec.
        unsafe {
            libc::syscall(libc::SYS_execveat, RUNNER_FD, c"".as_ptr(), arguments, environment, libc::AT_EMPTY_PATH)
        };
        return Err(Failure { step: Step::Exec, errno: errno() });
    }
    // SAFETY: both lists end in null and hold C strings that live until exec.
    unsafe { libc::execve(program.as_ptr(), prepared.arguments.as_ptr(), environment.as_ptr()) };
    if matches!(errno(), libc::ENOENT | libc::EACCES) {
        // As a shell would say it: the sandbox is made, and what was to run in it is not there.
        let message = b": there is no such program in the sandbox\n";
        for bytes in [program.as_bytes(), message] {
            // SAFETY: reads `bytes`, which lives here; descriptor 2 is the command's.
            let _ = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        }
        exit(127);
    }
    Err(Failure { step: Step::Exec, errno: errno() })
}

fn signal_set(signals: &[libc::c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initializes all of it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// N2's supervisor takes its signals one at a time, so none may come before it waits for them.
fn block_supervisor_signals() -> Result<(), Failure> {
    let set = signal_set(&[libc::SIGTERM, libc::SIGCHLD]);
    // SAFETY: a set that lives here.
    check_int(Step::Supervisor, unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) })
}

fn unblock_signals() -> Result<(), Failure> {
    let none = signal_set(&[]);
    // SAFETY: a set that lives here.
    check_int(Step::Supervisor, unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) })
}

/// Waits for the shell, ends what it left behind, reports.
fn supervise(tier: Tier, shell: libc::pid_t) -> ! {
    // The command's output must end with the command, so its descriptors go; so do the rights over the namespaces.
    // SAFETY: integers.
    unsafe {
        libc::close(0);
        libc::close(1);
        libc::close(2);
        libc::close(WORKSPACE_FD);
        libc::close(RUNNER_FD);
    }
    let _ = privileges::set_capabilities(0);
    let status = match tier {
        Tier::N1 => wait_for(shell),
        Tier::N2 => {
            let status = wait_or_term(shell);
            // SAFETY: integers. Reaches what is in this process's Landlock signal scope, itself excepted, and nothing
            // else of this uid; without that scope `settle` had failed. The kernel signals all in one step, under the
            // lock that fork takes, so nothing escapes by forking.
            unsafe { libc::kill(-1, libc::SIGKILL) };
            reap_all();
            status
        }
    };
    match status {
        Some(status) if libc::WIFEXITED(status) => report(TAG_EXITED, low_byte(libc::WEXITSTATUS(status)), 0),
        Some(status) if libc::WIFSIGNALED(status) => report(TAG_SIGNALLED, low_byte(libc::WTERMSIG(status)), 0),
        _ => report(TAG_KILLED, 0, 0),
    }
    exit(0)
}

fn low_byte(status: libc::c_int) -> u8 {
    u8::try_from(status & 0xff).unwrap_or(u8::MAX)
}

/// Reaps orphans until the shell itself ended.
fn wait_for(shell: libc::pid_t) -> Option<libc::c_int> {
    loop {
        let mut status = 0;
        // SAFETY: one integer that lives here.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid == shell {
            return Some(status);
        }
        if pid < 0 && errno() != libc::EINTR {
            return None;
        }
    }
}

/// As [`wait_for`], until SIGTERM: from the launcher, or from the kernel because the launcher died.
fn wait_or_term(shell: libc::pid_t) -> Option<libc::c_int> {
    let set = signal_set(&[libc::SIGTERM, libc::SIGCHLD]);
    loop {
        loop {
            let mut status = 0;
            // SAFETY: one integer that lives here.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid == shell {
                return Some(status);
            }
            if pid <= 0 {
                break;
            }
        }
        // SAFETY: a set that lives here; no information is wanted.
        if unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) } == libc::SIGTERM {
            return None;
        }
    }
}

fn reap_all() {
    loop {
        // SAFETY: no status is wanted.
        let pid = unsafe { libc::waitpid(-1, ptr::null_mut(), 0) };
        if pid < 0 && errno() != libc::EINTR {
            return;
        }
    }
}
