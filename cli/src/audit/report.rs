//! The audit's outcome: for a person, for a program (upstream's shape, with score and rating beside it), and as SARIF 2.1.0
//! for what collects findings of many tools.

use super::facts::Facts;
use super::fix::Action;
use crate::CliError;
use crate::args::{Args, AuditOptions};
use crate::paint::{Paint, beside, columns, folded, harmless};
use config::rules::{Finding, Severity, rating, score};
use proto::auth::{DeviceRow, DeviceState};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;

/// Severities as they are shown.
const GROUPS: [(Severity, &str); 3] =
    [(Severity::Critical, "CRITICAL"), (Severity::Warn, "WARN"), (Severity::Info, "INFO")];

pub(super) fn print(
    facts: &Facts,
    findings: &[Finding],
    fixed: Option<&Vec<Action>>,
    options: &AuditOptions,
    args: &Args,
) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    if options.sarif {
        writeln!(out, "{}", serde_json::to_string_pretty(&sarif(findings)).map_err(CliError::failed)?)?;
    } else if args.json {
        writeln!(out, "{}", as_json(facts, findings, fixed, options.dry_run))?;
    } else {
        write!(out, "{}", as_text(facts, findings, fixed, options, Paint::new(args)))?;
    }
    Ok(())
}

/// What of it can be reached, by whom, and what it reaches. A summary, and so no finding: it costs nothing.
fn surface(facts: &Facts) -> Vec<(&'static str, Vec<String>)> {
    let is_paired = |row: &&DeviceRow| matches!(row.state, DeviceState::Paired | DeviceState::PairedWithToken);
    let mut parts = vec![
        ("listens", facts.status.iter().map(|status| status.listen.to_string()).collect()),
        ("devices", facts.devices.iter().filter(is_paired).map(|row| row.name.to_string()).collect()),
        ("senders", facts.senders.iter().map(|row| format!("{}:{}", row.channel.0, row.sender.0)).collect()),
    ];
    if let Ok(config) = &facts.config {
        let channels = config.channels.iter().filter(|(_, channel)| channel.enabled);
        parts.push(("channels", channels.map(|(name, _)| name.to_owned()).collect()));
        parts.push(("reaches", [config.allowed(), config.local(true), config.local(false)].concat()));
    }
    parts
}

fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|found| found.severity == severity).count()
}

pub(super) fn as_json(facts: &Facts, findings: &[Finding], fixed: Option<&Vec<Action>>, dry_run: bool) -> Value {
    let rows: Vec<Value> = findings
        .iter()
        .map(|found| {
            json!({ "checkId": found.id, "severity": found.severity, "path": found.path, "title": found.title,
                "detail": found.detail, "remediation": found.remediation })
        })
        .collect();
    let score = score(findings);
    let mut report = json!({
        "ts": facts.now.saturating_mul(1_000),
        "score": score,
        "rating": rating(score),
        "summary": { "critical": count(findings, Severity::Critical), "warn": count(findings, Severity::Warn),
            "info": count(findings, Severity::Info) },
        "findings": rows,
        "attackSurface": surface(facts).into_iter().collect::<BTreeMap<_, _>>(),
    });
    if let (Some(deep), Some(report)) = (&facts.deep, report.as_object_mut()) {
        let error = &deep.probe;
        let log: BTreeMap<&str, &str> = deep.log.iter().map(|(stream, what)| (&**stream, &**what)).collect();
        let gateway = json!({ "attempted": facts.status.is_some(), "ok": facts.status.is_some() && error.is_none(), "error": error });
        report.insert("deep".to_owned(), json!({ "gateway": gateway, "log": log, "walls": deep.walls }));
    }
    match fixed {
        None => report,
        Some(actions) => {
            let rows: Vec<Value> = actions
                .iter()
                .map(|action| json!({ "what": action.what, "path": action.path, "change": action.change, "ok": action.error.is_none(), "error": action.error }))
                .collect();
            let ok = actions.iter().all(|action| action.error.is_none());
            json!({ "fix": { "ok": ok, "dryRun": dry_run, "stateDir": facts.dir, "actions": rows }, "report": report })
        }
    }
}

