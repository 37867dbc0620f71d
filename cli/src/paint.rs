//! Colours, on a terminal only, and text that is safe to print there.

use crate::args::{Args, Color};
use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Whether to colour.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// By `--color`, the terminal, and NO_COLOR (no-color.org).
    #[must_use]
    pub fn new(args: &Args) -> Self {
        Self(match args.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        })
    }

    /// Without colours.
    #[cfg(test)]
    #[must_use]
    pub const fn plain() -> Self {
        Self(false)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// All is well.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Look at this.
    #[must_use]
    pub fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// This is wrong.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Beside the point.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }
}

/// The text without what could steer a terminal: a sandboxed program's output is a stranger's.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { '\u{fffd}' } else { c }).collect()
}

/// How wide the terminal is; without one, as wide as need be.
#[must_use]
pub fn columns() -> u16 {
    width(std::io::stdout())
}

fn width(terminal: impl AsFd) -> u16 {
    let size = rustix::termios::tcgetwinsize(terminal);
    size.map(|size| size.ws_col).ok().filter(|columns| *columns > 0).unwrap_or(u16::MAX)
}

/// The text in lines of at most `width` columns, broken at blanks, all but the first indented. What has no blank stays whole.
#[must_use]
pub fn folded(text: &str, indent: usize, width: u16) -> String {
    let width = usize::from(width);
    let (mut lines, mut used) = (String::new(), 0usize);
    for word in text.split(' ') {
        let length = shown(word);
        if used > 0 && used.saturating_add(length).saturating_add(1) > width {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            used = indent;
        } else if used > 0 {
            lines.push(' ');
            used = used.saturating_add(1);
        }
        lines.push_str(word);
        used = used.saturating_add(length);
    }
    lines
}

/// Columns that a word takes: a colour takes none.
fn shown(word: &str) -> usize {
    let mut inside = false;
    let counts = word.chars().filter(|c| {
        let begins = *c == '\u{1b}';
        let hidden = begins || inside;
        inside = begins || (inside && *c != 'm');
        !hidden
    });
    counts.count()
}

/// What stands behind `indent` columns of a line, folded there for the terminal.
#[must_use]
pub fn beside(indent: u16, text: &str) -> String {
    folded(text, usize::from(indent), columns().saturating_sub(indent))
}

/// A line with why it is so: from column `at` on where there is room for it, else on lines beneath.
#[must_use]
pub fn aside(line: &str, at: u16, why: &str, paint: Paint) -> String {
    const ROOM: u16 = 40;
    const BENEATH: u16 = 8;
    if columns() >= at.saturating_add(ROOM) {
        return format!("{line:<width$} {}", paint.dim(&beside(at.saturating_add(1), why)), width = usize::from(at));
    }
    format!("{line}\n{:width$}{}", "", paint.dim(&beside(BENEATH, why)), width = usize::from(BENEATH))
}

/// What is said on standard error, each line folded for the terminal that it is on.
#[must_use]
pub fn told(text: &str) -> String {
    let width = width(std::io::stderr());
    let line = |line: &str| folded(line, 2, width);
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_folded_at_blanks_and_stays_whole() {
        assert_eq!(folded("aa bb cc", 1, 5), "aa bb\n cc");
        assert_eq!(folded("aaaaaaaa b", 2, 4), "aaaaaaaa\n  b");
        assert_eq!(folded("\u{1b}[31mfour\u{1b}[0m five", 0, 9), "\u{1b}[31mfour\u{1b}[0m five");
        let text = "one two three four";
        assert_eq!(folded(text, 3, u16::MAX), text);
        assert_eq!(folded(text, 3, 9).split_whitespace().collect::<Vec<_>>().join(" "), text);
    }

    #[test]
    fn escape_sequence_is_made_harmless_and_plain_text_is_kept() {
        assert_eq!(harmless("a\x1b[31mb\tc\nd"), "a\u{fffd}[31mb\tc\nd");
    }
}
