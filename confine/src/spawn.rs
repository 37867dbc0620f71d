//! Broker's recipe for a child: descriptors, identity, capabilities, and only then exec.
//!
//! Broker sleeps until the child has become another program or ended (`CLONE_VFORK`), and a child with a uid of its own runs
//! the recipe in broker's memory (`CLONE_VM`), as posix_spawn does it: nothing of broker is copied for a moment's use. So the
//! recipe makes system calls alone, allocates nothing, and writes nowhere but to its own stack and the word for its error.
//! A child of broker's uid makes itself dumpable for a moment, which is a property of memory, and so gets a copy of it.

use crate::privileges::{bounding_set, check, drop_bounding, prctl, set_capabilities, set_identity};
use crate::startup::CONTROL_FD;
use nix::errno::Errno;
use std::ffi::{CString, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// Bytes of the recipe's stack; it uses a few hundred.
const STACK: usize = 64 << 10;
/// What the recipe ends with where a step failed; nobody sees it but the wait that follows.
const FAILED: c_int = 127;

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

/// What the recipe needs, made before it runs.
struct Recipe<'s> {
    exe: RawFd,
    control: RawFd,
    log: RawFd,
    argv: [*const libc::c_char; 2],
    identity: Identity,
    /// Lines for uid_map and gid_map, for [`Identity::Same`].
    maps: [String; 2],
    /// Capabilities that the bounding set may hold.
    bounding: u64,
    parent: u32,
    /// errno of the step that failed.
    error: &'s AtomicI32,
}

/// Starts the program open as `exe`, named `argv0`, with `control` at descriptor 3, `log` at 2, nothing else, and an empty environment.
///
/// The caller must be single-threaded (the parent-death signal is bound to the thread that forks) and must keep its own
/// descriptor 3 occupied ([`reserve_control_fd`]), so that nothing else lies where the control channel goes.
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
    let name = CString::new(argv0)?;
    let error = SharedWord::new()?;
    let (maps, bounding, memory) = match identity {
        Identity::Own { .. } => ([String::new(), String::new()], bounding_set(), libc::CLONE_VM),
        // A namespace of one's own begins with all there are.
        Identity::Same { uid, gid } => ([format!("{uid} {uid} 1"), format!("{gid} {gid} 1")], u64::MAX, 0),
    };
    let recipe = Recipe {
        exe: exe.as_raw_fd(),
        control: control.as_raw_fd(),
        log: log.as_raw_fd(),
        argv: [name.as_ptr(), std::ptr::null()],
        identity,
        maps,
        bounding,
        parent: std::process::id(),
        error: error.get(),
    };
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = memory | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack grows down from its end, which is aligned; `recipe`, its strings and the stack outlive the child's use
    // of them, because this thread goes on only once the child has left this memory.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        libc::clone(child, top, flags, (&raw const recipe).cast_mut().cast::<c_void>(), &raw mut pidfd)
    };
    let pid = u32::try_from(pid).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: CLONE_PIDFD stored a new descriptor there, which nothing else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match error.get().load(Ordering::Relaxed) {
        0 => Ok(Spawned { pid, pidfd }),
        errno => {
            reap(&pidfd);
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

/// A word that parent and child share, whether or not they share the rest of their memory.
struct SharedWord(*mut c_void);

impl SharedWord {
    fn new() -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping where the kernel likes it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<AtomicI32>(), access, kind, -1, 0) };
        if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(at)) }
    }

    fn get(&self) -> &AtomicI32 {
        // SAFETY: the mapping is zeroed, aligned to a page, writable, and lives as long as `self`.
        unsafe { &*self.0.cast_const().cast::<AtomicI32>() }
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.0, size_of::<AtomicI32>()) };
    }
}

/// Waits for a child whose recipe failed: it is ending.
fn reap(pidfd: &OwnedFd) {
    let id = libc::id_t::from(pidfd.as_raw_fd().unsigned_abs());
    // SAFETY: no result is asked for; the descriptor is a pidfd of a child.
    while unsafe { libc::waitid(libc::P_PIDFD, id, std::ptr::null_mut(), libc::WEXITED) } < 0
        && Errno::last() == Errno::EINTR
    {}
}

extern "C" fn child(recipe: *mut c_void) -> c_int {
    // SAFETY: `spawn` passes its recipe, which lives as long as this runs.
    let recipe = unsafe { &*recipe.cast_const().cast::<Recipe<'_>>() };
    let errno = match follow(recipe) {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    recipe.error.store(errno as i32, Ordering::Relaxed);
    FAILED
}

fn follow(recipe: &Recipe) -> Result<std::convert::Infallible, Errno> {
    signals()?;
    descriptors(recipe)?;
    // SAFETY: no pointers but a constant string; both fail without harm.
    unsafe {
        check(libc::c_long::from(libc::setsid()))?;
        check(libc::c_long::from(libc::chdir(c"/".as_ptr())))?;
        libc::umask(0o077);
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64)?;
    match recipe.identity {
        Identity::Own { uid, gid } => {
            drop_bounding(recipe.bounding)?;
            set_identity(uid, gid)?;
        }
        Identity::Same { .. } => {
            let [uids, gids] = &recipe.maps;
            if own_namespace(uids.as_bytes(), gids.as_bytes()).is_ok() {
                drop_bounding(recipe.bounding)?;
            }
        }
    }
    set_capabilities(0)?;
    // After setresuid, which clears it; and then the parent may be gone already.
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs().into())?;
    // SAFETY: getppid has no arguments and cannot fail.
    if unsafe { libc::getppid() }.unsigned_abs() != recipe.parent {
        return Err(Errno::ESRCH);
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    let environment: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: both lists end in null and their strings outlive the call; it returns only where it failed.
    unsafe {
        let (argv, environment) = (recipe.argv.as_ptr(), environment.as_ptr());
        libc::syscall(libc::SYS_execveat, recipe.exe, c"".as_ptr(), argv, environment, libc::AT_EMPTY_PATH);
    }
    Err(Errno::last())
}

/// No signal is blocked, as broker blocks those that it reads, and SIGPIPE is not ignored, as Rust ignores it.
fn signals() -> Result<(), Errno> {
    // SAFETY: the action and the set are initialised before they are read.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        check(libc::c_long::from(libc::sigaction(libc::SIGPIPE, &raw const default, std::ptr::null_mut())))?;
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        check(libc::c_long::from(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())))
    }
}

/// 0 and 1 are /dev/null, 2 is the log, 3 is control; everything else closes at exec.
fn descriptors(recipe: &Recipe) -> Result<(), Errno> {
    // SAFETY: integers and a constant string; what is replaced is this process's own table, which is a copy.
    unsafe {
        check(libc::c_long::from(libc::dup2(recipe.log, 2)))?;
        check(libc::c_long::from(libc::dup2(recipe.control, CONTROL_FD)))?;
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        check(libc::c_long::from(null))?;
        check(libc::c_long::from(libc::dup2(null, 0)))?;
        check(libc::c_long::from(libc::dup2(null, 1)))?;
        check(libc::syscall(libc::SYS_close_range, 4u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC))
    }
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
