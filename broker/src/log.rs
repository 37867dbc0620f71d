//! What broker and the roles say to a person: on standard error, one line a record, control characters made harmless, with
//! the priority in front where journald reads it (sd-daemon(3)).

use rustix::fs::fstat;
use std::io::Write;
use std::sync::OnceLock;

/// Longest line of a role that is kept together, in bytes.
const LONGEST: usize = 4_096;

/// How much a line matters, as syslog(3) counts it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Priority {
    /// Somebody must look.
    Alert = 1,
    /// Something is not as it should be.
    Warning = 4,
    /// Something happened.
    Info = 6,
}

/// Prints one line.
pub fn line(priority: Priority, who: &str, text: &str) {
    static JOURNAL: OnceLock<bool> = OnceLock::new();
    let out = render(*JOURNAL.get_or_init(is_journal), priority, who, text);
    // Nobody reads it, then; the log of record is auditd's.
    let _ = std::io::stderr().write_all(out.as_bytes());
}

/// One line, whatever is in `text`.
fn render(journal: bool, priority: Priority, who: &str, text: &str) -> String {
    let mut out = if journal { format!("<{}>{who}: ", priority as u8) } else { format!("{who}: ") };
    out.extend(text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
    out.push('\n');
    out
}

/// Says something of broker's own.
pub fn broker(priority: Priority, text: &str) {
    line(priority, "broker", text);
}

/// True where standard error is the socket of the journal (`JOURNAL_STREAM`, systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(std::io::stderr()).is_ok_and(|stat| format!("{}:{}", stat.st_dev, stat.st_ino) == named)
}

/// What a role has said and not yet ended with a line feed.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Adds what was read; returns the lines that are whole now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut whole = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                whole.extend(self.rest());
            } else {
                self.0.push(*byte);
                if self.0.len() >= LONGEST {
                    whole.extend(self.rest());
                }
            }
        }
        whole
    }

    /// What there is, as a line of its own: the role is gone, or does not end its line.
    pub fn rest(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.0);
        (!line.is_empty()).then(|| String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_makes_a_second_line_or_moves_the_cursor() {
        let text = render(true, Priority::Warning, "gateway[7]", "a\nbroker: b\r\u{1b}[2J\u{9b}c");
        assert_eq!(text, "<4>gateway[7]: a\u{fffd}broker: b\u{fffd}\u{fffd}[2J\u{fffd}c\n");
        assert_eq!(render(false, Priority::Info, "broker", "as it is"), "broker: as it is\n");
    }

    #[test]
    fn pieces_of_a_line_are_one_line() {
        let mut lines = Lines::default();
        assert!(lines.push(b"thread 'main' ").is_empty());
        assert_eq!(lines.push(b"panicked\nat here\nand"), ["thread 'main' panicked", "at here"]);
        assert_eq!(lines.rest().as_deref(), Some("and"));
        assert!(lines.rest().is_none());
    }

    #[test]
    fn line_without_end_is_cut_and_nothing_of_it_is_lost() {
        let mut lines = Lines::default();
        let text = vec![b'x'; LONGEST * 2 + 7];
        let whole = lines.push(&text);
        assert_eq!(whole.iter().map(String::len).collect::<Vec<_>>(), [LONGEST, LONGEST]);
        assert_eq!(lines.rest().map(|rest| rest.len()), Some(7));
    }
}
