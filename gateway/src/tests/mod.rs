//! A gateway on a real loopback socket, with a vault and a sandboxd that are tasks of the test on real SEQPACKET pairs.

mod handshake;
mod requests;
mod turns;

use crate::sessions::Store;
use crate::state::{Gateway, Identity};
use futures_util::{SinkExt, StreamExt};
use proto::approval::{ApprovalId, ApprovalRow, DeviceWord, Subject};
use proto::audit::{AuthReason, RunEnd};
use proto::auth::{Admission, Login, Nonce, Who};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::Channel;
use proto::edge::{GatewaySandboxd, GatewayVault, Refusal};
use proto::ids::{RunId, SessionKey};
use proto::port::{Request, Server};
use proto::sandbox::{Backend, OutputChunk, SandboxReply, SandboxRequest};
use proto::senders::{PairingCode, SenderRefusal, Verdict};
use proto::transcripts::{TranscriptId, TranscriptKey, TranscriptRequest};
use proto::vault::{VaultReply, VaultRequest};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

pub(super) const TOKEN: &str = "the right token";
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Bed {
    pub(super) gateway: Arc<Gateway>,
    pub(super) address: SocketAddr,
    pub(super) directory: tempfile::TempDir,
}

pub(super) async fn bed() -> Bed {
    bed_in(tempfile::tempdir().unwrap()).await
}

pub(super) async fn bed_in(directory: tempfile::TempDir) -> Bed {
    let store = Store::open(std::fs::File::open(directory.path()).unwrap().into()).unwrap();
    let identity = Identity::new(b"{\"gateway\":{\"port\":18789}}", "/c/moltbot.json", "/c", "box").unwrap();
    let gateway = Gateway::new(identity, store);
    let (ours, theirs) = Channel::pair().unwrap();
    gateway.vault.attach(ours).unwrap();
    tokio::spawn(vault(Server::new(theirs).unwrap()));
    attach_sandbox(&gateway);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(crate::serve::accept(Arc::clone(&gateway), listener));
    Bed { gateway, address, directory }
}

pub(super) fn attach_sandbox(gateway: &Gateway) {
    let (ours, theirs) = Channel::pair().unwrap();
    gateway.sandbox.attach(ours).unwrap();
    tokio::spawn(sandbox(Server::new(theirs).unwrap()));
}

/// The one question that waits here, and what the vault says to a device's word about it.
fn about(word: &DeviceWord) -> VaultReply {
    let text = "-";
    let subject = Subject {
        session: SessionKey(BoundedStr::truncated("agent:main:main")),
        command: BoundedStr::truncated("ls"),
        why: BoundedStr::truncated(text),
        runs: BoundedStr::truncated("ls"),
        cwd: BoundedStr::truncated(text),
        environment: BoundedStr::truncated(text),
        image: BoundedStr::truncated(text),
        mounts: BoundedStr::truncated(text),
        network: BoundedStr::truncated(text),
        secrets: BoundedStr::truncated(text),
    };
    let (session, command) = (subject.session.clone(), BoundedStr::truncated("ls"));
    let row = ApprovalRow { id: ApprovalId(1), session, command, digest: [7; 32], left_s: 60, uses: 0 };
    match word {
        DeviceWord::List => VaultReply::Questions(BoundedVec::new(vec![row]).unwrap()),
        DeviceWord::Show(_) => VaultReply::Question { subject: Box::new(subject), row, nonce: [8; 32] },
        DeviceWord::Answer { .. } => VaultReply::Accepted,
    }
}

