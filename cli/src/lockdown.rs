//! `moltbot lockdown`: what is locked, locking everything, and opening it again. Nobody but the operator at broker's socket
//! can do either.

use crate::CliError;
use crate::args::{Args, LockdownCommand};
use crate::door::{Door, unexpected};
use crate::paint::Paint;
use proto::operator::{Lockdown, Mode, OperatorReply, OperatorRequest};
use serde_json::{Value, json};
use std::path::Path;

/// Carries the command out and prints where things stand then.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: LockdownCommand, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    let request = match command {
        LockdownCommand::Status => OperatorRequest::Status,
        LockdownCommand::On => OperatorRequest::LockdownOn,
        LockdownCommand::Clear => OperatorRequest::LockdownClear,
    };
    let lockdown = match door.ask(&request)? {
        (OperatorReply::Status(status), _) => status.lockdown,
        (OperatorReply::Lockdown(lockdown), _) => lockdown,
        _ => return Err(unexpected()),
    };
    if args.json {
        println!("{}", as_json(&lockdown));
    } else {
        print!("{}", as_text(&lockdown, Paint::new(args)));
    }
    Ok(())
}

/// The lockdown as JSON; its keys are an interface.
#[must_use]
pub fn as_json(lockdown: &Lockdown) -> Value {
    json!({
        "mode": lockdown.mode.name(),
        "sinceMs": lockdown.since_ms,
        "incident": lockdown.incident.as_str(),
        "why": lockdown.why.as_str(),
        "quarantined": lockdown.quarantined.iter().map(|session| session.0.as_str()).collect::<Vec<_>>(),
    })
}

/// The lockdown for a person: what is so, and what to do about it.
#[must_use]
pub fn as_text(lockdown: &Lockdown, paint: Paint) -> String {
    let mut text = match lockdown.mode {
        Mode::Open if lockdown.quarantined.is_empty() => format!("{}\n", paint.good("open: nothing is locked")),
        Mode::Open => format!("{}\n", paint.warn("open, with conversations in quarantine")),
        Mode::Reacting => format!("{}\n", paint.bad("reacting to an incident: nothing runs for some seconds")),
        Mode::Locked => {
            let since = auditd::clock::rfc3339_micros(std::time::Duration::from_millis(lockdown.since_ms));
            let why = format!("{} since {since}: {}\n", paint.bad("locked"), lockdown.why);
            let name = lockdown.incident.as_str();
            let log = if name.is_empty() {
                String::new()
            } else {
                format!("moltbot logs system --grep {name} tells what happened.\n")
            };
            format!("{why}No login, command, request or credential is let through. {log}")
        }
    };
    for session in lockdown.quarantined.iter() {
        let name: String = session.0.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        text.push_str(&format!("quarantined: {name}; no command runs for it\n"));
    }
    if lockdown.mode == Mode::Locked || !lockdown.quarantined.is_empty() {
        text.push_str("`moltbot lockdown clear` opens everything again, when you have looked.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::{BoundedStr, BoundedVec};
    use proto::ids::SessionKey;

    fn lockdown(mode: Mode) -> Lockdown {
        Lockdown {
            mode,
            since_ms: 1_795_449_402_099,
            incident: BoundedStr::truncated("i-0011223344556677"),
            why: BoundedStr::truncated("gateway broke the protocol"),
            quarantined: BoundedVec::default(),
        }
    }

    #[test]
    fn locked_says_why_since_when_and_the_way_out() {
        let text = as_text(&lockdown(Mode::Locked), Paint::plain());
        for part in ["2026-11-23T", "gateway broke the protocol", "i-0011223344556677", "moltbot lockdown clear"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!as_text(&lockdown(Mode::Open), Paint::plain()).contains("clear"));
    }

    #[test]
    fn quarantined_name_cannot_write_on_the_terminal() {
        let mut open = lockdown(Mode::Open);
        open.quarantined = BoundedVec::new(vec![SessionKey(BoundedStr::truncated("a\u{1b}[2J"))]).unwrap();
        let text = as_text(&open, Paint::plain());
        assert!(text.contains("quarantined") && text.contains("clear") && !text.contains('\u{1b}'));
    }
}
