//! The walls of both processes.

use confine::policy::{Arg, BASE, Limit, LimitKind, Policy, Ports, Rule, SOFT, TOKIO};
use confine::sys;
use proto::ids::Role;

/// `SOCK_STREAM` beneath the flags that may be or-ed to it.
const STREAM: Arg = Arg::mask_eq(1, 0xf, sys::SOCK_STREAM as u64, "type = SOCK_STREAM");

/// Landlock rules the ports of TCP, not those of MPTCP and SCTP.
const PLAIN_TCP: Arg = Arg::mask_eq(2, !(sys::IPPROTO_TCP as u64), 0, "protocol 0 or IPPROTO_TCP");

const DIAL: &[Rule] = &[
    Rule::with(
        sys::SYS_socket,
        &[Arg::eq(0, sys::AF_INET as u64, "domain = AF_INET"), STREAM, PLAIN_TCP],
        "TCP, outwards",
    ),
    Rule::with(
        sys::SYS_socket,
        &[Arg::eq(0, sys::AF_INET6 as u64, "domain = AF_INET6"), STREAM, PLAIN_TCP],
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
];

/// egress: no socket, no file, no program.
pub static EGRESS: Policy = Policy {
    role: Role::Egress,
    rules: &[BASE, TOKIO],
    soft: SOFT,
    limits: &[Limit {
        resource: LimitKind::RLIMIT_NOFILE,
        value: 256,
        why: "32 requests in flight, an edge or two each",
    }],
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
    limits: &[Limit { resource: LimitKind::RLIMIT_NOFILE, value: 256, why: "32 connections under way" }],
    grants: &[],
    ports: Ports::Named {
        why: "the ports of egress.allow; the filter cannot see addresses, the allowlist decides them",
    },
    default_allow: false,
    landlock_files: true,
};
