//! The gateway protocol, version 4, over a stream that broker had gateway accept: no token is needed, and none is used.

use crate::CliError;
use crate::door::{Door, unexpected};
use proto::operator::{OperatorReply, OperatorRequest};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tungstenite::{Message, WebSocket};

/// Longest silence before the gateway counts as hung; a tick comes every 30 s.
const SILENCE: Duration = Duration::from_secs(150);

/// A connected client.
pub struct Session {
    socket: WebSocket<UnixStream>,
    next: u64,
    /// Events that came while an answer was waited for.
    waiting: Vec<Value>,
}

impl Session {
    /// Has broker connect us, and says hello.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn open(door: &mut Door) -> Result<Self, CliError> {
        let (OperatorReply::Attached, Some(stream)) = door.ask(&OperatorRequest::Attach)? else {
            return Err(unexpected());
        };
        let stream = UnixStream::from(stream);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let (socket, _) = tungstenite::client("ws://localhost/", stream)
            .map_err(|error| CliError::Failed(format!("gateway: {error}")))?;
        let mut session = Self { socket, next: 0, waiting: Vec::new() };
        while session.read()?.get("event").and_then(Value::as_str) != Some("connect.challenge") {}
        session.request(
            "connect",
            json!({
                "minProtocol": 4,
                "maxProtocol": 4,
                "client": { "id": "cli", "version": env!("CARGO_PKG_VERSION"), "platform": "linux", "mode": "cli" },
                "role": "operator",
                "scopes": ["operator.admin"],
            }),
        )?;
        Ok(session)
    }

    fn read(&mut self) -> Result<Value, CliError> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).map_err(CliError::failed),
                Ok(Message::Close(frame)) => {
                    let why = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                    return Err(CliError::Failed(format!("gateway closed the connection: {why}")));
                }
                Ok(_) => {}
                Err(error) => return Err(CliError::Failed(format!("gateway: {error}"))),
            }
        }
    }

    /// Sends a request without waiting.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn send(&mut self, method: &str, params: Value) -> Result<String, CliError> {
        self.next += 1;
        let id = self.next.to_string();
        let frame = json!({ "type": "req", "id": id, "method": method, "params": params });
        self.socket
            .send(Message::text(frame.to_string()))
            .map_err(|error| CliError::Failed(format!("gateway: {error}")))?;
        Ok(id)
    }

    /// Sends a request and waits for its answer; events on the way are kept.
    ///
    /// # Errors
    /// [`CliError`] with the gateway's code and message.
    pub fn request(&mut self, method: &str, params: Value) -> Result<Value, CliError> {
        let id = self.send(method, params)?;
        loop {
            let mut frame = self.read()?;
            if frame.get("type").and_then(Value::as_str) != Some("res") {
                self.waiting.push(frame);
                continue;
            }
            if frame.get("id").and_then(Value::as_str) != Some(&id) {
                continue;
            }
            if frame.get("ok") == Some(&Value::Bool(true)) {
                return Ok(frame.get_mut("payload").map(Value::take).unwrap_or_default());
            }
            let error = |key| frame.pointer(key).and_then(Value::as_str).unwrap_or_default();
            return Err(CliError::Failed(format!("{}: {}", error("/error/code"), error("/error/message"))));
        }
    }

    /// Next event.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn event(&mut self) -> Result<Value, CliError> {
        loop {
            let frame = if self.waiting.is_empty() { self.read()? } else { self.waiting.remove(0) };
            if frame.get("type").and_then(Value::as_str) == Some("event") {
                return Ok(frame);
            }
        }
    }
}
