//! `moltbot pairing ...`, `moltbot allowlist ...`.

use clap::{Subcommand, ValueEnum};
use proto::senders::{PairingCode, SenderMode};
use std::path::PathBuf;

/// `moltbot pairing ...`
#[derive(Debug, Subcommand)]
pub enum PairingCommand {
    /// Strangers that wait to be let in, with the code that each was shown
    List {
        /// Only this channel
        channel: Option<String>,
    },
    /// Let the stranger in who was shown this code
    Approve {
        /// The channel, as telegram
        channel: String,
        /// The code; small letters, spaces and hyphens are taken
        #[arg(value_parser = code)]
        code: PairingCode,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Let a sender in no more, and void the code that it may have
    Revoke {
        /// The channel
        channel: String,
        /// The sender's id
        sender: String,
    },
    /// Who may speak on a channel beside those on its list: strangers with a code, or nobody; or no one at all
    Mode {
        /// The channel
        channel: String,
        /// The mode
        mode: ModeName,
    },
}

/// `moltbot allowlist ...`
#[derive(Debug, Subcommand)]
pub enum AllowlistCommand {
    /// Who may speak, on each channel; an empty list lets nobody
    List {
        /// Only this channel
        channel: Option<String>,
    },
    /// Put a sender on a channel's list
    Add {
        /// The channel
        channel: String,
        /// The sender's id, which for Telegram and Discord is a number
        sender: String,
        /// A name, for you
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Take a sender off a channel's list
    Remove {
        /// The channel
        channel: String,
        /// The sender's id
        sender: String,
    },
}

/// `moltbot secrets import ...`
#[derive(clap::Args, Clone, Debug)]
pub struct ImportOptions {
    /// State directory of a Moltbot, Clawdbot or OpenClaw
    #[arg(value_name = "DIR")]
    pub from: PathBuf,
    /// Only show what would be moved
    #[arg(long)]
    pub dry_run: bool,
    /// Take a secret whose name is in the vault already as its next version
    #[arg(long)]
    pub replace: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// A channel's mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ModeName {
    /// Those on the list; a stranger gets a code that you can approve
    Pairing,
    /// Those on the list; a stranger gets nothing
    Allowlist,
    /// Nobody
    Disabled,
}

impl From<ModeName> for SenderMode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Pairing => Self::Pairing,
            ModeName::Allowlist => Self::Allowlist,
            ModeName::Disabled => Self::Disabled,
        }
    }
}

fn code(text: &str) -> Result<PairingCode, String> {
    PairingCode::parse(text).ok_or_else(|| "a code is 8 of A-Z and 2-9, without I and O".to_owned())
}
