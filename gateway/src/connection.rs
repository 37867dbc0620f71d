//! One WebSocket connection, from the challenge to the close frame. Until the vault has said yes, its client is a
//! stranger: ten seconds, one frame of at most 64 KiB, nothing but `connect`. After that it is a client, and still
//! hostile: bounded frames, bounded requests in flight, bounded output, and it can hold up nobody but itself.

use crate::connect::{self, MAX_PAYLOAD, Refused};
use crate::device::{self, Challenge};
use crate::frames::{self, Failure, Parsed, Request};
use crate::gate::Gate;
use crate::hub::{Out, Outbox};
use crate::methods::{self, Done};
use crate::proof::{Credentials, wipe};
use crate::rejected::rejected;
use crate::sessions::{now_ms, random, uuid};
use crate::state::{Gateway, log};
use crate::{agent, shapes};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use proto::auth::{Admission, ConnectionId, Login, Scopes, Who};
use proto::bounded::BoundedStr;
use proto::channel::CallError;
use proto::edge::Refusal;
use proto::vault::{VaultReply, VaultRequest};
use serde_json::json;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};
use zeroize::Zeroize;

/// Largest frame from a stranger, in bytes.
pub const PRE_AUTH_PAYLOAD: usize = 65_536;
const HANDSHAKE: Duration = Duration::from_secs(10);
const VAULT_WAIT: Duration = Duration::from_secs(8);
/// How long the vault may take for a nonce. No client's time: its handshake begins after.
const CHALLENGE_WAIT: Duration = Duration::from_secs(10);
/// How long one frame may take to leave.
const SEND: Duration = Duration::from_secs(30);
const CLOSE: Duration = Duration::from_secs(2);
const CLOSE_AT_END: Duration = Duration::from_millis(200);
/// Bytes that are read and thrown away so that the close frame is not lost to a reset.
const LINGER: usize = 8 << 20;
/// Requests in flight for one client.
const IN_FLIGHT: usize = 64;
/// Frames that are read in a row while answers wait, and bytes that are written as one: a system call for each frame
/// would be most of what a frame costs.
const BURST: usize = 32;
const WRITE: usize = 65_536;

/// Who is at the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Somebody on the network, who must show who it is.
    Network(IpAddr),
    /// The operator, whom broker has let in by the uid of its socket.
    Operator,
}

type Ws = WebSocketStream<Gate<TokioIo<Upgraded>>>;

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The peer is gone, or has said goodbye.
    Gone,
    /// With this code and reason.
    Close(u16, String),
}

enum Heard {
    Text(Utf8Bytes),
    Nothing,
}

fn config(cap: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16_384)
        .write_buffer_size(WRITE)
        .max_write_buffer_size(8 << 20)
        .max_message_size(Some(cap))
        .max_frame_size(Some(cap))
}

fn hear(item: Option<Result<Message, Error>>) -> Result<Heard, End> {
    match item {
        Some(Ok(Message::Text(text))) => Ok(Heard::Text(text)),
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Heard::Nothing),
        Some(Ok(Message::Binary(_))) => Err(End::Close(1003, "text frames only".to_owned())),
        Some(Err(Error::Capacity(_))) => Err(End::Close(1009, "frame over maxPayload".to_owned())),
        Some(Err(Error::Utf8(_))) => Err(End::Close(1007, "text is not UTF-8".to_owned())),
        Some(Err(Error::Protocol(_))) => Err(End::Close(1002, "WebSocket protocol error".to_owned())),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
    }
}

/// Serves the connection to its end. `stranger` is given back once the client is known.
pub async fn serve(gateway: Arc<Gateway>, io: Upgraded, peer: Peer, stranger: Option<OwnedSemaphorePermit>) {
    let gate = Gate::new(TokioIo::new(io));
    let mut ws = WebSocketStream::from_raw_socket(gate, Role::Server, Some(config(PRE_AUTH_PAYLOAD))).await;
    let challenge = challenge(&gateway, peer).await;
    let first = match timeout(HANDSHAKE, first(&mut ws, &challenge)).await {
        Ok(first) => first,
        Err(_) => Err(End::Close(1008, "handshake timeout".to_owned())),
    };
    let text = match first {
        Ok(text) => text,
        Err(end) => return finish(ws, end).await,
    };
    // Between two frames the parser's buffer is empty, so it can be exchanged for one with the large cap; and the text
    // is then the last that holds the frame's bytes.
    let mut gate = ws.into_inner();
    gate.open();
    let mut ws = WebSocketStream::from_raw_socket(gate, Role::Server, Some(config(MAX_PAYLOAD))).await;
    match greet(&gateway, text, peer, &challenge).await {
        Ok((id, hello)) => {
            drop(stranger);
            let outbox = Arc::new(Outbox::of(hello.protocol, hello.scopes));
            let member = gateway.hub.join(Arc::clone(&outbox), hello.by.clone());
            let end = converse(&gateway, &mut ws, &outbox, &id, &hello).await;
            say_goodbye(&mut ws, end).await;
            // Not earlier: whoever waits for the list to empty waits for the goodbyes.
            drop(member);
            linger(ws, patience(&gateway)).await;
        }
        Err((id, refused)) => {
            let reason = refused.failure.message.clone();
            let answer = Message::text(frames::response(&id, &Err(refused.failure)));
            let _ = timeout(CLOSE, ws.send(answer)).await;
            finish(ws, End::Close(refused.close, reason)).await;
        }
    }
}

