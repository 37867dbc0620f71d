//! dialer: outbound connections to what the operator listed. It sees no credential and no plaintext.
#![forbid(unsafe_code)]

use confine::startup::{Start, StartError};
use egress::{dialer, policy, role};
use proto::control::RoleConfig;
use proto::exit::Exit;
use proto::gate::Gate;
use proto::ids::Role;
use proto::topology::{EdgeId, Side};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    confine::startup::run(Role::Dialer, start)
}

fn start(start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Dialer { allow, local, resolver } = start.config() else { return Err(start.wrong_config()) };
    let ways = Arc::new(dialer::Ways::read(allow, local, resolver));
    let ports = ways.ports();
    let (sealed, control) = start.seal_with_ports(&policy::DIALER, &[], &ports)?;
    let gate = Arc::new(Gate::default());
    role::run(&sealed, control, &gate, true, |edge, side, end, violations| {
        if (edge, side) == (EdgeId::EgressDialer, Side::Server) {
            tokio::spawn(dialer::serve(end, Arc::clone(&ways), Arc::clone(&gate), violations.clone()));
        }
        true
    })
}
