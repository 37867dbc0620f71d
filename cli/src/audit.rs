//! `moltbot security audit`: what is weak about this installation, by the files as they lie there, the configuration as it
//! is written, and what runs as the kernel sees it. Facts are gathered first; every rule is a function of them.
//!
//! It trusts broker's word about processes and the vault's about secrets: a fallen one of these can hide, which is what
//! `--deep` is against, where the log and the walls are looked at past them.

mod exposure;
mod facts;
mod files;
mod fix;
mod live;
mod report;

pub use facts::{FileFact, gather_files};
pub use files::expected;
pub use fix::modes as mend_modes;

use crate::CliError;
use crate::args::{Args, AuditOptions};
use config::rules::{Finding, Severity};
use facts::Facts;
use std::path::Path;

/// Carries it out.
///
/// # Errors
/// [`CliError`]; also where the score is below what `--min-score` wants.
pub fn run(dir: &Path, options: &AuditOptions, args: &Args) -> Result<(), CliError> {
    let mut facts = Facts::gather(dir, options.deep)?;
    let mut fixed = None;
    if options.fix {
        let outcome = fix::fix(dir, &facts, options.dry_run)?;
        if !options.dry_run {
            facts = Facts::gather(dir, options.deep)?;
        }
        fixed = Some(outcome);
    }
    let findings = findings(&facts);
    report::print(&facts, &findings, fixed.as_ref(), options, args)?;
    let score = config::rules::score(&findings);
    match options.min_score {
        Some(least) if score < u32::from(least) => {
            Err(CliError::Failed(format!("the score is {score}, below {least}")))
        }
        _ => Ok(()),
    }
}

/// What `--deep --json` prints.
///
/// # Errors
/// [`CliError`].
pub fn as_json(dir: &Path) -> Result<serde_json::Value, CliError> {
    let facts = Facts::gather(dir, true)?;
    Ok(report::as_json(&facts, &findings(&facts), None, false))
}

/// Every finding, the worst first.
fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = files::findings(facts);
    all.extend(live::findings(facts));
    match &facts.config {
        Ok(config) => all.extend(config::rules::findings(config)),
        Err(error) => all.push(finding(
            Severity::Critical,
            "config.invalid",
            "moltbot.json",
            "the configuration does not load",
            error,
            "`moltbot config validate` says where; Moltbot does not start with it",
        )),
    }
    for found in &mut all {
        // To the loader it is a refusal; to whoever counts it is as bad as it gets.
        if found.severity == Severity::Refused {
            found.severity = Severity::Critical;
        }
    }
    all.sort_by(|one, other| one.severity.cmp(&other.severity).then_with(|| one.id.cmp(&other.id)));
    all
}

fn finding(severity: Severity, id: &str, path: &str, title: &str, detail: &str, remediation: &str) -> Finding {
    let text = str::to_owned;
    Finding {
        id: text(id),
        severity,
        path: text(path),
        title: text(title),
        detail: text(detail),
        remediation: text(remediation),
    }
}

#[cfg(test)]
mod tests;
