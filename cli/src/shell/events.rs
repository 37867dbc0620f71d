//! What happens while the operator types: incidents, roles that die and lockdowns from the log, and what waits for a word.

use super::waiting::Waiting;
use crate::logs::{Live, render};
use crate::paint::Paint;
use proto::audit::{AuthReason, Stream};
use rustyline::ExternalPrinter;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What a role does in the course of things.
const ORDINARY: [&str; 7] = ["spawned", "attested", "ready", "program", "stopped", "exited", "drained"];

/// Refused logins after which a device waits for a word.
const WAITING: [AuthReason; 2] = [AuthReason::DeviceUnpaired, AuthReason::DeviceScopes];

/// Tells of it from now on, beside the prompt. It ends with the process, or with the prompt.
pub fn tell(dir: &Path, paint: Paint, mut printer: impl ExternalPrinter + Send + 'static) {
    let mut waiting = Waiting::new(dir, paint);
    // Before the prompt is there, so that nothing which happens after it is missed.
    let mut logs = [Stream::System, Stream::Auth].map(|stream| Followed::new(dir, stream));
    std::thread::spawn(move || {
        loop {
            let mut lines = waiting.look();
            logs.iter_mut().for_each(|log| log.read_on(&mut lines, paint));
            if lines.into_iter().any(|line| printer.print(line + "\n").is_err()) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
    });
}

/// A stream that is followed over ends and beginnings of the set.
struct Followed {
    dir: PathBuf,
    stream: Stream,
    live: Option<Live>,
    /// What was told of devices: one that knocks again and again is told of once.
    told: BTreeSet<String>,
}

impl Followed {
    fn new(dir: &Path, stream: Stream) -> Self {
        let mut followed = Self { dir: dir.to_owned(), stream, live: None, told: BTreeSet::new() };
        followed.begin();
        followed
    }

    /// From its end on: what was before is for `logs`.
    fn begin(&mut self) {
        let live = Live::open(&self.dir, self.stream);
        self.live = live.and_then(|mut live| live.read_on(&mut |_| Ok(())).map(|()| live)).ok();
    }

    fn read_on(&mut self, lines: &mut Vec<String>, paint: Paint) {
        let told = &mut self.told;
        let mut take = |line: &str| {
            if is_news(line) && device(line).is_none_or(|device| told.insert(device)) {
                lines.push(render(line, paint));
            }
            Ok(())
        };
        // Down, or coming up: what happens next is looked for again.
        if self.live.as_mut().is_none_or(|live| live.read_on(&mut take).is_err()) {
            self.begin();
        }
    }
}

/// The device that a login was about.
fn device(line: &str) -> Option<String> {
    let record: Map<String, Value> = serde_json::from_str(line).ok()?;
    Some(record.get("device")?.as_str()?.to_owned())
}

fn is_news(line: &str) -> bool {
    let Ok(record) = serde_json::from_str::<Map<String, Value>>(line) else { return true };
    let field = |name: &str| record.get(name).and_then(Value::as_str).unwrap_or_default();
    match field("type") {
        "incident" | "lifecycle" => true,
        "operator" => field("verb") == "stranger",
        "sender" => field("verb") == "pairing.request",
        "auth" => WAITING.iter().any(|reason| field("reason") == reason.name()),
        "role" => !ORDINARY.contains(&field("event")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn incidents_and_deaths_are_news_and_the_course_of_things_is_not() {
        let stranger = r#"{"type":"sender","verb":"pairing.request"}"#;
        let device = r#"{"type":"auth","success":false,"reason":"pairing_required"}"#;
        for line in [r#"{"type":"incident"}"#, r#"{"type":"role","event":"died"}"#, "not a record", stranger, device] {
            assert!(is_news(line), "{line}");
        }
        let login = r#"{"type":"auth","success":true}"#;
        for line in [r#"{"type":"role","event":"ready"}"#, r#"{"type":"operator"}"#, r#"{"type":"cosigner"}"#, login] {
            assert!(!is_news(line), "{line}");
        }
    }
}
