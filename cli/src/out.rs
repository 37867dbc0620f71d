//! Standard output whose reader may leave: `moltbot logs | head` ends there, quietly and with success, as `main` does where it is
//! told of it. std's own macros would panic.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write as _};

/// As std's, but for a reader that has left.
macro_rules! println {
    () => { $crate::out::put(format_args!("\n")) };
    ($($words:tt)*) => { $crate::out::put(format_args!("{}\n", format_args!($($words)*))) };
}

/// As std's, but for a reader that has left.
macro_rules! print {
    ($($words:tt)*) => { $crate::out::put(format_args!($($words)*)) };
}

/// Writes, and ends the process where nobody reads any more. What cannot be written for another reason has no one to be told.
pub fn put(words: Arguments<'_>) {
    if let Err(error) = std::io::stdout().lock().write_fmt(words) {
        if error.kind() == ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln!("moltbot: standard output: {error}");
        std::process::exit(1);
    }
}
