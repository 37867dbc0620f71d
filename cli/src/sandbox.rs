//! `moltbot sandbox`: how commands are judged, and by way of `watch` what became of them. The same code as sandboxd's, on the same configuration, so that rules can be
//! tried before anything starts with them.

use crate::args::{Args, How, PlaceName, RulesCommand, SandboxCommand};
use crate::paint::Paint;
use crate::propose::Proposal;
use crate::watch;
use crate::{CliError, confirm};
use command::decide::{Decision, Facts, Place, Policy};
use command::rules::{Outcome, built_in, read};
use command::show::visible;
use config::Config;
use serde_json::{Value, json};
use std::path::Path;

mod conversation;

/// Carries the command out.
///
/// # Errors
/// [`CliError`]; also where an example of a rule comes out the other way.
pub fn run(dir: &Path, command: &SandboxCommand, args: &Args) -> Result<(), CliError> {
    match command {
        SandboxCommand::Explain { what, .. } if conversation::is_key(what) => conversation::show(dir, what, args),
        SandboxCommand::Explain { what, session, backend, tainted } => {
            explain(dir, what, session, *backend, *tainted, args)
        }
        SandboxCommand::List => watch::list(dir, args),
        SandboxCommand::Logs { session } => watch::log(dir, session.as_deref(), args),
        SandboxCommand::Kill { session } => watch::kill(dir, session, args),
        SandboxCommand::Evidence { session } => watch::evidence(dir, session.as_deref(), args),
        SandboxCommand::Rules { command: RulesCommand::List } => list(&policy(dir)?, args),
        SandboxCommand::Rules { command: RulesCommand::Test { file } } => test(dir, file.as_deref(), args),
        SandboxCommand::Rules { command: RulesCommand::Propose { command, session } } => {
            let proposal = Proposal::of(dir, command, session, conversation::standing(dir, session)?.0)?;
            if args.json {
                println!("{}", proposal.as_json());
            } else {
                print!("{}", proposal.as_text(Paint::new(args)));
            }
            Ok(())
        }
        SandboxCommand::Rules { command: RulesCommand::Add { command, session, how } } => {
            let proposal = Proposal::of(dir, command, session, conversation::standing(dir, session)?.0)?;
            eprint!("{}", proposal.as_text(Paint::new(args)));
            if !how.yes && !how.dry_run {
                confirm::confirm("adding the rule", "Let its like run unasked from now on?")?;
            }
            proposal.add(dir, How { yes: true, ..*how }, args)
        }
    }
}

/// What a command would do, and which rule decides about it; for a conversation as it stands now, unless told otherwise.
///
/// # Errors
/// [`CliError`].
pub fn explain(
    dir: &Path,
    command: &str,
    session: &str,
    backend: Option<PlaceName>,
    tainted: bool,
    args: &Args,
) -> Result<(), CliError> {
    let (place, standing) = match backend {
        Some(PlaceName::Docker) => (Place::Docker, None),
        Some(PlaceName::Native) => (Place::Native, None),
        None => conversation::standing(dir, session)?,
    };
    let tainted = tainted || standing.as_ref().is_some_and(|standing| standing.tainted);
    let facts = Facts { session, place, tainted };
    let decision = policy(dir)?.decide(command, &facts);
    if args.json {
        println!("{}", as_json(&decision, &facts));
        return Ok(());
    }
    print!("{}", as_text(command, &decision, &facts, Paint::new(args)));
    if let Some(caution) = standing.as_deref().and_then(conversation::caution) {
        println!("         {caution}");
    }
    Ok(())
}

/// The rules in force.
///
/// # Errors
/// [`CliError`] where the configuration does not load.
pub fn policy(dir: &Path) -> Result<Policy, CliError> {
    let config = Config::load(&dir.join("moltbot.json")).map_err(CliError::failed)?;
    Policy::from_json(&config.exec_json()).map_err(|error| CliError::Failed(format!("tools.exec: {error}")))
}

