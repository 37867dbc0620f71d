//! `moltbot logs`: a log that nobody writes at, read, checked, proved and exported by the program of the operator, from its files
//! alone; what is good passes, what is not is named with its line, its class and an exit code.

use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use proto::audit::{AuthMethod, AuthOutcome, AuthReason, Record, Stream};
use proto::bounded::BoundedStr;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use system_tests::programs;

/// A state directory with a log in it, of several files.
struct Log(tempfile::TempDir);

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Self(dir);
        std::fs::create_dir(log.logs()).unwrap();
        let writer = Writer::from_system("single-uid".to_owned()).unwrap();
        let limits = Limits { file_bytes: 20 << 10, ..Limits::default() };
        let mut journal = Journal::open(std::fs::File::open(log.logs()).unwrap().into(), writer, limits).unwrap();
        for number in 0..120 {
            let client = BoundedStr::truncated(&format!("192.0.2.{number}"));
            let outcome = match number % 3 {
                0 => AuthOutcome::Rejected(AuthReason::TokenMismatch),
                _ => AuthOutcome::Accepted,
            };
            let record = Record::Auth { client, method: AuthMethod::Token, outcome };
            journal.append(Stream::Auth, &[(Source::OWN, &record)]).unwrap();
        }
        journal.close().unwrap();
        log
    }

    fn logs(&self) -> PathBuf {
        self.0.path().join("logs")
    }

    /// The auth stream's files, oldest first.
    fn files(&self) -> Vec<PathBuf> {
        let files = auditd::offline::find(&self.logs(), Stream::Auth).unwrap();
        files.into_iter().map(|pair| pair.log).collect()
    }

    fn change(&self, file: usize, how: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = &self.files()[file];
        std::fs::write(path, how(std::fs::read(path).unwrap())).unwrap();
    }

    fn says(&self, words: &[&str]) -> Output {
        moltbot(self.0.path(), words)
    }

    fn checked(&self, words: &[&str]) -> (Option<i32>, Value) {
        let output = self.says(&[&["logs", "verify", "--stream", "auth", "--json"], words].concat());
        // The rows stand on the first line; where one is bad, the error follows.
        let rows: Value =
            serde_json::from_str(text(&output.stdout).lines().next().unwrap_or_default()).unwrap_or_default();
        (output.status.code(), rows[0].clone())
    }
}

