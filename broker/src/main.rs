//! Broker: starts, attests, wires and supervises the others. It reads nothing from the network, parses only its own
//! configuration and words of its children, and holds no secret for longer than it takes to hand one to the operator.
#![forbid(unsafe_code)]

mod args;
mod children;
mod desk;
mod drill;
mod layout;
mod ledger;
mod lockdown;
mod log;
mod notify;
mod operator;
mod programs;
mod reaction;
mod reload;
mod serve;
mod words;

use broker::policy;
use confine::startup::StartError;
use std::process::ExitCode;

fn main() -> ExitCode {
    match start() {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)),
        Err(error) => {
            log::broker(log::Priority::Alert, &error.to_string());
            ExitCode::from(78)
        }
    }
}

fn start() -> Result<i32, StartError> {
    let args = args::parse()?;
    // Descriptor 3 is where children get their control channel: nothing of ours may ever lie there.
    let _three = confine::spawn::reserve_control_fd().map_err(StartError::permanent)?;
    let notify = notify::Notify::from_environment().map_err(StartError::permanent)?;
    let state_dir = layout::StateDir::prepare(&args.state_dir)?;
    let config = config::Config::load(&state_dir.config_path()).map_err(StartError::permanent)?;
    let programs = programs::Programs::open(&state_dir)?;
    let listener = layout::listen(args.port.unwrap_or(config.gateway.port))?;
    let door = operator::Door::open(&state_dir, &config.operator.group)?;
    let signals = serve::Signals::block()?;
    let identities = layout::become_broker(&state_dir)?;
    confine::startup::seal_broker(&policy::POLICY)?;
    let setup = words::Setup { state_dir, config, listener, identities };
    serve::Broker::new(setup, programs, door, signals, notify).run()
}
