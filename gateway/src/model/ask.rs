//! One question to one model, through egress. What comes back is put together event by event; what goes wrong is a sentence
//! for a person, and whether asking again could help.

use crate::model::catalogue::{Api, Cost, Model};
use crate::model::reply::{Reply, ReplyError, words};
use crate::model::sse::Sse;
use crate::state::Gateway;
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{CallError, Outgoing};
use proto::edge::{Chunk as _, GatewayEgress, Refusal};
use proto::egress::{EgressChunk, EgressRequest, HeaderField};
use proto::ids::SessionKey;
use proto::port::Stream;
use serde_json::Value;
use std::time::Duration;

/// Bytes of an answer that may be on their way.
const CREDIT: u32 = 256 * 1024;
/// How long a question waits for egress to be there.
pub(crate) const EGRESS_WAIT: Duration = Duration::from_secs(15);
/// Seconds that a provider may be silent: models think.
const PATIENCE_S: u16 = 300;
/// Bytes of an error's body that are looked at.
const MAX_ERROR: usize = 16 * 1024;
/// Longest pause that a provider can ask for.
const MAX_RETRY_AFTER: u64 = 30;

/// A question that was not answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// For a person, behind the model's name.
    pub why: String,
    /// True where the same question may be answered a little later.
    pub again: bool,
    /// How long the provider wants to be left alone.
    pub after: Option<Duration>,
    /// True where it did not take the key.
    pub key: bool,
}

impl Failure {
    pub(crate) fn lasting(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: false, after: None, key: false }
    }

    fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), again: true, after: None, key: false }
    }
}

pub(crate) fn refused(refusal: &Refusal) -> Failure {
    let why = format!("{} ({})", refusal.message.as_str(), refusal.rule.as_str());
    match refusal.rule.as_str() {
        "egress.cut" | "egress.stalled" | "dialer.connect" | "dialer.resolver" | "egress.peer" => Failure::passing(why),
        _ => Failure::lasting(why),
    }
}

impl From<ReplyError> for Failure {
    fn from(error: ReplyError) -> Self {
        match error {
            ReplyError::Said(_) => Self::passing(error.to_string()),
            _ => Self::lasting(error.to_string()),
        }
    }
}

/// A question under way. Dropped, it is taken back.
pub struct Asking {
    stream: Stream<GatewayEgress>,
    api: Api,
    sse: Sse,
    reply: Reply,
    cost: Cost,
    status: u16,
    after: Option<Duration>,
    is_stream: bool,
    error: Vec<u8>,
    /// What was said and not yet given out: so that nothing is lost where the caller stops waiting.
    text: String,
    owed: u32,
    over: bool,
}

