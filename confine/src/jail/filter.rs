//! The sandbox's system call filters. Arbitrary programs run behind them, so they list what is denied: a few calls that
//! no honest program makes kill it, the rest answer an errno that programs know how to live with.

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};
use std::collections::BTreeMap;

/// Never legal in a sandbox: whoever calls one is testing the wall.
const TRIP_WIRES: &[c_long] = &[
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    libc::SYS_open_by_handle_at,
    libc::SYS_pivot_root,
    libc::SYS_bpf,
    libc::SYS_process_vm_writev,
    libc::SYS_userfaultfd,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    libc::SYS_swapon,
    libc::SYS_acct,
    libc::SYS_reboot,
];

/// Kernel surface that commands do without: `EPERM`.
const DENIED: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_lookup_dcookie,
    libc::SYS_name_to_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_memfd_secret,
    libc::SYS_vmsplice,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_mbind,
    libc::SYS_set_mempolicy,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ustat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
];

/// clone flags that make a namespace; the time namespace has none that clone takes.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// `MFD_NOEXEC_SEAL` (linux/memfd.h, Linux 6.3).
const NOEXEC_SEAL: u64 = 8;

/// Bit that marks the x32 table, whose numbers pass by a filter that lists ordinary ones (asm/unistd.h).
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const ARCH: seccompiler::TargetArch = seccompiler::TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: seccompiler::TargetArch = seccompiler::TargetArch::aarch64;

type Table = BTreeMap<i64, Vec<SeccompRule>>;

fn compile(table: Table, errno: Option<i32>) -> Result<BpfProgram, BackendError> {
    let action = errno.map_or(SeccompAction::KillProcess, |errno| SeccompAction::Errno(errno.unsigned_abs()));
    SeccompFilter::new(table, SeccompAction::Allow, action, ARCH)?.try_into()
}

fn whole(calls: &[c_long]) -> Table {
    calls.iter().map(|nr| (*nr, Vec::new())).collect()
}

fn when(index: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, SeccompCmpArgLen::Dword, op, value)?])
}

/// What every sandbox has, in the order of installation.
pub(super) fn common() -> Result<Vec<BpfProgram>, BackendError> {
    let local = u64::from(libc::AF_UNIX.unsigned_abs());
    let mut denied = whole(DENIED);
    denied.insert(libc::SYS_socket, vec![when(0, SeccompCmpOp::Ne, local)?]);
    denied.insert(libc::SYS_socketpair, vec![when(0, SeccompCmpOp::Ne, local)?]);
    // 0xffffffff asks for the personality and changes nothing.
    let personality = SeccompRule::new(vec![
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)?,
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(u32::MAX))?,
    ])?;
    denied.insert(libc::SYS_personality, vec![personality]);
    let mut clones = Vec::new();
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        clones.push(when(0, SeccompCmpOp::MaskedEq(flag), flag)?);
    }
    denied.insert(libc::SYS_clone, clones);
    // A program that is run from memory leaves no file to look at: only what can never be executed is given out.
    denied.insert(libc::SYS_memfd_create, vec![when(1, SeccompCmpOp::MaskedEq(NOEXEC_SEAL), 0)?]);
    let typing = [libc::TIOCSTI, libc::TIOCLINUX];
    let typing = typing.into_iter().map(|request| when(1, SeccompCmpOp::Eq, request)).collect::<Result<_, _>>()?;
    denied.insert(libc::SYS_ioctl, typing);
    let mut programs = vec![
        compile(denied, Some(libc::EPERM))?,
        // clone3's flags are behind a pointer: the C library falls back to clone.
        compile(whole(&[libc::SYS_clone3]), Some(libc::ENOSYS))?,
        compile(whole(TRIP_WIRES), None)?,
    ];
    if cfg!(target_arch = "x86_64") {
        programs.push(no_x32());
    }
    Ok(programs)
}

/// For a sandbox that sees the host's file system: no sockets at all, since Landlock does not rule who connects to a
/// socket with a name, and one of those may be a container engine's.
pub(super) fn no_sockets() -> Result<BpfProgram, BackendError> {
    compile(whole(&[libc::SYS_socket]), Some(libc::EACCES))
}

/// Answers `ENOSYS` to every x32 number. A filter that lists what is forbidden needs it; an allowlist names none of them.
pub(crate) fn no_x32() -> BpfProgram {
    let op =
        |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    vec![
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_compile_and_no_call_is_both_trip_wire_and_denied() {
        assert!(common().expect("compiles").len() >= 3);
        assert!(!no_sockets().expect("compiles").is_empty());
        assert!(TRIP_WIRES.iter().all(|nr| !DENIED.contains(nr)));
    }
}
