//! What both processes do alike: the control channel's words, until broker says stop.

use confine::startup::{Control, Sealed, StartError};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError};
use proto::control::{FromRole, ToRole};
use proto::edge::Refusal;
use proto::exit::Exit;
use proto::gate::Gate;
use proto::port::AsyncControl;
use proto::topology::{EdgeId, Side};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long what is under way may take to end, when it is told to.
const FREEZE: Duration = Duration::from_millis(500);

/// Reports of violations, on their way to broker.
pub type Violations = mpsc::Sender<FromRole>;

/// Runs the role: `granted` takes each end that broker gives, and says whether the role can serve now.
///
/// # Errors
/// [`StartError`] where the runtime cannot be built or broker speaks out of turn.
pub fn run(
    _sealed: &Sealed,
    control: Control,
    gate: &Gate,
    ready_at_once: bool,
    mut granted: impl FnMut(EdgeId, Side, Channel, &Violations) -> bool,
) -> Result<Exit, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(StartError::internal)?;
    runtime.block_on(async {
        let control = AsyncControl::new(control.into_channel()).map_err(StartError::internal)?;
        let (violations, mut reports) = mpsc::channel(16);
        let mut ready = ready_at_once;
        if ready {
            control.send(&FromRole::Ready).await.map_err(StartError::internal)?;
        }
        loop {
            let word = tokio::select! {
                word = control.recv() => word,
                Some(report) = reports.recv() => {
                    control.send(&report).await.map_err(StartError::internal)?;
                    continue;
                }
            };
            let answer = match word {
                Ok((ToRole::Grant { edge, side, .. }, fds)) => {
                    let Some(end) = fds.into_iter().next() else {
                        return Err(StartError::internal("a grant without an end"));
                    };
                    let serves = granted(edge, side, Channel::from_fd(end), &violations);
                    if !serves || std::mem::replace(&mut ready, true) {
                        continue;
                    }
                    FromRole::Ready
                }
                Ok((ToRole::Ping(number), _)) => FromRole::Pong(number),
                Ok((ToRole::Admin(number, _), _)) => {
                    FromRole::Admin(number, Err(Refusal::new("role.no_such_verb", "this role has no operator's verb")))
                }
                Ok((ToRole::Freeze { why }, _)) => {
                    gate.close(&why);
                    // Who is inside leaves at once; broker ends a role that does not.
                    let _ = timeout(FREEZE, gate.emptied()).await;
                    FromRole::Frozen { sessions: BoundedVec::default(), detail: BoundedStr::default() }
                }
                Ok((ToRole::Thaw, _)) => {
                    gate.open();
                    continue;
                }
                Ok((ToRole::Drain, _)) => FromRole::Drained,
                Ok((ToRole::Stop, _)) => return Ok(Exit::Ok),
                Ok((ToRole::Configure { .. } | ToRole::Attested | ToRole::Quarantine(_), _)) => {
                    return Err(StartError::internal("broker repeats itself"));
                }
                Err(ChannelError::Closed) => return Ok(Exit::BrokerGone),
                Err(error) => return Err(StartError::internal(format!("control channel: {error}"))),
            };
            control.send(&answer).await.map_err(StartError::internal)?;
        }
    })
}

/// Reports the end of an edge, where the peer is at fault.
pub async fn report(violations: &Violations, edge: EdgeId, error: &ChannelError) {
    if error.is_violation() {
        let detail = BoundedStr::truncated(&error.to_string());
        let _ = violations.send(FromRole::Violated { edge, detail }).await;
    }
}