/// What a device on this connection must sign, from the vault. Where the vault gives nothing the challenge is one that no
/// device's signature holds for; whoever needs none goes on.
async fn challenge(gateway: &Gateway, peer: Peer) -> Challenge {
    let connection = ConnectionId(random());
    if peer != Peer::Operator
        && gateway.gate.refusal().is_none()
        && let Ok(VaultReply::Challenge(nonce)) =
            gateway.vault.call(&VaultRequest::Challenge(connection), CHALLENGE_WAIT).await
    {
        return Challenge { connection, nonce: nonce.to_string() };
    }
    Challenge { connection, nonce: uuid() }
}

/// Sends the challenge and waits for the first text frame.
async fn first(ws: &mut Ws, challenge: &Challenge) -> Result<Utf8Bytes, End> {
    let challenge = json!({"nonce": challenge.nonce, "ts": now_ms()}).to_string();
    let challenge = frames::event("connect.challenge", &challenge, None);
    ws.send(Message::text(challenge)).await.map_err(|_| End::Gone)?;
    loop {
        if let Heard::Text(text) = hear(ws.next().await)? {
            // A pong that is half written must not be cut by the exchange of the parser.
            ws.flush().await.map_err(|_| End::Gone)?;
            return Ok(text);
        }
    }
}

async fn greet(
    gateway: &Gateway,
    text: Utf8Bytes,
    peer: Peer,
    challenge: &Challenge,
) -> Result<(String, connect::Hello), (String, Refused)> {
    let parsed = frames::parse(&text);
    if let Ok(mut bytes) = Bytes::from(text).try_into_mut() {
        bytes.as_mut().zeroize();
    }
    let wrong = |id: String, why: String| Err((id, Refused { failure: Failure::invalid(why), close: 1008 }));
    let Request { id, method, params } = match parsed {
        Parsed::Request(request) => request,
        Parsed::Malformed(id, why) => return wrong(id, why),
        Parsed::NotJson => return wrong("invalid".to_owned(), "invalid handshake: not JSON".to_owned()),
    };
    if method != "connect" {
        wipe(params);
        return wrong(id, "invalid handshake: first request must be connect".to_owned());
    }
    let outcome = match connect::check(params, challenge) {
        Ok(hello) => admit(gateway, hello, peer).await,
        Err(refused) => Err(refused),
    };
    match outcome {
        Ok(hello) => Ok((id, hello)),
        Err(refused) => Err((id, refused)),
    }
}

/// Asks the vault. Whoever broker attached is known already.
async fn admit(gateway: &Gateway, mut hello: connect::Hello, peer: Peer) -> Result<connect::Hello, Refused> {
    if let Some(refusal) = gateway.gate.refusal() {
        return Err(locked(&refusal));
    }
    let Peer::Network(address) = peer else { return Ok(hello) };
    let address = BoundedStr::truncated(&address.to_canonical().to_string());
    let Credentials { token, password } = std::mem::take(&mut hello.credentials);
    let who = std::mem::replace(&mut hello.who, Who::Bearer(Scopes::default()));
    let device = match &who {
        Who::Device(proof) => Some(device::name(&proof.public_key)),
        Who::Bearer(_) => None,
    };
    let request = VaultRequest::VerifyClient(Box::new(Login { address, token, password, who }));
    let answer = gateway.vault.call(&request, VAULT_WAIT).await;
    // It may have been closed while the vault was asked.
    if let Some(refusal) = gateway.gate.refusal() {
        return Err(locked(&refusal));
    }
    match answer {
        Ok(VaultReply::Admitted(Admission { scopes, by })) => Ok(connect::Hello { scopes, by, ..hello }),
        Ok(VaultReply::Rejected { reason, retry_after_s }) => Err(rejected(reason, retry_after_s, device.as_deref())),
        Ok(_) => Err(Refused {
            failure: Failure::unavailable("vault: an answer to another question".to_owned()),
            close: 1013,
        }),
        Err(CallError::Refused(refusal)) if refusal.rule.as_str() == "lockdown" => Err(locked(&refusal)),
        Err(CallError::Refused(refusal)) => {
            let failure = Failure::unavailable(refusal.to_string()).by(&refusal);
            Err(Refused { failure, close: 1013 })
        }
        Err(error) => Err(Refused { failure: Failure::unavailable(format!("vault: {error}")), close: 1013 }),
    }
}

