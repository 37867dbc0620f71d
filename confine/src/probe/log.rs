//! The log: by the descriptors that auditd holds, and by path as all others would try.

use super::call::{at, attempt, call, words};
use super::files::{APPEND, open};
use super::{Exception, LAUNCHER_FILES, Outcome, Probe, World, except};
use proto::ids::Role;

/// A stream of the log, opened for writing at most.
const LOG: &str = "logs/auth-audit.jsonl";
/// A file that the matrix puts beside the streams, for attempts that could harm it.
const BAIT: &str = "logs/bait.jsonl";

const KEEPS: &[Exception] = &[except(Role::Auditd, "its work")];
const OLD_KEY: &[Exception] =
    &[except(Role::Auditd, "an old signing key is overwritten; on a file open for appending this appends")];

pub(super) static PROBES: &[Probe] = &[
    // auditd's own work first: an attempt at more must be seen to fail beside it.
    Probe::new("log_fd_append", |world| on_log(world, |fd, _| attempt(libc::SYS_write, words![fd, c"", 0], &[])))
        .except(KEEPS),
    Probe::new("log_fd_reserve", |world| on_log(world, reserve)).except(KEEPS),
    Probe::new("log_fd_truncate", |world| {
        on_log(world, |fd, size| attempt(libc::SYS_ftruncate, words![fd, size], &[]))
    }),
    Probe::new("log_fd_pwrite", |world| on_log(world, |fd, _| attempt(libc::SYS_pwrite64, words![fd, c"", 0, 0], &[])))
        .except(OLD_KEY),
    Probe::new("log_fd_pwrite_no_append", |world| on_log(world, pwrite_no_append))
        .lacking(&[(libc::EOPNOTSUPP, "kernel without RWF_NOAPPEND")]),
    Probe::new("log_fd_punch_hole", |world| on_log(world, punch))
        .lacking(&[(libc::EOPNOTSUPP, "file system without holes")]),
    Probe::new("log_fd_clear_append", |world| on_log(world, clear_append)),
    Probe::new("log_fd_map_shared", |world| on_log(world, map_shared)),
    Probe::new("log_fd_seek", |world| {
        on_log(world, |fd, _| attempt(libc::SYS_lseek, words![fd, 0, libc::SEEK_CUR], &[]))
    }),
    Probe::new("log_fd_chmod", |world| on_log(world, |fd, _| attempt(libc::SYS_fchmod, words![fd, 0o600], &[]))),
    Probe::new("log_fd_flags", |world| on_log(world, get_flags))
        .lacking(&[(libc::ENOTTY, "file system without flags")]),
    Probe::new("log_fd_reopen", |world| on_log(world, reopen)),
    Probe::new("log_append", |world| open(&world.state(LOG), libc::O_WRONLY | libc::O_APPEND)).except(LAUNCHER_FILES),
    Probe::new("log_append_create", |world| open(&world.state(LOG), APPEND)).except(LAUNCHER_FILES),
    Probe::new("log_overwrite", |world| open(&world.state(LOG), libc::O_WRONLY)).except(LAUNCHER_FILES),
    Probe::new("log_open_truncate", |world| open(&world.state(BAIT), libc::O_WRONLY | libc::O_TRUNC))
        .except(LAUNCHER_FILES)
        .matrix_only(),
    Probe::new("log_truncate", truncate).except(LAUNCHER_FILES).matrix_only(),
    Probe::new("log_rename", rename).except(LAUNCHER_FILES).matrix_only(),
    Probe::new("log_unlink", unlink).except(LAUNCHER_FILES).matrix_only(),
];

/// With a held log and its size, both of which stay as they are.
fn on_log(world: &World, attempt: impl FnOnce(i32, i64) -> Outcome) -> Outcome {
    let Some(fd) = world.held.log else { return Outcome::Absent };
    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: plain integers alone, for which zeros are a value.
    let stat = unsafe { stat.assume_init_mut() };
    match call(libc::SYS_fstat, words![fd, at(stat)]) {
        Ok(_) => attempt(fd, stat.st_size),
        Err(errno) => Outcome::Denied(errno),
    }
}

fn pwrite_no_append(fd: i32, _: i64) -> Outcome {
    const RWF_NOAPPEND: i32 = 0x20;
    let mut empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    attempt(libc::SYS_pwritev2, words![fd, at(&mut empty), 1, 0, 0, RWF_NOAPPEND], &[])
}

/// Room behind the end, of no length: the check comes before the length's.
fn reserve(fd: i32, size: i64) -> Outcome {
    attempt(libc::SYS_fallocate, words![fd, libc::FALLOC_FL_KEEP_SIZE, size, 0], &[libc::EINVAL])
}

/// Behind the end of the file, so that there is nothing to lose.
fn punch(fd: i32, size: i64) -> Outcome {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    attempt(libc::SYS_fallocate, words![fd, mode, size.saturating_add(1 << 20), 4096], &[])
}

/// `O_APPEND` is a flag of the open file: whoever may take it away may write over what is there.
fn clear_append(fd: i32, _: i64) -> Outcome {
    let outcome = attempt(libc::SYS_fcntl, words![fd, libc::F_SETFL, 0], &[]);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_fcntl, words![fd, libc::F_SETFL, libc::O_APPEND]);
    }
    outcome
}

/// A shared mapping writes wherever it likes, `O_APPEND` or not.
fn map_shared(fd: i32, _: i64) -> Outcome {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    attempt(libc::SYS_mmap, words![0, 4096, protection, libc::MAP_SHARED, fd, 0], &[])
}

/// Reads the flags among which "append only" is; who may read them may set them, as their owner.
fn get_flags(fd: i32, _: i64) -> Outcome {
    const FS_IOC_GETFLAGS: u64 = 0x8008_6601;
    let mut flags = 0i64;
    attempt(libc::SYS_ioctl, words![fd, FS_IOC_GETFLAGS, at(&mut flags)], &[])
}

fn reopen(fd: i32, _: i64) -> Outcome {
    open(&super::path(&format!("/proc/self/fd/{fd}")), libc::O_WRONLY)
}

fn truncate(world: &World) -> Outcome {
    attempt(libc::SYS_truncate, words![world.state(BAIT).as_c_str(), 0], &[])
}

fn rename(world: &World) -> Outcome {
    let (from, to) = (world.state(BAIT), world.state("logs/bait.2"));
    let outcome =
        attempt(libc::SYS_renameat, words![libc::AT_FDCWD, from.as_c_str(), libc::AT_FDCWD, to.as_c_str()], &[]);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_renameat, words![libc::AT_FDCWD, to.as_c_str(), libc::AT_FDCWD, from.as_c_str()]);
    }
    outcome
}

fn unlink(world: &World) -> Outcome {
    attempt(libc::SYS_unlinkat, words![libc::AT_FDCWD, world.state(BAIT).as_c_str(), 0], &[])
}
