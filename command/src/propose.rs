//! A rule out of a command that the operator said yes to: the narrowest that is about it, for the operator to look at before
//! it counts. None is made of a program that runs what its arguments say: such a rule would allow everything.

use crate::decide::{Facts, Policy};
use crate::grammar::{Kind, fits};
use crate::plan::{Arg, Program, Stream};
use crate::rules::Outcome;
use serde_json::{Value, json};

/// Programs whose arguments are programs: interpreters, wrappers, and those with an option for it. Sources: GTFOBins,
/// GTFOArgs.
const RUN_OTHERS: [&str; 62] = [
    "ash", "awk", "bash", "bpftrace", "bundle", "busybox", "cargo", "chroot", "cpan", "crontab", "dash", "doas",
    "docker", "ed", "emacs", "env", "expect", "find", "fish", "flock", "gawk", "gcc", "gdb", "git", "ionice", "jq",
    "ksh", "ld.so", "lua", "make", "man", "mawk", "more", "less", "nice", "node", "nohup", "npm", "npx", "nsenter",
    "perl", "php", "pip", "rsync", "ruby", "sed", "setarch", "setsid", "sh", "ssh", "stdbuf", "strace", "sudo", "tar",
    "taskset", "time", "timeout", "unshare", "vim", "watch", "xargs", "zsh",
];

/// The rules that would let `text` run where it is asked about now, as `tools.exec.rules` has them.
///
/// # Errors
/// Why there are none, for a person.
pub fn propose(policy: &Policy, text: &str, facts: &Facts<'_>) -> Result<Vec<Value>, String> {
    let decision = policy.decide(text, facts);
    let by_hand = "; a rule can be written by hand, see tools.exec.rules";
    match (decision.outcome, decision.rule.as_str()) {
        (Outcome::Ask, "miss") => {}
        (Outcome::Allow, _) => return Err("it runs unasked already".to_owned()),
        (Outcome::Deny, _) => return Err(format!("it is denied: {}", decision.why.join("; "))),
        (Outcome::Ask, rule) => return Err(format!("no rule changes that it is asked about ({rule})")),
    }
    let plan = decision.plan.as_ref().ok_or("it is not understood")?;
    let mut all: Vec<Value> = Vec::new();
    for program in plan.programs().filter(|program| policy.misses(program, facts)) {
        let rule = rule_of(program, facts).map_err(|why| format!("{}: {why}{by_hand}", program.path))?;
        if !all.contains(&rule) {
            all.push(rule);
        }
    }
    Ok(all)
}

fn rule_of(program: &Program, facts: &Facts<'_>) -> Result<Value, String> {
    let name = program.path.rsplit('/').next().unwrap_or_default();
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if RUN_OTHERS.contains(&name) || RUN_OTHERS.contains(&stem) || stem == "python" {
        return Err("it runs what its arguments say, so a rule about it would allow everything".to_owned());
    }
    let (mut options, mut operands) = (Vec::new(), Vec::new());
    let mut only_operands = false;
    for arg in &program.args {
        match arg {
            Arg::Literal(text) if !only_operands && text == "--" => only_operands = true,
            Arg::Literal(text) if !only_operands && text.len() > 1 && text.starts_with('-') => {
                option(text, &mut options)?
            }
            Arg::Literal(text) => operands.push(operand(text, operands.is_empty())?),
            Arg::Pattern(..) => return Err("it has a pattern of files among its arguments".to_owned()),
        }
    }
    options.sort();
    options.dedup();
    let example = crate::plan::quoted_words(
        &std::iter::once(program.path.as_str()).chain(program.args.iter().map(Arg::text)).collect::<Vec<_>>(),
    );
    let redirects =
        program.streams.iter().any(|stream| matches!(stream, Stream::File(_, _, name) if name != "/dev/null"));
    let agents: Vec<&str> = Some(facts.agent()).into_iter().filter(|agent| !agent.is_empty()).collect();
    Ok(json!({
        "program": program.path,
        "decision": "allow",
        "options": options.join(" "),
        "operands": operands.join(" "),
        "redirects": redirects,
        "agents": agents,
        "sessions": [facts.class()],
        "match": [example],
        "noMatch": [format!("{} --no-such-option", program.path)],
    }))
}

fn option(text: &str, options: &mut Vec<String>) -> Result<(), String> {
    if let Some(long) = text.strip_prefix("--") {
        let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(format!("{text} is no option that a rule can name"));
        }
        options.push(match value {
            None => format!("--{name}"),
            Some(value) => format!("--{name}?:{}", kind(value)?),
        });
        return Ok(());
    }
    for letter in text.chars().skip(1) {
        if !letter.is_ascii_alphabetic() {
            return Err(format!("{text} is an option with its value in one word"));
        }
        options.push(format!("-{letter}"));
    }
    Ok(())
}

fn operand(text: &str, first: bool) -> Result<String, String> {
    // What many programs do is their first word: `systemctl status` is not `systemctl stop`.
    let verb =
        first && fits(Kind::Word, text).is_ok() && fits(Kind::Number, text).is_err() && !text.contains(['.', '/', ':']);
    if verb { Ok(format!("={text}")) } else { Ok(kind(text)?.to_owned()) }
}

/// The narrowest kind that a text is.
fn kind(text: &str) -> Result<&'static str, String> {
    let kinds = [(Kind::Number, "number"), (Kind::Path, "path"), (Kind::Word, "word")];
    // The grammar's words may be paths as well, and these would be anywhere.
    let fitting =
        |kind: Kind| fits(kind, text).is_ok() && (kind != Kind::Word || !(text.contains('/') || text.starts_with('.')));
    let found = kinds.into_iter().find(|(kind, _)| fitting(*kind)).map(|(_, name)| name);
    found.ok_or_else(|| format!("{text:?} is neither a number, nor a path beneath the workspace, nor a word"))
}
