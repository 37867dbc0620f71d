//! egress at work: check gateway's template, lease the credential for exactly this request, and only then reach out.
//! The vault denies by default, so without a policy for a credential nothing leaves.

use crate::role::{Violations, report};
use crate::template;
use proto::bounded::BoundedStr;
use proto::channel::{CallError, Channel};
use proto::edge::{EgressDialer, EgressVault, GatewayEgress, Refusal};
use proto::egress::{DialRequest, EgressRequest};
use proto::gate::Gate;
use proto::port::{Port, Request, Server};
use proto::topology::{EdgeId, role};
use proto::vault::{Destination, LeaseRequest};
use std::sync::Arc;
use std::time::Duration;

/// How long the vault may take for a lease, its record on disk included.
const LEASE: Duration = Duration::from_secs(2);
/// How long a connection may take.
const DIAL: Duration = Duration::from_secs(10);

/// The ends that egress asks on.
#[derive(Clone)]
pub struct Peers {
    /// Leases.
    pub vault: Port<EgressVault>,
    /// Connections.
    pub dialer: Port<EgressDialer>,
    /// Closed while nothing may leave.
    pub gate: Arc<Gate>,
}

impl Default for Peers {
    fn default() -> Self {
        Self { vault: Port::new(role::Egress), dialer: Port::new(role::Egress), gate: Arc::default() }
    }
}

/// Serves gateway's end until it closes.
pub async fn serve(channel: Channel, peers: Peers, violations: Violations) {
    let Ok(server) = Server::<GatewayEgress>::new(channel) else { return };
    loop {
        match server.next().await {
            Ok(request) => {
                let peers = peers.clone();
                tokio::spawn(async move {
                    let Request { request, responder, .. } = request;
                    // Nothing but a refusal can come of it while no credential has a policy; the types say the rest.
                    let Err(refusal) = peers.gate.within(on_http(&request, &peers)).await;
                    let _ = responder.refuse(&refusal).await;
                });
            }
            Err(error) => return report(&violations, EdgeId::GatewayEgress, &error).await,
        }
    }
}

/// Watches the peers that egress asks: one that breaks the protocol is reported.
pub async fn watch(peers: Peers, violations: Violations) {
    loop {
        let (edge, detail) = tokio::select! {
            detail = peers.vault.violation() => (EdgeId::EgressVault, detail),
            detail = peers.dialer.violation() => (EdgeId::EgressDialer, detail),
        };
        let detail = proto::bounded::BoundedStr::truncated(&detail);
        let _ = violations.send(proto::control::FromRole::Violated { edge, detail }).await;
    }
}

async fn on_http(request: &EgressRequest, peers: &Peers) -> Result<std::convert::Infallible, Refusal> {
    let digest = template::check(request)?;
    let EgressRequest::Http { credential, host, port, method, path, .. } = request;
    let lease = LeaseRequest::Lease {
        credential: credential.clone(),
        to: Destination { host: host.clone(), port: *port },
        method: BoundedStr::truncated(method),
        path: BoundedStr::truncated(path),
        digest,
    };
    peers.vault.call(&lease, LEASE).await.map_err(refused)?;
    let dial = DialRequest::Connect { host: host.clone(), port: *port };
    let (dialed, _connection) = peers.dialer.call_with(&dial, &[], DIAL).await.map_err(refused)?;
    Err(Refusal::new("egress.tls", &format!("this build has no TLS, so nothing was sent to {}", dialed.address)))
}

fn refused(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        other => Refusal::new("egress.peer", &other.to_string()),
    }
}
