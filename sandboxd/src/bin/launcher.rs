//! launcher: makes native sandboxes, so that sandboxd needs neither exec nor namespaces. One thread, no runtime: its
//! children continue on a copy of its stack.
#![forbid(unsafe_code)]

use confine::jail::Jailer;
use confine::startup::{Start, StartError};
use proto::control::{Resource, RoleConfig};
use proto::exit::Exit;
use proto::ids::Role;
use sandboxd::{launch, policy};
use std::process::ExitCode;

fn main() -> ExitCode {
    confine::startup::run(Role::Launcher, start)
}

fn start(mut start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Launcher = start.config() else { return Err(start.wrong_config()) };
    let workspaces = start.take(Resource::WorkspaceDir)?;
    let mut jailer = Jailer::new().map_err(StartError::permanent)?;
    launch::runner().into_iter().for_each(|runner| jailer.set_runner(runner));
    let (sealed, control) = start.seal(&policy::LAUNCHER, &[])?;
    launch::serve(&sealed, &control, &jailer, &workspaces)
}
