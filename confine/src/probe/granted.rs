//! The directory that a role was given: what else could be done with it than the role's work.

use super::call::{attempt, call, descriptor, held_directory, judge, words};
use super::files::entries;
use super::{Exception, LAUNCHER_FILES, LAUNCHES, Outcome, Probe, World, except, path, scratch};
use proto::ids::Role;
use std::ffi::{CStr, CString};

const STORES: &[Exception] = &[
    except(Role::Vault, "the next store takes the place of the last, in a directory of its own"),
    except(Role::Launcher, "it makes and removes workspaces"),
];

pub(super) static PROBES: &[Probe] = &[
    Probe::new("granted_list", |_| within(entries)).except(LAUNCHES),
    Probe::new("granted_leave", |_| within(|dir| openat(dir, c"../moltbot.json", libc::O_RDONLY)))
        .except(LAUNCHER_FILES),
    Probe::new("granted_leave_new", |_| within(leave)).except(LAUNCHER_FILES).matrix_only(),
    Probe::new("granted_reopen", |_| within(reopen)).except(LAUNCHES),
    Probe::new("granted_truncate", |_| made(|dir, name| openat(dir, name, libc::O_WRONLY | libc::O_TRUNC)))
        .except(LAUNCHES)
        .matrix_only(),
    Probe::new("granted_overwrite", |_| made(|dir, name| openat(dir, name, libc::O_WRONLY)))
        .except(LAUNCHES)
        .matrix_only(),
    Probe::new("granted_unlink", |_| made(|dir, name| attempt(libc::SYS_unlinkat, words![dir, name, 0], &[])))
        .except(STORES)
        .matrix_only(),
    Probe::new("granted_rename", |_| made(rename)).except(STORES).matrix_only(),
    Probe::new("granted_exchange", |_| made(exchange)).except(LAUNCHES).matrix_only(),
    Probe::new("granted_link", |_| made(link)).except(LAUNCHES).matrix_only(),
    Probe::new("granted_chmod", |_| made(|dir, name| attempt(libc::SYS_fchmodat, words![dir, name, 0o600], &[])))
        .except(LAUNCHES)
        .matrix_only(),
    Probe::new("granted_mkdir", |_| within(mkdir)).except(LAUNCHES).matrix_only(),
    Probe::new("granted_symlink", |_| within(symlink)).except(LAUNCHES).matrix_only(),
    Probe::new("session_overwrite", |world| session(world, libc::O_WRONLY)).except(LAUNCHER_FILES),
    Probe::new("session_truncate", |world| session(world, libc::O_WRONLY | libc::O_TRUNC))
        .except(LAUNCHER_FILES)
        .matrix_only(),
];

fn within(attempt: impl FnOnce(i32) -> Outcome) -> Outcome {
    held_directory().map_or(Outcome::Absent, attempt)
}

/// In the granted directory, on a file that the process made there itself.
fn made(attempt: impl FnOnce(i32, &CStr) -> Outcome) -> Outcome {
    within(|dir| {
        let name = path(&scratch());
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
        drop(descriptor(libc::SYS_openat, words![dir, name.as_c_str(), flags, 0o600]));
        let outcome = attempt(dir, &name);
        if outcome == Outcome::Allowed {
            let _ = call(libc::SYS_unlinkat, words![dir, name.as_c_str(), 0]);
        }
        outcome
    })
}

fn openat(dir: i32, name: &CStr, flags: i32) -> Outcome {
    judge(descriptor(libc::SYS_openat, words![dir, name, flags | libc::O_CLOEXEC, 0o600]), &[])
}

/// A new file beside the granted directory.
fn leave(dir: i32) -> Outcome {
    let name = path(&format!("../{}", scratch()));
    let outcome = openat(dir, &name, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_unlinkat, words![dir, name.as_c_str(), 0]);
    }
    outcome
}

/// The directory once more, by way of /proc, which forgets how it was granted.
fn reopen(dir: i32) -> Outcome {
    super::files::open(&path(&format!("/proc/self/fd/{dir}")), libc::O_RDONLY | libc::O_DIRECTORY)
}

fn second() -> CString {
    path(&format!("{}.2", scratch()))
}

fn rename(dir: i32, name: &CStr) -> Outcome {
    let second = second();
    let outcome = attempt(libc::SYS_renameat, words![dir, name, dir, second.as_c_str()], &[]);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_unlinkat, words![dir, second.as_c_str(), 0]);
    }
    outcome
}

fn exchange(dir: i32, name: &CStr) -> Outcome {
    attempt(libc::SYS_renameat2, words![dir, name, dir, name, libc::RENAME_EXCHANGE], &[])
}

fn link(dir: i32, name: &CStr) -> Outcome {
    let second = second();
    let outcome = attempt(libc::SYS_linkat, words![dir, name, dir, second.as_c_str(), 0], &[]);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_unlinkat, words![dir, second.as_c_str(), 0]);
    }
    outcome
}

fn mkdir(dir: i32) -> Outcome {
    let name = second();
    let outcome = attempt(libc::SYS_mkdirat, words![dir, name.as_c_str(), 0o700], &[]);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_unlinkat, words![dir, name.as_c_str(), libc::AT_REMOVEDIR]);
    }
    outcome
}

fn symlink(dir: i32) -> Outcome {
    let name = second();
    let outcome = attempt(libc::SYS_symlinkat, words![c"/etc/passwd", dir, name.as_c_str()], &[]);
    if outcome == Outcome::Allowed {
        let _ = call(libc::SYS_unlinkat, words![dir, name.as_c_str(), 0]);
    }
    outcome
}

/// Another session's transcript; gateway finds it in the directory that it holds, the others by its path.
fn session(world: &World, flags: i32) -> Outcome {
    match held_directory() {
        Some(dir) if openat(dir, c"bait.jsonl", libc::O_RDONLY) == Outcome::Allowed => {
            openat(dir, c"bait.jsonl", flags)
        }
        _ => super::files::open(&world.state("sessions/bait.jsonl"), flags),
    }
}
