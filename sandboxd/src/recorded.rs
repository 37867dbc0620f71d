//! What is in the log of what is no command of a conversation's: verbs about its runs and files, and the set-up of its
//! container. As with commands the record comes first, and what cannot be recorded is not done.
//!
//! Contents are not in it: of a file what it is called and how many bytes come or go, of input how many bytes. What only looks
//! has no second record of its end.

use crate::serve::Sandboxd;
use proto::audit::{CommandRecord, RunEnd};
use proto::bounded::BoundedStr;
use proto::edge::Refusal;
use proto::ids::{RunId, SessionKey};
use proto::sandbox::{Backend, FileVerb, ProcessVerb};
use std::time::Instant;

/// Files of a patch that are named.
const NAMED: usize = 16;

/// What something came to, for its record.
pub(crate) trait Outcome {
    /// How it ended, where it was not refused.
    fn end(&self) -> RunEnd;
}

impl Outcome for RunEnd {
    fn end(&self) -> RunEnd {
        *self
    }
}

impl Outcome for proto::sandbox::SandboxReply {
    fn end(&self) -> RunEnd {
        RunEnd::Exited(0)
    }
}

impl Sandboxd {
    /// Has it recorded, done, and its end recorded.
    pub(crate) async fn recorded<T: Outcome>(
        &self,
        session: &SessionKey,
        what: &str,
        allowed_by: &str,
        backend: Backend,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let run = crate::exec::new_run().map_err(|error| Refusal::new("sandbox.resource", &error))?;
        self.record(intent(run.clone(), session, what, allowed_by, backend)).await?;
        let begun = Instant::now();
        let outcome = work.await;
        let end = match &outcome {
            Ok(done) => done.end(),
            Err(refusal) => end_of(refusal),
        };
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.record_end(&run, session, end, duration_ms).await?;
        outcome
    }

    /// Has it recorded before it is done, and not how it ended: it changes nothing.
    pub(crate) async fn looked(
        &self,
        session: &SessionKey,
        what: &str,
        allowed_by: &str,
        backend: Backend,
    ) -> Result<(), Refusal> {
        let run = crate::exec::new_run().map_err(|error| Refusal::new("sandbox.resource", &error))?;
        self.record(intent(run, session, what, allowed_by, backend)).await
    }
}

fn intent(run: RunId, session: &SessionKey, what: &str, allowed_by: &str, backend: Backend) -> CommandRecord {
    CommandRecord::Intent {
        run,
        session: session.clone(),
        command: BoundedStr::truncated(what),
        backend: BoundedStr::truncated(backend.name()),
        allowed_by: BoundedStr::truncated(allowed_by),
    }
}

/// True where a verb changes nothing.
pub(crate) const fn only_looks(verb: &FileVerb) -> bool {
    matches!(verb, FileVerb::Read { .. } | FileVerb::List { .. } | FileVerb::Grep { .. })
}

/// How it ended, by why it was refused in the middle.
fn end_of(refusal: &Refusal) -> RunEnd {
    match refusal.rule.as_str() {
        "file.withdrawn" | "sandbox.nobody" => RunEnd::Aborted,
        "file.slow" => RunEnd::TimedOut,
        rule if rule.starts_with("file.") || rule.starts_with("process.") => RunEnd::Exited(1),
        _ => RunEnd::Lost,
    }
}

/// A file verb, for its record.
pub(crate) fn file(verb: &FileVerb) -> String {
    match verb {
        FileVerb::Read { path, offset, limit } => {
            format!("[read] {}: {limit} bytes at most, from {offset}", place(path))
        }
        FileVerb::Write { path, bytes, append } => {
            let behind = if *append { " behind what is there" } else { "" };
            format!("[write] {}: {} bytes{behind}", place(path), bytes.len())
        }
        FileVerb::Edit { path, old, new, all } => {
            let all = if *all { ", wherever they stand" } else { "" };
            format!("[edit] {}: {} bytes for {}{all}", place(path), new.len(), old.len())
        }
        FileVerb::Patch { patch } => {
            let marks = ["*** Add File: ", "*** Update File: ", "*** Delete File: ", "*** Move to: "];
            let named: Vec<&str> =
                patch.lines().filter_map(|line| marks.iter().find_map(|mark| line.strip_prefix(mark))).collect();
            let more = if named.len() > NAMED { ", ..." } else { "" };
            let first: Vec<String> = named.iter().take(NAMED).map(|name| place(name)).collect();
            format!("[apply_patch] {}{more}: {} bytes", first.join(", "), patch.len())
        }
        FileVerb::List { path } => format!("[ls] {}", place(path)),
        FileVerb::Grep { pattern, path } => format!("[grep] {}: {}", place(path), &**pattern),
    }
}

