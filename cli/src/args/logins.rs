//! The command line of how clients get in.

use clap::Subcommand;

/// `moltbot gateway password ...`. No password is ever an argument: arguments are for everybody to read.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum PasswordCommand {
    /// Let clients in by a password as well; it is asked for without echo, or read from standard input
    Set,
    /// Let nobody in by a password; who came in by it is shown out
    Clear,
}

/// `moltbot devices ...`. A device is named by the beginning of its name, as far as that is its alone.
#[derive(Clone, Debug, Subcommand)]
pub enum DevicesCommand {
    /// Devices that wait, that are paired, and that were
    List,
    /// Everything about one
    Show {
        /// Its name, or how that begins
        device: String,
    },
    /// Let a device that waits in by its key, or change what a known one may do
    Approve {
        /// Its name, or how that begins
        device: String,
        /// What it may do: admin, read, write, approvals, pairing [default: what it asks for, as it was listed]
        #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
        scopes: Vec<String>,
    },
    /// Forget that a device waits
    Deny {
        /// Its name, or how that begins
        device: String,
    },
    /// Let a device in no more and close its connections
    Revoke {
        /// Its name, or how that begins
        device: String,
        /// Take its token back alone: it stays paired, and gets in with another that `rotate` draws
        #[arg(long)]
        token: bool,
    },
    /// Draw a token that the device must show beside its signature from now on; printed this once
    Rotate {
        /// Its name, or how that begins
        device: String,
    },
}
