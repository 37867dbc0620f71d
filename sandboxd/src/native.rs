//! The native backend, from sandboxd's side: two pipes, and a word to the launcher.

use crate::job::{Event, Input, Job, WAITING};
use crate::modes::Given;
use crate::state::workspace;
use proto::audit::RunEnd;
use proto::bounded::BoundedBytes;
use proto::channel::CallError;
use proto::edge::{Refusal, SandboxdLauncher};
use proto::port::Port;
use proto::runner::{Launch, Program};
use proto::sandbox::{Backend, Bounds, LaunchReply, LaunchRequest, WorkspaceName};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Notify, mpsc};

/// How long the launcher may take to be there and to find its tier.
const PROBE: Duration = Duration::from_secs(12);
/// Beyond the run's own time, for the launcher to end it.
const GRACE: Duration = Duration::from_secs(5);
/// Pieces of input that wait.
const INPUT: usize = 4;
/// Bytes taken from a pipe at once.
const CHUNK: usize = 16_384;

fn refused(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        other => Refusal::new("sandbox.launcher", &format!("launcher: {other}")),
    }
}

/// Asks which tier there is.
///
/// # Errors
/// [`Refusal`] where the launcher does not answer.
pub async fn tier(launcher: &Port<SandboxdLauncher>) -> Result<(Backend, String), Refusal> {
    let (read, write) = pipe().map_err(|error| Refusal::new("sandbox.resource", &error))?;
    // The edge's requests all carry two descriptors; a probe's go nowhere.
    let fds = [write.as_fd(), read.as_fd()];
    match launcher.call_with(&LaunchRequest::Probe, &fds, PROBE).await.map_err(refused)?.0 {
        LaunchReply::Tier { backend, detail } => Ok((backend, detail.to_string())),
        LaunchReply::Ended(_) | LaunchReply::Prepared { .. } => {
            Err(Refusal::new("sandbox.launcher", "launcher answered another question"))
        }
    }
}

/// Has a workspace there, and says whose it is.
///
/// # Errors
/// [`Refusal`] where there can be none, or the launcher does not answer.
pub async fn prepare(launcher: &Port<SandboxdLauncher>, workspace: &WorkspaceName) -> Result<(u32, u32), Refusal> {
    let (read, write) = pipe().map_err(|error| Refusal::new("sandbox.resource", &error))?;
    let request = LaunchRequest::Prepare { workspace: workspace.clone() };
    match launcher.call_with(&request, &[write.as_fd(), read.as_fd()], PROBE).await.map_err(refused)?.0 {
        LaunchReply::Prepared { uid, gid } => Ok((uid, gid)),
        LaunchReply::Ended(_) | LaunchReply::Tier { .. } => {
            Err(Refusal::new("sandbox.launcher", "launcher answered another question"))
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), String> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| format!("pipe: {errno}"))
}

fn receiver() -> Result<(Receiver, OwnedFd), Refusal> {
    let bad = |error: &dyn std::fmt::Display| Refusal::new("sandbox.resource", &error.to_string());
    let (read, write) = pipe().map_err(|error| bad(&error))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(|errno| bad(&errno))?;
    Ok((Receiver::from_owned_fd_unchecked(read).map_err(|error| bad(&error))?, write))
}

