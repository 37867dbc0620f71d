//! What native commands use, seen from outside: memory of all processes of one, growth of its files, and what is left of
//! the file system for everybody. No cgroup and no quota is needed.
//!
//! Hostile: the tree of files and the processes that are looked at. A look follows no link, goes through a bounded part of
//! the tree and stops as soon as it has seen too much. What it cannot see (files without a name, memory in unmapped files)
//! the last line holds: at half of what is to stay free every native command ends. Between two looks a command is free.

use proto::edge::Refusal;
use proto::sandbox::Bounds;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstatvfs, openat, statat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Between two looks at the file system, which cost a system call.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at the processes of the machine, in looks.
pub(super) const PROCESSES: u32 = 5;
/// How long one tree is looked through.
const TREE: Duration = Duration::from_millis(200);
/// Directories in directories that are looked through; deeper ones count as too much.
const DEPTH: usize = 64;
/// A command that used less of what is to stay free is none of those that took it. It times the edge's window is half of
/// it, so those that are spared cannot reach the last line together.
const SHARE: u64 = 64;
/// Memory of the machine, of which all native commands end at once: what is left is needed to end them.
const LAST_MEMORY: u64 = 64 << 20;

/// What is left of a file system.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Free {
    bytes: u64,
    /// [`u64::MAX`] where the file system has no table of them.
    inodes: u64,
}

impl Free {
    pub(super) fn of(directory: &OwnedFd) -> Result<Self, Errno> {
        let found = fstatvfs(directory)?;
        let inodes = if found.f_files == 0 { u64::MAX } else { found.f_favail };
        Ok(Self { bytes: found.f_bavail.saturating_mul(found.f_frsize), inodes })
    }

    /// Which of the two is short, where only `of` parts of what is to stay are to be there.
    const fn short(self, bounds: &Bounds, of: u64) -> Option<&'static str> {
        if self.bytes < bounds.free_space / of {
            Some("freeSpace")
        } else if self.inodes < bounds.free_inodes / of {
            Some("freeInodes")
        } else {
            None
        }
    }
}

fn floor(which: &str, free: Free, bounds: &Bounds, what: &str) -> Refusal {
    let (left, least) = match which {
        "freeSpace" => (format!("{} MiB are", free.bytes >> 20), format!("{} MiB", bounds.free_space >> 20)),
        _ => (format!("room for {} files is", free.inodes), bounds.free_inodes.to_string()),
    };
    let why = format!(
        "{what}: {left} left where the workspaces are, less than agents.defaults.sandbox.native.{which}, {least}; remove files \
there, or set it lower"
    );
    Refusal::new("sandbox.native.floor", &why)
}

/// Whether there is room for a command.
pub(super) fn may_begin(free: Free, bounds: &Bounds) -> Result<(), Refusal> {
    match free.short(bounds, 1) {
        Some(which) => Err(floor(which, free, bounds, "no command begins")),
        None => Ok(()),
    }
}

/// One run's, from its beginning.
pub(super) struct Measure {
    workspace: OwnedFd,
    began: (i64, i64),
    free: Free,
    bounds: Bounds,
    /// Not looked through again before this, where there is still room.
    next: Instant,
}

impl Measure {
    pub(super) fn new(workspace: OwnedFd, free: Free, bounds: Bounds) -> Self {
        // The clock that the file system writes, too.
        let now = clock_gettime(ClockId::RealtimeCoarse);
        Self { workspace, began: (now.tv_sec, now.tv_nsec), free, bounds, next: Instant::now() }
    }

    /// Why it must end, where it must.
    pub(super) fn over(&mut self, free: Free, processes: Option<&Processes>, supervisor: i32) -> Option<Refusal> {
        processes.and_then(|processes| self.memory(processes, supervisor)).or_else(|| self.files(free))
    }

    fn memory(&self, processes: &Processes, supervisor: i32) -> Option<Refusal> {
        let key = "agents.defaults.sandbox.native.memory";
        let held = processes.held_by(supervisor, self.bounds.memory);
        let why = if held > self.bounds.memory {
            let (held, most) = (held >> 20, self.bounds.memory >> 20);
            format!("its processes held {held} MiB together, more than {key}, {most} MiB, so all of them were ended")
        } else if processes.available < LAST_MEMORY {
            format!(
                "the machine's memory ran out, so every native command was ended; a lower {key} ends the one that took it"
            )
        } else {
            return None;
        };
        Some(Refusal::new("sandbox.native.memory", &why))
    }

