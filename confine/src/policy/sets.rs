//! What the C library, the Rust runtime and tokio need to run at all; each role adds its own.

use super::{Arg, Rule};

const EXEC: u64 = libc::PROT_EXEC as u64;
/// The bits of mmap's flags that say whose writes are seen.
const MAP_TYPE: u64 = libc::MAP_TYPE as u64;
/// With this flag a send connects first, past seccomp's rule of `connect` and past Landlock's of ports.
const FASTOPEN: u64 = libc::MSG_FASTOPEN as u64;

/// What every role needs to live, to talk on descriptors it was given, and to die properly.
pub const BASE: &[Rule] = &[
    Rule::with(
        libc::SYS_mmap,
        &[
            Arg::mask_eq(2, EXEC, 0, "prot without PROT_EXEC"),
            Arg::mask_eq(3, MAP_TYPE, libc::MAP_PRIVATE as u64, "flags with MAP_PRIVATE"),
        ],
        "memory, never executable; never shared, which would write into a file that is open for appending alone",
    ),
    Rule::with(
        libc::SYS_mprotect,
        &[Arg::mask_eq(2, EXEC, 0, "prot without PROT_EXEC")],
        "stacks' guard pages, never executable",
    ),
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
    Rule::with(
        libc::SYS_sendmsg,
        &[Arg::mask_eq(2, FASTOPEN, 0, "flags without MSG_FASTOPEN")],
        "edges; never a connection by the back door",
    ),
    Rule::new(libc::SYS_recvfrom, "edges"),
    Rule::with(
        libc::SYS_sendto,
        &[Arg::mask_eq(3, FASTOPEN, 0, "flags without MSG_FASTOPEN")],
        "edges; never a connection by the back door",
    ),
    Rule::new(libc::SYS_clock_gettime, "deadlines, where the vdso cannot"),
    Rule::new(libc::SYS_clock_nanosleep, "backoff"),
    Rule::new(libc::SYS_nanosleep, "backoff"),
    Rule::new(libc::SYS_getrandom, "hash seeds, nonces"),
    Rule::new(libc::SYS_sched_yield, "contended locks"),
    Rule::new(libc::SYS_getpid, "abort path"),
    Rule::new(libc::SYS_gettid, "abort path"),
    Rule::with(
        libc::SYS_tgkill,
        &[Arg::eq(2, libc::SIGABRT as u64, "sig = SIGABRT")],
        "abort path: a panic must not look like an attack",
    ),
    Rule::new(libc::SYS_rt_sigprocmask, "abort path"),
    Rule::new(libc::SYS_rt_sigaction, "abort path"),
    Rule::new(libc::SYS_rt_sigreturn, "signal handlers' return"),
    Rule::new(libc::SYS_sigaltstack, "the runtime's overflow guard is taken down at exit"),
    Rule::new(libc::SYS_restart_syscall, "the kernel's own, after a stop"),
    Rule::new(libc::SYS_exit, "end of a thread"),
    Rule::new(libc::SYS_exit_group, "end of the process"),
    Rule::with(libc::SYS_prctl, &[Arg::eq(0, libc::PR_SET_NAME as u64, "op = PR_SET_NAME")], "names of threads"),
    Rule::with(libc::SYS_prctl, &[Arg::eq(0, 0x5356_4d41, "op = PR_SET_VMA")], "malloc names its arenas (PR_SET_VMA)"),
    Rule::with(
        libc::SYS_prctl,
        &[Arg::eq(0, 0x4155_5856, "op = PR_GET_AUXV")],
        "rustix finds the vdso (PR_GET_AUXV): own addresses only",
    ),
    Rule::with(
        libc::SYS_fcntl,
        &[Arg::eq(1, libc::F_GETFD as u64, "cmd = F_GETFD")],
        "the runtime's checks of descriptors",
    ),
    Rule::with(libc::SYS_fcntl, &[Arg::eq(1, libc::F_SETFD as u64, "cmd = F_SETFD")], "close on exec"),
    Rule::with(libc::SYS_fcntl, &[Arg::eq(1, libc::F_GETFL as u64, "cmd = F_GETFL")], "non-blocking mode"),
    Rule::with(
        libc::SYS_fcntl,
        &[Arg::eq(1, libc::F_DUPFD_CLOEXEC as u64, "cmd = F_DUPFD_CLOEXEC")],
        "a second handle of an own descriptor",
    ),
    Rule::with(libc::SYS_ioctl, &[Arg::eq(1, libc::FIONBIO, "op = FIONBIO")], "non-blocking mode, as std sets it"),
];

/// What tokio's current-thread runtime adds.
pub const TOKIO: &[Rule] = &[
    Rule::new(libc::SYS_epoll_create1, "the reactor"),
    Rule::new(libc::SYS_epoll_ctl, "the reactor"),
    Rule::new(libc::SYS_epoll_wait, "the reactor"),
    Rule::new(libc::SYS_epoll_pwait, "the reactor"),
    Rule::new(libc::SYS_eventfd2, "the reactor's waker"),
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

/// Answered `ENOSYS` in every role, as on a kernel that lacks them: the C library then uses the call that can be checked.
pub const ABSENT: &[Rule] = &[Rule::new(libc::SYS_clone3, "its flags are behind a pointer, where no filter sees them")];
