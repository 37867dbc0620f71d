//! The verbs of `moltbot sandbox`. They ask the rules themselves: Moltbot need not run.

use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;

/// `moltbot sandbox ...`
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Show what a command would do, which rule decides about it, and why; nothing runs
    Explain {
        /// The command, as one argument
        command: String,
        /// Conversation that would ask
        #[arg(long, value_name = "KEY", default_value = "agent:main:main")]
        session: String,
        /// Backend that would run it
        #[arg(long, value_enum, default_value = "docker")]
        backend: PlaceName,
    },
    /// The rules: what runs unasked, what is asked about, what never runs
    Rules {
        /// What to do
        #[command(subcommand)]
        command: RulesCommand,
    },
}

/// `moltbot sandbox rules ...`
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Every rule in force: the built-in ones, and tools.exec.rules of moltbot.json
    List,
    /// Try every rule on its examples, as a start does
    Test {
        /// A JSON list of rules to try instead of those of moltbot.json; - is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// A backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum PlaceName {
    /// A container
    Docker,
    /// The launcher's sandbox
    Native,
}
