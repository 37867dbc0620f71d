//! `moltbot logs ...`

use clap::{Subcommand, ValueEnum};
use proto::audit::Stream;
use std::path::PathBuf;
use std::time::Duration;

/// `moltbot logs [STREAM] ...`
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ShowLogs {
    /// Which stream
    #[arg(value_enum, default_value = "system")]
    pub stream: StreamName,
    /// Go on as records come
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N records, of those that the other options leave
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Records from this time on: 2026-11-23, 2026-11-23T14:00:00Z, or 90m, 12h, 7d ago
    #[arg(long, value_name = "TIME", value_parser = crate::logs::parse_time)]
    pub since: Option<Duration>,
    /// Records before this time
    #[arg(long, value_name = "TIME", value_parser = crate::logs::parse_time)]
    pub until: Option<Duration>,
    /// Records of this conversation
    #[arg(long, value_name = "KEY")]
    pub session: Option<String>,
    /// Records written by this role
    #[arg(long, value_name = "ROLE")]
    pub actor: Option<String>,
    /// Records of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// Records whose line holds this text
    #[arg(long, value_name = "TEXT")]
    pub grep: Option<String>,
}

/// `moltbot logs verify | checkpoint | prove | check-proof | export`
#[derive(Debug, Subcommand)]
pub enum LogsCommand {
    /// Check the log to its last line, from its files alone; exits 1 where it is not what was written, 4 where it cannot be read
    Verify {
        /// A file or a directory [default: logs/ of the state directory]
        path: Option<PathBuf>,
        /// The first key, as you noted it at the first start: the key line, or its 64 hexadecimal digits
        #[arg(long, value_name = "KEY", value_parser = auditd::offline::parse_key)]
        from_key: Option<[u8; 32]>,
        /// A file with checkpoints that were kept elsewhere; a log that does not reach them was rolled back
        #[arg(long, value_name = "FILE")]
        checkpoint: Vec<PathBuf>,
        /// The key that the vault cosigns with, as you noted it [default: the one that the log names]
        #[arg(long, value_name = "KEY")]
        cosigner: Option<Box<str>>,
        /// Only this stream
        #[arg(long, value_enum)]
        stream: Option<StreamName>,
        /// Say on standard error how far it is, also of a small log and where nobody looks on
        #[arg(long)]
        progress: bool,
    },
    /// Print the newest checkpoint of each stream, to be kept elsewhere: `verify --checkpoint` finds a rollback with it
    Checkpoint {
        /// A file or a directory [default: logs/ of the state directory]
        path: Option<PathBuf>,
        /// As a QR code each, for a telephone's camera
        #[arg(long)]
        qr: bool,
    },
    /// Have the log witnessed by somebody who is not on this machine (c2sp.org/tlog-witness)
    Witness {
        /// What to do
        #[command(subcommand)]
        command: WitnessCommand,
    },
    /// Print a proof that a record is in the log, for somebody who has only the key
    Prove {
        /// The record's seq
        seq: u64,
        /// Which stream
        #[arg(long, value_enum, default_value = "system")]
        stream: StreamName,
        /// A file or a directory [default: logs/ of the state directory]
        #[arg(long, value_name = "PATH")]
        path: Option<PathBuf>,
        /// A file with the record's line, as you kept it: for a record whose file was pruned
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
    },
    /// Check such a proof and print the record
    CheckProof {
        /// The proof; - is standard input
        file: PathBuf,
        /// The key that signed its checkpoint [default: from the log in the state directory, once that is checked]
        #[arg(long, value_name = "KEY", value_parser = auditd::offline::parse_key)]
        key: Option<[u8; 32]>,
    },
    /// Remove the oldest files, over what is to be kept; checked and recorded before, and their hashes stay
    Prune(crate::prune::Options),
    /// Write a stream as static tiles that other readers of transparency logs know (c2sp.org/tlog-tiles)
    Export {
        /// Which stream
        #[arg(value_enum)]
        stream: StreamName,
        /// A directory to write to
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// A file or a directory [default: logs/ of the state directory]
        #[arg(long, value_name = "PATH")]
        path: Option<PathBuf>,
    },
}

/// `moltbot logs witness ...`
#[derive(Debug, Subcommand)]
pub enum WitnessCommand {
    /// Name a witness, and print the keys that it must know
    Add {
        /// What to call it here
        name: String,
        /// Where it is: `/add-checkpoint` goes behind it
        #[arg(long, value_name = "URL")]
        url: String,
        /// Its key line, as its operator gave it to you
        #[arg(long, value_name = "KEY")]
        key: String,
    },
    /// Who witnesses this log, and up to where
    List,
    /// Check the log against what a witness saw last, and have it cosign what there is now; exits 1 where the log is another
    Check {
        /// Which [default: each]
        name: Option<String>,
    },
    /// Forget a witness and what it cosigned
    Remove {
        /// Which
        name: String,
    },
}

/// An audit stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum StreamName {
    /// Logins and lockouts
    Auth,
    /// Intents and outcomes of commands
    Command,
    /// Use of secrets
    Secret,
    /// Supervision, attestation, incidents, operator verbs
    #[default]
    System,
}

impl From<StreamName> for Stream {
    fn from(name: StreamName) -> Self {
        match name {
            StreamName::Auth => Self::Auth,
            StreamName::Command => Self::Command,
            StreamName::Secret => Self::Secret,
            StreamName::System => Self::System,
        }
    }
}
