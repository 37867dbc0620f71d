//! The directory that a role was given: what else could be done with it than the role's work.

use super::call::{attempt, call, descriptor, judge, words};
use super::files::{APPEND, NEW, NEW_LOG, READ, entries};
use super::{Exception, Held, LAUNCHER_FILE, LAUNCHER_FILES, LAUNCHES, Outcome, Probe, World, except, path, scratch};
use proto::ids::Role;
use std::ffi::{CStr, CString};

const STORES: &[Exception] = &[
    except(Role::Vault, "the next store takes the place of the last, in a directory of its own"),
    except(Role::Launcher, MAKES),
];

const NEW_STORE: &[Exception] =
    &[except(Role::Vault, "the next store, in a directory of its own"), except(Role::Launcher, MAKES)];
const NEW_STREAM: &[Exception] = &[
    except(Role::Auditd, "the next file of a stream; it can be appended to alone"),
    except(Role::Vault, "the next store, in a directory of its own; more than this flag is nothing that it lacks"),
    except(Role::Launcher, MAKES),
];
const NEW_TRANSCRIPT: &[Exception] =
    &[except(Role::Gateway, "a transcript, which can be appended to alone"), except(Role::Launcher, MAKES)];
const TRANSCRIPTS: &[Exception] =
    &[except(Role::Gateway, "transcripts of all sessions are appended to by this one process"), LAUNCHER_FILE];
const READERS: &[Exception] = &[
    except(Role::Auditd, "closed files of a stream are read"),
    except(Role::Gateway, "transcripts are read"),
    except(Role::Launcher, MAKES),
];
const LISTERS: &[Exception] = &[
    except(Role::Sandboxd, "which processes there are: /proc, which shows it to everybody"),
    except(Role::Launcher, MAKES),
];
const MAKES: &str = "it makes and removes workspaces";

pub(super) static PROBES: &[Probe] = &[
    // The roles' own work first: an attempt at more must be seen to fail beside it.
    Probe::new("granted_new", |world| within(world, |dir| openat(dir, &new(), NEW))).except(NEW_STORE).matrix_only(),
    Probe::new("granted_new_log", |world| within(world, |dir| openat(dir, &new(), NEW_LOG)))
        .except(NEW_STREAM)
        .matrix_only(),
    Probe::new("granted_append", |world| within(world, |dir| openat(dir, &new(), APPEND)))
        .except(NEW_TRANSCRIPT)
        .matrix_only(),
    Probe::new("granted_read", |world| made(world, |dir, name| openat(dir, name, READ))).except(READERS).matrix_only(),
    Probe::new("granted_open_itself", |world| within(world, |dir| openat(dir, c".", READ | libc::O_DIRECTORY)))
        .except(LAUNCHES),
    Probe::new("granted_list", |world| within(world, entries)).except(LISTERS),
    Probe::new("granted_leave", |world| within(world, |dir| openat(dir, c"../moltbot.json", READ)))
        .except(LAUNCHER_FILES),
    Probe::new("granted_leave_new", |world| within(world, |dir| leave(dir, NEW))).except(LAUNCHER_FILES).matrix_only(),
    Probe::new("granted_leave_new_log", |world| within(world, |dir| leave(dir, NEW_LOG)))
        .except(LAUNCHER_FILES)
        .matrix_only(),
    Probe::new("granted_leave_append", |world| within(world, |dir| leave(dir, APPEND)))
        .except(LAUNCHER_FILES)
        .matrix_only(),
    Probe::new("granted_reopen", |world| within(world, reopen)).except(LAUNCHES),
    Probe::new("granted_truncate", |world| made(world, |dir, name| openat(dir, name, libc::O_WRONLY | libc::O_TRUNC)))
        .except(LAUNCHES)
        .matrix_only(),
    Probe::new("granted_overwrite", |world| made(world, |dir, name| openat(dir, name, libc::O_WRONLY)))
        .except(LAUNCHES)
        .matrix_only(),
    Probe::new("granted_unlink", |world| {
        made(world, |dir, name| attempt(libc::SYS_unlinkat, words![dir, name, 0], &[]))
    })
    .except(STORES)
    .matrix_only(),
    Probe::new("granted_rename", |world| made(world, rename)).except(STORES).matrix_only(),
    Probe::new("granted_exchange", |world| made(world, exchange)).except(LAUNCHES).matrix_only(),
    Probe::new("granted_link", |world| made(world, link)).except(LAUNCHES).matrix_only(),
    Probe::new("granted_chmod", |world| {
        made(world, |dir, name| attempt(libc::SYS_fchmodat, words![dir, name, 0o600], &[]))
    })
    .except(LAUNCHES)
    .matrix_only(),
    Probe::new("granted_mkdir", |world| within(world, mkdir)).except(LAUNCHES).matrix_only(),
    Probe::new("granted_symlink", |world| within(world, symlink)).except(LAUNCHES).matrix_only(),
    Probe::new("session_overwrite", |world| session(world, libc::O_WRONLY)).except(LAUNCHER_FILES),
    Probe::new("session_append", |world| session(world, APPEND)).except(TRANSCRIPTS).matrix_only(),
    Probe::new("session_truncate", |world| session(world, libc::O_WRONLY | libc::O_TRUNC))
        .except(LAUNCHER_FILES)
        .matrix_only(),
];

fn within(world: &World, attempt: impl FnOnce(i32) -> Outcome) -> Outcome {
    world.held.directory.map_or(Outcome::Absent, attempt)
}

/// In the granted directory, on a file that the process made there itself, as its wall lets it. The file stays: not every
/// role can remove one.
fn made(world: &World, attempt: impl FnOnce(i32, &CStr) -> Outcome) -> Outcome {
    within(world, |dir| {
        let name = path(&scratch());
        let flags = match world.held.role {
            Role::Auditd => NEW_LOG,
            Role::Gateway => APPEND,
            _ => NEW,
        };
        drop(descriptor(libc::SYS_openat, words![dir, name.as_c_str(), flags | libc::O_CLOEXEC, 0o600]));
        attempt(dir, &name)
    })
}

/// The name of a file that is not there yet.
fn new() -> CString {
    path(&format!("{}.new", scratch()))
}

fn openat(dir: i32, name: &CStr, flags: i32) -> Outcome {
    judge(descriptor(libc::SYS_openat, words![dir, name, flags | libc::O_CLOEXEC, 0o600]), &[])
}

/// A new file beside the granted directory.
fn leave(dir: i32, flags: i32) -> Outcome {
    let name = path(&format!("../{}", scratch()));
    let outcome = openat(dir, &name, flags);
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
    match world.held {
        Held { role: Role::Gateway, directory: Some(dir), .. } => openat(dir, c"bait.jsonl", flags),
        _ => super::files::open(&world.state("sessions/bait.jsonl"), flags),
    }
}
