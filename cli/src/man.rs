//! `moltbot man`: manual pages from the table of commands, one for each, for a package to install.

use crate::CliError;
use std::path::Path;

/// Writes `moltbot.1`, `moltbot-status.1` and so on.
///
/// # Errors
/// [`CliError`] where a page cannot be written.
pub fn write(to: &Path) -> Result<(), CliError> {
    std::fs::create_dir_all(to).map_err(|error| CliError::Failed(format!("{}: {error}", to.display())))?;
    let mut command = crate::args::command().disable_help_subcommand(true);
    command.build();
    clap_mangen::generate_to(command, to).map_err(|error| CliError::Failed(format!("{}: {error}", to.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for name in ["moltbot.1", "moltbot-status.1", "moltbot-config-set.1", "moltbot-security-audit.1"] {
            let page = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{name}");
        }
    }
}
