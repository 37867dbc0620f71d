//! The walls of sandboxd and of the launcher.

use confine::policy::{Access, Arg, BASE, Grant, Limit, LimitKind, Policy, Ports, Rule, STREAMS, TOKIO};
use confine::sys;
use proto::control::Resource;
use proto::ids::Role;

const DOCKER_ONLY: &str = "only where an engine serves; tests/docker.rs makes it";

const ENGINE: &[Rule] = &[
    Rule::with(
        sys::SYS_socket,
        &[
            Arg::eq(0, sys::AF_UNIX as u64, "domain = AF_UNIX"),
            Arg::mask_eq(1, 0xf, sys::SOCK_STREAM as u64, "type = SOCK_STREAM"),
            Arg::eq(2, 0, "protocol = 0"),
        ],
        "the engine's socket, the only one there is a path to",
    )
    .kept(DOCKER_ONLY),
    Rule::new(sys::SYS_connect, "the engine's socket").kept(DOCKER_ONLY),
    Rule::with(
        sys::SYS_getsockopt,
        &[
            Arg::eq(1, sys::SOL_SOCKET as u64, "level = SOL_SOCKET"),
            Arg::eq(2, sys::SO_ERROR as u64, "optname = SO_ERROR"),
        ],
        "whether the connection came about",
    )
    .kept(DOCKER_ONLY),
    Rule::with(sys::SYS_statx, &[Arg::eq(2, 0, "flags = 0")], "the client looks whether the engine's socket is there")
        .kept(DOCKER_ONLY),
    Rule::with(sys::SYS_pipe2, &[Arg::eq(1, sys::O_CLOEXEC as u64, "flags = O_CLOEXEC")], "a command's output"),
];

/// Looking at what the kernel says of the processes in containers.
const PROCESSES: &[Rule] = &[
    Rule::new(sys::SYS_openat2, "files of /proc, which Landlock lets be read and nothing else be opened")
        .kept(DOCKER_ONLY),
    Rule::new(sys::SYS_getdents64, "the list of processes").kept(DOCKER_ONLY),
];

/// What gateway says to its clients, sandboxd says to the engine.
const ENGINE_STREAM: &[Rule] = match STREAMS {
    [receive, send, end] => &[receive.kept(DOCKER_ONLY), send.kept(DOCKER_ONLY), end.kept(DOCKER_ONLY)],
    _ => STREAMS,
};

/// As for the others, but the engine's client must see whether the socket is there.
const SOFT_SANDBOXD: &[Rule] = &[
    Rule::new(sys::SYS_openat, "library probes"),
    Rule::new(sys::SYS_open, "library probes"),
    Rule::new(sys::SYS_stat, "library probes"),
    Rule::new(sys::SYS_lstat, "library probes"),
    Rule::new(sys::SYS_newfstatat, "library probes"),
    Rule::new(sys::SYS_access, "library probes"),
    Rule::new(sys::SYS_getcwd, "back traces"),
];

/// sandboxd: the engine's socket, what the kernel says of processes to everybody, and no program, other file or network.
pub static SANDBOXD: Policy = Policy {
    role: Role::Sandboxd,
    rules: &[BASE, TOKIO, ENGINE_STREAM, ENGINE, PROCESSES],
    soft: SOFT_SANDBOXD,
    limits: &[
        Limit { resource: LimitKind::RLIMIT_NOFILE, value: 1_024, why: "pipes and engine connections of 16 runs" },
        Limit { resource: LimitKind::RLIMIT_FSIZE, value: 0, why: "no file of its own, so none that grows" },
        Limit { resource: LimitKind::RLIMIT_NPROC, value: 1, why: "no second process or thread" },
    ],
    grants: &[Grant {
        resource: Resource::Processes,
        access: Access::ReadOnly,
        why: "whether a process in a container has rights that it must not have",
    }],
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
    Rule::with(sys::SYS_ioctl, &[TYPES], "no typing into a terminal"),
    Rule::with(sys::SYS_ioctl, &[MENU], "no typing into a terminal"),
];

/// The kernel reads an int.
const TYPES: Arg = Arg::mask_eq(1, 0xffff_ffff, sys::TIOCSTI, "op = TIOCSTI");
const MENU: Arg = Arg::mask_eq(1, 0xffff_ffff, sys::TIOCLINUX, "op = TIOCLINUX");

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
