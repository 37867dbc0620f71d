//! `moltbot drill run`: every attack on every role's wall, from behind a copy of it, as a table or as JSON.

use crate::CliError;
use crate::args::Args;
use crate::door::{Door, unexpected};
use crate::paint::Paint;
use proto::ids::Role;
use proto::operator::{OperatorReply, OperatorRequest};
use proto::probe::{Attempt, DrillReport, Verdict};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest that the drill of one role may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks for news.
const PAUSE: Duration = Duration::from_millis(20);

/// What was found of one role.
struct Finding {
    role: Role,
    attempts: Vec<Attempt>,
}

impl Finding {
    fn count(&self, verdict: Verdict) -> usize {
        self.attempts.iter().filter(|attempt| attempt.verdict == verdict).count()
    }

    /// The attempts that nothing was seen to hold, each with what became of it.
    fn faults(&self) -> impl Iterator<Item = String> {
        let faults = self.attempts.iter().filter(|attempt| matches!(attempt.verdict, Verdict::Hole | Verdict::Unclear));
        faults.map(|attempt| format!("{} of {} ({})", attempt.probe, self.role, attempt.outcome))
    }
}

/// Runs the drill of every role and prints what came out.
///
/// # Errors
/// [`CliError`]; also where a wall has a hole, so that scripts need not read the table.
pub fn run(dir: &Path, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    let found = Role::ALL.into_iter().map(|role| attack(&mut door, role)).collect::<Result<Vec<_>, _>>()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", as_json(&found))?;
    } else {
        write!(out, "{}", as_text(&found, Paint::new(args)))?;
    }
    let faults: Vec<String> = found.iter().flat_map(Finding::faults).collect();
    if faults.is_empty() { Ok(()) } else { Err(CliError::Failed(format!("not held: {}", faults.join(", ")))) }
}

fn attack(door: &mut Door, role: Role) -> Result<Finding, CliError> {
    door.ask(&OperatorRequest::DrillStart(role))?;
    let until = Instant::now() + PATIENCE;
    let mut attempts = Vec::new();
    while Instant::now() < until {
        match door.ask(&OperatorRequest::DrillReport(role))? {
            (OperatorReply::Drill(Some(DrillReport::Attempts(some))), _) => attempts.extend(some.iter().cloned()),
            (OperatorReply::Drill(Some(DrillReport::Done(_))), _) => return Ok(Finding { role, attempts }),
            (OperatorReply::Drill(None), _) => std::thread::sleep(PAUSE),
            _ => return Err(unexpected()),
        }
    }
    Err(CliError::Failed(format!("the drill of {role} did not end within {} s", PATIENCE.as_secs())))
}

/// The findings as JSON; its keys are an interface.
fn as_json(found: &[Finding]) -> serde_json::Value {
    let attempt = |attempt: &Attempt| {
        json!({
            "probe": attempt.probe.as_str(),
            "outcome": attempt.outcome.to_string(),
            "verdict": attempt.verdict.name(),
            "why": attempt.why.as_str(),
        })
    };
    let role = |it: &Finding| {
        let counts = Verdict::ALL.map(|verdict| (verdict.name().to_owned(), json!(it.count(verdict))));
        json!({
            "role": it.role.name(),
            "verdicts": serde_json::Map::from_iter(counts),
            "attempts": it.attempts.iter().map(attempt).collect::<Vec<_>>(),
        })
    };
    let holes: usize = found.iter().map(|it| it.count(Verdict::Hole)).sum();
    json!({ "ok": holes == 0, "holes": holes, "roles": found.iter().map(role).collect::<Vec<_>>() })
}

/// A row for each attack, a column for each role; below it the reasons of what is open, and the counts.
fn as_text(found: &[Finding], paint: Paint) -> String {
    let mut text = format!("{:<26}", "ATTACK");
    for it in found {
        text.push_str(&format!(" {:<9}", it.role.name().to_uppercase()));
    }
    let names = found.first().map(|it| it.attempts.as_slice()).unwrap_or_default();
    for (row, name) in names.iter().map(|attempt| attempt.probe.as_str()).enumerate() {
        text.push_str(&format!("\n{name:<26}"));
        for it in found {
            text.push(' ');
            text.push_str(&it.attempts.get(row).map(|attempt| cell(attempt, paint)).unwrap_or_default());
        }
    }
    text.push_str("\n\nKILL: the process died over it. ALLOW: through, for these reasons:\n");
    for it in found {
        let open = || it.attempts.iter().filter(|attempt| attempt.verdict == Verdict::Open);
        let reasons: BTreeSet<&str> = open().map(|attempt| attempt.why.as_str()).collect();
        for reason in reasons {
            let probes: Vec<&str> = open().filter(|it| it.why.as_str() == reason).map(|it| it.probe.as_str()).collect();
            text.push_str(&format!("  {}: {reason}:\n    {}\n", it.role, probes.join(" ")));
        }
    }
    text.push('\n');
    for it in found {
        let counts = Verdict::ALL.map(|verdict| format!("{} {}", it.count(verdict), verdict.name())).join(", ");
        let sound = it.count(Verdict::Hole) + it.count(Verdict::Unclear) == 0;
        let counts = if sound { paint.good(&counts) } else { paint.bad(&counts) };
        text.push_str(&format!("{:<10} {counts}\n", it.role.name()));
    }
    text
}

fn cell(attempt: &Attempt, paint: Paint) -> String {
    let outcome = match attempt.verdict {
        Verdict::Hole => "HOLE".to_owned(),
        _ => attempt.outcome.to_string(),
    };
    let padded = format!("{outcome:<9}");
    match attempt.verdict {
        Verdict::Held => padded,
        Verdict::Open => paint.warn(&padded),
        Verdict::Nothing => paint.dim(&padded),
        Verdict::Hole | Verdict::Unclear => paint.bad(&padded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::BoundedStr;
    use proto::probe::Outcome;

    #[test]
    fn hole_is_named_in_both_forms() {
        let attempt = |verdict| Attempt {
            probe: BoundedStr::truncated("fork"),
            outcome: Outcome::Allowed,
            verdict,
            why: BoundedStr::truncated("because"),
        };
        let finding = |role, verdict| Finding { role, attempts: vec![attempt(verdict)] };
        let found = [finding(Role::Vault, Verdict::Hole), finding(Role::Launcher, Verdict::Open)];
        let json = as_json(&found);
        assert_eq!((json["ok"].as_bool(), json["holes"].as_u64()), (Some(false), Some(1)));
        assert_eq!(json["roles"][1]["verdicts"]["open"], 1);
        let text = as_text(&found, Paint::plain());
        assert!(text.contains("HOLE") && text.contains("launcher: because:\n    fork\n"), "{text}");
        assert!(text.contains("0 held, 0 open, 1 hole"), "{text}");
    }
}