impl Asking {
    /// Sends the question.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn begin(gateway: &Gateway, session: &str, model: &Model, body: Vec<u8>) -> Result<Self, Failure> {
        let long = |_| Failure::lasting("the configuration has a name for it that is too long");
        let field = |name: &str, value: &str| HeaderField {
            name: BoundedStr::truncated(name),
            value: BoundedStr::truncated(value),
        };
        let mut headers = vec![field("content-type", "application/json"), field("accept", "text/event-stream")];
        let path = match model.api {
            Api::Anthropic => {
                headers.push(field("anthropic-version", "2023-06-01"));
                "/v1/messages"
            }
            Api::OpenAi => "/chat/completions",
        };
        let request = EgressRequest::Http {
            session: SessionKey(BoundedStr::truncated(session)),
            credential: model.credential.as_ref().map(BoundedStr::new).transpose().map_err(long)?,
            host: BoundedStr::new(model.host.as_str()).map_err(long)?,
            port: model.port,
            method: BoundedStr::truncated("POST"),
            path: BoundedStr::new(format!("{}{path}", model.path)).map_err(long)?,
            headers: BoundedVec::new(headers).map_err(long)?,
            patience_s: PATIENCE_S,
            body: BoundedBytes::new(body).map_err(|_| Failure::lasting("the conversation is too long for it"))?,
        };
        let stream = gateway.egress.stream(&request, CREDIT, EGRESS_WAIT).await.map_err(|error| match error {
            CallError::Refused(refusal) => refused(&refusal),
            other => Failure::passing(format!("egress: {other}")),
        })?;
        Ok(Self {
            stream,
            api: model.api,
            sse: Sse::default(),
            reply: Reply::default(),
            cost: model.cost,
            status: 0,
            after: None,
            is_stream: false,
            error: Vec::new(),
            text: String::new(),
            owed: 0,
            over: false,
        })
    }

    /// The next text; none when the reply is whole. May be dropped and called again.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if !self.text.is_empty() {
                return Ok(Some(std::mem::take(&mut self.text)));
            }
            if self.over {
                return Ok(None);
            }
            if self.owed > 0 {
                let owed = self.owed;
                // Where egress is gone the stream ends by itself.
                let _ = self.stream.credit(owed).await;
                self.owed = 0;
            }
            match self.stream.next().await {
                Some(Outgoing::Chunk(chunk)) => {
                    self.owed = chunk.cost();
                    self.on_chunk(chunk)?;
                }
                Some(Outgoing::Reply(..)) => self.on_end()?,
                Some(Outgoing::Refused(refusal)) => return Err(refused(&refusal)),
                None => return Err(Failure::passing("egress ended before the answer did")),
            }
        }
    }

    /// How it ended, and what it cost.
    #[must_use]
    pub fn into_reply(mut self) -> Reply {
        let usage = &mut self.reply.usage;
        usage.nanodollars = self.cost.nanodollars(usage.input, usage.output);
        self.reply
    }

    fn on_chunk(&mut self, chunk: EgressChunk) -> Result<(), Failure> {
        match chunk {
            EgressChunk::Head { status, headers } => {
                let header = |name: &str| headers.iter().find(|field| field.name.as_str() == name);
                self.status = status;
                self.is_stream = header("content-type").is_some_and(|kind| kind.value.starts_with("text/event-stream"));
                let seconds = header("retry-after").and_then(|after| after.value.trim().parse::<u64>().ok());
                self.after = seconds.map(|seconds| Duration::from_secs(seconds.min(MAX_RETRY_AFTER)));
                Ok(())
            }
            EgressChunk::Body(bytes) if self.status == 200 && self.is_stream => {
                for event in self.sse.push(&bytes).map_err(|error| Failure::lasting(error.to_string()))? {
                    let said = match self.api {
                        Api::Anthropic => self.reply.on_anthropic(&event)?,
                        Api::OpenAi => self.reply.on_openai(&event)?,
                    };
                    self.text.push_str(&said);
                }
                Ok(())
            }
            EgressChunk::Body(bytes) => {
                let room = MAX_ERROR.saturating_sub(self.error.len()).min(bytes.len());
                self.error.extend_from_slice(bytes.get(..room).unwrap_or_default());
                Ok(())
            }
        }
    }

    fn on_end(&mut self) -> Result<(), Failure> {
        if self.status != 200 {
            return Err(self.status_failure());
        }
        if !self.is_stream {
            return Err(Failure::lasting("it answered with something else than a stream of events"));
        }
        if !self.reply.whole {
            return Err(Failure::passing("its answer ended before it was whole"));
        }
        self.over = true;
        Ok(())
    }

    fn status_failure(&self) -> Failure {
        let body: Value = serde_json::from_slice(&self.error).unwrap_or_default();
        let said = words(&body);
        let why = match self.status {
            401 | 403 => format!("it does not take the key ({}): {said}", self.status),
            429 => format!("it is asked too often (429): {said}"),
            status => format!("it answered {status}: {said}"),
        };
        let again = matches!(self.status, 408 | 409 | 425 | 429 | 500 | 502 | 503 | 504 | 529);
        Failure { why, again, after: self.after, key: self.status == 401 }
    }
}
