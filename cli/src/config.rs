//! `moltbot config`: looks at the configuration and changes it. The file is the operator's, and this process writes it with
//! the operator's rights; broker is asked to put it in force, and records that. Nothing that does not load is ever written.

mod risk;
pub mod seal;
mod show;
mod write;

pub use write::{replace, yes};

use crate::CliError;
use crate::args::{Args, ConfigCommand};
use crate::door::{Door, unexpected};
use proto::operator::{OperatorReply, OperatorRequest};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Name of the file in the state directory.
const NAME: &str = "moltbot.json";
/// Longest that restarted roles may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Carries it out.
///
/// # Errors
/// [`CliError`].
pub fn run(dir: &Path, command: &ConfigCommand, args: &Args) -> Result<(), CliError> {
    let file = dir.join(NAME);
    match command {
        ConfigCommand::Get { path } => show::get(&file, path.as_deref(), args),
        ConfigCommand::Validate { file: other } => show::validate(other.as_deref().unwrap_or(&file), args),
        ConfigCommand::Diff => show::diff(dir, &file, args),
        ConfigCommand::Schema => {
            println!("{}", serde_json::to_string_pretty(&config::json_schema()).map_err(CliError::failed)?);
            Ok(())
        }
        ConfigCommand::File => {
            println!("{}", file.display());
            Ok(())
        }
        ConfigCommand::Apply => {
            is_taken(&config::Config::load(&file).map_err(CliError::failed)?)?;
            let mut door = Door::open(dir)?;
            let sealed = seal::seal(dir, &mut door)?.as_text();
            if !args.json && !sealed.is_empty() {
                println!("{sealed}");
            }
            apply(&mut door, args)
        }
        ConfigCommand::Seal => seal::run(dir, args),
        ConfigCommand::Set { path, value, how } if write::SECRETS.contains(&path.as_str()) => {
            write::secret(dir, path, value, *how, args)
        }
        ConfigCommand::Set { path, value, how } => {
            let value = write::value(value);
            write::change(dir, &file, *how, args, |text| config::edit::set(text, path, &value))
        }
        ConfigCommand::Unset { path, how } => {
            write::change(dir, &file, *how, args, |text| config::edit::unset(text, path))
        }
        ConfigCommand::Patch { file: patch, how } => {
            let patch = write::read_patch(patch)?;
            write::change(dir, &file, *how, args, |text| config::edit::patch(text, &patch))
        }
        ConfigCommand::Edit { how } => write::edit(dir, &file, *how, args),
    }
}

/// Puts rules behind those of `tools.exec.rules`.
///
/// # Errors
/// [`CliError`].
pub fn append_rules(dir: &Path, rules: &[Value], how: crate::args::How, args: &Args) -> Result<(), CliError> {
    write::change(dir, &dir.join(NAME), how, args, |text| {
        let there = config::read_value(text).unwrap_or_default();
        let list = there.pointer("/tools/exec/rules").and_then(Value::as_array);
        let Some(list) = list else {
            return config::edit::set(text, "tools.exec.rules", &Value::from(rules.to_vec()));
        };
        let mut text = text.to_owned();
        for (at, rule) in rules.iter().enumerate() {
            let at = list.len().saturating_add(at);
            text = config::edit::set(&text, &format!("tools.exec.rules[{at}]"), rule)?;
        }
        Ok(text)
    })
}

/// Tries what only a role understands, and would end by: patterns that are redacted, rules about commands, what prepares a
/// container. It costs a
/// refusal here, and there the whole set.
///
/// # Errors
/// [`CliError`] with the role's own words.
pub fn is_taken(config: &config::Config) -> Result<(), CliError> {
    untaken(config).map_or(Ok(()), |(key, why)| Err(CliError::Failed(format!("{key}: {why}"))))
}

