//! What `/proc/PID/status` says of a process in a container, and whether that may be. Pure.
//!
//! The kernel writes it; hostile in it is the first line alone, the name that a process gives itself, in which the kernel
//! escapes what would end the line.

/// A process, as far as it matters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Process {
    /// As it calls itself: a stranger's text.
    pub name: String,
    /// Its uids, from the host's side: real, effective, saved, of the file system.
    pub uids: Vec<u32>,
    /// Its gids.
    pub gids: Vec<u32>,
    /// Union of its five sets of capabilities.
    pub capabilities: u64,
    /// It can gain no rights by executing a program.
    pub no_new_privs: bool,
    /// 2 is a filter.
    pub seccomp: u8,
    /// In how many process namespaces it has a number.
    pub depth: usize,
    /// It has ended and was not waited for.
    pub is_zombie: bool,
    /// The process that started it.
    pub parent: u32,
}

/// Reads it; none where it is no such text.
#[must_use]
pub fn parse(text: &str) -> Option<Process> {
    let mut process = Process::default();
    let mut needed = 0;
    for line in text.lines() {
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let numbers = || value.split_whitespace().map(|word| word.parse().ok()).collect::<Option<Vec<u32>>>();
        match field {
            "Name" => process.name = value.to_owned(),
            "State" => process.is_zombie = value.starts_with(['Z', 'X']),
            "PPid" => process.parent = value.parse().ok()?,
            "Uid" => process.uids = numbers()?,
            "Gid" => process.gids = numbers()?,
            "NSpid" => process.depth = value.split_whitespace().count(),
            "CapInh" | "CapPrm" | "CapEff" | "CapBnd" | "CapAmb" => {
                process.capabilities |= u64::from_str_radix(value, 16).ok()?;
            }
            "NoNewPrivs" => process.no_new_privs = value == "1",
            "Seccomp" => process.seccomp = value.parse().ok()?,
            _ => continue,
        }
        needed += 1;
    }
    (needed >= 12 && process.uids.len() == 4 && process.gids.len() == 4).then_some(process)
}

/// Namespaces of a process, as far as the kernel tells everybody: the links beneath `/proc/PID/ns` it tells only who may trace.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spaces {
    /// How its user namespace maps uids.
    pub users: String,
    /// Names of the interfaces that it sees.
    pub interfaces: Vec<String>,
    /// SHA-256 of what is mounted where it is.
    pub mounts: [u8; 32],
}

/// Names of the interfaces in `/proc/PID/net/dev`, whose counters go on.
#[must_use]
pub fn interfaces(text: &str) -> Vec<String> {
    let mut names: Vec<String> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect();
    names.sort();
    names
}

