//! moltbot-drill: attacks a role's wall from behind a copy of it. Broker starts it with the role's identity and with what
//! the role holds; it forks a child for each attempt, which raises the role's wall on itself and makes the attempt. The
//! running role is not touched, and the only thing weaker than it is this program's parent part, which reads nothing but
//! broker's order.
//!
//! What it shows holds for the wall as it is written and for this kernel; that the running role is behind that wall is what
//! attestation shows.
#![forbid(unsafe_code)]

mod attack;
mod copy;

use confine::startup::StartError;
use proto::exit::Exit;
use std::process::ExitCode;

fn main() -> ExitCode {
    let exit = match start() {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("drill: {error}");
            Exit::Internal
        }
    };
    ExitCode::from(u8::try_from(exit.code()).unwrap_or(u8::MAX))
}

fn start() -> Result<(), StartError> {
    confine::privileges::forbid_dumps().map_err(StartError::permanent)?;
    let control = confine::startup::take_control()?;
    let (order, descriptors) = attack::order(&control)?;
    let copy = copy::Copy::of(&order, descriptors)?;
    attack::run(&control, &order, &copy)
}
