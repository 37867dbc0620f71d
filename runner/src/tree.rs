//! What a run left behind: processes that belong to no run any more.

use rustix::process::{Pid, Signal, kill_process};
use std::collections::{BTreeMap, BTreeSet};

/// Looks at most; something that forks faster meets the container's limit of processes, and its end with the container.
const ROUNDS: usize = 16;

struct Process {
    parent: u32,
    session: u32,
}

/// Kills every process that is neither of a live run's session nor a descendant of one. `live` are the processes that
/// runs began with. What came in from outside the sandbox, and so has no parent in it, is somebody else's.
pub fn sweep(live: &BTreeSet<u32>) {
    let own = std::process::id();
    for _ in 0..ROUNDS {
        let all = processes();
        let left: Vec<u32> =
            all.keys().copied().filter(|pid| *pid > 1 && *pid != own && !spared(*pid, own, &all, live)).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended, or not be ours to kill.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn spared(pid: u32, own: u32, all: &BTreeMap<u32, Process>, live: &BTreeSet<u32>) -> bool {
    let mut at = pid;
    // As many steps as there are processes: a table that was read while it changed may hold a circle.
    for _ in 0..=all.len() {
        let Some(process) = all.get(&at) else { return false };
        if live.contains(&at) || live.contains(&process.session) || process.parent == 0 {
            return true;
        }
        if process.parent == own || process.parent == 1 {
            return false;
        }
        at = process.parent;
    }
    false
}

/// The live ones; what is dead and not yet reaped holds nothing.
fn processes() -> BTreeMap<u32, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read(entry.path().join("stat")).ok()?;
            parse(&stat).map(|process| (pid, process))
        })
        .collect()
}

/// proc_pid_stat(5). The program's name may hold anything, so what counts stands behind the last bracket.
fn parse(stat: &[u8]) -> Option<Process> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end.checked_add(1)?..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(Process { parent, session })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_the_programs_name_is() {
        let process = parse(b"12 (a) Z 1 (b) S 7 8 9 0 -1").unwrap();
        assert_eq!((process.parent, process.session), (7, 9));
        assert!(parse(b"12 (x) Z 7 8 9").is_none());
        for broken in [&b""[..], b"12 (x", b"12 (x)", b"12 (x) S", b"12 (x) S a b c"] {
            assert!(parse(broken).is_none());
        }
    }

    #[test]
    fn only_what_belongs_to_no_run_is_not_spared() {
        let all: BTreeMap<u32, Process> = [
            // The runner is 5. 10 is a run, 11 its child, 12 has left its session and lives beneath it.
            (10, 5, 10),
            (11, 10, 10),
            (12, 11, 12),
            // 20 was of a run that ended, with a child; 30 came from outside.
            (20, 1, 20),
            (21, 20, 20),
            (30, 0, 30),
        ]
        .map(|(pid, parent, session)| (pid, Process { parent, session }))
        .into();
        let live = BTreeSet::from([10]);
        let spared: Vec<u32> = all.keys().copied().filter(|pid| super::spared(*pid, 5, &all, &live)).collect();
        assert_eq!(spared, [10, 11, 12, 30]);
    }
}
