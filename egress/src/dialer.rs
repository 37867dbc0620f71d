//! dialer at work: connect to what the list allows, hand the descriptor over, keep nothing. It reads and writes not one
//! byte on a connection it made.

use crate::allowlist::Allowlist;
use crate::role::{Violations, report};
use proto::bounded::BoundedStr;
use proto::channel::Channel;
use proto::edge::{EgressDialer, Refusal};
use proto::egress::{DialRequest, Dialed};
use proto::gate::Gate;
use proto::port::{Request, Server};
use proto::topology::EdgeId;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// Longest that a connection may take, whatever the client would wait.
const CONNECT: Duration = Duration::from_secs(10);

/// Serves egress's end until it closes.
pub async fn serve(channel: Channel, allowlist: Arc<Allowlist>, gate: Arc<Gate>, violations: Violations) {
    let Ok(server) = Server::<EgressDialer>::new(channel) else { return };
    loop {
        match server.next().await {
            Ok(request) => {
                tokio::spawn(on_connect(request, Arc::clone(&allowlist), Arc::clone(&gate)));
            }
            Err(error) => return report(&violations, EdgeId::EgressDialer, &error).await,
        }
    }
}

async fn on_connect(request: Request<EgressDialer>, allowlist: Arc<Allowlist>, gate: Arc<Gate>) {
    let DialRequest::Connect { host, port } = request.request;
    let wait = if request.deadline.is_zero() { CONNECT } else { request.deadline.min(CONNECT) };
    let dial = async {
        let address = allowlist.decide(&host, port)?;
        connect(address, wait).await.map(|stream| (address, stream))
    };
    let outcome = gate.within(dial).await;
    // Where egress is gone meanwhile the connection closes with this function.
    let _ = match outcome {
        Ok((address, stream)) => {
            let dialed = Dialed { address: BoundedStr::truncated(&address.to_string()) };
            request.responder.reply(&dialed, &[stream.as_fd()]).await
        }
        Err(refusal) => request.responder.refuse(&refusal).await,
    };
}

async fn connect(address: SocketAddr, wait: Duration) -> Result<TcpStream, Refusal> {
    let failed = |why: &dyn std::fmt::Display| Refusal::new("dialer.connect", &format!("{address}: {why}"));
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| failed(&error))?;
    match timeout(wait, socket.connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"no answer in time")),
    }
}
