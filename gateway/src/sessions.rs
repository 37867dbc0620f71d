//! Conversations on disk, beneath the one directory the gateway holds: an index that says which transcript belongs to
//! which key, and one transcript a session, both only ever appended to. Lines of a transcript are sealed under its own key,
//! which the vault keeps and gives while the transcript is open; the index is plain.
//!
//! The files are hostile too: an earlier self that had fallen may have written them, a thief may have been at them, and a
//! crash may have cut the last line. A line that does not open is left out and counted; names of files are ids made here,
//! never a client's text. What is open is in this process's memory, with its key.

mod files;
pub mod plain;

use crate::sessions::files::Directory;
use rustix::io::Errno;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::sync::Notify;
use transcript::{Key, NONCE};
use zeroize::Zeroizing;

const INDEX: &str = "index.jsonl";
/// Sessions there may be.
const MAX_SESSIONS: usize = 1000;
/// Largest index, in bytes.
const MAX_INDEX: u64 = 8 << 20;
/// Largest transcript, in bytes; far below the limit at which the kernel would end the process.
const MAX_TRANSCRIPT: u64 = 64 << 20;
/// Bytes of a transcript's end that are read for a history.
const MAX_TAIL: u64 = 1 << 20;
/// Key of the conversation that is always there.
pub const MAIN_KEY: &str = "agent:main:main";
/// Longest key.
pub const MAX_KEY: usize = 128;

/// What went wrong with a session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The key is not one.
    #[error("{0}")]
    BadKey(&'static str),
    /// There are as many sessions as there may be.
    #[error("there are {MAX_SESSIONS} sessions already")]
    TooMany,
    /// The file is as large as it may be.
    #[error("{0} is full; begin a new session with /new")]
    Full(String),
    /// Its key is not here.
    #[error("the transcript of {0} is not open")]
    Sealed(String),
    /// The file system said no.
    #[error("cannot {what} {file}")]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        file: String,
        /// What the kernel said.
        #[source]
        errno: Errno,
    },
}

/// Brings a client's session key into its one form: `main` is `agent:main:main`, `x` is `agent:main:x`. Whether there is such an
/// agent is the configuration's to say.
///
/// # Errors
/// [`SessionError::BadKey`] says what the rule is.
pub fn normalise(key: &str) -> Result<String, SessionError> {
    if !key.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b'"')) {
        return Err(SessionError::BadKey("must be printable ASCII without spaces, quotes and slashes"));
    }
    let full = match key {
        "" => return Err(SessionError::BadKey("must NOT have fewer than 1 characters")),
        "main" => MAIN_KEY.to_owned(),
        key if key.starts_with("agent:") => {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
            let mut parts = key.splitn(3, ':').skip(1);
            let agent = parts.next().is_some_and(|agent| !agent.is_empty() && agent.bytes().all(plain));
            if !agent || parts.next().is_none_or(str::is_empty) {
                return Err(SessionError::BadKey("must be agent:ID:NAME, with an id of a-z, 0-9, - and _"));
            }
            key.to_owned()
        }
        key => format!("agent:main:{key}"),
    };
    if full.len() > MAX_KEY {
        return Err(SessionError::BadKey("must NOT have more than 128 characters"));
    }
    Ok(full)
}

