//! One request and its answer: lease, connect, have the other end prove its name, only then redeem and send, and give the
//! answer on without the credential. The order is the point: whatever fails before the name is proved costs no secret.

use crate::answer::{self, Body, Head, MAX_HEAD};
use crate::issued::Issued;
use crate::renewal;
use crate::scrub::Scrubber;
use crate::serve::Peers;
use crate::template::{self, Slot};
use crate::tls;
use crate::usage::Usage;
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::CallError;
use proto::edge::{GatewayEgress, Refusal};
use proto::egress::{DialRequest, EgressChunk, EgressReply, EgressRequest, HeaderField};
use proto::port::Responder;
use proto::secret::Secret;
use proto::vault::{CredentialSlot, Destination, LeaseId, LeaseReply, LeaseRequest};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use zeroize::Zeroizing;

/// How long the vault may take for a lease, its record on disk included.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// How long a connection may take, and how long the proof of a name.
const DIAL: Duration = Duration::from_secs(20);
/// Longest silence of a server, whatever the caller would bear.
const MAX_PATIENCE: u16 = 600;
/// Bytes of an answer at most, where the credential's policy does not say.
const MAX_ANSWER: u64 = 32 << 20;
/// Interim answers that are passed over.
const INTERIM: usize = 8;
/// Bytes of a chunk to gateway.
const CHUNK: usize = 32_768;

/// What came of a request so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Address that was spoken to.
    pub address: String,
    /// HTTP status.
    pub status: u16,
    /// Bytes of the answer's body.
    pub received: u64,
    /// Times that the credential was taken out.
    pub scrubbed: u32,
    /// The lease whose use the vault counts, once the credential is here.
    pub counted: Option<LeaseId>,
    /// What the answer said that it cost.
    pub usage: Usage,
}

/// One request.
pub struct Exchange<'e> {
    /// Whom egress asks.
    pub peers: &'e Peers,
    /// What gateway wants.
    pub request: &'e EgressRequest,
    /// What its lease is bound to.
    pub digest: [u8; 32],
    /// Where the answer goes.
    pub responder: &'e Responder<GatewayEgress>,
    /// What came of it.
    pub tally: &'e mut Tally,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Lease {
    id: LeaseId,
    place: CredentialSlot,
    bytes: Option<u64>,
    counted: bool,
    /// Who asks for another one with it, where that is what it is for.
    renews: Option<String>,
}

/// What a peer's failure is for gateway.
pub(crate) fn refused(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        other => Refusal::new("egress.peer", &other.to_string()),
    }
}

