//! Programs, processes, namespaces; and other processes: broker above all.

use super::call::{at, attempt, call, descriptor, judge, words};
use super::{Exception, LAUNCHES, Outcome, Probe, World, except, except_single_uid};
use libc::{CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER};
use proto::ids::Role;
use std::os::fd::AsRawFd;

const TRUE: &std::ffi::CStr = c"/bin/true";
const NONE: i32 = 0;
/// Signals that processes ignore unless they ask for them.
const URGENT: i32 = libc::SIGURG;
const HANDLES: &[Exception] = &[except(Role::Launcher, "handles of processes are how it waits for its own")];
const SAME_UID: &[Exception] =
    &[except_single_uid(Role::Launcher, "scheduling is ruled by uid alone, and here all roles have one")];
const REQUESTS: &[Exception] =
    &[except(Role::Launcher, "broker's pid is in its own namespace; reading a limit changes none")];

pub(super) static PROBES: &[Probe] = &[
    Probe::new("fork", |_| clone(0)).except(LAUNCHES),
    #[cfg(target_arch = "x86_64")]
    Probe::new("vfork", vfork).except(LAUNCHES),
    Probe::new("clone_newuser", |_| clone(CLONE_NEWUSER)).except(LAUNCHES),
    Probe::new("clone3", |_| clone3(0)),
    Probe::new("clone3_namespaces", |_| clone3(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET)),
    Probe::new("execve", |_| attempt(libc::SYS_execve, words![TRUE, 0, 0], &[])).except(LAUNCHES),
    Probe::new("execveat", |_| attempt(libc::SYS_execveat, words![libc::AT_FDCWD, TRUE, 0, 0, 0], &[]))
        .except(LAUNCHES),
    Probe::new("unshare_user", |_| unshare(CLONE_NEWUSER)).except(LAUNCHES),
    Probe::new("unshare_net", |_| unshare(CLONE_NEWNET)).except(LAUNCHES),
    Probe::new("unshare_mount", |_| unshare(CLONE_NEWNS)).except(LAUNCHES),
    Probe::new("unshare_pid", |_| unshare(CLONE_NEWPID)).except(LAUNCHES),
    Probe::new("setns", |world| attempt(libc::SYS_setns, words![world.socket, 0], &[libc::EINVAL])).except(LAUNCHES),
    Probe::new("ptrace_broker", |world| ptrace(world.targets.broker)),
    Probe::new("ptrace_sibling", |world| ptrace(world.targets.sibling)),
    Probe::new("process_vm_readv_broker", |world| vm(libc::SYS_process_vm_readv, world.targets.broker)),
    Probe::new("process_vm_readv_sibling", |world| vm(libc::SYS_process_vm_readv, world.targets.sibling)),
    Probe::new("process_vm_writev_broker", |world| vm(libc::SYS_process_vm_writev, world.targets.broker)).nobody(),
    Probe::new("pidfd_open_broker", |world| pidfd(world.targets.broker, |_| Outcome::Allowed)).except(HANDLES),
    Probe::new("pidfd_getfd_broker", |world| pidfd(world.targets.broker, getfd)),
    Probe::new("pidfd_getfd_sibling", |world| pidfd(world.targets.sibling, getfd)),
    Probe::new("pidfd_getfd_bare", |_| attempt(libc::SYS_pidfd_getfd, words![-1, 0, 0], &[libc::EBADF])),
    Probe::new("pidfd_signal_broker", |world| pidfd(world.targets.broker, signal_by_handle)),
    Probe::new("process_madvise_broker", |world| pidfd(world.targets.broker, madvise)),
    Probe::new("kill_broker_0", |world| attempt(libc::SYS_kill, words![world.targets.broker, NONE], &[])),
    Probe::new("kill_broker_urgent", |world| attempt(libc::SYS_kill, words![world.targets.broker, URGENT], &[])),
    Probe::new("kill_sibling_0", |world| attempt(libc::SYS_kill, words![world.targets.sibling, NONE], &[])),
    Probe::new("kill_sibling_urgent", |world| attempt(libc::SYS_kill, words![world.targets.sibling, URGENT], &[])),
    Probe::new("kill_init_0", |_| attempt(libc::SYS_kill, words![1, NONE], &[])),
    Probe::new("tkill_sibling_0", |world| attempt(libc::SYS_tkill, words![world.targets.sibling, NONE], &[])),
    Probe::new("tgkill_sibling_0", |world| tgkill(world, NONE)),
    Probe::new("tgkill_sibling_abort", |world| tgkill(world, libc::SIGABRT)).matrix_only(),
    Probe::new("sigqueue_broker_0", |world| sigqueue(world.targets.broker)),
    Probe::new("sched_setscheduler_broker", |world| scheduler(world.targets.broker)).except(SAME_UID),
    Probe::new("setpriority_broker", |world| priority(world.targets.broker)).except(SAME_UID),
    Probe::new("ioprio_broker", |world| ioprio(world.targets.broker)).except(SAME_UID),
    Probe::new("prlimit_broker", |world| prlimit(world.targets.broker)).except(REQUESTS),
    Probe::new("kcmp_broker", |world| kcmp(world.targets.broker)).lacking(&[(libc::ENOSYS, "kernel without kcmp")]),
    Probe::new("move_pages_broker", |world| {
        attempt(libc::SYS_move_pages, words![world.targets.broker, 0, 0, 0, 0, 0], &[])
    })
    .lacking(&[(libc::ENOSYS, "kernel without NUMA")]),
    Probe::new("migrate_pages_broker", |world| migrate(world.targets.broker))
        .lacking(&[(libc::ENOSYS, "kernel without NUMA")]),
    Probe::new("robust_list_broker", |world| robust_list(world.targets.broker)),
    Probe::new("setpgid_sibling", |world| {
        attempt(libc::SYS_setpgid, words![world.targets.sibling, 0], &[libc::ESRCH, libc::EPERM])
    })
    .except(LAUNCHES),
];

