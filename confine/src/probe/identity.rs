//! Who the process is, and the walls themselves.

use super::call::{at, attempt, call, words};
use super::{Exception, LAUNCHES, Outcome, Probe, except};
use proto::ids::Role;

const SELF_ONLY: &[Exception] = &[except(Role::Launcher, "it narrows itself and its children alone")];

/// 0 to the kernel, which takes the lower 32 bits of an id, and not to a filter that compares all 64.
const WIDE: u64 = 1 << 32;

pub(super) static PROBES: &[Probe] = &[
    Probe::new("setuid_root", |_| attempt(libc::SYS_setuid, words![0], &[])).nobody(),
    Probe::new("setreuid_root", |_| attempt(libc::SYS_setreuid, words![0, 0], &[])).nobody(),
    Probe::new("setresuid_root", |_| attempt(libc::SYS_setresuid, words![0, 0, 0], &[])).nobody(),
    Probe::new("setresuid_root_in_effect", |_| attempt(libc::SYS_setresuid, words![-1, 0, -1], &[])).nobody(),
    Probe::new("setresuid_root_saved", |_| attempt(libc::SYS_setresuid, words![-1, -1, 0], &[])).nobody(),
    Probe::new("setresuid_root_wide", |_| attempt(libc::SYS_setresuid, words![WIDE, WIDE, WIDE], &[])).nobody(),
    Probe::new("setgid_root", |_| attempt(libc::SYS_setgid, words![0], &[])).nobody(),
    Probe::new("setregid_root", |_| attempt(libc::SYS_setregid, words![0, 0], &[])).nobody(),
    Probe::new("setresgid_root", |_| attempt(libc::SYS_setresgid, words![0, 0, 0], &[])).nobody(),
    Probe::new("setresgid_root_in_effect", |_| attempt(libc::SYS_setresgid, words![-1, 0, -1], &[])).nobody(),
    Probe::new("setgroups_none", |_| attempt(libc::SYS_setgroups, words![0, 0], &[])),
    Probe::new("setfsuid_root", |_| file_system_id(libc::SYS_setfsuid)).nobody(),
    Probe::new("setfsgid_root", |_| file_system_id(libc::SYS_setfsgid)).nobody(),
    Probe::new("capset_kill", |_| capset()),
    Probe::new("ambient_raise", |_| prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, 5))
        .lacking(&[(libc::EPERM, "root inherits no capabilities")]),
    Probe::new("bounding_drop", |_| prctl(libc::PR_CAPBSET_DROP, 5, 0)),
    Probe::new("securebits", |_| prctl(libc::PR_SET_SECUREBITS, 0, 0)),
    Probe::new("keep_capabilities", |_| prctl(libc::PR_SET_KEEPCAPS, 0, 0)).except(SELF_ONLY),
    Probe::new("dumpable", |_| prctl(libc::PR_SET_DUMPABLE, 1, 0)).except(SELF_ONLY),
    Probe::new("outlive_broker", |_| prctl(libc::PR_SET_PDEATHSIG, 0, 0)).except(SELF_ONLY),
    Probe::new("ptracer_any", |_| prctl(libc::PR_SET_PTRACER, -1, 0))
        .except(SELF_ONLY)
        .lacking(&[(libc::EINVAL, "kernel without Yama")]),
    Probe::new("subreaper", |_| prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0)).except(SELF_ONLY),
    Probe::new("set_mm", |_| prctl(libc::PR_SET_MM, 0, 0))
        .except(SELF_ONLY)
        .lacking(&[(libc::EPERM, "no CAP_SYS_RESOURCE here")]),
    Probe::new("seccomp_allow_all", |_| allow_all(true)).except(SELF_ONLY),
    Probe::new("prctl_seccomp", |_| allow_all(false)).except(SELF_ONLY),
    Probe::new("landlock_restrict", |_| landlock()).except(SELF_ONLY),
    Probe::new("personality", |_| attempt(libc::SYS_personality, words![libc::ADDR_NO_RANDOMIZE], &[]))
        .except(SELF_ONLY),
    Probe::new("raise_own_limit", |_| raise_limit()).lacking(&[(libc::EPERM, "no CAP_SYS_RESOURCE here")]),
    Probe::new("lower_own_limit", |_| lower_limit()).except(SELF_ONLY),
    Probe::new("setsid", |_| attempt(libc::SYS_setsid, words![], &[libc::EPERM])).except(LAUNCHES),
    Probe::new("setpgid", |_| attempt(libc::SYS_setpgid, words![0, 0], &[libc::EPERM])).except(LAUNCHES),
    Probe::new("sethostname", |_| attempt(libc::SYS_sethostname, words![c"", -1], &[libc::EINVAL])),
];

fn prctl(option: i32, first: i32, second: i32) -> Outcome {
    attempt(libc::SYS_prctl, words![option, first, second, 0, 0], &[])
}

/// These report no error: the second call tells whether the first did anything.
fn file_system_id(nr: i64) -> Outcome {
    match call(nr, words![0]).and_then(|_| call(nr, words![-1])) {
        Ok(0) => Outcome::Allowed,
        Ok(_) => Outcome::Denied(libc::EPERM.unsigned_abs().try_into().unwrap_or_default()),
        Err(errno) => Outcome::Denied(errno),
    }
}

/// Asks for CAP_KILL.
fn capset() -> Outcome {
    let mut header = [0x2008_0522u32, 0];
    let mut sets = [1u32 << 5, 1 << 5, 0, 0, 0, 0];
    attempt(libc::SYS_capset, words![at(&mut header), at(&mut sets)], &[])
}

fn allow_all(by_call: bool) -> Outcome {
    const RET_ALLOW: u32 = 0x7fff_0000;
    let mut filter = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: RET_ALLOW };
    let mut program = libc::sock_fprog { len: 1, filter: &raw mut filter };
    // A privileged caller needs no such promise; every other has made it.
    if by_call {
        attempt(libc::SYS_seccomp, words![libc::SECCOMP_SET_MODE_FILTER, 0, at(&mut program)], &[])
    } else {
        attempt(libc::SYS_prctl, words![libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, at(&mut program)], &[])
    }
}

/// A ruleset that handles reading of files and grants none.
fn landlock() -> Outcome {
    let mut handled = [4u64];
    match super::call::descriptor(libc::SYS_landlock_create_ruleset, words![at(&mut handled), 8, 0]) {
        Ok(ruleset) => {
            let ruleset = std::os::fd::AsRawFd::as_raw_fd(&ruleset);
            attempt(libc::SYS_landlock_restrict_self, words![ruleset, 0], &[])
        }
        Err(errno) => Outcome::Denied(errno),
    }
}

fn limit_of(resource: u32, change: impl FnOnce(&mut [u64; 2])) -> Outcome {
    let mut limit = [0u64; 2];
    match call(libc::SYS_prlimit64, words![0, resource, 0, at(&mut limit)]) {
        Ok(_) => {
            change(&mut limit);
            attempt(libc::SYS_prlimit64, words![0, resource, at(&mut limit), 0], &[])
        }
        Err(errno) => Outcome::Denied(errno),
    }
}

/// A larger core dump than it may leave.
fn raise_limit() -> Outcome {
    limit_of(libc::RLIMIT_CORE, |limit| *limit = [limit[1].saturating_add(1); 2])
}

fn lower_limit() -> Outcome {
    limit_of(libc::RLIMIT_STACK, |limit| limit[0] = limit[0].min(limit[1]))
}