fn locked(refusal: &Refusal) -> Refused {
    let failure = Failure::unavailable(refusal.message.to_string())
        .with(json!({"code": "LOCKDOWN", "explain": refusal.explained_by()}));
    Refused { failure, close: 1013 }
}

async fn converse(gateway: &Arc<Gateway>, ws: &mut Ws, outbox: &Arc<Outbox>, id: &str, hello: &connect::Hello) -> End {
    let conn_id = uuid();
    outbox.push(frames::response(id, &Ok(connect::hello_ok(gateway, hello.protocol, &conn_id, hello.scopes))));
    outbox.event("health", &shapes::health(gateway).to_string(), false);
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut burst = 0;
    loop {
        if burst >= BURST {
            burst = 0;
            if let Err(end) = write(ws, outbox, outbox.waiting(WRITE)).await {
                return end;
            }
        }
        // Frames that are here already come first, so that their answers leave together.
        let heard = tokio::select! {
            biased;
            () = outbox.overflowed() => return slow(),
            item = ws.next() => match hear(item) {
                Ok(heard) => heard,
                Err(end) => return end,
            },
            out = outbox.next() => {
                burst = 0;
                let mut texts = match out {
                    Out::Close(code, reason) => return End::Close(code, reason.to_owned()),
                    Out::Text(text) => vec![text],
                };
                texts.extend(outbox.waiting(WRITE));
                match write(ws, outbox, texts).await {
                    Ok(()) => continue,
                    Err(end) => return end,
                }
            }
        };
        burst = burst.saturating_add(1);
        let Heard::Text(text) = heard else { continue };
        match frames::parse(&text) {
            Parsed::NotJson => log(&format!("connection {conn_id}: a frame that is not JSON was ignored")),
            Parsed::Malformed(id, why) => outbox.push(frames::response(&id, &Err(Failure::invalid(why)))),
            Parsed::Request(request) => {
                let Ok(permit) = Arc::clone(&in_flight).acquire_owned().await else { return End::Gone };
                let (gateway, outbox, scopes) = (Arc::clone(gateway), Arc::clone(outbox), hello.scopes);
                tokio::spawn(async move {
                    carry_out(gateway, &outbox, scopes, request).await;
                    drop(permit);
                });
            }
        }
        // A client that always has a next frame ready must not keep the others from theirs.
        tokio::task::yield_now().await;
    }
}

fn slow() -> End {
    End::Close(1008, "slow consumer".to_owned())
}

async fn write(ws: &mut Ws, outbox: &Outbox, texts: Vec<String>) -> Result<(), End> {
    let all = async {
        for text in texts {
            ws.feed(Message::text(text)).await?;
        }
        ws.flush().await
    };
    tokio::select! {
        () = outbox.overflowed() => Err(slow()),
        sent = timeout_at(Instant::now() + SEND, all) => match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(slow()),
        },
    }
}

async fn carry_out(gateway: Arc<Gateway>, outbox: &Outbox, scopes: Scopes, request: Request) {
    let id = request.id.clone();
    if let Some(refusal) = gateway.gate.refusal() {
        wipe(request.params);
        return outbox.push(frames::response(&id, &Err(locked(&refusal).failure)));
    }
    match methods::call(&gateway, outbox.protocol, scopes, request).await {
        Ok(Done::Answer(answer)) => outbox.push(frames::response(&id, &Ok(answer))),
        Ok(Done::Turn(answer, plan)) => {
            outbox.push(frames::response(&id, &Ok(answer)));
            agent::start(gateway, plan);
        }
        Err(failure) => outbox.push(frames::response(&id, &Err(failure))),
    }
}

async fn finish(mut ws: Ws, end: End) {
    say_goodbye(&mut ws, end).await;
    linger(ws, CLOSE).await;
}

/// How long a client gets to close its end: less where this gateway's own end waits for it.
fn patience(gateway: &Gateway) -> Duration {
    if gateway.drain.refusal().is_some() { CLOSE_AT_END } else { CLOSE }
}

async fn say_goodbye(ws: &mut Ws, end: End) {
    match end {
        End::Gone => {
            let _ = timeout(CLOSE, ws.flush()).await;
        }
        End::Close(code, reason) => {
            let reason = BoundedStr::<123>::truncated(&reason);
            let frame = CloseFrame { code: code.into(), reason: reason.as_str().into() };
            let _ = timeout(CLOSE, ws.close(Some(frame))).await;
        }
    }
}

/// Reads on for a moment: a socket closed with input unread is reset, and the close frame lost with it.
async fn linger(ws: Ws, patience: Duration) {
    let mut raw = ws.into_inner();
    raw.open();
    let _ = timeout(patience, async {
        raw.shutdown().await?;
        let mut block = vec![0u8; 16_384];
        let mut read = 0usize;
        while read < LINGER {
            match raw.read(&mut block).await? {
                0 => break,
                more => read = read.saturating_add(more),
            }
        }
        std::io::Result::Ok(())
    })
    .await;
}
