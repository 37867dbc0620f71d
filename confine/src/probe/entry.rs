//! Other ways into the kernel than the one that the filters' numbers are written for.

use super::call::attempt;
use super::{Exception, Outcome, Probe, World, except};
use proto::ids::Role;

const UNKNOWN: &[Exception] =
    &[except(Role::Launcher, "its filter lists what is forbidden; the kernel has no such call")];

pub(super) static PROBES: &[Probe] = &[
    #[cfg(target_arch = "x86_64")]
    Probe::new("x32_getpid", x32).lacking(&[(libc::ENOSYS, "kernel without the x32 ABI")]),
    #[cfg(target_arch = "x86_64")]
    Probe::new("int80_getpid", int80).nobody().lacking(&[(libc::ENOSYS, "kernel without 32-bit emulation")]),
    Probe::new("unknown_call", unknown).except(UNKNOWN),
];

/// getpid by its x32 number: bit 30 set.
#[cfg(target_arch = "x86_64")]
fn x32(_: &World) -> Outcome {
    attempt(libc::SYS_getpid | 0x4000_0000, &[], &[])
}

/// getpid of the 32-bit table, which has other numbers: 20 is writev here.
#[cfg(target_arch = "x86_64")]
fn int80(_: &World) -> Outcome {
    let result: i32;
    // SAFETY: getpid takes no arguments and touches no memory; the registers that the entry may clobber are named.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("eax") 20i32 => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            options(nostack),
        );
    }
    if result > 0 { Outcome::Allowed } else { Outcome::Denied(result.unsigned_abs().try_into().unwrap_or(u16::MAX)) }
}

/// A number that no kernel has.
fn unknown(_: &World) -> Outcome {
    attempt(9_999, &[], &[libc::ENOSYS])
}