/// A child that ends at once.
fn clone(flags: i32) -> Outcome {
    // A stack of 0 is a copy of the caller's, as with fork.
    let result = call(libc::SYS_clone, words![flags | libc::SIGCHLD, 0, 0, 0, 0]);
    ended(result)
}

/// In the child: ends it. In the parent: reaps it.
fn ended(result: Result<i64, u16>) -> Outcome {
    match result {
        // SAFETY: ends the child; it shares no memory with the parent.
        Ok(0) => unsafe { libc::_exit(0) },
        Ok(pid) => {
            let _ = call(libc::SYS_wait4, words![pid, 0, 0, 0]);
            Outcome::Allowed
        }
        Err(errno) => Outcome::Denied(errno),
    }
}

/// The child shares the parent's stack, so it ends before any of it is used.
#[cfg(target_arch = "x86_64")]
fn vfork(_: &World) -> Outcome {
    let result: i64;
    // SAFETY: the child executes four instructions that touch neither stack nor memory; the parent sleeps until then.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor edi, edi",
            "mov eax, 60",
            "syscall",
            "2:",
            inlateout("rax") libc::SYS_vfork => result,
            out("rdi") _, out("rcx") _, out("r11") _,
        );
    }
    match u16::try_from(-result) {
        Ok(errno) => Outcome::Denied(errno),
        Err(_) => ended(Ok(result)),
    }
}

/// The kernel's `struct clone_args`, 64 bytes of it.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

fn clone3(flags: i32) -> Outcome {
    let exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    let mut words = CloneArgs { flags: u64::from(flags.cast_unsigned()), exit_signal, ..CloneArgs::default() };
    ended(call(libc::SYS_clone3, words![at(&mut words), size_of::<CloneArgs>() as u64]))
}

fn unshare(flags: i32) -> Outcome {
    attempt(libc::SYS_unshare, words![flags], &[])
}

