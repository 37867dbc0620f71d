//! Who may speak at the operator's socket: root, whoever the set belongs to, and members of one group, where there is one.
//!
//! The peer is hostile until it is let in. The kernel alone says who it is, as it was when it connected: uid and gid by
//! `SO_PEERCRED`, supplementary groups by `SO_PEERGROUPS` (unix(7), socket(7)). It does not protect against a member of the
//! group, who is an operator in all but the right to write the configuration.

use crate::attest::observe;
use rustix::fs::{AtFlags, Gid, Mode, chmodat, chownat, fchmod, fchown};
use rustix::io::Errno;
use rustix::net::sockopt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The group that is meant where none is named, by a set that root starts.
pub const DEFAULT_GROUP: &str = "moltbot";
/// Where the numbers of groups are. No directory service is asked: its modules would run in broker, as root.
const GROUPS: &str = "/etc/group";
/// What the kernel calls a group that has no number in this user namespace.
const OVERFLOW: u32 = 65_534;
/// `asm-generic/socket.h`; `libc` does not name it.
const SO_PEERGROUPS: libc::c_int = 59;

/// Somebody at a socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Uid.
    pub uid: u32,
    /// Pid.
    pub pid: u32,
    /// Primary group first, then the others.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Who connected.
    ///
    /// # Errors
    /// What the kernel says; a kernel before Linux 4.13 knows no groups of a peer.
    pub fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let peer = sockopt::socket_peercred(socket)?;
        let mut all = vec![peer.gid.as_raw()];
        all.extend(groups(socket)?);
        Ok(Self { uid: peer.uid.as_raw(), pid: peer.pid.as_raw_nonzero().get().unsigned_abs(), groups: all })
    }

    /// True for root, the owner and members of the group.
    #[must_use]
    pub fn is_operator(&self, owner: u32, group: Option<u32>) -> bool {
        self.uid == 0 || self.uid == owner || group.is_some_and(|group| self.groups.contains(&group))
    }
}

/// Somebody who was turned away.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stranger {
    /// Uid; [`u32::MAX`] where the kernel does not say.
    pub uid: u32,
    /// Pid; 0 where the kernel does not say.
    pub pid: u32,
    /// Why, and what would let them in; for them and for the log.
    pub why: String,
}

/// Which strangers are recorded: one in each [`QUIET`], with how many came meanwhile, so that nobody can fill the log.
#[derive(Debug, Default)]
pub struct Turnstile(Option<(Instant, u32)>);

/// How long strangers are counted alone after one was recorded.
pub const QUIET: Duration = Duration::from_secs(60);

impl Turnstile {
    /// One more, now: how many came since the last that was recorded, where this one is to be.
    pub fn count(&mut self, now: Instant) -> Option<u32> {
        if let Some((_, others)) = self.0.as_mut().filter(|(since, _)| now.saturating_duration_since(*since) < QUIET) {
            *others = others.saturating_add(1);
            return None;
        }
        Some(self.0.replace((now, 0)).map_or(0, |(_, others)| others))
    }
}

/// Lets an operator in who is no child of this process.
///
/// # Errors
/// Who was turned away, and why.
pub fn admit(socket: BorrowedFd<'_>, owner: u32, group: Option<u32>) -> Result<Peer, Stranger> {
    let peer = Peer::of(socket).map_err(|error| Stranger { uid: u32::MAX, pid: 0, why: error.to_string() })?;
    let turned_away = |why: String| Stranger { uid: peer.uid, pid: peer.pid, why };
    if !peer.is_operator(owner, group) {
        let way = group.map_or_else(
            || "; `operator.group` of moltbot.json would name a group whose members may".to_owned(),
            |gid| {
                format!(
                    ", and for members of the group {gid}: `usermod -aG {gid} NAME` makes one, from their next login on"
                )
            },
        );
        return Err(turned_away(format!("the operator socket is for uid {owner} and root{way}")));
    }
    // With one uid for all a fallen sandboxd has the operator's, and below Landlock ABI 9 the socket's path is no wall.
    if observe(peer.pid).is_ok_and(|seen| seen.parent == std::process::id()) {
        return Err(turned_away("the operator socket is for no child of this broker".to_owned()));
    }
    Ok(peer)
}

/// Supplementary groups of whoever connected.
fn groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    const WIDTH: usize = size_of::<u32>();
    let mut groups = vec![0u32; 64];
    loop {
        let room = groups.len() * WIDTH;
        let mut length = libc::socklen_t::try_from(room).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of the buffer, and `length` itself; both
        // outlive the call, and every bit pattern is a u32.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let error = io::Error::last_os_error();
        let count = usize::try_from(length).map_err(io::Error::other)? / WIDTH;
        match done {
            0 => {
                groups.truncate(count);
                return Ok(groups);
            }
            // It says how many there are; a process has 65,536 at most, and they do not change any more.
            _ if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => groups.resize(count, 0),
            _ => return Err(error),
        }
    }
}

