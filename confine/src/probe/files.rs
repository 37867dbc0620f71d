//! Files by path: other roles', other processes', the system's.

use super::call::{at, attempt, call, descriptor, judge, words};
use super::{ETC_PASSWD, Exception, LAUNCHER_FILES, LAUNCHES, Outcome, Probe, except, path, scratch};
use proto::ids::Role;
use std::ffi::CStr;
use std::os::fd::AsRawFd;

const READABLE: &[Exception] =
    &[except(Role::Launcher, "it must mount, so Landlock cannot rule its files; anybody may read this one")];
const LOG_READERS: &[Exception] = &[except(Role::Auditd, "it reads closed files of a stream"), super::LAUNCHER_FILE];
const WATCHERS: &[Exception] = &[
    except(Role::Sandboxd, "what the kernel tells everybody of a process: it looks for rights in containers"),
    except(Role::Launcher, "it must mount, so Landlock cannot rule its files; anybody may read this one"),
];
const LOOKS: &[Exception] = &[
    except(Role::Sandboxd, "whether the engine's socket is there; Landlock does not rule looking at a path"),
    except(Role::Launcher, "it must mount, so Landlock cannot rule its files"),
];
/// As a role opens a file for reading: the flags that the filters of auditd and gateway let through.
pub(super) const READ: i32 = libc::O_RDONLY | libc::O_NOFOLLOW;
/// As the vault makes a file.
pub(super) const NEW: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
/// As auditd makes one.
pub(super) const NEW_LOG: i32 = NEW | libc::O_APPEND;
/// As gateway opens one for writing, or makes it.
pub(super) const APPEND: i32 = libc::O_RDWR | libc::O_CREAT | libc::O_APPEND | libc::O_NOFOLLOW;
const NO_HANDLES: &[(i32, &str)] = &[(libc::EOPNOTSUPP, "file system without handles")];

