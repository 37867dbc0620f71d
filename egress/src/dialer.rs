//! dialer at work: resolve and connect to what the list allows, hand the descriptor over, keep nothing. It reads and writes
//! not one byte on a connection that it hands over.

use crate::allowlist::{Allowlist, Known};
use crate::dns;
use crate::role::{Violations, report};
use proto::bounded::BoundedStr;
use proto::channel::Channel;
use proto::edge::{EgressDialer, Refusal};
use proto::egress::{DialRequest, Dialed};
use proto::gate::Gate;
use proto::port::{Request, Server};
use proto::topology::EdgeId;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest that a connection may take, whatever the client would wait.
const CONNECT: Duration = Duration::from_secs(10);

/// How names become addresses, and which may be connected to.
#[derive(Debug, Default)]
pub struct Ways {
    /// The decisions.
    pub allowlist: Allowlist,
    /// The name server.
    pub resolver: Option<SocketAddr>,
}

/// Serves egress's end until it closes.
pub async fn serve(channel: Channel, ways: Arc<Ways>, gate: Arc<Gate>, violations: Violations) {
    let Ok(server) = Server::<EgressDialer>::new(channel) else { return };
    loop {
        match server.next().await {
            Ok(request) => {
                tokio::spawn(on_connect(request, Arc::clone(&ways), Arc::clone(&gate)));
            }
            Err(error) => return report(&violations, EdgeId::EgressDialer, &error).await,
        }
    }
}

async fn on_connect(request: Request<EgressDialer>, ways: Arc<Ways>, gate: Arc<Gate>) {
    let DialRequest::Connect { host, port } = request.request;
    let wait = if request.deadline.is_zero() { CONNECT } else { request.deadline.min(CONNECT) };
    let dial = async {
        let late = |_| Refusal::new("dialer.connect", &format!("{host}:{port}: no answer in time"));
        timeout(wait, ways.connect(&host, port)).await.map_err(late)?
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

impl Ways {
    /// As configured, with this machine's hosts file and, where no name server is configured, its resolv.conf. To be called
    /// before the walls go up.
    #[must_use]
    pub fn read(allow: &[BoundedStr<260>], local: &[BoundedStr<260>], resolver: &str) -> Self {
        // A machine without these files has no names in them.
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let listed = |entries: &[BoundedStr<260>]| entries.iter().map(|entry| entry.to_string()).collect();
        let allowlist = Allowlist::new(listed(allow), listed(local), &read("/etc/hosts"));
        let resolver = resolver.parse().ok().or_else(|| dns::server_of(&read("/etc/resolv.conf")));
        Self { allowlist, resolver }
    }

    /// The ports that may be connected to, for Landlock.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.allowlist.ports().into_iter().chain(self.resolver.map(|server| server.port())).collect()
    }

    async fn connect(&self, host: &str, port: u16) -> Result<(SocketAddr, TcpStream), Refusal> {
        let known = match self.allowlist.look(host, port)? {
            Known::Here(addresses) => addresses,
            Known::Ask => self.resolve(host).await?,
        };
        let mut last = None;
        for address in self.allowlist.check(host, port, &known)? {
            match connect(address).await {
                Ok(stream) => return Ok((address, stream)),
                Err(error) => last = Some(Refusal::new("dialer.connect", &format!("{host} at {address}: {error}"))),
            }
        }
        Err(last.unwrap_or_else(|| Refusal::new("dialer.unresolved", &format!("{host} has no address"))))
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Refusal> {
        let Some(server) = self.resolver else {
            let why =
                format!("{host} is not in the hosts file, and neither egress.resolver nor resolv.conf names a server");
            return Err(Refusal::new("dialer.unresolved", &why));
        };
        dns::resolve(server, host).await.map_err(|error| {
            Refusal::new("dialer.resolver", &format!("the name server {server} was asked for {host}: {error}"))
        })
    }
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Without it a request is late, not lost.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}
