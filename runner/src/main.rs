//! The runner: what is inside a sandbox on sandboxd's behalf. It starts commands, ends them, and serves files.
//!
//! Hostile: everything around it. It has the sandbox's rights and no others, so nothing that a command cannot do can be
//! had from it; what it protects is the order of things: a command cannot trace it, speak for it, hold its other commands
//! up, or outlive its own end. sandboxd believes nothing of what it says about the world outside the sandbox.
//!
//! Four words it can be started with: `serve` (resident, over standard input and output), `files` (one file verb),
//! `stage` (itself, on the way to becoming a command) and `--version`.
#![forbid(unsafe_code)]

mod child;
mod files;
mod grep;
mod patch;
mod resident;
mod stage;
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    let outcome = match verb.to_str() {
        Some("serve") => resident::serve(),
        Some("files") => files::serve(),
        Some("stage") => return stage::become_command(words),
        Some("--version") => {
            println!("moltbot-runner {} (protocol {})", env!("CARGO_PKG_VERSION"), proto::runner::VERSION);
            Ok(())
        }
        _ => Err(std::io::Error::other("started by hand; sandboxd starts it with serve or files")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("moltbot-runner: {error}");
            ExitCode::from(70)
        }
    }
}
