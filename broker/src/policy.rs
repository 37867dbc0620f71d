//! Broker's own wall. Children inherit the filter, so it may name only what no role and no sandboxed program needs; what
//! each role may do is in that role's `policy.rs`.

use confine::policy::{Arg, Limit, LimitKind, Policy, Rule};
use confine::sys;
use proto::ids::Role;

/// This argument is root's id: the kernel looks at its lower 32 bits alone, and so does the rule.
const fn root(index: u8) -> Arg {
    Arg::mask_eq(index, 0xffff_ffff, 0)
}

const NEVER: &[Rule] = &[
    Rule::with(sys::SYS_setuid, &[root(0)], "nobody becomes root"),
    Rule::with(sys::SYS_setreuid, &[root(0)], "nobody becomes root"),
    Rule::with(sys::SYS_setreuid, &[root(1)], "nobody becomes root"),
    Rule::with(sys::SYS_setresuid, &[root(0)], "nobody becomes root"),
    Rule::with(sys::SYS_setresuid, &[root(1)], "nobody becomes root, not even in effect"),
    Rule::with(sys::SYS_setresuid, &[root(2)], "nobody becomes root, not even later"),
    Rule::with(sys::SYS_setgid, &[root(0)], "nobody becomes root's group"),
    Rule::with(sys::SYS_setregid, &[root(0)], "nobody becomes root's group"),
    Rule::with(sys::SYS_setregid, &[root(1)], "nobody becomes root's group"),
    Rule::with(sys::SYS_setresgid, &[root(0)], "nobody becomes root's group"),
    Rule::with(sys::SYS_setresgid, &[root(1)], "nobody becomes root's group, not even in effect"),
    Rule::with(sys::SYS_setresgid, &[root(2)], "nobody becomes root's group, not even later"),
    Rule::new(sys::SYS_setfsuid, "no second identity for files"),
    Rule::new(sys::SYS_setfsgid, "no second identity for files"),
    Rule::new(sys::SYS_init_module, "no kernel modules"),
    Rule::new(sys::SYS_finit_module, "no kernel modules"),
    Rule::new(sys::SYS_delete_module, "no kernel modules"),
    Rule::new(sys::SYS_kexec_load, "no other kernel"),
    Rule::new(sys::SYS_kexec_file_load, "no other kernel"),
    Rule::new(sys::SYS_reboot, "the machine stays up"),
    Rule::new(sys::SYS_swapon, "no swap that could keep a secret"),
    Rule::new(sys::SYS_acct, "no process accounting"),
    Rule::new(sys::SYS_open_by_handle_at, "no way around paths"),
    Rule::new(sys::SYS_bpf, "no programs in the kernel"),
    Rule::new(sys::SYS_process_vm_writev, "no writing into other processes"),
    Rule::new(sys::SYS_userfaultfd, "no page faults under control"),
];

/// Broker's filter and limits.
pub static POLICY: Policy = Policy {
    role: Role::Broker,
    rules: &[NEVER],
    soft: &[],
    // RLIMIT_NOFILE is not lowered here: children inherit hard limits, and gateway needs its thousands.
    limits: &[Limit { resource: LimitKind::RLIMIT_MEMLOCK, value: 8 << 20, why: "what the vault may lock" }],
    default_allow: true,
    landlock_files: false,
};
