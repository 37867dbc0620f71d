//! The question of gateway and the verbs of the operator about senders: decided on a copy, recorded, made durable, answered,
//! in this order. What cannot be recorded or stored has not happened.

use super::configured::narrower;
use super::{Change, Place, SenderError, Senders, pending::Pending};
use crate::audit::Log;
use crate::auth::{AskError, recorded};
use crate::entropy;
use crate::lend::Desk;
use crate::store::StoreError;
use crate::verbs::{changed, refuse};
use proto::audit::Record;
use proto::bounded::{BoundedStr, BoundedVec};
use proto::senders::{
    AllowedRow, ChannelId, ChannelRow, PairingCode, PendingRow, SenderAnswer, SenderId, SenderVerb, Verdict,
};
use proto::vault::VaultReply;
use std::collections::{BTreeMap, BTreeSet};

/// Rows of one page.
const PAGE: usize = 64;
/// Refused senders of which one record is made, in [`SILENCE`] seconds.
const TOLD: usize = 256;
const SILENCE: u64 = 900;

/// Whose refusal is in the log already: a stranger who writes a thousand times is one record.
#[derive(Debug, Default)]
pub struct Told {
    since: u64,
    places: BTreeSet<(String, String)>,
}

impl Told {
    /// True where this refusal is to be recorded.
    fn is_news(&mut self, place: &Place, now: u64) -> bool {
        if now.saturating_sub(self.since) >= SILENCE || now < self.since {
            *self = Self { since: now, places: BTreeSet::new() };
        }
        self.places.len() < TOLD && self.places.insert((place.channel.clone(), place.sender.clone()))
    }
}

fn record(place: (&str, &str), verb: &str, requester: &str, outcome: Result<&str, &str>) -> Record {
    let (granted, detail) = (outcome.is_ok(), outcome.unwrap_or_else(|rule| rule));
    Record::Sender {
        channel: BoundedStr::truncated(place.0),
        sender: BoundedStr::truncated(place.1),
        verb: BoundedStr::truncated(verb),
        requester: BoundedStr::truncated(requester),
        granted,
        detail: BoundedStr::truncated(detail),
    }
}

fn denied(error: &SenderError) -> AskError {
    refuse(error.rule(), &error.to_string())
}

fn row(place: (&str, &str), entry: &super::Entry) -> AllowedRow {
    AllowedRow {
        channel: ChannelId(BoundedStr::truncated(place.0)),
        sender: SenderId(BoundedStr::truncated(place.1)),
        name: BoundedStr::truncated(&entry.name),
        since: entry.since,
        paired: entry.paired,
    }
}

/// What the list shows of somebody whom the configuration lists.
fn from_configuration() -> super::Entry {
    super::Entry { name: "(moltbot.json)".to_owned(), since: 0, paired: false }
}

/// What a verb is about, as far as it says so.
fn place_of(verb: &SenderVerb) -> (&str, &str) {
    match verb {
        SenderVerb::Pending | SenderVerb::Channels | SenderVerb::Allowed { .. } => ("", ""),
        SenderVerb::Approve { channel, .. } | SenderVerb::SetMode { channel, .. } => (&channel.0, ""),
        SenderVerb::Revoke { channel, sender }
        | SenderVerb::Disallow { channel, sender }
        | SenderVerb::Allow { channel, sender, .. } => (&channel.0, &sender.0),
    }
}

