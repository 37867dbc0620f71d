//! The vault's wall. It can make a new file beside its store, make it durable and put it in the store's place; it can
//! open no file that exists, so the key is out of reach once it is in memory.

use confine::policy::{Access, Arg, BASE, Grant, Limit, LimitKind, Policy, Ports, Rule};
use confine::sys;
use proto::control::Resource;
use proto::ids::Role;

/// `O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW`: the call makes a file or fails.
const NEW_FILE: u64 = 0o400_301;
/// What must be exactly so: those, the rest of the access mode, and `O_TRUNC`.
const LOOKED_AT: u64 = NEW_FILE | 0o2 | 0o1000;
/// `rw-------`.
const PRIVATE: u64 = 0o600;

const OWN: &[Rule] = &[
    Rule::with(
        sys::SYS_openat,
        &[
            Arg::mask_eq(2, LOOKED_AT, NEW_FILE, "flags with O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW"),
            Arg::eq(3, PRIVATE, "mode = 0600"),
        ],
        "the next store, a file that must not exist yet",
    ),
    Rule::new(sys::SYS_fsync, "the next store is durable before it takes the place of the last"),
    Rule::new(sys::SYS_renameat, "the next store takes the place of the last"),
    Rule::with(sys::SYS_unlinkat, &[Arg::eq(2, 0, "flags = 0")], "a store that could not be written is removed")
        .kept("a full disk is tested by itself"),
];

/// The wall.
pub static POLICY: Policy = Policy {
    role: Role::Vault,
    rules: &[BASE, OWN],
    soft: &[],
    limits: &[
        Limit {
            resource: LimitKind::RLIMIT_NOFILE,
            value: 64,
            why: "the store, its directory, an edge for each client",
        },
        Limit { resource: LimitKind::RLIMIT_FSIZE, value: 2 << 20, why: "the store holds 1 MiB at most" },
        Limit { resource: LimitKind::RLIMIT_NPROC, value: 1, why: "no second process or thread" },
    ],
    grants: &[Grant { resource: Resource::VaultDir, access: Access::ReadWrite, why: "vault.db is replaced whole" }],
    ports: Ports::None,
    default_allow: false,
    landlock_files: true,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_file_mask_is_what_the_kernel_calls_it() {
        let new = sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | sys::O_NOFOLLOW;
        assert_eq!(NEW_FILE, u64::try_from(new).unwrap());
        assert_eq!(LOOKED_AT, u64::try_from(new | sys::O_ACCMODE | sys::O_TRUNC).unwrap());
    }
}
