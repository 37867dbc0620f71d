//! The verbs of `moltbot sandbox`. Those about rules ask the rules themselves: Moltbot need not run for them.

use clap::{Subcommand, ValueEnum};
use proto::approval::ApprovalId;
use std::path::PathBuf;

/// The conversation that is meant where none is named.
const DEFAULT_SESSION: &str = "agent:main:main";

/// `moltbot sandbox ...`
#[derive(Debug, Subcommand)]
pub enum SandboxCommand {
    /// Show what holds for a conversation's commands; or what a command would do, and which rule decides about it; nothing runs
    Explain {
        /// A conversation, as agent:main:main, or a command, as one argument
        #[arg(value_name = "SESSION|COMMAND", default_value = DEFAULT_SESSION)]
        what: String,
        /// Conversation that would run the command
        #[arg(long, value_name = "KEY", default_value = DEFAULT_SESSION)]
        session: String,
        /// Backend that would run the command [default: the one that the conversation has]
        #[arg(long, value_enum)]
        backend: Option<PlaceName>,
        /// As if it had read what strangers wrote
        #[arg(long)]
        tainted: bool,
    },
    /// Which sandboxes there are, what runs in them, and what was seen of them
    List,
    /// What ran, and every signal that was seen, oldest first
    Logs {
        /// Only of this conversation
        #[arg(value_name = "KEY")]
        session: Option<String>,
    },
    /// End what runs in a conversation's sandbox, and throw the sandbox away
    Kill {
        /// The conversation, as `sandbox list` shows it
        #[arg(value_name = "KEY")]
        session: String,
    },
    /// What was kept of sandboxes that were frozen: processes, mounts, changed files, the last output
    Evidence {
        /// Only of this conversation
        #[arg(value_name = "KEY")]
        session: Option<String>,
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
    /// Show the narrowest rule that would let a command run unasked, and what else of the last 30 days it would have
    Propose {
        /// The command, as one argument
        command: String,
        /// Conversation that would ask; the rule is for its agent and its class
        #[arg(long, value_name = "KEY", default_value = DEFAULT_SESSION)]
        session: String,
    },
    /// Show that, ask, and put the rule into moltbot.json
    Add {
        /// The command, as one argument
        command: String,
        /// Conversation that would ask; the rule is for its agent and its class
        #[arg(long, value_name = "KEY", default_value = DEFAULT_SESSION)]
        session: String,
        /// How the file is changed
        #[command(flatten)]
        how: super::How,
    },
}

/// `moltbot approvals ...`
#[derive(Debug, Subcommand)]
pub enum ApprovalsCommand {
    /// Commands that wait for you
    List,
    /// One of them, whole: exactly what a yes is bound to
    Show {
        /// Its number, as a-3
        #[arg(value_parser = parse_id)]
        id: ApprovalId,
    },
    /// Let it run
    Approve {
        /// Its number, as a-3
        #[arg(value_parser = parse_id)]
        id: ApprovalId,
        /// How often the same may run, this time included
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        /// For how long the same may run again: 90s, 30m, 12h, 7d
        #[arg(long = "for", value_name = "TIME", value_parser = parse_span, default_value = "0s")]
        span: u32,
        /// Let it run now, and write a rule that lets its like run unasked: the rule is shown first, and what of the last 30
        /// days it would have let run
        #[arg(long, conflicts_with_all = ["uses", "span"])]
        rule: bool,
        /// With --rule: do not ask
        #[arg(long, requires = "rule")]
        yes: bool,
    },
    /// Do not let it run
    Deny {
        /// Its number, as a-3
        #[arg(value_parser = parse_id)]
        id: ApprovalId,
    },
    /// Show commands as they begin to wait, until interrupted
    Watch,
    /// What may run again without a question
    Grants,
    /// Take a grant back, or all of them
    Revoke {
        /// Its number, as a-3; without one, everything
        #[arg(value_parser = parse_id)]
        id: Option<ApprovalId>,
    },
}

fn parse_id(text: &str) -> Result<ApprovalId, String> {
    let number = text.strip_prefix("a-").unwrap_or(text).parse().map_err(|_| "a number is written a-3".to_owned())?;
    Ok(ApprovalId(number))
}

fn parse_span(text: &str) -> Result<u32, String> {
    let wrong = || "a time is written 90s, 30m, 12h or 7d".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds: u32 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.parse::<u32>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(wrong)
}

/// A backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum PlaceName {
    /// A container
    Docker,
    /// The launcher's sandbox
    Native,
}
