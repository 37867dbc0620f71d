//! Conversations on disk, beneath the one directory the gateway holds: an index that says which transcript belongs to
//! which key, and one transcript a session, both JSON lines that are only ever appended to.
//!
//! The files are hostile too: an earlier self that had fallen may have written them, and a crash may have cut the last
//! line. A line that does not parse is skipped and said; names of files are ids made here, never a client's text.
//! Nothing here is secret from the gateway, and nothing is protected against it but removal and truncation.

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::{Errno, pread, write};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

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

/// Brings a client's session key into its one form: `main` is `agent:main:main`, `x` is `agent:main:x`.
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
        key if key.starts_with("agent:main:") && key.len() > "agent:main:".len() => key.to_owned(),
        key if key.starts_with("agent:") => return Err(SessionError::BadKey("must name the agent main")),
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

/// All conversations.
#[derive(Debug)]
pub struct Store {
    directory: OwnedFd,
    sessions: BTreeMap<String, Session>,
}

impl Store {
    /// Reads the index beneath `directory`.
    ///
    /// # Errors
    /// [`SessionError::File`].
    pub fn open(directory: OwnedFd) -> Result<Self, SessionError> {
        let mut store = Self { directory, sessions: BTreeMap::new() };
        let (lines, skipped) = store.lines(INDEX, MAX_INDEX)?;
        for line in lines {
            let text = |name| line.get(name).and_then(Value::as_str);
            let (Some(key), Some(id)) = (text("key"), text("sessionId")) else { continue };
            if normalise(key).is_ok_and(|same| same == key) && is_id(id) && store.sessions.len() < MAX_SESSIONS {
                store.sessions.insert(key.to_owned(), Session { id: id.to_owned(), updated_at: 0 });
            }
        }
        report(INDEX, skipped);
        let ids: Vec<_> = store.sessions.iter().map(|(key, session)| (key.clone(), file_name(&session.id))).collect();
        for (key, file) in ids {
            let updated = store.modified(&file);
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

    /// Gives `key` a new, empty session. The old transcript stays under its id.
    ///
    /// # Errors
    /// [`SessionError::TooMany`], [`SessionError::Full`], [`SessionError::File`].
    pub fn reset(&mut self, key: &str) -> Result<Session, SessionError> {
        if !self.sessions.contains_key(key) && self.sessions.len() >= MAX_SESSIONS {
            return Err(SessionError::TooMany);
        }
        let session = Session { id: uuid(), updated_at: now_ms() };
        self.append(INDEX, &json!({"key": key, "sessionId": session.id, "createdAt": session.updated_at}))?;
        self.sessions.insert(key.to_owned(), session.clone());
        Ok(session)
    }

    /// Adds a message to the session of `key`, which begins if it has not.
    ///
    /// # Errors
    /// [`SessionError::TooMany`], [`SessionError::Full`], [`SessionError::File`].
    pub fn record(&mut self, key: &str, role: &str, text: &str) -> Result<Value, SessionError> {
        let id = match self.sessions.get(key) {
            Some(session) => session.id.clone(),
            None => self.reset(key)?.id,
        };
        let at = now_ms();
        let message = json!({"role": role, "content": [{"type": "text", "text": text}], "timestamp": at});
        self.append(&file_name(&id), &message)?;
        if let Some(session) = self.sessions.get_mut(key) {
            session.updated_at = at;
        }
        Ok(message)
    }

    /// The last messages of `key`, oldest first: at most `limit`, and none from before the file's last MiB.
    ///
    /// # Errors
    /// [`SessionError::File`].
    pub fn history(&self, key: &str, limit: usize) -> Result<Vec<Value>, SessionError> {
        let Some(session) = self.sessions.get(key) else { return Ok(Vec::new()) };
        let file = file_name(&session.id);
        let (mut messages, skipped) = self.lines(&file, MAX_TAIL)?;
        report(&file, skipped);
        messages.retain(Value::is_object);
        Ok(messages.split_off(messages.len().saturating_sub(limit)))
    }

    fn modified(&self, file: &str) -> u64 {
        let stat = openat(&self.directory, file, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| fstat(&fd));
        stat.ok().and_then(|stat| u64::try_from(stat.st_mtime).ok()).unwrap_or_default().saturating_mul(1000)
    }

    /// The values on the lines of the last `cap` bytes of `file`, and how many lines were none.
    fn lines(&self, file: &str, cap: u64) -> Result<(Vec<Value>, usize), SessionError> {
        let failed = |errno| SessionError::File { what: "read", file: file.to_owned(), errno };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match openat(&self.directory, file, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok((Vec::new(), 0)),
            Err(errno) => return Err(failed(errno)),
        };
        let size = u64::try_from(fstat(&fd).map_err(failed)?.st_size).unwrap_or_default();
        let mut at = size.saturating_sub(cap);
        let cut_head = at > 0;
        let mut bytes = Vec::new();
        let mut block = vec![0u8; 65_536];
        while at < size {
            let read = pread(&fd, &mut block, at).map_err(failed)?;
            if read == 0 {
                break;
            }
            bytes.extend_from_slice(block.get(..read).unwrap_or_default());
            at = at.saturating_add(u64::try_from(read).unwrap_or_default());
        }
        let mut skipped = 0;
        let values = bytes
            .split(|byte| *byte == b'\n')
            .skip(usize::from(cut_head))
            .filter(|line| !line.is_empty())
            .filter_map(|line| serde_json::from_slice(line).inspect_err(|_| skipped += 1).ok())
            .collect();
        Ok((values, skipped))
    }

    /// Appends one line by one write. Where a crash cut the line before, that one is closed first.
    fn append(&self, file: &str, line: &Value) -> Result<(), SessionError> {
        let failed = |errno| SessionError::File { what: "append to", file: file.to_owned(), errno };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.directory, file, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let size = u64::try_from(fstat(&fd).map_err(failed)?.st_size).unwrap_or_default();
        let mut last = [b'\n'];
        if size > 0 {
            pread(&fd, &mut last, size.saturating_sub(1)).map_err(failed)?;
        }
        let torn = if last == [b'\n'] { "" } else { "\n" };
        let text = format!("{torn}{line}\n");
        let cap = if file == INDEX { MAX_INDEX } else { MAX_TRANSCRIPT };
        if size.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX)) > cap {
            return Err(SessionError::Full(file.to_owned()));
        }
        match write(&fd, text.as_bytes()).map_err(failed)? {
            written if written == text.len() => Ok(()),
            _ => Err(failed(Errno::NOSPC)),
        }
    }
}

