//! Between the runner and a command: a session of its own, its terminal, its limits, and then the command in its place.
//! A program of its own, because what happens between fork and exec may not be written in safe Rust.

use rustix::process::{Resource, Rlimit, ioctl_tiocsctty, setrlimit, setsid};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// As a shell says that there is no such program.
const NOT_THERE: u8 = 127;
/// As a shell says that it cannot be run.
const NOT_RUN: u8 = 126;

/// `pty|pipe`, seconds of CPU time for each process, then the command's words.
pub fn become_command(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let terminal = words.next().is_some_and(|word| word == "pty");
    let seconds = words.next().and_then(|word| word.to_str().and_then(|word| word.parse::<u64>().ok()));
    let (Some(seconds), Some(program)) = (seconds, words.next()) else {
        eprintln!("moltbot-runner: stage without its words");
        return ExitCode::from(NOT_RUN);
    };
    let limit = |most| Rlimit { current: Some(most), maximum: Some(most) };
    let prepared = setsid()
        .map(drop)
        .and_then(|()| if terminal { ioctl_tiocsctty(std::io::stdin()) } else { Ok(()) })
        .and_then(|()| setrlimit(Resource::Core, limit(0)))
        .and_then(|()| setrlimit(Resource::Cpu, limit(seconds)));
    if let Err(errno) = prepared {
        eprintln!("moltbot-runner: the command's session: {errno}");
        return ExitCode::from(NOT_RUN);
    }
    let error = Command::new(&program).args(words).exec();
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
            eprintln!("{}: there is no such program in the sandbox", program.to_string_lossy());
            ExitCode::from(NOT_THERE)
        }
        _ => {
            eprintln!("{}: {error}", program.to_string_lossy());
            ExitCode::from(NOT_RUN)
        }
    }
}