fn moltbot(state: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(programs().join("moltbot"));
    command.arg("--state-dir").arg(state).args(words).env_remove("NO_COLOR").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn whole_log_is_ok_by_directory_by_file_and_by_its_first_key_and_no_other() {
    let log = Log::new();
    let (code, row) = log.checked(&[]);
    assert_eq!((code, &row["ok"], row["size"].as_u64() > Some(120)), (Some(0), &true.into(), true), "{row}");
    assert!(row["files"].as_u64() > Some(1) && row["signed"] == row["size"], "{row}");
    let all = log.says(&["logs", "verify"]);
    assert_eq!(all.status.code(), Some(0));
    assert_eq!(text(&all.stdout).matches("ok   ").count(), 4, "{}", text(&all.stdout));
    // A lone file says as much of itself.
    let last = log.files().pop().unwrap();
    assert_eq!(log.says(&["logs", "verify", last.to_str().unwrap()]).status.code(), Some(0));
    let key = row["firstKey"]["key"].as_str().unwrap();
    assert_eq!(log.checked(&["--from-key", key]).0, Some(0));
    let (code, row) = log.checked(&["--from-key", &"0b".repeat(32)]);
    assert_eq!((code, &row["class"]), (Some(1), &"wrong-key".into()), "{row}");
}

#[test]
fn first_bad_line_is_named_with_its_file_and_class_and_the_exit_code_is_1() {
    let edit = |bytes: Vec<u8>| text(&bytes).replacen("192.0.2.1\"", "192.0.2.9\"", 1).into_bytes();
    let line = |at: usize| {
        move |bytes: Vec<u8>| {
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            lines.remove(at);
            lines.concat()
        }
    };
    let junk = |mut bytes: Vec<u8>| {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
        bytes.splice(end..end, *b"\xff\xfe\x1b[31m\x00\n");
        bytes
    };
    type Change<'c> = (&'c str, u64, Box<dyn FnOnce(Vec<u8>) -> Vec<u8>>);
    let changes: [Change<'_>; 3] =
        [("edited", 4, Box::new(edit)), ("deleted", 6, Box::new(line(5))), ("not-a-record", 2, Box::new(junk))];
    for (class, line, change) in changes {
        let log = Log::new();
        log.change(0, change);
        let (code, row) = log.checked(&[]);
        assert_eq!(
            (code, &row["ok"], &row["class"], &row["line"]),
            (Some(1), &false.into(), &class.into(), &line.into())
        );
        assert_eq!(row["file"], "auth-audit.jsonl");
        let said = log.says(&["logs", "verify"]);
        assert!(text(&said.stdout).contains(&format!("WRONG auth-audit     {class}: ")), "{}", text(&said.stdout));
        assert!(text(&said.stderr).contains("1 of 4 streams are not what was written"), "{}", text(&said.stderr));
    }
    let log = Log::new();
    std::fs::remove_file(&log.files()[1]).unwrap();
    assert_eq!((log.checked(&[]).0, log.checked(&[]).1["class"].clone()), (Some(1), "missing-file".into()));
}

#[test]
fn what_cannot_be_read_is_exit_code_4_and_no_verdict() {
    let log = Log::new();
    assert_eq!(log.says(&["logs", "verify", "/nowhere/at/all"]).status.code(), Some(4));
    let other = log.0.path().join("other.txt");
    std::fs::write(&other, "x\n").unwrap();
    let said = log.says(&["logs", "verify", other.to_str().unwrap()]);
    assert_eq!(said.status.code(), Some(4));
    assert!(text(&said.stderr).contains("is not the log of any stream"), "{}", text(&said.stderr));
}

#[test]
fn check_says_how_far_it_is_where_asked() {
    let log = Log::new();
    let said = log.says(&["logs", "verify", "--stream", "auth", "--progress"]);
    assert!(text(&said.stderr).contains("auth-audit: 100 % of "), "{}", text(&said.stderr));
    assert!(log.says(&["logs", "verify", "--stream", "auth"]).stderr.is_empty());
}

#[test]
fn proof_is_checked_by_somebody_who_has_the_key_alone_and_a_changed_one_is_refused() {
    let log = Log::new();
    let proof = log.says(&["logs", "prove", "17", "--stream", "auth"]);
    assert_eq!(proof.status.code(), Some(0), "{}", text(&proof.stderr));
    let key = log.checked(&[]).1["key"]["key"].as_str().unwrap().to_owned();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("17.proof");
    let check = |proof: &[u8], key: &str| {
        std::fs::write(&file, proof).unwrap();
        moltbot(elsewhere.path(), &["logs", "check-proof", file.to_str().unwrap(), "--key", key, "--json"])
    };
    let good = check(&proof.stdout, &key);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    let said: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((&said["index"], &said["record"]["seq"]), (&17.into(), &17.into()), "{said}");
    let changed = text(&proof.stdout).replacen("\nindex 17\n", "\nindex 18\n", 1);
    assert_ne!(changed, text(&proof.stdout));
    assert_eq!(check(changed.as_bytes(), &key).status.code(), Some(1));
    assert_eq!(check(&proof.stdout, &"0b".repeat(32)).status.code(), Some(1));
    assert_eq!(log.says(&["logs", "prove", "100000", "--stream", "auth"]).status.code(), Some(1));
}

#[test]
fn stream_is_exported_as_tiles_with_its_checkpoint() {
    let log = Log::new();
    let to = log.0.path().join("tiles");
    let said = log.says(&["logs", "export", "auth", "--to", to.to_str().unwrap(), "--json"]);
    let size = log.checked(&[]).1["size"].clone();
    let said: Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!((&said["ok"], &said["lines"]), (&true.into(), &size));
    let note = std::fs::read_to_string(to.join("checkpoint")).unwrap();
    assert_eq!(note.lines().nth(1).unwrap(), size.to_string());
    assert!(to.join("tile/0").is_dir());
}

#[test]
fn checkpoint_kept_elsewhere_finds_an_older_log_and_can_be_shown_to_a_camera() {
    let log = Log::new();
    let kept = log.0.path().join("kept");
    std::fs::write(&kept, log.says(&["logs", "checkpoint"]).stdout).unwrap();
    let kept = kept.to_str().unwrap();
    assert_eq!(log.checked(&["--checkpoint", kept]).0, Some(0));
    let drawn = text(&log.says(&["logs", "checkpoint", "--qr"]).stdout);
    assert!(drawn.contains("auth-audit") && drawn.contains('█'), "{drawn}");
    // All of the last file is gone with its checkpoints: nothing that is left says so.
    let last = log.files().pop().unwrap();
    std::fs::remove_file(&last).unwrap();
    std::fs::remove_file(last.with_extension("checkpoints")).unwrap();
    let (code, row) = log.checked(&["--checkpoint", kept]);
    assert_eq!((code, &row["class"]), (Some(1), &"rolled-back".into()), "{row}");
}

#[test]
fn records_are_shown_by_what_is_asked_for() {
    let log = Log::new();
    let lines = |words: &[&str]| {
        let output = log.says(&[&["logs", "auth", "--json"], words].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let whole: Vec<u8> = log.files().iter().flat_map(|file| std::fs::read(file).unwrap()).collect();
    assert_eq!(text(&log.says(&["logs", "auth", "--json"]).stdout), text(&whole));
    assert_eq!(lines(&["--type", "auth"]).len(), 120);
    assert_eq!(lines(&["--type", "auth", "--grep", "\"success\":false"]).len(), 40);
    assert_eq!(lines(&["--type", "auth", "-n", "1"])[0]["clientIp"], "192.0.2.119");
    assert_eq!((lines(&["--actor", "vault"]).len(), lines(&["--session", "agent:main:main"]).len()), (0, 0));
    assert_eq!((lines(&["--since", "1d", "--type", "auth"]).len(), lines(&["--until", "1d"]).len()), (120, 0));
}

#[test]
fn people_get_colours_and_nothing_of_a_log_steers_their_terminal() {
    let log = Log::new();
    log.change(0, |mut bytes| {
        bytes.splice(0..0, *b"\x1b]0;owned\x07\xff\n");
        bytes
    });
    let coloured = text(&log.says(&["--color", "always", "logs", "auth"]).stdout);
    assert!(coloured.contains("\x1b[31mauth") && coloured.contains("\x1b[32mauth"), "{coloured}");
    let plain = text(&log.says(&["logs", "auth"]).stdout);
    assert!(plain.contains("owned") && plain.contains("clientIp=192.0.2.1 "));
    assert!(!plain.contains(['\x1b', '\x07']) && !coloured.contains("\x1b]"));
}
