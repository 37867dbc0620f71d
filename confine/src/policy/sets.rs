//! What the C library, the Rust runtime and tokio need to run at all; each role adds its own.

use super::{Arg, Rule};

const NO_EXEC: Arg = Arg::mask_eq(2, libc::PROT_EXEC as u64, 0, "prot without PROT_EXEC");
/// Anonymous and private: a shared mapping of a file that is open for appending could change what stands in it.
const OWN_MEMORY: Arg = Arg::mask_eq(
    3,
    (libc::MAP_TYPE | libc::MAP_ANONYMOUS) as u64,
    (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64,
    "flags with MAP_PRIVATE | MAP_ANONYMOUS, no other type",
);

const HEAP: &str = "how much memory a run takes decides whether it is called";
const ABORT: &str = "the abort path, which no healthy run takes";
const ALONE: &str = "locks are free in a process of one thread; libraries may still wait on one";

/// What every role needs to live, to talk on descriptors it was given, and to die properly.
pub const BASE: &[Rule] = &[
    Rule::with(libc::SYS_mmap, &[NO_EXEC, OWN_MEMORY], "memory: never executable, never a file").kept(HEAP),
    Rule::with(libc::SYS_mprotect, &[NO_EXEC], "guard pages, never executable").kept(HEAP),
    Rule::new(libc::SYS_munmap, "memory is given back"),
    Rule::with(
        libc::SYS_mremap,
        &[Arg::eq(3, libc::MREMAP_MAYMOVE as u64, "flags = MREMAP_MAYMOVE")],
        "large reallocations; never onto a chosen address",
    )
    .kept(HEAP),
    Rule::new(libc::SYS_brk, "malloc").kept(HEAP),
    Rule::with(
        libc::SYS_madvise,
        &[Arg::eq(2, libc::MADV_DONTNEED as u64, "advice = MADV_DONTNEED")],
        "malloc gives memory back",
    )
    .kept(HEAP),
    Rule::with(libc::SYS_futex, &[futex(libc::FUTEX_WAKE, "op = FUTEX_WAKE_PRIVATE")], "locks").kept(ALONE),
    Rule::with(libc::SYS_futex, &[futex(libc::FUTEX_WAIT, "op = FUTEX_WAIT_PRIVATE")], "locks").kept(ALONE),
    Rule::with(
        libc::SYS_futex,
        &[futex(libc::FUTEX_WAIT_BITSET, "op = FUTEX_WAIT_BITSET_PRIVATE")],
        "locks, as std waits",
    )
    .kept(ALONE),
    Rule::new(libc::SYS_write, "descriptors it was given; last words on the log pipe")
        .kept("some roles have nothing to say"),
    Rule::new(libc::SYS_close, "descriptors it was given"),
    Rule::new(libc::SYS_ppoll, "waiting, with a deadline"),
    Rule::with(
        libc::SYS_recvmsg,
        &[Arg::eq(2, libc::MSG_CMSG_CLOEXEC as u64, "flags = MSG_CMSG_CLOEXEC")],
        "edges and the control channel",
    ),
    Rule::with(
        libc::SYS_sendmsg,
        &[Arg::eq(2, libc::MSG_NOSIGNAL as u64, "flags = MSG_NOSIGNAL")],
        "edges and the control channel; no MSG_FASTOPEN, which would connect",
    ),
    Rule::new(libc::SYS_clock_gettime, "deadlines")
        .kept("the vdso answers, except under a clock source it cannot read"),
    Rule::new(libc::SYS_getrandom, "hash seeds, nonces").kept("auditd draws none once it serves"),
    Rule::new(libc::SYS_sched_yield, "contended locks").kept(ALONE),
    Rule::new(libc::SYS_getpid, "abort path").kept(ABORT),
    Rule::new(libc::SYS_gettid, "abort path").kept(ABORT),
    Rule::with(
        libc::SYS_tgkill,
        &[Arg::eq(2, libc::SIGABRT as u64, "sig = SIGABRT")],
        "abort path: a panic must not look like an attack",
    )
    .kept(ABORT),
    Rule::new(libc::SYS_rt_sigprocmask, "abort path").kept(ABORT),
    Rule::with(libc::SYS_rt_sigaction, &[signal(libc::SIGABRT, "signum = SIGABRT")], "abort path").kept(ABORT),
    Rule::with(libc::SYS_rt_sigaction, &[signal(libc::SIGSEGV, "signum = SIGSEGV")], "a fault that is no overflow")
        .kept(ABORT),
    Rule::with(libc::SYS_rt_sigaction, &[signal(libc::SIGBUS, "signum = SIGBUS")], "a fault that is no overflow")
        .kept(ABORT),
    Rule::new(libc::SYS_rt_sigreturn, "signal handlers' return").kept(ABORT),
    Rule::new(libc::SYS_sigaltstack, "the runtime's overflow guard is taken down at exit"),
    Rule::new(libc::SYS_restart_syscall, "the kernel's own, after a stop")
        .kept("only a stopped and continued role makes it"),
    Rule::new(libc::SYS_exit_group, "end of the process"),
    Rule::with(
        libc::SYS_prctl,
        &[Arg::eq(0, 0x4155_5856, "op = PR_GET_AUXV")],
        "rustix finds the vdso: own addresses only",
    )
    .kept("asked once, by the first role's code that reads a clock through rustix"),
    Rule::with(libc::SYS_fcntl, &[command(libc::F_GETFD, "cmd = F_GETFD")], "debug builds check what they close"),
];

/// What tokio's current-thread runtime adds.
pub const TOKIO: &[Rule] = &[
    Rule::with(
        libc::SYS_epoll_create1,
        &[Arg::eq(0, libc::EPOLL_CLOEXEC as u64, "flags = EPOLL_CLOEXEC")],
        "the reactor",
    ),
    Rule::new(libc::SYS_epoll_ctl, "the reactor"),
    Rule::new(libc::SYS_epoll_wait, "the reactor"),
    Rule::with(
        libc::SYS_eventfd2,
        &[Arg::eq(1, (libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as u64, "flags = EFD_CLOEXEC | EFD_NONBLOCK")],
        "the reactor's waker",
    ),
    Rule::new(libc::SYS_read, "the waker, and pipes it was given")
        .kept("the waker is read only when its counter is full"),
    Rule::with(
        libc::SYS_fcntl,
        &[command(libc::F_DUPFD_CLOEXEC, "cmd = F_DUPFD_CLOEXEC")],
        "the reactor's second handle",
    ),
    Rule::with(
        libc::SYS_ioctl,
        &[Arg::eq(1, libc::FIONBIO, "op = FIONBIO")],
        "a stream it was given is made non-blocking",
    )
    .kept("some roles are given none yet"),
];

/// What talking on a connected stream adds. No address may be given, so nothing can be sent elsewhere.
pub const STREAMS: &[Rule] = &[
    Rule::with(
        libc::SYS_recvfrom,
        &[Arg::eq(3, 0, "flags = 0"), Arg::eq(4, 0, "src_addr = NULL")],
        "a stream's bytes, as std receives them",
    ),
    Rule::with(
        libc::SYS_sendto,
        &[Arg::eq(3, libc::MSG_NOSIGNAL as u64, "flags = MSG_NOSIGNAL"), Arg::eq(4, 0, "dest_addr = NULL")],
        "a stream's bytes, as std sends them",
    ),
    Rule::with(libc::SYS_shutdown, &[Arg::eq(1, libc::SHUT_WR as u64, "how = SHUT_WR")], "an orderly end"),
];

const fn futex(op: i32, means: &'static str) -> Arg {
    Arg::eq(1, (op | libc::FUTEX_PRIVATE_FLAG).unsigned_abs() as u64, means)
}

const fn signal(number: i32, means: &'static str) -> Arg {
    Arg::eq(0, number.unsigned_abs() as u64, means)
}

const fn command(number: i32, means: &'static str) -> Arg {
    Arg::eq(1, number.unsigned_abs() as u64, means)
}

/// Answered `EACCES`: what libraries look at on their own, files above all.
pub const SOFT: &[Rule] = &[
    Rule::new(libc::SYS_openat, "locale, time zone, back traces"),
    Rule::new(libc::SYS_open, "locale, time zone"),
    Rule::new(libc::SYS_stat, "library probes"),
    Rule::new(libc::SYS_lstat, "library probes"),
    Rule::new(libc::SYS_newfstatat, "library probes"),
    Rule::new(libc::SYS_statx, "library probes"),
    Rule::new(libc::SYS_access, "library probes"),
    Rule::new(libc::SYS_readlink, "library probes"),
    Rule::new(libc::SYS_readlinkat, "library probes"),
    Rule::new(libc::SYS_getcwd, "back traces"),
];

/// Answered `ENOSYS` in every role, as on a kernel that lacks them: the C library then uses the call that can be checked.
pub const ABSENT: &[Rule] = &[Rule::new(libc::SYS_clone3, "its flags are behind a pointer, where no filter sees them")];
