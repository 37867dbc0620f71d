//! The container's system call filter, as the text that the engine is given in the create call. It lists what is allowed,
//! so that a call the kernel gains tomorrow is closed today; engines' own profiles differ by version, and older ones leave
//! io_uring, AF_ALG and AF_VSOCK open.
//!
//! It rests on the engine and its runtime doing as they are told: `drift` compares the text of what they say they did, and
//! `tests/container.rs` shows from inside a container that they did it.

use serde_json::{Value, json};

/// Calls that commands live on, and what for.
const ALLOWED: &[(&str, &str)] = &[
    (
        "files and directories",
        "access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 \
         fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock \
         fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr lchown \
         lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat newfstatat open \
         openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv \
         removexattr rename renameat renameat2 rmdir sendfile setxattr stat statfs statx symlink symlinkat sync \
         sync_file_range syncfs truncate umask unlink unlinkat utime utimensat utimes write writev",
    ),
    ("terminals and devices of the container; it has none of the host's, so none to type into", "ioctl"),
    ("fifos; devices are the device cgroup's and the lacking capability's business", "mknod mknodat"),
    (
        "memory",
        "brk get_mempolicy madvise membarrier mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock \
         munlockall munmap pkey_alloc pkey_free pkey_mprotect",
    ),
    (
        "processes, threads and signals",
        "alarm arch_prctl capget capset execve execveat exit exit_group fork futex futex_waitv get_robust_list \
         get_thread_area getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid getpriority \
         getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get ioprio_set kill pause pidfd_open \
         pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
         rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
         sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity \
         sched_setattr sched_setparam sched_setscheduler sched_yield set_robust_list set_thread_area set_tid_address \
         setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit \
         setsid setuid sigaltstack tgkill tkill vfork wait4 waitid",
    ),
    (
        "waiting and clocks that cannot be set",
        "clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 \
         epoll_wait eventfd eventfd2 gettimeofday inotify_add_watch inotify_init inotify_init1 inotify_rm_watch nanosleep \
         poll ppoll pselect6 select signalfd signalfd4 time timer_create timer_delete timer_getoverrun timer_gettime \
         timer_settime timerfd_create timerfd_gettime timerfd_settime times",
    ),
    (
        "pipes, and sockets once there is one",
        "accept accept4 bind connect getpeername getsockname getsockopt listen pipe pipe2 recvfrom recvmmsg recvmsg \
         sendmmsg sendmsg sendto setsockopt shutdown splice tee",
    ),
    (
        "System V and POSIX objects of the container's own ipc namespace",
        "mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd semctl semget \
         semop semtimedop shmat shmctl shmdt shmget",
    ),
    (
        "a program's own walls, and what it may know",
        "getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self sysinfo uname",
    ),
];

/// Never legal in a sandbox: whoever calls one is testing the wall, and ends by SIGSYS.
pub const TRIP_WIRES: &[&str] = &[
    "acct",
    "bpf",
    "delete_module",
    "finit_module",
    "init_module",
    "ioperm",
    "iopl",
    "kexec_file_load",
    "kexec_load",
    "open_by_handle_at",
    "pivot_root",
    "process_vm_writev",
    "reboot",
    "swapon",
    "userfaultfd",
];

/// Every clone flag that makes a namespace (linux/sched.h).
const NAMESPACES: u64 = 0x7e02_0000;
/// `AF_UNIX`, the only family there is: the rest are kernel surface, and there is no network to reach.
const AF_UNIX: u64 = 1;
const ENOSYS: u32 = 38;
/// `MFD_NOEXEC_SEAL` (linux/memfd.h): memory that no program can be run from, now or later.
const NOEXEC_SEAL: u64 = 8;

const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };

fn when(names: &[&str], index: u32, op: &str, value: u64, value_two: u64) -> Value {
    let argument = json!({ "index": index, "op": op, "value": value, "valueTwo": value_two });
    json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": [argument] })
}

fn words(names: &str) -> Vec<&str> {
    names.split_whitespace().collect()
}

/// The profile. What it does not name is answered `EPERM`; other architectures' tables, 32-bit ones among them, are closed.
#[must_use]
pub fn profile() -> String {
    let mut rules: Vec<Value> = ALLOWED
        .iter()
        .map(|(_, names)| json!({ "names": words(names), "action": "SCMP_ACT_ALLOW", "args": [] }))
        .collect();
    rules.push(when(&["socket", "socketpair"], 0, "SCMP_CMP_EQ", AF_UNIX, 0));
    rules.push(when(&["clone"], 0, "SCMP_CMP_MASKED_EQ", NAMESPACES, 0));
    // A program that is run from memory leaves no file to look at.
    rules.push(when(&["memfd_create"], 1, "SCMP_CMP_MASKED_EQ", NOEXEC_SEAL, NOEXEC_SEAL));
    // Its flags are behind a pointer: the C library falls back to clone.
    rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS, "args": [] }));
    // 0 is the ordinary one; 0xffffffff asks and changes nothing.
    for personality in [0, u64::from(u32::MAX)] {
        rules.push(when(&["personality"], 0, "SCMP_CMP_EQ", personality, 0));
    }
    rules.push(json!({ "names": TRIP_WIRES, "action": "SCMP_ACT_KILL_PROCESS", "args": [] }));
    json!({ "defaultAction": "SCMP_ACT_ERRNO", "architectures": [ARCHITECTURE], "syscalls": rules }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_call_is_named_twice_and_no_closed_one_is_allowed() {
        let allowed: Vec<&str> = ALLOWED.iter().flat_map(|(_, names)| words(names)).collect();
        let set: BTreeSet<&str> = allowed.iter().copied().collect();
        assert_eq!(set.len(), allowed.len());
        let closed = [
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "ptrace",
            "process_vm_readv",
            "keyctl",
            "add_key",
            "request_key",
            "unshare",
            "setns",
            "mount",
            "umount2",
            "fsopen",
            "move_mount",
            "open_tree",
            "chroot",
            "perf_event_open",
            "socket",
            "socketpair",
            "clone",
            "clone3",
            "memfd_create",
            "personality",
            "seccomp",
            "modify_ldt",
            "vmsplice",
            "memfd_secret",
            "name_to_handle_at",
            "fanotify_init",
            "syslog",
            "quotactl",
            "pidfd_getfd",
            "kcmp",
        ];
        for name in closed.iter().chain(TRIP_WIRES) {
            assert!(!set.contains(name), "{name}");
        }
    }

    #[test]
    fn profile_is_small_enough_for_a_create_call_and_denies_by_default() {
        let profile: Value = serde_json::from_str(&profile()).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        assert!(super::profile().len() < 16_384);
    }
}
