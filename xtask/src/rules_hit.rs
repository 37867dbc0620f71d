//! Which rules of the walls a run of the tests makes use of. A rule that nothing uses is a way in for nobody but an attacker:
//! it must say why it stays (`Rule::kept`), or go. The tests run under strace, and only calls after a role's last filter
//! count.

use crate::report::generate;
use crate::{Outcome, cargo, run, target};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tests that start real roles.
const TESTS: [&str; 8] = ["--package", "tests", "--package", "auditd", "--package", "vault", "--package", "gateway"];

/// Seconds that the traced tests may take, many times what they need.
const BOUND: &str = "1800";

/// A call: its name and its registers, as many as it has.
type Call = (String, Vec<u64>);
/// What each role called behind its wall.
type Calls = BTreeMap<String, BTreeSet<Call>>;

struct Traces(PathBuf);

impl Drop for Traces {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the tests and compares.
pub fn rules_hit() -> Outcome {
    let traces = Traces(std::env::temp_dir().join(format!("moltbot-rules-hit.{}", std::process::id())));
    std::fs::create_dir(&traces.0).map_err(|error| format!("{}: {error}", traces.0.display()))?;
    run(cargo().arg("build"))?;
    run(cargo().args(["test", "--quiet", "--no-run"]).args(TESTS))?;
    let mut traced = Command::new("timeout");
    traced
        .args([BOUND, "strace", "-f", "-ff", "-qq", "-e", "raw=!execve,execveat", "-e", "signal=none", "-o"])
        .arg(traces.0.join("t"));
    traced.arg(cargo().get_program()).args(["test", "--quiet", "--no-fail-fast", "--tests"]).args(TESTS);
    traced.current_dir(crate::root()).env("MOLTBOT_BIN_DIR", target().join("debug"));
    let tests = run(&mut traced);
    let design: Value = serde_json::from_str(&generate("json")?).map_err(|error| error.to_string())?;
    // First what was seen: a test that failed has made its calls all the same.
    compare(&design, &read(&traces.0)?)?;
    tests.map_err(|error| format!("{error} (is strace installed, and are the tests green without it?)"))
}

fn read(dir: &Path) -> Result<Calls, String> {
    let mut calls = Calls::new();
    for entry in std::fs::read_dir(dir).map_err(|error| error.to_string())? {
        let bytes =
            std::fs::read(entry.map_err(|error| error.to_string())?.path()).map_err(|error| error.to_string())?;
        collect(&String::from_utf8_lossy(&bytes), &mut calls);
    }
    Ok(calls)
}

/// One process's trace: what it called after its last filter, under the role that it executed.
fn collect(trace: &str, calls: &mut Calls) {
    let mut role: Option<String> = None;
    let mut since = Vec::new();
    let mut sealed = false;
    for line in trace.lines() {
        if line.starts_with("execve") {
            role = program(line).or(role);
            (sealed, since) = (false, Vec::new());
        } else if line.starts_with("seccomp(") {
            (sealed, since) = (true, Vec::new());
        } else if sealed && let Some(call) = parse(line) {
            since.push(call);
        }
    }
    if let (Some(role), true) = (role, sealed) {
        calls.entry(role).or_default().extend(since);
    }
}

/// The role in `execve("/…/moltbot-vault", …)` or `execveat(7, "", ["moltbot-vault"], …)`.
fn program(line: &str) -> Option<String> {
    let (_, after) = line.split_once("moltbot-")?;
    let name = after.split('"').next().unwrap_or_default();
    name.chars().all(|c| c.is_ascii_lowercase()).then(|| name.to_owned())
}

/// `name(0x1, 0, …) = …`, all arguments raw.
fn parse(line: &str) -> Option<Call> {
    let (name, rest) = line.split_once('(')?;
    let args = rest.split(')').next()?;
    let number = |word: &str| u64::from_str_radix(word.trim().trim_start_matches("0x"), 16).ok();
    Some((name.to_owned(), args.split(',').map_while(number).collect()))
}

fn compare(design: &Value, calls: &Calls) -> Outcome {
    let mut unexplained = Vec::new();
    for role in list(design, "/roles").iter().filter(|role| text(role, "/seccomp/default") == "kill") {
        let name = text(role, "/role");
        let made = calls.get(name).ok_or_else(|| format!("no trace of {name}: did the tests start it?"))?;
        let rules = list(role, "/seccomp/rules");
        let (hit, idle): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| made.iter().any(|call| fits(rule, call)));
        println!("{name}: {} of {} rules used, {} kept unused", hit.len(), rules.len(), idle.len());
        let silent = idle.into_iter().filter(|rule| text(rule, "/kept").is_empty());
        unexplained.extend(silent.map(|rule| format!("{name}: {} {}", text(rule, "/call"), conditions(rule))));
    }
    if unexplained.is_empty() {
        Ok(())
    } else {
        Err(format!("rules that no test uses and that do not say why they stay:\n  {}", unexplained.join("\n  ")))
    }
}

fn fits(rule: &Value, (name, args): &Call) -> bool {
    let holds = |arg: &Value| {
        let index = arg.pointer("/index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
        let register = index.and_then(|index| args.get(index));
        register.is_some_and(|register| register & hex(arg, "/mask") == hex(arg, "/value"))
    };
    text(rule, "/call") == name && list(rule, "/args").iter().all(holds)
}

fn conditions(rule: &Value) -> String {
    list(rule, "/args").iter().map(|arg| text(arg, "/means")).collect::<Vec<_>>().join("; ")
}

fn hex(value: &Value, pointer: &str) -> u64 {
    u64::from_str_radix(text(value, pointer).trim_start_matches("0x"), 16).unwrap_or(u64::MAX)
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TRACE: &str = "execveat(7, \"\", [\"moltbot-vault\"], [], AT_EMPTY_PATH) = 0
openat(0x3, 0x7ffe, 0x80000, 0) = 4
seccomp(0x1, 0, 0x5) = 0
prctl(0x26, 0x1, 0, 0, 0) = 0
seccomp(0x1, 0, 0x5) = 0
fcntl(0x3, 0x1, 0) = 0
ppoll(0x7f00, 0x2, 0, 0, 0x8 <unfinished ...>
exit_group(0) = ?";

    fn design(rule: Value) -> Value {
        json!({ "roles": [{ "role": "vault", "seccomp": { "default": "kill", "rules": [rule] } }] })
    }

    #[test]
    fn trace_counts_what_comes_after_the_last_filter() {
        let mut calls = Calls::new();
        collect(TRACE, &mut calls);
        let names: Vec<&str> = calls["vault"].iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["exit_group", "fcntl", "ppoll"]);
    }

    #[test]
    fn unused_rule_must_say_why_it_stays() {
        let mut calls = Calls::new();
        collect(TRACE, &mut calls);
        let fcntl = |value: &str, kept: Value| {
            let arg = json!({ "index": 1, "mask": "0xffffffffffffffff", "value": value, "means": "cmd" });
            design(json!({ "call": "fcntl", "args": [arg], "kept": kept }))
        };
        assert!(compare(&fcntl("0x1", Value::Null), &calls).is_ok());
        assert!(compare(&fcntl("0x2", Value::Null), &calls).unwrap_err().contains("vault: fcntl cmd"));
        assert!(compare(&fcntl("0x2", json!("on some machines")), &calls).is_ok());
    }
}
