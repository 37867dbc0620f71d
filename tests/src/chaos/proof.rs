//! What must hold after chaos: nothing of a process left over, and nothing of a record missing.

use crate::{PATIENCE, programs};
use auditd::offline::{self, Expected};
use proto::audit::Stream;
use proto::edge::{Edge, ToAuditd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

/// Descriptors that a role may hold more than before: one visitor of broker's, one connection that is just closing.
const SLACK: u64 = 1;

/// Sends a signal to a process of the set, which may have ended meanwhile.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(i32::try_from(pid).unwrap()) {
        let _ = kill_process(pid, signal);
    }
}

/// The processes of a set and their open descriptors.
#[derive(Debug)]
pub struct Processes(BTreeMap<String, (u32, u64)>);

impl Processes {
    /// As the rows of a status name them.
    pub fn of(rows: &[Value]) -> Self {
        let process = |row: &Value| {
            let pid = u32::try_from(row["pid"].as_u64()?).ok().filter(|pid| *pid != 0)?;
            let descriptors = confine::attest::observe(pid).ok()?.descriptors;
            Some((row["role"].as_str()?.to_owned(), (pid, descriptors)))
        };
        Self(rows.iter().filter_map(process).collect())
    }

    /// Their pids.
    pub fn pids(&self) -> Vec<u32> {
        self.0.values().map(|(pid, _)| *pid).collect()
    }

    /// Waits until no role holds more than here; says who does.
    pub fn wait_flat(&self, now: impl Fn() -> Self) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = now();
            let grown = self.0.iter().find_map(|(role, (_, before))| match now.0.get(role) {
                Some((_, after)) if *after <= before + SLACK => None,
                Some((_, after)) => Some(format!("{role} holds {after} descriptors, before the load {before}")),
                None => Some(format!("{role} is not there")),
            });
            if grown.is_none() || Instant::now() >= until {
                return grown;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Waits until a process has ended.
pub fn gone(pid: u32) -> bool {
    let until = Instant::now() + PATIENCE;
    while crate::is_alive(pid) {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    true
}

/// Processes left over: a broker of this state directory, a role without a broker, one of this run's commands.
pub fn orphans(state: &Path, marker: &str) -> Vec<String> {
    let prefix = programs().join("moltbot-").to_string_lossy().into_owned();
    let ours = |pid: u32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().starts_with(&prefix))
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let is_broker = line.contains("moltbot-broker");
        let left = if is_broker {
            ours(pid) && line.contains(&*state.to_string_lossy())
        } else {
            line.contains(marker) || (ours(pid) && !crate::parent(pid).is_some_and(ours))
        };
        if left && crate::is_alive(pid) {
            found.push(format!("{pid} {line}"));
        }
    }
    found
}

/// Every stream's chain, by the log's own verifier; says what is broken.
pub fn verify(logs: &Path) -> Vec<String> {
    let mut broken = Vec::new();
    for stream in Stream::ALL {
        let found = offline::find(logs, stream)
            .and_then(|files| offline::verify(&files, stream, &Expected::default(), |_, _| {}));
        if let Err(error) = found {
            broken.push(format!("{}: {error}", stream.name()));
        }
    }
    broken
}

/// Records of a stream. A fragment that a death tore off is none; the verifier looks after it.
pub fn records(logs: &Path, stream: Stream) -> Vec<Value> {
    let files = offline::find(logs, stream).unwrap();
    let text: Vec<u8> = files.iter().flat_map(|file| std::fs::read(&file.log).unwrap()).collect();
    String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// Commands that were acknowledged and have no intent, no good outcome, or two of one.
pub fn missing_commands(records: &[Value], acknowledged: &[String]) -> Vec<String> {
    let mut outcomes: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut intents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for record in records {
        let run = record["runId"].as_str().unwrap_or_default();
        match (record["type"].as_str(), record["command"].as_str()) {
            (Some("intent"), Some(command)) => intents.entry(command).or_default().push(run),
            (Some("outcome"), _) => outcomes.entry(run).or_default().push(&record["exitCode"]),
            _ => {}
        }
    }
    let mut broken = Vec::new();
    for command in acknowledged {
        let runs = intents.get(command.as_str()).map(Vec::as_slice).unwrap_or_default();
        let ended: Vec<_> = runs.iter().flat_map(|run| outcomes.get(run).into_iter().flatten()).collect();
        if runs.len() != 1 || ended.len() != 1 || *ended[0] != 0 {
            broken.push(format!("{command:?} was acknowledged and has {} intents, outcomes {ended:?}", runs.len()));
        }
    }
    broken
}

/// What a record says, without where and when it stands in the log.
fn said(record: &Value) -> Value {
    const PLACE: [&str; 5] = ["seq", "ts", "boot", "mono", "prev"];
    let mut said = record.clone();
    if let Some(fields) = said.as_object_mut() {
        fields.retain(|name, _| !PLACE.contains(&name.as_str()));
    }
    said
}

/// What auditd wrote and could not acknowledge before it was killed is written again by its successor (ADR 12): word for word,
/// at most a window of records for each auditd that died. Whatever else stands twice stays in the list.
fn without_repeats<'r>(steps: &[&'r Value], spare: &mut usize) -> Vec<&'r str> {
    let mut kept: Vec<&'r Value> = Vec::new();
    for step in steps {
        let repeats = kept.last().is_some_and(|last| said(last) == said(step));
        if repeats && *spare > 0 {
            *spare -= 1;
        } else {
            kept.push(step);
        }
    }
    kept.iter().map(|step| step["step"].as_str().unwrap_or_default()).collect()
}