/// Attaches without stopping, and lets go.
fn ptrace(pid: u32) -> Outcome {
    let seized = call(libc::SYS_ptrace, words![i64::from(libc::PTRACE_SEIZE), pid, 0, 0]);
    if seized.is_ok() {
        let _ = call(libc::SYS_ptrace, words![i64::from(libc::PTRACE_INTERRUPT), pid, 0, 0]);
        let _ = call(libc::SYS_wait4, words![pid, 0, libc::__WALL, 0]);
        let _ = call(libc::SYS_ptrace, words![i64::from(libc::PTRACE_DETACH), pid, 0, 0]);
    }
    judge(seized, &[])
}

/// One byte at an address that nobody has: whoever may look is told so.
fn vm(nr: i64, pid: u32) -> Outcome {
    let mut byte = [0u8];
    let mut local = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(16), iov_len: 1 };
    attempt(nr, words![pid, at(&mut local), 1, at(&mut remote), 1, 0], &[libc::EFAULT])
}

fn pidfd(pid: u32, then: impl FnOnce(i32) -> Outcome) -> Outcome {
    match descriptor(libc::SYS_pidfd_open, words![pid, 0]) {
        Ok(handle) => then(handle.as_raw_fd()),
        Err(errno) => Outcome::Denied(errno),
    }
}

fn getfd(handle: i32) -> Outcome {
    judge(descriptor(libc::SYS_pidfd_getfd, words![handle, 0, 0]), &[])
}

fn signal_by_handle(handle: i32) -> Outcome {
    attempt(libc::SYS_pidfd_send_signal, words![handle, NONE, 0, 0], &[])
}

/// Advice about nothing.
fn madvise(handle: i32) -> Outcome {
    let mut range = libc::iovec { iov_base: std::ptr::without_provenance_mut(4096), iov_len: 4096 };
    let words = words![handle, at(&mut range), 1, libc::MADV_COLD, 0];
    attempt(libc::SYS_process_madvise, words, &[libc::ENOMEM, libc::EINVAL])
}

fn tgkill(world: &World, signal: i32) -> Outcome {
    attempt(libc::SYS_tgkill, words![world.targets.sibling, world.targets.sibling, signal], &[])
}

fn sigqueue(pid: u32) -> Outcome {
    let mut info = [0i32; 32];
    // A negative code is the user's own, which the kernel lets anybody send.
    info[2] = -1;
    attempt(libc::SYS_rt_sigqueueinfo, words![pid, NONE, at(&mut info)], &[])
}

/// To what it is.
fn scheduler(pid: u32) -> Outcome {
    let mut parameters = 0i32;
    attempt(libc::SYS_sched_setscheduler, words![pid, libc::SCHED_OTHER, at(&mut parameters)], &[])
}

/// To what it is, which `getpriority` says as 20 less it.
fn priority(pid: u32) -> Outcome {
    match call(libc::SYS_getpriority, words![0, pid]) {
        Ok(nice) => attempt(libc::SYS_setpriority, words![0, pid, 20 - nice], &[]),
        Err(errno) => Outcome::Denied(errno),
    }
}

/// Priority of its input and output, to none in particular.
fn ioprio(pid: u32) -> Outcome {
    attempt(libc::SYS_ioprio_set, words![1, pid, 0], &[])
}

fn prlimit(pid: u32) -> Outcome {
    let mut limit = [0u64; 2];
    attempt(libc::SYS_prlimit64, words![pid, libc::RLIMIT_NOFILE, 0, at(&mut limit)], &[])
}

fn kcmp(pid: u32) -> Outcome {
    const KCMP_VM: i32 = 1;
    attempt(libc::SYS_kcmp, words![pid, pid, KCMP_VM, 0, 0], &[])
}

/// From no node to no node.
fn migrate(pid: u32) -> Outcome {
    let (mut from, mut to) = (0u64, 0u64);
    attempt(libc::SYS_migrate_pages, words![pid, 64, at(&mut from), at(&mut to)], &[libc::EINVAL])
}

fn robust_list(pid: u32) -> Outcome {
    let (mut head, mut length) = (0u64, 0u64);
    attempt(libc::SYS_get_robust_list, words![pid, at(&mut head), at(&mut length)], &[])
}
