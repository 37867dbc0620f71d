//! One request to a witness, by curl: it brings TLS and the machine's own certificates, and runs with the operator's rights.

use crate::CliError;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Longest that a witness may take, in seconds.
const PATIENCE: &str = "30";
/// Bytes of an answer that are taken.
const MAX_ANSWER: &str = "65536";

/// What a witness answered.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Sends a checkpoint to the witness beneath `url`.
pub fn post(url: &str, request: &str) -> Result<Answer, CliError> {
    let failed = |what: &dyn std::fmt::Display| CliError::Unchecked(format!("{url}: {what}"));
    let address = format!("{}/add-checkpoint", url.trim_end_matches('/'));
    let mut child = Command::new("curl")
        .args(["--silent", "--show-error", "--proto", "=http,https", "--max-time", PATIENCE])
        .args(["--max-filesize", MAX_ANSWER, "--header", "content-type: text/plain", "--data-binary", "@-"])
        .args(["--write-out", "\n%{http_code}", "--url", &address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&format!("curl, which carries checkpoints, cannot be run: {error}")))?;
    if let Some(mut input) = child.stdin.take() {
        // Where curl ended before, its own words say why.
        let _ = input.write_all(request.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| failed(&"its answer is no text"))?;
    let (body, status) = text.rsplit_once('\n').ok_or_else(|| failed(&"it gave no answer"))?;
    Ok(Answer { status: status.parse().map_err(|_| failed(&"it gave no status"))?, body: body.to_owned() })
}
