//! The walls of both processes.

use confine::policy::{Arg, BASE, Limit, LimitKind, Policy, Ports, Rule, SOFT, TOKIO};
use confine::sys;
use proto::ids::Role;

/// `SOCK_STREAM` beneath the flags that may be or-ed to it.
const STREAM: Arg = Arg::mask_eq(1, 0xf, sys::SOCK_STREAM as u64, "type = SOCK_STREAM");

/// No protocol but the family's own.
const DEFAULT: Arg = Arg::eq(2, 0, "protocol = 0");
const NO_REQUEST: &str = "the suite connects nowhere: no request leaves yet";

const DIAL: &[Rule] = &[
    Rule::with(
        sys::SYS_socket,
        &[Arg::eq(0, sys::AF_INET as u64, "domain = AF_INET"), STREAM, DEFAULT],
        "TCP, outwards",
    )
    .kept(NO_REQUEST),
    Rule::with(
        sys::SYS_socket,
        &[Arg::eq(0, sys::AF_INET6 as u64, "domain = AF_INET6"), STREAM, DEFAULT],
        "TCP, outwards",
    )
    .kept(NO_REQUEST),
    Rule::new(sys::SYS_connect, "to what the allowlist decided; Landlock rules the ports").kept(NO_REQUEST),
    Rule::with(
        sys::SYS_getsockopt,
        &[
            Arg::eq(1, sys::SOL_SOCKET as u64, "level = SOL_SOCKET"),
            Arg::eq(2, sys::SO_ERROR as u64, "optname = SO_ERROR"),
        ],
        "whether the connection came about",
    )
    .kept(NO_REQUEST),
];

const NO_FILE: Limit =
    Limit { resource: LimitKind::RLIMIT_FSIZE, value: 0, why: "no file of its own, so none that grows" };
const ONE_PROCESS: Limit = Limit { resource: LimitKind::RLIMIT_NPROC, value: 1, why: "no second process or thread" };

/// egress: no socket, no file, no program.
pub static EGRESS: Policy = Policy {
    role: Role::Egress,
    rules: &[BASE, TOKIO],
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

/// dialer: outbound TCP to the ports of the list, and nothing else.
pub static DIALER: Policy = Policy {
    role: Role::Dialer,
    rules: &[BASE, TOKIO, DIAL],
    soft: SOFT,
    limits: &[
        Limit { resource: LimitKind::RLIMIT_NOFILE, value: 256, why: "32 connections under way" },
        NO_FILE,
        ONE_PROCESS,
    ],
    grants: &[],
    ports: Ports::Named {
        why: "the ports of egress.allow; the filter cannot see addresses, the allowlist decides them",
    },
    default_allow: false,
    landlock_files: true,
};
