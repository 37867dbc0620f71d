//! Asking sandboxd for something that takes a while: its pieces as they come, a stop that reaches it, an end in any case.

use crate::agent::Plan;
use crate::turn::Turn;
use proto::channel::{CallError, Outgoing};
use proto::edge::{Chunk as _, Refusal};
use proto::sandbox::{OutputChunk, SandboxReply, SandboxRequest};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Output that may be on its way from sandboxd, in bytes.
const CREDIT: u32 = 256 * 1024;
/// How long a request waits for sandboxd to be there.
const SANDBOX_WAIT: Duration = Duration::from_secs(15);
/// How long a stopped command may take to end.
const STOP_WAIT: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It was stopped, and did not end in time.
    Stopped,
    /// sandboxd will not.
    Refused(Refusal),
    /// sandboxd is not there, or not any more; for a person.
    Gone(String),
}

/// Asks, and gives each piece to `take`. Where the turn is stopped, the request is taken back, and its last word waited for.
pub(crate) async fn run(
    turn: &mut Turn<'_>,
    plan: &Plan,
    request: &SandboxRequest,
    take: &mut (dyn FnMut(&mut Turn<'_>, &OutputChunk) + Send),
) -> Result<SandboxReply, Broken> {
    let gateway = turn.gateway;
    let mut stream = match gateway.sandbox.stream(request, CREDIT, SANDBOX_WAIT).await {
        Ok(stream) => stream,
        Err(CallError::Refused(refusal)) => return Err(Broken::Refused(refusal)),
        Err(error) => return Err(Broken::Gone(format!("it was not done: sandboxd: {error}"))),
    };
    let mut stopped = None;
    loop {
        let flush_at = turn.flush_at();
        let next = tokio::select! {
            next = stream.next() => next,
            () = plan.stop.asked(), if stopped.is_none() => {
                stopped = Some(Instant::now() + STOP_WAIT);
                // Where sandboxd is gone the stream ends by itself.
                let _ = stream.cancel().await;
                continue;
            }
            () = sleep_until(stopped.unwrap_or_else(Instant::now)), if stopped.is_some() => return Err(Broken::Stopped),
            () = sleep_until(flush_at.unwrap_or_else(Instant::now)), if flush_at.is_some() => {
                turn.flush();
                continue;
            }
        };
        match next {
            Some(Outgoing::Chunk(chunk)) => {
                match &chunk {
                    OutputChunk::Waits(id) => crate::approvals::announce(gateway, *id),
                    _ => take(turn, &chunk),
                }
                let _ = stream.credit(chunk.cost()).await;
            }
            Some(Outgoing::Reply(reply, _)) => return Ok(reply),
            Some(Outgoing::Refused(_)) if stopped.is_some() => return Err(Broken::Stopped),
            Some(Outgoing::Refused(refusal)) => return Err(Broken::Refused(refusal)),
            None => {
                return Err(Broken::Gone(
                    "sandboxd ended before the command did; what the command did is not known. It is being restarted: \
                     send the command again if that is safe."
                        .to_owned(),
                ));
            }
        }
    }
}
