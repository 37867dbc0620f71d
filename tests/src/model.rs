//! A model's server of the tests' own: it speaks both documented protocols, and says what a script says, rightly or wrongly.

use crate::servers::{Seen, Server, respond};
use crate::{As, Sandbox, System, is_root};
use rustls::ServerConfig;
use serde_json::{Value, json};
use std::io::Write;
use std::sync::Arc;

/// A call of a tool: its name, and its arguments as text, which need not be JSON.
pub type Called = (&'static str, String);

/// What a request says.
pub struct Asked {
    /// True for Anthropic's Messages, false for chat completions.
    pub anthropic: bool,
    /// The person's last words: what no model answered stands before them, behind an empty line.
    pub words: String,
    /// What came of the calls since.
    pub results: Vec<String>,
    /// Names of the tools that may be called.
    pub offered: Vec<String>,
    /// What the model is told about itself.
    pub system: String,
    /// Images in the conversation.
    pub images: usize,
    /// Request line and headers.
    pub head: String,
    /// The whole request.
    pub body: Value,
}

impl Asked {
    fn of(seen: &Seen) -> Self {
        let body: Value = serde_json::from_slice(&seen.body).unwrap();
        let anthropic = seen.head.contains("/v1/messages ");
        let (mut words, mut results, mut images) = (String::new(), Vec::new(), 0);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let mut system = text(&body["system"]).unwrap_or_default();
        for message in body["messages"].as_array().unwrap() {
            let parts = match &message["content"] {
                Value::Array(parts) => parts.clone(),
                text => vec![json!({"type": "text", "text": text})],
            };
            for part in parts {
                if message["role"] == "tool" || part["type"] == "tool_result" {
                    results.push(text(&part["content"]).or_else(|| text(&part["text"])).unwrap());
                } else if message["role"] == "system" {
                    system = text(&part["text"]).unwrap();
                } else if part["type"] == "image" || part["type"] == "image_url" {
                    images += 1;
                } else if message["role"] == "user" {
                    words = text(&part["text"]).unwrap();
                    results.clear();
                }
            }
        }
        let words = inside(&words).rsplit("\n\n").next().unwrap().to_owned();
        let name = |tool: &Value| text(&tool["name"]).or_else(|| text(&tool["function"]["name"])).unwrap();
        let offered = body["tools"].as_array().into_iter().flatten().map(name).collect();
        Self { anthropic, words, results, offered, system, images, head: seen.head.clone(), body }
    }
}

/// What stands between marks, where all of it does.
fn inside(text: &str) -> &str {
    let marked = text.strip_prefix("<untrusted-").and_then(|rest| rest.split_once(">\n"));
    marked.and_then(|(_, rest)| rest.rsplit_once("\n</untrusted-")).map_or(text, |(inner, _)| inner)
}

/// Where an answer goes.
pub struct Answer<'o> {
    anthropic: bool,
    out: &'o mut dyn Write,
}

impl Answer<'_> {
    /// Text, and nothing else.
    pub fn say(&mut self, text: &str) {
        self.call(text, &[]);
    }

    /// Text, then calls.
    pub fn call(&mut self, text: &str, calls: &[Called]) {
        let events = if self.anthropic { claude(text, calls) } else { gpt(text, calls) };
        self.events(&events);
    }

    /// These events, and the end.
    pub fn events(&mut self, events: &[Value]) {
        let body: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        self.status("200 OK", "Content-Type: text/event-stream\r\n", body.as_bytes());
    }

    /// An answer whose end its length says.
    pub fn status(&mut self, status: &str, headers: &str, body: &[u8]) {
        respond(self.out, status, headers, body);
    }

    /// The head of a stream of events that ends with the connection.
    pub fn begin(&mut self) {
        self.bytes(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n");
    }

    /// The head of a stream of events in chunks: one that ends without the last chunk is cut.
    pub fn begin_chunked(&mut self) {
        self.bytes(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n");
    }

    /// One chunk.
    pub fn chunk(&mut self, bytes: &[u8]) {
        self.bytes(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat());
    }

    /// Bytes, as they are. False where nobody takes them any more.
    pub fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).is_ok()
    }

    /// Some text, as an event.
    #[must_use]
    pub fn event(&self, text: &str) -> String {
        let event = if self.anthropic {
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
        } else {
            json!({"choices": [{"delta": {"content": text}}]})
        };
        format!("data: {event}\n\n")
    }
}

