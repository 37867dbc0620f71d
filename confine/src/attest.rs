//! What the kernel says of a process, against what it should be. Broker believes this and not the process.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;

/// The kernel's view of one process, from `/proc/<pid>/status` (proc_pid_status(5)).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// `Name`, which `execve` sets anew. What the process executes cannot be read of one that is not dumpable.
    pub name: String,
    /// Parent.
    pub parent: u32,
    /// Real, effective, saved, file system uid.
    pub uids: Vec<u32>,
    /// The same of the gid.
    pub gids: Vec<u32>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient.
    pub capabilities: [u64; 5],
    /// `NoNewPrivs`.
    pub no_new_privs: bool,
    /// `Seccomp`; 2 is a filter.
    pub seccomp: u8,
    /// `Seccomp_filters`.
    pub filters: u32,
    /// Threads.
    pub threads: u32,
    /// Processes that it has started.
    pub children: usize,
    /// Open descriptors, where the kernel tells (Linux 6.2); 0 elsewhere.
    pub descriptors: u64,
}

/// Reads what the kernel says of `pid`.
///
/// # Errors
/// Where it is gone, or /proc is not what it should be.
pub fn observe(pid: u32) -> io::Result<Observed> {
    let mut seen = Observed::default();
    for line in fs::read_to_string(format!("/proc/{pid}/status"))?.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let numbers = || value.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<u32>>();
        let first = || numbers().first().copied().unwrap_or_default();
        let set = || u64::from_str_radix(value.trim(), 16).unwrap_or(u64::MAX);
        let [inheritable, permitted, effective, bounding, ambient] = &mut seen.capabilities;
        match key {
            "Name" => value.trim().clone_into(&mut seen.name),
            "PPid" => seen.parent = first(),
            "Uid" => seen.uids = numbers(),
            "Gid" => seen.gids = numbers(),
            "Groups" => seen.groups = numbers(),
            "CapInh" => *inheritable = set(),
            "CapPrm" => *permitted = set(),
            "CapEff" => *effective = set(),
            "CapBnd" => *bounding = set(),
            "CapAmb" => *ambient = set(),
            "NoNewPrivs" => seen.no_new_privs = first() == 1,
            "Seccomp" => seen.seccomp = u8::try_from(first()).unwrap_or_default(),
            "Seccomp_filters" => seen.filters = first(),
            "Threads" => seen.threads = first(),
            _ => {}
        }
    }
    seen.children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?.split_whitespace().count();
    seen.descriptors = fs::metadata(format!("/proc/{pid}/fd"))?.size();
    Ok(seen)
}

/// What a confined role must look like.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its program's name.
    pub name: String,
    /// Broker.
    pub parent: u32,
    /// Its uid, four-fold.
    pub uid: u32,
    /// Its gid, four-fold.
    pub gid: u32,
    /// Its supplementary groups: none with a uid of its own; a shared uid keeps the operator's.
    pub groups: Vec<u32>,
    /// True where the bounding set must be empty as well.
    pub empty_bounding: bool,
    /// Filters at least.
    pub filters: u32,
    /// True where it must have no process of its own.
    pub childless: bool,
    /// How many descriptors it may have.
    pub descriptors: RangeInclusive<u64>,
}

/// Bytes of a process's name that the kernel keeps.
const NAME: usize = 15;

impl Observed {
    /// Everything about the process that is not as it should be; empty where all is.
    #[must_use]
    pub fn drift(&self, expected: &Expected) -> Vec<String> {
        let mut drift = Vec::new();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                drift.push(what.to_owned());
            }
        };
        let [inheritable, permitted, effective, bounding, ambient] = self.capabilities;
        let name = expected.name.get(..NAME).unwrap_or(&expected.name);
        check(self.name == name, &format!("it goes by the name {:?}", self.name));
        check(self.parent == expected.parent, "its parent is not broker");
        check(self.uids == [expected.uid; 4], "uid");
        check(self.gids == [expected.gid; 4], "gid");
        check(self.groups == expected.groups, "supplementary groups");
        check(inheritable | permitted | effective | ambient == 0, "capabilities");
        check(!expected.empty_bounding || bounding == 0, "bounding set");
        check(self.no_new_privs, "NoNewPrivs is not 1");
        check(self.seccomp == 2, "Seccomp is not 2");
        check(self.filters >= expected.filters, "fewer seccomp filters than installed");
        check(self.threads == 1, "a second thread");
        check(!expected.childless || self.children == 0, "a second process");
        let (least, most) = expected.descriptors.clone().into_inner();
        let told = self.descriptors != 0;
        check(
            !told || expected.descriptors.contains(&self.descriptors),
            &format!("{} descriptors, not {least} to {most}", self.descriptors),
        );
        drift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    fn confined() -> Observed {
        Observed {
            name: "moltbot-sandbox".to_owned(),
            parent: 1,
            uids: vec![7; 4],
            gids: vec![8; 4],
            no_new_privs: true,
            seccomp: 2,
            filters: 3,
            threads: 1,
            descriptors: 4,
            ..Observed::default()
        }
    }

    fn expected() -> Expected {
        Expected {
            name: "moltbot-sandboxd".to_owned(),
            parent: 1,
            uid: 7,
            gid: 8,
            groups: Vec::new(),
            empty_bounding: true,
            filters: 3,
            childless: true,
            descriptors: 4..=4,
        }
    }

    #[test]
    fn confined_process_shows_no_drift() {
        assert!(confined().drift(&expected()).is_empty());
    }

    #[test]
    fn each_field_that_differs_is_drift() {
        let changes: [fn(&mut Observed); 14] = [
            |o| o.name = "sh".to_owned(),
            |o| o.parent = 2,
            |o| o.uids = vec![7, 7, 0, 7],
            |o| o.gids = vec![8, 8, 8, 0],
            |o| o.groups = vec![27],
            |o| o.capabilities[2] = 1,
            |o| o.capabilities[3] = 1,
            |o| o.no_new_privs = false,
            |o| o.seccomp = 0,
            |o| o.filters = 2,
            |o| o.threads = 2,
            |o| o.children = 1,
            |o| o.descriptors = 5,
            |o| o.descriptors = 3,
        ];
        for change in changes {
            let mut observed = confined();
            change(&mut observed);
            assert_eq!(observed.drift(&expected()).len(), 1);
        }
    }

    #[test]
    fn own_process_is_observed_as_it_is() {
        let seen = observe(std::process::id()).unwrap();
        assert_eq!(seen.uids, vec![rustix::process::getuid().as_raw(); 4]);
        assert!(!seen.no_new_privs || seen.seccomp <= 2);
        assert!(seen.descriptors > 2 && seen.threads > 0 && !seen.name.is_empty());
    }

    #[test]
    fn second_process_of_a_process_is_seen() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "read go; sleep 60 & read stop; kill $!"]).stdin(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let mut words = shell.stdin.take().unwrap();
        assert_eq!(observe(shell.id()).unwrap().children, 0);
        words.write_all(b"go\n").unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while observe(shell.id()).unwrap().children != 1 {
            assert!(Instant::now() < until);
            std::thread::yield_now();
        }
        drop(words);
        shell.wait().unwrap();
    }
}
