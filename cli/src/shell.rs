//! `moltbot shell`: every command of `moltbot` at one prompt, with completion and history, and what happens meanwhile told
//! as it happens. A line is parsed by the same table as the command line, so the two cannot differ.
//!
//! History is kept in the state directory, for its owner alone. A line that begins with a space is not kept, nor one that
//! would carry a secret.

mod complete;
mod events;
mod waiting;

use crate::CliError;
use crate::args::{Args, Command};
use crate::paint::Paint;
use clap::FromArgMatches as _;
use complete::Completer;
use rustix::termios::isatty;
use rustyline::error::ReadlineError;
use rustyline::{Config, Editor, history::FileHistory};
use std::io::BufRead;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Lines of history that are kept.
const HISTORY: usize = 1_000;
const WELCOME: &str = "help lists the commands, help COMMAND explains one, Tab completes, Ctrl-D leaves";

/// Runs until the operator leaves.
///
/// # Errors
/// [`CliError`] where there is no terminal to ask on; in a script, of the first command that fails.
pub fn run(dir: &Path, args: &Args) -> Result<(), CliError> {
    if !isatty(std::io::stdin()) {
        return script(dir, args);
    }
    let config = Config::builder().max_history_size(HISTORY).map_err(CliError::failed)?;
    let config = config.history_ignore_space(true).completion_type(rustyline::CompletionType::List).build();
    let mut editor: Editor<Completer, FileHistory> = Editor::with_config(config).map_err(CliError::failed)?;
    editor.set_helper(Some(Completer::default()));
    let history = dir.join("shell_history");
    let _ = editor.load_history(&history);
    let paint = Paint::new(args);
    println!("{}", paint.dim(WELCOME));
    if let Ok(printer) = editor.create_external_printer() {
        events::tell(dir, paint, printer);
    }
    loop {
        match editor.readline(prompt(dir)) {
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) => {
                if keeps(&line) && editor.add_history_entry(&line).unwrap_or_default() {
                    keep(&mut editor, &history);
                }
                match one(dir, &line, args) {
                    Ok(true) => return Ok(()),
                    Ok(false) | Err(CliError::Said | CliError::OutputClosed) => {}
                    Err(error) => {
                        eprintln!("{}", crate::paint::told(&paint.bad(&error.to_string())));
                        if let Some(command) = error.explained_by() {
                            eprintln!("  `{command}` says more");
                        }
                    }
                }
            }
            // As in every shell: it gives the line up, and nothing else.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(CliError::failed(error)),
        }
    }
}

/// Lines from something that is no terminal: the first that fails ends it.
fn script(dir: &Path, args: &Args) -> Result<(), CliError> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if one(dir, trimmed, args)? {
            break;
        }
    }
    Ok(())
}

/// Carries one line out; true where it wants to leave.
fn one(dir: &Path, line: &str, args: &Args) -> Result<bool, CliError> {
    let words = shlex::split(line).ok_or_else(|| CliError::failed("a quote is not closed"))?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Typed as in a shell, it is meant as in a shell.
    let words = words.strip_prefix(&["moltbot"]).unwrap_or(&words);
    match words {
        [] => return Ok(false),
        ["exit" | "quit"] => return Ok(true),
        ["help", rest @ ..] => return help(rest).map(|()| false),
        _ => {}
    }
    let line = std::iter::once("moltbot").chain(words.iter().copied());
    let parsed =
        match crate::args::command().try_get_matches_from(line).and_then(|found| Args::from_arg_matches(&found)) {
            Ok(parsed) => parsed,
            Err(error) => {
                // Help and version come this way as well; clap knows which stream each belongs to.
                error.print()?;
                return if error.use_stderr() { Err(CliError::Said) } else { Ok(false) };
            }
        };
    if matches!(parsed.command, Command::Shell) {
        return Err(CliError::failed("this is the shell"));
    }
    crate::run(&parsed.within(dir, args)).map(|()| false)
}

fn help(words: &[&str]) -> Result<(), CliError> {
    let mut command = crate::args::command();
    command.build();
    let mut found = &mut command;
    for word in words {
        let name = (*word).to_owned();
        found = found
            .find_subcommand_mut(&name)
            .ok_or_else(|| CliError::Failed(format!("there is no command {name}; help lists them")))?;
    }
    found.print_long_help()?;
    Ok(())
}

/// Says how it stands in words: colours in a prompt would count as columns.
fn prompt(dir: &Path) -> &'static str {
    match crate::door::Door::open(dir).and_then(|mut door| door.status()) {
        Ok(status) if status.lockdown.mode != proto::operator::Mode::Open => "moltbot LOCKED> ",
        Ok(status) if status.ready => "moltbot> ",
        Ok(_) => "moltbot (not ready)> ",
        Err(_) => "moltbot (down)> ",
    }
}

/// Whether a line goes into the history.
fn keeps(line: &str) -> bool {
    let secret = ["token", "password", "apikey", "secret", "passphrase"];
    let lower = line.to_lowercase();
    let carries = lower.contains("config set") && secret.iter().any(|word| lower.contains(word));
    !(carries || line.starts_with(' '))
}

fn keep(editor: &mut Editor<Completer, FileHistory>, history: &Path) {
    // Made for the owner alone before anything is in it.
    let made = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(history);
    if made.is_ok() {
        let _ = editor.append_history(history);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_that_would_carry_a_secret_is_not_kept() {
        for line in
            ["config set gateway.auth.token abc", " status", "moltbot config set channels.telegram.botToken 1:x"]
        {
            assert!(!keeps(line), "{line}");
        }
        for line in ["status", "config set gateway.port 1", "gateway token"] {
            assert!(keeps(line), "{line}");
        }
    }
}
