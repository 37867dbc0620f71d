//! A rule out of a command: what it would be, and what of the past it would have let run unasked. Nothing of it counts before
//! the operator has seen both.

use crate::CliError;
use crate::args::{Args, How};
use crate::config::append_rules;
use crate::logs;
use crate::paint::Paint;
use command::decide::{Facts, Place, Policy};
use command::propose::propose;
use command::rules::Outcome;
use command::show::visible;
use proto::audit::Stream;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far the preview looks back.
const PAST: Duration = Duration::from_secs(30 * 86_400);
/// Commands of the preview that are shown.
const SHOWN: usize = 10;
/// Equal questions within this are a nuisance.
const LATELY: Duration = Duration::from_secs(3_600);

/// Rules that a command would need, and what they would have let run.
pub struct Proposal {
    rules: Vec<Value>,
    /// Each command of the past that was asked about and would not have been, with how often.
    past: BTreeMap<String, usize>,
}

impl Proposal {
    /// Makes one; nothing changes.
    ///
    /// # Errors
    /// [`CliError`], also where there is no rule for the command.
    pub fn of(dir: &Path, command: &str, session: &str, place: Place) -> Result<Self, CliError> {
        let policy = crate::sandbox::policy(dir)?;
        let rules = propose(&policy, command, &Facts { session, place, tainted: false })
            .map_err(|why| CliError::Failed(format!("no rule is proposed for it: {}", visible(&why))))?;
        let more = policy
            .with(&Value::from(rules.clone()).to_string())
            .map_err(|error| CliError::Failed(format!("the proposed rule does not stand its examples: {error}")))?;
        let past = past(dir, &policy, &more)?;
        Ok(Self { rules, past })
    }

    /// Puts the rules into the configuration.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn add(&self, dir: &Path, how: How, args: &Args) -> Result<(), CliError> {
        append_rules(dir, &self.rules, how, args)
    }

    /// As JSON; its keys are an interface.
    pub fn as_json(&self) -> Value {
        let past = |(command, times): (&String, &usize)| json!({ "command": visible(command), "times": times });
        json!({ "rules": self.rules, "past": self.past.iter().map(past).collect::<Vec<_>>() })
    }

    /// For a person.
    pub fn as_text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            let of = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let list = |name: &str| {
                let items = rule.get(name).and_then(Value::as_array).into_iter().flatten();
                items.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            };
            text += &format!("rule      allow {}\n", visible(&of("program")));
            text +=
                &format!("options   {}\noperands  {}\n", none_or(&of("options")), none_or(&visible(&of("operands"))));
            text += &format!("for       agents {}, sessions {}\n", none_or(&list("agents")), list("sessions"));
        }
        if self.past.is_empty() {
            text += "past      nothing else of the last 30 days would have run unasked\n";
        }
        let total: usize = self.past.values().sum();
        for (at, (command, times)) in self.past.iter().take(SHOWN).enumerate() {
            let head = if at == 0 {
                format!("past      {total} of the last 30 days would have run unasked:\n")
            } else {
                String::new()
            };
            text += &format!("{head}          {times:>4} x {}\n", paint.warn(&visible(command)));
        }
        if self.past.len() > SHOWN {
            text += &format!("          and {} others\n", self.past.len() - SHOWN);
        }
        text
    }
}

fn none_or(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// What was asked about and would not have been.
fn past(dir: &Path, policy: &Policy, more: &Policy) -> Result<BTreeMap<String, usize>, CliError> {
    let mut found = BTreeMap::new();
    each_command(dir, PAST, &mut |record| {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let place = if text("backend").starts_with("native") { Place::Native } else { Place::Docker };
        let facts = Facts { session: text("sessionKey"), place, tainted: false };
        let outcome = |policy: &Policy| policy.decide(text("command"), &facts).outcome;
        if outcome(policy) == Outcome::Ask && outcome(more) == Outcome::Allow {
            let times: &mut usize = found.entry(text("command").to_owned()).or_default();
            *times = times.saturating_add(1);
        }
    })?;
    Ok(found)
}

/// How often each command of each conversation was asked about lately, and neither denied nor allowed by a rule.
///
/// # Errors
/// [`CliError`].
pub fn asked_lately(dir: &Path) -> Result<BTreeMap<(String, String), usize>, CliError> {
    let mut found = BTreeMap::new();
    each_command(dir, LATELY, &mut |record| {
        let text = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
        let asked = text("allowedBy").starts_with("approval ")
            || matches!(text("rule"), "exec.unanswered" | "exec.not_approved");
        if asked {
            let times: &mut usize =
                found.entry((text("sessionKey").to_owned(), text("command").to_owned())).or_default();
            *times = times.saturating_add(1);
        }
    })?;
    Ok(found)
}

/// Every command of the log that is not older than `age`.
fn each_command(dir: &Path, age: Duration, take: &mut dyn FnMut(&Value)) -> Result<(), CliError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = now.saturating_sub(age);
    let mut each = |line: &str| {
        let Ok(record) = serde_json::from_str::<Value>(line) else { return Ok(()) };
        let at = record.get("ts").and_then(Value::as_str).and_then(|ts| logs::parse_time(ts).ok());
        if record.get("command").is_some() && at.is_some_and(|at| at >= since) {
            take(&record);
        }
        Ok(())
    };
    match logs::each(dir, Stream::Command, &mut each) {
        // A log that was never begun holds no command.
        Err(_) if !dir.join("logs").exists() => Ok(()),
        other => other,
    }
}
