//! The root that a namespaced sandbox sees: a small tmpfs with the host's programs bound read-only, made-up accounts, five
//! harmless devices, its own `/proc` and `/tmp`, and the workspace. Planned by the parent, built by the child without
//! allocating.
//!
//! The workspace comes as a descriptor, and its path may lead through directories that this uid cannot pass. A mount that
//! belongs to another namespace cannot be bound, but the kernel moves a process's working directory along when it gets a
//! new mount namespace: hence `fchdir` first, `unshare` second, and `.` as the source.

use super::child::{Failure, Step, check, errno};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Where the new root is put together; covered by a tmpfs of the sandbox's own, so what it holds does not matter.
const STAGE: &CStr = c"/tmp";
const PASSWD: &[u8] = b"nobody:x:65534:65534:nobody:/workspace:/bin/sh\n";
const GROUP: &[u8] = b"nogroup:x:65534:\n";
const DEVICES: [(&CStr, &CStr); 5] = [
    (c"/dev/null", c"/tmp/dev/null"),
    (c"/dev/zero", c"/tmp/dev/zero"),
    (c"/dev/full", c"/tmp/dev/full"),
    (c"/dev/random", c"/tmp/dev/random"),
    (c"/dev/urandom", c"/tmp/dev/urandom"),
];
const LINKS: [(&CStr, &CStr); 4] = [
    (c"/proc/self/fd", c"/tmp/dev/fd"),
    (c"/proc/self/fd/0", c"/tmp/dev/stdin"),
    (c"/proc/self/fd/1", c"/tmp/dev/stdout"),
    (c"/proc/self/fd/2", c"/tmp/dev/stderr"),
];
const QUIET: u64 = libc::MOUNT_ATTR_NOSUID;
const INERT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const FIXED: u64 = INERT | libc::MOUNT_ATTR_RDONLY;

/// What this host has of the directories that programs live in.
#[derive(Debug)]
pub(super) struct Plan {
    /// Link text and the link's place beneath the stage.
    links: Vec<(CString, CString)>,
    /// Directory and its place beneath the stage.
    binds: Vec<(CString, CString)>,
    loader_cache: bool,
}

impl Plan {
    /// Looks at the host. What is neither a directory nor a link is left out.
    pub(super) fn of_this_host() -> Self {
        let mut plan =
            Self { links: Vec::new(), binds: Vec::new(), loader_cache: Path::new("/etc/ld.so.cache").is_file() };
        // Debian's awk, editors and the like are links by way of /etc/alternatives, which holds nothing but links.
        for name in ["usr", "bin", "sbin", "lib", "lib64", "lib32", "etc/alternatives"] {
            let host = Path::new("/").join(name);
            let Ok(stage) = CString::new(format!("/tmp/{name}")) else { continue };
            if let Ok(target) = host.read_link() {
                plan.links.extend(CString::new(target.as_os_str().as_bytes()).ok().map(|target| (target, stage)));
            } else if host.is_dir() {
                plan.binds.extend(CString::new(host.as_os_str().as_bytes()).ok().map(|host| (host, stage)));
            }
        }
        plan
    }

