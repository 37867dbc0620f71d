//! The gateway's life behind its walls: broker's words, the edges, the listener, the tick. Broker is trusted here; peers
//! on the edges are not, and one that breaks the protocol loses its edge and is reported.

use crate::connect::TICK_MS;
use crate::connection::Peer;
use crate::http;
use crate::sessions::now_ms;
use crate::state::{Gateway, MAX_CONNECTIONS, log};
use crate::transcripts;
use confine::startup::{Control, Sealed, StartError};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError};
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::edge::Refusal;
use proto::exit::Exit;
use proto::port::AsyncControl;
use proto::topology::{EdgeId, Side};
use proto::vault::{VaultReply, VaultRequest};
use serde_json::json;
use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Edges without which nothing can be served.
const EDGES: usize = 3;
/// How long clients get to hear of a restart.
const DRAIN: Duration = Duration::from_secs(3);
/// How long they get to go where nothing is let through: less than broker waits.
const FREEZE: Duration = Duration::from_millis(300);
/// What clients are told of how long a restart takes, in milliseconds.
const RESTART_MS: u64 = 1500;
/// Pause after a failed accept, which is a lack of descriptors and passes.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long one question after what was taken back may wait.
const WATCH: Duration = Duration::from_secs(86_400);
/// Pause before the next where one failed.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Serves until broker says stop, or until the transcripts `plain` are sealed: the next start removes what was in clear.
///
/// # Errors
/// [`StartError`] where the runtime or the control channel fails.
pub fn serve(
    _sealed: &Sealed,
    control: Control,
    listener: TcpListener,
    gateway: Arc<Gateway>,
    plain: Vec<String>,
) -> Result<Exit, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|error| StartError::internal(format!("runtime: {error}")))?;
    let outcome = runtime.block_on(async {
        let control = AsyncControl::new(control.into_channel())
            .map_err(|error| StartError::internal(format!("control channel: {error}")))?;
        let (accepting, sealing, edges) = (None, None, BTreeSet::new());
        let role = Role { gateway, control, listener: Some(listener), accepting, plain, sealing, edges };
        role.run().await
    });
    // Tasks of clients that are still there must not hold the exit up.
    runtime.shutdown_background();
    outcome
}

struct Role {
    gateway: Arc<Gateway>,
    control: AsyncControl,
    listener: Option<TcpListener>,
    accepting: Option<JoinHandle<()>>,
    /// Transcripts in clear that are not being sealed yet.
    plain: Vec<String>,
    /// Ends with how many were sealed.
    sealing: Option<JoinHandle<usize>>,
    edges: BTreeSet<EdgeId>,
}

impl Role {
    async fn run(mut self) -> Result<Exit, StartError> {
        tokio::spawn(tick(Arc::clone(&self.gateway)));
        tokio::spawn(watch(Arc::clone(&self.gateway)));
        tokio::spawn(transcripts::count(Arc::clone(&self.gateway)));
        loop {
            let gateway = Arc::clone(&self.gateway);
            let (edge, detail) = tokio::select! {
                word = self.control.recv() => match word {
                    Ok((ToRole::Stop, _)) => return Ok(Exit::Ok),
                    Ok((word, fds)) => {
                        self.on_word(word, fds).await?;
                        continue;
                    }
                    Err(ChannelError::Closed) => return Ok(Exit::BrokerGone),
                    Err(error) => return Err(StartError::internal(format!("control channel: {error}"))),
                },
                sealed = async { self.sealing.as_mut()?.await.ok() }, if self.sealing.is_some() => {
                    self.sealing = None;
                    if sealed.is_some_and(|sealed| sealed > 0) {
                        log("transcripts that were in clear are sealed; the next start removes them");
                        return Ok(Exit::Ok);
                    }
                    self.take_in()?;
                    continue;
                }
                detail = gateway.vault.violation() => (EdgeId::GatewayVault, detail),
                detail = gateway.sandbox.violation() => (EdgeId::GatewaySandboxd, detail),
                detail = gateway.egress.violation() => (EdgeId::GatewayEgress, detail),
            };
            self.tell(&FromRole::Violated { edge, detail: BoundedStr::truncated(&detail) }).await?;
        }
    }

    async fn tell(&self, message: &FromRole) -> Result<(), StartError> {
        match self.control.send(message).await {
            // Broker's end is closed: the next receive says so and ends the role.
            Ok(()) | Err(ChannelError::Closed) => Ok(()),
            Err(error) => Err(StartError::internal(format!("control channel: {error}"))),
        }
    }

    async fn on_word(&mut self, word: ToRole, fds: Vec<OwnedFd>) -> Result<(), StartError> {
        match word {
            ToRole::Grant { edge, side: Side::Client, .. } => self.on_grant(edge, fds).await,
            ToRole::Ping(number) => self.tell(&FromRole::Pong(number)).await,
            ToRole::Admin(number, request) => {
                let reply = self.on_admin(&request, fds);
                self.tell(&FromRole::Admin(number, reply)).await
            }
            ToRole::Freeze { why } => self.on_freeze(&why).await,
            ToRole::Thaw => {
                self.gateway.gate.open();
                Ok(())
            }
            ToRole::Drain => self.on_drain().await,
            ToRole::Stop => Ok(()),
            ToRole::Grant { side: Side::Server, .. }
            | ToRole::Configure { .. }
            | ToRole::Attested
            | ToRole::Quarantine(_) => Err(StartError::internal("broker said what is not for a gateway")),
        }
    }

