//! What a process holds, found while it may still look: behind its wall most roles may not even ask for a descriptor's
//! flags, and an attempt that ends over the looking shows nothing about the attempt.

use super::call::{call, words};
use proto::ids::Role;

/// The descriptors that a role's attacks on its own goods go through.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Whose they are.
    pub(super) role: Role,
    /// A directory.
    pub(super) directory: Option<i32>,
    /// A file for appending.
    pub(super) log: Option<i32>,
    /// A listener.
    pub(super) listener: Option<i32>,
}

impl Held {
    /// What this process holds above its control channel, before it raises the wall of this role.
    #[must_use]
    pub fn look(role: Role) -> Self {
        const NO_SOCKET: i32 = libc::O_APPEND | libc::O_DIRECTORY | libc::O_PATH;
        const MODE: i32 = libc::O_ACCMODE | libc::O_NONBLOCK;
        Self {
            role,
            directory: first(|flags| flags & libc::O_DIRECTORY != 0 && flags & libc::O_PATH == 0),
            log: first(|flags| flags & libc::O_APPEND != 0),
            // What is open for reading and writing, does not block, and is no file.
            listener: first(|flags| flags & MODE == libc::O_RDWR | libc::O_NONBLOCK && flags & NO_SOCKET == 0),
        }
    }
}

/// The first descriptor whose status flags `fits` accepts.
fn first(fits: impl Fn(i32) -> bool) -> Option<i32> {
    let flags = |fd: i32| call(libc::SYS_fcntl, words![fd, libc::F_GETFL]).ok().and_then(|flags| flags.try_into().ok());
    (4..64).find(|fd| flags(*fd).is_some_and(&fits))
}