async fn vault(server: Server<GatewayVault>) {
    while let Ok(Request { request, responder, .. }) = server.next().await {
        let Login { address, token, who, .. } = match request {
            VaultRequest::VerifyClient(login) => *login,
            VaultRequest::Challenge(connection) => {
                responder.reply(&VaultReply::Challenge(Nonce(connection.0)), &[]).await.unwrap();
                continue;
            }
            VaultRequest::MaySpeak { sender, .. } => {
                let pair = |fresh| Verdict::Pair { code: PairingCode(*b"ABCDEFGH"), seconds: 900, fresh };
                let verdict = match sender.0.as_str() {
                    "stranger" => pair(true),
                    "again" => pair(false),
                    "refused" => Verdict::Refused(SenderRefusal::NotListed),
                    "*" => {
                        responder.refuse(&Refusal::new("allowlist.wildcard", "no")).await.unwrap();
                        continue;
                    }
                    _ => Verdict::Allowed,
                };
                responder.reply(&VaultReply::Speak(verdict), &[]).await.unwrap();
                continue;
            }
            VaultRequest::Transcript(request) => {
                match transcript(&request) {
                    Ok(reply) => responder.reply(&reply, &[]).await.unwrap(),
                    Err(rule) => responder.refuse(&Refusal::new(rule, "no")).await.unwrap(),
                }
                continue;
            }
            VaultRequest::Taint { .. } | VaultRequest::Carry { .. } => {
                responder.reply(&VaultReply::Accepted, &[]).await.unwrap();
                continue;
            }
            VaultRequest::Approval(word) => {
                responder.reply(&about(&word), &[]).await.unwrap();
                continue;
            }
            VaultRequest::VerifyMac { .. } | VaultRequest::Watch(_) => panic!("another question"),
        };
        assert_eq!(address.as_str(), "127.0.0.1");
        let token = token.map(|token| String::from_utf8_lossy(token.expose()).into_owned());
        let rejected = |reason, retry_after_s| VaultReply::Rejected { reason, retry_after_s };
        let reply = match token.as_deref() {
            Some(TOKEN) => {
                let Who::Bearer(scopes) = who else { panic!("a device") };
                VaultReply::Admitted(Admission { scopes, by: BoundedVec::default() })
            }
            Some("unwritable") => {
                responder.refuse(&Refusal::new("audit.unwritable", "the log cannot be written")).await.unwrap();
                continue;
            }
            Some("locked") => rejected(AuthReason::RateLimited, 300),
            Some(_) => rejected(AuthReason::TokenMismatch, 0),
            None => rejected(AuthReason::TokenMissing, 0),
        };
        responder.reply(&reply, &[]).await.unwrap();
    }
}

/// Transcripts of every bed, which outlive it: conversation, and whether it is open.
static TRANSCRIPTS: Mutex<BTreeMap<TranscriptId, (SessionKey, bool)>> = Mutex::new(BTreeMap::new());

fn transcript(request: &TranscriptRequest) -> Result<VaultReply, &'static str> {
    let mut all = TRANSCRIPTS.lock().unwrap();
    let key = |id: &TranscriptId| VaultReply::Transcript(TranscriptKey::new([id.0, id.0].concat().try_into().unwrap()));
    match request {
        TranscriptRequest::Make { session, id } => {
            all.insert(*id, (session.clone(), true));
            Ok(key(id))
        }
        TranscriptRequest::Open { session, id } => match all.get(id) {
            Some((of, true)) if of == session => Ok(key(id)),
            Some(_) => Err("transcript.closed"),
            None => Err("transcript.unknown"),
        },
        TranscriptRequest::Close { id } => {
            all.entry(*id).and_modify(|entry| entry.1 = false);
            Ok(VaultReply::Accepted)
        }
        TranscriptRequest::Wrote { lines, .. } => Ok(VaultReply::Lines(*lines)),
    }
}

async fn sandbox(server: Server<GatewaySandboxd>) {
    let server = Arc::new(server);
    while let Ok(Request { request, responder, .. }) = server.next().await {
        let command = match request {
            SandboxRequest::Exec { command, .. } => command,
            SandboxRequest::Describe | SandboxRequest::Where { .. } => {
                let detail = BoundedStr::new("a test").unwrap();
                let reply = SandboxReply::Described { backend: Backend::Docker, detail };
                responder.reply(&reply, &[]).await.unwrap();
                continue;
            }
            SandboxRequest::Tools { .. } => {
                let reply = SandboxReply::Tools { names: BoundedVec::default(), outside: false };
                responder.reply(&reply, &[]).await.unwrap();
                continue;
            }
            SandboxRequest::Close { .. } | SandboxRequest::Process { .. } | SandboxRequest::File { .. } => continue,
        };
        if command.as_str() == "die" {
            return;
        }
        // As a real one: credit and cancellation come in while a command runs.
        tokio::spawn(async move {
            let out = |bytes: &[u8]| OutputChunk::Stdout(BoundedBytes::new(bytes).unwrap());
            let end = match command.as_str() {
                "hello" => {
                    // A character cut by a chunk's border, and an error stream in between.
                    for chunk in
                        [out(b"caf\xc3"), OutputChunk::Stderr(BoundedBytes::new(&b"!"[..]).unwrap()), out(b"\xa9\n")]
                    {
                        responder.chunk(&chunk).await.unwrap();
                    }
                    RunEnd::Exited(3)
                }
                "flood" => {
                    for _ in 0..64 {
                        let chunk = out(&[b'x'; 16_384]);
                        responder.chunk(&chunk).await.unwrap();
                    }
                    RunEnd::Exited(0)
                }
                "hang" => {
                    let chunk = out(b"waiting");
                    responder.chunk(&chunk).await.unwrap();
                    responder.cancelled().await;
                    RunEnd::Aborted
                }
                _ => {
                    let refusal = Refusal::new("exec.not_allowed", "this is no command for you");
                    return responder.refuse(&refusal).await.unwrap();
                }
            };
            let run = RunId(BoundedStr::new("r-00").unwrap());
            let reply = SandboxReply::Ended { run, end, duration_ms: 12, dropped: 0 };
            responder.reply(&reply, &[]).await.unwrap();
        });
    }
}

