//! What people said and what they said it with: conversations and paired devices of the old program. Each transcript is
//! sealed line by line under a key that the vault makes for it, and is closed from the start: it can be read, and the agent
//! begins anew. Files of the old program are read and never changed.

use super::{named, read};
use crate::CliError;
use crate::door::{Door, unexpected};
use crate::secrets::{self, ask};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::auth::{LoginVerb, Scopes};
use proto::bounded::BoundedStr;
use proto::ids::SessionKey;
use proto::transcripts::{TranscriptId, TranscriptVerb};
use proto::vault::{VaultAnswer, VaultVerb};
use rustix::fs::{Gid, Uid, fchown};
use serde_json::Value;
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use transcript::{Key, NONCE, seal};

/// Longest line of a transcript that comes along; ours have none that is longer.
const MAX_LINE: usize = 1 << 20;

/// A conversation of the old program.
#[derive(Debug)]
pub struct Conversation {
    /// As ours is called.
    pub session: String,
    /// Its transcript, whose name stays.
    pub id: TranscriptId,
    /// The file that holds it.
    pub file: PathBuf,
    /// Messages in it.
    pub messages: usize,
}

/// A device that was paired with the old program.
#[derive(Debug)]
pub struct OldDevice {
    /// A name for it.
    pub name: String,
    /// What it was allowed, as far as there is such a thing here.
    pub scopes: Scopes,
    public_key: [u8; 32],
}

/// Every conversation whose transcript can be read, and a line for each that cannot.
pub fn conversations(from: &Path, left: &mut Vec<String>) -> Vec<Conversation> {
    let mut all = Vec::new();
    for agent in named(&from.join("agents"), "") {
        let name = agent.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let index: Value = read(&agent.join("sessions/sessions.json"))
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        for file in named(&agent.join("sessions"), ".jsonl") {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let Some(id) = TranscriptId::parse(&stem) else {
                left.push(format!("{}: not named as a transcript is", file.display()));
                continue;
            };
            match messages(&file, |_| Ok(())) {
                Ok(messages) => {
                    let session = session(&index, &name, &stem);
                    all.push(Conversation { session, id, file, messages });
                }
                Err(error) => left.push(format!("{}: {error}", file.display())),
            }
        }
    }
    all
}

/// The name that the index has for a transcript; one that was reset long ago is in none.
fn session(index: &Value, agent: &str, stem: &str) -> String {
    let entries = index.as_object().into_iter().flatten();
    let mut named = entries.filter(|(_, entry)| entry.get("sessionId").and_then(Value::as_str) == Some(stem));
    let key = named.next().map_or("archive", |(key, _)| key);
    let whole = if key.starts_with("agent:") { key.to_owned() } else { format!("agent:{agent}:{key}") };
    let plain: String = whole.chars().map(|c| if c.is_ascii_graphic() { c } else { '-' }).collect();
    plain.chars().take(128).collect()
}

/// Hands each message of a transcript to `take`; returns how many there are.
fn messages(file: &Path, mut take: impl FnMut(&Value) -> Result<(), CliError>) -> Result<usize, CliError> {
    let mut count = 0usize;
    for line in std::io::BufReader::new(std::fs::File::open(file)?).split(b'\n') {
        let line = line?;
        // One that a crash cut is no message there either.
        let Ok(entry) = serde_json::from_slice::<Value>(&line) else { continue };
        if entry.get("type").and_then(Value::as_str) != Some("message") || line.len() > MAX_LINE {
            continue;
        }
        if let Some(message) = entry.get("message") {
            take(message)?;
            count = count.saturating_add(1);
        }
    }
    Ok(count)
}

/// Seals one into `sessions/`. False where it is there already.
///
/// # Errors
/// [`CliError`].
pub fn take_over(dir: &Path, door: &mut Door, conversation: &Conversation) -> Result<bool, CliError> {
    let (id, session) = (conversation.id, SessionKey(BoundedStr::truncated(&conversation.session)));
    let key = match ask(door, VaultVerb::Transcripts(TranscriptVerb::Import { session, id })) {
        Ok(VaultAnswer::Transcript(key)) => Key::new(key.expose()).ok_or_else(unexpected)?,
        Ok(_) => return Err(unexpected()),
        Err(CliError::Refused(refusal)) if refusal.rule.as_str() == "transcript.exists" => return Ok(false),
        Err(error) => return Err(error),
    };
    let sessions = dir.join("sessions");
    let path = sessions.join(format!("{id}.sealed"));
    let failed = |error: std::io::Error| CliError::Failed(format!("{}: {error}", path.display()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let owner = std::fs::metadata(&sessions).map_err(failed)?;
    // As root: the directory is gateway's, and so is what lies in it.
    fchown(&file, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))
        .map_err(|errno| failed(errno.into()))?;
    let mut number = 0u64;
    messages(&conversation.file, |message| {
        let mut nonce = [0u8; NONCE];
        // Up to 256 bytes come whole.
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty()).map_err(CliError::failed)?;
        let line = seal(&key, &id.0, number, nonce, message.to_string().as_bytes()).ok_or_else(unexpected)?;
        number = number.saturating_add(1);
        writeln!(file, "{line}").map_err(failed)
    })?;
    file.sync_all().map_err(failed)?;
    Ok(true)
}

/// `devices/paired.json`. Their tokens stay behind: a device here proves its key.
///
/// # Errors
/// [`CliError`] where the file is none.
pub fn devices(from: &Path, left: &mut Vec<String>) -> Result<Vec<OldDevice>, CliError> {
    let file = from.join("devices/paired.json");
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let wrong = |error: &dyn std::fmt::Display| CliError::Failed(format!("{}: {error}", file.display()));
    let store: Value = serde_json::from_str(&read(&file)?).map_err(|error| wrong(&error))?;
    let mut all = Vec::new();
    for (id, entry) in store.as_object().into_iter().flatten() {
        let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
        let key = URL_SAFE_NO_PAD.decode(text("publicKey")).ok().and_then(|key| <[u8; 32]>::try_from(key).ok());
        let names = entry.get("scopes").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let scopes = Scopes::of(names);
        match key {
            Some(public_key) if !scopes.is_empty() => {
                let name = [text("displayName"), text("clientId")].into_iter().find(|name| !name.is_empty());
                all.push(OldDevice { name: name.unwrap_or("migrated").to_owned(), scopes, public_key });
            }
            Some(_) => left.push(format!("device {id}: it may do nothing that there is here")),
            None => left.push(format!("device {id}: it has no Ed25519 key")),
        }
    }
    Ok(all)
}

/// Pairs one. False where it is known already: what was revoked here stays so.
///
/// # Errors
/// [`CliError`].
pub fn admit(door: &mut Door, device: &OldDevice) -> Result<bool, CliError> {
    let name = BoundedStr::truncated(&device.name);
    let verb = LoginVerb::AdmitDevice { public_key: device.public_key, name, scopes: device.scopes };
    match secrets::ask(door, VaultVerb::Login(verb)) {
        Ok(_) => Ok(true),
        Err(CliError::Refused(refusal)) if refusal.rule.as_str() == "auth.device_known" => Ok(false),
        Err(error) => Err(error),
    }
}
