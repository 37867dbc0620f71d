//! A role's wall as data: which system calls, with which arguments, why; which files; which limits.
//!
//! Every rule has a reason because its type asks for one. The sets below are what the C library, the Rust runtime and
//! tokio need to run at all; each role adds its own.

use nix::sys::resource::Resource;
use proto::ids::Role;
use std::os::fd::BorrowedFd;

/// A resource limit's name.
pub type LimitKind = Resource;

/// A condition on one argument of a system call.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    pub(crate) index: u8,
    pub(crate) mask: u64,
    pub(crate) value: u64,
}

impl Arg {
    /// Argument `index` (from 0) is exactly `value`.
    #[must_use]
    pub const fn eq(index: u8, value: u64) -> Self {
        Self { index, mask: u64::MAX, value }
    }

    /// The bits of `mask` in argument `index` are exactly `value`.
    #[must_use]
    pub const fn mask_eq(index: u8, mask: u64, value: u64) -> Self {
        Self { index, mask, value }
    }
}

/// One system call, the arguments it must have, and the reason.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub(crate) nr: i64,
    pub(crate) args: &'static [Arg],
    /// Why the role needs it.
    pub why: &'static str,
}

impl Rule {
    /// The call with any arguments.
    #[must_use]
    pub const fn new(nr: i64, why: &'static str) -> Self {
        Self { nr, args: &[], why }
    }

    /// The call where all of `args` hold.
    #[must_use]
    pub const fn with(nr: i64, args: &'static [Arg], why: &'static str) -> Self {
        Self { nr, args, why }
    }
}

/// A resource limit, soft and hard alike.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Which.
    pub resource: LimitKind,
    /// Its value in the resource's unit.
    pub value: u64,
    /// Why this much.
    pub why: &'static str,
}

/// What may be done beneath a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Open files and list.
    ReadOnly,
    /// Open files for reading and writing, make new ones; neither remove nor truncate.
    Append,
    /// Open, make, replace and remove files.
    ReadWrite,
    /// Make directories, and nothing else.
    MakeDir,
}

/// A directory that stays reachable behind the wall.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'fd> {
    /// The directory.
    pub dir: BorrowedFd<'fd>,
    /// What may be done beneath it.
    pub access: Access,
    /// Why.
    pub why: &'static str,
}

/// A role's wall.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Whose.
    pub role: Role,
    /// Allowed calls; everything else kills the process. For `default_allow`, the calls that kill.
    pub rules: &'static [&'static [Rule]],
    /// Calls that libraries try on their own and that get `EACCES` instead of death.
    pub soft: &'static [Rule],
    /// Limits beside `CORE` 0, which all have.
    pub limits: &'static [Limit],
    /// True for the launcher alone: its filter is inherited by arbitrary programs, so it lists what none of them may do.
    pub default_allow: bool,
    /// True where Landlock handles the file system. The launcher cannot: a process in such a domain may not mount.
    pub landlock_files: bool,
}

const EXEC: u64 = libc::PROT_EXEC as u64;