fn as_text(
    facts: &Facts,
    findings: &[Finding],
    fixed: Option<&Vec<Action>>,
    options: &AuditOptions,
    paint: Paint,
) -> String {
    let score = score(findings);
    let colour = |text: &str| match score {
        80.. => paint.good(text),
        50.. => paint.warn(text),
        _ => paint.bad(text),
    };
    let mut text = format!("Moltbot security audit of {}\n", facts.dir.display());
    text += &format!("Score {} of 100, {}\n", colour(&score.to_string()), colour(rating(score)));
    let lost: Vec<String> = GROUPS
        .iter()
        .map(|(severity, name)| {
            let many = count(findings, *severity);
            let points = u32::try_from(many).unwrap_or(u32::MAX).saturating_mul(severity.points());
            format!("{many} {} (-{points})", name.to_lowercase())
        })
        .collect();
    text += &format!("{}\n", lost.join(" · "));
    for (what, which) in surface(facts).into_iter().filter(|(_, which)| !which.is_empty()) {
        let line = format!("{what:<9} {}", harmless(&which.join(", ")));
        text += &paint.dim(&format!("{}\n", beside(10, &line)));
    }
    for (severity, name) in GROUPS {
        let some: Vec<&Finding> = findings.iter().filter(|found| found.severity == severity).collect();
        if some.is_empty() {
            continue;
        }
        let head = format!("\n{name}\n");
        text += &match severity {
            Severity::Refused | Severity::Critical => paint.bad(&head),
            Severity::Warn => paint.warn(&head),
            Severity::Info => paint.dim(&head),
        };
        for found in some {
            text += &format!("  {}  {}\n", harmless(&found.id), harmless(&found.title));
            if !found.path.is_empty() {
                text += &paint.dim(&format!("    at  {}\n", harmless(&found.path)));
            }
            let columns = columns();
            for line in found.detail.lines() {
                text += &format!("    {}\n", folded(&harmless(line), 4, columns.saturating_sub(4)));
            }
            text += &format!("    fix {}\n", folded(&harmless(&found.remediation), 8, columns.saturating_sub(8)));
        }
    }
    if let Some(actions) = fixed {
        text += if options.dry_run { "\nWOULD BE FIXED\n" } else { "\nFIXED\n" };
        if actions.is_empty() {
            text += "  nothing: there is nothing that can be mended without you\n";
        }
        for action in actions {
            let line = format!("  {}  {}  {}", action.what, action.path.display(), action.change);
            text += &match &action.error {
                None => paint.good(&line),
                Some(error) => paint.bad(&format!("{line}: {error}")),
            };
            text.push('\n');
        }
    }
    if !options.deep {
        text += &paint.dim("\nmoltbot security audit --deep checks the log, the walls and the gateway as well\n");
    }
    text
}

fn sarif(findings: &[Finding]) -> Value {
    let rules: BTreeMap<&str, &Finding> = findings.iter().map(|found| (&*found.id, found)).collect();
    let rules: Vec<Value> = rules
        .values()
        .map(|found| {
            json!({ "id": found.id, "shortDescription": { "text": found.title }, "help": { "text": found.remediation } })
        })
        .collect();
    let level = |severity| match severity {
        Severity::Refused | Severity::Critical => "error",
        Severity::Warn => "warning",
        Severity::Info => "note",
    };
    let results: Vec<Value> = findings
        .iter()
        .map(|found| {
            let text = format!("{}: {}", found.title, found.detail);
            let uri = if found.path.is_empty() { "moltbot" } else { &found.path };
            json!({ "ruleId": found.id, "level": level(found.severity), "message": { "text": text },
                "locations": [{ "logicalLocations": [{ "fullyQualifiedName": uri }] }] })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": { "name": "moltbot", "version": env!("CARGO_PKG_VERSION"), "rules": rules } },
            "results": results,
        }],
    })
}
