//! auditd's wall. It can append to its files, make the next one, and read; it can neither truncate, rename nor remove
//! one, map one, nor open one that is there for writing, so that not even a fallen auditd can shorten or replace what it
//! wrote. What it can still do is write over its own signing key, which is how a key is destroyed.

use confine::policy::{Arg, BASE_FIXED_STATUS, Policy, Rule, SOFT_NO_OPEN};
use confine::sys;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use proto::ids::Role;

/// Why the log's directory stays reachable.
pub const LOGS: &str = "the next file of a stream is made, and closed ones are read; none is cut, replaced or removed";

/// Access mode, `O_CREAT`, `O_EXCL`, `O_TRUNC`, `O_APPEND`.
const OPEN_MASK: u64 = 0o3 | 0o100 | 0o200 | 0o1000 | 0o2000;
/// `O_WRONLY | O_CREAT | O_EXCL | O_APPEND`: makes a file or fails, and writes at its end alone.
const NEW_FILE: u64 = 0o1 | 0o100 | 0o200 | 0o2000;
/// `FALLOC_FL_KEEP_SIZE` alone: it neither cuts nor changes a byte.
const KEEP_SIZE: u64 = 1;

const OWN: &[Rule] = &[
    Rule::with(
        sys::SYS_openat,
        &[Arg::mask_eq(2, OPEN_MASK, NEW_FILE)],
        "the next file of a stream, which must be new",
    ),
    Rule::with(sys::SYS_openat, &[Arg::mask_eq(2, OPEN_MASK, 0)], "closed files of a stream, for reading"),
    Rule::new(sys::SYS_fdatasync, "a record is durable before it is acknowledged"),
    Rule::new(sys::SYS_fsync, "the next file's name is durable before records stand under it"),
    Rule::with(sys::SYS_fallocate, &[Arg::eq(1, KEEP_SIZE)], "room for the last record of a full disk"),
    Rule::new(sys::SYS_pread64, "operators read the log; its end is read again after a failed write"),
    Rule::new(sys::SYS_pwrite64, "an old signing key is overwritten; on files open for appending it appends"),
    Rule::new(sys::SYS_fstat, "where the file ends, after a failed write; kind and mode of a new one"),
];

/// The wall. Landlock grants the log's directory: to read, to write what the filter lets it open, to make files.
pub static POLICY: Policy = Policy {
    role: Role::Auditd,
    rules: &[BASE_FIXED_STATUS, OWN],
    soft: SOFT_NO_OPEN,
    limits: &[],
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
    fn flags_are_what_the_kernel_calls_them() {
        let bits = |flags: i32| u64::try_from(flags).unwrap();
        assert_eq!(NEW_FILE, bits(sys::O_WRONLY | sys::O_CREAT | sys::O_EXCL | sys::O_APPEND));
        assert_eq!(OPEN_MASK, bits(sys::O_ACCMODE | sys::O_CREAT | sys::O_EXCL | sys::O_TRUNC | sys::O_APPEND));
        assert_eq!(KEEP_SIZE, bits(sys::FALLOC_FL_KEEP_SIZE));
    }
}
