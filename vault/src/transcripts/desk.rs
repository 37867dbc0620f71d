//! What gateway asks about transcripts and what the operator says of them: decided, recorded, made durable, answered, in this
//! order.

use super::{Begins, TranscriptError};
use crate::audit::Log;
use crate::auth::{AskError, recorded};
use crate::cipher::Key;
use crate::lend::{Desk, secret_record};
use crate::state::{ChangeError, unix_now};
use crate::verbs::{changed, refuse};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::ids::SessionKey;
use proto::transcripts::{TranscriptId, TranscriptKey, TranscriptRequest, TranscriptRow, TranscriptVerb};
use proto::vault::{VaultAnswer, VaultReply};

/// Rows of one page.
const PAGE: usize = 64;

fn denied(error: TranscriptError) -> AskError {
    refuse(error.rule(), &error.to_string())
}

fn given(key: &Key) -> TranscriptKey {
    TranscriptKey::new(*key.expose())
}

impl<L: Log> Desk<'_, L> {
    /// Answers gateway at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn on_transcript(&mut self, request: &TranscriptRequest, now: u64) -> Result<VaultReply, AskError> {
        // A word with each message: no record, and seldom a write.
        if let TranscriptRequest::Wrote { id, lines } = request {
            let known = self.state.wrote(&id.0, *lines).map_err(|error| changed(error.into()))?;
            return known.map(VaultReply::Lines).ok_or_else(|| denied(TranscriptError::Unknown));
        }
        let (said, id, session) = match request {
            TranscriptRequest::Make { session, id } => ("transcript.make", id, session.0.as_str()),
            TranscriptRequest::Open { session, id } => ("transcript.open", id, session.0.as_str()),
            TranscriptRequest::Close { id } | TranscriptRequest::Wrote { id, .. } => ("transcript.close", id, ""),
        };
        let transcripts = &self.state.contents().transcripts;
        let allowed = match request {
            TranscriptRequest::Make { .. } => transcripts.check_new(session, &id.0),
            TranscriptRequest::Open { .. } => transcripts.check_open(session, &id.0),
            TranscriptRequest::Close { .. } | TranscriptRequest::Wrote { .. } => Ok(()),
        };
        let detail = allowed.map_or_else(|error| format!("{}: {session}", error.rule()), |()| session.to_owned());
        let record = secret_record(&id.to_string(), said, "gateway", allowed.is_ok(), &detail);
        recorded(self.log, record, "the transcript")?;
        allowed.map_err(denied)?;
        match request {
            TranscriptRequest::Make { .. } => {
                let key = self.state.make_transcript(id.0, session, Begins::Open, now).map_err(changed)?;
                Ok(VaultReply::Transcript(given(&key)))
            }
            TranscriptRequest::Open { .. } => self.transcript_key(*id).map(VaultReply::Transcript),
            TranscriptRequest::Close { .. } | TranscriptRequest::Wrote { .. } => {
                self.state.change_transcripts(|transcripts| transcripts.close(&id.0)).map_err(changed)?;
                Ok(VaultReply::Accepted)
            }
        }
    }

    fn transcript_key(&self, id: TranscriptId) -> Result<TranscriptKey, AskError> {
        let contents = self.state.contents();
        match contents.transcripts.key(&contents.ring, &id.0) {
            Ok(Some(key)) => Ok(given(&key)),
            Ok(None) => Err(denied(TranscriptError::Unknown)),
            Err(error) => Err(changed(ChangeError::Envelope(error))),
        }
    }

    /// Carries out what the operator of this uid asks.
    ///
    /// # Errors
    /// [`AskError`]; where it is a refusal, nothing has changed.
    pub fn on_transcript_verb(&mut self, uid: u32, verb: &TranscriptVerb) -> Result<VaultAnswer, AskError> {
        let id = match verb {
            TranscriptVerb::List { .. } => None,
            TranscriptVerb::Import { session, id } => return self.import(uid, session, *id, unix_now()),
            TranscriptVerb::Reveal { id } | TranscriptVerb::Destroy { id } => Some(*id),
        };
        let entries = &self.state.contents().transcripts;
        let session =
            id.map(|id| entries.iter().find(|(found, _)| **found == id.0).map(|(_, entry)| entry.session.clone()));
        let (name, who) = (id.map(|id| id.to_string()).unwrap_or_default(), format!("operator:{uid}"));
        let unknown = session == Some(None);
        let detail = session.flatten().unwrap_or_else(|| if unknown { "transcript.unknown" } else { "" }.to_owned());
        recorded(self.log, secret_record(&name, verb.name(), &who, !unknown, &detail), "the verb")?;
        match verb {
            TranscriptVerb::List { after } => Ok(VaultAnswer::Transcripts(self.transcript_page(*after))),
            TranscriptVerb::Import { .. } => Err(denied(TranscriptError::Unknown)),
            TranscriptVerb::Reveal { id } => self.transcript_key(*id).map(VaultAnswer::Transcript),
            TranscriptVerb::Destroy { .. } if unknown => Err(denied(TranscriptError::Unknown)),
            TranscriptVerb::Destroy { id } => {
                let done = self.state.change_transcripts(|transcripts| transcripts.remove(&id.0)).map_err(changed);
                if let Err(AskError::Refused(refusal)) = &done {
                    recorded(self.log, secret_record(&name, verb.name(), &who, false, &refusal.rule), "the failure")?;
                }
                done.map(|was| VaultAnswer::Done(u64::from(was)))
            }
        }
    }

    fn import(&mut self, uid: u32, session: &SessionKey, id: TranscriptId, now: u64) -> Result<VaultAnswer, AskError> {
        let allowed = self.state.contents().transcripts.check_new(&session.0, &id.0);
        let detail = allowed.map_or_else(|error| error.rule().to_owned(), |()| session.0.to_string());
        let who = format!("operator:{uid}");
        let record = secret_record(&id.to_string(), "sessions.import", &who, allowed.is_ok(), &detail);
        recorded(self.log, record, "the verb")?;
        allowed.map_err(denied)?;
        let key = self.state.make_transcript(id.0, &session.0, Begins::Closed, now).map_err(changed)?;
        Ok(VaultAnswer::Transcript(given(&key)))
    }

    fn transcript_page(&self, after: Option<TranscriptId>) -> BoundedVec<TranscriptRow, 64> {
        let entries = self.state.contents().transcripts.iter();
        let rows = entries.filter(|(id, _)| after.is_none_or(|after| **id > after.0)).take(PAGE);
        let rows = rows.map(|(id, entry)| TranscriptRow {
            id: TranscriptId(*id),
            session: SessionKey(BoundedStr::truncated(&entry.session)),
            created: entry.created,
            open: entry.open,
            lines: entry.lines,
        });
        BoundedVec::new(rows.collect::<Vec<_>>()).unwrap_or_default()
    }
}
