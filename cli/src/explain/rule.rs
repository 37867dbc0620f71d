//! `moltbot explain rule RULE`: who refuses by a rule, what it is about, where to look, and when it last did. What a
//! refusal says of itself is the narrowest thing that would allow it; this is what is around it.

use crate::CliError;
use crate::args::Args;
use crate::logs;
use crate::paint::{Paint, columns, folded};
use proto::audit::Stream;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::Path;

/// Records that are shown.
const LAST: usize = 5;

/// Rules of one beginning.
#[derive(Debug)]
struct Family {
    /// What their names begin with, up to the point.
    name: &'static str,
    /// Whose they are.
    who: &'static str,
    about: &'static str,
    /// Commands that show what decides.
    see: &'static [&'static str],
}

const FAMILIES: [Family; 35] = [
    Family {
        name: "admin",
        who: "gateway",
        about: "what broker asks of the gateway for the operator",
        see: &["moltbot status"],
    },
    Family {
        name: "allowlist",
        who: "vault",
        about: "whom the operator lets in",
        see: &["moltbot allowlist list", "moltbot why CHANNEL:SENDER"],
    },
    Family {
        name: "approvals",
        who: "vault",
        about: "answers to what was asked, and what they are good for",
        see: &["moltbot approvals list", "moltbot approvals grants"],
    },
    Family {
        name: "audit",
        who: "auditd",
        about: "what cannot be recorded is not done",
        see: &["moltbot status", "moltbot logs verify", "df -h on the state directory"],
    },
    Family {
        name: "auth",
        who: "vault",
        about: "who is let in, and how often somebody may fail",
        see: &["moltbot logs auth", "moltbot devices list", "moltbot unlock"],
    },
    Family {
        name: "broker",
        who: "broker",
        about: "processes that do not answer, or do not run",
        see: &["moltbot status", "moltbot logs system"],
    },
    Family {
        name: "command",
        who: "sandboxd",
        about: "commands that are not understood, or too long",
        see: &["moltbot why 'COMMAND'"],
    },
    Family {
        name: "config",
        who: "broker",
        about: "a configuration that does not load",
        see: &["moltbot config validate", "moltbot config diff"],
    },
    Family { name: "devices", who: "vault", about: "devices, and what each may", see: &["moltbot devices list"] },
    Family {
        name: "dialer",
        who: "dialer",
        about: "names that resolve, and addresses that may be connected to",
        see: &["moltbot config get egress", "moltbot explain blast-radius dialer"],
    },
    Family {
        name: "drill",
        who: "broker",
        about: "what a role tries against its own wall",
        see: &["moltbot drill run", "moltbot confine-report"],
    },
    Family {
        name: "edit",
        who: "the runner in the sandbox",
        about: "an edit that does not fit the file",
        see: &["moltbot sandbox logs"],
    },
    Family {
        name: "egress",
        who: "egress",
        about: "requests to the outside, and with which credential",
        see: &["moltbot config get egress", "moltbot secrets list", "moltbot logs secret"],
    },
    Family {
        name: "exec",
        who: "sandboxd",
        about: "which commands run, and about which the operator is asked",
        see: &["moltbot why 'COMMAND'", "moltbot sandbox rules list", "moltbot approvals list"],
    },
    Family {
        name: "file",
        who: "the runner in the sandbox",
        about: "files of a workspace",
        see: &["moltbot why PATH", "moltbot sandbox list"],
    },
    Family {
        name: "grep",
        who: "the runner in the sandbox",
        about: "a pattern that is none",
        see: &["moltbot sandbox logs"],
    },
    Family { name: "http", who: "gateway", about: "what a browser may ask", see: &["moltbot config get gateway"] },
    Family {
        name: "incident",
        who: "broker",
        about: "reports for a responder",
        see: &["moltbot incident report --help"],
    },
    Family {
        name: "launcher",
        who: "launcher",
        about: "sandboxes without Docker",
        see: &["moltbot doctor", "moltbot sandbox list"],
    },
    Family {
        name: "lockdown",
        who: "broker",
        about: "nothing is let through until the operator says so",
        see: &["moltbot status", "moltbot logs system", "moltbot lockdown clear"],
    },
    Family { name: "operator", who: "broker", about: "what the operator's socket does", see: &["moltbot status"] },
    Family {
        name: "pairing",
        who: "vault",
        about: "strangers that ask to be let in, and their codes",
        see: &["moltbot pairing list", "moltbot logs auth"],
    },
    Family {
        name: "patch",
        who: "the runner in the sandbox",
        about: "a patch that does not fit",
        see: &["moltbot sandbox logs"],
    },
    Family {
        name: "process",
        who: "sandboxd",
        about: "commands that run in the background",
        see: &["moltbot sandbox list"],
    },
    Family {
        name: "role",
        who: "each role",
        about: "what one role may ask another",
        see: &["moltbot explain blast-radius ROLE"],
    },
    Family {
        name: "sandbox",
        who: "sandboxd",
        about: "what there is to confine a command with",
        see: &["moltbot sandbox list", "moltbot doctor", "moltbot sandbox logs"],
    },
    Family {
        name: "sandboxd",
        who: "sandboxd",
        about: "what one role may ask it",
        see: &["moltbot explain blast-radius sandboxd"],
    },
    Family {
        name: "secrets",
        who: "vault",
        about: "what the operator does with secrets",
        see: &["moltbot secrets list", "moltbot logs secret"],
    },
    Family {
        name: "senders",
        who: "vault",
        about: "whose messages reach the agent",
        see: &["moltbot why CHANNEL:SENDER", "moltbot allowlist list"],
    },
    Family {
        name: "sessions",
        who: "gateway and vault",
        about: "conversations at rest",
        see: &["moltbot sessions list", "moltbot status"],
    },
    Family {
        name: "taint",
        who: "vault",
        about: "conversations that read what came from outside",
        see: &["moltbot sessions tainted", "moltbot sessions untaint KEY"],
    },
    Family {
        name: "tools",
        who: "sandboxd",
        about: "which tools a conversation has",
        see: &["moltbot config get tools"],
    },
    Family {
        name: "transcript",
        who: "vault",
        about: "keys of conversations at rest",
        see: &["moltbot sessions list", "moltbot logs secret"],
    },
    Family {
        name: "vault",
        who: "vault",
        about: "secrets, and what each is good for",
        see: &["moltbot secrets list", "moltbot secrets policy NAME", "moltbot logs secret"],
    },
    Family {
        name: "workspace",
        who: "sandboxd",
        about: "what of a workspace a sandbox sees",
        see: &["moltbot config get agents.defaults.sandbox"],
    },
];

