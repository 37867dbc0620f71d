//! A WebSocket client of the gateway's port that does only what it is told, rightly or wrongly.

use serde_json::{Value, json};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, WebSocket};

/// Longest that what is waited for may take, whatever else comes meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection.
pub struct Client {
    socket: WebSocket<TcpStream>,
}

/// What came.
#[derive(Debug)]
pub enum Came {
    /// A frame.
    Frame(Value),
    /// The end, with its code and reason.
    Closed(u16, String),
}

impl Client {
    /// Connects and upgrades, no more.
    #[must_use]
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}/"), stream).unwrap();
        Self { socket }
    }

    /// Sends text as it is.
    pub fn send_text(&mut self, text: &str) {
        // The server may have closed meanwhile; what it said is what the test reads next.
        let _ = self.socket.send(Message::text(text.to_owned()));
    }

    /// Sends bytes as it is.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.socket.send(Message::binary(bytes.to_vec()));
    }

    /// Sends a frame that says it is text, with bytes that are none.
    pub fn send_not_text(&mut self, bytes: &[u8]) {
        let frame = Frame::message(bytes.to_vec(), OpCode::Data(Data::Text), true);
        let _ = self.socket.send(Message::Frame(frame));
    }

    /// Sends a request.
    pub fn send(&mut self, id: &str, method: &str, params: &Value) {
        self.send_text(&json!({ "type": "req", "id": id, "method": method, "params": params }).to_string());
    }

    /// Next thing that comes.
    pub fn receive(&mut self) -> Came {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Came::Frame(serde_json::from_str(&text).unwrap()),
                Ok(Message::Close(Some(CloseFrame { code, reason }))) => {
                    return Came::Closed(code.into(), reason.to_string());
                }
                Ok(Message::Close(None)) => return Came::Closed(1005, String::new()),
                Ok(_) => {}
                // A tracer's stop, as of `cargo xtask rules-hit`.
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Came::Closed(1006, error.to_string()),
            }
        }
    }

    /// The answer with this id; events before it are passed over.
    pub fn answer(&mut self, id: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.receive() {
                Came::Frame(frame) if frame["type"] == "res" && frame["id"] == id => return frame,
                Came::Frame(_) => assert!(Instant::now() < until, "no answer to {id} came"),
                Came::Closed(code, reason) => panic!("closed with {code} {reason} before the answer to {id}"),
            }
        }
    }

    /// The next event of this name.
    pub fn event(&mut self, name: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.receive() {
                Came::Frame(frame) if frame["event"] == name => return frame["payload"].clone(),
                Came::Frame(_) => assert!(Instant::now() < until, "no event {name} came"),
                Came::Closed(code, reason) => panic!("closed with {code} {reason} before the event {name}"),
            }
        }
    }

    /// The code and reason that the connection ends with.
    pub fn closed(&mut self) -> (u16, String) {
        loop {
            if let Came::Closed(code, reason) = self.receive() {
                return (code, reason);
            }
        }
    }

    /// Parameters of `connect` for these protocol versions and this token.
    #[must_use]
    pub fn hello(min: u32, max: u32, token: &str) -> Value {
        json!({
            "minProtocol": min,
            "maxProtocol": max,
            "client": { "id": "test", "version": "1", "platform": "linux", "mode": "test" },
            "role": "operator",
            "scopes": ["operator.admin"],
            "auth": { "token": token },
        })
    }

    /// Waits for the challenge and says hello; returns the answer.
    pub fn log_in(&mut self, min: u32, max: u32, token: &str) -> Value {
        let _ = self.event("connect.challenge");
        self.send("hello", "connect", &Self::hello(min, max, token));
        self.answer("hello")
    }

    /// Connects and logs in, which must succeed.
    #[must_use]
    pub fn logged_in(port: u16, token: &str) -> Self {
        let mut client = Self::connect(port);
        let hello = client.log_in(4, 4, token);
        assert_eq!(hello["ok"], true, "{hello}");
        client
    }

    /// A request that must succeed; returns its payload.
    pub fn call(&mut self, method: &str, params: &Value) -> Value {
        self.send(method, method, params);
        let answer = self.answer(method);
        assert_eq!(answer["ok"], true, "{method}: {answer}");
        answer["payload"].clone()
    }

    /// Sends a chat message and returns the final text.
    pub fn chat(&mut self, message: &str, run: &str) -> String {
        let _ = self.call("chat.send", &json!({ "sessionKey": "main", "message": message, "idempotencyKey": run }));
        loop {
            let event = self.event("chat");
            if event["runId"] == run && event["state"] != "delta" {
                assert_eq!(event["state"], "final", "{event}");
                return event["message"]["content"][0]["text"].as_str().unwrap().to_owned();
            }
        }
    }
}
