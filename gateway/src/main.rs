//! Start order of the gateway, top to bottom. Nothing hostile is read before the walls are up; what broker sends before
//! that is the configuration and two descriptors.
#![forbid(unsafe_code)]

use confine::startup::{Start, StartError};
use gateway::sessions::{Store, plain};
use gateway::state::{Gateway, Identity};
use gateway::{policy, serve};
use proto::control::{Resource, RoleConfig};
use proto::exit::Exit;
use proto::ids::Role;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    confine::startup::run(Role::Gateway, start)
}

fn start(mut start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Gateway { redacted_config, config_path, state_dir, host } = start.config() else {
        return Err(start.wrong_config());
    };
    let identity = Identity::new(redacted_config, config_path, state_dir, host).map_err(StartError::permanent)?;
    let listener = TcpListener::from(start.take(Resource::Listener)?);
    let directory = start.take(Resource::SessionDir)?;
    let held = directory.try_clone().map_err(StartError::internal)?;
    let plain = plain::sweep(directory.as_fd()).map_err(|errno| StartError::internal(format!("sessions: {errno}")))?;
    let (sealed, control) = start.seal(&policy::POLICY, &[(Resource::SessionDir, directory.as_fd())])?;

    let store = Store::open(held).map_err(|error| StartError::integrity(format!("sessions: {error}")))?;
    serve::serve(&sealed, control, listener, Gateway::new(identity, store), plain)
}
