//! Completion by the table of commands: subcommands, options, and values that are one of a few.

use clap::Command;
use rustyline::completion::{Completer as Complete, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};

/// Completes from the same table that parses.
pub struct Completer(Command);

impl Default for Completer {
    fn default() -> Self {
        let mut command = crate::args::command();
        command.build();
        Self(command)
    }
}

impl Completer {
    /// What could stand where the last word stands.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        let (before, word) = line.split_at(start);
        let mut at = &self.0;
        let mut help = false;
        let mut before = before.split_whitespace().peekable();
        before.next_if_eq(&"moltbot");
        for word in before {
            match (word, at.find_subcommand(word)) {
                ("help", _) if std::ptr::eq(at, &raw const self.0) => help = true,
                (_, Some(inner)) => at = inner,
                // An option, or a value: what follows is still this command's.
                _ => {}
            }
        }
        let mut all: Vec<String> = Vec::new();
        if word.starts_with('-') {
            let options = at.get_arguments().filter(|arg| !arg.is_hide_set());
            all.extend(options.filter_map(|arg| arg.get_long().map(|long| format!("--{long}"))));
        } else {
            all.extend(at.get_subcommands().map(|command| command.get_name().to_owned()));
            for arg in at.get_positionals().filter(|_| !help) {
                all.extend(arg.get_possible_values().iter().map(|value| value.get_name().to_owned()));
            }
            if std::ptr::eq(at, &raw const self.0) {
                all.extend(["exit", "help"].map(str::to_owned));
            }
        }
        all.retain(|candidate| candidate.starts_with(word));
        all.sort();
        all.dedup();
        (start, all)
    }
}

impl Complete for Completer {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, all) = self.candidates(line.get(..at).unwrap_or(line));
        let pair = |text: String| Pair { display: text.clone(), replacement: text + " " };
        Ok((start, all.into_iter().map(pair).collect()))
    }
}

impl Hinter for Completer {
    type Hint = String;
}
impl Highlighter for Completer {}
impl Validator for Completer {}
impl Helper for Completer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completes_commands_options_and_values() {
        let completer = Completer::default();
        let offers = |line: &str| completer.candidates(line).1;
        assert!(offers("").contains(&"status".to_owned()) && offers("").contains(&"exit".to_owned()));
        assert_eq!(offers("sta"), ["status"]);
        assert_eq!(offers("moltbot sta"), ["status"]);
        assert_eq!(offers("lockdown cl"), ["clear"]);
        assert_eq!(offers("help lockdown cl"), ["clear"]);
        assert_eq!(offers("logs comm"), ["command"]);
        assert!(offers("config set gateway.port 1 --").contains(&"--dry-run".to_owned()));
        assert_eq!(offers("nothing like this"), Vec::<String>::new());
        assert_eq!(completer.candidates("config va").0, 7);
    }
}
