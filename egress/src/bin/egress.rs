//! egress: holds a credential while a request is in flight. It can create no socket and open no file; what it talks on,
//! dialer connected. What a request or an answer left in freed memory is wiped: a server may send the credential back.
#![forbid(unsafe_code)]

use confine::secret_memory::Wiping;
use confine::startup::{Start, StartError};
use egress::{policy, role, serve, tls};
use proto::bounded::BoundedStr;
use proto::control::RoleConfig;
use proto::exit::Exit;
use proto::ids::Role;
use proto::topology::{EdgeId, Side};
use std::process::ExitCode;

#[global_allocator]
static HEAP: Wiping = Wiping;

fn main() -> ExitCode {
    confine::startup::run(Role::Egress, start)
}

fn start(start: Start) -> Result<Exit, StartError> {
    let RoleConfig::Egress { plain, local, ca } = start.config() else { return Err(start.wrong_config()) };
    let listed = |entries: &[BoundedStr<260>]| entries.iter().map(|entry| entry.to_string()).collect();
    let routes = serve::Routes { plain: listed(plain), local: listed(local) };
    let wrong = |error: String| StartError::permanent(format!("egress.ca, {}: {error}", ca.as_str()));
    let operators = (!ca.is_empty()).then(|| std::fs::read(ca.as_str())).transpose();
    let operators = operators.map_err(|error| wrong(error.to_string()))?;
    let peers = serve::Peers::new(routes, tls::config(operators.as_deref()).map_err(wrong)?);
    let (sealed, control) = start.seal(&policy::EGRESS, &[])?;
    let mut watched = false;
    role::run(&sealed, control, &peers.gate, false, |edge, side, end, violations| {
        match (edge, side) {
            (EdgeId::GatewayEgress, Side::Server) => {
                tokio::spawn(serve::serve(end, peers.clone(), violations.clone()));
            }
            (EdgeId::EgressVault, Side::Client) => drop(peers.vault.attach(end)),
            (EdgeId::EgressDialer, Side::Client) => drop(peers.dialer.attach(end)),
            (EdgeId::EgressAuditd, Side::Client) => drop(peers.audit.attach(end)),
            _ => {}
        }
        if !std::mem::replace(&mut watched, true) {
            tokio::spawn(serve::watch(peers.clone(), violations.clone()));
        }
        peers.are_attached()
    })
}
