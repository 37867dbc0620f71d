//! Looks at the configuration, and changes nothing.

use super::{at, environment, is_taken, read, risk::Delta, understand};
use crate::CliError;
use crate::args::Args;
use crate::door::Door;
use crate::paint::Paint;
use config::rules::{Severity, findings, rating, score};
use config::{Config, ConfigError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// `config get`
pub fn get(file: &Path, path: Option<&str>, args: &Args) -> Result<(), CliError> {
    let config = understand(&read(file)?, file).map_err(CliError::failed)?;
    let value = effective(&config)?;
    let found = match path {
        Some(path) => at(&value, path)?,
        None => &value,
    };
    let text = match found {
        Value::String(text) if !args.json => text.clone(),
        _ if args.json => serde_json::to_string(found).map_err(CliError::failed)?,
        other => serde_json::to_string_pretty(other).map_err(CliError::failed)?,
    };
    println!("{text}");
    Ok(())
}

fn effective(config: &Config) -> Result<Value, CliError> {
    serde_json::to_value(config).map_err(CliError::failed)
}

/// `config validate`
pub fn validate(file: &Path, args: &Args) -> Result<(), CliError> {
    let text = read(file)?;
    let outcome = understand(&text, file);
    let understood = Config::understand(&text, file, &environment);
    let all = understood.as_ref().map(findings).unwrap_or_default();
    let problems = match &outcome {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid { problems, .. }) => problems.clone(),
        Err(error) => return Err(CliError::failed(error)),
    };
    if args.json {
        let rows: Vec<Value> = problems
            .iter()
            .map(|problem| {
                json!({
                    "file": problem.place.file, "line": problem.place.line, "column": problem.place.column,
                    "path": problem.path, "message": problem.message,
                })
            })
            .collect();
        let total = if understood.is_ok() { json!(score(&all)) } else { Value::Null };
        println!("{}", json!({ "ok": problems.is_empty(), "problems": rows, "findings": all, "score": total }));
        return if problems.is_empty() { Ok(()) } else { Err(CliError::Said) };
    }
    let paint = Paint::new(args);
    for found in all.iter().filter(|found| found.severity != Severity::Refused) {
        let line = format!("{}: {}; {}", found.path, found.title, found.remediation);
        println!("{}", if found.severity == Severity::Info { paint.dim(&line) } else { paint.warn(&line) });
    }
    if !problems.is_empty() {
        return Err(CliError::failed(ConfigError::Invalid { path: file.to_owned(), problems }));
    }
    if let Ok(config) = &understood {
        is_taken(config)?;
    }
    println!("{} loads; score {} ({})", file.display(), score(&all), rating(score(&all)));
    Ok(())
}

/// `config diff`
pub fn diff(dir: &Path, file: &Path, args: &Args) -> Result<(), CliError> {
    let new = understand(&read(file)?, file).map_err(CliError::failed)?;
    let (running, what) = match Door::open(dir) {
        Ok(mut door) => {
            let mut session = crate::ws::Session::open(&mut door)?;
            let reply = session.request("config.get", json!({}))?;
            let text = reply.get("config").map(ToString::to_string).unwrap_or_default();
            let old = understand(&text, Path::new("what runs")).map_err(CliError::failed)?;
            (old, "what runs")
        }
        Err(CliError::NotRunning(_)) => (Config::default(), "the defaults"),
        Err(error) => return Err(error),
    };
    let (old, value) = (flat(&effective(&running)?), flat(&effective(&new)?));
    let keys: std::collections::BTreeSet<&String> = old.keys().chain(value.keys()).collect();
    let changed = keys.into_iter().filter(|key| old.get(*key) != value.get(*key));
    let delta = Delta::between(&running, &new);
    if args.json {
        let rows: Vec<Value> =
            changed.map(|key| json!({ "path": key, "from": old.get(key), "to": value.get(key) })).collect();
        println!("{}", json!({ "against": what, "changes": rows, "risk": delta.as_json() }));
        return Ok(());
    }
    let paint = Paint::new(args);
    let mut any = false;
    for key in changed {
        any = true;
        if let Some(value) = old.get(key) {
            println!("{}", paint.bad(&format!("- {key}: {value}")));
        }
        if let Some(value) = value.get(key) {
            println!("{}", paint.good(&format!("+ {key}: {value}")));
        }
    }
    if any {
        print!("{}", delta.as_text(paint))
    } else {
        println!("the file says what holds already: {what}")
    }
    Ok(())
}

/// Every value by its path; lists are values.
fn flat(value: &Value) -> BTreeMap<String, Value> {
    fn walk(value: &Value, path: &str, all: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(members) if !members.is_empty() => {
                members.iter().for_each(|(key, value)| walk(value, &config::join(path, key), all));
            }
            other => drop(all.insert(path.to_owned(), other.clone())),
        }
    }
    let mut all = BTreeMap::new();
    walk(value, "", &mut all);
    all
}
