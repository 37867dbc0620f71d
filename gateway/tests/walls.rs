//! The real binary behind its real walls, with this test in broker's place: a system call that its policy forgot would
//! kill it here. Vault and sandboxd are tasks of the test on real SEQPACKET pairs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

use futures_util::{SinkExt, StreamExt};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::Channel;
use proto::control::{AdminReply, AdminRequest, FromRole, Layout, MAX_CONTROL, Resource, RoleConfig, ToRole};
use proto::edge::{GatewaySandboxd, GatewayVault};
use proto::ids::{Epoch, RequestId};
use proto::port::Server;
use proto::sandbox::{Backend, SandboxReply};
use proto::topology::{EdgeId, Side};
use proto::transcripts::TranscriptKey;
use proto::vault::{VaultReply, VaultRequest};
use proto::wire::{self, Header, Kind};
use serde_json::{Value, json};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

const PATIENCE: Duration = Duration::from_secs(20);

struct Broker(Arc<Channel>);

impl Broker {
    fn tell(&self, word: &ToRole, fds: &[BorrowedFd<'_>]) {
        let header = Header { kind: Kind::Note, id: RequestId(0), deadline_ms: 0 };
        let packet = wire::encode(header, word, MAX_CONTROL).unwrap();
        self.0.send_by(&packet, fds, Instant::now() + PATIENCE).unwrap();
    }

    /// Beside the runtime, because vault and sandboxd run on it.
    async fn hear(&self) -> FromRole {
        let channel = Arc::clone(&self.0);
        let packet = tokio::task::spawn_blocking(move || channel.recv_by(MAX_CONTROL, 0, Instant::now() + PATIENCE));
        let packet = packet.await.unwrap().unwrap();
        wire::decode(wire::split(&packet.bytes, MAX_CONTROL).unwrap().1).unwrap()
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(ws: &mut WebSocketStream<S>, method: &str, params: Value) -> Value {
    let request = json!({"type": "req", "id": method, "method": method, "params": params});
    ws.send(Message::text(request.to_string())).await.unwrap();
    wait(ws, |frame| frame["id"] == method).await
}

async fn wait<S: AsyncRead + AsyncWrite + Unpin>(ws: &mut WebSocketStream<S>, fits: impl Fn(&Value) -> bool) -> Value {
    tokio::time::timeout(PATIENCE, async {
        loop {
            let frame = ws.next().await.unwrap().unwrap();
            let value: Value = serde_json::from_str(frame.to_text().unwrap()).unwrap();
            if fits(&value) {
                return value;
            }
        }
    })
    .await
    .unwrap()
}

fn connect(token: &str) -> Value {
    json!({
        "minProtocol": 4, "maxProtocol": 4, "auth": {"token": token},
        "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
    })
}

#[tokio::test]
async fn gateway_behind_its_walls_serves_network_and_operator_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = Channel::pair().unwrap();
    let program = format!("exec 3<&0 </dev/null; exec {}", env!("CARGO_BIN_EXE_moltbot-gateway"));
    let mut child = Command::new("/bin/sh")
        .args(["-c", &program])
        .env_clear()
        .stdin(Stdio::from(theirs.into_fd()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let broker = Broker(Arc::new(ours));
    assert!(matches!(broker.hear().await, FromRole::Hello { .. }));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let sessions: OwnedFd = std::fs::File::open(directory.path()).unwrap().into();
    let config = RoleConfig::Gateway {
        redacted_config: BoundedBytes::new(&b"{}"[..]).unwrap(),
        config_path: BoundedStr::new("/state/moltbot.json").unwrap(),
        state_dir: BoundedStr::new("/state").unwrap(),
        host: BoundedStr::new("box").unwrap(),
    };
    let resources = BoundedVec::new(vec![Resource::Listener, Resource::SessionDir]).unwrap();
    broker.tell(
        &ToRole::Configure { layout: Layout::SplitUid, config, resources },
        &[listener.as_fd(), sessions.as_fd()],
    );
    assert!(matches!(broker.hear().await, FromRole::Confined(_)));
    broker.tell(&ToRole::Attested, &[]);
    let [vault, sandboxd, _egress] =
        [EdgeId::GatewayVault, EdgeId::GatewaySandboxd, EdgeId::GatewayEgress].map(|edge| {
            let (client, server) = Channel::pair().unwrap();
            broker.tell(&ToRole::Grant { edge, side: Side::Client, peer: Epoch(1) }, &[client.as_fd()]);
            server
        });
    assert!(matches!(broker.hear().await, FromRole::Ready));
    let vault = Server::<GatewayVault>::new(vault).unwrap();
    let sandboxd = Server::<GatewaySandboxd>::new(sandboxd).unwrap();
    tokio::spawn(async move {
        while let Ok(request) = vault.next().await {
            let reply = match request.request {
                VaultRequest::Transcript(_) => VaultReply::Transcript(TranscriptKey::new([1; 32])),
                _ => VaultReply::Accepted,
            };
            request.responder.reply(&reply, &[]).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok(request) = sandboxd.next().await {
            let reply = SandboxReply::Described { backend: Backend::NativeN1, detail: BoundedStr::default() };
            request.responder.reply(&reply, &[]).await.unwrap();
        }
    });

    let tcp = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut network, _) = client_async("ws://127.0.0.1/", tcp).await.unwrap();
    assert_eq!(ask(&mut network, "connect", connect("t")).await["ok"], true);
    assert_eq!(ask(&mut network, "status", Value::Null).await["payload"]["moltbot"]["backend"], "native-n1");
    let message = json!({"sessionKey": "main", "message": "/help", "idempotencyKey": "k"});
    assert_eq!(ask(&mut network, "chat.send", message).await["ok"], true);
    wait(&mut network, |frame| frame["event"] == "chat" && frame["payload"]["state"] == "final").await;
    let history = ask(&mut network, "chat.history", json!({"sessionKey": "main"})).await;
    assert_eq!(history["payload"]["messages"].as_array().unwrap().len(), 2);

    let (theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    broker.tell(&ToRole::Admin(7, AdminRequest::AttachOperator), &[theirs.as_fd()]);
    drop(theirs);
    assert!(matches!(broker.hear().await, FromRole::Admin(7, Ok(AdminReply::Attached))));
    ours.set_nonblocking(true).unwrap();
    let ours = tokio::net::UnixStream::from_std(ours).unwrap();
    let (mut operator, _) = client_async("ws://localhost/", ours).await.unwrap();
    assert_eq!(ask(&mut operator, "connect", connect("")).await["ok"], true);

    broker.tell(&ToRole::Drain, &[]);
    let goodbye = Some((1012, "service restart".to_owned()));
    assert_eq!(closed(&mut network).await, goodbye);
    assert_eq!(closed(&mut operator).await, goodbye);
    assert!(matches!(broker.hear().await, FromRole::Drained));
    broker.tell(&ToRole::Stop, &[]);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

async fn closed<S: AsyncRead + AsyncWrite + Unpin>(ws: &mut WebSocketStream<S>) -> Option<(u16, String)> {
    while let Some(Ok(message)) = ws.next().await {
        if let Message::Close(frame) = message {
            return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
        }
    }
    None
}