pub(super) static PROBES: &[Probe] = &[
    Probe::new("open_passwd", |_| open(ETC_PASSWD, READ)).except(READABLE),
    Probe::new("open_passwd_following", |_| open(ETC_PASSWD, libc::O_RDONLY)).except(READABLE),
    Probe::new("open_shadow", |_| open(c"/etc/shadow", READ)),
    Probe::new("open_master_key", |world| open(&world.state("keys/secrets.key"), READ)).except(LAUNCHER_FILES),
    Probe::new("open_vault_db", |world| open(&world.state("vault/vault.db"), READ)).except(LAUNCHER_FILES),
    Probe::new("open_config", |world| open(&world.state("moltbot.json"), READ)).except(LAUNCHER_FILES),
    Probe::new("open_config_write", |world| open(&world.state("moltbot.json"), libc::O_WRONLY)).except(LAUNCHER_FILES),
    // Where there is none it makes one, and an empty one does not load: nothing for an installation that somebody uses.
    Probe::new("open_config_append", |world| open(&world.state("moltbot.json"), APPEND))
        .except(LAUNCHER_FILES)
        .matrix_only(),
    Probe::new("open_log", |world| open(&world.state("logs/auth-audit.jsonl"), READ)).except(LOG_READERS),
    Probe::new("open_lock", |world| open(&world.state("run/lock"), APPEND)).except(LAUNCHER_FILES),
    Probe::new("list_sessions", |world| list(&world.state("sessions"))).except(LAUNCHER_FILES),
    Probe::new("list_root", |_| list(c"/")).except(READABLE),
    Probe::new("openat2_passwd", |_| openat2(ETC_PASSWD)).except(READABLE),
    Probe::new("openat2_broker_status", |world| openat2(&world.proc_of(world.targets.broker, "status")))
        .except(WATCHERS),
    Probe::new("openat2_broker_environ", |world| openat2(&world.proc_of(world.targets.broker, "environ"))),
    Probe::new("openat2_sibling_maps", |world| openat2(&world.proc_of(world.targets.sibling, "maps"))),
    Probe::new("openat2_init_cmdline", |_| openat2(c"/proc/1/cmdline")).except(WATCHERS),
    Probe::new("open_own_mem", |_| open(c"/proc/self/mem", libc::O_RDWR)),
    Probe::new("open_own_maps", |_| open(c"/proc/self/maps", READ)).except(LAUNCHES),
    Probe::new("open_broker_mem", |world| open(&world.proc_of(world.targets.broker, "mem"), READ)),
    Probe::new("open_broker_environ", |world| open(&world.proc_of(world.targets.broker, "environ"), READ)),
    Probe::new("list_broker_fds", |world| list(&world.proc_of(world.targets.broker, "fd"))),
    Probe::new("open_sibling_mem", |world| open(&world.proc_of(world.targets.sibling, "mem"), READ)),
    Probe::new("readlink_sibling_root", |world| readlink(&world.proc_of(world.targets.sibling, "root"))),
    Probe::new("open_init_environ", |_| open(c"/proc/1/environ", READ))
        .lacking(&[(libc::EACCES, "init has a capability that root has not here")]),
    Probe::new("open_dev_mem", |_| open(c"/dev/mem", READ)).lacking(&[
        (libc::ENOENT, "no /dev/mem"),
        (libc::EPERM, "kernel locked down"),
        (libc::ENXIO, "kernel without it"),
    ]),
    Probe::new("open_kmsg", |_| open(c"/dev/kmsg", READ)).lacking(&[(libc::ENOENT, "no /dev/kmsg")]),
    Probe::new("create_in_tmp", |_| open(c"/tmp", libc::O_TMPFILE | libc::O_RDWR)).except(LAUNCHES),
    Probe::new("create_new_in_tmp", |_| create(NEW)).except(LAUNCHES),
    Probe::new("create_log_in_tmp", |_| create(NEW_LOG)).except(LAUNCHES),
    Probe::new("create_append_in_tmp", |_| create(APPEND)).except(LAUNCHES),
    Probe::new("mkdir_in_tmp", |_| make(libc::SYS_mkdirat, &[], libc::AT_REMOVEDIR)).except(LAUNCHES),
    Probe::new("mknod_in_tmp", |_| make(libc::SYS_mknodat, &[libc::S_IFIFO | 0o600], 0)).except(LAUNCHES),
    Probe::new("symlink_in_tmp", |_| symlink()).except(LAUNCHES),
    Probe::new("link_in_tmp", |world| link(&world.state("sessions/bait.jsonl"))).except(LAUNCHER_FILES),
    Probe::new("chmod_session", |world| chmod(&world.state("sessions/bait.jsonl"))).except(LAUNCHER_FILES),
    Probe::new("chown_session", |world| chown(&world.state("sessions/bait.jsonl"))).except(LAUNCHER_FILES),
    Probe::new("utimes_session", |world| utimes(&world.state("sessions/bait.jsonl"))).except(LAUNCHER_FILES),
    Probe::new("setxattr_session", |world| setxattr(&world.state("sessions/bait.jsonl")))
        .except(LAUNCHER_FILES)
        .lacking(&[(libc::EOPNOTSUPP, "file system without attributes of users")])
        .matrix_only(),
    Probe::new("newfstatat_shadow", |_| stat(c"/etc/shadow")).except(READABLE),
    Probe::new("statx_shadow", |_| statx(c"/etc/shadow")).except(LOOKS),
    Probe::new("statx_master_key", |world| statx(&world.state("keys/secrets.key"))).except(&[
        super::except_single_uid(
            Role::Sandboxd,
            "whether the engine's socket is there; Landlock does not rule looking at a path",
        ),
        super::except_single_uid(Role::Launcher, "it must mount, so Landlock cannot rule its files"),
    ]),
    Probe::new("chdir_root", |_| attempt(libc::SYS_chdir, words![c"/"], &[])).except(LAUNCHES),
    Probe::new("inotify_watch", |_| watch()).except(LAUNCHES).lacking(&[(libc::ENOSYS, "kernel without inotify")]),
    Probe::new("name_to_handle", |_| name_to_handle()).lacking(NO_HANDLES),
    Probe::new("open_by_handle", |_| open_by_handle()).nobody().lacking(NO_HANDLES),
    Probe::new("splice", |_| attempt(libc::SYS_splice, words![-1, 0, -1, 0, 1, 0], &[libc::EBADF])).except(LAUNCHES),
    Probe::new("sendfile", |_| attempt(libc::SYS_sendfile, words![-1, -1, 0, 1], &[libc::EBADF])).except(LAUNCHES),
    Probe::new("copy_file_range", |_| attempt(libc::SYS_copy_file_range, words![-1, 0, -1, 0, 1, 0], &[libc::EBADF]))
        .except(LAUNCHES),
];

pub(super) fn open(file: &CStr, flags: i32) -> Outcome {
    judge(descriptor(libc::SYS_openat, words![libc::AT_FDCWD, file, flags | libc::O_CLOEXEC, 0o600]), &[])
}

