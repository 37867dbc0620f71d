//! egress: holds a credential while a request is in flight. It can create no socket and open no file; what it talks on,
//! dialer connected.
#![forbid(unsafe_code)]

use confine::startup::{Start, StartError};
use egress::{policy, role, serve};
use proto::control::RoleConfig;
use proto::exit::Exit;
use proto::ids::Role;
use proto::topology::{EdgeId, Side};
use std::process::ExitCode;

fn main() -> ExitCode {
    confine::startup::run(Role::Egress, start)
}

fn start(start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Egress = start.config() else { return Err(start.wrong_config()) };
    let (sealed, control) = start.seal(&policy::EGRESS, &[])?;
    let peers = serve::Peers::default();
    let mut watched = false;
    role::run(&sealed, control, &peers.gate, false, |edge, side, end, violations| {
        match (edge, side) {
            (EdgeId::GatewayEgress, Side::Server) => {
                tokio::spawn(serve::serve(end, peers.clone(), violations.clone()));
            }
            (EdgeId::EgressVault, Side::Client) => drop(peers.vault.attach(end)),
            (EdgeId::EgressDialer, Side::Client) => drop(peers.dialer.attach(end)),
            _ => {}
        }
        if !std::mem::replace(&mut watched, true) {
            tokio::spawn(serve::watch(peers.clone(), violations.clone()));
        }
        peers.vault.is_attached() && peers.dialer.is_attached()
    })
}
