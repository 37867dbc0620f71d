//! Broker's recipe for a child: descriptors, identity, capabilities, and only then exec. The closure runs between fork
//! and exec, so it makes async-signal-safe calls alone and allocates nothing; it is one closure, to be read as a whole.

use crate::privileges::{drop_bounding, prctl, set_capabilities, set_identity};
use crate::startup::CONTROL_FD;
use nix::errno::Errno;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Who the child shall be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Identity {
    /// Its own numeric uid and gid; broker holds the capabilities for that.
    Own {
        /// uid, four-fold.
        uid: u32,
        /// gid, four-fold; no others.
        gid: u32,
    },
    /// Broker's own. The child enters a user namespace of its own so that it can empty its bounding set; where that is
    /// forbidden the bounding set stays and attestation says so.
    Same {
        /// Broker's uid.
        uid: u32,
        /// Broker's gid.
        gid: u32,
    },
}

/// A started child.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid, not yet reaped and so not reused.
    pub pid: u32,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
}

/// Occupies every free descriptor up to the control channel's, for as long as the result lives.
///
/// # Errors
/// Where /dev/null cannot be opened.
pub fn reserve_control_fd() -> io::Result<Vec<OwnedFd>> {
    let mut taken: Vec<OwnedFd> = Vec::new();
    while taken.last().is_none_or(|fd| fd.as_raw_fd() < CONTROL_FD) {
        taken.push(std::fs::File::open("/dev/null")?.into());
    }
    Ok(taken)
}

/// Starts the program open as `exe`, named `argv0`, with `control` at descriptor 3, `log` at 2, nothing else, and an empty environment.
///
/// The caller must be single-threaded (the parent-death signal is bound to the thread that forks) and must keep its own
/// descriptor 3 occupied ([`reserve_control_fd`]), so that nothing of std's lies where the control channel goes.
///
/// The program is executed by descriptor: its path may lie where the child's uid cannot go, and what was checked at start
/// is what runs after a restart.
///
/// # Errors
/// What the first failing step of the recipe, or exec, says.
pub fn spawn(
    exe: BorrowedFd<'_>,
    argv0: &str,
    control: BorrowedFd<'_>,
    log: OwnedFd,
    identity: Identity,
) -> io::Result<Spawned> {
    let control = control.as_raw_fd();
    let parent = std::process::id();
    let maps = match identity {
        Identity::Same { uid, gid } => Some((format!("{uid} {uid} 1"), format!("{gid} {gid} 1"))),
        Identity::Own { .. } => None,
    };
    let exe = exe.as_raw_fd();
    let name = CString::new(argv0)?;
    // std's own exec is never reached: the recipe ends in execveat.
    let mut command = Command::new("/nonexistent");
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(log));
    let recipe = move || -> io::Result<()> {
        // SAFETY: plain system calls with integers, on descriptors of this process, in the single-threaded child.
        unsafe {
            if libc::dup2(control, CONTROL_FD) < 0
                || libc::syscall(libc::SYS_close_range, 4u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) < 0
                || libc::setsid() < 0
            {
                return Err(Errno::last().into());
            }
            libc::umask(0o077);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            prctl_ambient_clear()?;
        }
        match (identity, &maps) {
            (Identity::Own { uid, gid }, _) => {
                drop_bounding()?;
                set_identity(uid, gid)?;
            }
            (Identity::Same { .. }, Some((uids, gids))) => {
                if own_namespace(uids.as_bytes(), gids.as_bytes()).is_ok() {
                    drop_bounding()?;
                }
            }
            (Identity::Same { .. }, None) => {}
        }
        set_capabilities(0)?;
        // After setresuid, which clears it; and then the parent may be gone already.
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into())?;
        // SAFETY: getppid has no arguments and cannot fail.
        if unsafe { libc::getppid() }.unsigned_abs() != parent {
            return Err(Errno::ESRCH.into());
        }
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
        let argv = [name.as_ptr(), std::ptr::null()];
        let environment: [*const libc::c_char; 1] = [std::ptr::null()];
        // SAFETY: both lists end in null and their strings outlive the call; it returns only where it failed.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                exe,
                c"".as_ptr(),
                argv.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        Err(Errno::last().into())
    };
    // SAFETY: `recipe` calls only async-signal-safe functions and does not allocate; its strings were made before the fork.
    unsafe { command.pre_exec(recipe) };
    let child = command.spawn()?;
    let pid = child.id();
    // SAFETY: pidfd_open on a child that nobody has reaped; a non-negative result is a new descriptor of ours.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0u32) };
    let raw = i32::try_from(raw).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: as above; nothing else owns it.
    Ok(Spawned { pid, pidfd: unsafe { OwnedFd::from_raw_fd(raw) } })
}

fn prctl_ambient_clear() -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64)
}

/// A user namespace that maps the caller to itself. Dumpable for the moment that /proc/self/uid_map must be ours.
fn own_namespace(uids: &[u8], gids: &[u8]) -> Result<(), Errno> {
    // SAFETY: integers only.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER) } < 0 {
        return Err(Errno::last());
    }
    prctl(libc::PR_SET_DUMPABLE, 1)?;
    put(c"/proc/self/setgroups", b"deny")?;
    put(c"/proc/self/uid_map", uids)?;
    put(c"/proc/self/gid_map", gids)?;
    prctl(libc::PR_SET_DUMPABLE, 0)
}

fn put(path: &std::ffi::CStr, text: &[u8]) -> Result<(), Errno> {
    // SAFETY: the path is a C string, the buffer is valid for its length, the descriptor is closed once.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return Err(Errno::last());
        }
        let wrote = libc::write(fd, text.as_ptr().cast(), text.len());
        let errno = Errno::last();
        libc::close(fd);
        if wrote < 0 { Err(errno) } else { Ok(()) }
    }
}
