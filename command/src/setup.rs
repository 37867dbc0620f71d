//! The command that prepares a container before anybody uses it. It comes from the configuration, runs once, and has no
//! network: what would reach for one, or hide what it does, is refused by parse and not by letters.

use crate::plan::{Plan, Program};
use crate::rules::is;

/// Tools that fetch.
const FETCH: [&str; 25] = [
    "apk", "apt", "apt-get", "aptitude", "bun", "cargo", "conda", "curl", "dnf", "dpkg", "ftp", "gem", "git", "go",
    "nc", "npm", "npx", "pip", "pip3", "pnpm", "scp", "ssh", "wget", "yarn", "yum",
];
/// Programs that run what is in their arguments.
const CARRY: [&str; 34] = [
    "ash", "awk", "bash", "busybox", "chroot", "dash", "doas", "env", "find", "flock", "ionice", "ksh", "make", "nice",
    "node", "nohup", "perl", "php", "python", "python3", "ruby", "script", "setsid", "sh", "stdbuf", "su", "sudo",
    "tclsh", "time", "timeout", "toybox", "watch", "xargs", "zsh",
];

/// Why a set-up command is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SetupError {
    /// It is not understood.
    #[error("it is not understood: {0}")]
    Unclear(#[from] crate::lex::Unclear),
    /// It fetches.
    #[error("{0} fetches from the network, which a sandbox has none of; put what it needs into the image")]
    Fetches(String),
    /// It runs what is in its arguments.
    #[error("{0} runs what is in its arguments, so that what will run cannot be told; name the program itself")]
    Carries(String),
}

/// Checks a set-up command; its plan is what runs.
///
/// # Errors
/// [`SetupError`].
pub fn check(text: &str) -> Result<Plan, SetupError> {
    let plan = Plan::of(text)?;
    for program in plan.programs() {
        let name = name(program);
        let versioned =
            |tool: &str| name.strip_prefix(tool).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if FETCH.contains(&name) || versioned("pip") {
            return Err(SetupError::Fetches(name.to_owned()));
        }
        let carries = CARRY.contains(&name) || versioned("python") || versioned("perl");
        // `find` by itself runs nothing.
        let runs = |arg| ["-exec", "-execdir", "-ok", "-okdir"].iter().any(|word| is(arg, word));
        if carries && (name != "find" || program.args.iter().any(runs)) {
            return Err(SetupError::Carries(name.to_owned()));
        }
    }
    Ok(plan)
}

fn name(program: &Program) -> &str {
    program.path.rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetching_is_seen_through_quotes_and_not_in_names_of_files() {
        for text in [
            "curl http://x",
            "cu''rl http://x",
            "mkdir a && \\git clone x",
            "/usr/bin/wget x",
            "ls | npm i",
            "pip3.11 x",
        ] {
            assert!(matches!(check(text), Err(SetupError::Fetches(_))), "{text}");
        }
        for text in ["mkdir -p .git/hooks", "ls curl", "echo apt", "touch pip/x && chmod 700 pip", "find . -name git"] {
            assert!(check(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_hides_its_work_is_refused() {
        for text in ["sh -c 'curl x'", "env curl x", "xargs curl", "python3.12 -c x", "find . -exec curl {} +"] {
            assert!(matches!(check(text), Err(SetupError::Carries(_))), "{text}");
        }
        for text in ["eval curl x", "$x", "echo `id`", "(ls)", ". ./x", "exec ls", "ls &", ""] {
            assert!(matches!(check(text), Err(SetupError::Unclear(_))), "{text}");
        }
    }
}
