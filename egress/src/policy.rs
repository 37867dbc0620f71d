//! The walls of both processes.

use confine::policy::{Arg, BASE, Limit, LimitKind, Policy, Ports, Rule, SOFT, STREAMS, TOKIO};
use confine::sys;
use proto::ids::Role;

/// `SOCK_STREAM` beneath the flags that may be or-ed to it.
const STREAM: Arg = Arg::mask_eq(1, 0xf, sys::SOCK_STREAM as u64, "type = SOCK_STREAM");

/// No protocol but the family's own.
const DEFAULT: Arg = Arg::eq(2, 0, "protocol = 0");

/// Bytes of a connected stream, in and out; nothing is shut down, only closed.
const BYTES: &[Rule] = match STREAMS {
    [receive, send, _] => &[*receive, *send],
    _ => STREAMS,
};

const SPEAK: &[Rule] = &[
    Rule::new(sys::SYS_getpeername, "where a connection leads that dialer handed over"),
    Rule::new(sys::SYS_writev, "records of TLS"),
    Rule::with(
        sys::SYS_fcntl,
        &[Arg::eq(1, sys::F_GETFL as u64, "cmd = F_GETFL")],
        "whether a connection is non-blocking, in debug builds",
    ),
];
const DIAL: &[Rule] = &[
    Rule::with(
        sys::SYS_socket,
        &[Arg::eq(0, sys::AF_INET as u64, "domain = AF_INET"), STREAM, DEFAULT],
        "TCP, outwards",
    ),
    Rule::with(
        sys::SYS_socket,
        &[Arg::eq(0, sys::AF_INET6 as u64, "domain = AF_INET6"), STREAM, DEFAULT],
        "TCP, outwards",
    ),
    Rule::new(sys::SYS_connect, "to what the allowlist decided; Landlock rules the ports"),
    Rule::with(
        sys::SYS_getsockopt,
        &[
            Arg::eq(1, sys::SOL_SOCKET as u64, "level = SOL_SOCKET"),
            Arg::eq(2, sys::SO_ERROR as u64, "optname = SO_ERROR"),
        ],
        "whether the connection came about",
    ),
    Rule::with(
        sys::SYS_setsockopt,
        &[
            Arg::eq(1, sys::IPPROTO_TCP as u64, "level = IPPROTO_TCP"),
            Arg::eq(2, sys::TCP_NODELAY as u64, "optname = TCP_NODELAY"),
        ],
        "requests are not held back",
    ),
];

const NO_FILE: Limit =
    Limit { resource: LimitKind::RLIMIT_FSIZE, value: 0, why: "no file of its own, so none that grows" };
const ONE_PROCESS: Limit = Limit { resource: LimitKind::RLIMIT_NPROC, value: 1, why: "no second process or thread" };

/// egress: speaks on the connections that it is handed; no socket, no file, no program.
pub static EGRESS: Policy = Policy {
    role: Role::Egress,
    rules: &[BASE, TOKIO, BYTES, SPEAK],
    soft: SOFT,
    limits: &[
        Limit { resource: LimitKind::RLIMIT_NOFILE, value: 256, why: "32 requests in flight, an edge or two each" },
        NO_FILE,
        ONE_PROCESS,
    ],
    grants: &[],
    ports: Ports::None,
    default_allow: false,
    landlock_files: true,
};

/// dialer: outbound TCP to the ports of the lists and of the name server, whom alone it speaks to.
pub static DIALER: Policy = Policy {
    role: Role::Dialer,
    rules: &[BASE, TOKIO, BYTES, DIAL],
    soft: SOFT,
    limits: &[
        Limit { resource: LimitKind::RLIMIT_NOFILE, value: 256, why: "32 connections under way" },
        NO_FILE,
        ONE_PROCESS,
    ],
    grants: &[],
    ports: Ports::Named {
        why: "the ports of egress.allow and egress.local, and the name server's; the filter cannot see addresses, the allowlist decides them",
    },
    default_allow: false,
    landlock_files: true,
};
