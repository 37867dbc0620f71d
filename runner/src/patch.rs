//! Patches in the form that models write: `*** Begin Patch`, then files to add, delete or update, `*** End Patch`. All of it
//! is worked out before the first file is touched, so a patch that does not fit changes nothing.

use crate::files::{MOST, Workspace, changed};
use proto::edge::Refusal;
use proto::sandbox::FileReply;

/// Files in one patch.
const FILES: usize = 64;

#[derive(Debug, Eq, PartialEq)]
enum Change<'p> {
    Add { path: &'p str, text: String },
    Delete { path: &'p str },
    Update { path: &'p str, to: Option<&'p str>, hunks: Vec<Hunk<'p>> },
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Hunk<'p> {
    /// A line to go to first.
    context: Option<&'p str>,
    old: Vec<&'p str>,
    new: Vec<&'p str>,
    /// It stands at the file's end.
    at_end: bool,
}

fn malformed(line: usize, why: &str) -> Refusal {
    Refusal::new("patch.malformed", &format!("line {}: {why}", line.saturating_add(1)))
}

/// Serves [`proto::sandbox::FileVerb::Patch`].
pub fn apply(workspace: &Workspace, patch: &str) -> Result<FileReply, Refusal> {
    let changes = parse(patch)?;
    let (mut writes, mut removals, mut words, mut places) = (Vec::new(), Vec::new(), Vec::new(), 0u32);
    for change in &changes {
        match change {
            Change::Add { path, text } => {
                if workspace.file(path).is_ok() {
                    return Err(Refusal::new(
                        "patch.exists",
                        &format!("{path}: it is there already; update it instead"),
                    ));
                }
                writes.push((*path, text.clone()));
                words.push(format!("A {path}"));
                places = places.saturating_add(1);
            }
            Change::Delete { path } => {
                workspace.file(path)?;
                removals.push(*path);
                words.push(format!("D {path}"));
                places = places.saturating_add(1);
            }
            Change::Update { path, to, hunks } => {
                let text = update(path, &workspace.text(path)?, hunks)?;
                writes.push((to.unwrap_or(path), text));
                words.push(format!("M {path}"));
                if let Some(to) = to {
                    removals.push(*path);
                    words.push(format!("R {to}"));
                }
                places = places.saturating_add(u32::try_from(hunks.len()).unwrap_or(u32::MAX));
            }
        }
    }
    for (path, text) in &writes {
        workspace.put(path, text.as_bytes())?;
    }
    for path in removals {
        workspace.remove(path)?;
    }
    Ok(changed(places, words))
}

fn parse(patch: &str) -> Result<Vec<Change<'_>>, Refusal> {
    let lines: Vec<&str> = patch.trim().lines().collect();
    let last = lines.len().saturating_sub(1);
    if lines.first().map(|line| line.trim()) != Some("*** Begin Patch") {
        return Err(malformed(0, "a patch begins with *** Begin Patch"));
    }
    if last == 0 || lines.get(last).map(|line| line.trim()) != Some("*** End Patch") {
        return Err(malformed(last, "a patch ends with *** End Patch"));
    }
    let body = lines.get(1..last).unwrap_or_default();
    let mut changes: Vec<Change<'_>> = Vec::new();
    let mut touched: Vec<&str> = Vec::new();
    for (number, line) in (1..).zip(body) {
        let head = |word: &str| line.strip_prefix(word).map(str::trim);
        let begun = if let Some(path) = head("*** Add File: ") {
            Some((path, Change::Add { path, text: String::new() }))
        } else if let Some(path) = head("*** Delete File: ") {
            Some((path, Change::Delete { path }))
        } else {
            head("*** Update File: ").map(|path| (path, Change::Update { path, to: None, hunks: Vec::new() }))
        };
        if let Some((path, change)) = begun {
            if touched.contains(&path) || changes.len() >= FILES {
                return Err(malformed(number, "a file is named twice, or there are more than 64"));
            }
            touched.push(path);
            changes.push(change);
            continue;
        }
        match changes.last_mut() {
            Some(Change::Add { text, .. }) => {
                let added =
                    line.strip_prefix('+').ok_or_else(|| malformed(number, "each line of a new file begins with +"))?;
                text.push_str(added);
                text.push('\n');
            }
            Some(Change::Update { to, hunks, .. }) => match head("*** Move to: ") {
                Some(path) if to.is_none() && hunks.is_empty() => *to = Some(path),
                _ => on_line(hunks, line).map_err(|why| malformed(number, why))?,
            },
            Some(Change::Delete { .. }) | None => {
                return Err(malformed(number, "no file is named that this belongs to"));
            }
        }
    }
    if changes.is_empty() {
        return Err(malformed(0, "it names no file"));
    }
    Ok(changes)
}

fn on_line<'p>(hunks: &mut Vec<Hunk<'p>>, line: &'p str) -> Result<(), &'static str> {
    if let Some(context) = line.strip_prefix("@@") {
        let context = Some(context.trim()).filter(|context| !context.is_empty());
        hunks.push(Hunk { context, ..Hunk::default() });
        return Ok(());
    }
    if hunks.is_empty() {
        hunks.push(Hunk::default());
    }
    let Some(hunk) = hunks.last_mut() else { return Ok(()) };
    if line == "*** End of File" {
        hunk.at_end = true;
    } else if line.is_empty() {
        // An empty line of context whose blank was lost on the way.
        hunk.old.push("");
        hunk.new.push("");
    } else if let Some(text) = line.strip_prefix(' ') {
        hunk.old.push(text);
        hunk.new.push(text);
    } else if let Some(text) = line.strip_prefix('-') {
        hunk.old.push(text);
    } else if let Some(text) = line.strip_prefix('+') {
        hunk.new.push(text);
    } else {
        return Err("a line of a hunk begins with a blank, - or +");
    }
    Ok(())
}

fn update(path: &str, text: &str, hunks: &[Hunk<'_>]) -> Result<String, Refusal> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out: Vec<&str> = Vec::new();
    let mut at = 0;
    for (number, hunk) in (1..).zip(hunks) {
        let lost = |what: &str| {
            let shown = hunk.context.into_iter().chain(hunk.old.iter().copied()).next().unwrap_or_default();
            Refusal::new("patch.no_match", &format!("{path}: hunk {number}: {what} is not in it: {shown}"))
        };
        let mut from = at;
        if let Some(context) = hunk.context {
            from = find(&lines, &[context], at, false).ok_or_else(|| lost("its place"))?.saturating_add(1);
        }
        let place = if hunk.old.is_empty() {
            // Nothing is taken away: behind its place, or at the end.
            if hunk.context.is_some() && !hunk.at_end { from } else { lines.len() }
        } else {
            find(&lines, &hunk.old, from, hunk.at_end).ok_or_else(|| lost("its old text"))?
        };
        out.extend(lines.get(at..place).unwrap_or_default());
        out.extend(&hunk.new);
        at = place.saturating_add(hunk.old.len());
    }
    out.extend(lines.get(at..).unwrap_or_default());
    let mut text = out.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MOST {
        return Err(Refusal::new("file.too_large", &format!("{path}: it would have more than {MOST} bytes")));
    }
    Ok(text)
}

/// First place at or behind `from` where `old` stands: to the letter, else without blanks at the lines' ends, else without
/// any at either side.
fn find(lines: &[&str], old: &[&str], from: usize, at_end: bool) -> Option<usize> {
    let last = lines.len().checked_sub(old.len())?;
    let from = if at_end { last.max(from) } else { from };
    let exact: fn(&str) -> &str = |line| line;
    [exact, str::trim_end, str::trim].into_iter().find_map(|eye| {
        (from..=last).find(|at| {
            let here = lines.get(*at..).unwrap_or_default();
            here.iter().zip(old).all(|(line, old)| eye(line) == eye(old))
        })
    })
}
