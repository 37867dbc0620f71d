//! `moltbot logs`: the audit streams, read through broker and auditd while they run, else from their files.

use crate::CliError;
use crate::args::{Args, ShowLogs};
use crate::door::{Door, unexpected};
use crate::paint::{Paint, harmless};
use auditd::clock::{Instant, parse_rfc3339};
use auditd::offline;
use proto::audit::Stream;
use proto::operator::{OperatorReply, OperatorRequest};
use serde_json::{Map, Value};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Fields that every record has, or that stand elsewhere in the line.
const COMMON: [&str; 12] =
    ["seq", "ts", "timestamp", "boot", "mono", "stream", "type", "actor", "actorEpoch", "req", "layout", "prev"];
/// What auditd writes about the log itself: of use to programs.
const INNER: [&str; 2] = ["note", "frontier"];

/// Prints records, oldest first.
///
/// # Errors
/// [`CliError`].
pub fn show(dir: &Path, options: &ShowLogs, args: &Args) -> Result<(), CliError> {
    let paint = Paint::new(args);
    let mut out = std::io::stdout().lock();
    let mut print = |line: &str| writeln!(out, "{}", if args.json { line.to_owned() } else { render(line, paint) });
    let mut last = VecDeque::new();
    let mut take = |line: &str| {
        match options.lines {
            _ if !wanted(line, options) => {}
            // Only the last ones: kept until the end is known.
            Some(count) => {
                last.push_back(line.to_owned());
                if last.len() > count {
                    last.pop_front();
                }
            }
            None => print(line)?,
        }
        Ok(())
    };
    let mut source = match Door::open(dir) {
        Ok(door) => Some(Live { door, stream: options.stream.into(), offset: 0, partial: Vec::new() }),
        Err(CliError::NotRunning(_)) if !options.follow => None,
        Err(error) => return Err(error),
    };
    match &mut source {
        Some(live) => live.read_on(&mut take)?,
        None => read_files(dir, options.stream.into(), &mut take)?,
    }
    last.iter().try_for_each(|line| print(line))?;
    let Some(mut live) = source.filter(|_| options.follow) else { return Ok(out.flush()?) };
    loop {
        out.flush()?;
        std::thread::sleep(FOLLOW_EVERY);
        live.read_on(&mut |line| {
            if wanted(line, options) {
                writeln!(out, "{}", if args.json { line.to_owned() } else { render(line, paint) })?;
            }
            Ok(())
        })?;
    }
}

/// Hands every record of a stream to `take`, oldest first, through broker or from the files where it is down.
///
/// # Errors
/// [`CliError`].
pub fn each(dir: &Path, stream: Stream, take: Take<'_>) -> Result<(), CliError> {
    match Door::open(dir) {
        Ok(door) => Live { door, stream, offset: 0, partial: Vec::new() }.read_on(take),
        Err(CliError::NotRunning(_)) => read_files(dir, stream, take),
        Err(error) => Err(error),
    }
}

/// What is done with each line.
pub type Take<'t> = &'t mut dyn FnMut(&str) -> Result<(), CliError>;

/// A stream by way of broker, as far as it was read.
pub struct Live {
    door: Door,
    stream: Stream,
    offset: u64,
    partial: Vec<u8>,
}

impl Live {
    /// From its beginning.
    ///
    /// # Errors
    /// [`CliError`] where nothing runs.
    pub fn open(dir: &Path, stream: Stream) -> Result<Self, CliError> {
        Ok(Self { door: Door::open(dir)?, stream, offset: 0, partial: Vec::new() })
    }

    /// Hands on what came since the last time.
    ///
    /// # Errors
    /// [`CliError`], and those of `take`.
    pub fn read_on(&mut self, take: Take<'_>) -> Result<(), CliError> {
        loop {
            let request = OperatorRequest::ReadLog { stream: self.stream, offset: self.offset };
            let (OperatorReply::LogBytes { from, bytes }, _) = self.door.ask(&request)? else {
                return Err(unexpected());
            };
            if from != self.offset {
                // What was begun before a pruned file does not go on behind it.
                self.partial.clear();
            }
            self.offset = from;
            if bytes.is_empty() {
                return Ok(());
            }
            self.offset = self.offset.saturating_add(u64::try_from(bytes.len()).unwrap_or_default());
            self.partial.extend_from_slice(&bytes);
            let whole = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end.saturating_add(1));
            let rest = self.partial.split_off(whole);
            let lines = std::mem::replace(&mut self.partial, rest);
            lines.split_inclusive(|byte| *byte == b'\n').try_for_each(|line| take(&text(line)))?;
        }
    }
}

fn read_files(dir: &Path, stream: Stream, take: Take<'_>) -> Result<(), CliError> {
    for pair in offline::find(&dir.join("logs"), stream).map_err(CliError::failed)? {
        let file = std::fs::File::open(&pair.log)
            .map_err(|error| CliError::Failed(format!("{}: {error}", pair.log.display())))?;
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            take(&text(&line))?;
            line.clear();
        }
    }
    Ok(())
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line)).into_owned()
}

