//! auditd's wall. It holds descriptors of its files and can get no others: no open, no truncate, no rename, no unlink,
//! so that not even a fallen auditd can shorten or replace what it wrote. Its files stay in append mode, for no flag of a
//! descriptor can be changed, and cannot be mapped.

use confine::policy::{BASE, Limit, LimitKind, Policy, Ports, Rule, SOFT};
use confine::sys;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use proto::ids::Role;

const OWN: &[Rule] = &[
    Rule::new(sys::SYS_fdatasync, "a record is durable before it is acknowledged"),
    Rule::new(sys::SYS_pread64, "operators read the log; its end is read again after a failed write"),
    Rule::new(sys::SYS_fstat, "where the file ends, after a failed write").kept("a full disk is tested by itself"),
];

/// The wall. Landlock grants nothing: the files are open, and no other is ever needed.
pub static POLICY: Policy = Policy {
    role: Role::Auditd,
    rules: &[BASE, OWN],
    soft: SOFT,
    limits: &[
        Limit { resource: LimitKind::RLIMIT_NOFILE, value: 64, why: "four streams, a writer for each role" },
        Limit { resource: LimitKind::RLIMIT_NPROC, value: 1, why: "no second process or thread" },
    ],
    grants: &[],
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
