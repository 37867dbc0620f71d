//! sandboxd: alone touches Docker. Its wall needs neither exec nor namespaces; what does is the launcher's.
#![forbid(unsafe_code)]

use confine::startup::{Start, StartError};
use proto::control::{Resource, RoleConfig};
use proto::exit::Exit;
use proto::ids::Role;
use sandboxd::{
    judge::Judge,
    modes::Modes,
    policy, serve,
    state::{Prune, Settings},
    watch::processes::Processes,
};
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    confine::startup::run(Role::Sandboxd, start)
}

fn start(start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Sandboxd {
        docker_socket,
        workspaces,
        image,
        backend,
        instance,
        sizes,
        keep,
        scope,
        exec,
        tools,
        modes,
    } = start.config()
    else {
        return Err(start.wrong_config());
    };
    let judge = Judge::new(exec, tools).map_err(StartError::permanent)?;
    let modes = Modes::from_json(modes).map_err(StartError::permanent)?;
    let settings = Settings {
        socket: docker_socket.to_string(),
        image: image.to_string(),
        choice: modes.choice(*backend),
        workspaces: workspaces.to_string(),
        instance: instance.to_string(),
        sizes: *sizes,
        pool: usize::from(keep.pool),
        prune: Prune::of(keep),
        scope: *scope,
        modes,
    };
    let processes = Processes::open().map_err(|errno| StartError::permanent(format!("/proc: {errno}")))?;
    let (sealed, control) = start.seal(&policy::SANDBOXD, &[(Resource::Processes, processes.as_fd())])?;
    serve::serve(&sealed, control, settings, judge, processes)
}
