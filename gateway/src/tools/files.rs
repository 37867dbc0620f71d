//! `read`, `write`, `edit`, `apply_patch`, `ls`, `grep`: files of the session's workspace, by sandboxd's file verbs. Paths are
//! the model's; that none leads out is sandboxd's affair.

use super::args::Args;
use super::{MAX_RESULT, Ran, Stopped, session_key};
use crate::agent::Plan;
use crate::model::calls::Call;
use crate::sandbox::{self, Broken};
use crate::text::Excerpt;
use crate::turn::Turn;
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::sandbox::{Entry, EntryKind, FileReply, FileVerb, OutputChunk, SandboxReply, SandboxRequest, WorkspacePath};

/// Bytes of a file that are read to find lines in it.
const MAX_READ: u64 = 8 << 20;
/// Lines that a model is given at once where it does not say.
const LINES: u64 = 2_000;

fn path(args: &Args<'_>) -> Result<WorkspacePath, String> {
    let path = args.needed(&["path", "file_path"])?;
    BoundedStr::new(path).map_err(|_| "a path has at most 1024 bytes".to_owned())
}

fn maybe_path(args: &Args<'_>) -> Result<WorkspacePath, String> {
    BoundedStr::new(args.text("path")?.unwrap_or_default()).map_err(|_| "a path has at most 1024 bytes".to_owned())
}

/// The lines of a file that were asked for, out of pieces of it.
struct Lines {
    first: u64,
    count: u64,
    at: u64,
    kept: Vec<u8>,
    cut: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.at >= self.first && self.at.saturating_sub(self.first) < self.count {
                if self.kept.len() < MAX_RESULT.saturating_sub(256) {
                    self.kept.push(*byte);
                } else {
                    self.cut = true;
                }
            }
            if *byte == b'\n' {
                self.at = self.at.saturating_add(1);
            }
        }
    }
}

fn verb(call: &Call) -> Result<(FileVerb, Option<Lines>), String> {
    let long = |what: &str| format!("{}: {what} is too long for one call; do it in parts", call.name);
    Ok(match call.name.as_str() {
        "read" => {
            let args = Args::of(call, &["path", "file_path", "offset", "limit"])?;
            let first = args.number("offset")?.unwrap_or(1).saturating_sub(1);
            let count = args.number("limit")?.unwrap_or(LINES);
            let lines = Lines { first, count, at: 0, kept: Vec::new(), cut: false };
            (FileVerb::Read { path: path(&args)?, offset: 0, limit: MAX_READ }, Some(lines))
        }
        "write" => {
            let args = Args::of(call, &["path", "file_path", "content"])?;
            let bytes = BoundedBytes::new(args.needed(&["content"])?.as_bytes()).map_err(|_| long("content"))?;
            (FileVerb::Write { path: path(&args)?, bytes, append: false }, None)
        }
        "edit" => {
            let args = Args::of(call, &["path", "file_path", "oldText", "newText", "old_string", "new_string"])?;
            let old = BoundedStr::new(args.needed(&["oldText", "old_string"])?).map_err(|_| long("oldText"))?;
            let new = BoundedStr::new(args.needed(&["newText", "new_string"])?).map_err(|_| long("newText"))?;
            (FileVerb::Edit { path: path(&args)?, old, new, all: false }, None)
        }
        "apply_patch" => {
            let args = Args::of(call, &["input", "patch"])?;
            let patch = BoundedStr::new(args.needed(&["input", "patch"])?).map_err(|_| long("input"))?;
            (FileVerb::Patch { patch }, None)
        }
        "ls" => {
            let args = Args::of(call, &["path"])?;
            (FileVerb::List { path: maybe_path(&args)? }, None)
        }
        "grep" => {
            let args = Args::of(call, &["pattern", "path"])?;
            let pattern = BoundedStr::new(args.needed(&["pattern"])?).map_err(|_| long("pattern"))?;
            (FileVerb::Grep { pattern, path: maybe_path(&args)? }, None)
        }
        other => return Err(format!("{other}: there is no such tool here")),
    })
}

pub(super) async fn run(turn: &mut Turn<'_>, plan: &Plan, call: &Call) -> Result<Ran, Stopped> {
    let (verb, mut lines) = match verb(call) {
        Ok(verb) => verb,
        Err(why) => return Ok(why.into()),
    };
    let request = SandboxRequest::File { session: session_key(turn.session), verb };
    let mut found = Excerpt::new(MAX_RESULT.saturating_sub(256));
    let reply = {
        let mut take = |_: &mut Turn<'_>, chunk: &OutputChunk| {
            let (OutputChunk::Stdout(bytes) | OutputChunk::Stderr(bytes)) = chunk else { return };
            match &mut lines {
                Some(lines) => lines.take(bytes),
                None => found.push(&String::from_utf8_lossy(bytes)),
            }
        };
        sandbox::run(turn, plan, &request, &mut take).await
    };
    Ok(match reply {
        Ok(reply) => answered(reply, lines, found),
        Err(Broken::Stopped) => return Err(Stopped),
        Err(Broken::Refused(refusal)) => Ran::error(format!("refused: {refusal}")),
        Err(Broken::Gone(why)) => Ran::error(why),
    })
}

