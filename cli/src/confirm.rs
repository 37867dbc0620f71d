//! A yes from a person at a terminal, for what cannot be undone.

use crate::CliError;
use rustix::termios::isatty;

/// Goes on only after a yes to the question; `what` names what needs it.
///
/// # Errors
/// [`CliError`] where there is no terminal, or the answer is another.
pub fn confirm(what: &str, question: &str) -> Result<(), CliError> {
    if !isatty(std::io::stdin()) {
        return Err(CliError::Failed(format!("{what} needs a yes: run it on a terminal, or with --yes")));
    }
    if crate::config::yes(question, false)? { Ok(()) } else { Err(CliError::failed("nothing was done")) }
}