impl Exchange<'_> {
    /// Carries it out.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn run(&mut self) -> Result<EgressReply, Refusal> {
        let EgressRequest::Http { credential, host, port, .. } = self.request;
        let route = self.peers.routes.of(host, *port);
        let lease = match credential {
            Some(name) => Some(self.lease(name).await?),
            None if route.is_local() => None,
            None => {
                self.may_fetch().await?;
                None
            }
        };
        let stream = match self.connect(route.is_local(), route.has_tls()).await {
            Ok(stream) => stream,
            Err(refusal) => {
                if let Some(Lease { id: lease, .. }) = lease {
                    // A lease that stays is over within its minute.
                    let _ = self.peers.vault.call(&LeaseRequest::Release { lease }, LEASE).await;
                }
                return Err(refusal);
            }
        };
        let most = lease.as_ref().and_then(|lease| lease.bytes).unwrap_or(MAX_ANSWER);
        let slot = match lease {
            Some(Lease { id, renews: Some(ref client), .. }) => {
                let client = client.clone();
                let Some(lease) = lease else { return Err(Refusal::new("egress.peer", "a lease that is none")) };
                let Slot { secret, .. } = self.redeem(lease).await?;
                return self.renew(stream, id, &client, secret).await;
            }
            Some(lease) => Some(self.redeem(lease).await?),
            None => None,
        };
        self.converse(stream, slot, most).await
    }

    fn to(&self) -> Destination {
        let EgressRequest::Http { host, port, .. } = self.request;
        Destination { host: host.clone(), port: *port }
    }

    fn patience(&self) -> Duration {
        let EgressRequest::Http { patience_s, .. } = self.request;
        Duration::from_secs(u64::from((*patience_s).clamp(1, MAX_PATIENCE)))
    }

    /// Without a credential something may be read, and nothing said: the conversation counts as one that strangers' words have
    /// reached before the request leaves.
    async fn may_fetch(&self) -> Result<(), Refusal> {
        let EgressRequest::Http { session, host, method, body, .. } = self.request;
        if method.as_str() != "GET" || !body.is_empty() {
            let why = "without a credential a request to the world is a GET without a body; \
                services of this machine, which egress.local lists, take others";
            return Err(Refusal::new("egress.no_credential", why));
        }
        let request = LeaseRequest::Fetch { session: session.clone(), host: host.clone() };
        match self.peers.vault.call(&request, LEASE).await.map_err(refused)? {
            LeaseReply::MayFetch => Ok(()),
            _ => Err(Refusal::new("egress.peer", "the vault gave another answer than asked for")),
        }
    }

    async fn lease(&self, name: &BoundedStr<64>) -> Result<Lease, Refusal> {
        let EgressRequest::Http { session, method, path, .. } = self.request;
        let request = LeaseRequest::Lease {
            session: session.clone(),
            credential: name.clone(),
            to: self.to(),
            method: BoundedStr::truncated(method),
            path: path.clone(),
            digest: self.digest,
        };
        match self.peers.vault.call(&request, LEASE).await.map_err(refused)? {
            LeaseReply::Leased { lease: id, slot: place, bytes, counted, renews, .. } => {
                let renews = renews.map(|client| client.to_string());
                if renews.is_none() {
                    template::check_slot(self.request, &place)?;
                }
                Ok(Lease { id, place, bytes, counted, renews })
            }
            _ => Err(Refusal::new("egress.peer", "the vault gave another answer than asked for")),
        }
    }

    async fn redeem(&mut self, lease: Lease) -> Result<Slot, Refusal> {
        let request = LeaseRequest::Redeem { lease: lease.id, to: self.to(), digest: self.digest };
        match self.peers.vault.call(&request, LEASE).await.map_err(refused)? {
            LeaseReply::Redeemed(secret) => {
                self.tally.counted = Some(lease.id).filter(|_| lease.counted);
                Ok(Slot { place: lease.place, secret })
            }
            _ => Err(Refusal::new("egress.peer", "the vault gave another answer than asked for")),
        }
    }

    async fn connect(&mut self, local: bool, tls: bool) -> Result<Box<dyn Stream>, Refusal> {
        let EgressRequest::Http { host, port, .. } = self.request;
        let dial = DialRequest::Connect { host: host.clone(), port: *port };
        let (_, fds) = self.peers.dialer.call_with(&dial, &[], DIAL).await.map_err(refused)?;
        let Some(fd) = fds.into_iter().next() else {
            return Err(Refusal::new("egress.peer", "dialer said that it connected, and sent no connection"));
        };
        let (stream, address) = tls::connection(fd, local)?;
        self.tally.address = address.to_string();
        if !tls {
            return Ok(Box::new(stream));
        }
        let late = |_| Refusal::new("egress.tls", &format!("{} did not prove its name in time", &**host));
        timeout(DIAL, tls::prove(&self.peers.tls, stream, host))
            .await
            .map_err(late)?
            .map(|stream| Box::new(stream) as Box<dyn Stream>)
    }

    /// Asks for another credential, and gives it to the vault.
    async fn renew(
        &mut self,
        mut stream: Box<dyn Stream>,
        lease: LeaseId,
        client: &str,
        secret: Secret,
    ) -> Result<EgressReply, Refusal> {
        let whole = renewal::request(self.request, client, &secret)?;
        drop(secret);
        let send = async {
            stream.write_all(&whole).await?;
            stream.flush().await
        };
        let sent = timeout(self.patience(), send).await.map_err(|_| self.stalled())?;
        sent.map_err(|error| Refusal::new("egress.cut", &format!("the request was cut: {error}")))?;
        drop(whole);
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 * renewal::MAX_ANSWER));
        let head = self.head(&mut stream, &mut bytes).await?;
        self.tally.status = head.status;
        let mut body = head.body;
        let mut answer = Zeroizing::new(Vec::with_capacity(2 * renewal::MAX_ANSWER));
        loop {
            body.take(&bytes, &mut answer)?;
            bytes.clear();
            if answer.len() > renewal::MAX_ANSWER {
                return Err(Refusal::new(
                    "egress.too_large",
                    "the answer to an exchange of credentials has over 64 KiB",
                ));
            }
            if body.is_over() || !self.read(&mut stream, &mut bytes).await? {
                break;
            }
        }
        self.tally.received = u64::try_from(answer.len()).unwrap_or(u64::MAX);
        if !body.is_over() && !body.ends_with_connection() {
            return Err(Refusal::new("egress.cut", "the connection ended before the answer did"));
        }
        let issued = renewal::answer(head.status, &answer)?;
        drop(answer);
        let store = LeaseRequest::Store { lease, access: issued.access, refresh: issued.refresh };
        match self.peers.vault.call(&store, LEASE).await.map_err(refused)? {
            LeaseReply::Stored(_) => {}
            _ => return Err(Refusal::new("egress.peer", "the vault gave another answer than asked for")),
        }
        self.say(EgressChunk::Head { status: 200, headers: BoundedVec::default() }).await?;
        Ok(EgressReply { received: self.tally.received, scrubbed: 0 })
    }

    async fn converse(
        &mut self,
        mut stream: Box<dyn Stream>,
        slot: Option<Slot>,
        most: u64,
    ) -> Result<EgressReply, Refusal> {
        let EgressRequest::Http { body, .. } = self.request;
        let head = template::head(self.request, slot.as_ref())?;
        let send = async {
            stream.write_all(&head).await?;
            stream.write_all(body).await?;
            stream.flush().await
        };
        // A server may answer before it has read everything, and close: what it says is worth more than that it closed.
        let sent = timeout(self.patience(), send).await.map_err(|_| self.stalled())?;
        drop(head);
        let mut scrub = Scrubber::new(slot.as_ref().map(|slot| slot.secret.expose()));
        let held = slot.is_some();
        drop(slot);
        let mut bytes = Vec::new();
        let head = match (self.head(&mut stream, &mut bytes).await, sent) {
            (Err(_), Err(error)) => return Err(Refusal::new("egress.cut", &format!("the request was cut: {error}"))),
            (head, _) => head?,
        };
        self.tally.status = head.status;
        if held && matches!(head.status, 300..=399) && head.status != 304 {
            let why = format!("the server answered {}: a request with a credential is not sent elsewhere", head.status);
            return Err(Refusal::new("egress.redirect", &why));
        }
        self.say_head(&head, &mut scrub).await?;
        // Words of a model may talk of credentials; in any other answer to one they are some.
        let mut issued = (held && !head.is_stream_of_events()).then(Issued::default);
        let mut watch = |part: &[u8]| issued.as_mut().map_or(Ok(()), |issued| issued.look(part));
        let outcome = self.body(&mut stream, head.body, bytes, &mut scrub, &mut watch, most).await;
        self.tally.scrubbed = scrub.taken();
        outcome.map(|()| EgressReply { received: self.tally.received, scrubbed: self.tally.scrubbed })
    }

    fn stalled(&self) -> Refusal {
        let seconds = self.patience().as_secs();
        Refusal::new("egress.stalled", &format!("the server said nothing for {seconds} seconds"))
    }

    /// Reads more; says whether there was any.
    async fn read(&self, stream: &mut Box<dyn Stream>, bytes: &mut Vec<u8>) -> Result<bool, Refusal> {
        let mut room = [0; 16_384];
        let read = timeout(self.patience(), stream.read(&mut room)).await.map_err(|_| self.stalled())?;
        let read = read.map_err(|error| Refusal::new("egress.cut", &format!("the connection broke: {error}")))?;
        bytes.extend_from_slice(room.get(..read).unwrap_or_default());
        Ok(read > 0)
    }

    /// The head of the answer; `bytes` is left with what came behind it.
    async fn head(&self, stream: &mut Box<dyn Stream>, bytes: &mut Vec<u8>) -> Result<Head, Refusal> {
        for _ in 0..INTERIM {
            let (head, length) = loop {
                if let Some(found) = answer::head(bytes.get(..bytes.len().min(MAX_HEAD)).unwrap_or_default())? {
                    break found;
                }
                if !self.read(stream, bytes).await? {
                    return Err(Refusal::new("egress.cut", "the server closed the connection without an answer"));
                }
            };
            bytes.drain(..length);
            match head.status {
                101 => return Err(Refusal::new("egress.answer", "the server wants to speak another protocol")),
                100..=199 => {}
                _ => return Ok(head),
            }
        }
        Err(Refusal::new("egress.answer", "the server gives interim answers without end"))
    }

    async fn say_head(&self, head: &Head, scrub: &mut Scrubber) -> Result<(), Refusal> {
        let field = |(name, value): &(String, String)| HeaderField {
            name: BoundedStr::truncated(name),
            value: BoundedStr::truncated(&scrub.text(value)),
        };
        let headers = BoundedVec::new(head.headers.iter().take(8).map(field).collect()).unwrap_or_default();
        self.say(EgressChunk::Head { status: head.status, headers }).await
    }

    async fn say(&self, chunk: EgressChunk) -> Result<(), Refusal> {
        self.responder.chunk(&chunk).await.map_err(|_| Refusal::new("egress.gone", "gateway does not listen any more"))
    }

    async fn body(
        &mut self,
        stream: &mut Box<dyn Stream>,
        mut body: Body,
        mut bytes: Vec<u8>,
        scrub: &mut Scrubber,
        watch: &mut (dyn FnMut(&[u8]) -> Result<(), Refusal> + Send),
        most: u64,
    ) -> Result<(), Refusal> {
        let mut part = Vec::new();
        loop {
            body.take(&bytes, &mut part)?;
            bytes.clear();
            let came = u64::try_from(part.len()).unwrap_or(u64::MAX);
            self.tally.received = self.tally.received.saturating_add(came);
            if self.tally.counted.is_some() {
                self.tally.usage.look(&part);
            }
            watch(&part)?;
            self.give(scrub.push(&part)).await?;
            part.clear();
            if self.tally.received > most {
                let why =
                    format!("the answer has more than {most} bytes; `bytes` in the credential's policy says how many");
                return Err(Refusal::new("egress.too_large", &why));
            }
            if body.is_over() {
                break;
            }
            if !self.read(stream, &mut bytes).await? {
                if body.ends_with_connection() {
                    break;
                }
                return Err(Refusal::new("egress.cut", "the connection ended before the answer did"));
            }
        }
        self.give(scrub.finish()).await
    }

    async fn give(&self, bytes: Vec<u8>) -> Result<(), Refusal> {
        for part in bytes.chunks(CHUNK) {
            let part = BoundedBytes::new(part).map_err(|_| Refusal::new("egress.chunk", "a chunk over its bound"))?;
            self.say(EgressChunk::Body(part)).await?;
        }
        Ok(())
    }
}
