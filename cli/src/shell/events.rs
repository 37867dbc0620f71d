//! What happens while the operator types, from the log: incidents, roles that die, lockdowns, who waits for a decision.

use crate::CliError;
use crate::logs::{Live, render};
use crate::paint::Paint;
use proto::audit::Stream;
use rustyline::ExternalPrinter;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a role does in the course of things.
const ORDINARY: [&str; 7] = ["spawned", "attested", "ready", "program", "stopped", "exited", "drained"];

/// Tells of it from now on, beside the prompt. It ends with the process.
pub fn tell(dir: &Path, paint: Paint, mut printer: impl ExternalPrinter + Send + 'static) {
    let dir: PathBuf = dir.to_owned();
    // Before the prompt is there, so that nothing which happens after it is missed.
    let mut live = begin(&dir).ok();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK_EVERY);
            let told = match &mut live {
                Some(live) => live.read_on(&mut |line| {
                    if is_news(line) {
                        printer.print(render(line, paint) + "\n").map_err(CliError::failed)?;
                    }
                    Ok(())
                }),
                None => Ok(()),
            };
            // Down, or coming up: what happens next is looked for again.
            if told.is_err() || live.is_none() {
                live = begin(&dir).ok();
            }
        }
    });
}

/// The log from its end on: what was before is for `logs`.
fn begin(dir: &Path) -> Result<Live, CliError> {
    let mut live = Live::open(dir, Stream::System)?;
    live.read_on(&mut |_| Ok(()))?;
    Ok(live)
}

fn is_news(line: &str) -> bool {
    let Ok(record) = serde_json::from_str::<Map<String, Value>>(line) else { return true };
    let field = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    match field("type") {
        "incident" | "sender" | "device" | "approval" | "lifecycle" => true,
        "role" => !ORDINARY.contains(&field("event")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incidents_and_deaths_are_news_and_the_course_of_things_is_not() {
        for line in [r#"{"type":"incident"}"#, r#"{"type":"role","event":"died"}"#, "not a record"] {
            assert!(is_news(line), "{line}");
        }
        for line in [r#"{"type":"role","event":"ready"}"#, r#"{"type":"operator"}"#, r#"{"type":"cosigner"}"#] {
            assert!(!is_news(line), "{line}");
        }
    }
}
