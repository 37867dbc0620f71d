//! Landlock and limits of a sandbox, by raw calls: they are set in the child, where nothing may be allocated.

use super::Tier;
use super::child::{Failure, Step, check};
use std::ffi::CStr;

const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const IOCTL_DEV: u64 = 1 << 15;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: libc::c_int = 1;

/// `struct landlock_ruleset_attr`, linux/landlock.h.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// Lowest Landlock ABI that a tier is built on. N2 has no pid namespace: only the signal scope of ABI 6 keeps a command
/// from killing its own uid's processes, and lets its supervisor kill it and nothing else.
pub(super) const fn floor(tier: Tier) -> u8 {
    match tier {
        Tier::N1 => 2,
        Tier::N2 => 6,
    }
}

const fn all_files(abi: u8) -> u64 {
    match abi {
        0 => 0,
        1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        _ => (1 << 16) - 1,
    }
}

const fn all_net(abi: u8) -> u64 {
    if abi >= 4 { 3 } else { 0 }
}

const fn all_scopes(abi: u8) -> u64 {
    if abi >= 6 { 3 } else { 0 }
}

struct Ruleset {
    fd: libc::c_int,
    handled: u64,
}

impl Ruleset {
    fn new(attr: &RulesetAttr, abi: u8) -> Result<Self, Failure> {
        // An older kernel knows a shorter structure and takes a longer one where the rest is zero; ABI 1 to 3 want 8.
        let size = if abi < 4 { 8usize } else { size_of::<RulesetAttr>() };
        // SAFETY: `attr` lives across the call and is at least `size` bytes.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::from_ref(attr), size, 0u32) };
        check(Step::Landlock, fd)?;
        Ok(Self { fd: libc::c_int::try_from(fd).unwrap_or(-1), handled: attr.handled_access_fs })
    }

    fn allow_fd(&self, fd: libc::c_int, access: u64) -> Result<(), Failure> {
        let rule = PathBeneathAttr { allowed_access: access & self.handled, parent_fd: fd };
        // SAFETY: `rule` has the layout of linux/landlock.h and lives across the call.
        let done = unsafe { libc::syscall(libc::SYS_landlock_add_rule, self.fd, PATH_BENEATH, &raw const rule, 0u32) };
        check(Step::Landlock, done)
    }

    /// A path that is not there is not granted.
    fn allow(&self, path: &CStr, access: u64) -> Result<(), Failure> {
        // SAFETY: a C string and flags.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
        if fd < 0 {
            return Ok(());
        }
        let done = self.allow_fd(fd, access);
        // SAFETY: opened above and used by nobody else.
        unsafe { libc::close(fd) };
        done
    }

    fn enter(self) -> Result<(), Failure> {
        // SAFETY: integers only.
        let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd, 0u32) };
        check(Step::Landlock, done)?;
        // SAFETY: ours, and not used any more.
        unsafe { libc::close(self.fd) };
        Ok(())
    }
}

/// The domain of N2's supervisor: what it signals stays in, itself included.
pub(super) fn enter_scope(abi: u8) -> Result<(), Failure> {
    Ruleset::new(&RulesetAttr { handled_access_fs: 0, handled_access_net: 0, scoped: all_scopes(abi) }, abi)?.enter()
}

/// The command's own domain.
pub(super) fn enter(tier: Tier, abi: u8, workspace: libc::c_int, runner: Option<libc::c_int>) -> Result<(), Failure> {
    let all = all_files(abi);
    let attr = RulesetAttr { handled_access_fs: all, handled_access_net: all_net(abi), scoped: all_scopes(abi) };
    let ruleset = Ruleset::new(&attr, abi)?;
    let look = EXECUTE | READ_FILE | READ_DIR;
    let write = all & !(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV);
    match tier {
        Tier::N1 => {
            ruleset.allow(c"/", look)?;
            ruleset.allow(c"/workspace", write)?;
            ruleset.allow(c"/tmp", write)?;
        }
        Tier::N2 => {
            for path in [c"/usr", c"/bin", c"/sbin", c"/lib", c"/lib64", c"/lib32", c"/etc/alternatives"] {
                ruleset.allow(path, look)?;
            }
            ruleset.allow(c"/etc/ld.so.cache", READ_FILE)?;
            ruleset.allow_fd(workspace, write)?;
        }
    }
    for path in [c"/dev/null", c"/dev/zero", c"/dev/full"] {
        ruleset.allow(path, READ_FILE | WRITE_FILE)?;
    }
    for path in [c"/dev/random", c"/dev/urandom"] {
        ruleset.allow(path, READ_FILE)?;
    }
    if let Some(runner) = runner {
        ruleset.allow_fd(runner, EXECUTE | READ_FILE)?;
    }
    ruleset.enter()
}

/// Limits of every process in the sandbox, soft and hard alike.
pub(super) fn limit(processes: u64) -> Result<(), Failure> {
    let limits = [
        (libc::RLIMIT_AS, 512 << 20),
        (libc::RLIMIT_CPU, 60),
        (libc::RLIMIT_FSIZE, 64 << 20),
        (libc::RLIMIT_NPROC, processes),
        (libc::RLIMIT_NOFILE, 1024),
        (libc::RLIMIT_CORE, 0),
    ];
    for (which, value) in limits {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: writes one structure that lives here.
        check(Step::Limits, libc::c_long::from(unsafe { libc::getrlimit(which, &raw mut now) }))?;
        // What the launcher was given is never raised.
        let value = now.rlim_max.min(value);
        let new = libc::rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: reads one structure that lives here.
        check(Step::Limits, libc::c_long::from(unsafe { libc::setrlimit(which, &raw const new) }))?;
    }
    Ok(())
}
