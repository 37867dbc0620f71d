//! Chaos: the real set under load, and every so often one of its processes is killed, crashed or stopped. Afterwards
//! nothing that anybody was promised may be missing, and nothing may be left over.
//!
//! A run is made of rounds, each the life of one broker on the same state directory, because supervision rightly gives a
//! set up whose roles die too often: a new broker counts anew. Clients run within rounds; what they were told is compared
//! with the logs at the end.

pub mod aim;
pub mod load;
mod proof;

use crate::{As, Sandbox, System, is_alive};
use aim::Aim;
use load::Told;
use proof::Processes;
use proto::audit::Stream;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest that one broker lives.
const ROUND: Duration = Duration::from_secs(60);
/// Between two hits.
const BETWEEN: Duration = Duration::from_millis(1_000);
/// How long a hit role may take to serve again: a death, and a role that is only found to hang.
const BACK: Duration = Duration::from_secs(15);
const BACK_HUNG: Duration = Duration::from_secs(30);

/// Runs of this process so far.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Who starts the set.
    pub who: As,
    /// How long.
    pub length: Duration,
    /// For the choice of hits.
    pub seed: u64,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Report {
    /// Hits by role and signal.
    pub hits: BTreeMap<(String, &'static str), u32>,
    /// Longest return to service by signal, in milliseconds.
    pub back_ms: BTreeMap<&'static str, u128>,
    /// Lockdowns that followed.
    pub lockdowns: u32,
    /// Lines about what was seen.
    pub facts: Vec<String>,
    /// Everything that should not be; empty where all held.
    pub broken: Vec<String>,
}

struct Hit {
    role: String,
    epoch: u64,
    signal: &'static str,
    at: Instant,
}

struct Run<'r> {
    plan: Plan,
    system: System,
    aim: Aim,
    told: &'r Told,
    report: Report,
    begin: Instant,
    /// In the text of every command of this run, and of no other.
    marker: String,
}

/// Carries a plan out; `say` gets a line now and then.
///
/// # Panics
/// Where the set cannot be started at all.
pub fn run(plan: Plan, mut say: impl FnMut(&str)) -> Report {
    let told = Told::default();
    let mut run = Run {
        plan,
        system: System::prepare(plan.who, &Sandbox::Native),
        aim: Aim::new(plan.seed),
        told: &told,
        report: Report::default(),
        begin: Instant::now(),
        marker: format!("chaos{}x{}x", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed)),
    };
    let mut number = 0;
    while run.begin.elapsed() < plan.length {
        number += 1;
        run.round(number, &mut say);
        if !run.report.broken.is_empty() {
            break;
        }
    }
    run.conclude()
}

