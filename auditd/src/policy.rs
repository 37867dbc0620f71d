//! auditd's wall. It can append to its files, make the next one, and read; it can neither truncate, rename nor remove
//! one, map one, take one out of append mode, nor open one that is there for writing, so that not even a fallen auditd can
//! shorten or replace what it wrote. What it can still do is write over its own signing key, which is how a key is
//! destroyed.

use confine::policy::{Access, Arg, BASE, Grant, Limit, LimitKind, Policy, Ports, Rule};
use confine::sys;
use proto::control::Resource;
use proto::ids::Role;

/// `O_RDONLY | O_NOFOLLOW`.
const READ: u64 = 0o400_000;
/// `O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW`: makes a file or fails, and writes at its end alone.
const NEW_FILE: u64 = 0o402_301;
/// What must be exactly so: those, the rest of the access mode, and `O_TRUNC`.
const LOOKED_AT: u64 = NEW_FILE | 0o2 | 0o1000;
/// `rw-------`.
const PRIVATE: u64 = 0o600;
/// `FALLOC_FL_KEEP_SIZE` alone: it neither cuts nor changes a byte.
const KEEP_SIZE: u64 = 1;

const NEW_KEY: &str = "a signing key is replaced in the first second after it is an hour old";
const ROTATION: &str = "a stream goes on in a new file once one is as large or as old as the configuration says";

const OWN: &[Rule] = &[
    Rule::with(
        sys::SYS_openat,
        &[
            Arg::mask_eq(2, LOOKED_AT, NEW_FILE, "flags with O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW"),
            Arg::eq(3, PRIVATE, "mode = 0600"),
        ],
        "the next file of a stream, which must be new",
    )
    .kept(ROTATION),
    Rule::with(
        sys::SYS_openat,
        &[Arg::mask_eq(2, LOOKED_AT, READ, "flags with O_RDONLY | O_NOFOLLOW")],
        "closed files of a stream, for reading",
    )
    .kept(ROTATION),
    Rule::new(sys::SYS_fdatasync, "a record is durable before it is acknowledged"),
    Rule::new(sys::SYS_fsync, "the next file's name is durable before records stand under it").kept(ROTATION),
    Rule::with(
        sys::SYS_fallocate,
        &[Arg::eq(1, KEEP_SIZE, "mode = FALLOC_FL_KEEP_SIZE")],
        "room for the last record of a full disk",
    ),
    Rule::new(sys::SYS_pread64, "operators read the log; its end is read again after a failed write"),
    Rule::new(sys::SYS_pwrite64, "an old signing key is overwritten; on files open for appending it appends")
        .kept(NEW_KEY),
    Rule::new(sys::SYS_fstat, "where the file ends, after a failed write; kind and mode of a new one"),
];

/// The wall.
pub static POLICY: Policy = Policy {
    role: Role::Auditd,
    rules: &[BASE, OWN],
    soft: &[],
    limits: &[
        Limit {
            resource: LimitKind::RLIMIT_NOFILE,
            value: 64,
            why: "four streams with their tiles, a writer for each role",
        },
        Limit { resource: LimitKind::RLIMIT_NPROC, value: 1, why: "no second process or thread" },
    ],
    grants: &[Grant {
        resource: Resource::LogDir,
        access: Access::Append,
        why: "the next file of a stream is made, and closed ones are read; none is cut, replaced or removed",
    }],
    ports: Ports::None,
    default_allow: false,
    landlock_files: true,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_what_the_kernel_calls_them() {
        let bits = |flags: i32| u64::try_from(flags).unwrap();
        let new_file = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | sys::O_APPEND | sys::O_NOFOLLOW;
        assert_eq!(READ, bits(sys::O_RDONLY | sys::O_NOFOLLOW));
        assert_eq!(NEW_FILE, bits(new_file));
        assert_eq!(LOOKED_AT, bits(new_file | sys::O_ACCMODE | sys::O_TRUNC));
        assert_eq!(KEEP_SIZE, bits(sys::FALLOC_FL_KEEP_SIZE));
    }
}
