//! Keys of transcripts, asked of the vault: for a conversation when it is first spoken in, and for a new one. What the vault
//! does not give stays sealed, and the conversation begins anew where the vault says that its transcript is closed or gone.

use crate::frames::Failure;
use crate::sessions::plain::Plain;
use crate::sessions::{Session, SessionError, uuid};
use crate::state::{Gateway, log};
use proto::bounded::BoundedStr;
use proto::channel::CallError;
use proto::ids::SessionKey;
use proto::transcripts::{TranscriptId, TranscriptKey, TranscriptRequest};
use proto::vault::{VaultReply, VaultRequest};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use transcript::Key;

/// How long the vault may take.
const VAULT_WAIT: Duration = Duration::from_secs(10);
/// Pause before a vault that does not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Rules that say that the transcript will not be opened.
const OVER: [&str; 3] = ["transcript.closed", "transcript.unknown", "transcript.foreign"];

/// Why a conversation cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    /// The vault gives no key.
    #[error("vault: {0}")]
    Vault(#[from] CallError),
    /// The vault answered something else.
    #[error("vault: an answer to another question")]
    Answer,
    /// Its files.
    #[error("sessions: {0}")]
    Session(#[from] SessionError),
}

impl TranscriptError {
    fn is(&self, rules: &[&str]) -> bool {
        matches!(self, Self::Vault(CallError::Refused(refusal)) if rules.contains(&refusal.rule.as_str()))
    }
}

impl From<TranscriptError> for Failure {
    fn from(error: TranscriptError) -> Self {
        let cause = std::error::Error::source(&error).and_then(std::error::Error::source);
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        let failure = Self::unavailable(format!("{error}{cause}"));
        match &error {
            TranscriptError::Vault(CallError::Refused(refusal)) => failure.by(refusal),
            _ => failure,
        }
    }
}

async fn ask(gateway: &Gateway, request: TranscriptRequest) -> Result<Key, TranscriptError> {
    match gateway.vault.call(&VaultRequest::Transcript(request), VAULT_WAIT).await? {
        VaultReply::Transcript(key) => key_of(&key),
        _ => Err(TranscriptError::Answer),
    }
}

fn key_of(key: &TranscriptKey) -> Result<Key, TranscriptError> {
    Key::new(key.expose()).ok_or(TranscriptError::Answer)
}

fn named(session: &str, id: &str) -> Result<(SessionKey, TranscriptId), TranscriptError> {
    let id = TranscriptId::parse(id).ok_or(SessionError::BadKey("must have an id"))?;
    Ok((SessionKey(BoundedStr::truncated(session)), id))
}

/// Sees to it that what is said in the conversation can be written down and read.
///
/// # Errors
/// [`TranscriptError`].
pub async fn open(gateway: &Gateway, session: &str) -> Result<(), TranscriptError> {
    if gateway.sessions().is_open(session) {
        return Ok(());
    }
    let _turn = gateway.opening.lock().await;
    if gateway.sessions().is_open(session) {
        return Ok(());
    }
    let id = gateway.sessions().get(session).map(|session| session.id.clone());
    let Some(id) = id else { return begin(gateway, session).await.map(drop) };
    let (key, transcript) = named(session, &id)?;
    match ask(gateway, TranscriptRequest::Open { session: key, id: transcript }).await {
        Ok(key) => {
            let known = wrote(gateway, transcript, 0).await?;
            Ok(gateway.sessions().unlock(session, key, known)?)
        }
        Err(error) if error.is(&OVER) => {
            log(&format!("sessions: {session} begins anew: {error}"));
            begin(gateway, session).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Tells the vault how many lines a transcript has; the most that it was ever told.
async fn wrote(gateway: &Gateway, id: TranscriptId, lines: u64) -> Result<u64, TranscriptError> {
    let request = VaultRequest::Transcript(TranscriptRequest::Wrote { id, lines });
    match gateway.vault.call(&request, VAULT_WAIT).await? {
        VaultReply::Lines(known) => Ok(known),
        _ => Err(TranscriptError::Answer),
    }
}

/// Tells the vault of what is written, for as long as gateway runs. Nobody waits for it; what could not be told is told with
/// the next line.
pub async fn count(gateway: Arc<Gateway>) {
    let written = gateway.sessions().written();
    loop {
        written.notified().await;
        let untold = gateway.sessions().take_untold();
        for (id, lines) in untold {
            // A transcript whose key was destroyed meanwhile is counted no more.
            let _ = wrote(&gateway, TranscriptId(id), lines).await;
        }
    }
}

/// A new transcript for the conversation; the one before is closed.
///
/// # Errors
/// [`TranscriptError`]; then the one before goes on.
pub async fn renew(gateway: &Gateway, session: &str) -> Result<Session, TranscriptError> {
    let _turn = gateway.opening.lock().await;
    begin(gateway, session).await
}

async fn begin(gateway: &Gateway, session: &str) -> Result<Session, TranscriptError> {
    gateway.sessions().room(session)?;
    let id = uuid();
    let (key, transcript) = named(session, &id)?;
    let key = ask(gateway, TranscriptRequest::Make { session: key, id: transcript }).await?;
    Ok(gateway.sessions().begin(session, &id, key)?)
}

/// Closes the conversation's transcript and forgets it here. True where there was one.
///
/// # Errors
/// [`TranscriptError`]; then it goes on.
pub async fn forget(gateway: &Gateway, session: &str) -> Result<Option<String>, TranscriptError> {
    let _turn = gateway.opening.lock().await;
    let id = gateway.sessions().get(session).map(|session| session.id.clone());
    let Some(id) = id else { return Ok(None) };
    let (_, transcript) = named(session, &id)?;
    let request = VaultRequest::Transcript(TranscriptRequest::Close { id: transcript });
    match gateway.vault.call(&request, VAULT_WAIT).await? {
        VaultReply::Accepted => {}
        _ => return Err(TranscriptError::Answer),
    }
    gateway.sessions().forget(session)?;
    Ok(Some(id))
}

/// Seals what an earlier version left in clear; how many of them are sealed now that were not.
pub async fn seal_all(gateway: &Gateway, ids: &[String]) -> usize {
    let named = match gateway.sessions().name_plain(ids) {
        Ok(named) => named,
        Err(error) => {
            log(&format!("sessions: plain transcripts are not sealed: {error}"));
            return 0;
        }
    };
    let mut sealed = 0;
    for plain in &named {
        match seal(gateway, plain).await {
            Ok(()) => sealed += 1,
            Err(error) => log(&format!("sessions: the transcript {} stays in clear: {error}", plain.id)),
        }
    }
    sealed
}

async fn seal(gateway: &Gateway, plain: &Plain) -> Result<(), TranscriptError> {
    let key = loop {
        match plain_key(gateway, plain).await {
            // A vault that is locked, or was not compared with the log yet, is one to wait for: nobody is let in before.
            Err(error) if !error.is(&OVER) && !error.is(&["transcript.full", "transcript.session"]) => {
                log(&format!("sessions: plain transcripts wait for the vault: {error}"));
                sleep(PAUSE).await;
            }
            other => break other?,
        }
    };
    while !gateway.sessions().seal_plain(plain, &key)? {
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The key of a transcript that was plain: a new one, or that of an attempt before.
async fn plain_key(gateway: &Gateway, plain: &Plain) -> Result<Key, TranscriptError> {
    let (session, id) = named(&plain.session, &plain.id)?;
    match ask(gateway, TranscriptRequest::Make { session: session.clone(), id }).await {
        Err(error) if error.is(&["transcript.exists"]) => ask(gateway, TranscriptRequest::Open { session, id }).await,
        other => other,
    }
}
