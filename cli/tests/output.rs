//! What becomes of output that nobody reads, or that cannot be written.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::{Command, Output, Stdio};

fn moltbot(words: &[&str], to: impl Into<Stdio>) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_moltbot"));
    command.arg("--state-dir").arg(dir.path()).args(words);
    command.stdin(Stdio::null()).stdout(to).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

const COMMANDS: [&[&str]; 4] = [&["config", "schema"], &["completion", "bash"], &["config", "get"], &["help"]];

#[test]
fn reader_that_left_ends_a_command_without_a_word() {
    for words in COMMANDS {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = moltbot(words, writer);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{words:?}: {} {said}", output.status);
        // The same with a reader says something.
        assert!(!moltbot(words, Stdio::piped()).stdout.is_empty(), "{words:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = moltbot(&["config", "schema"], full);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}