fn file_name(id: &str) -> String {
    format!("{id}.jsonl")
}

fn is_id(id: &str) -> bool {
    id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn report(file: &str, skipped: usize) {
    if skipped > 0 {
        crate::state::log(&format!("sessions: {skipped} lines of {file} are damaged and were skipped"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(std::fs::File::open(dir).unwrap().into()).unwrap()
    }

    #[test]
    fn store_reopened_has_what_was_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = store(dir.path());
        first.record(MAIN_KEY, "user", "hello").unwrap();
        first.record(MAIN_KEY, "assistant", "hi\nthere").unwrap();
        let id = first.get(MAIN_KEY).unwrap().id.clone();
        let again = store(dir.path());
        assert_eq!(again.get(MAIN_KEY).unwrap().id, id);
        let history = again.history(MAIN_KEY, 10).unwrap();
        assert_eq!(history[1]["content"][0]["text"], "hi\nthere");
        assert_eq!(again.history(MAIN_KEY, 1).unwrap().len(), 1);
        let mode = std::fs::metadata(dir.path().join(file_name(&id))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn store_torn_last_line_is_skipped_and_the_next_one_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = store(dir.path());
        first.record(MAIN_KEY, "user", "one").unwrap();
        let file = dir.path().join(file_name(&first.get(MAIN_KEY).unwrap().id));
        std::fs::OpenOptions::new().append(true).open(file).unwrap().write_all(b"{\"role\":\"us").unwrap();
        let mut again = store(dir.path());
        assert_eq!(again.history(MAIN_KEY, 10).unwrap().len(), 1);
        again.record(MAIN_KEY, "user", "two").unwrap();
        let history = again.history(MAIN_KEY, 10).unwrap();
        assert_eq!(history.len(), 2);
        assert_eq!(history[1]["content"][0]["text"], "two");
    }

    #[test]
    fn store_reset_gives_a_new_transcript_and_keeps_the_old() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        store.record(MAIN_KEY, "user", "one").unwrap();
        let old = store.get(MAIN_KEY).unwrap().id.clone();
        let new = store.reset(MAIN_KEY).unwrap();
        assert_ne!(new.id, old);
        assert!(store.history(MAIN_KEY, 10).unwrap().is_empty());
        assert!(dir.path().join(file_name(&old)).exists());
    }

    #[test]
    fn store_full_transcript_takes_no_more_and_a_new_one_does() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = store(dir.path());
        store.record(MAIN_KEY, "user", "one").unwrap();
        let file = dir.path().join(file_name(&store.get(MAIN_KEY).unwrap().id));
        std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(MAX_TRANSCRIPT).unwrap();
        assert!(matches!(store.record(MAIN_KEY, "user", "two"), Err(SessionError::Full(_))));
        store.reset(MAIN_KEY).unwrap();
        store.record(MAIN_KEY, "user", "two").unwrap();
    }

    #[test]
    fn store_index_that_names_a_path_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let evil = "{\"key\":\"agent:main:main\",\"sessionId\":\"../../../../../../../../../etc/passwd\"}\n";
        let good = "{\"key\":\"agent:main:x\",\"sessionId\":\"00000000-0000-4000-8000-000000000000\"}\n";
        std::fs::write(dir.path().join(INDEX), format!("{evil}{good}")).unwrap();
        let store = store(dir.path());
        assert!(store.get(MAIN_KEY).is_none());
        assert!(store.get("agent:main:x").is_some());
    }

    #[test]
    fn normalise_has_one_form_for_a_key() {
        assert_eq!(normalise("main").unwrap(), MAIN_KEY);
        assert_eq!(normalise(MAIN_KEY).unwrap(), MAIN_KEY);
        assert_eq!(normalise("work").unwrap(), "agent:main:work");
        for bad in ["", "a b", "../x", "a\u{0}", "agent:other:main", "agent:main:", "é"] {
            assert!(normalise(bad).is_err(), "{bad}");
        }
        assert!(normalise(&"k".repeat(117)).is_ok());
        assert!(normalise(&"k".repeat(118)).is_err());
    }

    #[test]
    fn uuid_has_version_and_variant_and_differs() {
        let id = uuid();
        assert!(is_id(&id));
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_ne!(id, uuid());
    }
}
