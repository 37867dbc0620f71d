//! `moltbot logs -f`: records as they come, through broker, past filters.

use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use system_tests::{System, in_both_layouts, programs};

struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(system: &System, words: &[&str]) -> Self {
        let mut command = system.command(&programs().join("moltbot"));
        command.arg("--state-dir").arg(system.state()).args(["logs", "system", "-f", "--json"]).args(words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

in_both_layouts! {
    fn record_is_shown_as_it_comes_and_past_a_filter_only_what_it_leaves(system: System) {
        // From here on, told by the newest record.
        let newest = |system: &System| system.records("system-audit").last().unwrap()["seq"].as_u64().unwrap();
        let first = newest(&system);
        let mut all = Follower::start(&system, &[]);
        let mut verbs = Follower::start(&system, &["--type", "operator", "--grep", "lockdown"]);
        while all.next()["seq"].as_u64().unwrap() < first {}
        // Two verbs, of which the second one's record alone is let through.
        let _ = system.token();
        let _ = system.says(&["lockdown", "on"]);
        let _ = system.says(&["lockdown", "clear"]);
        let mut seen = Vec::new();
        while !seen.iter().any(|verb| verb == "lockdown.clear") {
            let record = all.next();
            if record["type"] == "operator" {
                seen.push(record["verb"].as_str().unwrap().to_owned());
            }
        }
        let (mut asked, mut left) = (seen.iter(), Vec::new());
        assert!(asked.any(|verb| !verb.contains("lockdown")), "{seen:?}");
        while !left.iter().any(|verb| verb == "lockdown.clear") {
            let record = verbs.next();
            assert_eq!(record["type"], "operator");
            left.push(record["verb"].as_str().unwrap().to_owned());
        }
        assert!(left.iter().all(|verb| verb.contains("lockdown")), "{left:?}");
        let same: Vec<_> = seen.iter().filter(|verb| verb.contains("lockdown")).collect();
        assert_eq!(left.iter().collect::<Vec<_>>(), same);
    }
}
