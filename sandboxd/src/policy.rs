//! The walls of sandboxd and of the launcher.

use confine::policy::{Arg, BASE, Limit, LimitKind, Policy, Ports, Rule, TOKIO};
use confine::sys;
use proto::ids::Role;

const ENGINE: &[Rule] = &[
    Rule::with(
        sys::SYS_socket,
        &[Arg::eq(0, sys::AF_UNIX as u64, "domain = AF_UNIX")],
        "the engine's socket, the only one there is a path to",
    ),
    Rule::new(sys::SYS_connect, "the engine's socket"),
    Rule::new(sys::SYS_getsockopt, "whether the connection came about"),
    Rule::new(sys::SYS_getpeername, "tokio asks who the other end is"),
    Rule::new(sys::SYS_getsockname, "tokio asks who this end is"),
    Rule::new(sys::SYS_shutdown, "end of a connection to the engine"),
    Rule::new(sys::SYS_pipe2, "a command's output"),
    Rule::new(sys::SYS_newfstatat, "tokio checks that a pipe is one"),
    Rule::new(sys::SYS_fstat, "tokio checks that a pipe is one"),
    Rule::new(sys::SYS_statx, "the client looks whether the engine's socket is there"),
];

const SOFT_SANDBOXD: &[Rule] = &[
    Rule::new(sys::SYS_open, "library probes"),
    Rule::new(sys::SYS_openat, "library probes"),
    Rule::new(sys::SYS_stat, "library probes"),
    Rule::new(sys::SYS_access, "library probes"),
    Rule::new(sys::SYS_readlink, "library probes"),
    Rule::new(sys::SYS_getcwd, "back traces"),
];

/// sandboxd: the engine's socket, and no program, file or network.
pub static SANDBOXD: Policy = Policy {
    role: Role::Sandboxd,
    rules: &[BASE, TOKIO, ENGINE],
    soft: SOFT_SANDBOXD,
    limits: &[Limit {
        resource: LimitKind::RLIMIT_NOFILE,
        value: 1_024,
        why: "pipes and engine connections of 16 runs",
    }],
    grants: &[],
    ports: Ports::None,
    default_allow: false,
    landlock_files: true,
};

const NEVER: &[Rule] = &[
    Rule::new(sys::SYS_process_vm_readv, "no reading of other processes"),
    Rule::new(sys::SYS_pidfd_getfd, "no descriptors of other processes"),
    Rule::new(sys::SYS_iopl, "no ports"),
    Rule::new(sys::SYS_ioperm, "no ports"),
];

/// asm-generic/ioctls.h.
const TIOCSTI: u32 = 0x5412;
/// The same.
const TIOCLINUX: u32 = 0x541c;

/// Answered `EACCES` and not by death: sandboxed programs inherit this, and some try these on their own. Their own filter
/// denies the same calls, so what they see does not change.
const SOFT_LAUNCHER: &[Rule] = &[
    Rule::new(sys::SYS_io_uring_setup, "no calls past the filters"),
    Rule::new(sys::SYS_io_uring_enter, "no calls past the filters"),
    Rule::new(sys::SYS_io_uring_register, "no calls past the filters"),
    Rule::new(sys::SYS_perf_event_open, "no counters"),
    Rule::new(sys::SYS_keyctl, "no keyrings"),
    Rule::new(sys::SYS_add_key, "no keyrings"),
    Rule::new(sys::SYS_request_key, "no keyrings"),
    Rule::new(sys::SYS_ptrace, "no tracing"),
    Rule::new(sys::SYS_kcmp, "no comparing of processes"),
    Rule::new(sys::SYS_process_madvise, "no advice on other processes' memory"),
    Rule::new(sys::SYS_move_pages, "no moving of other processes' memory"),
    Rule::new(sys::SYS_migrate_pages, "no moving of other processes' memory"),
    Rule::new(sys::SYS_memfd_secret, "no memory that nobody can look into"),
    Rule::new(sys::SYS_name_to_handle_at, "no way around paths"),
    Rule::new(sys::SYS_fanotify_init, "no watching of file systems"),
    Rule::new(sys::SYS_quotactl, "no quota"),
    Rule::new(sys::SYS_modify_ldt, "no segments"),
    Rule::new(sys::SYS_syslog, "no kernel log"),
    Rule::new(sys::SYS_settimeofday, "no clock"),
    Rule::new(sys::SYS_clock_settime, "no clock"),
    Rule::new(sys::SYS_swapoff, "no swap"),
    Rule::with(sys::SYS_ioctl, &[Arg::int(1, TIOCSTI, "request = TIOCSTI")], "no typing into a terminal"),
    Rule::with(sys::SYS_ioctl, &[Arg::int(1, TIOCLINUX, "request = TIOCLINUX")], "no typing into a terminal"),
];

/// launcher: its filter is inherited by every sandboxed program, which then gets a stricter one of its own. Landlock keeps
/// signals, abstract sockets and TCP in; it cannot rule files here, since a process in such a domain may not mount.
pub static LAUNCHER: Policy = Policy {
    role: Role::Launcher,
    rules: &[NEVER],
    soft: SOFT_LAUNCHER,
    limits: &[Limit { resource: LimitKind::RLIMIT_NOFILE, value: 1_024, why: "32 runs, four descriptors each" }],
    grants: &[],
    ports: Ports::None,
    default_allow: true,
    landlock_files: false,
};
