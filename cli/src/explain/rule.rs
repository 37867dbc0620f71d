//! `moltbot explain rule RULE`: who refuses by a rule, what it is about, where to look, and when it last did. What a
//! refusal says of itself is the narrowest thing that would allow it; this is what is around it.

use crate::CliError;
use crate::args::Args;
use crate::logs;
use crate::paint::{Paint, beside};
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

const FAMILIES: [Family; 34] = [
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
    println!("  {:<8} {}", "about", beside(11, family.about));
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
    use std::collections::{BTreeMap, BTreeSet};

    /// A rule at the beginning of a text: a literal of words with points between them.
    fn literal(text: &str) -> Option<&str> {
        let (inner, _) = text.trim_start().strip_prefix('"')?.split_once('"')?;
        let words = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (inner == "lockdown" || inner.contains('.') && inner.split('.').all(words)).then_some(inner)
    }

    /// What stands before each `(... rule: &` is the name of what takes a rule first.
    fn takers(text: &str) -> BTreeSet<String> {
        let declared = text.split("fn ").skip(1).filter(|part| {
            let arguments = part.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
            arguments.is_some_and(|(arguments, _)| arguments.trim_start().starts_with("rule: &"))
        });
        let mut all: BTreeSet<String> =
            declared.filter_map(|part| part.split(['(', '<']).next()).map(str::to_owned).collect();
        let closures = text.split("let ").skip(1).filter_map(|part| part.split_once(" = |rule: &"));
        all.extend(closures.map(|(name, _)| name.to_owned()).filter(|name| !name.contains(char::is_whitespace)));
        all.insert("Refusal::new".to_owned());
        all
    }

    /// Rules that a file of a role answers with.
    fn rules(text: &str) -> BTreeSet<String> {
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let called = takers(text).into_iter().map(|taker| format!("{taker}(")).chain(["rule: ".to_owned()]);
        let mut all: BTreeSet<String> = called
            .flat_map(|call| text.split(&call).skip(1).filter_map(literal).map(str::to_owned).collect::<Vec<_>>())
            .collect();
        // A table from cases to rules.
        for body in text.split("fn rule(").skip(1) {
            let body = body.split("\n    }\n").next().unwrap_or_default();
            all.extend(body.split("=> ").skip(1).filter_map(literal).map(str::to_owned));
        }
        all
    }

    fn sources(dir: &Path, all: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if entry.is_dir() && name != "tests" {
                sources(&entry, all);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                all.push(std::fs::read_to_string(&entry).unwrap());
            }
        }
    }

    #[test]
    fn every_rule_of_the_code_is_explained_and_every_family_is_somebodys() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for role in
            ["auditd", "broker", "command", "confine", "egress", "gateway", "proto", "runner", "sandboxd", "vault"]
        {
            sources(&root.join(role).join("src"), &mut files);
        }
        let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for rule in files.iter().flat_map(|text| rules(text)) {
            families.entry(rule.split('.').next().unwrap_or_default().to_owned()).or_default().insert(rule);
        }
        let count: usize = families.values().map(BTreeSet::len).sum();
        assert!(count >= 120, "only {count} rules are found: {families:?}");
        for (name, rules) in &families {
            assert!(family(name).is_some(), "nothing explains {rules:?}");
        }
        for known in &FAMILIES {
            let begins = [format!("\"{}.", known.name), format!("\"{}\"", known.name)];
            let is = files.iter().any(|text| begins.iter().any(|begin| text.contains(begin)));
            assert!(is, "{} is no role's", known.name);
        }
    }

    #[test]
    fn rules_of_a_text_are_found_in_each_way_that_code_says_them() {
        let text = r#"
            fn refuse(rule: &'static str, what: &str) -> Refusal { Refusal::new(rule, what) }
            let no = |rule: &str| Refusal::new(rule, "x");
            Refusal::new(
                "one.a", "vault.db"); refuse("two.b", "x"); no("three.c"); Denial { rule: "four.d" }
            const fn rule(&self) -> &'static str { match self { Self::A => "five.e", }
    }
            open("six.f"); Refusal::new(&text, "seven.g");
            #[cfg(test)] Refusal::new("eight.h", "")"#;
        let found: Vec<String> = rules(text).into_iter().collect();
        assert_eq!(found, ["five.e", "four.d", "one.a", "three.c", "two.b"]);
    }

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
