//! Capabilities, identities and dumpability. Raw system calls, because the same steps run between fork and exec, where
//! only async-signal-safe calls may be made.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use std::sync::OnceLock;

/// `_LINUX_CAPABILITY_VERSION_3`, linux/capability.h.
const VERSION_3: u32 = 0x2008_0522;
/// Highest capability number that may exist (64 bits of sets).
const LAST_POSSIBLE: u64 = 63;

/// CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP: all that broker keeps of root.
pub const BROKER_CAPS: u64 = (1 << 5) | (1 << 6) | (1 << 7) | (1 << 8);

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

pub(crate) fn check(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 { Err(Errno::last()) } else { Ok(()) }
}

/// `prctl` with plain numbers.
pub(crate) fn prctl(option: i32, value: u64) -> Result<(), Errno> {
    // SAFETY: every option used here takes integers only; no pointer is passed.
    check(libc::c_long::from(unsafe { libc::prctl(option, value, 0u64, 0u64, 0u64) }))
}

/// No core dump, no ptrace by the same uid, /proc/self owned by root.
///
/// # Errors
/// What `prctl(2)` says.
pub fn forbid_dumps() -> Result<(), Errno> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Makes a write past `RLIMIT_FSIZE` (an operator's `ulimit -f`) return `EFBIG`, which is refused like a full disk,
/// where the signal would kill.
///
/// # Errors
/// What `sigprocmask(2)` says.
pub fn answer_file_size_limit_with_errno() -> Result<(), Errno> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    set.thread_block()
}

/// Names the process in `ps -e`; executed by descriptor it would bear the descriptor's number.
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = std::ffi::CString::new(format!("moltbot-{name}")) {
        // SAFETY: PR_SET_NAME reads a C string of which it takes 15 bytes.
        let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0u64, 0u64, 0u64) };
    }
}

/// Sets permitted, effective and inheritable to `caps`.
#[expect(clippy::cast_possible_truncation, reason = "a 64-bit set is stored as two 32-bit words")]
pub(crate) fn set_capabilities(caps: u64) -> Result<(), Errno> {
    let header = CapHeader { version: VERSION_3, pid: 0 };
    let word = |bits: u32| CapData { effective: bits, permitted: bits, inheritable: bits };
    let data = [word(caps as u32), word((caps >> 32) as u32)];
    // SAFETY: both structures have the layout of linux/capability.h version 3 and live across the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) })
}

/// The bounding set of this process, read once: it only ever shrinks, and to drop what is gone already does no harm.
pub(crate) fn bounding_set() -> u64 {
    static SET: OnceLock<u64> = OnceLock::new();
    *SET.get_or_init(|| {
        // SAFETY: PR_CAPBSET_READ takes an integer.
        let read = |cap: u64| unsafe { libc::prctl(libc::PR_CAPBSET_READ, cap, 0u64, 0u64, 0u64) };
        let held = (0..=LAST_POSSIBLE).map(|cap| (cap, read(cap))).take_while(|(_, held)| *held >= 0);
        held.filter(|(_, held)| *held == 1).fold(0, |set, (cap, _)| set | (1 << cap))
    })
}

/// Takes `caps` out of the bounding set; stops at the first number the kernel does not know.
pub(crate) fn drop_bounding(caps: u64) -> Result<(), Errno> {
    for cap in (0..=LAST_POSSIBLE).filter(|cap| caps & (1 << cap) != 0) {
        match prctl(libc::PR_CAPBSET_DROP, cap) {
            Ok(()) => {}
            Err(Errno::EINVAL) if cap > 0 => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Takes the identity for good: no groups, one uid and gid in all places.
pub(crate) fn set_identity(uid: u32, gid: u32) -> Result<(), Errno> {
    // SAFETY: a null list of length 0 is what setgroups takes for "none"; the others take integers.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<libc::gid_t>()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
    }
}

/// Root becomes broker's uid and keeps [`BROKER_CAPS`] and nothing else, as ambient capabilities; the bounding set holds no
/// more either.
///
/// # Errors
/// What the kernel says of the first step that fails.
pub fn become_broker(uid: u32, gid: u32) -> Result<(), Errno> {
    drop_bounding(!BROKER_CAPS)?;
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    set_identity(uid, gid)?;
    set_capabilities(BROKER_CAPS)?;
    for cap in (0..LAST_POSSIBLE).filter(|cap| BROKER_CAPS & (1 << cap) != 0) {
        // SAFETY: PR_CAP_AMBIENT_RAISE takes integers only.
        check(libc::c_long::from(unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, cap, 0u64, 0u64)
        }))?;
    }
    Ok(())
}