    async fn on_grant(&mut self, edge: EdgeId, mut fds: Vec<OwnedFd>) -> Result<(), StartError> {
        let (Some(fd), true) = (fds.pop(), fds.is_empty()) else {
            return Err(StartError::internal("broker granted an edge without one descriptor"));
        };
        let channel = Channel::from_fd(fd);
        let attached = match edge {
            EdgeId::GatewayVault => self.gateway.vault.attach(channel),
            EdgeId::GatewaySandboxd => self.gateway.sandbox.attach(channel),
            EdgeId::GatewayEgress => self.gateway.egress.attach(channel),
            _ => return Err(StartError::internal("broker granted an edge that is not the gateway's")),
        };
        attached.map_err(|error| StartError::internal(format!("edge {edge:?}: {error}")))?;
        self.edges.insert(edge);
        if self.edges.len() == EDGES && self.listener.is_some() && self.sealing.is_none() {
            if self.plain.is_empty() {
                self.take_in()?;
            } else {
                let (gateway, plain) = (Arc::clone(&self.gateway), std::mem::take(&mut self.plain));
                self.sealing = Some(tokio::spawn(async move { transcripts::seal_all(&gateway, &plain).await }));
            }
            self.tell(&FromRole::Ready).await?;
        }
        Ok(())
    }

    /// Lets clients in from here on.
    fn take_in(&mut self) -> Result<(), StartError> {
        let Some(listener) = self.listener.take() else { return Ok(()) };
        let listener = tokio::net::TcpListener::from_std(listener)
            .map_err(|error| StartError::internal(format!("listener: {error}")))?;
        self.accepting = Some(tokio::spawn(accept(Arc::clone(&self.gateway), listener)));
        Ok(())
    }

    fn on_admin(&self, request: &AdminRequest, mut fds: Vec<OwnedFd>) -> Result<AdminReply, Refusal> {
        let AdminRequest::AttachOperator = request else {
            return Err(Refusal::new("admin.not_mine", "the gateway does not do this"));
        };
        if self.sealing.is_some() {
            let why = "transcripts of an earlier version are being sealed; try again in a moment";
            return Err(Refusal::new("sessions.sealing", why));
        }
        let (Some(fd), true) = (fds.pop(), fds.is_empty()) else {
            return Err(Refusal::new("admin.descriptor", "an operator comes with one descriptor"));
        };
        let stream =
            attach(fd).map_err(|error| Refusal::new("admin.descriptor", &format!("not a stream to serve: {error}")))?;
        tokio::spawn(http::serve(Arc::clone(&self.gateway), stream, Peer::Operator, None));
        Ok(AdminReply::Attached)
    }

    /// Everybody is shown out. Whoever comes meanwhile is let in as far as to be told why not further.
    async fn on_freeze(&mut self, why: &str) -> Result<(), StartError> {
        self.gateway.gate.close(why);
        let clients = self.gateway.hub.len();
        self.gateway.runs().stop_all();
        self.gateway.hub.close(1013, "lockdown");
        // One that does not go in time asks in vain: the gate is closed for its requests too.
        let _ = timeout(FREEZE, self.gateway.hub.emptied()).await;
        let detail = BoundedStr::truncated(&format!("{clients} clients were shown out"));
        self.tell(&FromRole::Frozen { sessions: BoundedVec::default(), detail }).await
    }

    /// The listener stays with broker, so clients that come now wait in its queue for the next gateway.
    async fn on_drain(&mut self) -> Result<(), StartError> {
        self.listener = None;
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
        }
        self.gateway.drain.close("this gateway ends");
        self.gateway.runs().stop_all();
        let goodbye = json!({"reason": "service restart", "restartExpectedMs": RESTART_MS}).to_string();
        self.gateway.hub.event("shutdown", &goodbye);
        self.gateway.hub.close(1012, "service restart");
        // Connections that were taken in and have not said yet what they want are waited for as well: nobody else will answer
        // them. One that does not go in time is cut by the exit.
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        let _ = timeout(DRAIN, self.gateway.connections.acquire_many(all)).await;
        self.tell(&FromRole::Drained).await
    }
}

fn attach(fd: OwnedFd) -> io::Result<tokio::net::UnixStream> {
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

/// Takes clients in, for as long as there is room.
pub async fn accept(gateway: Arc<Gateway>, listener: tokio::net::TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => match Arc::clone(&gateway.connections).try_acquire_owned() {
                Ok(slot) => {
                    // Without it frames are late, not lost.
                    let _ = stream.set_nodelay(true);
                    let peer = Peer::Network(address.ip());
                    tokio::spawn(http::serve(Arc::clone(&gateway), stream, peer, Some(slot)));
                }
                Err(_) => log("all connections are taken; one was turned away"),
            },
            Err(error) => {
                log(&format!("accept: {error}"));
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Has the vault say when what let a client in was taken back. It answers when there is something to say.
async fn watch(gateway: Arc<Gateway>) {
    loop {
        match gateway.vault.call(&VaultRequest::Watch(gateway.hub.standing()), WATCH).await {
            Ok(VaultReply::Standing(standing)) => gateway.hub.settle(standing),
            // It is locked, or gone, or nothing is let through.
            Ok(_) | Err(_) => sleep(WATCH_PAUSE).await,
        }
    }
}

async fn tick(gateway: Arc<Gateway>) {
    let mut every = interval(Duration::from_millis(TICK_MS));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        gateway.hub.event("tick", &json!({"ts": now_ms()}).to_string());
    }
}
