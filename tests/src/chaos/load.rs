//! What clients do meanwhile. They note what they were told, and nothing else: what was acknowledged must be in the log.

use rustix::io::Errno;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

/// Longer than a hung role is waited for.
const PATIENCE: Duration = Duration::from_secs(25);
/// Between two requests of one client, and after a failure.
const PAUSE: Duration = Duration::from_millis(10);

/// What clients were told.
#[derive(Debug, Default)]
pub struct Told {
    /// The clients are to end.
    pub stop: AtomicBool,
    /// Logins that were accepted.
    pub logins: AtomicU64,
    /// Health calls that were answered.
    pub healths: AtomicU64,
    /// Connections that were refused.
    pub refused: AtomicU64,
    /// Connections and requests that failed otherwise: cut, refused by a rule, late.
    pub failed: AtomicU64,
    /// Commands whose end was told, as they were sent.
    pub commands: Mutex<Vec<String>>,
    /// Longest time without an answer of any client.
    pub outage: Mutex<Duration>,
    /// Refusals by their rule, for the report.
    pub refusals: Mutex<std::collections::BTreeMap<String, u64>>,
}

impl Told {
    fn over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn since(&self, last: &mut Instant) {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        *outage = (*outage).max(last.elapsed());
        *last = Instant::now();
    }

    fn fail(&self, why: &str) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Some(rule) = why.split_whitespace().find(|word| word.contains('.') && word.ends_with(':')) {
            *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(rule.to_owned()).or_default() += 1;
        }
        std::thread::sleep(PAUSE);
    }

    fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
            if error.raw_os_error() == Some(Errno::CONNREFUSED.raw_os_error()) {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            error.to_string()
        })?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        Ok(stream)
    }
}

struct Socket(WebSocket<TcpStream>);

impl Socket {
    fn login(told: &Told, port: u16, token: &str) -> Result<Self, String> {
        let stream = told.connect(port)?;
        let (socket, _) =
            tungstenite::client(format!("ws://127.0.0.1:{port}/"), stream).map_err(|error| error.to_string())?;
        let mut socket = Self(socket);
        let answer = socket.call("connect", "c", &crate::client::Client::hello(4, 4, token))?;
        if answer["ok"] != true {
            return Err(answer["error"]["message"].to_string());
        }
        told.logins.fetch_add(1, Ordering::Relaxed);
        Ok(socket)
    }

    fn frame(&mut self) -> Result<Value, String> {
        loop {
            if let Message::Text(text) = self.0.read().map_err(|error| error.to_string())? {
                return serde_json::from_str(&text).map_err(|error| error.to_string());
            }
        }
    }

    fn call(&mut self, method: &str, id: &str, params: &Value) -> Result<Value, String> {
        let request = json!({ "type": "req", "id": id, "method": method, "params": params }).to_string();
        self.0.send(Message::text(request)).map_err(|error| error.to_string())?;
        loop {
            let frame = self.frame()?;
            if frame["type"] == "res" && frame["id"] == id {
                return Ok(frame);
            }
        }
    }

    /// The final text of a chat message.
    fn chat(&mut self, session: &str, message: &str, run: &str) -> Result<String, String> {
        let params = json!({ "sessionKey": session, "message": message, "idempotencyKey": run });
        let answer = self.call("chat.send", run, &params)?;
        if answer["ok"] != true {
            return Err(answer["error"]["message"].to_string());
        }
        loop {
            let event = self.frame()?;
            let payload = &event["payload"];
            if event["event"] == "chat" && payload["runId"] == run && payload["state"] != "delta" {
                return Ok(payload["message"]["content"][0]["text"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
}

/// Logs in, asks for health a few times, leaves, again and again.
pub fn logins(told: &Told, port: u16, token: &str) {
    let mut last = Instant::now();
    while !told.over() {
        let turn = || -> Result<(), String> {
            let mut socket = Socket::login(told, port, token)?;
            for _ in 0..5 {
                let answer = socket.call("health", "h", &json!({}))?;
                if answer["ok"] == true {
                    told.healths.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(PAUSE);
            }
            Ok(())
        };
        match turn() {
            Ok(()) => told.since(&mut last),
            Err(why) => told.fail(&why),
        }
    }
}

/// Has commands run, each with a name of its own, in a conversation of its own.
pub fn commands(told: &Told, port: u16, token: &str, name: &str) {
    let (mut last, mut number) = (Instant::now(), 0u64);
    let mut socket = None;
    while !told.over() {
        number += 1;
        let command =
            if number % 10 == 0 { format!("sleep 1; echo {name}-{number}") } else { format!("echo {name}-{number}") };
        let turn = |socket: &mut Option<Socket>| -> Result<String, String> {
            let open = match socket.take() {
                Some(open) => open,
                None => Socket::login(told, port, token)?,
            };
            let text = socket.insert(open).chat(name, &format!("/exec {command}"), &format!("{name}-{number}"));
            text.inspect_err(|_| *socket = None)
        };
        match turn(&mut socket) {
            Ok(text) if text.contains(&format!("{name}-{number}\n")) && text.contains("[exit 0") => {
                told.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
                told.since(&mut last);
                std::thread::sleep(PAUSE);
            }
            Ok(text) => told.fail(&text),
            Err(why) => told.fail(&why),
        }
    }
}

/// Asks for health over plain HTTP, a connection each.
pub fn healths(told: &Told, port: u16) {
    let mut last = Instant::now();
    while !told.over() {
        let turn = || -> Result<(), String> {
            let mut stream = told.connect(port)?;
            let head = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).map_err(|error| error.to_string())?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map_err(|error| error.to_string())?;
            if text.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(text) }
        };
        match turn() {
            Ok(()) => {
                told.healths.fetch_add(1, Ordering::Relaxed);
                told.since(&mut last);
                std::thread::sleep(PAUSE);
            }
            Err(why) => told.fail(&why),
        }
    }
}
