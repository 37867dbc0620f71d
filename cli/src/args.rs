//! The command line, and nothing but it.

use crate::CliError;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A personal AI agent gateway whose every process is assumed to fall one day.
#[derive(Debug, Parser)]
#[command(name = "moltbot", version, propagate_version = true, after_help = EXAMPLES)]
pub struct Args {
    /// State directory [default: ~/.moltbot]
    #[arg(long, global = true, env = "MOLTBOT_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  moltbot up                          start, and come back when it serves
  moltbot chat \"/exec uname -a\"       run a command in the session's sandbox
  moltbot status --json | jq .ready
  moltbot gateway token --reveal      print the token for other clients; recorded
  moltbot logs command -f             follow what is being run";

/// When to use colours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start Moltbot; returns when it serves
    Up {
        /// TCP port on loopback; 0 lets the kernel choose [default: 18789, or gateway.port of moltbot.json]
        #[arg(long, value_name = "N")]
        port: Option<u16>,
        /// Stay in the foreground, logs on standard error
        #[arg(long)]
        foreground: bool,
    },
    /// Drain and stop everything, the log last
    Down,
    /// Show every process: who it is, how it is confined, how it does
    Status,
    /// Show every process's walls: what it may still do, why, and whether they stand
    ConfineReport,
    /// Talk to the agent; without a message, interactively
    Chat {
        /// The message; its words are joined by spaces
        #[arg(value_name = "MESSAGE", trailing_var_arg = true, allow_hyphen_values = true)]
        message: Vec<String>,
        /// Conversation
        #[arg(long, value_name = "KEY", default_value = "agent:main:main")]
        session: String,
    },
    /// The gateway: its token, its methods, its restart
    Gateway {
        /// What to do
        #[command(subcommand)]
        command: GatewayCommand,
    },
    /// Show the audit log
    Logs {
        /// Which stream
        #[arg(value_enum, default_value = "system")]
        stream: StreamName,
        /// Go on as records come
        #[arg(short, long)]
        follow: bool,
        /// Only the last N records
        #[arg(short = 'n', long, value_name = "N")]
        lines: Option<usize>,
    },
    /// Attack this installation from inside each role's wall
    Drill {
        /// What to do
        #[command(subcommand)]
        command: DrillCommand,
    },
    /// Print shell completions
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// `moltbot gateway ...`
#[derive(Debug, Subcommand)]
pub enum GatewayCommand {
    /// The token that clients present
    Token {
        /// Print it; recorded before it is printed
        #[arg(long)]
        reveal: bool,
    },
    /// Call a method of the gateway protocol
    Call {
        /// The method, as `health`
        method: String,
        /// Its parameters, as JSON
        #[arg(long, default_value = "{}", value_name = "JSON")]
        params: String,
    },
    /// End a role in order and start it under a new epoch
    Restart {
        /// Which
        #[arg(default_value = "gateway")]
        role: String,
    },
}

/// `moltbot drill ...`
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum DrillCommand {
    /// Make every attack on a copy of every wall; recorded, and running roles are not touched
    Run,
}

/// An audit stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum StreamName {
    /// Logins and lockouts
    Auth,
    /// Intents and outcomes of commands
    Command,
    /// Use of secrets
    Secret,
    /// Supervision, attestation, incidents, operator verbs
    System,
}

impl Args {
    /// The state directory, absolute.
    ///
    /// # Errors
    /// Where neither the option, nor the environment, nor a home directory says.
    pub fn state_dir(&self) -> Result<PathBuf, CliError> {
        let dir = self.state_dir.clone().or_else(config::default_state_dir);
        let dir = dir.ok_or_else(|| CliError::failed("there is no home directory; say --state-dir DIR"))?;
        std::path::absolute(dir).map_err(CliError::failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn message_of_several_words_is_taken_as_it_is() {
        let args = Args::try_parse_from(["moltbot", "chat", "/exec", "ls", "-la"]).unwrap();
        assert!(matches!(args.command, Command::Chat { message, .. } if message == ["/exec", "ls", "-la"]));
    }
}