/// In which namespaces a process is that its container's first one is not in; empty where there is none.
#[must_use]
pub fn elsewhere(process: (&Process, &Spaces), first: (&Process, &Spaces)) -> Vec<&'static str> {
    let differs = [
        ("process", process.0.depth != first.0.depth),
        ("user", process.1.users != first.1.users),
        ("network", process.1.interfaces != first.1.interfaces),
        ("mount", process.1.mounts != first.1.mounts),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// In what a process is not as its container's first one is; empty where it is.
#[must_use]
pub fn differs(process: &Process, first: &Process) -> Vec<String> {
    // What ended holds nothing, and some of its fields are gone.
    if process.is_zombie {
        return Vec::new();
    }
    let mut found = Vec::new();
    if process.uids != first.uids {
        found.push(format!("uids {:?}", process.uids));
    }
    if process.gids != first.gids {
        found.push(format!("gids {:?}", process.gids));
    }
    if process.capabilities != 0 {
        found.push(format!("capabilities {:x}", process.capabilities));
    }
    if !process.no_new_privs {
        found.push("NoNewPrivs 0".to_owned());
    }
    if process.seccomp != 2 {
        found.push(format!("Seccomp {}", process.seccomp));
    }
    found
}

/// In what a container's first process is not as it must be, whoever is nobody inside is outside.
#[must_use]
pub fn wrong_first(first: &Process) -> Vec<String> {
    let mut found = differs(first, first);
    if first.uids.iter().chain(&first.gids).any(|id| *id == 0) {
        found.push(format!("uids {:?} gids {:?}", first.uids, first.gids));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(change: impl Fn(&str) -> Option<&'static str>) -> String {
        let honest = "Name:\tcat\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\nPid:\t7\nPPid:\t6\nTracerPid:\t0\n\
                      Uid:\t65534\t65534\t65534\t65534\nGid:\t65534\t65534\t65534\t65534\nGroups:\t65534\nNSpid:\t7\t1\n\
                      CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                      CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        honest.lines().map(|line| format!("{}\n", change(line).unwrap_or(line))).collect()
    }

    fn first() -> Process {
        parse(&text(|_| None)).unwrap()
    }

    #[test]
    fn honest_process_differs_in_nothing_and_may_be_the_first() {
        assert!(differs(&first(), &first()).is_empty() && wrong_first(&first()).is_empty());
        assert_eq!((first().depth, first().parent, first().name.as_str()), (2, 6, "cat"));
    }

    #[test]
    fn each_field_that_is_not_as_it_must_be_is_found() {
        for changed in [
            "Uid:\t65534\t0\t65534\t65534",
            "Uid:\t65534\t65534\t65534\t0",
            "Gid:\t65534\t65534\t0\t65534",
            "CapInh:\t0000000000000001",
            "CapPrm:\t0000000000200000",
            "CapEff:\t0000000000000001",
            "CapBnd:\t00000000a80425fb",
            "CapAmb:\t0000000000000001",
            "NoNewPrivs:\t0",
            "Seccomp:\t0",
            "Seccomp:\t1",
        ] {
            let field = changed.split('\t').next().unwrap();
            let process = parse(&text(|line| line.starts_with(field).then_some(changed))).unwrap();
            assert_eq!(differs(&process, &first()).len(), 1, "{changed}");
        }
        let root = parse(&text(|line| line.starts_with("Uid:").then_some("Uid:\t0\t0\t0\t0"))).unwrap();
        assert!(!wrong_first(&root).is_empty());
    }

    #[test]
    fn process_in_another_namespace_is_found_by_what_it_sees_and_one_in_the_same_is_not() {
        let alone = Spaces { users: "0 0 4294967295".to_owned(), interfaces: vec!["lo".to_owned()], mounts: [1; 32] };
        assert!(elsewhere((&first(), &alone), (&first(), &alone)).is_empty());
        let outside = parse(&text(|line| line.starts_with("NSpid").then_some("NSpid:\t7"))).unwrap();
        assert_eq!(elsewhere((&outside, &alone), (&first(), &alone)), ["process"]);
        let dev = "Inter-|   Receive  \n face |bytes\n    lo: 1 2 3\n  eth0: 9 9\n";
        for (other, name) in [
            (Spaces { users: "0 1000 1".to_owned(), ..alone.clone() }, "user"),
            (Spaces { interfaces: interfaces(dev), ..alone.clone() }, "network"),
            (Spaces { mounts: [2; 32], ..alone.clone() }, "mount"),
        ] {
            assert_eq!(elsewhere((&first(), &other), (&first(), &alone)), [name]);
        }
        assert_eq!(interfaces(dev), ["eth0", "lo"]);
        assert_eq!(interfaces("    lo: 7 7\n"), alone.interfaces, "its counters do not matter");
    }

    #[test]
    fn name_that_looks_like_fields_changes_nothing() {
        // As the kernel writes a name with a line end in it.
        let process = parse(&text(|line| line.starts_with("Name:").then_some("Name:\tx\\nSeccomp:\\t0"))).unwrap();
        assert!(differs(&process, &first()).is_empty());
    }

    #[test]
    fn ended_process_is_not_judged_and_a_text_without_the_fields_is_none() {
        let zombie = text(|line| match line.split(':').next() {
            Some("State") => Some("State:\tZ (zombie)"),
            Some("Seccomp") => Some("Seccomp:\t0"),
            _ => None,
        });
        assert!(differs(&parse(&zombie).unwrap(), &first()).is_empty());
        assert_eq!(parse(""), None);
        assert_eq!(parse("Name:\tx\nUid:\t1\n"), None);
        assert_eq!(parse(&text(|line| line.starts_with("Uid:").then_some("Uid:\tx"))), None);
    }
}
