//! `moltbot config ...`

use clap::Subcommand;
use std::path::PathBuf;

/// `moltbot config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print a value that is in force, defaults included; without a key, all of them
    Get {
        /// The key, as gateway.port
        path: Option<String>,
    },
    /// Set a key; comments and everything else in the file stay as they are
    Set {
        /// The key, as gateway.port, agents.list[0].id or channels.telegram.groups["-100"]
        path: String,
        /// The value, as JSON5; what is not JSON5 is taken as text
        value: String,
        /// How
        #[command(flatten)]
        how: How,
    },
    /// Take a key out of the file, so that its default holds
    Unset {
        /// The key
        path: String,
        /// How
        #[command(flatten)]
        how: How,
    },
    /// Merge an object into the file (RFC 7396): null takes a key out
    Patch {
        /// A JSON5 file; - is standard input
        file: PathBuf,
        /// How
        #[command(flatten)]
        how: How,
    },
    /// Open the file in $VISUAL or $EDITOR; what does not load is not taken
    Edit {
        /// How
        #[command(flatten)]
        how: How,
    },
    /// Check a file: what is wrong with it and where, what it opens, what it has no effect on
    Validate {
        /// The file [default: moltbot.json of the state directory]
        file: Option<PathBuf>,
    },
    /// Show what the file would change in what runs; where nothing runs, in the defaults
    Diff,
    /// Put the file in force: the roles that it is about restart, and no other
    Apply,
    /// Move the secrets that stand in the file, and those of the variables that it names, into the vault
    Seal,
    /// Print the JSON Schema
    Schema,
    /// Print the path of the file
    File,
}

/// How a change is made.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct How {
    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Don't ask, even where the change makes something reachable
    #[arg(long)]
    pub yes: bool,
    /// Write the file and leave what runs as it is
    #[arg(long)]
    pub no_apply: bool,
}
