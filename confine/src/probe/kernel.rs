//! The rest of the kernel: what no part of Moltbot has any business with.

use super::call::{at, attempt, descriptor, judge, words};
use super::{Exception, LAUNCHES, NOWHERE, Outcome, Probe, World, except};
use proto::ids::Role;

const UNPRIVILEGED: &[Exception] =
    &[except(Role::Launcher, "its filter lists what is forbidden; the kernel asks for no privilege here")];
const NO_MODULES: &[(i32, &str)] = &[(libc::ENOSYS, "kernel without modules"), (libc::EPERM, "no CAP_SYS_MODULE here")];
const NO_KEYS: &[(i32, &str)] = &[(libc::ENOSYS, "kernel without keyrings")];
const NO_SWAP: &[(i32, &str)] = &[(libc::ENOSYS, "kernel without swap")];

pub(super) static PROBES: &[Probe] = &[
    Probe::new("io_uring_setup", |_| io_uring())
        .lacking(&[(libc::ENOSYS, "kernel without io_uring"), (libc::EPERM, "io_uring is switched off")]),
    Probe::new("io_uring_enter", |_| attempt(libc::SYS_io_uring_enter, words![-1, 0, 0, 0, 0, 0], &[libc::EBADF]))
        .lacking(&[(libc::ENOSYS, "kernel without io_uring")]),
    Probe::new("bpf_map", |_| bpf()).nobody().lacking(&[(libc::ENOSYS, "kernel without bpf")]),
    Probe::new("perf_event_open", |_| perf())
        .lacking(&[(libc::ENOSYS, "kernel without perf"), (libc::ENOENT, "no such counter")]),
    Probe::new("keyctl", |_| attempt(libc::SYS_keyctl, words![0, -2, 1], &[])).lacking(NO_KEYS),
    Probe::new("add_key", |_| add_key()).lacking(NO_KEYS),
    Probe::new("request_key", |_| {
        attempt(libc::SYS_request_key, words![c"user", c"moltbot-probe", 0, 0], &[libc::ENOENT, 126])
    })
    .lacking(NO_KEYS),
    Probe::new("mount", |_| mount()),
    Probe::new("umount", |_| {
        attempt(libc::SYS_umount2, words![c"/etc", libc::MNT_EXPIRE], &[libc::EINVAL, libc::EAGAIN, libc::EBUSY])
    }),
    Probe::new("pivot_root", |_| attempt(libc::SYS_pivot_root, words![NOWHERE, NOWHERE], &[libc::ENOENT])),
    Probe::new("fsopen", |_| judge(descriptor(libc::SYS_fsopen, words![c"tmpfs", 1]), &[])),
    Probe::new("open_tree", |_| {
        judge(descriptor(libc::SYS_open_tree, words![libc::AT_FDCWD, c"/", 1 | libc::O_CLOEXEC]), &[])
    }),
    Probe::new("move_mount", |_| attempt(libc::SYS_move_mount, words![-1, c"", -1, c"", 0x4 | 0x40], &[libc::EBADF])),
    Probe::new("chroot", |_| attempt(libc::SYS_chroot, words![c"/"], &[])),
    Probe::new("reboot", |_| attempt(libc::SYS_reboot, words![0, 0, 0, 0], &[libc::EINVAL])).nobody(),
    Probe::new("kexec_load", |_| attempt(libc::SYS_kexec_load, words![0, 17, 0, 0], &[libc::EINVAL]))
        .nobody()
        .lacking(&[(libc::ENOSYS, "kernel without kexec"), (libc::EPERM, "kexec is switched off")]),
    Probe::new("init_module", |_| attempt(libc::SYS_init_module, words![0, 0, c""], &[libc::ENOEXEC, libc::EFAULT]))
        .nobody()
        .lacking(NO_MODULES),
    Probe::new("finit_module", |_| attempt(libc::SYS_finit_module, words![-1, c"", 0], &[libc::EBADF]))
        .nobody()
        .lacking(NO_MODULES),
    Probe::new("delete_module", |_| attempt(libc::SYS_delete_module, words![c"moltbot_probe", 0], &[libc::ENOENT]))
        .nobody()
        .lacking(NO_MODULES),
    Probe::new("swapon", |_| attempt(libc::SYS_swapon, words![NOWHERE, 0], &[libc::ENOENT])).nobody().lacking(NO_SWAP),
    Probe::new("swapoff", |_| attempt(libc::SYS_swapoff, words![NOWHERE], &[libc::ENOENT])).lacking(NO_SWAP),
    Probe::new("acct", |_| attempt(libc::SYS_acct, words![NOWHERE], &[libc::ENOENT]))
        .nobody()
        .lacking(&[(libc::ENOSYS, "kernel without accounting")]),
    Probe::new("settimeofday", |_| attempt(libc::SYS_settimeofday, words![0, 0], &[])),
    Probe::new("clock_settime", |_| attempt(libc::SYS_clock_settime, words![0, 0], &[libc::EFAULT])),
    Probe::new("syslog", |_| attempt(libc::SYS_syslog, words![3, c"", 0], &[])),
    Probe::new("quotactl", |_| attempt(libc::SYS_quotactl, words![0x8000_0400u32, NOWHERE, 0, 0], &[libc::ENOENT]))
        .lacking(&[(libc::ENOSYS, "kernel without quota")]),
    #[cfg(target_arch = "x86_64")]
    Probe::new("iopl", |_| attempt(libc::SYS_iopl, words![3], &[])).lacking(&[(libc::ENOSYS, "kernel without iopl")]),
    #[cfg(target_arch = "x86_64")]
    Probe::new("ioperm", |_| attempt(libc::SYS_ioperm, words![0x80, 1, 1], &[]))
        .lacking(&[(libc::ENOSYS, "kernel without ioperm")]),
    #[cfg(target_arch = "x86_64")]
    Probe::new("modify_ldt", |_| attempt(libc::SYS_modify_ldt, words![0, 0, 0], &[]))
        .lacking(&[(libc::ENOSYS, "kernel without it")]),
    Probe::new("fanotify_init", |_| judge(descriptor(libc::SYS_fanotify_init, words![1, 0]), &[]))
        .lacking(&[(libc::ENOSYS, "kernel without fanotify")]),
    Probe::new("inotify_init", |_| judge(descriptor(libc::SYS_inotify_init1, words![0]), &[]))
        .except(UNPRIVILEGED)
        .lacking(&[(libc::ENOSYS, "kernel without inotify")]),
    Probe::new("ioctl_tiocsti", |world| ioctl(world, libc::TIOCSTI)),
    Probe::new("ioctl_tiocsti_wide", |world| ioctl(world, libc::TIOCSTI | 1 << 32)),
    Probe::new("ioctl_tioclinux", |world| ioctl(world, 0x541c)),
    Probe::new("fcntl_setown", |world| attempt(libc::SYS_fcntl, words![world.socket, libc::F_SETOWN, 0], &[]))
        .except(UNPRIVILEGED),
    Probe::new("fcntl_notify", |_| attempt(libc::SYS_fcntl, words![0, 1026, 0], &[libc::ENOTDIR])).except(UNPRIVILEGED),
    Probe::new("timer_create", |_| timer()).except(UNPRIVILEGED).lacking(&[(libc::ENOSYS, "kernel without timers")]),
    Probe::new("msgget", |_| attempt(libc::SYS_msgget, words![0x6d6f_6c74, 0], &[libc::ENOENT]))
        .except(UNPRIVILEGED)
        .lacking(&[(libc::ENOSYS, "kernel without message queues")]),
    Probe::new("uname", |_| uname()).except(UNPRIVILEGED),
    Probe::new("landlock_create", |_| attempt(libc::SYS_landlock_create_ruleset, words![0, 0, 1], &[]))
        .except(LAUNCHES),
];