fn list(policy: &Policy, args: &Args) -> Result<(), CliError> {
    for rule in policy.rules() {
        let (id, program, outcome) = (&rule.id, &rule.program, rule.outcome);
        if args.json {
            let line = json!({
                "id": id, "program": program, "decision": outcome, "for": rule.scope(), "example": rule.example(),
            });
            println!("{line}");
        } else {
            let outcome = painted(Paint::new(args), outcome, &format!("{:<6}", outcome.name()));
            println!("{outcome} {id:<20} {:<8} {}", rule.scope(), rule.example());
        }
    }
    Ok(())
}

fn test(dir: &Path, file: Option<&Path>, args: &Args) -> Result<(), CliError> {
    let rules = match file {
        None => policy(dir)?.rules().to_vec(),
        Some(path) => {
            let text = if path == Path::new("-") {
                std::io::read_to_string(std::io::stdin())
            } else {
                std::fs::read_to_string(path)
            };
            let text = text.map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))?;
            let mut rules = built_in().map_err(CliError::failed)?;
            rules.extend(read(&text).map_err(CliError::failed)?);
            rules
        }
    };
    let examples: usize = rules.iter().map(command::rules::Rule::examples).sum();
    if args.json {
        println!("{}", json!({ "ok": true, "rules": rules.len(), "examples": examples }));
    } else {
        println!("{} rules stood their {examples} examples", rules.len());
    }
    Ok(())
}

fn painted(paint: Paint, outcome: Outcome, text: &str) -> String {
    match outcome {
        Outcome::Allow => paint.good(text),
        Outcome::Ask => paint.warn(text),
        Outcome::Deny => paint.bad(text),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The verdict as JSON; its keys are an interface.
fn as_json(decision: &Decision, facts: &Facts<'_>) -> Value {
    let plan = decision.plan.as_ref();
    json!({
        "decision": decision.outcome,
        "rule": decision.rule,
        "why": decision.why,
        "sessionClass": facts.class().name(),
        "backend": facts.place.name(),
        "plan": plan.map(command::plan::Plan::shell),
        "argv": plan.and_then(command::plan::Plan::argv),
        "digest": plan.map(|plan| hex(&plan.digest())),
    })
}

/// The verdict for a person.
fn as_text(command: &str, decision: &Decision, facts: &Facts<'_>, paint: Paint) -> String {
    let mut text = format!("command  {}\n", visible(command));
    text.push_str(&format!("session  {} ({}), {}\n", visible(facts.session), facts.class().name(), facts.place.name()));
    match &decision.plan {
        Some(plan) => {
            let how = if plan.argv().is_some() { "by itself" } else { "by a shell, every word quoted" };
            text.push_str(&format!(
                "plan     {}\n         runs {how}, in {}\n",
                visible(&plan.shell()),
                command::plan::CWD
            ));
            text.push_str(&format!("digest   {}\n", hex(&plan.digest())));
        }
        None => text.push_str("plan     none\n"),
    }
    for why in &decision.why {
        text.push_str(&format!("         {}\n", visible(why)));
    }
    let outcome = painted(paint, decision.outcome, decision.outcome.name());
    text.push_str(&format!("verdict  {outcome} ({})\n", decision.rule));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(text: &str) -> String {
        let policy = Policy::from_json(r#"{"ask":"on-miss"}"#).unwrap();
        let facts = Facts { session: "agent:main:main", place: Place::Docker, tainted: false };
        as_text(text, &policy.decide(text, &facts), &facts, Paint::plain())
    }

    #[test]
    fn explanation_says_plan_rule_and_reason_and_hides_nothing() {
        let text = explained("ls src | wc -l");
        assert!(text.contains("'/usr/bin/ls' 'src' | '/usr/bin/wc' '-l'") && text.contains("allow (ls)"), "{text}");
        let text = explained("ls --hyper src");
        assert!(text.contains("--hyper is not in the grammar") && text.contains("ask (miss)"), "{text}");
        let text = explained("ls \u{202e}");
        assert!(
            text.contains("ls ⟨U+202E⟩") && text.contains("deny (unclear)") && !text.contains('\u{202e}'),
            "{text}"
        );
    }
}
