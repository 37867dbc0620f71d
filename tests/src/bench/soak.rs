//! E3 and C6: a great many honest commands in containers. None of them may be taken for an attack, and nothing may be left of
//! them: no descriptor, no memory, no process, no container.

use super::net::Ws;
use super::{Bound, Row};
use crate::{As, Sandbox, System, docker_socket, is_root, skip};
use serde_json::Value;
use std::process::Command;

/// Commands, of which four conversations at once have a quarter each; and with `--full`.
const FEW: usize = 1_000;
const MANY: usize = 20_000;
const CONVERSATIONS: usize = 4;
/// Commands before what is held is counted the first time.
const WARM: usize = 100;

/// What honest work does, and what only looks like something else. Nothing of it writes without an end.
const HONEST: [&str; 32] = [
    "true",
    "echo hello; echo error >&2",
    "id; uname -a; env",
    "ls -la / /proc /sys /dev",
    "cat /proc/self/status /proc/self/mountinfo /proc/1/status",
    "cat /proc/1/environ; true",
    "find /etc /usr/share -type f | head -200 | wc -l",
    "find / -xdev -maxdepth 2 -type d | sort | tail -3",
    "seq 1 2000 | sort -rn | head -1",
    "seq 1 2000 | awk '{s+=$1} END {print s}'",
    "mkdir -p a/b; echo x > a/b/c; cat a/b/c; rm -r a",
    "printf 'b\\na\\n' | sort | tr a-z A-Z | sed s/A/C/",
    "printf '#!/bin/sh\\necho run\\n' > r; chmod +x r; ./r; rm r",
    "head -c 200000 /dev/zero | md5sum",
    "dd if=/dev/zero of=z bs=1M count=4 2>/dev/null; gzip -f z; ls -l z.gz; rm z.gz",
    "tar cf t.tar /etc/passwd 2>/dev/null; tar tf t.tar; rm t.tar",
    "grep -r root /etc 2>/dev/null | head -5",
    "for i in 1 2 3 4 5; do (sleep 0.01 &); done; wait",
    "(exit 3); (exit 127); sh -c 'exit 126'; exit 1",
    "sh -c 'kill -TERM $$'; sh -c 'kill -9 $$'; exit 137",
    "timeout 0.05 sleep 5; exit 124",
    "sh -c 'kill -SEGV $$'; exit 139",
    "touch /etc/x; mkdir /x; chown 0 .; true",
    "mount; df; ps; true",
    "unshare -U true; chroot / true; mknod d c 1 3; true",
    "kill -9 1; true",
    "ln -s /etc/passwd l; readlink l; ln l h 2>/dev/null; rm -f l h",
    "mkfifo p; (echo through > p &); cat p; rm p",
    "x=$(echo one); echo \"$x two\"; test -n \"$x\" && expr 6 '*' 7",
    "wc -l /etc/passwd; cut -d: -f1 /etc/passwd | uniq -c | head -3",
    "nosuchprogram; true",
    "nice -n 5 sh -c 'ulimit -a' | head -3",
];

/// What sandboxd holds, and what its containers do.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    kilobytes: usize,
    processes: usize,
    containers: usize,
}

impl Held {
    fn look(system: &System, socket: &std::path::Path) -> Self {
        let pid = system.pid("sandboxd");
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let list: Value = serde_json::from_str(&system.says(&["sandbox", "list", "--json"])).unwrap();
        let rows = list.as_array().unwrap();
        let of = |row: &Value| {
            let host = format!("unix://{}", socket.display());
            let top = ["--host", &host, "top", row["container"].as_str().unwrap(), "-o", "pid"];
            String::from_utf8_lossy(&Command::new("docker").args(top).output().unwrap().stdout).lines().count() - 1
        };
        Self {
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            kilobytes: rss.split_whitespace().next().unwrap().parse().unwrap(),
            processes: rows.iter().map(of).sum(),
            containers: rows.len(),
        }
    }
}

fn commands(system: &System, count: usize, from: usize) {
    std::thread::scope(|scope| {
        for conversation in 0..CONVERSATIONS {
            scope.spawn(move || {
                let mut ws = Ws::login(system.port(), &system.token());
                let session = format!("agent:main:soak-{conversation}");
                for turn in (from + conversation..from + count).step_by(CONVERSATIONS) {
                    // Each conversation has its own order, so that unlike commands run beside each other.
                    let command = HONEST[(turn / CONVERSATIONS + conversation * 7) % HONEST.len()];
                    let (_, text) = ws.chat(&session, &format!("/exec {command}"), &format!("soak-{turn}"));
                    assert!(text.contains("[exit") || text.contains("signal"), "{command}: {text}");
                }
            });
        }
    });
}

pub fn soak(full: bool) -> Vec<Row> {
    if !is_root() {
        skip("the soak needs root, who can be sure to reach the engine");
        return Vec::new();
    }
    let Some(socket) = docker_socket() else { return Vec::new() };
    let count = if full { MANY } else { FEW };
    let system = System::start(As::Root, &Sandbox::Docker(socket.clone()));
    commands(&system, WARM, 0);
    let before = Held::look(&system, &socket);
    commands(&system, count, WARM);
    let after = Held::look(&system, &socket);
    let signals: Vec<Value> =
        system.records("system-audit").into_iter().filter(|record| record["type"] == "signal").collect();
    signals.iter().for_each(|signal| eprintln!("{signal}"));
    let grave = signals.iter().filter(|signal| signal["class"] != "S1").count();
    let row = |goal, what: &str, measured: usize, control: usize, unit, bound| Row {
        goal,
        what: what.to_owned(),
        measured: number(measured),
        control: number(control),
        unit,
        bound,
        published: "",
    };
    let commands = count + WARM;
    let same = Bound::MoreByAtMost(0.0);
    vec![
        row(
            "E3",
            "honest commands taken for an attack (S2 and graver) / commands",
            grave,
            commands,
            "",
            Bound::AtMost(0.0),
        ),
        row("E3", "signals of S1 / commands", signals.len() - grave, commands, "", Bound::RatioAtMost(0.005)),
        row("C6", "descriptors of sandboxd after them / before", after.descriptors, before.descriptors, "", same),
        row("C6", "processes in their containers after / before", after.processes, before.processes, "", same),
        row("C6", "containers after / before", after.containers, before.containers, "", same),
        row(
            "C6",
            "memory of sandboxd after / before",
            after.kilobytes,
            before.kilobytes,
            "kB",
            Bound::MoreByAtMost(2_048.0),
        ),
    ]
}

fn number(of: usize) -> f64 {
    f64::from(u32::try_from(of).unwrap_or(u32::MAX))
}
