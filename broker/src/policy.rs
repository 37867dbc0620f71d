//! Broker's own wall. Children inherit the filter, so it may name only what no role and no sandboxed program needs; what
//! each role may do is in that role's `policy.rs`.

use confine::policy::{Arg, Limit, LimitKind, Policy, Ports, Rule};
use confine::sys;
use proto::ids::Role;

const NEVER: &[Rule] = &[
    Rule::with(sys::SYS_setresuid, &[Arg::int(0, 0, "ruid = 0")], "nobody becomes root"),
    Rule::with(sys::SYS_setresuid, &[Arg::int(1, 0, "euid = 0")], "nobody becomes root"),
    Rule::with(sys::SYS_setresuid, &[Arg::int(2, 0, "suid = 0")], "nobody becomes root"),
    Rule::with(sys::SYS_setreuid, &[Arg::int(0, 0, "ruid = 0")], "nobody becomes root"),
    Rule::with(sys::SYS_setreuid, &[Arg::int(1, 0, "euid = 0")], "nobody becomes root"),
    Rule::with(sys::SYS_setuid, &[Arg::int(0, 0, "uid = 0")], "nobody becomes root"),
    Rule::with(sys::SYS_setresgid, &[Arg::int(0, 0, "rgid = 0")], "nobody becomes root's group"),
    Rule::with(sys::SYS_setresgid, &[Arg::int(1, 0, "egid = 0")], "nobody becomes root's group"),
    Rule::with(sys::SYS_setresgid, &[Arg::int(2, 0, "sgid = 0")], "nobody becomes root's group"),
    Rule::with(sys::SYS_setregid, &[Arg::int(0, 0, "rgid = 0")], "nobody becomes root's group"),
    Rule::with(sys::SYS_setregid, &[Arg::int(1, 0, "egid = 0")], "nobody becomes root's group"),
    Rule::with(sys::SYS_setgid, &[Arg::int(0, 0, "gid = 0")], "nobody becomes root's group"),
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
    grants: &[],
    ports: Ports::None,
    default_allow: true,
    landlock_files: false,
};
