//! `moltbot approvals`: what waits for the operator's word, the word, and what it covers from then on. Everything is shown as
//! it is hashed; what could not be seen is spelled out.

use crate::CliError;
use crate::args::{ApprovalsCommand, Args, How};
use crate::confirm;
use crate::door::{Door, unexpected};
use crate::paint::Paint;
use crate::propose::{Proposal, asked_lately};
use command::decide::Place;
use command::show::visible;
use proto::approval::{ApprovalAnswer, ApprovalId, ApprovalRow, ApprovalVerb, Subject};
use proto::operator::{OperatorReply, OperatorRequest};
use proto::vault::{VaultAnswer, VaultVerb};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// Questions that were the same before one answer for all is offered.
const OFTEN: usize = 2;
/// How often `watch` looks.
const LOOK: Duration = Duration::from_secs(1);

/// Carries the command out.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: &ApprovalsCommand, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    if let ApprovalsCommand::Approve { id, rule: true, yes, .. } = command {
        return approve_its_like(&mut door, dir, *id, *yes, args);
    }
    let verb = match command {
        ApprovalsCommand::Watch => return watch(&mut door, dir, args),
        ApprovalsCommand::List => ApprovalVerb::List,
        ApprovalsCommand::Show { id } => ApprovalVerb::Show(*id),
        ApprovalsCommand::Approve { id, uses, span, .. } => {
            ApprovalVerb::Approve { id: *id, uses: *uses, for_s: *span }
        }
        ApprovalsCommand::Deny { id } => ApprovalVerb::Deny(*id),
        ApprovalsCommand::Grants => ApprovalVerb::Grants,
        ApprovalsCommand::Revoke { id } => ApprovalVerb::Revoke(*id),
    };
    let done = match command {
        ApprovalsCommand::Approve { .. } => "approved",
        ApprovalsCommand::Deny { .. } => "denied",
        _ => "revoked",
    };
    match ask(&mut door, verb)? {
        ApprovalAnswer::Rows(rows) if args.json => {
            println!("{}", Value::from(rows.iter().map(row_json).collect::<Vec<_>>()));
        }
        ApprovalAnswer::Rows(rows) => {
            if rows.is_empty() {
                println!("nothing");
            }
            let lately = if matches!(command, ApprovalsCommand::List) { asked_lately(dir)? } else { BTreeMap::new() };
            for row in rows.iter() {
                println!("{}", row_text(row, Paint::new(args)));
                println_some(&offer(row, &lately, Paint::new(args)));
            }
        }
        ApprovalAnswer::One(subject, row) if args.json => println!("{}", subject_json(&subject, &row)),
        ApprovalAnswer::One(subject, row) => {
            print!("{}", subject_text(&subject, &row, Paint::new(args)));
            println_some(&offer(&row, &asked_lately(dir)?, Paint::new(args)));
        }
        ApprovalAnswer::Done(count) if args.json => println!("{}", json!({ "ok": true, done: count })),
        ApprovalAnswer::Done(count) => println!("{done}: {count}"),
    }
    Ok(())
}

fn ask(door: &mut Door, verb: ApprovalVerb) -> Result<ApprovalAnswer, CliError> {
    match door.ask(&OperatorRequest::Vault(Box::new(VaultVerb::Approval(verb))))? {
        (OperatorReply::Vault(VaultAnswer::Approvals(answer)), _) => Ok(answer),
        _ => Err(unexpected()),
    }
}

/// What waits.
///
/// # Errors
/// [`CliError`].
pub fn waiting(door: &mut Door) -> Result<Vec<ApprovalRow>, CliError> {
    match ask(door, ApprovalVerb::List)? {
        ApprovalAnswer::Rows(rows) => Ok(rows.into_vec()),
        _ => Err(unexpected()),
    }
}

/// Lets it run, and writes a rule for its like. The one that waits is answered first: what runs hears of a rule by a start
/// of sandboxd, and that would end it.
fn approve_its_like(door: &mut Door, dir: &Path, id: ApprovalId, yes: bool, args: &Args) -> Result<(), CliError> {
    let ApprovalAnswer::One(subject, _) = ask(door, ApprovalVerb::Show(id))? else { return Err(unexpected()) };
    let place = if subject.image.starts_with("native") { Place::Native } else { Place::Docker };
    let proposal = Proposal::of(dir, &subject.command, &subject.session.0, place)?;
    eprint!("{}", proposal.as_text(Paint::new(args)));
    if !yes {
        confirm::confirm("approving", "Let this run now, and its like unasked from now on?")?;
    }
    ask(door, ApprovalVerb::Approve { id, uses: 1, for_s: 0 })?;
    proposal.add(dir, How { dry_run: false, yes: true, no_apply: true }, args)
}

