//! `moltbot sessions ...`.

use clap::Subcommand;

/// `moltbot sessions ...`
#[derive(Debug, Subcommand)]
pub enum SessionsCommand {
    /// Every transcript whose key is kept: of which conversation, since when, open or closed
    List,
    /// Read a transcript; recorded. Gateway has no part in it
    Show {
        /// The transcript's id, or a conversation, whose open transcript it is then
        which: String,
    },
    /// Begin a conversation anew; its transcript is closed, and only you can read it
    Reset {
        /// The conversation, as main or work
        #[arg(required_unless_present = "all")]
        session: Option<String>,
        /// Every conversation
        #[arg(long, conflicts_with = "session")]
        all: bool,
    },
    /// Conversations that strangers' words have reached, and what brought them: they are held to stricter rules
    Tainted,
    /// Say that strangers' words count no more in a conversation: look at what it read, and at its workspace, before
    Untaint {
        /// The conversation, as main or work
        session: String,
    },
    /// Destroy the keys of transcripts, and remove their files: nobody reads them any more
    Delete {
        /// A conversation, with all its transcripts, or one transcript's id
        #[arg(required_unless_present = "closed")]
        which: Option<String>,
        /// Every transcript that is closed
        #[arg(long, conflicts_with = "which")]
        closed: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}
