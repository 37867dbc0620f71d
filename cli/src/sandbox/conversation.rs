//! What holds for a conversation's commands, by the sandboxd that runs; where none does, by the configuration, and that is said.
//! Names of conversations may be a stranger's text; they are shown, never run.

use crate::CliError;
use crate::args::Args;
use crate::door::{Door, unexpected};
use crate::paint::{Paint, beside, harmless};
use crate::watch::{key, row_as_json};
use command::decide::{Facts, Place};
use command::tools::ToolPolicy;
use config::Config;
use config::{Backend as Choice, SandboxMode};
use proto::operator::{OperatorReply, OperatorRequest};
use proto::sandbox::Backend;
use proto::watch::{Class, Explained, SandboxAnswer, SandboxVerb, Sight};
use serde_json::json;
use std::path::Path;

/// Columns before what is said.
const INDENT: u16 = 12;

/// True for what names a conversation and no command.
pub fn is_key(what: &str) -> bool {
    let parts: Vec<&str> = what.split(':').collect();
    matches!(parts.as_slice(), ["agent", _, _, ..])
        && parts.iter().all(|part| !part.is_empty())
        && !what.contains(char::is_whitespace)
}

/// Where a command of this conversation would run, and what the set knows of it; none where Moltbot is not running.
///
/// # Errors
/// [`CliError`]; also where nothing can confine a command.
pub fn standing(dir: &Path, session: &str) -> Result<(Place, Option<Box<Explained>>), CliError> {
    let Some(explained) = ask(dir, session)? else {
        return Ok((configured(&Config::load(&dir.join("moltbot.json")).map_err(CliError::failed)?, session), None));
    };
    let place = match explained.backend {
        Backend::Docker => Place::Docker,
        Backend::NativeN1 | Backend::NativeN2 => Place::Native,
        Backend::None => {
            return Err(CliError::Failed(format!(
                "nothing here can confine a command, so none runs: {}; `moltbot doctor` says what would; --backend asks what \
                 the rules say all the same",
                harmless(&explained.detail)
            )));
        }
    };
    Ok((place, Some(explained)))
}

/// The backend that the configuration means the conversation to have. Whether that one serves, only a running sandboxd knows.
fn configured(config: &Config, session: &str) -> Place {
    let sandbox = &config.agents.defaults.sandbox;
    let facts = Facts { session, place: Place::Docker, tainted: false };
    let is_main = facts.class() == command::decide::Class::Main;
    match (sandbox.backend, sandbox.mode) {
        (Choice::Native, _) | (Choice::Auto, SandboxMode::Off) => Place::Native,
        (Choice::Auto, SandboxMode::NonMain) if is_main => Place::Native,
        (Choice::Docker | Choice::Auto, _) => Place::Docker,
    }
}

fn ask(dir: &Path, session: &str) -> Result<Option<Box<Explained>>, CliError> {
    let mut door = match Door::open(dir) {
        Err(CliError::NotRunning(_)) => return Ok(None),
        door => door?,
    };
    match door.ask(&OperatorRequest::Sandbox(SandboxVerb::Explain(key(session)?)))? {
        (OperatorReply::Sandbox(SandboxAnswer::Explained(explained)), _) => Ok(Some(explained)),
        _ => Err(unexpected()),
    }
}

/// Prints what holds for the conversation.
///
/// # Errors
/// [`CliError`].
pub fn show(dir: &Path, session: &str, args: &Args) -> Result<(), CliError> {
    let Some(explained) = ask(dir, session)? else { return show_configured(dir, session, args) };
    if args.json {
        println!("{}", as_json(&explained));
    } else {
        print!("{}", as_text(&explained, Paint::new(args)));
    }
    Ok(())
}

fn show_configured(dir: &Path, session: &str, args: &Args) -> Result<(), CliError> {
    let config = Config::load(&dir.join("moltbot.json")).map_err(CliError::failed)?;
    let place = configured(&config, session);
    let facts = Facts { session, place, tainted: false };
    let tools = ToolPolicy::from_json(&config.tools_json()).map_err(CliError::Failed)?.allowed(&facts);
    if args.json {
        let class = facts.class().name();
        let value = json!({ "sessionKey": session, "running": false, "sessionClass": class, "backend": place.name(), "tools": tools });
        println!("{value}");
        return Ok(());
    }
    println!("{}", harmless(session));
    line("class", facts.class().name());
    line("backend", &format!("{}, by the configuration; which one serves is known once Moltbot runs", place.name()));
    line("tools", &tools.join(" "));
    Ok(())
}

fn line(name: &str, text: &str) {
    print!("{}", lined(name, text));
}