pub(super) struct Client {
    pub(super) ws: WebSocketStream<TcpStream>,
    pub(super) events: Vec<Value>,
    next: u32,
}

/// What comes next: a frame, or the end.
#[derive(Debug)]
pub(super) enum Next {
    Frame(Value),
    Closed(u16, String),
}

impl Client {
    pub(super) async fn open(bed: &Bed) -> Self {
        let tcp = TcpStream::connect(bed.address).await.unwrap();
        let request = format!("ws://{}/", bed.address).into_client_request().unwrap();
        let (ws, _) = client_async(request, tcp).await.unwrap();
        let mut client = Self { ws, events: Vec::new(), next: 0 };
        let Next::Frame(challenge) = client.next().await else { panic!("no challenge") };
        assert_eq!(challenge["event"], "connect.challenge");
        client
    }

    pub(super) async fn login(bed: &Bed, protocol: u8) -> (Self, Value) {
        let mut client = Self::open(bed).await;
        let answer = client.ask("connect", connect_params(protocol, protocol, Some(TOKEN))).await;
        assert_eq!(answer["ok"], true, "{answer}");
        (client, answer["payload"].clone())
    }

    pub(super) async fn send(&mut self, text: impl Into<String>) {
        self.ws.send(Message::text(text.into())).await.unwrap();
    }

    pub(super) async fn next(&mut self) -> Next {
        loop {
            match timeout(PATIENCE, self.ws.next()).await.expect("the gateway is silent") {
                Some(Ok(Message::Text(text))) => return Next::Frame(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Next::Closed(frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None))) | None => return Next::Closed(1005, String::new()),
                Some(Err(Error::ConnectionClosed)) => return Next::Closed(1006, String::new()),
                Some(Err(error)) => panic!("{error}"),
                Some(Ok(_)) => {}
            }
        }
    }

    /// Asks; events that come in between are kept.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next.to_string();
        self.send(json!({"type": "req", "id": id, "method": method, "params": params}).to_string()).await;
        self.answer(&id).await
    }

    pub(super) async fn answer(&mut self, id: &str) -> Value {
        loop {
            match self.next().await {
                Next::Frame(frame) if frame["type"] == "res" => {
                    assert_eq!(frame["id"], id, "{frame}");
                    return frame;
                }
                Next::Frame(frame) => self.events.push(frame),
                Next::Closed(code, reason) => panic!("closed: {code} {reason}"),
            }
        }
    }

    /// The next chat event of `run` in `state`; those before it are kept.
    pub(super) async fn chat(&mut self, run: &str, state: &str) -> Value {
        let fits = |event: &Value| {
            event["event"] == "chat" && event["payload"]["runId"] == run && event["payload"]["state"] == state
        };
        if let Some(at) = self.events.iter().position(fits) {
            return self.events.remove(at)["payload"].clone();
        }
        loop {
            match self.next().await {
                Next::Frame(frame) if fits(&frame) => return frame["payload"].clone(),
                Next::Frame(frame) => self.events.push(frame),
                Next::Closed(code, reason) => panic!("closed: {code} {reason}"),
            }
        }
    }

    pub(super) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Next::Closed(code, reason) = self.next().await {
                return (code, reason);
            }
        }
    }
}

pub(super) fn connect_params(min: u8, max: u8, token: Option<&str>) -> Value {
    let mut params = json!({
        "minProtocol": min, "maxProtocol": max, "role": "operator", "caps": [],
        "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
    });
    if let Some(token) = token {
        params["auth"] = json!({"token": token});
    }
    params
}

pub(super) fn text_of(chat: &Value) -> &str {
    chat["message"]["content"][0]["text"].as_str().unwrap()
}
