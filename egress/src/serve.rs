//! egress at work: check gateway's template, have the log say that it begins, carry it out, have the log say what came of
//! it, and only then tell gateway that it is over. The vault denies by default, so without a policy for a credential nothing
//! leaves.

use crate::exchange::{Exchange, LEASE, Tally, refused};
use crate::role::{Violations, report};
use crate::template;
use proto::audit::{AuditRequest, Record, RequestStep};
use proto::bounded::BoundedStr;
use proto::channel::Channel;
use proto::edge::{EgressDialer, EgressVault, GatewayEgress, Refusal, ToAuditd};
use proto::egress::{EgressReply, EgressRequest};
use proto::gate::Gate;
use proto::port::{Port, Request, Responder, Server};
use proto::topology::{EdgeId, role};
use proto::vault::LeaseRequest;
use rustls::ClientConfig;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long auditd may take for a record.
const AUDIT: Duration = Duration::from_secs(10);

/// How services on this machine are spoken to; all others are on the internet, and over TLS.
#[derive(Debug, Default)]
pub struct Routes {
    /// `host:port` without TLS.
    pub plain: Vec<String>,
    /// `host:port` with TLS.
    pub local: Vec<String>,
}

/// How one destination is spoken to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Route {
    /// On the internet, over TLS.
    Web,
    /// On this machine, over TLS.
    Local,
    /// On this machine, without.
    Plain,
}

impl Route {
    /// True for what is on this machine.
    #[must_use]
    pub fn is_local(self) -> bool {
        self != Self::Web
    }

    /// True where TLS is spoken.
    #[must_use]
    pub fn has_tls(self) -> bool {
        self != Self::Plain
    }
}

impl Routes {
    /// The one for this destination.
    #[must_use]
    pub fn of(&self, host: &str, port: u16) -> Route {
        let wanted = format!("{host}:{port}");
        let lists = |list: &[String]| list.iter().any(|entry| entry.eq_ignore_ascii_case(&wanted));
        match (lists(&self.plain), lists(&self.local)) {
            (_, true) => Route::Local,
            (true, false) => Route::Plain,
            (false, false) => Route::Web,
        }
    }
}

/// The ends that egress asks on, and what it connects by.
#[derive(Clone)]
pub struct Peers {
    /// Leases.
    pub vault: Port<EgressVault>,
    /// Connections.
    pub dialer: Port<EgressDialer>,
    /// Records.
    pub audit: Port<ToAuditd>,
    /// Closed while nothing may leave.
    pub gate: Arc<Gate>,
    /// Services on this machine.
    pub routes: Arc<Routes>,
    /// Who is believed to be who.
    pub tls: Arc<ClientConfig>,
}

impl Peers {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(routes: Routes, tls: Arc<ClientConfig>) -> Self {
        let (vault, dialer) = (Port::new(role::Egress), Port::new(role::Egress));
        let audit = Port::new(role::Egress);
        Self { vault, dialer, audit, gate: Arc::default(), routes: Arc::new(routes), tls }
    }

    /// True while everybody is there whom a request needs.
    #[must_use]
    pub fn are_attached(&self) -> bool {
        self.vault.is_attached() && self.dialer.is_attached() && self.audit.is_attached()
    }
}

/// Serves gateway's end until it closes.
pub async fn serve(channel: Channel, peers: Peers, violations: Violations) {
    let Ok(server) = Server::<GatewayEgress>::new(channel) else { return };
    loop {
        match server.next().await {
            Ok(request) => {
                tokio::spawn(on_http(request, peers.clone()));
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
            detail = peers.audit.violation() => (EdgeId::EgressAuditd, detail),
        };
        let detail = proto::bounded::BoundedStr::truncated(&detail);
        let _ = violations.send(proto::control::FromRole::Violated { edge, detail }).await;
    }
}

async fn on_http(request: Request<GatewayEgress>, peers: Peers) {
    let Request { request, responder, .. } = request;
    // Where gateway is gone meanwhile nobody waits for the answer.
    let _ = match recorded(&request, &peers, &responder).await {
        Ok(reply) => responder.reply(&reply, &[]).await,
        Err(refusal) => responder.refuse(&refusal).await,
    };
}

/// Carries a request out between its two records.
async fn recorded(
    request: &EgressRequest,
    peers: &Peers,
    responder: &Responder<GatewayEgress>,
) -> Result<EgressReply, Refusal> {
    if let Some(refusal) = peers.gate.refusal() {
        return Err(refusal);
    }
    let digest = template::check(request)?;
    let (id, begun) = (name(), Instant::now());
    record(request, &id, RequestStep::Begun, peers).await?;
    let mut tally = Tally::default();
    let outcome = {
        let mut exchange = Exchange { peers, request, digest, responder, tally: &mut tally };
        let work = async {
            tokio::select! {
                outcome = exchange.run() => outcome,
                () = responder.cancelled() => Err(Refusal::new("egress.cancelled", "the caller wants no answer any more")),
            }
        };
        peers.gate.within(work).await
    };
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let EgressRequest::Http { body, .. } = request;
    let sent = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let counted = count(peers, &tally, sent, outcome.is_ok()).await;
    let step = match &outcome {
        Ok(_) => RequestStep::Answered {
            address: BoundedStr::truncated(&tally.address),
            status: tally.status,
            sent,
            received: tally.received,
            scrubbed: tally.scrubbed,
            duration_ms,
        },
        Err(refusal) => RequestStep::Failed { rule: refusal.rule.clone(), received: tally.received, duration_ms },
    };
    record(request, &id, step, peers).await?;
    counted?;
    outcome
}

/// Tells the vault what a request moved whose credential's policy bounds a day, whatever came of it.
async fn count(peers: &Peers, tally: &Tally, sent: u64, whole: bool) -> Result<(), Refusal> {
    let Some(lease) = tally.counted else { return Ok(()) };
    let (read, written) = tally.usage.tokens(whole);
    let spent = LeaseRequest::Spent { lease, bytes: sent.saturating_add(tally.received), read, written };
    peers.vault.call(&spent, LEASE).await.map(|_| ()).map_err(refused)
}

async fn record(request: &EgressRequest, id: &str, step: RequestStep, peers: &Peers) -> Result<(), Refusal> {
    let EgressRequest::Http { session, credential, host, port, method, path, .. } = request;
    // What follows the path may hold what should be in no log.
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    let record = Record::Request {
        id: BoundedStr::truncated(id),
        session: session.clone(),
        credential: credential.clone().unwrap_or_default(),
        to: BoundedStr::truncated(&format!("{}:{port}", &**host)),
        what: BoundedStr::truncated(&format!("{} {path}", &**method)),
        step,
    };
    peers.audit.call(&AuditRequest::Append(record), AUDIT).await.map(|_| ()).map_err(|error| {
        let why = format!("{}; no request is made that cannot be recorded", refused(error).message);
        Refusal::new("audit.unwritable", &why)
    })
}

fn name() -> String {
    let mut bytes = [0; 8];
    // The kernel's generator cannot fail once it is seeded, which it is before any user process runs.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    format!("q-{:016x}", u64::from_be_bytes(bytes))
}
