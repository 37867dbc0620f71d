//! The command line, and nothing but it.

mod config;
mod examples;
mod logins;
mod logs;
mod people;
mod sandbox;
mod security;
mod sessions;
mod vault;

use crate::CliError;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
pub use config::{ConfigCommand, How};
pub use logins::{DevicesCommand, PasswordCommand};
pub use logs::{LogsCommand, ShowLogs, StreamName, WitnessCommand};
pub use people::{AllowlistCommand, ImportOptions, PairingCommand};
use proto::exit::{PERMANENT, REFUSALS};
pub use sandbox::{ApprovalsCommand, PlaceName, RulesCommand, SandboxCommand};
pub use security::{
    AuditOptions, DoctorOptions, ExplainCommand, IncidentCommand, MigrateOptions, ReportOptions, SecurityCommand,
    WhyOptions,
};
pub use sessions::SessionsCommand;
use std::path::PathBuf;
use std::time::Duration;
pub use vault::{PassphraseCommand, VaultCommand};

/// A personal AI agent gateway whose every process is assumed to fall one day.
#[derive(Debug, Parser)]
#[command(name = "moltbot", version, propagate_version = true, after_help = after_help())]
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
  moltbot sandbox explain 'ls | sh'   what a command would do, and whether it is asked about
  moltbot approvals watch             see what waits for your word
  moltbot secrets set model.key       put a secret in; the value is asked for
  moltbot config set gateway.port 18790
  moltbot logs command -f             follow what is being run
  moltbot security audit --deep       what is weak here, and what to do about it
  moltbot logs verify                 check that nobody touched the log";

/// Examples, and what an exit status means.
fn after_help() -> String {
    let statuses = PERMANENT.iter().map(|(exit, about, _)| format!("\n  {}  {about}", exit.code()));
    let refusals = REFUSALS.iter().map(|(rule, status, about)| format!("\n  {status}  {about} ({rule})"));
    format!(
        "{EXAMPLES}\n\nExit status:\n   0  done\n   1  refused, or failed\n   2  the command line is not understood\n   \
         3  moltbot is not running\n   4  the log cannot be checked{}\nof `moltbot up`, where broker ended so:{}",
        refusals.collect::<String>(),
        statuses.collect::<String>(),
    )
}

/// The table of commands, with examples.
#[must_use]
pub fn command() -> clap::Command {
    examples::add(Args::command())
}

