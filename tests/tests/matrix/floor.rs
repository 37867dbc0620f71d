//! What the table may not say, however it is written: attempts that must end the process, so that a denial by errno alone
//! would be a weaker wall. The launcher is apart: it starts programs, and its filter lists what is forbidden.

use proto::ids::Role;

/// In every role.
const EVERYWHERE: &[&str] = &[
    "accept_held_inheritable",
    "add_key",
    "bind_abstract",
    "bind_held",
    "bind_tcp",
    "bind_udp",
    "bpf_map",
    "capset_kill",
    "chroot",
    "clone_newuser",
    "connect_mptcp",
    "connect_tcp_by_sendto",
    "dumpable",
    "execve",
    "execveat",
    "fast_open_bare",
    "fast_open_bare_sendmsg",
    "fork",
    "io_uring_setup",
    "ioctl_tiocsti",
    "keyctl",
    "kill_broker_0",
    "kill_broker_urgent",
    "kill_sibling_0",
    "kill_sibling_urgent",
    "landlock_restrict",
    "listen_held",
    "memfd_create",
    "memfd_exec",
    "mmap_exec",
    "mmap_rwx",
    "mmap_shared",
    "mount",
    "mprotect_exec",
    "open_by_handle",
    "perf_event_open",
    "personality",
    "pidfd_getfd_bare",
    "pidfd_getfd_broker",
    "pidfd_getfd_sibling",
    "pidfd_signal_broker",
    "pivot_root",
    "prctl_seccomp",
    "process_vm_readv_broker",
    "process_vm_readv_sibling",
    "process_vm_writev_broker",
    "ptrace_broker",
    "ptrace_sibling",
    "reboot",
    "seccomp_allow_all",
    "sendto_address_bare",
    "setgid_root",
    "setgroups_none",
    "setns",
    "setresgid_root",
    "setresuid_root",
    "setuid_root",
    "socket_alg",
    "socket_bluetooth",
    "socket_inet_dgram",
    "socket_inet_mptcp",
    "socket_inet_raw",
    "socket_inet_sctp",
    "socket_netlink",
    "socket_packet",
    "socket_vsock",
    "socketpair",
    "tgkill_sibling_0",
    "unknown_call",
    "unshare_net",
    "unshare_pid",
    "unshare_user",
    "userfaultfd",
    #[cfg(target_arch = "x86_64")]
    "int80_getpid",
    #[cfg(target_arch = "x86_64")]
    "vfork",
    #[cfg(target_arch = "x86_64")]
    "x32_getpid",
];

/// Where no socket is made at all: neither sandboxd, which talks to an engine, nor dialer.
const NO_SOCKETS: &[&str] = &[
    "connect_abstract",
    "connect_docker",
    "connect_held",
    "connect_operator",
    "connect_tcp",
    "socket_inet6_stream",
    "socket_inet_stream",
    "socket_unix_dgram",
    "socket_unix_stream",
];

/// In auditd, on the log that it holds.
const LOG: &[&str] = &[
    "log_fd_chmod",
    "log_fd_clear_append",
    "log_fd_flags",
    "log_fd_map_shared",
    "log_fd_punch_hole",
    "log_fd_pwrite_no_append",
    "log_fd_seek",
    "log_fd_truncate",
    "log_rename",
    "log_truncate",
    "log_unlink",
];

/// In gateway, on what it holds.
const TRANSCRIPTS: &[&str] = &[
    "granted_link",
    "granted_overwrite",
    "granted_rename",
    "granted_truncate",
    "granted_unlink",
    "listener_shutdown",
    "listener_to_client",
    "session_overwrite",
    "session_truncate",
];

/// In broker, and so in everything that it starts.
const NOBODY: &[&str] = &[
    "acct",
    "bpf_map",
    "delete_module",
    "finit_module",
    "init_module",
    "kexec_load",
    "open_by_handle",
    "process_vm_writev_broker",
    "reboot",
    "setfsgid_root",
    "setfsuid_root",
    "setgid_root",
    "setregid_root",
    "setresgid_root",
    "setresgid_root_in_effect",
    "setresuid_root",
    "setresuid_root_in_effect",
    "setresuid_root_saved",
    "setresuid_root_wide",
    "setreuid_root",
    "setuid_root",
    "swapon",
    "userfaultfd",
    #[cfg(target_arch = "x86_64")]
    "int80_getpid",
];

/// True where nothing but `KILL` will do.
pub fn must_kill(probe: &str, role: Role) -> bool {
    NOBODY.contains(&probe)
        || !matches!(role, Role::Launcher | Role::Broker) && EVERYWHERE.contains(&probe)
        || matches!(role, Role::Auditd | Role::Vault | Role::Egress | Role::Gateway) && NO_SOCKETS.contains(&probe)
        || role == Role::Auditd && LOG.contains(&probe)
        || role == Role::Gateway && TRANSCRIPTS.contains(&probe)
}

/// Every name above, which must be a probe's.
pub fn names() -> impl Iterator<Item = &'static str> {
    [NOBODY, EVERYWHERE, NO_SOCKETS, LOG, TRANSCRIPTS].into_iter().flatten().copied()
}