fn answered(reply: SandboxReply, lines: Option<Lines>, found: Excerpt) -> Ran {
    match reply {
        SandboxReply::File(FileReply::Read { size }) => {
            let Some(lines) = lines else { return Ran::error("sandboxd gave another answer than asked for") };
            let text = String::from_utf8_lossy(&lines.kept);
            let shown = u64::try_from(text.lines().count()).unwrap_or_default();
            // A line that was cut is begun again.
            let next = lines.first.saturating_add(shown).saturating_add(u64::from(!lines.cut)).max(1);
            if lines.at <= lines.first && lines.kept.is_empty() && lines.first > 0 {
                return Ran::error(format!("the file has {} lines; offset is behind its end", lines.at));
            }
            let cut = lines.cut || lines.at > lines.first.saturating_add(lines.count);
            let tail =
                if cut { format!("\n[more follows: offset {next}; the file has {size} bytes]") } else { String::new() };
            Ran::ok(format!("{text}{tail}"))
        }
        SandboxReply::File(FileReply::Written) => Ran::ok("written"),
        SandboxReply::File(FileReply::Changed { places, files }) => {
            let files: Vec<&str> = files.iter().map(|file| file.as_str()).collect();
            Ran::ok(format!("{places} changed: {}", files.join(", ")))
        }
        SandboxReply::File(FileReply::Listed { entries, more }) => listed(&entries, more),
        SandboxReply::File(FileReply::Found { lines: 0, .. }) => Ran::ok("no line matches"),
        SandboxReply::File(FileReply::Found { lines, more }) => {
            let more = if more { "; there are more" } else { "" };
            Ran::ok(format!("{}\n[{lines} lines match{more}]", found.finish().trim_end()))
        }
        _ => Ran::error("sandboxd gave another answer than asked for"),
    }
}

fn listed(entries: &[Entry], more: bool) -> Ran {
    let line = |entry: &Entry| {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        match entry.kind {
            EntryKind::File => format!("{name} ({} bytes)", entry.size),
            EntryKind::Directory => format!("{name}/"),
            EntryKind::Link => format!("{name} (a link)"),
            EntryKind::Other => format!("{name} (no file)"),
        }
    };
    let mut lines: Vec<String> = entries.iter().map(line).collect();
    if more {
        lines.push("[there are more]".to_owned());
    }
    Ran::ok(if lines.is_empty() { "it is empty".to_owned() } else { lines.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn of(name: &str, arguments: &Value) -> Result<(FileVerb, Option<Lines>), String> {
        let arguments = arguments.as_object().unwrap().clone();
        verb(&Call { id: "c".to_owned(), name: name.to_owned(), arguments, flaw: None })
    }

    #[test]
    fn calls_become_verbs_of_upstreams_parameters() {
        assert!(matches!(
            of("write", &json!({"path": "a", "content": "b"})),
            Ok((FileVerb::Write { append: false, .. }, None))
        ));
        assert!(matches!(
            of("edit", &json!({"path": "a", "oldText": "b", "newText": ""})),
            Ok((FileVerb::Edit { all: false, .. }, None))
        ));
        assert!(matches!(of("apply_patch", &json!({"input": "*** Begin Patch"})), Ok((FileVerb::Patch { .. }, None))));
        assert!(matches!(of("ls", &json!({})), Ok((FileVerb::List { path }, None)) if path.is_empty()));
        assert!(matches!(of("grep", &json!({"pattern": "x"})), Ok((FileVerb::Grep { .. }, None))));
        assert!(of("write", &json!({"path": "a"})).is_err_and(|why| why == "write: content is missing"));
        assert!(of("read", &json!({"path": "x".repeat(1025)})).is_err());
    }

    #[test]
    fn lines_that_were_asked_for_are_read_out_of_any_pieces() {
        let read = |arguments: Value, file: &str| {
            let (_, lines) = of("read", &arguments).unwrap();
            let mut lines = lines.unwrap();
            for piece in file.as_bytes().chunks(3) {
                lines.take(piece);
            }
            let size = u64::try_from(file.len()).unwrap();
            answered(SandboxReply::File(FileReply::Read { size }), Some(lines), Excerpt::new(9))
        };
        assert_eq!(read(json!({"path": "f"}), "one\ntwo\n").text, "one\ntwo\n");
        let middle = read(json!({"path": "f", "offset": 2, "limit": 1}), "one\ntwo\nthree\nfour");
        assert!(middle.text.starts_with("two\n\n[more follows: offset 3"), "{}", middle.text);
        assert!(read(json!({"path": "f", "offset": 9}), "one\n").is_error);
        assert_eq!(read(json!({"path": "f"}), "").text, "");
        assert!(read(json!({"path": "f"}), &"x".repeat(40_000)).text.contains("more follows"));
    }
}