/// A command for the tool `exec`, whose end is waited for.
#[must_use]
pub fn exec(command: &str) -> Called {
    ("exec", json!({"command": command, "yieldMs": 120_000}).to_string())
}

/// An answer in chat completions: text, then calls of these names with these arguments, in pieces.
#[must_use]
pub fn gpt(text: &str, calls: &[Called]) -> Vec<Value> {
    let mut events = vec![json!({"choices": [{"delta": {"role": "assistant", "content": ""}}]})];
    // In pieces, as it comes.
    events.extend(text.split_inclusive(' ').map(|piece| json!({"choices": [{"delta": {"content": piece}}]})));
    for (index, (name, arguments)) in calls.iter().enumerate() {
        let id = format!("call-{index}");
        let begin = json!({"index": index, "id": id, "type": "function", "function": {"name": name, "arguments": ""}});
        events.push(json!({"choices": [{"delta": {"tool_calls": [begin]}}]}));
        for piece in halves(arguments) {
            let part = json!({"index": index, "function": {"arguments": piece}});
            events.push(json!({"choices": [{"delta": {"tool_calls": [part]}}]}));
        }
    }
    let stop = if calls.is_empty() { "stop" } else { "tool_calls" };
    events.push(json!({"choices": [{"delta": {}, "finish_reason": stop}]}));
    events.push(json!({"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5}}));
    events
}

/// The same in Anthropic's Messages.
#[must_use]
pub fn claude(text: &str, calls: &[Called]) -> Vec<Value> {
    let mut events = vec![json!({"type": "message_start", "message": {"usage": {"input_tokens": 10}}})];
    events.push(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}));
    for piece in text.split_inclusive(' ') {
        events.push(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}));
    }
    for (at, (name, arguments)) in calls.iter().enumerate() {
        let (index, id) = (at + 1, format!("call-{at}"));
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        events.push(json!({"type": "content_block_start", "index": index, "content_block": block}));
        for piece in halves(arguments) {
            let delta = json!({"type": "input_json_delta", "partial_json": piece});
            events.push(json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
    }
    let stop = if calls.is_empty() { "end_turn" } else { "tool_use" };
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 5}}));
    events.push(json!({"type": "message_stop"}));
    events
}

fn halves(text: &str) -> [&str; 2] {
    let (one, two) = text.split_at(text.floor_char_boundary(text.len() / 2));
    [one, two]
}

/// A Moltbot that asks `script` as two providers, `gpt/m` and `claude/m`.
///
/// # Panics
/// Where it does not start.
pub fn scene(
    tools: Value,
    script: impl Fn(&Asked) -> (String, Vec<Called>) + Send + Sync + 'static,
) -> (System, Server) {
    scene_with(&json!({"tools": tools}), script)
}

/// As [`scene`], with more of a configuration.
///
/// # Panics
/// Where it does not start.
pub fn scene_with(
    more: &Value,
    script: impl Fn(&Asked) -> (String, Vec<Called>) + Send + Sync + 'static,
) -> (System, Server) {
    let server = plain(move |asked, answer| {
        let (text, calls) = script(asked);
        answer.call(&text, &calls);
    });
    let mut system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
    let base = format!("http://localhost:{}", server.port);
    let mut config = json!({
        "agents": {"defaults": {"sandbox": {"backend": "native"}, "model": "gpt/m"}},
        "models": {"providers": {
            "gpt": {"baseUrl": format!("{base}/v1"), "api": "openai-completions",
                "models": [{"id": "m", "cost": {"input": 3, "output": 15}}]},
            "claude": {"baseUrl": base, "api": "anthropic-messages", "models": [{"id": "m"}]},
        }},
    });
    for (key, value) in more.as_object().unwrap() {
        match value {
            Value::Object(part) if key == "agents" => config[key].as_object_mut().unwrap().extend(part.clone()),
            _ => config[key] = value.clone(),
        }
    }
    std::fs::write(system.state().join("moltbot.json"), config.to_string()).unwrap();
    system.up();
    (system, server)
}

/// A server that follows `script`, without TLS.
pub fn plain(script: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static) -> Server {
    Server::plain(answering(script))
}

/// A server that follows `script`, over TLS.
pub fn tls(config: Arc<ServerConfig>, script: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static) -> Server {
    Server::tls(config, answering(script))
}

fn answering(
    script: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static,
) -> impl Fn(&Seen, &mut dyn Write) + Send + Sync + 'static {
    move |seen, out| {
        let asked = Asked::of(seen);
        script(&asked, &mut Answer { anthropic: asked.anthropic, out });
    }
}
