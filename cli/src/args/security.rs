//! `moltbot security ...` and `moltbot doctor`

use clap::Subcommand;

/// `moltbot security ...`
#[derive(Debug, Subcommand)]
pub enum SecurityCommand {
    /// What is weak about this installation, as a score with reasons
    #[command(after_help = EXAMPLES)]
    Audit(AuditOptions),
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

const EXAMPLES: &str = "Examples:
  moltbot security audit --deep
  moltbot security audit --fix --dry-run
  moltbot security audit --min-score 85 --json | jq .score";
