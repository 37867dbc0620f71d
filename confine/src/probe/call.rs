//! System calls by number, and what their results mean for a probe.

use proto::probe::Outcome;
use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd};

/// One argument. Made from integers and from references alone, so that a pointer handed to the kernel is alive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word(u64);

macro_rules! word_from_signed {
    ($($kind:ty),*) => { $(impl From<$kind> for Word {
        fn from(value: $kind) -> Self {
            Self(i64::from(value).cast_unsigned())
        }
    })* };
}
word_from_signed!(i32, i64, u32, u16);

impl From<u64> for Word {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl From<&CStr> for Word {
    fn from(value: &CStr) -> Self {
        Self(value.as_ptr().expose_provenance() as u64)
    }
}

/// The address of something that the kernel reads, or overwrites with a value of the same type.
pub(super) fn at<T>(value: &mut T) -> Word {
    Word((&raw mut *value).expose_provenance() as u64)
}

/// Arguments of a call.
macro_rules! words {
    ($($word:expr),* $(,)?) => { &[$($crate::probe::call::Word::from($word)),*] };
}
pub(super) use words;

/// A system call. Each caller is in this module's parent and passes, for every pointer that the call takes, the address of
/// something that is as long as the call expects.
pub(super) fn call(nr: i64, words: &[Word]) -> Result<i64, u16> {
    let word = |at: usize| words.get(at).map_or(0, |word| word.0);
    // SAFETY: pointers come from live references of the right size (above); every call that would change the process
    // beneath the compiler's feet (vfork, unmapping) is made elsewhere, in assembly.
    let result = unsafe { libc::syscall(nr, word(0), word(1), word(2), word(3), word(4), word(5)) };
    if result == -1 { Err(errno()) } else { Ok(result) }
}

pub(super) fn errno() -> u16 {
    nix::errno::Errno::last_raw().unsigned_abs().try_into().unwrap_or(u16::MAX)
}

/// A call that yields a descriptor.
pub(super) fn descriptor(nr: i64, words: &[Word]) -> Result<OwnedFd, u16> {
    let raw = i32::try_from(call(nr, words)?).unwrap_or(-1);
    // SAFETY: the kernel has just made this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What a result says; `behind` are the errnos that come from behind every permission check.
pub(super) fn judge<T>(result: Result<T, u16>, behind: &[i32]) -> Outcome {
    match result {
        Ok(_) => Outcome::Allowed,
        Err(errno) if behind.contains(&i32::from(errno)) => Outcome::Allowed,
        Err(errno) => Outcome::Denied(errno),
    }
}

/// A call and its meaning.
pub(super) fn attempt(nr: i64, words: &[Word], behind: &[i32]) -> Outcome {
    judge(call(nr, words), behind)
}