/// Reads a point in time, or a time ago as `90m`, `12h`, `7d`.
///
/// # Errors
/// A line for a person.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    if let Some(time) = parse_rfc3339(text) {
        return Ok(time);
    }
    let ago = text.split_at_checked(text.len().saturating_sub(1)).and_then(|(number, unit)| {
        let seconds = match unit {
            "s" => 1u64,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
    });
    let ago =
        ago.ok_or("neither a date (2026-11-23), nor a time (2026-11-23T14:00:00Z), nor one ago (90m, 12h, 7d)")?;
    Ok(Instant::now().wall.saturating_sub(ago))
}

fn wanted(line: &str, options: &ShowLogs) -> bool {
    if options.grep.as_ref().is_some_and(|text| !line.contains(text)) {
        return false;
    }
    let by_field = [("sessionKey", &options.session), ("actor", &options.actor), ("type", &options.kind)];
    if by_field.iter().all(|(_, wish)| wish.is_none()) && options.since.is_none() && options.until.is_none() {
        return true;
    }
    let Ok(record) = serde_json::from_str::<Map<String, Value>>(line) else { return false };
    let field = |name: &str| record.get(name).and_then(Value::as_str);
    let fits = by_field.iter().all(|(name, wish)| wish.as_deref().is_none_or(|wish| field(name) == Some(wish)));
    let time = field("ts").and_then(parse_rfc3339);
    fits && options.since.is_none_or(|since| time.is_some_and(|time| time >= since))
        && options.until.is_none_or(|until| time.is_some_and(|time| time < until))
}

/// A record for a person.
#[must_use]
pub fn render(line: &str, paint: Paint) -> String {
    let Ok(Value::Object(record)) = serde_json::from_str(line) else { return paint.bad(&harmless(line)) };
    let text = |key: &str| record.get(key).map(plain).unwrap_or_default();
    let kind = text("type");
    let failed = record.get("success") == Some(&Value::Bool(false))
        || matches!(kind.as_str(), "refused" | "incident" | "full" | "torn" | "clock");
    let rest: Vec<String> = record
        .iter()
        .filter(|(key, _)| !COMMON.contains(&key.as_str()) && !INNER.contains(&key.as_str()))
        .map(|(key, value)| format!("{}={}", paint.dim(key), plain(value)))
        .collect();
    let kind = format!("{kind:<10}");
    let kind = if failed { paint.bad(&kind) } else { paint.good(&kind) };
    format!("{} {:<9} {kind} {}", paint.dim(&text("ts")), text("actor"), rest.join(" "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => harmless(text).replace('\n', "\\n"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"seq":7,"ts":"2026-11-23T14:00:00.000000Z","type":"intent","actor":"sandboxd","sessionKey":"agent:main:main","command":"ls"}"#;

    #[test]
    fn every_filter_lets_its_record_through_and_holds_others_back() {
        let time = |text: &str| parse_time(text).ok();
        let filters = [
            (
                ShowLogs { grep: Some("\"ls\"".into()), ..ShowLogs::default() },
                ShowLogs { grep: Some("rm".into()), ..ShowLogs::default() },
            ),
            (
                ShowLogs { actor: Some("sandboxd".into()), ..ShowLogs::default() },
                ShowLogs { actor: Some("vault".into()), ..ShowLogs::default() },
            ),
            (
                ShowLogs { kind: Some("intent".into()), ..ShowLogs::default() },
                ShowLogs { kind: Some("outcome".into()), ..ShowLogs::default() },
            ),
            (
                ShowLogs { session: Some("agent:main:main".into()), ..ShowLogs::default() },
                ShowLogs { session: Some("agent:main".into()), ..ShowLogs::default() },
            ),
            (
                ShowLogs { since: time("2026-11-23T14:00:00Z"), ..ShowLogs::default() },
                ShowLogs { since: time("2026-11-23T14:00:01Z"), ..ShowLogs::default() },
            ),
            (
                ShowLogs { until: time("2026-11-24"), ..ShowLogs::default() },
                ShowLogs { until: time("2026-11-23T14:00:00Z"), ..ShowLogs::default() },
            ),
        ];
        for (lets, holds) in filters {
            assert!(wanted(LINE, &lets) && !wanted(LINE, &holds), "{lets:?} {holds:?}");
        }
        assert!(wanted(LINE, &ShowLogs::default()));
    }

    #[test]
    fn time_ago_is_before_now_and_nonsense_is_refused() {
        let now = Instant::now().wall;
        let ago = now - parse_time("2h").unwrap();
        assert!(ago >= Duration::from_secs(7_100) && ago < Duration::from_secs(7_300));
        for bad in ["", "h", "2w", "-2h", "2026-02-30", "é"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