/// 128 random bits as a UUID (RFC 9562, version 4).
#[must_use]
pub fn uuid() -> String {
    let number = u128::from_be_bytes(random());
    let number = (number & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{number:032x}");
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// 128 random bits.
#[must_use]
pub fn random() -> [u8; 16] {
    let mut bytes = [0u8; 16];
    // The kernel's generator cannot fail once it is seeded, which it is before any user process runs.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    bytes
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// A conversation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// Names its transcript; a new one after every reset.
    pub id: String,
    /// Milliseconds since 1970 of its last message.
    pub updated_at: u64,
}

/// A transcript whose key is here.
struct Opened {
    key: Key,
    id: transcript::Id,
    next: u64,
}

/// All conversations.
pub struct Store {
    directory: Directory,
    sessions: BTreeMap<String, Session>,
    /// By the conversation's key.
    opened: HashMap<String, Opened>,
    /// Lines of transcripts that the vault was not told of yet.
    untold: BTreeMap<transcript::Id, u64>,
    /// Speaks up when there are some.
    written: Arc<Notify>,
}

/// The end of a conversation.
#[derive(Debug, Default)]
pub struct History {
    /// Messages, the oldest first.
    pub messages: Vec<Value>,
    /// Lines of it that are not what was written, or are missing between others.
    pub damaged: u64,
}

impl Store {
    /// Reads the index beneath `directory`.
    ///
    /// # Errors
    /// [`SessionError::File`].
    pub fn open(directory: OwnedFd) -> Result<Self, SessionError> {
        let directory = Directory(directory);
        let (sessions, opened) = (BTreeMap::new(), HashMap::new());
        let mut store = Self { directory, sessions, opened, untold: BTreeMap::new(), written: Arc::default() };
        let (lines, skipped) = store.index()?;
        for line in lines {
            let text = |name| line.get(name).and_then(Value::as_str);
            let Some(key) = text("key") else { continue };
            let Some(id) = text("sessionId") else {
                store.sessions.remove(key);
                continue;
            };
            if normalise(key).is_ok_and(|same| same == key) && is_id(id) && store.sessions.len() < MAX_SESSIONS {
                store.sessions.insert(key.to_owned(), Session { id: id.to_owned(), updated_at: 0 });
            }
        }
        if skipped > 0 {
            crate::state::log(&format!("sessions: {skipped} lines of {INDEX} are damaged and were skipped"));
        }
        let ids: Vec<_> = store.sessions.iter().map(|(key, session)| (key.clone(), file_name(&session.id))).collect();
        for (key, file) in ids {
            let updated = store.directory.modified(&file);
            if let Some(session) = store.sessions.get_mut(&key) {
                session.updated_at = updated;
            }
        }
        Ok(store)
    }

    /// Every session by its key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Session)> {
        self.sessions.iter().map(|(key, session)| (key.as_str(), session))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The session of `key`, if it has begun.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Session> {
        self.sessions.get(key)
    }

    /// True where what is said in the conversation can be written down and read.
    #[must_use]
    pub fn is_open(&self, key: &str) -> bool {
        self.opened.contains_key(key)
    }

    /// Is there room for a new session of `key`?
    ///
    /// # Errors
    /// [`SessionError::TooMany`].
    pub fn room(&self, key: &str) -> Result<(), SessionError> {
        if !self.sessions.contains_key(key) && self.sessions.len() >= MAX_SESSIONS {
            return Err(SessionError::TooMany);
        }
        Ok(())
    }

    /// Gives `key` a new, empty session of this id, whose transcript has this key. The old transcript stays under its id,
    /// and nobody here can read it any more.
    ///
    /// # Errors
    /// [`SessionError::TooMany`], [`SessionError::Full`], [`SessionError::File`].
    pub fn begin(&mut self, key: &str, id: &str, transcript: Key) -> Result<Session, SessionError> {
        self.room(key)?;
        let session = Session { id: id.to_owned(), updated_at: now_ms() };
        let line = json!({"key": key, "sessionId": session.id, "createdAt": session.updated_at});
        self.directory.append(INDEX, &line.to_string(), MAX_INDEX)?;
        self.sessions.insert(key.to_owned(), session.clone());
        self.opened.insert(key.to_owned(), Opened { key: transcript, id: bytes(id), next: 0 });
        Ok(session)
    }

    /// Takes the key of a transcript that is there.
    ///
    /// # Errors
    /// [`SessionError::File`].
    pub fn unlock(&mut self, key: &str, transcript: Key, known: u64) -> Result<(), SessionError> {
        let Some(session) = self.sessions.get(key) else { return Err(SessionError::Sealed(key.to_owned())) };
        let (file, id) = (file_name(&session.id), bytes(&session.id));
        let mut found = self.read(&file, &transcript, &id, MAX_TAIL)?;
        if found.lines.is_empty() {
            // One line may be longer than the end that was read.
            found = self.read(&file, &transcript, &id, u64::MAX)?;
        }
        let missing = known.saturating_sub(found.next());
        if missing > 0 {
            crate::state::log(&format!("sessions: the newest {missing} lines of {file} were cut off"));
        }
        // Numbers that were used once are not used again: what is missing stays a gap for whoever reads it.
        self.opened.insert(key.to_owned(), Opened { key: transcript, id, next: found.next().max(known) });
        Ok(())
    }

    /// Speaks up when there is something for [`Store::take_untold`].
    #[must_use]
    pub fn written(&self) -> Arc<Notify> {
        Arc::clone(&self.written)
    }

    /// Transcripts that were written to since the last time, and how many lines they have.
    pub fn take_untold(&mut self) -> BTreeMap<transcript::Id, u64> {
        std::mem::take(&mut self.untold)
    }

    /// Forgets the session of `key`. True where there was one.
    ///
    /// # Errors
    /// [`SessionError::Full`], [`SessionError::File`].
    pub fn forget(&mut self, key: &str) -> Result<bool, SessionError> {
        if self.sessions.contains_key(key) {
            self.directory.append(INDEX, &json!({"key": key, "sessionId": null}).to_string(), MAX_INDEX)?;
        }
        self.opened.remove(key);
        Ok(self.sessions.remove(key).is_some())
    }

    /// Adds a message to the session of `key`, which must be open.
    ///
    /// # Errors
    /// [`SessionError::Sealed`], [`SessionError::Full`], [`SessionError::File`].
    pub fn record(&mut self, key: &str, role: &str, text: &str) -> Result<Value, SessionError> {
        self.record_with(key, role, text, &Value::Null)
    }

    /// As [`Store::record`], with the members of `more` beside the text, where it has any.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn record_with(&mut self, key: &str, role: &str, text: &str, more: &Value) -> Result<Value, SessionError> {
        self.record_content(key, role, vec![json!({"type": "text", "text": text})], more)
    }

    /// As [`Store::record_with`], of these parts.
    ///
    /// # Errors
    /// As [`Store::record`].
    pub fn record_content(
        &mut self,
        key: &str,
        role: &str,
        content: Vec<Value>,
        more: &Value,
    ) -> Result<Value, SessionError> {
        let (Some(session), Some(opened)) = (self.sessions.get_mut(key), self.opened.get_mut(key)) else {
            return Err(SessionError::Sealed(key.to_owned()));
        };
        let at = now_ms();
        let mut message = json!({"role": role, "content": content, "timestamp": at});
        if let (Some(message), Some(more)) = (message.as_object_mut(), more.as_object()) {
            message.extend(more.clone());
        }
        let plain = Zeroizing::new(message.to_string().into_bytes());
        let file = file_name(&session.id);
        let line = transcript::seal(&opened.key, &opened.id, opened.next, nonce(), &plain)
            .ok_or_else(|| SessionError::File { what: "seal a line of", file: file.clone(), errno: Errno::INVAL })?;
        self.directory.append(&file, &line, MAX_TRANSCRIPT)?;
        opened.next = opened.next.saturating_add(1);
        self.untold.insert(opened.id, opened.next);
        self.written.notify_one();
        session.updated_at = at;
        Ok(message)
    }

    /// The last messages of `key`: at most `limit`, and none from before the file's last MiB.
    ///
    /// # Errors
    /// [`SessionError::Sealed`], [`SessionError::File`].
    pub fn history(&self, key: &str, limit: usize) -> Result<History, SessionError> {
        let Some(session) = self.sessions.get(key) else { return Ok(History::default()) };
        let opened = self.opened.get(key).ok_or_else(|| SessionError::Sealed(key.to_owned()))?;
        let file = file_name(&session.id);
        let found = self.read(&file, &opened.key, &opened.id, MAX_TAIL)?;
        if found.damaged > 0 {
            crate::state::log(&format!("sessions: {} lines of {file} are damaged or missing", found.damaged));
        }
        let mut messages: Vec<Value> =
            found.lines.iter().filter_map(|(_, text)| serde_json::from_slice(text).ok()).collect();
        messages.retain(Value::is_object);
        let messages = messages.split_off(messages.len().saturating_sub(limit));
        Ok(History { messages, damaged: found.damaged })
    }

    fn read(&self, file: &str, key: &Key, id: &transcript::Id, cap: u64) -> Result<transcript::Found, SessionError> {
        let (bytes, whole) = self.directory.tail(file, cap)?;
        Ok(transcript::read(key, id, &bytes, whole))
    }

    /// The values on the lines of the index, and how many lines were none.
    fn index(&self) -> Result<(Vec<Value>, usize), SessionError> {
        let (bytes, _) = self.directory.tail(INDEX, MAX_INDEX)?;
        let mut skipped = 0;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let values = lines.filter_map(|line| serde_json::from_slice(line).inspect_err(|_| skipped += 1).ok()).collect();
        Ok((values, skipped))
    }
}

/// Random bytes that no line had before.
fn nonce() -> [u8; NONCE] {
    let mut nonce = [0; NONCE];
    // The kernel's generator cannot fail once it is seeded, which it is before any user process runs.
    let _ = rustix::rand::getrandom(&mut nonce[..], rustix::rand::GetRandomFlags::empty());
    nonce
}

/// The bytes of an id; zeros where it is none, which no caller has.
fn bytes(id: &str) -> transcript::Id {
    proto::transcripts::TranscriptId::parse(id).map_or([0; 16], |id| id.0)
}

fn file_name(id: &str) -> String {
    format!("{id}.sealed")
}

fn is_id(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests;
