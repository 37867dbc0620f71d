//! `moltbot security ...` and `moltbot doctor`

use clap::Subcommand;
use std::path::PathBuf;
use std::time::Duration;

/// `moltbot security ...`
#[derive(Debug, Subcommand)]
pub enum SecurityCommand {
    /// What is weak about this installation, as a score with reasons
    Audit(AuditOptions),
    /// Take over a state directory of plaintext Moltbot, Clawdbot or OpenClaw, which is only read
    Migrate(MigrateOptions),
}

/// How to audit.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct AuditOptions {
    /// Check the whole log, every process's walls and the gateway as well
    #[arg(long)]
    pub deep: bool,
    /// Mend what can be mended without you: modes, and what the log hides
    #[arg(long)]
    pub fix: bool,
    /// With --fix: say what would be mended, and mend nothing
    #[arg(long, requires = "fix")]
    pub dry_run: bool,
    /// Print it as SARIF 2.1.0
    #[arg(long)]
    pub sarif: bool,
    /// Exit with 1 where the score is below N
    #[arg(long, value_name = "N")]
    pub min_score: Option<u8>,
}

/// What to migrate.
#[derive(clap::Args, Clone, Debug)]
pub struct MigrateOptions {
    /// The old state directory [default: the first of ~/.openclaw, ~/.clawdbot, ~/.moldbot, ~/.moltbot that has one]
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// Print the plan, and change nothing at all
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask
    #[arg(long)]
    pub yes: bool,
}

/// How to look.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct DoctorOptions {
    /// Mend modes of files and directories
    #[arg(long, visible_alias = "repair")]
    pub fix: bool,
    /// Don't ask before mending
    #[arg(long)]
    pub yes: bool,
}

/// `moltbot explain ...`
#[derive(Debug, Subcommand)]
pub enum ExplainCommand {
    /// What whoever takes a role over has then, and what not
    BlastRadius {
        /// Which role
        role: String,
    },
    /// Who refuses by a rule, what it is about, where to look, and when it last did
    Rule {
        /// The rule that a refusal named, as exec.denied
        rule: String,
    },
}

/// What is asked about.
#[derive(clap::Args, Clone, Debug)]
pub struct WhyOptions {
    /// A path (/..., ./..., ~/...), a sender (CHANNEL:ID), or a command, in quotes
    #[arg(value_name = "PATH|COMMAND|SENDER", allow_hyphen_values = true)]
    pub what: String,
    /// For a command: the conversation that asks
    #[arg(long, value_name = "KEY", default_value = "agent:main:main")]
    pub session: String,
    /// For a command: in the native backend
    #[arg(long)]
    pub native: bool,
}

/// `moltbot incident ...`
#[derive(Debug, Subcommand)]
pub enum IncidentCommand {
    /// Write everything that a responder needs into one archive, whose digest the log vouches for
    Report(ReportOptions),
}

/// What goes into a report.
#[derive(clap::Args, Clone, Debug)]
pub struct ReportOptions {
    /// The archive to write; its proof goes beside it, as FILE.proof
    #[arg(long, value_name = "FILE", default_value = "moltbot-incident.tar")]
    pub out: PathBuf,
    /// Records from this time on: 2026-11-23, 2026-11-23T14:00:00Z, or 90m, 12h, 7d ago
    #[arg(long, value_name = "TIME", value_parser = crate::logs::parse_time, default_value = "7d")]
    pub since: Duration,
}