/// A verb about runs, for its record.
pub(crate) fn process(verb: &ProcessVerb) -> String {
    match verb {
        ProcessVerb::List => "[process] list".to_owned(),
        ProcessVerb::Poll { run, .. } => format!("[process] poll {}", run.0.as_str()),
        ProcessVerb::Log { run, .. } => format!("[process] log {}", run.0.as_str()),
        ProcessVerb::Write { run, data, eof } => {
            let eof = if *eof { ", the last" } else { "" };
            format!("[process] write {}: {} bytes{eof}", run.0.as_str(), data.len())
        }
        ProcessVerb::Kill { run } => format!("[process] kill {}", run.0.as_str()),
        ProcessVerb::Remove { run } => format!("[process] remove {}", run.0.as_str()),
    }
}

/// A path, cut where it is longer than any may be.
fn place(path: &str) -> String {
    let end = path.floor_char_boundary(path.len().min(512));
    match path.get(..end).unwrap_or_default() {
        "" => "/workspace".to_owned(),
        path => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::BoundedBytes;

    #[test]
    fn contents_are_never_in_a_record_and_names_and_sizes_are() {
        fn text<const MAX: usize>(text: &str) -> BoundedStr<MAX> {
            BoundedStr::truncated(text)
        }
        let secret = "hunter2-hunter2";
        let path = || text("notes/a.txt");
        let patch =
            format!("*** Begin Patch\n*** Add File: b.txt\n+{secret}\n*** Update File: c\n-{secret}\n*** End Patch\n");
        let verbs = [
            FileVerb::Write { path: path(), bytes: BoundedBytes::new(secret.as_bytes()).unwrap(), append: true },
            FileVerb::Edit { path: path(), old: text(secret), new: text(secret), all: false },
            FileVerb::Patch { patch: text(&patch) },
            FileVerb::Read { path: path(), offset: 1, limit: 2 },
            FileVerb::List { path: text("") },
            FileVerb::Grep { pattern: text("x+"), path: path() },
        ];
        let said: Vec<String> = verbs.iter().map(file).collect();
        assert!(said.iter().all(|said| !said.contains(secret)), "{said:?}");
        assert_eq!(said[0], "[write] notes/a.txt: 15 bytes behind what is there");
        assert_eq!(said[1], "[edit] notes/a.txt: 15 bytes for 15");
        assert_eq!(said[2], format!("[apply_patch] b.txt, c: {} bytes", patch.len()));
        assert_eq!(
            said[3..],
            ["[read] notes/a.txt: 2 bytes at most, from 1", "[ls] /workspace", "[grep] notes/a.txt: x+"]
        );
        let data = BoundedBytes::new(secret.as_bytes()).unwrap();
        let write = ProcessVerb::Write { run: RunId(text("r-1")), data, eof: true };
        assert_eq!(process(&write), "[process] write r-1: 15 bytes, the last");
    }

    #[test]
    fn record_is_bounded_whatever_the_verb() {
        let many: String = (0..2_000).map(|at| format!("*** Add File: {at}{}\n", "é".repeat(300))).collect();
        for text in [many, "*** Add File: \n".repeat(9_000), String::new()] {
            let patch = FileVerb::Patch { patch: BoundedStr::truncated(&text) };
            assert!(file(&patch).len() < 8_192 + 512, "{}", file(&patch).len());
        }
    }
}
