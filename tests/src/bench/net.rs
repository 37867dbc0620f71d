//! P3: health over HTTP. P4: health over WebSocket. P7: a chat message to its first event.

use super::control::Control;
use super::{Bound, Row, alternate, ms, p50_us};
use crate::client::Client;
use crate::model;
use crate::{As, Sandbox, System, is_root, skip};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Command;
use std::time::Instant;
use tungstenite::{Message, WebSocket};

/// Clients of the second half of P4, and what each keeps in flight.
const CLIENTS: usize = 8;
const PIPELINE: usize = 16;
const CALLS: usize = 2_000;

pub(super) fn start() -> System {
    System::start(if is_root() { As::Root } else { As::User }, &Sandbox::Native)
}

/// A client that costs as little as can be: it looks for the answer's kind and parses nothing.
pub(super) struct Ws(WebSocket<TcpStream>);

impl Ws {
    pub(super) fn login(port: u16, token: &str) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}/"), stream).unwrap();
        let mut ws = Self(socket);
        ws.send("connect", "c", &Client::hello(4, 4, token));
        let hello = ws.until("\"type\":\"res\"");
        assert!(hello.contains("hello-ok"), "{hello}");
        ws
    }

    fn send(&mut self, method: &str, id: &str, params: &Value) {
        let request = json!({ "type": "req", "id": id, "method": method, "params": params }).to_string();
        self.0.send(Message::text(request)).unwrap();
    }

    fn until(&mut self, mark: &str) -> String {
        loop {
            if let Message::Text(text) = self.0.read().unwrap()
                && text.contains(mark)
            {
                return text.to_string();
            }
        }
    }

    pub(super) fn call(&mut self, method: &str) {
        self.send(method, "r", &json!({}));
        let answer = self.until("\"type\":\"res\"");
        assert!(answer.contains("\"ok\":true"), "{answer}");
    }

    /// Milliseconds from a message to the first chat event of its run, and the final text.
    pub(super) fn chat(&mut self, session: &str, message: &str, run: &str) -> (f64, String) {
        let begin = Instant::now();
        self.send("chat.send", run, &json!({ "sessionKey": session, "message": message, "idempotencyKey": run }));
        let mine = format!("\"runId\":\"{run}\"");
        let mut first = None;
        loop {
            let text = self.until("\"event\":\"chat\"");
            if text.contains(&mine) {
                let first = *first.get_or_insert_with(|| ms(begin.elapsed()));
                if !text.contains("\"state\":\"delta\"") {
                    return (first, text);
                }
            }
        }
    }
}