/// The number of the operators' group: of the one that is named, of `moltbot` where root starts the set and none is named.
///
/// # Errors
/// A named group that is not there, or that nobody may be let in by.
pub fn group(named: &str) -> Result<Option<u32>, String> {
    let known = std::fs::read_to_string(GROUPS).map_err(|error| format!("{GROUPS}: {error}"));
    if named.is_empty() {
        let root = rustix::process::geteuid().is_root();
        return Ok(known
            .ok()
            .filter(|_| root)
            .and_then(|text| number(&text, DEFAULT_GROUP))
            .filter(|gid| usable(*gid)));
    }
    let gid = match named.parse() {
        Ok(gid) => gid,
        Err(_) => number(&known?, named).ok_or_else(|| {
            format!("there is no group {named} in {GROUPS}; `groupadd --system {named}` makes it, or say its number")
        })?,
    };
    if usable(gid) { Ok(Some(gid)) } else { Err(format!("the group {named} ({gid}) is one that anybody may be in")) }
}

/// Neither root's, in which services are, nor the one that everybody unknown seems to be in.
const fn usable(gid: u32) -> bool {
    gid != 0 && gid != OVERFLOW && gid != u32::MAX
}

/// group(5)
fn number(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut parts = line.split(':');
        let found = parts.next() == Some(name);
        parts.nth(1).filter(|_| found)?.parse().ok()
    })
}

/// Makes the way to the socket `name` in `run`, which lies in `root`: for its owner alone, or for the group as well. Those of
/// the group may then go through both directories, and neither list them nor read a file.
///
/// # Errors
/// What the kernel says; that the owner is no member of the group himself.
pub fn open_way(root: BorrowedFd<'_>, run: BorrowedFd<'_>, name: &str, group: Option<u32>) -> Result<(), String> {
    let owners = Mode::RUSR | Mode::WUSR;
    let failed = |errno: Errno| match errno {
        Errno::PERM => "you are no member of that group yourself".to_owned(),
        other => format!("the way to {name}: {other}"),
    };
    let open = || {
        let Some(gid) = group.map(Gid::from_raw) else { return chmodat(run, name, owners, AtFlags::empty()) };
        chownat(run, name, None, Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        chmodat(run, name, owners | Mode::RGRP | Mode::WGRP, AtFlags::empty())?;
        for directory in [run, root] {
            fchown(directory, None, Some(gid))?;
            fchmod(directory, Mode::RWXU | Mode::XGRP)?;
        }
        Ok(())
    };
    open().map_err(failed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn strangers_are_recorded_once_a_minute_and_none_is_forgotten() {
        let (mut turnstile, start) = (Turnstile::default(), Instant::now());
        assert_eq!(turnstile.count(start), Some(0));
        assert!((1..60).all(|second| turnstile.count(start + Duration::from_secs(second)).is_none()));
        assert_eq!(turnstile.count(start + QUIET), Some(59));
        assert_eq!(turnstile.count(start + QUIET * 2), Some(0));
    }

    #[test]
    fn peer_is_who_the_kernel_says() {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::of(here.as_fd()).unwrap();
        let own = rustix::process::getgroups().unwrap();
        let mut expected = vec![rustix::process::getegid().as_raw()];
        expected.extend(own.iter().map(|gid| gid.as_raw()));
        let sorted = |mut all: Vec<u32>| {
            all.sort_unstable();
            all
        };
        assert_eq!((peer.uid, peer.pid), (rustix::process::geteuid().as_raw(), std::process::id()));
        assert_eq!(sorted(peer.groups), sorted(expected));
    }

    #[test]
    fn operator_is_root_the_owner_or_of_the_group_and_nobody_else() {
        let peer = |uid, groups: &[u32]| Peer { uid, pid: 1, groups: groups.to_vec() };
        for (peer, group, expected) in [
            (peer(0, &[0]), None, true),
            (peer(7, &[7]), None, true),
            (peer(8, &[8]), None, false),
            (peer(8, &[8, 70]), None, false),
            (peer(8, &[70]), Some(70), true),
            (peer(8, &[8, 9, 70]), Some(70), true),
            (peer(8, &[8, 9, 71]), Some(70), false),
            // A number of a uid is none of a group.
            (peer(70, &[8]), Some(70), false),
        ] {
            assert_eq!(peer.is_operator(7, group), expected, "{peer:?} {group:?}");
        }
    }

    #[test]
    fn groups_number_is_that_of_its_whole_name() {
        let text = "root:x:0:\nmoltbot-x:x:5:\nmoltbot:x:970:ann,bob\nbad:x\n";
        assert_eq!(number(text, "moltbot"), Some(970));
        assert_eq!([number(text, "moltb"), number(text, "bad"), number(text, "x"), number(text, "")], [None; 4]);
    }

    #[test]
    fn group_that_everybody_may_be_in_is_refused() {
        for named in ["0", "65534", "4294967295", "root", "no-such-group-here"] {
            assert!(group(named).is_err(), "{named}");
        }
        assert_eq!(group("970"), Ok(Some(970)));
    }
}