/// Starts a command.
///
/// # Errors
/// [`Refusal`] where this backend does not serve what is asked for.
pub fn start(
    launcher: &Port<SandboxdLauncher>,
    given: &Given,
    launch: Launch,
    limit: Duration,
    bounds: Bounds,
) -> Result<Job, Refusal> {
    // A command has no input here: one that reads comes to the end at once, and what is written to it is refused by the job.
    let Launch { program, cwd, pty, .. } = launch;
    let timeout_s = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX);
    let (workspace, agent) = (workspace(&given.workspace), given.agent.as_ref().map(workspace));
    let words = match program {
        Program::Files => None,
        Program::Words(_) if pty => {
            let why = "the native backend gives a command no terminal; without `pty` it runs";
            return Err(Refusal::new("sandbox.native", why));
        }
        Program::Words(words) => Some(words),
    };
    let (events, receiver) = mpsc::channel(WAITING);
    let kill = Arc::new(Notify::new());
    let (launcher, killed) = (launcher.clone(), Arc::clone(&kill));
    let (give, mut given) = mpsc::channel(INPUT);
    let is_file = words.is_none();
    tokio::spawn(async move {
        let request = async {
            match words {
                Some(words) => Ok(LaunchRequest::Run { workspace, agent, words, cwd, timeout_s, bounds }),
                None => {
                    verb(&mut given).await.map(|verb| LaunchRequest::File { workspace, agent, verb, timeout_s, bounds })
                }
            }
        };
        let sink = |is_error, bytes| {
            let events = events.clone();
            async move { drop(events.send(Event::Output { is_error, bytes }).await) }
        };
        let work = async { run(&launcher, &request.await?, limit, sink).await };
        let end = tokio::select! {
            biased;
            () = killed.notified() => Ok(RunEnd::Aborted),
            end = work => end,
        };
        let _ = events.send(Event::Ended(end)).await;
    });
    Ok(Job::task(receiver, Some(kill), is_file.then_some(give)))
}

/// The whole of a file verb: the launcher is given it at once.
async fn verb(given: &mut mpsc::Receiver<Input>) -> Result<BoundedBytes<180_000>, Refusal> {
    let mut verb = Vec::new();
    while let Some((bytes, last)) = given.recv().await {
        verb.extend_from_slice(&bytes);
        if last {
            break;
        }
    }
    BoundedBytes::new(verb).map_err(|error| Refusal::new("file.too_large", &error.to_string()))
}

/// Runs a command; `sink` is given its output as it comes. Dropping the future has the launcher kill the sandbox.
///
/// # Errors
/// [`Refusal`] where it could not be started.
async fn run<S, F>(
    launcher: &Port<SandboxdLauncher>,
    request: &LaunchRequest,
    timeout: Duration,
    mut sink: S,
) -> Result<RunEnd, Refusal>
where
    S: FnMut(bool, Vec<u8>) -> F,
    F: Future<Output = ()>,
{
    let (mut stdout, stdout_end) = receiver()?;
    let (mut stderr, stderr_end) = receiver()?;
    let call = async {
        let answer = launcher.call_with(request, &[stdout_end.as_fd(), stderr_end.as_fd()], timeout + GRACE).await;
        // Only now: the launcher had them before it answered, and a pipe without a writer looks ended.
        drop((stdout_end, stderr_end));
        answer
    };
    tokio::pin!(call);
    let mut answer = None;
    let (mut out, mut err) = (vec![0u8; CHUNK], vec![0u8; CHUNK]);
    let (mut out_open, mut err_open) = (true, true);
    while answer.is_none() || out_open || err_open {
        tokio::select! {
            ended = &mut call, if answer.is_none() => answer = Some(ended),
            count = stdout.read(&mut out), if out_open => match count {
                Ok(count @ 1..) => sink(false, out.get(..count).unwrap_or_default().to_vec()).await,
                _ => out_open = false,
            },
            count = stderr.read(&mut err), if err_open => match count {
                Ok(count @ 1..) => sink(true, err.get(..count).unwrap_or_default().to_vec()).await,
                _ => err_open = false,
            },
        }
    }
    match answer {
        Some(Ok((LaunchReply::Ended(end), _))) => Ok(end),
        Some(Err(CallError::Gone | CallError::Deadline)) => Ok(RunEnd::Lost),
        Some(Err(error)) => Err(refused(error)),
        Some(Ok((LaunchReply::Tier { .. } | LaunchReply::Prepared { .. }, _))) | None => {
            Err(Refusal::new("sandbox.launcher", "launcher answered another question"))
        }
    }
}