fn io_uring() -> Outcome {
    let mut parameters = [0u32; 30];
    judge(descriptor(libc::SYS_io_uring_setup, words![1, at(&mut parameters)]), &[])
}

/// An array of one.
fn bpf() -> Outcome {
    let mut attributes = [2u32, 4, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    judge(descriptor(libc::SYS_bpf, words![0, at(&mut attributes), size_of_val(&attributes) as u64]), &[])
}

/// Counts the caller's own page faults.
fn perf() -> Outcome {
    let mut attributes = [0u64; 14];
    // PERF_TYPE_SOFTWARE and the structure's size; PERF_COUNT_SW_PAGE_FAULTS; not in the kernel, not in a hypervisor.
    (attributes[0], attributes[1], attributes[5]) = (1 | (112 << 32), 2, 0x60);
    judge(descriptor(libc::SYS_perf_event_open, words![at(&mut attributes), 0, -1, -1, 0]), &[])
}

/// Into the process's own keyring, which ends with it.
fn add_key() -> Outcome {
    let mut payload = [b'x'];
    attempt(libc::SYS_add_key, words![c"user", c"moltbot-probe", at(&mut payload), 1, -2], &[])
}

/// A file system that no kernel has, onto the root.
fn mount() -> Outcome {
    attempt(libc::SYS_mount, words![c"none", c"/", c"moltbot-no-such", 0, 0], &[libc::ENODEV])
}

/// On a socket, which knows no such request: never on what may be a person's terminal.
fn ioctl(world: &World, request: u64) -> Outcome {
    let mut argument = [0u8; 64];
    attempt(libc::SYS_ioctl, words![world.socket, request, at(&mut argument)], &[libc::ENOTTY, libc::EINVAL])
}

fn timer() -> Outcome {
    let mut timer = 0i32;
    attempt(libc::SYS_timer_create, words![libc::CLOCK_MONOTONIC, 0, at(&mut timer)], &[])
}

fn uname() -> Outcome {
    let mut names = [0u8; 512];
    attempt(libc::SYS_uname, words![at(&mut names)], &[])
}
