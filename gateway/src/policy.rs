//! The gateway's walls as data. It listens on a socket it was handed and can make none; it starts nothing; the one
//! directory it reaches is its own, and there it can neither cut nor remove a file.

use confine::policy::{Access, Arg, BASE, Grant, Limit, LimitKind, Policy, Ports, Rule, SOFT_NO_OPEN, TOKIO};
use confine::sys::{
    SYS_accept4, SYS_fstat, SYS_getpeername, SYS_getsockname, SYS_getsockopt, SYS_newfstatat, SYS_openat, SYS_pread64,
    SYS_setsockopt, SYS_shutdown,
};
use proto::control::Resource;

/// `O_TRUNC` of Linux.
const TRUNC: u64 = 0o1000;
/// `O_APPEND` of Linux.
const APPEND: u64 = 0o2000;
/// `O_ACCMODE`; 0 in it is reading alone.
const ACCESS_MODE: u64 = 0o3;
/// `SHUT_WR`.
const SEND_SIDE: u64 = 1;
/// `IPPROTO_TCP`.
const TCP: u64 = 6;
/// `TCP_NODELAY`.
const NODELAY: u64 = 1;

const OWN: &[Rule] = &[
    Rule::new(SYS_accept4, "clients, on the listener that broker bound"),
    Rule::with(
        SYS_shutdown,
        &[Arg::eq(1, SEND_SIDE, "how = SHUT_WR")],
        "an orderly end of a client's connection; the other side of the listener would be broker's loss",
    ),
    Rule::with(
        SYS_setsockopt,
        &[Arg::eq(1, TCP, "level = IPPROTO_TCP"), Arg::eq(2, NODELAY, "optname = TCP_NODELAY")],
        "frames are not held back",
    ),
    Rule::new(SYS_getsockopt, "pending errors of a client's socket"),
    Rule::new(SYS_getpeername, "the client's address, for the vault's lockout"),
    Rule::new(SYS_getsockname, "the reactor takes the listener over"),
    Rule::with(
        SYS_openat,
        &[Arg::mask_eq(2, TRUNC | ACCESS_MODE, 0, "flags with O_RDONLY, without O_TRUNC")],
        "transcripts are read, beneath the session directory (Landlock)",
    ),
    Rule::with(
        SYS_openat,
        &[Arg::mask_eq(2, TRUNC | APPEND, APPEND, "flags with O_APPEND, without O_TRUNC")],
        "transcripts are appended to; what is written stays written",
    ),
    Rule::new(SYS_fstat, "size and age of a transcript"),
    Rule::new(SYS_newfstatat, "size and age of a transcript, as newer C libraries ask"),
    Rule::new(SYS_pread64, "the tail of a transcript"),
];

/// The wall.
pub static POLICY: Policy = Policy {
    role: proto::ids::Role::Gateway,
    rules: &[BASE, TOKIO, OWN],
    soft: SOFT_NO_OPEN,
    limits: &[
        Limit {
            resource: LimitKind::RLIMIT_NOFILE,
            value: 1024,
            why: "512 connections, one transcript at a time, edges",
        },
        Limit { resource: LimitKind::RLIMIT_FSIZE, value: 256 << 20, why: "no transcript fills the disk" },
        Limit { resource: LimitKind::RLIMIT_NPROC, value: 1, why: "no second process or thread" },
    ],
    grants: &[Grant {
        resource: Resource::SessionDir,
        access: Access::Append,
        why: "transcripts: made, read and appended to; neither cut nor removed",
    }],
    ports: Ports::None,
    default_allow: false,
    landlock_files: true,
};

#[cfg(test)]
mod tests {
    use super::*;
    use confine::sys::{SYS_bind, SYS_clone, SYS_connect, SYS_execve, SYS_listen, SYS_socket};

    #[test]
    fn policy_lists_no_way_to_a_new_socket_or_program() {
        let text = format!("{:?}", POLICY.rules);
        assert!(text.contains(&format!("nr: {SYS_accept4},")), "the probe finds what is there");
        for nr in [SYS_socket, SYS_connect, SYS_bind, SYS_listen, SYS_clone, SYS_execve] {
            assert!(!text.contains(&format!("nr: {nr},")), "{nr}");
        }
    }
}