impl<L: Log> Desk<'_, L> {
    /// Answers gateway at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`AskError`]: the sender may not speak.
    pub fn may_speak(
        &mut self,
        channel: &ChannelId,
        sender: &SenderId,
        name: &str,
        now: u64,
    ) -> Result<VaultReply, AskError> {
        let place = Place::new(channel, sender).map_err(|error| denied(&error))?;
        let mut next = self.state.contents().senders.clone();
        let draw = || {
            let mut random = [0; 8];
            entropy::fill(&mut random).map(|()| PairingCode::of(random))
        };
        let verdict = next
            .ask(self.state.configured(), &place, name, now, draw)
            .map_err(|errno| refuse("vault.random", &format!("getrandom: {errno}; no code is given")))?;
        let at = (place.channel.as_str(), place.sender.as_str());
        match verdict {
            Verdict::Pair { fresh: true, .. } => {
                recorded(self.log, record(at, "pairing.request", "gateway", Ok("")), "the request")?;
            }
            Verdict::Refused(refusal) if self.state.told().is_news(&place, now) => {
                recorded(self.log, record(at, "speak", "gateway", Err(refusal.name())), "the refusal")?;
            }
            Verdict::Allowed | Verdict::Pair { .. } | Verdict::Refused(_) => {}
        }
        // What was over is gone as well, and what a clock that was set back had left in the future is not.
        if next != self.state.contents().senders {
            self.commit(next)?;
        }
        Ok(VaultReply::Speak(verdict))
    }

    fn commit(&mut self, next: Senders) -> Result<(), AskError> {
        self.state.set_senders(next).map_err(|error: StoreError| changed(error.into()))
    }

    /// Carries out what the operator of this uid asks at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`AskError`]; where it is a refusal, nothing has changed but the count of wrong codes.
    pub fn on_sender_verb(&mut self, uid: u32, verb: &SenderVerb, now: u64) -> Result<SenderAnswer, AskError> {
        let who = format!("operator:{uid}");
        let mut next = self.state.contents().senders.clone();
        let outcome = next.change(self.state.configured(), verb, now);
        let place = match &outcome {
            Ok(Change::Listed(place, _)) => (place.channel.as_str(), place.sender.as_str()),
            _ => place_of(verb),
        };
        let said = match (&outcome, verb) {
            (Err(error), _) => Err(error.rule()),
            (Ok(_), SenderVerb::SetMode { mode, .. }) => Ok(mode.name()),
            (Ok(_), _) => Ok(""),
        };
        recorded(self.log, record(place, verb.name(), &who, said), "the verb")?;
        if next != self.state.contents().senders
            && let Err(error) = self.commit(next)
        {
            if let AskError::Refused(refusal) = &error {
                recorded(self.log, record(place, verb.name(), &who, Err(&refusal.rule)), "the failure")?;
            }
            return Err(error);
        }
        match outcome.map_err(|error| denied(&error))? {
            Change::Listed(place, entry) => {
                Ok(SenderAnswer::Listed(row((place.channel.as_str(), place.sender.as_str()), &entry)))
            }
            Change::Done(number) => Ok(self.rows(verb, now).unwrap_or(SenderAnswer::Done(number))),
        }
    }

    /// The answer of a verb that only looks.
    fn rows(&self, verb: &SenderVerb, now: u64) -> Option<SenderAnswer> {
        let configured = self.state.configured();
        let mut senders = self.state.contents().senders.clone();
        senders.pending.settle(now);
        Some(match verb {
            SenderVerb::Pending => {
                let rows = senders.pending.requests().map(|(channel, request)| PendingRow {
                    channel: ChannelId(BoundedStr::truncated(channel)),
                    sender: SenderId(BoundedStr::truncated(&request.sender)),
                    name: BoundedStr::truncated(&request.name),
                    code: request.code,
                    seconds: Pending::left(request, now),
                });
                SenderAnswer::Pending(BoundedVec::new(rows.take(PAGE).collect::<Vec<_>>()).unwrap_or_default())
            }
            SenderVerb::Allowed { after } => {
                let after = after.as_ref().map(|(channel, sender)| (channel.0.as_str(), sender.0.as_str()));
                // Who is listed in both places is shown as the store has it.
                let mut all: BTreeMap<_, _> =
                    configured.listed().map(|place| (place, row(place, &from_configuration()))).collect();
                all.extend(senders.lists.entries().map(|(on, sender, entry)| ((on, sender), row((on, sender), entry))));
                let rows = all.into_iter().filter(|(place, _)| after < Some(*place)).take(PAGE).map(|(_, row)| row);
                SenderAnswer::Allowed(BoundedVec::new(rows.collect::<Vec<_>>()).unwrap_or_default())
            }
            SenderVerb::Channels => {
                let mut rows: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
                rows.extend(configured.channels().map(|name| (name, (0, 0))));
                senders.lists.channels().for_each(|(name, _, allowed)| rows.entry(name).or_default().0 = allowed);
                configured.listed().for_each(|(name, _)| rows.entry(name).or_default().0 += 1);
                senders.pending.requests().for_each(|(name, _)| rows.entry(name).or_default().1 += 1);
                let rows = rows.into_iter().take(PAGE).map(|(name, (allowed, pending))| ChannelRow {
                    channel: ChannelId(BoundedStr::truncated(name)),
                    mode: narrower(senders.lists.mode(name), configured.mode(name)),
                    allowed: u32::try_from(allowed).unwrap_or(u32::MAX),
                    pending: u32::try_from(pending).unwrap_or(u32::MAX),
                });
                SenderAnswer::Channels(BoundedVec::new(rows.collect::<Vec<_>>()).unwrap_or_default())
            }
            _ => return None,
        })
    }
}
