//! `moltbot chat`: one message, or a conversation line by line.

use crate::CliError;
use crate::door::Door;
use crate::paint::harmless;
use crate::ws::Session;
use serde_json::{Value, json};
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

/// Talks.
///
/// # Errors
/// [`CliError`]; a run that ends in an error is one too.
pub fn chat(dir: &Path, message: &[String], session: &str) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    if !message.is_empty() {
        return turn(&mut Session::open(&mut door)?, session, &message.join(" "));
    }
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        println!("Talking to {session}. /help lists the commands, Ctrl-D ends.");
    }
    let mut client = Session::open(&mut door)?;
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            print!("> ");
            std::io::stdout().flush()?;
        }
        let Some(line) = lines.next() else { return Ok(()) };
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        if let Err(error) = turn(&mut client, session, &line) {
            eprintln!("moltbot: {error}");
            // Gateway may have been restarted meanwhile; the conversation is in its store and goes on.
            client = Session::open(&mut Door::open(dir)?)?;
        }
    }
}

fn turn(client: &mut Session, session: &str, message: &str) -> Result<(), CliError> {
    let mut random = [0u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(CliError::failed)?;
    let run: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let answer =
        client.request("chat.send", json!({ "sessionKey": session, "message": message, "idempotencyKey": run }))?;
    if answer.get("runIds").is_some() {
        return Ok(());
    }
    let mut shown = String::new();
    let mut out = std::io::stdout().lock();
    loop {
        let event = client.event()?;
        let is = |pointer: &str, value: &str| event.pointer(pointer).and_then(Value::as_str) == Some(value);
        if !is("/event", "chat") || !is("/payload/runId", &run) {
            continue;
        }
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let whole = text("/payload/message/content/0/text");
        match text("/payload/state") {
            "delta" => {
                let delta = text("/payload/deltaText");
                let new = if delta.is_empty() { whole.strip_prefix(shown.as_str()).unwrap_or_default() } else { delta };
                write!(out, "{}", harmless(new))?;
                out.flush()?;
                shown.push_str(new);
            }
            "final" => {
                // Most often the rest of what was shown; else the final text stands for itself.
                match whole.strip_prefix(shown.as_str()) {
                    Some(rest) => writeln!(out, "{}", harmless(rest).trim_end_matches('\n'))?,
                    None => writeln!(out, "\n{}", harmless(whole).trim_end_matches('\n'))?,
                }
                return Ok(());
            }
            "aborted" => {
                writeln!(out, "\n[stopped]")?;
                return Ok(());
            }
            "error" => {
                writeln!(out)?;
                return Err(CliError::Failed(text("/payload/errorMessage").to_owned()));
            }
            _ => {}
        }
    }
}
