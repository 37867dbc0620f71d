//! What the launcher makes of a request, and of a run's end.

use confine::jail::End;
use proto::audit::RunEnd;
use proto::edge::Refusal;
use proto::sandbox::LaunchReply;
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A runner's input that nobody has to write while it reads.
pub(super) fn input(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let memory = memfd_create("verb", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&memory, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    seek(&memory, SeekFrom::Start(0))?;
    Ok(memory)
}

/// A directory as it is beneath the workspace.
pub(super) fn beneath(cwd: &str) -> Result<&str, Refusal> {
    let rest = match cwd.strip_prefix("/workspace") {
        Some("") => "",
        Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
        _ => cwd,
    };
    if rest.starts_with('/') {
        return Err(Refusal::new("sandbox.not_started", &format!("{cwd}: the directory is outside the workspace")));
    }
    Ok(rest)
}

pub(super) fn answer_of(
    end: &End,
    over: Option<Refusal>,
    timed_out: bool,
    aborted: bool,
) -> Result<LaunchReply, Refusal> {
    let ended = match end {
        End::NotMade(why) if why.starts_with("directory of the workspace") => {
            return Err(Refusal::new("sandbox.not_started", why));
        }
        End::NotMade(why) => {
            return Err(Refusal::new("sandbox.failed", &format!("the sandbox could not be made: {why}")));
        }
        _ if aborted => RunEnd::Aborted,
        _ if let Some(over) = over => return Err(over),
        _ if timed_out => RunEnd::TimedOut,
        End::Exited(status) => RunEnd::Exited(*status),
        End::Signalled(signal) => RunEnd::Signalled(*signal),
        End::Killed => RunEnd::Lost,
    };
    Ok(LaunchReply::Ended(ended))
}