    fn files(&mut self, free: Free) -> Option<Refusal> {
        if let Some(which) = free.short(&self.bounds, 2) {
            return Some(floor(which, free, &self.bounds, "every native command was ended"));
        }
        let Bounds { writes, free_space, free_inodes, .. } = self.bounds;
        if let Some(which) = free.short(&self.bounds, 1) {
            let share = Growth { bytes: free_space / SHARE, files: free_inodes / SHARE };
            return Growth::since(&self.workspace, self.began, share)
                .reaches(share)
                .then(|| floor(which, free, &self.bounds, "the command was ended for what it wrote"));
        }
        if self.free.bytes.saturating_sub(free.bytes) < writes || Instant::now() < self.next {
            return None;
        }
        let most = Growth { bytes: writes, files: u64::MAX };
        let grew = Growth::since(&self.workspace, self.began, most);
        // A look through a large tree takes long, and is not needed before the floor.
        self.next = Instant::now() + TREE * 10;
        grew.reaches(most).then(|| {
            let most = writes >> 20;
            let why = format!("it wrote more than agents.defaults.sandbox.native.writes, {most} MiB, so it was ended");
            Refusal::new("sandbox.native.writes", &why)
        })
    }
}

/// Of files that changed since a run began.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Growth {
    bytes: u64,
    files: u64,
}

impl Growth {
    const fn reaches(self, most: Self) -> bool {
        self.bytes >= most.bytes || self.files >= most.files
    }

    /// Looks through a tree until it has seen as much as `most`. What hides from it counts as that much.
    fn since(top: &OwnedFd, began: (i64, i64), most: Self) -> Self {
        let mut grew = Self::default();
        let until = Instant::now() + TREE;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(first) = openat(top, ".", flags, Mode::empty()).and_then(Dir::new) else { return most };
        let mut open = vec![first];
        while let Some(mut dir) = open.pop() {
            let Some(entry) = dir.next() else { continue };
            if entry.as_ref().is_ok_and(|entry| matches!(entry.file_name().to_bytes(), b"." | b"..")) {
                open.push(dir);
                continue;
            }
            let found = entry.and_then(|entry| {
                let at = dir.fd()?;
                let stat = statat(at, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
                let changed = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(i64::MAX)) >= began;
                let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let below = is_dir.then(|| openat(at, entry.file_name(), flags, Mode::empty()).and_then(Dir::new));
                Ok((changed, u64::try_from(stat.st_blocks).unwrap_or_default(), below))
            });
            open.push(dir);
            // What went away meanwhile is no growth.
            let Ok((changed, blocks, below)) = found else { continue };
            if changed {
                grew.bytes = grew.bytes.saturating_add(blocks.saturating_mul(512));
                grew.files = grew.files.saturating_add(1);
            }
            match below {
                Some(Ok(_)) if open.len() >= DEPTH => return most,
                Some(Ok(below)) => open.push(below),
                Some(Err(Errno::ACCESS)) if changed => return most,
                Some(Err(_)) | None => {}
            }
            if grew.reaches(most) || Instant::now() > until {
                break;
            }
        }
        grew
    }
}

/// All processes of the machine, as `/proc` shows them to everybody.
pub(super) struct Processes {
    /// By their parent: number and resident bytes.
    by_parent: BTreeMap<i32, Vec<(i32, u64)>>,
    available: u64,
}

impl Processes {
    pub(super) fn now() -> Self {
        let mut by_parent: BTreeMap<i32, Vec<(i32, u64)>> = BTreeMap::new();
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let stat = std::fs::read(entry.path().join("stat")).unwrap_or_default();
            let Some((parent, pages)) = parent_and_pages(&String::from_utf8_lossy(&stat)) else { continue };
            by_parent.entry(parent).or_default().push((pid, pages.saturating_mul(page)));
        }
        let available = std::fs::read_to_string("/proc/meminfo").ok();
        let available = available.and_then(|text| kilobytes(&text, "MemAvailable:")).unwrap_or(u64::MAX);
        Self { by_parent, available }
    }

    /// Bytes that the descendants of a process hold. Resident pages are counted once for each process that shares them, so only
    /// where that is too much each one's share is asked for, which costs a walk through its pages.
    fn held_by(&self, supervisor: i32, most: u64) -> u64 {
        let mut found: Vec<(i32, u64)> = Vec::new();
        let mut ancestors = vec![supervisor];
        while let Some(parent) = ancestors.pop() {
            let children = self.by_parent.get(&parent).into_iter().flatten();
            children.for_each(|child| {
                ancestors.push(child.0);
                found.push(*child);
            });
        }
        let resident = found.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        if resident <= most {
            return resident;
        }
        let share = |(pid, resident): (i32, u64)| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
            text.and_then(|text| kilobytes(&text, "Pss:")).unwrap_or(resident)
        };
        found.into_iter().map(share).fold(0, u64::saturating_add)
    }
}

/// proc_pid_stat(5), fields 4 and 24. The name before them, in brackets, is the process's own to choose.
fn parent_and_pages(stat: &str) -> Option<(i32, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    Some((parent, fields.nth(19)?.parse().ok()?))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
#[path = "../tests/bounds.rs"]
mod tests;
