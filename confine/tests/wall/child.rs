//! One call in a child of fork, and how the child ended.

use confine::policy::Policy;
use confine::seccomp::Filters;
use confine::sys;
use std::sync::OnceLock;

/// An ordinary user's uid and gid, of nobody in particular.
const ORDINARY: u32 = 23_456;
/// A call that waits is let through, and has that long.
const SECONDS: u32 = 2;

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// By itself.
    Exit(i32),
    /// By a signal.
    Signal(i32),
}

/// The wall ended it.
pub const KILLED: End = End::Signal(sys::SIGSYS);

/// A wall to try a call behind.
#[derive(Clone, Copy)]
pub enum Behind {
    /// None, as an ordinary user.
    Nothing,
    /// This one's filter.
    Wall(&'static Policy),
}

impl Behind {
    /// Compiles once for each wall; children only install.
    fn filters(self) -> Option<&'static Filters> {
        static COMPILED: OnceLock<Vec<(&'static str, Filters)>> = OnceLock::new();
        let compiled = COMPILED
            .get_or_init(|| super::WALLS.iter().map(|wall| (wall.role.name(), Filters::of(wall).unwrap())).collect());
        match self {
            Self::Nothing => None,
            Self::Wall(policy) => {
                compiled.iter().find(|(name, _)| *name == policy.role.name()).map(|(_, filters)| filters)
            }
        }
    }
}

/// Runs `work` in a child of fork, behind the wall. Its result is the exit status.
pub fn run(behind: Behind, work: impl FnOnce() -> i32) -> End {
    let filters = behind.filters();
    run_plainly(|| {
        if let Some(filters) = filters {
            filters.install().unwrap();
        }
        work()
    })
}

/// As [`run`], for work that dies: what it says on the way is written to /dev/null, which is as good as the log pipe.
pub fn dies(behind: Behind, work: impl FnOnce() -> i32) -> End {
    let filters = behind.filters();
    run_plainly(|| {
        hush();
        if let Some(filters) = filters {
            filters.install().unwrap();
        }
        work()
    })
}

/// Standard error becomes /dev/null.
pub fn hush() {
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    // SAFETY: two descriptors, of which the second may be replaced.
    assert!(unsafe { sys::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), 2) } == 2);
}

/// Runs `work` in a child of fork: an ordinary user that leaves no core file and ends after [`SECONDS`].
pub fn run_plainly(work: impl FnOnce() -> i32) -> End {
    // SAFETY: this program has one thread, so the child of fork may do anything.
    let pid = unsafe { sys::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        become_ordinary();
        let status = work();
        // SAFETY: ends the process without running what belongs to the parent.
        unsafe { sys::syscall(sys::SYS_exit_group, status) };
    }
    let mut status = 0;
    // SAFETY: waits for the child just made; `status` lives across the call.
    let reaped = unsafe { sys::waitpid(pid, &raw mut status, 0) };
    assert_eq!(reaped, pid);
    if sys::WIFSIGNALED(status) { End::Signal(sys::WTERMSIG(status)) } else { End::Exit(sys::WEXITSTATUS(status)) }
}

fn become_ordinary() {
    let none = sys::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: integers, a structure that lives across its call, and a null list of length 0.
    unsafe {
        sys::alarm(SECONDS);
        assert_eq!(sys::setrlimit(sys::RLIMIT_CORE, &raw const none), 0);
        // Away from the terminal and the group of whoever runs the tests.
        sys::setsid();
        if sys::geteuid() == 0 {
            assert_eq!(sys::setgroups(0, std::ptr::null()), 0);
            assert_eq!(sys::setresgid(ORDINARY, ORDINARY, ORDINARY), 0);
            assert_eq!(sys::setresuid(ORDINARY, ORDINARY, ORDINARY), 0);
        }
    }
}

/// Makes one call and ends with its errno, or 0.
pub fn call(behind: Behind, nr: i64, args: &[u64; 6]) -> End {
    run(behind, || {
        // SAFETY: callers pass no address that is valid: null, all ones, or numbers below the first page. What a call
        // does to the process beyond that ends with this child.
        let result = unsafe { sys::syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]) };
        if result == -1 { std::io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
    })
}

/// The twin of everything here: a probe that could not tell one end from another would pass any test.
pub fn probe_reports_success_errno_and_death() {
    const ANY: [u64; 6] = [u64::MAX; 6];
    assert_eq!(call(Behind::Nothing, sys::SYS_getpid, &ANY), End::Exit(0));
    assert_eq!(call(Behind::Nothing, sys::SYS_close, &ANY), End::Exit(sys::EBADF));
    assert_eq!(call(Behind::Nothing, sys::SYS_exit_group, &[9; 6]), End::Exit(9));
    assert_eq!(call(Behind::Nothing, sys::SYS_pause, &ANY), End::Signal(sys::SIGALRM));
    for wall in super::WALLS.iter().filter(|wall| !wall.default_allow) {
        assert_eq!(call(Behind::Wall(wall), sys::SYS_getpid, &ANY), End::Exit(0), "{}", wall.role);
        assert_eq!(call(Behind::Wall(wall), sys::SYS_pause, &ANY), KILLED, "{}", wall.role);
    }
}