    /// Builds the root and moves into it. The working directory must be the workspace; `agent` is a path from there.
    pub(super) fn enter(&self, agent: Option<&CStr>) -> Result<(), Failure> {
        mount(c"none", c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)?;
        mount(
            c"tmpfs",
            STAGE,
            Some(c"tmpfs"),
            libc::MS_NOSUID | libc::MS_NODEV,
            Some(c"size=1m,nr_inodes=256,mode=755"),
        )?;
        for dir in [c"/tmp/etc", c"/tmp/dev", c"/tmp/proc", c"/tmp/tmp", c"/tmp/workspace"] {
            make_dir(dir)?;
        }
        for (target, link) in &self.links {
            make_link(target, link)?;
        }
        for (host, stage) in &self.binds {
            make_dir(stage)?;
            bind(host, stage, FIXED)?;
        }
        make_file(c"/tmp/etc/passwd", PASSWD)?;
        make_file(c"/tmp/etc/group", GROUP)?;
        if self.loader_cache {
            make_file(c"/tmp/etc/ld.so.cache", b"")?;
            bind(c"/etc/ld.so.cache", c"/tmp/etc/ld.so.cache", FIXED | libc::MOUNT_ATTR_NOEXEC)?;
        }
        for (host, stage) in DEVICES {
            make_file(stage, b"")?;
            bind(host, stage, QUIET | libc::MOUNT_ATTR_NOEXEC)?;
        }
        for (target, link) in LINKS {
            make_link(target, link)?;
        }
        let inert = libc::MS_NOSUID | libc::MS_NODEV;
        // Where the host's own /proc is partly covered (in a container) the kernel refuses a fresh one: then there is none.
        let proc = mount(c"proc", c"/tmp/proc", Some(c"proc"), inert | libc::MS_NOEXEC, Some(c"hidepid=2,subset=pid"));
        if proc.is_err_and(|failure| failure.errno != libc::EPERM) {
            return proc;
        }
        mount(c"tmpfs", c"/tmp/tmp", Some(c"tmpfs"), inert, Some(c"size=64m,nr_inodes=65536,mode=1777"))?;
        if let Some(agent) = agent {
            make_dir(c"/tmp/agent")?;
            bind(agent, c"/tmp/agent", FIXED)?;
        }
        bind(c".", c"/tmp/workspace", INERT)?;
        swap_roots()?;
        set_attributes(c"/", FIXED, 0)
    }
}

/// The stage becomes the root, stacked on the old one, which is then let go.
fn swap_roots() -> Result<(), Failure> {
    // SAFETY: C strings and integers.
    unsafe {
        check(Step::Pivot, libc::c_long::from(libc::chdir(STAGE.as_ptr())))?;
        check(Step::Pivot, libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(Step::Pivot, libc::c_long::from(libc::umount2(c".".as_ptr(), libc::MNT_DETACH)))?;
        check(Step::Pivot, libc::c_long::from(libc::chdir(c"/".as_ptr())))
    }
}

fn mount(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    data: Option<&CStr>,
) -> Result<(), Failure> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    let data = data.map_or(ptr::null(), |data| data.as_ptr().cast::<libc::c_void>());
    // SAFETY: each pointer is null or a C string that outlives the call.
    let done = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, data) };
    check(Step::Mount, libc::c_long::from(done))
}

/// Binds what is there, with everything mounted beneath it, and takes rights from all of it at once.
fn bind(source: &CStr, target: &CStr, attributes: u64) -> Result<(), Failure> {
    mount(source, target, None, libc::MS_BIND | libc::MS_REC, None)?;
    set_attributes(target, attributes, libc::AT_RECURSIVE)
}

fn set_attributes(target: &CStr, attributes: u64, flags: libc::c_int) -> Result<(), Failure> {
    let attr = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: `attr` has the kernel's layout, `size` is its size, both outlive the call.
    let done = unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, target.as_ptr(), flags, &raw const attr, size)
    };
    check(Step::Attributes, done)
}

fn make_dir(path: &CStr) -> Result<(), Failure> {
    // SAFETY: a C string.
    check(Step::Root, libc::c_long::from(unsafe { libc::mkdir(path.as_ptr(), 0o755) }))
}

fn make_link(target: &CStr, link: &CStr) -> Result<(), Failure> {
    // SAFETY: two C strings.
    check(Step::Root, libc::c_long::from(unsafe { libc::symlink(target.as_ptr(), link.as_ptr()) }))
}

pub(super) fn make_file(path: &CStr, bytes: &[u8]) -> Result<(), Failure> {
    write_file(Step::Root, path, bytes, libc::O_CREAT)
}

/// Writes all of `bytes` in one call, as `/proc` wants it.
pub(super) fn write_file(step: Step, path: &CStr, bytes: &[u8], flags: libc::c_int) -> Result<(), Failure> {
    // SAFETY: a C string; the buffer is `bytes.len()` long; the descriptor is closed once.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC | flags, 0o644);
        check(step, libc::c_long::from(fd))?;
        let written = libc::write(fd, bytes.as_ptr().cast(), bytes.len());
        let failed = errno();
        libc::close(fd);
        if usize::try_from(written) == Ok(bytes.len()) { Ok(()) } else { Err(Failure { step, errno: failed }) }
    }
}