/// Incidents whose reaction is not recorded step by step, how many there were, and how many steps had to kill somebody.
pub fn incidents(records: &[Value]) -> (Vec<String>, usize, usize) {
    const STEPS: [&str; 5] = ["freeze-intake", "end-sandboxes", "revoke-leases", "checkpoint-log", "restart-suspects"];
    let mut incidents: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    let mut killed = 0;
    for record in records.iter().filter(|record| record["type"] == "incident") {
        incidents.entry(record["incident"].as_str().unwrap_or_default()).or_default().push(record);
        killed += usize::from(record["outcome"] == "timed-out");
    }
    let deaths = records.iter().filter(|record| record["role"] == "auditd" && is_death(record)).count();
    let mut spare = deaths * ToAuditd::WINDOW;
    let mut incomplete = Vec::new();
    for (name, steps) in &incidents {
        let steps = without_repeats(steps, &mut spare);
        if steps != STEPS {
            incomplete.push(format!("incident {name} has the steps {steps:?}"));
        }
    }
    (incomplete, incidents.len(), killed)
}

/// True where a process ended by a signal. Ends that the operator wanted are recorded as deaths as well: by exit.
fn is_death(record: &Value) -> bool {
    matches!(record["event"].as_str(), Some("died" | "incident")) && record.to_string().contains("Signalled")
}

/// Accusations among the records of supervision, and how many deaths they hold.
pub fn supervision(records: &[Value]) -> (Vec<String>, usize) {
    let event = |record: &Value| record["event"].as_str().unwrap_or_default().to_owned();
    let accusations: BTreeSet<&str> = ["violation", "drift", "refused", "attestation-failed", "spawn-failed"].into();
    let accused = records.iter().filter(|record| accusations.contains(event(record).as_str()));
    let accused = accused.map(|record| format!("supervision recorded {record}")).collect();
    (accused, records.iter().filter(|record| is_death(record)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(seq: u64, name: &str, took: u64) -> Value {
        json!({"seq": seq, "ts": seq, "type": "incident", "incident": "i-1", "step": name, "tookMs": took})
    }

    fn log(extra: Option<Value>, dead: bool) -> Vec<Value> {
        let steps = ["freeze-intake", "end-sandboxes", "revoke-leases", "checkpoint-log", "restart-suspects"];
        let mut log: Vec<Value> = (1..).zip(steps).map(|(seq, name)| step(seq, name, 7)).collect();
        if let Some(extra) = extra {
            log.insert(1, extra);
        }
        if dead {
            log.push(json!({"event": "died", "role": "auditd", "detail": "Signalled(9)"}));
        }
        log
    }

    #[test]
    fn step_that_stands_twice_is_a_repeat_only_word_for_word_and_where_auditd_died() {
        let again = || Some(step(2, "freeze-intake", 7));
        assert!(incidents(&log(None, false)).0.is_empty());
        assert!(incidents(&log(again(), true)).0.is_empty());
        assert_eq!(incidents(&log(again(), false)).0.len(), 1);
        assert_eq!(incidents(&log(Some(step(2, "freeze-intake", 8)), true)).0.len(), 1);
    }
}
