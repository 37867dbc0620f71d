//! The command line of how clients get in.

use clap::Subcommand;

/// `moltbot gateway password ...`. No password is ever an argument: arguments are for everybody to read.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum PasswordCommand {
    /// Let clients in by a password as well; it is asked for without echo, or read from standard input
    Set,
    /// Let nobody in by a password any more
    Clear,
}
