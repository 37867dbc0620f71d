//! The gateway's walls as data. It listens on a socket it was handed and can make none; it starts nothing; the one
//! directory it reaches is its own, and there it can neither cut nor remove a file.

use confine::policy::{Access, Arg, BASE, Grant, Limit, LimitKind, Policy, Ports, Rule, STREAMS, TOKIO};
use confine::sys;
use proto::control::Resource;

/// `O_RDONLY | O_NOFOLLOW`.
const READ: u64 = 0o400_000;
/// `O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW`.
const APPEND: u64 = 0o402_102;
/// What must be exactly so: those, the rest of the access mode, and `O_TRUNC`.
const LOOKED_AT: u64 = APPEND | 0o1 | 0o1000;
/// `rw-------`.
const PRIVATE: u64 = 0o600;
/// `SOCK_CLOEXEC | SOCK_NONBLOCK`.
const ACCEPTED: u64 = 0o2_004_000;

const OWN: &[Rule] = &[
    Rule::with(
        sys::SYS_accept4,
        &[Arg::eq(3, ACCEPTED, "flags = SOCK_CLOEXEC | SOCK_NONBLOCK")],
        "clients, on the listener that broker bound",
    ),
    Rule::with(
        sys::SYS_setsockopt,
        &[
            Arg::eq(1, sys::IPPROTO_TCP as u64, "level = IPPROTO_TCP"),
            Arg::eq(2, sys::TCP_NODELAY as u64, "optname = TCP_NODELAY"),
        ],
        "frames are not held back",
    ),
    Rule::new(sys::SYS_writev, "a frame's head and body in one packet"),
    Rule::with(
        sys::SYS_fcntl,
        &[Arg::eq(1, sys::F_GETFL as u64, "cmd = F_GETFL")],
        "whether the operator's stream is non-blocking",
    ),
    Rule::with(
        sys::SYS_openat,
        &[Arg::mask_eq(2, LOOKED_AT, READ, "flags with O_RDONLY | O_NOFOLLOW")],
        "transcripts are read, beneath the session directory (Landlock)",
    ),
    Rule::with(
        sys::SYS_openat,
        &[
            Arg::mask_eq(2, LOOKED_AT, APPEND, "flags with O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW"),
            Arg::eq(3, PRIVATE, "mode = 0600"),
        ],
        "transcripts are made and appended to: what is written stays written",
    ),
    Rule::new(sys::SYS_fstat, "size and age of a transcript"),
    Rule::new(sys::SYS_pread64, "the tail of a transcript"),
];

/// The wall.
pub static POLICY: Policy = Policy {
    role: proto::ids::Role::Gateway,
    rules: &[BASE, TOKIO, STREAMS, OWN],
    soft: &[],
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

    #[test]
    fn masks_are_what_the_kernel_calls_them() {
        let read = sys::O_RDONLY | sys::O_NOFOLLOW;
        let append = sys::O_RDWR | sys::O_CREAT | sys::O_APPEND | sys::O_NOFOLLOW;
        assert_eq!(READ, u64::try_from(read).unwrap());
        assert_eq!(APPEND, u64::try_from(append).unwrap());
        assert_eq!(LOOKED_AT, u64::try_from(append | sys::O_ACCMODE | sys::O_TRUNC).unwrap());
        assert_eq!(ACCEPTED, u64::try_from(sys::SOCK_CLOEXEC | sys::SOCK_NONBLOCK).unwrap());
    }
}