fn lined(name: &str, text: &str) -> String {
    format!("  {name:<9} {}\n", beside(INDENT, text))
}

fn class_of(explained: &Explained) -> &'static str {
    let facts = Facts { session: &explained.row.session.0, place: Place::Docker, tainted: explained.tainted };
    facts.class().name()
}

/// What makes a command of it ask, or nothing run, beyond the rules; none where nothing does.
pub fn caution(explained: &Explained) -> Option<&'static str> {
    if explained.closed.is_some() {
        return Some("nothing of it runs now: `moltbot sandbox explain` with its key says why");
    }
    if explained.row.suspended {
        return Some("every command is asked about: something only an attack does was seen in its sandbox");
    }
    explained.tainted.then_some("it has read what strangers wrote: the stricter rules hold")
}

/// As JSON; its keys are an interface.
fn as_json(explained: &Explained) -> serde_json::Value {
    let closed = explained.closed.as_ref();
    let closed = closed.map(|refusal| json!({ "rule": refusal.rule.as_str(), "message": refusal.message.as_str() }));
    json!({
        "sessionKey": explained.row.session.0.as_str(),
        "running": true,
        "sessionClass": class_of(explained),
        "backend": explained.backend.name(),
        "detail": explained.detail.as_str(),
        "image": explained.image.as_str(),
        "sharedAs": explained.place.0.as_str(),
        "workspaceAccess": explained.agent.name(),
        "tainted": explained.tainted,
        "closed": closed,
        "tools": explained.tools.iter().map(|tool| tool.as_str()).collect::<Vec<_>>(),
        "sandbox": row_as_json(&explained.row),
    })
}

/// For a person.
fn as_text(explained: &Explained, paint: Paint) -> String {
    let row = &explained.row;
    let mut text = format!("{}\n", harmless(&row.session.0));
    let mut say = |name: &str, what: &str| text.push_str(&lined(name, what));
    say("class", class_of(explained));
    say("backend", &format!("{}: {}", explained.backend.name(), harmless(&explained.detail)));
    if !explained.image.is_empty() {
        say("image", &harmless(&explained.image));
    }
    say(
        "sandbox",
        &match (row.container.as_str(), explained.backend) {
            ("", Backend::Docker) => "none yet: its next command makes one".to_owned(),
            ("", _) => "made anew for each command".to_owned(),
            (container, _) => format!("{}, for {} s", harmless(container), row.age_s),
        },
    );
    if explained.place != row.session {
        say("shared", &format!("with all of {}", harmless(&explained.place.0)));
    }
    say(
        "workspace",
        match explained.agent {
            Sight::Nothing => "its own alone",
            Sight::Read => "its own, and its agent's to read",
            Sight::Write => "its agent's, to read and to write",
        },
    );
    say("running", &format!("{} commands", row.running));
    let seen = row.class.map_or("nothing", Class::name);
    say("seen", &format!("{seen}, {} signals in the last minute", row.signals));
    match (&explained.closed, caution(explained)) {
        (Some(refusal), _) => {
            say("runs", &paint.bad(&format!("nothing ({}): {}", refusal.rule.as_str(), refusal.message.as_str())))
        }
        (None, Some(caution)) => say("runs", &paint.warn(caution)),
        (None, None) => say("runs", "what `moltbot sandbox rules list` lets run; the rest as tools.exec.ask has it"),
    }
    let tools: Vec<&str> = explained.tools.iter().map(|tool| tool.as_str()).collect();
    say("tools", &tools.join(" "));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_key_is_told_from_a_command() {
        for key in ["agent:main:main", "agent:work:telegram:dm:12"] {
            assert!(is_key(key), "{key}");
        }
        for command in ["ls", "agent:main", "agent::main", "agent:main:main x", "echo agent:a:b", ":", "agent:a:"] {
            assert!(!is_key(command), "{command}");
        }
    }

    #[test]
    fn configuration_alone_says_which_backend_is_meant() {
        let of = |text: &str, session: &str| {
            configured(&Config::parse(text, Path::new("moltbot.json"), &|_| None).unwrap(), session)
        };
        assert_eq!(of("{}", "agent:main:main"), Place::Native);
        assert_eq!(of("{}", "agent:main:work"), Place::Docker);
        let all = "{agents:{defaults:{sandbox:{mode:'all'}}}}";
        assert_eq!(of(all, "agent:main:main"), Place::Docker);
        let native = "{agents:{defaults:{sandbox:{backend:'native'}}}}";
        assert_eq!(of(native, "agent:main:work"), Place::Native);
    }
}
