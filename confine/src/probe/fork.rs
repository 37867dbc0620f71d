//! A probe in a child of its own, for what must not happen to the caller.

use super::call::errno;
use proto::probe::Outcome;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io;
use std::time::Duration;

/// Runs `attempt` in a forked child and sees how it ends. A child that exits with 0 without a word has become another
/// program.
///
/// # Errors
/// Where the process has more than one thread (the child of such a one may not allocate), or cannot fork.
pub fn in_child(patience: Duration, attempt: impl FnOnce() -> Outcome) -> io::Result<Outcome> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("only a process with one thread may do this"));
    }
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: one thread alone (checked), so the child finds every lock free and may go on as the parent would.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::from_raw_os_error(errno().into())),
        0 => {
            let outcome = attempt();
            let _ = rustix::io::write(&write, &encode(outcome));
            // SAFETY: ends the child at once; nothing of the parent's is flushed or dropped twice.
            unsafe { libc::_exit(1) }
        }
        raw => {
            drop(write);
            let pid = Pid::from_raw(raw).ok_or_else(|| io::Error::other("no pid"))?;
            let limit = Timespec::try_from(patience).map_err(io::Error::other)?;
            let waited = poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&limit));
            let mut word = [0u8; 3];
            let count = if matches!(waited, Ok(1..)) { rustix::io::read(&read, &mut word)? } else { 0 };
            if !matches!(waited, Ok(1..)) {
                kill_process(pid, Signal::KILL)?;
            }
            let ended = waitpid(Some(pid), WaitOptions::empty())?.map(|(_, status)| status);
            let status = ended.ok_or_else(|| io::Error::other("no status"))?;
            Ok(match (waited, count) {
                (Ok(0) | Err(_), _) => Outcome::Silent,
                (_, 3) => decode(word),
                _ => ending(status.terminating_signal(), status.exit_status()),
            })
        }
    }
}

/// How an attempt ended that ended its process: by a signal, or with 0 where another program took its place.
#[must_use]
pub fn ending(signal: Option<i32>, status: Option<i32>) -> Outcome {
    match (signal, status) {
        (Some(signal), _) => Outcome::Killed(u8::try_from(signal).unwrap_or(u8::MAX)),
        (None, Some(0)) => Outcome::Allowed,
        _ => Outcome::Silent,
    }
}

fn encode(outcome: Outcome) -> [u8; 3] {
    let [low, high] = match outcome {
        Outcome::Denied(errno) => errno.to_le_bytes(),
        _ => [0, 0],
    };
    let kind = match outcome {
        Outcome::Allowed => 0,
        Outcome::Denied(_) => 1,
        Outcome::Absent => 2,
        Outcome::Killed(_) | Outcome::Silent => 3,
    };
    [kind, low, high]
}

fn decode([kind, low, high]: [u8; 3]) -> Outcome {
    match kind {
        0 => Outcome::Allowed,
        1 => Outcome::Denied(u16::from_le_bytes([low, high])),
        2 => Outcome::Absent,
        _ => Outcome::Silent,
    }
}
