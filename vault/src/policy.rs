//! The vault's wall. It can make a new file beside its store, make it durable and put it in the store's place; it can
//! open no file that exists, so the key is out of reach once it is in memory.

use confine::policy::{Access, Arg, BASE, Grant, Policy, Ports, Rule, SOFT_NO_OPEN};
use confine::sys;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use proto::control::Resource;
use proto::ids::Role;

/// `O_CREAT | O_EXCL`: with both set the call makes a file or fails.
const NEW_FILE: u64 = 0o300;

const OWN: &[Rule] = &[
    Rule::with(
        sys::SYS_openat,
        &[Arg::mask_eq(2, NEW_FILE, NEW_FILE, "flags with O_CREAT | O_EXCL")],
        "the next store, a file that must not exist yet",
    ),
    Rule::new(sys::SYS_fsync, "the next store is durable before it takes the place of the last"),
    Rule::new(sys::SYS_renameat, "the next store takes the place of the last"),
    Rule::with(sys::SYS_renameat2, &[Arg::eq(4, 0, "flags = 0")], "the same, where the C library uses this call"),
    Rule::new(sys::SYS_unlinkat, "a store that could not be written is removed"),
];

/// The wall.
pub static POLICY: Policy = Policy {
    role: Role::Vault,
    rules: &[BASE, OWN],
    soft: SOFT_NO_OPEN,
    limits: &[],
    grants: &[Grant { resource: Resource::VaultDir, access: Access::ReadWrite, why: "vault.db is replaced whole" }],
    ports: Ports::None,
    default_allow: false,
    landlock_files: true,
};

/// Makes a write past `RLIMIT_FSIZE` (an operator's `ulimit -f`) return `EFBIG`, which is refused like a full disk,
/// where the signal would kill.
///
/// # Errors
/// What `sigprocmask(2)` says.
pub fn answer_file_size_limit_with_errno() -> Result<(), Errno> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    set.thread_block()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_file_mask_is_what_the_kernel_calls_it() {
        assert_eq!(NEW_FILE, u64::try_from(sys::O_CREAT | sys::O_EXCL).unwrap());
    }
}