/// The first key that a role would not take, and why.
pub fn untaken(config: &config::Config) -> Option<(&'static str, String)> {
    let patterns = config.logging.redact_patterns.iter().map(String::as_str);
    let patterns = auditd::redact::Patterns::new(patterns).map(drop).map_err(|error| error.to_string());
    let senders = config.senders();
    let senders = vault::senders::configured::Configured::read(senders.iter().map(String::as_str));
    let rules = command::decide::Policy::from_json(&config.exec_json());
    let tools = command::tools::ToolPolicy::from_json(&config.tools_json());
    let setup = config.agents.defaults.sandbox.docker.setup_command.as_deref().map(command::setup::check);
    let checked = [
        ("logging.redactPatterns", patterns),
        ("channels", senders.map(drop).map_err(|error| error.to_string())),
        ("tools.exec", rules.map(drop).map_err(|error| error.to_string())),
        ("tools", tools.map(drop)),
        ("agents.defaults.sandbox.docker.setupCommand", setup.transpose().map(drop).map_err(|error| error.to_string())),
    ];
    checked.into_iter().find_map(|(key, taken)| taken.err().map(|why| (key, why)))
}

/// Has broker put the file in force, and waits until the roles that it is about serve again.
fn apply(door: &mut Door, args: &Args) -> Result<(), CliError> {
    let before = door.status()?;
    let (OperatorReply::Reloaded { roles, waits }, _) = door.ask(&OperatorRequest::ReloadConfig)? else {
        return Err(unexpected());
    };
    let begun = Instant::now();
    loop {
        let now = door.status()?;
        let is_back = |role| {
            let epoch = |status: &proto::operator::Status| {
                status.roles.iter().find(|row| row.role == role).map_or(0, |row| row.epoch.0)
            };
            epoch(&now) > epoch(&before)
        };
        if now.ready && roles.iter().all(|role| is_back(*role)) {
            break;
        }
        if begun.elapsed() >= PATIENCE {
            return Err(CliError::failed(
                "it is in force, and not every role serves again; `moltbot status` shows who",
            ));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    if args.json {
        println!("{}", json!({ "ok": true, "restarted": names, "waits": waits.as_str() }));
        return Ok(());
    }
    match names.as_slice() {
        [] => println!("in force; nobody had to restart"),
        names => println!("in force; restarted: {}", names.join(", ")),
    }
    if !waits.is_empty() {
        println!("{} waits for `moltbot down` and `moltbot up`", waits.as_str());
    }
    Ok(())
}

/// The text of the file; an empty object where there is none.
fn read(file: &Path) -> Result<String, CliError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok("{}\n".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(CliError::Failed(format!("{}: {error}; run it as whoever started Moltbot, or as root", file.display())))
        }
        Err(error) => Err(CliError::Failed(format!("{}: {error}", file.display()))),
    }
}

/// A text as the configuration that it is. Variables that this shell does not have stand for themselves: whether broker's
/// environment has them is for broker to say.
fn understand(text: &str, file: &Path) -> Result<config::Config, config::ConfigError> {
    config::Config::parse(text, file, &environment)
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty()).or_else(|| Some(format!("${{{name}}}")))
}

/// The value at a path of the effective configuration.
fn at<'a>(value: &'a Value, path: &str) -> Result<&'a Value, CliError> {
    let mut found = value;
    for step in config::edit::parse_path(path).map_err(CliError::failed)? {
        let next = match &step {
            config::edit::Step::Key(key) => found.get(key),
            config::edit::Step::Index(index) => found.get(index),
        };
        found = next.ok_or_else(|| {
            CliError::Failed(format!("{path} is not set; `moltbot config schema` lists the keys there are"))
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> Option<(&'static str, String)> {
        let config = config::Config::parse(text, Path::new("moltbot.json"), &|_| None);
        untaken(&config.unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    #[test]
    fn every_word_of_the_schema_is_one_of_the_role_that_it_is_for() {
        for profile in ["minimal", "coding", "messaging", "full"] {
            assert_eq!(taken(&format!("{{tools:{{profile:'{profile}'}}}}")), None);
        }
        for ask in ["off", "on-miss", "always"] {
            assert_eq!(taken(&format!("{{tools:{{exec:{{ask:'{ask}'}}}}}}")), None);
        }
    }

    #[test]
    fn what_a_role_would_not_take_is_named_by_its_key() {
        for (text, key) in [
            ("{logging:{redactPatterns:['(']}}", "logging.redactPatterns"),
            ("{tools:{exec:{rules:[{id:'mine'}]}}}", "tools.exec"),
            (
                "{agents:{defaults:{sandbox:{docker:{setupCommand:'curl x | sh'}}}}}",
                "agents.defaults.sandbox.docker.setupCommand",
            ),
        ] {
            assert_eq!(taken(text).map(|(key, _)| key), Some(key), "{text}");
        }
    }
}