/// What was typed; help and mistakes end the process, as clap does it.
#[must_use]
pub fn parse() -> Args {
    Args::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit())
}

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
    #[command(arg_required_else_help = true, args_conflicts_with_subcommands = true)]
    Gateway {
        /// Check that it would start, without serving: as `moltbot gateway test`
        #[arg(long)]
        test: bool,
        /// What to do
        #[command(subcommand)]
        command: Option<GatewayCommand>,
    },
    /// Show the audit log, check it, and prove what is in it
    #[command(args_conflicts_with_subcommands = true)]
    Logs {
        /// What to show
        #[command(flatten)]
        show: ShowLogs,
        /// What to do instead
        #[command(subcommand)]
        command: Option<LogsCommand>,
    },
    /// Strangers that want to speak to the agent
    Pairing {
        /// What to do
        #[command(subcommand)]
        command: PairingCommand,
    },
    /// Who may speak to the agent, on each channel
    Allowlist {
        /// What to do
        #[command(subcommand)]
        command: AllowlistCommand,
    },
    /// Conversations at rest: list, read, begin anew, destroy
    Sessions {
        /// What to do
        #[command(subcommand)]
        command: SessionsCommand,
    },
    /// Secrets: put one in, say what may be done with it, see what was
    Secrets {
        /// What to do
        #[command(subcommand)]
        command: SecretsCommand,
    },
    /// Devices that log in by a key of their own: pair one, say what it may do, take it back
    Devices {
        /// What to do
        #[command(subcommand)]
        command: DevicesCommand,
    },
    /// What commands may run unasked: explain one, list and test the rules
    Sandbox {
        /// What to do
        #[command(subcommand)]
        command: SandboxCommand,
    },
    /// Commands that wait for your word, and what you granted
    Approvals {
        /// What to do
        #[command(subcommand)]
        command: ApprovalsCommand,
    },
    /// The vault's own keys
    Vault {
        /// What to do
        #[command(subcommand)]
        command: VaultCommand,
    },
    /// The configuration: look at it, change it, put it in force
    Config {
        /// What to do
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// How safe this installation is
    Security {
        /// What to do
        #[command(subcommand)]
        command: SecurityCommand,
    },
    /// Whether this machine and this installation can carry Moltbot, with what to do
    Doctor(DoctorOptions),
    /// Why things are as they are
    Explain {
        /// What to explain
        #[command(subcommand)]
        command: ExplainCommand,
    },
    /// Who may: for a path which role, for a sender whether it may speak, for a command whether it runs
    Why(WhyOptions),
    /// When something happened
    Incident {
        /// What to do
        #[command(subcommand)]
        command: IncidentCommand,
    },
    /// What is locked down; lock everything; open it again
    Lockdown {
        /// What to do
        #[command(subcommand)]
        command: LockdownCommand,
    },
    /// Attack this installation from inside each role's wall
    Drill {
        /// What to do
        #[command(subcommand)]
        command: DrillCommand,
    },
    /// Every command at one prompt, with completion, history and what happens meanwhile
    Shell,
    /// Write manual pages
    Man {
        /// A directory to write to
        #[arg(value_name = "DIR")]
        to: PathBuf,
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
    /// The password that clients may present in place of the token
    Password {
        /// What to do
        #[command(subcommand)]
        command: PasswordCommand,
    },
    /// Call a method of the gateway protocol
    Call {
        /// The method, as `health`
        method: String,
        /// Its parameters, as JSON
        #[arg(long, default_value = "{}", value_name = "JSON")]
        params: String,
    },
    /// Check that it would start, without serving: programs, kernel, configuration, modes, port
    Test,
    /// Forget every lockout: addresses that failed to log in may try again at once
    Unlock,
    /// End a role in order and start it under a new epoch
    Restart {
        /// Which
        #[arg(default_value = "gateway")]
        role: String,
    },
}

/// `moltbot secrets ...`. No value is ever an argument: arguments are for everybody to read.
#[derive(Debug, Subcommand)]
pub enum SecretsCommand {
    /// Names, versions and what may be done with them; never a value
    List,
    /// Put a new secret in; its value is asked for without echo, or read from standard input
    Set {
        /// Its name: a-z 0-9 . _ -
        name: String,
        /// What may be done with it, as lines of `field value`; without one, nothing may
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
    /// Replace a secret's value; its policy stays, its leases end
    Rotate {
        /// Its name
        name: String,
    },
    /// Forget a secret
    Remove {
        /// Its name
        name: String,
    },
    /// Print a secret, where its policy says `reveal yes`; recorded
    Reveal {
        /// Its name
        name: String,
    },
    /// Print what may be done with a secret, or set it
    Policy {
        /// Its name
        name: String,
        /// Set it from this file; - is standard input
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Allow one use of a secret whose policy says `approval yes`
    Approve {
        /// Its name
        name: String,
    },
    /// Move credentials that lie in clear in a state directory into the vault, and write over them where they lie
    Import(ImportOptions),
    /// End every lease that lives
    Revoke,
    /// Who used what, and when, from the log
    Usage {
        /// Only this secret
        name: Option<String>,
        /// From this time on: 2026-11-23, 2026-11-23T14:00:00Z, or 90m, 12h, 7d ago
        #[arg(long, value_name = "TIME", value_parser = crate::logs::parse_time)]
        since: Option<Duration>,
    },
    /// What left the vault since then: what to rotate after an incident
    Touched {
        /// From this time on: 2026-11-23, 2026-11-23T14:00:00Z, or 90m, 12h, 7d ago
        #[arg(long, value_name = "TIME", value_parser = crate::logs::parse_time)]
        since: Duration,
    },
}

/// `moltbot lockdown ...`
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum LockdownCommand {
    /// Show whether anything is locked, since when and why
    Status,
    /// Freeze everything: no login, command, request or credential, until it is cleared
    On,
    /// Open everything again, quarantined conversations included; recorded
    Clear,
}

/// `moltbot drill ...`
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum DrillCommand {
    /// Make every attack on a copy of every wall; recorded, and running roles are not touched
    Run,
}

impl Args {
    /// The same, as said at the prompt of a shell that was started with `outer` on `dir`.
    #[must_use]
    pub fn within(mut self, dir: &std::path::Path, outer: &Self) -> Self {
        self.state_dir = Some(dir.to_owned());
        self.json |= outer.json;
        if self.color == Color::Auto {
            self.color = outer.color;
        }
        self
    }

    /// The state directory, absolute.
    ///
    /// # Errors
    /// Where neither the option, nor the environment, nor a home directory says.
    pub fn state_dir(&self) -> Result<PathBuf, CliError> {
        let dir = self.state_dir.clone().or_else(::config::default_state_dir);
        let dir = dir.ok_or_else(|| CliError::failed("there is no home directory; say --state-dir DIR"))?;
        std::path::absolute(dir).map_err(CliError::failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn logs_take_a_stream_with_filters_or_a_subcommand() {
        let args = Args::try_parse_from(["moltbot", "logs", "command", "--type", "intent", "--since", "2h"]).unwrap();
        let Command::Logs { show, command: None } = args.command else { panic!("a subcommand") };
        assert_eq!(
            (show.stream, show.kind.as_deref(), show.since.is_some()),
            (StreamName::Command, Some("intent"), true)
        );
        let args = Args::try_parse_from(["moltbot", "logs", "verify", "/x"]).unwrap();
        assert!(matches!(args.command, Command::Logs { command: Some(LogsCommand::Verify { .. }), .. }));
        assert!(Args::try_parse_from(["moltbot", "logs", "--since", "yesterday"]).is_err());
    }

    #[test]
    fn message_of_several_words_is_taken_as_it_is() {
        let args = Args::try_parse_from(["moltbot", "chat", "/exec", "ls", "-la"]).unwrap();
        assert!(matches!(args.command, Command::Chat { message, .. } if message == ["/exec", "ls", "-la"]));
    }
}