/// Where the same was asked often lately, the one answer that spares the next questions.
fn offer(row: &ApprovalRow, lately: &BTreeMap<(String, String), usize>, paint: Paint) -> String {
    let before = lately.get(&(row.session.0.to_string(), row.command.to_string())).copied().unwrap_or_default();
    if before < OFTEN {
        return String::new();
    }
    let id = row.id;
    paint.dim(&format!(
        "       asked {before} times within the last hour: `moltbot approvals approve {id} --uses 10 --for 1h` answers the next \
         ones too,\n       `moltbot approvals approve {id} --rule` shows a rule for good"
    ))
}

fn println_some(text: &str) {
    if !text.is_empty() {
        println!("{text}");
    }
}

/// Shows each question once, when it comes.
fn watch(door: &mut Door, dir: &Path, args: &Args) -> Result<(), CliError> {
    use std::io::Write as _;
    let mut known: BTreeSet<ApprovalId> = BTreeSet::new();
    loop {
        let rows = waiting(door)?;
        let new: Vec<_> = rows.iter().filter(|row| known.insert(row.id)).collect();
        let lately = if new.is_empty() || args.json { BTreeMap::new() } else { asked_lately(dir)? };
        for row in new {
            let line = if args.json { row_json(row).to_string() } else { row_text(row, Paint::new(args)) };
            writeln!(std::io::stdout(), "{line}")?;
            if !args.json {
                println_some(&offer(row, &lately, Paint::new(args)));
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A row as JSON; its keys are an interface.
fn row_json(row: &ApprovalRow) -> Value {
    json!({
        "id": row.id.to_string(),
        "session": visible(&row.session.0),
        "command": visible(&row.command),
        "digest": hex(&row.digest),
        "leftSeconds": row.left_s,
        "uses": row.uses,
    })
}

fn row_text(row: &ApprovalRow, paint: Paint) -> String {
    let uses = if row.uses > 0 { format!("{} uses, ", row.uses) } else { String::new() };
    let left = paint.dim(&format!("({uses}{} s left, {})", row.left_s, visible(&row.session.0)));
    format!("{:<6} {} {left}", row.id.to_string(), visible(&row.command))
}

fn subject_json(subject: &Subject, row: &ApprovalRow) -> Value {
    let fields = subject.fields().map(|(name, value)| (name.to_owned(), Value::from(visible(value))));
    let mut object = serde_json::Map::from_iter(fields);
    object.insert("id".to_owned(), row.id.to_string().into());
    object.insert("digest".to_owned(), hex(&row.digest).into());
    object.insert("leftSeconds".to_owned(), row.left_s.into());
    Value::Object(object)
}

/// Every field that is hashed, and how to answer.
fn subject_text(subject: &Subject, row: &ApprovalRow, paint: Paint) -> String {
    let mut text = String::new();
    for (name, value) in subject.fields() {
        text.push_str(&format!("{name:<12} {}\n", visible(value)));
    }
    text.push_str(&format!("{:<12} {}\n", "digest", hex(&row.digest)));
    let id = row.id;
    let how = format!(
        "{} s left. `moltbot approvals approve {id}` lets it run once, `--uses N --for TIME` more often; `deny {id}` does not.\n",
        row.left_s
    );
    text.push_str(&paint.dim(&how));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::BoundedStr;
    use proto::ids::SessionKey;

    #[test]
    fn every_field_is_shown_and_nothing_in_it_is_hidden() {
        let deceptive = "ls \u{202e}x\u{200b}\u{1b}[2J\n ⟨";
        let subject = Subject {
            session: SessionKey(BoundedStr::truncated("agent:\u{2066}x")),
            command: BoundedStr::truncated(deceptive),
            why: BoundedStr::truncated("why-field"),
            runs: BoundedStr::truncated("runs-field"),
            cwd: BoundedStr::truncated("cwd-field"),
            environment: BoundedStr::truncated("environment-field"),
            image: BoundedStr::truncated("image-field"),
            mounts: BoundedStr::truncated("mounts-field"),
            network: BoundedStr::truncated("network-field"),
            secrets: BoundedStr::truncated("secrets-field"),
        };
        let row = ApprovalRow {
            id: ApprovalId(3),
            session: subject.session.clone(),
            command: BoundedStr::truncated(deceptive),
            digest: [7; 32],
            left_s: 9,
            uses: 0,
        };
        let whole = subject_text(&subject, &row, Paint::plain());
        for name in ["why", "runs", "cwd", "environment", "image", "mounts", "network", "secrets"] {
            assert!(whole.contains(&format!("{name}-field")), "{whole}");
        }
        let json = subject_json(&subject, &row).to_string();
        for text in [whole, row_text(&row, Paint::plain()), json, row_json(&row).to_string()] {
            assert!(text.contains("ls ⟨U+202E⟩x⟨U+200B⟩⟨U+001B⟩[2J⟨U+000A⟩ ⟨U+27E8⟩"), "{text}");
            assert!(!text.contains(['\u{202e}', '\u{200b}', '\u{1b}', '\u{2066}']), "{text}");
        }
    }
}