/// What every role needs to live, to talk on descriptors it was given, and to die properly.
pub const BASE: &[Rule] = &[
    Rule::with(libc::SYS_mmap, &[Arg::mask_eq(2, EXEC, 0)], "memory, never executable"),
    Rule::with(libc::SYS_mprotect, &[Arg::mask_eq(2, EXEC, 0)], "stacks' guard pages, never executable"),
    Rule::new(libc::SYS_munmap, "memory"),
    Rule::new(libc::SYS_mremap, "large reallocations"),
    Rule::new(libc::SYS_brk, "malloc"),
    Rule::new(libc::SYS_madvise, "malloc gives memory back"),
    Rule::new(libc::SYS_futex, "locks"),
    Rule::new(libc::SYS_read, "descriptors it was given"),
    Rule::new(libc::SYS_readv, "descriptors it was given"),
    Rule::new(libc::SYS_write, "descriptors it was given"),
    Rule::new(libc::SYS_writev, "descriptors it was given"),
    Rule::new(libc::SYS_close, "descriptors it was given"),
    Rule::new(libc::SYS_poll, "waiting"),
    Rule::new(libc::SYS_ppoll, "waiting"),
    Rule::new(libc::SYS_recvmsg, "edges"),
    Rule::new(libc::SYS_sendmsg, "edges"),
    Rule::new(libc::SYS_recvfrom, "edges"),
    Rule::new(libc::SYS_sendto, "edges"),
    Rule::new(libc::SYS_clock_gettime, "deadlines, where the vdso cannot"),
    Rule::new(libc::SYS_clock_nanosleep, "backoff"),
    Rule::new(libc::SYS_nanosleep, "backoff"),
    Rule::new(libc::SYS_getrandom, "hash seeds, nonces"),
    Rule::new(libc::SYS_sched_yield, "contended locks"),
    Rule::new(libc::SYS_getpid, "abort path"),
    Rule::new(libc::SYS_gettid, "abort path"),
    Rule::with(
        libc::SYS_tgkill,
        &[Arg::eq(2, libc::SIGABRT as u64)],
        "abort path: a panic must not look like an attack",
    ),
    Rule::new(libc::SYS_rt_sigprocmask, "abort path"),
    Rule::new(libc::SYS_rt_sigaction, "abort path"),
    Rule::new(libc::SYS_rt_sigreturn, "signal handlers' return"),
    Rule::new(libc::SYS_sigaltstack, "the runtime's overflow guard is taken down at exit"),
    Rule::new(libc::SYS_restart_syscall, "the kernel's own, after a stop"),
    Rule::new(libc::SYS_exit, "end of a thread"),
    Rule::new(libc::SYS_exit_group, "end of the process"),
    Rule::with(libc::SYS_prctl, &[Arg::eq(0, libc::PR_SET_NAME as u64)], "names of threads"),
    Rule::with(libc::SYS_prctl, &[Arg::eq(0, 0x5356_4d41)], "malloc names its arenas (PR_SET_VMA)"),
    Rule::with(libc::SYS_prctl, &[Arg::eq(0, 0x4155_5856)], "rustix finds the vdso (PR_GET_AUXV): own addresses only"),
    Rule::with(libc::SYS_fcntl, &[Arg::eq(1, libc::F_GETFD as u64)], "the runtime's checks of descriptors"),
    Rule::with(libc::SYS_fcntl, &[Arg::eq(1, libc::F_SETFD as u64)], "close on exec"),
    Rule::with(libc::SYS_fcntl, &[Arg::eq(1, libc::F_GETFL as u64)], "non-blocking mode"),
    Rule::with(libc::SYS_fcntl, &[Arg::eq(1, libc::F_DUPFD_CLOEXEC as u64)], "a second handle of an own descriptor"),
    Rule::with(libc::SYS_ioctl, &[Arg::eq(1, libc::FIONBIO)], "non-blocking mode, as std sets it"),
    // The last, because BASE_FIXED_STATUS is all but this one.
    Rule::with(libc::SYS_fcntl, &[Arg::eq(1, libc::F_SETFL as u64)], "non-blocking mode"),
];

/// [`BASE`] without `F_SETFL`: for a role whose files must stay in append mode.
pub const BASE_FIXED_STATUS: &[Rule] = match BASE.split_last() {
    Some((_, rest)) => rest,
    None => &[],
};

/// What tokio's current-thread runtime adds.
pub const TOKIO: &[Rule] = &[
    Rule::new(libc::SYS_epoll_create1, "the reactor"),
    Rule::new(libc::SYS_epoll_ctl, "the reactor"),
    Rule::new(libc::SYS_epoll_wait, "the reactor"),
    Rule::new(libc::SYS_epoll_pwait, "the reactor"),
    Rule::new(libc::SYS_eventfd2, "the reactor's waker"),
];

/// What starting a thread adds; never a process: `CLONE_THREAD` must be set, and clone3 answers `ENOSYS`.
pub const THREADS: &[Rule] = &[
    Rule::with(
        libc::SYS_clone,
        &[Arg::mask_eq(0, libc::CLONE_THREAD as u64, libc::CLONE_THREAD as u64)],
        "threads, never processes",
    ),
    Rule::new(libc::SYS_set_robust_list, "start of a thread"),
    Rule::new(libc::SYS_rseq, "start of a thread"),
    Rule::new(libc::SYS_sched_getaffinity, "the runtime counts processors"),
];

/// Answered `EACCES`: what libraries look at on their own, files above all.
pub const SOFT: &[Rule] = &[
    Rule::new(libc::SYS_open, "locale, time zone"),
    Rule::new(libc::SYS_openat, "locale, time zone, back traces"),
    Rule::new(libc::SYS_stat, "library probes"),
    Rule::new(libc::SYS_lstat, "library probes"),
    Rule::new(libc::SYS_newfstatat, "library probes"),
    Rule::new(libc::SYS_statx, "library probes"),
    Rule::new(libc::SYS_access, "library probes"),
    Rule::new(libc::SYS_readlink, "library probes"),
    Rule::new(libc::SYS_readlinkat, "library probes"),
    Rule::new(libc::SYS_getcwd, "back traces"),
];

/// As [`SOFT`] for roles that open files beneath a granted directory.
pub const SOFT_NO_OPEN: &[Rule] = &[
    Rule::new(libc::SYS_open, "locale, time zone"),
    Rule::new(libc::SYS_stat, "library probes"),
    Rule::new(libc::SYS_lstat, "library probes"),
    Rule::new(libc::SYS_access, "library probes"),
    Rule::new(libc::SYS_readlink, "library probes"),
    Rule::new(libc::SYS_readlinkat, "library probes"),
    Rule::new(libc::SYS_getcwd, "back traces"),
];
