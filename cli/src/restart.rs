//! `moltbot gateway restart`: ends a role in order, and waits until its successor serves.

use crate::CliError;
use crate::args::Args;
use crate::door::{Door, unexpected};
use proto::ids::{Epoch, Role};
use proto::operator::{OperatorReply, OperatorRequest, RoleState, RoleStatus};
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest that a role may take to end and to start: what broker gives it.
const PATIENCE: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Restarts the role.
///
/// # Errors
/// [`CliError`] where it does not come back.
pub fn run(door: &mut Door, role: Role, args: &Args) -> Result<(), CliError> {
    let before = row(door, role)?;
    if before.state == RoleState::Idle {
        return Err(CliError::Failed(format!("{role} does not run: nothing needs it now")));
    }
    let begun = Instant::now();
    door.ask(&OperatorRequest::Restart(role))?;
    let after = loop {
        let now = row(door, role)?;
        if now.epoch > before.epoch && now.state == RoleState::Ready {
            break now;
        }
        if begun.elapsed() >= PATIENCE {
            return Err(CliError::Failed(format!(
                "{role} is {} and not ready; `moltbot logs` shows why",
                now.state.name()
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let (Epoch(epoch), took) = (after.epoch, begun.elapsed().as_millis());
    if args.json {
        println!("{}", json!({ "ok": true, "role": role.name(), "pid": after.pid, "epoch": epoch, "tookMs": took }));
    } else {
        println!("{role} serves again after {took} ms, pid {}, epoch {epoch}", after.pid);
    }
    Ok(())
}

fn row(door: &mut Door, role: Role) -> Result<RoleStatus, CliError> {
    match door.ask(&OperatorRequest::Status)? {
        (OperatorReply::Status(status), _) => {
            status.roles.iter().find(|row| row.role == role).cloned().ok_or_else(unexpected)
        }
        _ => Err(unexpected()),
    }
}
