//! What an owner wrote down for the agent: files of the session's workspace, read by sandboxd's file verb. They are read once
//! and then when something ran in the sandbox that may have changed them.
//!
//! In a conversation that strangers reach, or that read what strangers wrote, they may be strangers' words, and stand between
//! marks as those do.

use crate::hub::lock;
use crate::model::messages::fenced;
use crate::tools::{Offer, session_key};
use crate::turn::Turn;
use proto::bounded::BoundedStr;
use proto::channel::Outgoing;
use proto::edge::Chunk as _;
use proto::sandbox::{EntryKind, FileReply, FileVerb, OutputChunk, SandboxReply, SandboxRequest};
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::timeout;

/// Their names, in upstream's order.
const NAMES: [&str; 5] = ["AGENTS.md", "SOUL.md", "USER.md", "TOOLS.md", "MEMORY.md"];
/// Bytes of one of them that a model is given.
const MAX_FILE: u64 = 12 * 1024;
/// Bytes of all of them.
const MAX_ALL: usize = 32 * 1024;
/// How long sandboxd may take for one request.
const WAIT: Duration = Duration::from_secs(20);
/// Conversations whose files are kept.
const MAX_KEPT: usize = 64;

/// Files by conversation, as they were last read.
#[derive(Debug, Default)]
pub struct Kept(Mutex<HashMap<String, Vec<(&'static str, String)>>>);

impl Kept {
    /// Something ran that may have changed them.
    pub fn forget(&self, session: &str) {
        lock(&self.0).remove(session);
    }

    fn get(&self, session: &str) -> Option<Vec<(&'static str, String)>> {
        lock(&self.0).get(session).cloned()
    }

    fn put(&self, session: &str, files: Vec<(&'static str, String)>) {
        let mut all = lock(&self.0);
        if all.len() >= MAX_KEPT {
            all.clear();
        }
        all.insert(session.to_owned(), files);
    }
}

/// The files in one text; empty where there are none, or where they cannot be read.
pub(crate) async fn files(turn: &Turn<'_>, offer: &Offer, fence: &str) -> String {
    if !offer.tools.iter().any(|tool| tool.name == "read") {
        return String::new();
    }
    let kept = turn.gateway.kept.get(turn.session);
    let files = match kept {
        Some(files) => files,
        None => {
            // What cannot be read now is asked for again by the next turn.
            let Some(files) = read_all(turn).await else { return String::new() };
            turn.gateway.kept.put(turn.session, files.clone());
            files
        }
    };
    let mut all = String::new();
    for (name, text) in &files {
        if all.len().saturating_add(text.len()) > MAX_ALL {
            break;
        }
        let text = if offer.outside { fenced(fence, name, text) } else { text.clone() };
        all.push_str(&format!("# {name}, from the workspace\n\n{}\n\n", text.trim_end()));
    }
    all
}

async fn read_all(turn: &Turn<'_>) -> Option<Vec<(&'static str, String)>> {
    let (_, reply) = ask(turn, FileVerb::List { path: BoundedStr::default() }).await?;
    let SandboxReply::File(FileReply::Listed { entries, .. }) = reply else { return None };
    let mut files = Vec::new();
    for name in NAMES {
        let is_there = entries.iter().any(|entry| *entry.name == *name.as_bytes() && entry.kind == EntryKind::File);
        if !is_there {
            continue;
        }
        let path = BoundedStr::truncated(name);
        let (bytes, _) = ask(turn, FileVerb::Read { path, offset: 0, limit: MAX_FILE }).await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if !text.trim().is_empty() {
            files.push((name, text));
        }
    }
    Some(files)
}

async fn ask(turn: &Turn<'_>, verb: FileVerb) -> Option<(Vec<u8>, SandboxReply)> {
    let request = SandboxRequest::File { session: session_key(turn.session), verb };
    let mut bytes = Vec::new();
    let work = async {
        let mut stream = turn.gateway.sandbox.stream(&request, 65_536, WAIT).await.ok()?;
        loop {
            match stream.next().await? {
                Outgoing::Chunk(chunk) => {
                    if let OutputChunk::Stdout(piece) | OutputChunk::Stderr(piece) = &chunk
                        && bytes.len() < MAX_ALL
                    {
                        bytes.extend_from_slice(piece);
                    }
                    let _ = stream.credit(chunk.cost()).await;
                }
                Outgoing::Reply(reply, _) => return Some(reply),
                Outgoing::Refused(_) => return None,
            }
        }
    };
    let reply = timeout(WAIT, work).await.ok().flatten()?;
    Some((bytes, reply))
}
