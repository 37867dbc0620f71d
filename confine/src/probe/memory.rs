//! Memory that could hold a program, or that others could see.

use super::call::{at, attempt, call, descriptor, words};
use super::{EVERYBODY, LAUNCHES, Outcome, Probe, World};
use std::os::fd::AsRawFd;

const RWX: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

pub(super) static PROBES: &[Probe] = &[
    Probe::new("mmap_own", |_| map(libc::PROT_READ | libc::PROT_WRITE, ANONYMOUS)).except(EVERYBODY),
    Probe::new("mmap_rwx", |_| map(RWX, ANONYMOUS)).except(LAUNCHES),
    Probe::new("mmap_exec", |_| map(libc::PROT_READ | libc::PROT_EXEC, ANONYMOUS)).except(LAUNCHES),
    Probe::new("mmap_shared", |_| map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS))
        .except(LAUNCHES),
    Probe::new("mprotect_exec", |_| protect(libc::SYS_mprotect)).except(LAUNCHES),
    Probe::new("pkey_mprotect_exec", |_| protect(libc::SYS_pkey_mprotect)).except(LAUNCHES),
    Probe::new("memfd_create", |_| attempt(libc::SYS_memfd_create, words![c"probe", libc::MFD_CLOEXEC], &[]))
        .except(LAUNCHES),
    Probe::new("memfd_exec", memfd_exec).except(LAUNCHES),
    Probe::new("memfd_secret", |_| attempt(libc::SYS_memfd_secret, words![0], &[]))
        .lacking(&[(libc::ENOSYS, "kernel without secret memory")]),
    Probe::new("shmget", |_| attempt(libc::SYS_shmget, words![0x6d6f_6c74, 4096, 0], &[libc::ENOENT])).except(LAUNCHES),
    Probe::new("userfaultfd", |_| attempt(libc::SYS_userfaultfd, words![libc::O_CLOEXEC | 1], &[]))
        .nobody()
        .lacking(&[(libc::ENOSYS, "kernel without userfaultfd")]),
    Probe::new("remap_file_pages", |_| attempt(libc::SYS_remap_file_pages, words![0, 0, 0, 0, 0], &[libc::EINVAL]))
        .except(LAUNCHES),
];

fn map(protection: i32, flags: i32) -> Outcome {
    // The page stays until the process ends, soon.
    attempt(libc::SYS_mmap, words![0, 4096, protection, flags, -1, 0], &[])
}

fn protect(nr: i64) -> Outcome {
    match call(libc::SYS_mmap, words![0, 4096, libc::PROT_READ, ANONYMOUS, -1, 0]) {
        Ok(page) => attempt(nr, words![page, 4096, libc::PROT_READ | libc::PROT_EXEC, -1], &[]),
        Err(errno) => Outcome::Denied(errno),
    }
}

/// The smallest program of this machine that ends with 0: an ELF header, one segment, `exit(0)`.
#[cfg(target_arch = "x86_64")]
const PROGRAM: [u8; 129] = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\
    \x02\0\x3e\0\x01\0\0\0\x78\0\x40\0\0\0\0\0\x40\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
        \0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\
        \x01\0\0\0\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\x40\0\0\0\0\0\0\0\x40\0\0\0\0\0\
        \x81\0\0\0\0\0\0\0\x81\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\
        \x31\xff\xb8\x3c\0\0\0\x0f\x05";

#[cfg(not(target_arch = "x86_64"))]
const PROGRAM: [u8; 0] = [];

/// A program that is in no file. Where it runs, it is what the process becomes.
fn memfd_exec(_: &World) -> Outcome {
    let file = match descriptor(libc::SYS_memfd_create, words![c"probe", libc::MFD_CLOEXEC]) {
        Ok(file) => file,
        Err(errno) => return Outcome::Denied(errno),
    };
    let mut program = PROGRAM;
    let words = words![file.as_raw_fd(), at(&mut program), size_of_val(&program) as u64];
    if let Err(errno) = call(libc::SYS_write, words) {
        return Outcome::Denied(errno);
    }
    let mut none = 0u64;
    let words = words![file.as_raw_fd(), c"", at(&mut none), at(&mut none), libc::AT_EMPTY_PATH];
    attempt(libc::SYS_execveat, words, &[])
}