impl Run<'_> {
    fn round(&mut self, number: u32, say: &mut impl FnMut(&str)) {
        self.system.up();
        self.aim.forget();
        let token = self.system.token();
        let port = self.system.port();
        if !self.system.chat("/exec echo warm").contains("warm") {
            return self.broken("no command runs even before the first hit");
        }
        let before = Processes::of(&self.rows());
        self.told.stop.store(false, Ordering::Release);
        let (told, marker) = (self.told, self.marker.clone());
        std::thread::scope(|scope| {
            for client in 0..2 {
                let (token, marker) = (&token, &marker);
                scope.spawn(move || load::logins(told, port, token));
                scope.spawn(move || load::commands(told, port, token, &format!("{marker}{number}x{client}")));
            }
            scope.spawn(move || load::healths(told, port));
            self.storm(say);
            told.stop.store(true, Ordering::Release);
        });
        if let Some(leak) = before.wait_flat(|| Processes::of(&self.rows())) {
            self.broken(&leak);
        }
        let pids = Processes::of(&self.rows()).pids();
        let output = self.system.moltbot(&["down"]);
        if !output.status.success() {
            self.broken(&format!("down: {}", String::from_utf8_lossy(&output.stderr)));
        }
        for pid in pids {
            if !proof::gone(pid) {
                self.broken(&format!("process {pid} outlived its set"));
            }
        }
        for orphan in proof::orphans(self.system.state(), &self.marker) {
            self.broken(&format!("left over: {orphan}"));
        }
    }

    /// Hits until the round is over, and then waits for everybody to be back.
    fn storm(&mut self, say: &mut impl FnMut(&str)) {
        let round = Instant::now();
        let length = ROUND.min(self.plan.length.saturating_sub(self.begin.elapsed()));
        let (mut open, mut said): (Vec<Hit>, Instant) = (Vec::new(), Instant::now());
        loop {
            let turn = Instant::now();
            let status = self.status();
            let rows = rows(&status);
            if rows.is_empty() {
                return self.broken("broker does not answer: the set was given up");
            }
            open.retain(|hit| !self.is_back(hit, &rows));
            let is_open = self.is_open(&status);
            for hit in open.iter().filter(|hit| hit.at.elapsed() > bound(hit.signal)) {
                self.report.broken.push(format!("{} is not back after {}", hit.role, hit.signal));
            }
            if !self.report.broken.is_empty() {
                return;
            }
            let over = round.elapsed() >= length;
            if over && open.is_empty() && is_open {
                return;
            }
            if !over {
                let ready: Vec<String> = ready(&rows, &open);
                let now = u64::try_from(round.elapsed().as_millis()).unwrap();
                open.extend(
                    self.aim.next(&ready, now).and_then(|(role, signal, name)| self.hit(&rows, role, signal, name)),
                );
            }
            if said.elapsed() >= Duration::from_secs(10) {
                said = Instant::now();
                say(&self.progress());
            }
            std::thread::sleep(BETWEEN.saturating_sub(turn.elapsed()));
        }
    }

    fn hit(&mut self, rows: &[Value], role: String, signal: Signal, name: &'static str) -> Option<Hit> {
        let row = rows.iter().find(|row| row["role"] == role.as_str())?;
        let pid = u32::try_from(row["pid"].as_u64()?).ok()?;
        let epoch = row["epoch"].as_u64()?;
        *self.report.hits.entry((role.clone(), name)).or_default() += 1;
        let at = Instant::now();
        proof::send(pid, signal);
        // std's handler for stack overflows takes the first SIGSEGV that is sent, and gives the next its default.
        while signal == Signal::SEGV && is_alive(pid) && at.elapsed() < BACK {
            std::thread::sleep(Duration::from_millis(1));
            proof::send(pid, signal);
        }
        Some(Hit { role, epoch, signal: name, at })
    }

    fn is_back(&mut self, hit: &Hit, rows: &[Value]) -> bool {
        let row = rows.iter().find(|row| row["role"] == hit.role.as_str());
        let back = row.is_some_and(|row| row["state"] == "ready" && row["epoch"].as_u64() > Some(hit.epoch));
        if back {
            let took = hit.at.elapsed().as_millis();
            let longest = self.report.back_ms.entry(hit.signal).or_default();
            *longest = (*longest).max(took);
        }
        back
    }

    /// Deaths that look like attacks are reacted to: the second within an hour locks the set down, and a conversation whose
    /// command was running stays apart, until the operator has looked. Here he looks at once.
    fn is_open(&mut self, status: &Value) -> bool {
        let lockdown = &status["lockdown"];
        let quarantined = lockdown["quarantined"].as_array().is_some_and(|sessions| !sessions.is_empty());
        if lockdown["mode"] == "locked" {
            self.report.lockdowns += 1;
        }
        if lockdown["mode"] == "locked" || quarantined {
            let _ = self.system.moltbot(&["lockdown", "clear"]);
        }
        lockdown["mode"] == "open" && !quarantined
    }

    fn status(&self) -> Value {
        serde_json::from_slice(&self.system.moltbot(&["status", "--json"]).stdout).unwrap_or_default()
    }

    fn rows(&self) -> Vec<Value> {
        rows(&self.status())
    }

    fn broken(&mut self, what: &str) {
        self.report.broken.push(what.to_owned());
    }

    fn progress(&self) -> String {
        let told = self.told;
        format!(
            "{:>4} s  {:>3} hits  {:>6} logins  {:>7} healths  {:>6} commands  {:>5} failed  {} refused  load {}",
            self.begin.elapsed().as_secs(),
            self.report.hits.values().sum::<u32>(),
            told.logins.load(Ordering::Relaxed),
            told.healths.load(Ordering::Relaxed),
            told.commands.lock().unwrap().len(),
            told.failed.load(Ordering::Relaxed),
            told.refused.load(Ordering::Relaxed),
            crate::load_average(),
        )
    }

    /// What the logs say of what the clients were told.
    fn conclude(mut self) -> Report {
        let progress = self.progress();
        let refused = self.told.refused.load(Ordering::Relaxed);
        if refused > 0 {
            self.broken(&format!("{refused} TCP connections were refused"));
        }
        let logs = self.system.state().join("logs");
        let mut broken = proof::verify(&logs);
        let commands = self.told.commands.lock().unwrap().clone();
        broken.extend(proof::missing_commands(&proof::records(&logs, Stream::Command), &commands));
        let accepted = proof::records(&logs, Stream::Auth).iter().filter(|record| record["success"] == true).count();
        let logins = usize::try_from(self.told.logins.load(Ordering::Relaxed)).unwrap();
        if accepted < logins {
            broken.push(format!("{logins} logins were accepted and {accepted} are in the log"));
        }
        let system = proof::records(&logs, Stream::System);
        let (accused, deaths) = proof::supervision(&system);
        broken.extend(accused);
        let (incomplete, incidents, killed) = proof::incidents(&system);
        broken.extend(incomplete);
        let hits: u32 = self.report.hits.values().sum();
        let hits = usize::try_from(hits).unwrap();
        // A role that does not do its part of a reaction in time is killed for it; it may be one that a hit has stopped.
        if !(hits..=hits + killed).contains(&deaths) {
            broken.push(format!("{hits} hits and {deaths} deaths: somebody died who was not hit, or did not die"));
        }
        if commands.is_empty() || logins == 0 {
            broken.push("the load did nothing".to_owned());
        }
        let outage = *self.told.outage.lock().unwrap();
        let refusals = self.told.refusals.lock().unwrap().clone();
        self.report.broken.extend(broken);
        self.report.facts = vec![
            progress,
            format!("{} commands acknowledged, each with intent and outcome in the log", commands.len()),
            format!("{logins} logins accepted, {accepted} in the log; {deaths} deaths for {hits} hits"),
            format!(
                "{incidents} incidents, each with every step of its reaction in the log; {killed} steps had to kill"
            ),
            format!("{} lockdowns, each cleared by the operator", self.report.lockdowns),
            format!("longest time that one client waited for its next answer: {} ms", outage.as_millis()),
            format!("refusals by rule: {refusals:?}"),
        ];
        if !self.report.broken.is_empty() {
            self.report.facts.push(self.system.log());
        }
        self.report
    }
}

fn rows(status: &Value) -> Vec<Value> {
    status["roles"].as_array().cloned().unwrap_or_default()
}

fn bound(signal: &str) -> Duration {
    if signal == "STOP" { BACK_HUNG } else { BACK }
}

/// Roles that serve and are not in the middle of a hit. Broker is not one of them: its death is the set's.
fn ready(rows: &[Value], open: &[Hit]) -> Vec<String> {
    let serves = |row: &&Value| row["state"] == "ready" && row["role"] != "broker";
    let names = rows.iter().filter(serves).filter_map(|row| row["role"].as_str());
    names.filter(|role| open.iter().all(|hit| hit.role != *role)).map(str::to_owned).collect()
}
