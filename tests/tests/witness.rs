//! The log witnessed by a program that we share nothing with, over the protocol of c2sp.org/tlog-witness: it cosigns what
//! goes on from what it saw, and nothing else.

use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use proto::audit::{AuthMethod, AuthOutcome, Record, Stream};
use proto::bounded::BoundedStr;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use system_tests::{As, Sandbox, System, skip};

const GO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/witness/witness.go");

/// Lets a log grow by so many logins.
fn grow(logs: &Path, records: usize) {
    std::fs::create_dir_all(logs).unwrap();
    let writer = Writer::from_system("single-uid".to_owned()).unwrap();
    let limits = Limits { file_bytes: 20 << 10, ..Limits::default() };
    let mut journal = Journal::open(std::fs::File::open(logs).unwrap().into(), writer, limits).unwrap();
    let client = BoundedStr::truncated("192.0.2.1");
    let record = Record::Auth { client, method: AuthMethod::Token, outcome: AuthOutcome::Accepted };
    for _ in 0..records {
        journal.append(Stream::Auth, &[(Source::OWN, &record)]).unwrap();
    }
    journal.close().unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

struct Witness {
    child: Child,
    key: String,
    url: String,
}

impl Witness {
    fn start(dir: &Path, name: &str) -> Self {
        let mut child = Command::new(dir.join("witness"))
            .args([name, dir.join("keys").to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line = || lines.next().unwrap().unwrap();
        let (key, url) = (line(), line());
        Self { child, key, url }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the witness; none where the tools are missing.
fn built() -> Option<tempfile::TempDir> {
    let has = |program: &str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|dir| dir.join(program).exists())
    };
    let sources = Path::new("/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog").is_dir();
    if !has("go") || !has("curl") || !sources {
        skip("a witness that is not ours needs go, Debian's golang-golang-x-mod-dev, and curl");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(GO, dir.path().join("witness.go")).unwrap();
    // Debian's sources, no network, and nothing of whoever runs this.
    let output = Command::new("go")
        .args(["build", "-o", "witness", "witness.go"])
        .current_dir(dir.path())
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOFLAGS", "")
        .env("GOCACHE", dir.path().join("cache"))
        .env("HOME", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(dir.path().join("keys"), "").unwrap();
    Some(dir)
}

/// What `moltbot logs witness ...` ends with and says.
fn ends(system: &System, args: &[&str]) -> (Option<i32>, String) {
    let output = system.moltbot(&[&["logs", "witness"], args].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[test]
fn foreign_witness_cosigns_a_log_that_goes_on_and_gives_a_rolled_back_one_away() {
    let Some(dir) = built() else { return };
    let system = System::prepare(As::Root, &Sandbox::Native);
    let logs: PathBuf = system.state().join("logs");
    grow(&logs, 100);
    let witness = Witness::start(dir.path(), "witness.example");
    let (code, text) = ends(&system, &["add", "w", "--url", &witness.url, "--key", &witness.key]);
    assert_eq!(code, Some(0), "{text}");
    // Before it knows the log's keys it cosigns nothing, and that says nothing about the log.
    let (code, text) = ends(&system, &["check"]);
    assert!(code == Some(4) && text.contains("does not know this log"), "{text}");
    let keys: Vec<_> = text_keys(&system, &witness);
    assert_eq!(keys.len(), 4);
    std::fs::write(dir.path().join("keys"), keys.join("\n")).unwrap();
    let (code, text) = ends(&system, &["check", "w"]);
    assert!(code == Some(0) && text.matches("cosigned up to").count() == 4, "{text}");
    copy(&logs, &system.state().join("old"));
    // Over files and keys, by consistency proofs that Go's tlog checks.
    for records in [1, 7, 300] {
        grow(&logs, records);
        let (code, text) = ends(&system, &["check"]);
        assert!(code == Some(0) && text.contains("cosigned up to"), "{text}");
    }
    let rows: Value = serde_json::from_str(&system.says(&["logs", "witness", "list", "--json"])).unwrap();
    assert!(rows[0]["cosigned"]["auth-audit"].as_u64().unwrap() > 400, "{rows}");
    let note = std::fs::read_to_string(system.state().join("witness/w.auth-audit.note")).unwrap();
    assert_eq!(note.matches("\u{2014} ").count(), 3 + usize::from(note.contains("/vault ")), "{note}");

    // All of the log is put back: by what this machine remembers, and where that is gone by what the witness does.
    std::fs::rename(&logs, system.state().join("new")).unwrap();
    std::fs::rename(system.state().join("old"), &logs).unwrap();
    let (code, text) = ends(&system, &["check"]);
    assert!(code == Some(1) && text.contains("an old state was put back"), "{text}");
    assert_eq!(ends(&system, &["remove", "w"]).0, Some(0));
    assert_eq!(ends(&system, &["add", "w", "--url", &witness.url, "--key", &witness.key]).0, Some(0));
    let (code, text) = ends(&system, &["check"]);
    assert!(code == Some(1) && text.contains("rolled back"), "{text}");
}

fn text_keys(system: &System, witness: &Witness) -> Vec<String> {
    let add = ["logs", "witness", "add", "again", "--url", &witness.url, "--key", &witness.key, "--json"];
    let said: Value = serde_json::from_str(&system.says(&add)).unwrap();
    assert_eq!(ends(system, &["remove", "again"]).0, Some(0));
    said["logKeys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect()
}

#[test]
fn answer_of_another_key_is_no_cosignature() {
    let Some(dir) = built() else { return };
    let system = System::prepare(As::Root, &Sandbox::Native);
    grow(&system.state().join("logs"), 3);
    let (asked, meant) = (Witness::start(dir.path(), "witness.example"), Witness::start(dir.path(), "witness.example"));
    assert_eq!(ends(&system, &["add", "w", "--url", &asked.url, "--key", &meant.key]).0, Some(0));
    let keys = text_keys(&system, &meant);
    std::fs::write(dir.path().join("keys"), keys.join("\n")).unwrap();
    let (code, text) = ends(&system, &["check"]);
    assert!(code == Some(1) && text.contains("no cosignature of its key"), "{text}");
    let (code, text) = ends(&system, &["check", "nobody"]);
    assert!(code == Some(1) && text.contains("no such witness"), "{text}");
}