fn family(rule: &str) -> Option<&'static Family> {
    let name = rule.split('.').next().unwrap_or_default();
    FAMILIES.iter().find(|family| family.name == name)
}

/// Prints it.
///
/// # Errors
/// [`CliError`] where no rule begins so, or the log cannot be read.
pub fn show(dir: &Path, rule: &str, args: &Args) -> Result<(), CliError> {
    let family = family(rule).ok_or_else(|| {
        let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
        CliError::Failed(format!("no rule begins like {rule:?}; they begin with {}", names.join(", ")))
    })?;
    let last = last(dir, rule)?;
    if args.json {
        let records: Vec<Value> = last.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        println!(
            "{}",
            json!({ "rule": rule, "decides": family.who, "about": family.about, "see": family.see, "last": records })
        );
        return Ok(());
    }
    let paint = Paint::new(args);
    println!("{}", crate::paint::harmless(rule));
    println!("  {:<8} {}", "decides", family.who);
    println!("  {:<8} {}", "about", folded(family.about, 11, columns().saturating_sub(11)));
    family.see.iter().for_each(|command| println!("  {:<8} {command}", "see"));
    if last.is_empty() {
        println!("{}", paint.dim("the log has no record of it"));
    }
    last.iter().for_each(|line| println!("{}", logs::render(line, paint)));
    Ok(())
}

/// The newest records that name the rule, oldest first.
fn last(dir: &Path, rule: &str) -> Result<Vec<String>, CliError> {
    let mut found: Vec<(String, String)> = Vec::new();
    for stream in Stream::ALL {
        let mut last = VecDeque::with_capacity(LAST);
        logs::each(dir, stream, &mut |line| {
            if let Some(time) = line.contains(rule).then(|| time_if_named(line, rule)).flatten() {
                if last.len() == LAST {
                    last.pop_front();
                }
                last.push_back((time, line.to_owned()));
            }
            Ok(())
        })?;
        found.extend(last);
    }
    found.sort();
    let older = found.len().saturating_sub(LAST);
    Ok(found.into_iter().skip(older).map(|(_, line)| line).collect())
}

/// The time of a record in which the rule stands as such, and not somewhere in a text.
fn time_if_named(line: &str, rule: &str) -> Option<String> {
    let record: Value = serde_json::from_str(line).ok()?;
    let named = ["rule", "reason", "by"].iter().any(|key| record.get(key).and_then(Value::as_str) == Some(rule));
    named.then(|| record.get("ts").and_then(Value::as_str).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_in_order_and_each_rule_finds_its_own() {
        assert!(FAMILIES.is_sorted_by(|one, other| one.name < other.name));
        assert_eq!(family("vault.full").map(|family| family.who), Some("vault"));
        assert_eq!(family("transcript.exists").map(|family| family.who), Some("vault"));
        assert_eq!(family("sandboxd.no_such_verb").map(|family| family.name), Some("sandboxd"));
        assert_eq!(family("lockdown").map(|family| family.name), Some("lockdown"));
        assert!(family("vaulted.full").is_none() && family("").is_none());
    }

    #[test]
    fn record_names_a_rule_where_it_is_the_rule_and_not_where_it_is_said() {
        let line = r#"{"ts":"2026-11-23T14:00:00Z","rule":"exec.denied","detail":"vault.full"}"#;
        assert_eq!(time_if_named(line, "exec.denied").as_deref(), Some("2026-11-23T14:00:00Z"));
        assert_eq!(time_if_named(line, "vault.full"), None);
        assert_eq!(time_if_named("no record", "exec.denied"), None);
    }
}