/// The kernel's `struct open_how`.
#[repr(C)]
struct How {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2(file: &CStr) -> Outcome {
    let mut how = How { flags: 0, mode: 0, resolve: 0 };
    judge(descriptor(libc::SYS_openat2, words![libc::AT_FDCWD, file, at(&mut how), size_of::<How>() as u64]), &[])
}

fn list(dir: &CStr) -> Outcome {
    match descriptor(libc::SYS_openat, words![libc::AT_FDCWD, dir, READ | libc::O_DIRECTORY | libc::O_CLOEXEC]) {
        Ok(dir) => entries(dir.as_raw_fd()),
        Err(errno) => Outcome::Denied(errno),
    }
}

pub(super) fn entries(dir: i32) -> Outcome {
    let mut buffer = [0u64; 128];
    attempt(libc::SYS_getdents64, words![dir, at(&mut buffer), size_of_val(&buffer) as u64], &[])
}

fn readlink(link: &CStr) -> Outcome {
    let mut buffer = [0u8; 64];
    attempt(libc::SYS_readlinkat, words![libc::AT_FDCWD, link, at(&mut buffer), size_of_val(&buffer) as u64], &[])
}

fn in_tmp() -> std::ffi::CString {
    path(&format!("/tmp/{}", scratch()))
}

/// Makes something of the scratch name, and takes it away.
fn make(nr: i64, kind: &[u32], how_removed: i32) -> Outcome {
    let name = in_tmp();
    let mode = kind.first().copied().unwrap_or(0o700);
    let result = call(nr, words![libc::AT_FDCWD, name.as_c_str(), mode, 0]);
    if result.is_ok() {
        let _ = call(libc::SYS_unlinkat, words![libc::AT_FDCWD, name.as_c_str(), how_removed]);
    }
    judge(result, &[])
}

/// A file of the scratch name, which then goes.
fn create(flags: i32) -> Outcome {
    let name = in_tmp();
    let outcome = open(&name, flags);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_unlinkat, words![libc::AT_FDCWD, name.as_c_str(), 0]);
    }
    outcome
}

fn symlink() -> Outcome {
    let name = in_tmp();
    let result = call(libc::SYS_symlinkat, words![c"nowhere", libc::AT_FDCWD, name.as_c_str()]);
    if result.is_ok() {
        let _ = call(libc::SYS_unlinkat, words![libc::AT_FDCWD, name.as_c_str(), 0]);
    }
    judge(result, &[])
}

fn link(file: &CStr) -> Outcome {
    let name = in_tmp();
    let words = words![libc::AT_FDCWD, file, libc::AT_FDCWD, name.as_c_str(), 0];
    let result = call(libc::SYS_linkat, words);
    if result.is_ok() {
        let _ = call(libc::SYS_unlinkat, words![libc::AT_FDCWD, name.as_c_str(), 0]);
    }
    judge(result, &[libc::EXDEV])
}

fn chmod(file: &CStr) -> Outcome {
    attempt(libc::SYS_fchmodat, words![libc::AT_FDCWD, file, 0o600], &[])
}

/// To nobody in particular: owner and group stay.
fn chown(file: &CStr) -> Outcome {
    attempt(libc::SYS_fchownat, words![libc::AT_FDCWD, file, -1, -1, 0], &[])
}

fn utimes(file: &CStr) -> Outcome {
    attempt(libc::SYS_utimensat, words![libc::AT_FDCWD, file, 0, 0], &[])
}

fn setxattr(file: &CStr) -> Outcome {
    let mut value = *b"x";
    attempt(libc::SYS_setxattr, words![file, c"user.moltbot-probe", at(&mut value), 1, 0], &[])
}

fn stat(file: &CStr) -> Outcome {
    let mut buffer = [0u64; 32];
    attempt(libc::SYS_newfstatat, words![libc::AT_FDCWD, file, at(&mut buffer), 0], &[])
}

fn statx(file: &CStr) -> Outcome {
    let mut buffer = [0u64; 32];
    attempt(libc::SYS_statx, words![libc::AT_FDCWD, file, 0, libc::STATX_BASIC_STATS, at(&mut buffer)], &[])
}

fn watch() -> Outcome {
    match descriptor(libc::SYS_inotify_init1, words![libc::IN_CLOEXEC]) {
        Ok(inotify) => attempt(libc::SYS_inotify_add_watch, words![inotify.as_raw_fd(), c"/", libc::IN_OPEN], &[]),
        Err(errno) => Outcome::Denied(errno),
    }
}

/// The kernel's `struct file_handle` with room for any.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; 128],
}

fn name_to_handle() -> Outcome {
    let mut handle = Handle { bytes: 128, kind: 0, handle: [0; 128] };
    let mut mount = 0i32;
    attempt(libc::SYS_name_to_handle_at, words![libc::AT_FDCWD, c"/etc", at(&mut handle), at(&mut mount), 0], &[])
}

/// A handle of nothing: whoever may, learns that it is stale.
fn open_by_handle() -> Outcome {
    let mut handle = Handle { bytes: 8, kind: 1, handle: [0; 128] };
    let words = words![libc::AT_FDCWD, at(&mut handle), libc::O_RDONLY];
    judge(descriptor(libc::SYS_open_by_handle_at, words), &[libc::ESTALE, libc::EINVAL])
}