fn wrk(port: u16) -> f64 {
    let url = format!("http://127.0.0.1:{port}/health");
    let output = Command::new("wrk").args(["-t1", "-c32", "-d2s", "--latency", &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")).unwrap();
    line.trim().parse::<f64>().unwrap() / 1e3
}

pub fn p3(_full: bool) -> Vec<Row> {
    if Command::new("wrk").arg("-v").output().is_err() {
        skip("P3 needs wrk");
        return Vec::new();
    }
    let system = start();
    let bare = Control::listening("http");
    let (measured, control) = alternate(5, || wrk(system.port()), || wrk(bare.port));
    vec![Row {
        goal: "P3",
        what: "GET /health, wrk -t1 -c32 / a bare hyper server that says the same".to_owned(),
        measured,
        control,
        unit: "k/s",
        bound: Bound::RatioAtLeast(0.9),
        published: "ZeroClaw 63 k/s, OpenClaw 33 k/s",
    }]
}

/// A TCP connection to the echo, with as many bytes each way as a health call has.
fn echoer(port: u16) -> impl FnMut() {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut bytes = vec![b'x'; 400];
    move || {
        stream.write_all(&bytes).unwrap();
        stream.read_exact(&mut bytes).unwrap();
    }
}

/// Thousands of calls a second that `CLIENTS` threads get through, each with `PIPELINE` of them in flight.
fn rate<C>(connect: impl Fn() -> C + Sync, send: impl Fn(&mut C) + Sync, receive: impl Fn(&mut C) + Sync) -> f64 {
    let begin = std::sync::Barrier::new(CLIENTS + 1);
    std::thread::scope(|scope| {
        let run = || {
            let mut client = connect();
            begin.wait();
            (0..PIPELINE).for_each(|_| send(&mut client));
            for _ in PIPELINE..CALLS {
                receive(&mut client);
                send(&mut client);
            }
            (0..PIPELINE).for_each(|_| receive(&mut client));
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(run)).collect();
        begin.wait();
        let start = Instant::now();
        clients.into_iter().for_each(|client| client.join().unwrap());
        f64::from(u32::try_from(CLIENTS * CALLS).unwrap()) / start.elapsed().as_secs_f64() / 1e3
    })
}

pub fn p4(_full: bool) -> Vec<Row> {
    let system = start();
    let token = system.token();
    let echo = Control::listening("echo");
    let (mut one, mut plain) = (Ws::login(system.port(), &token), echoer(echo.port));
    let (measured, control) = alternate(7, || p50_us(CALLS, || one.call("health")), || p50_us(CALLS, &mut plain));
    let single = Row {
        goal: "P4",
        what: "WebSocket health call, 1 client, p50 / a TCP echo of 400 bytes".to_owned(),
        measured,
        control,
        unit: "us",
        bound: Bound::AtMost(67.0),
        published: "ZeroClaw 67 us, OpenClaw 300 us",
    };
    let calls = || {
        // Written once: what is measured is the gateway, and the client shares its processors.
        let request = json!({ "type": "req", "id": "r", "method": "health", "params": {} }).to_string();
        let send = |ws: &mut Ws| ws.0.send(Message::text(request.as_str())).unwrap();
        rate(|| Ws::login(system.port(), &token), send, |ws| drop(ws.until("\"type\":\"res\"")))
    };
    let echoes = || {
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, echo.port)).unwrap();
        let receive = |stream: &mut TcpStream| stream.read_exact(&mut [0u8; 400]).unwrap();
        rate(connect, |stream| stream.write_all(&[b'x'; 400]).unwrap(), receive)
    };
    let (measured, control) = alternate(7, calls, echoes);
    let many = Row {
        goal: "P4",
        what: format!("WebSocket health calls, {CLIENTS} clients, {PIPELINE} in flight each / TCP echoes alike"),
        measured,
        control,
        unit: "k/s",
        bound: Bound::AtLeast(55.0),
        published: "ZeroClaw 55 k/s, OpenClaw 6-9 k/s",
    };
    vec![single, many]
}

pub fn p7(_full: bool) -> Vec<Row> {
    let system = start();
    let mut ws = Ws::login(system.port(), &system.token());
    let mut health = Ws::login(system.port(), &system.token());
    let mut number = 0;
    let mut turn = || {
        super::median((0..100).map(|_| {
            number += 1;
            ws.chat("main", "/help", &format!("p7-{number}")).0
        }))
    };
    let (measured, control) = alternate(7, &mut turn, || p50_us(100, || health.call("health")) / 1e3);
    let help = Row {
        goal: "P7",
        what: "chat.send to the first event of /help, p50 / a health call on the same gateway".to_owned(),
        measured,
        control,
        unit: "ms",
        bound: Bound::AtMost(10.0),
        published: "ZeroClaw 48 ms, OpenClaw 98-359 ms",
    };
    vec![help, p7_model()]
}

/// A model that answers at once, on this machine: what is left is the way there and back. Each turn writes down what was said, asks
/// sandboxd what may be used, and has the request in the log before it leaves.
fn p7_model() -> Row {
    let (system, server) = model::scene(json!({}), |_| ("hello there".to_owned(), Vec::new()));
    let mut ws = Ws::login(system.port(), &system.token());
    let (mut number, port) = (0, server.port);
    let turn = || {
        // The history is short, as it is when a conversation begins.
        ws.chat("main", "/new", &format!("p7-new-{number}"));
        super::median((0..20).map(|_| {
            number += 1;
            let (first, text) = ws.chat("main", "hello", &format!("p7-model-{number}"));
            assert!(text.contains("hello there"), "{text}");
            first
        }))
    };
    let body = json!({"messages": [], "stream": true}).to_string();
    let direct = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let head =
            format!("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).unwrap();
        assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    };
    let (measured, control) = alternate(7, turn, || p50_us(20, direct) / 1e3);
    Row {
        goal: "P7",
        what: "chat.send to the first delta of an instant local model, p50 / the model asked without Moltbot"
            .to_owned(),
        measured,
        control,
        unit: "ms",
        bound: Bound::AtMost(10.0),
        published: "ZeroClaw 48 ms, OpenClaw 98-359 ms",
    }
}
