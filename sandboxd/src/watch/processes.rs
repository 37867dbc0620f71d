//! What the kernel says of the processes in containers: `/proc`, by a descriptor that was opened before the wall and a
//! Landlock grant to read beneath it. What a process keeps to itself - its environment, memory, descriptors, namespaces - the
//! kernel's check for tracing keeps from sandboxd, whose Landlock domain it is outside of.
//!
//! Hostile: numbers that are used again between two looks, and processes that end while they are read.

use super::status::{Process, Spaces, interfaces, parse};
use rustix::fs::{Mode, OFlags, RawDir, ResolveFlags, open, openat2};
use rustix::io::{Errno, read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Largest file that is read, in bytes; a container's list of mounts is the longest.
const LARGEST: usize = 256 << 10;

/// The directory.
#[derive(Debug)]
pub struct Processes(OwnedFd);

/// A process of a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// Its number on the host.
    pub pid: u32,
    /// Which of the containers that were asked for, by its place among them.
    pub container: usize,
    /// What the kernel says of it.
    pub process: Process,
}

impl AsFd for Processes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Processes {
    /// Before the wall.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> Result<Self, Errno> {
        open("/proc", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    /// A file beneath it; never by a link.
    fn file(&self, name: &str) -> Result<String, Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = openat2(&self.0, name, flags, Mode::empty(), resolve)?;
        let mut bytes = Vec::new();
        let mut piece = [0u8; 4_096];
        loop {
            let count = read(&file, &mut piece)?;
            bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
            if count == 0 {
                // A name may be no text; what matters is.
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
            if bytes.len() > LARGEST {
                return Err(Errno::FBIG);
            }
        }
    }

    /// What the kernel says of a process; none where it is gone.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<Process> {
        self.file(&format!("{pid}/status")).ok().as_deref().and_then(parse)
    }

    /// What is mounted where the process is.
    #[must_use]
    pub fn mounts(&self, pid: u32) -> Option<String> {
        self.file(&format!("{pid}/mountinfo")).ok().filter(|text| !text.is_empty())
    }

    /// In which namespaces it is; none where it is gone, or the kernel does not say.
    #[must_use]
    pub fn spaces(&self, pid: u32) -> Option<Spaces> {
        Some(Spaces {
            users: self.file(&format!("{pid}/uid_map")).ok()?.split_whitespace().collect::<Vec<_>>().join(" "),
            interfaces: interfaces(&self.file(&format!("{pid}/net/dev")).ok()?),
            mounts: super::digest(self.mounts(pid)?.as_bytes()),
        })
    }

    /// Which of these containers the process is in, by its control group.
    #[must_use]
    pub fn container_of(&self, pid: u32, ids: &[String]) -> Option<usize> {
        let groups = self.file(&format!("{pid}/cgroup")).ok()?;
        ids.iter().position(|id| groups.contains(id.as_str()))
    }

    /// Every process in the control groups of these containers.
    ///
    /// # Errors
    /// Where the directory cannot be listed.
    pub fn of_containers(&self, ids: &[String]) -> Result<Vec<Found>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat2(&self.0, ".", flags, Mode::empty(), ResolveFlags::BENEATH)?;
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut entries = RawDir::new(directory, &mut buffer);
        let mut found = Vec::new();
        while let Some(entry) = entries.next() {
            let Some(pid) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
            let Some(container) = self.container_of(pid, ids) else { continue };
            let process = self.process(pid);
            found.extend(process.map(|process| Found { pid, container, process }));
        }
        Ok(found)
    }

    /// Whether it can be seen at all: this process, and one of somebody else's.
    ///
    /// # Errors
    /// Why not.
    pub fn try_out(&self) -> Result<String, String> {
        let own = std::process::id();
        let process = self.process(own).ok_or("its own status cannot be read")?;
        if process.seccomp != 2 || !process.no_new_privs {
            return Err("its own status does not show its own filter".to_owned());
        }
        let first = self.process(1).ok_or("process 1 cannot be read: is /proc mounted with hidepid?")?;
        if first.depth == 0 {
            return Err("the kernel does not tell process namespaces".to_owned());
        }
        self.spaces(own).ok_or("its own namespaces cannot be read")?;
        self.of_containers(&[]).map_err(|errno| format!("/proc cannot be listed: {errno}"))?;
        Ok("own status shows own filter; process 1 can be read".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_and_its_mounts_are_read_and_a_gone_one_is_none() {
        let processes = Processes::open().unwrap();
        let own = processes.process(std::process::id()).unwrap();
        assert_eq!(own.uids[0], rustix::process::getuid().as_raw());
        assert!(processes.mounts(std::process::id()).unwrap().contains(" / "));
        assert_eq!(processes.process(u32::MAX), None);
        let spaces = processes.spaces(std::process::id()).unwrap();
        assert!(spaces.interfaces.contains(&"lo".to_owned()) && !spaces.users.is_empty());
        assert_eq!(processes.spaces(u32::MAX), None);
        assert!(processes.file("../etc/passwd").is_err() && processes.file("self/status").is_err(), "a link");
    }

    #[test]
    fn processes_are_found_by_their_control_group() {
        let processes = Processes::open().unwrap();
        let groups = processes.file(&format!("{}/cgroup", std::process::id())).unwrap();
        // All of it: only what is in every same group has it.
        let found = processes.of_containers(&["no such".to_owned(), groups]).unwrap();
        assert!(found.iter().any(|found| found.pid == std::process::id() && found.container == 1));
        assert!(processes.of_containers(&["no such".to_owned()]).unwrap().is_empty());
    }
}
