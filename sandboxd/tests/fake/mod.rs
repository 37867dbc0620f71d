//! An engine that lies, hangs, dies or talks nonsense, on a socket of the test's own. It speaks as much of the API as
//! sandboxd asks for, remembers every request, and makes no container. Tests of sandboxd and of the whole use it.
#![allow(dead_code, reason = "not every test needs all of it")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

pub const IMAGE: &str = "sha256:1111";
pub const ID: &str = "c0ffee";

/// How a request is answered.
pub enum Answer {
    /// Status and JSON.
    Json(u16, Value),
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// Not at all, while the client waits.
    Never,
}

type Change = dyn Fn(&str, Answer) -> Answer + Send + Sync;

pub struct Engine {
    pub socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
    created: Arc<Mutex<Value>>,
    _dir: TempDir,
}

impl Engine {
    /// `change` is given `METHOD path` of every request without its version and query, and what an honest engine would say.
    pub fn start(change: impl Fn(&str, Answer) -> Answer + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        // sandboxd has a uid of its own where root started everything.
        for (path, mode) in [(dir.path(), 0o755), (&*socket, 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, change): (_, Arc<Change>) = (Arc::clone(&asked), Arc::new(change));
        let created = Arc::new(Mutex::new(Value::Null));
        let made = Arc::clone(&created);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (log, change, created) = (Arc::clone(&log), Arc::clone(&change), Arc::clone(&made));
                std::thread::spawn(move || serve(stream, &log, &*change, &created));
            }
        });
        Self { socket, asked, created, _dir: dir }
    }

    /// The body of the last create call.
    pub fn created(&self) -> Value {
        self.created.lock().unwrap().clone()
    }

    /// Every request so far, as `METHOD path`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: UnixStream, log: &Mutex<Vec<String>>, change: &Change, created: &Mutex<Value>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let mut words = line.split_whitespace();
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let path = target.split('?').next()?;
        // Without the version that stands before it.
        let path = path.strip_prefix("/v").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
        let request = format!("{method} {path}");
        log.lock().unwrap().push(request.clone());
        if request == "POST /containers/create" {
            *created.lock().unwrap() = serde_json::from_slice(&body).ok()?;
        }
        let answer = change(&request, honest(&request, &created.lock().unwrap()));
        match answer {
            Answer::Json(status, value) => {
                let text = value.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                    text.len()
                );
                stream.write_all((head + &text).as_bytes()).ok()?;
            }
            Answer::Raw(bytes) => {
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return None;
            }
            // Until the client gives up.
            Answer::Never => {
                let _ = reader.read(&mut [0; 1]);
                return None;
            }
        }
    }
}

fn honest(request: &str, created: &Value) -> Answer {
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, path) {
        ("GET", "/version") => Answer::Json(200, json!({ "Version": "29.0.0", "ApiVersion": "1.41" })),
        ("GET", "/info") => Answer::Json(200, json!({})),
        ("GET", "/containers/json") => Answer::Json(200, json!([])),
        ("GET", path) if path.starts_with("/images/") => {
            Answer::Json(200, json!({ "Id": IMAGE, "Config": { "Env": ["PATH=/bin"] } }))
        }
        ("POST", "/containers/create") => Answer::Json(201, json!({ "Id": ID, "Warnings": [] })),
        ("GET", path) if path.starts_with("/containers/") => Answer::Json(200, inspected(created)),
        ("DELETE", _) => Answer::Json(200, json!({})),
        _ => Answer::Json(500, json!({ "message": "the test's engine makes no containers" })),
    }
}

/// What was asked for, as an engine that did it says it.
fn inspected(created: &Value) -> Value {
    let mut config = created.clone();
    let host = config.as_object_mut().and_then(|map| map.remove("HostConfig")).unwrap_or_default();
    let command: Vec<Value> = ["Entrypoint", "Cmd"]
        .iter()
        .filter_map(|field| config.get(*field).and_then(Value::as_array))
        .flatten()
        .cloned()
        .collect();
    json!({ "Id": ID, "Image": IMAGE, "Path": command.first(), "Args": command.get(1..), "Config": config,
        "HostConfig": host, "Mounts": [], "State": { "Status": "created", "Pid": 0 } })
}
