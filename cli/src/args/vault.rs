//! The verbs of `moltbot vault`. Secrets are asked for or read from standard input: none of them is an argument.

use clap::Subcommand;
use std::path::PathBuf;

/// `moltbot vault ...`
#[derive(Debug, Subcommand)]
pub enum VaultCommand {
    /// Draw a new wrapping key and seal every secret anew under it
    Rotate {
        /// Replace keys/secrets.key as well; the vault starts anew. Backups of the old one open old stores only
        #[arg(long)]
        master: bool,
    },
    /// Open a vault whose store a passphrase seals; the passphrase is asked for without echo, or read from standard input
    Unlock,
    /// A passphrase beside keys/secrets.key, without which the store does not open
    Passphrase {
        /// What to do
        #[command(subcommand)]
        command: PassphraseCommand,
    },
    /// Write the store and its key to a file that only the recipients can open (age); recorded where Moltbot runs
    Backup {
        /// The file, which must not be there yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Whom it is for, as `age-keygen` prints it; may be said more than once
        #[arg(long, required = true, value_name = "age1...")]
        recipient: Vec<String>,
    },
    /// Put a backup in the place of the store and its key, while Moltbot is down
    Restore {
        /// The backup
        file: PathBuf,
        /// A file with the identity that opens it, as `age-keygen` writes it
        #[arg(long, value_name = "FILE")]
        identity: PathBuf,
        /// Say whether it could be done, and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Also where the vault was changed since, which is undone by it
        #[arg(long)]
        accept_rollback: bool,
    },
    /// Go on although an older vault.db or an older log was put back, and the vault refuses everything because of it; recorded
    AcceptRollback,
}

/// `moltbot vault passphrase ...`
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum PassphraseCommand {
    /// Seal the store anew with a passphrase; from the next start on the vault waits for it. Lost, the secrets are lost
    Set,
    /// Seal the store anew with the key file alone
    Remove,
}
