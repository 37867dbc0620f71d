//! Who may speak on which channel, decided purely: `(tables, question, now) -> (verdict, tables)`, no clock and no file.
//!
//! Channel, sender and name of a question come from gateway and are hostile. The most that a fallen gateway does here is to
//! have strangers wait for the operator's approval, three a channel and sixteen channels; no list grows by it. What the
//! tables do not know is whether the sender is who the channel's server says.

pub mod configured;
pub mod desk;
pub mod lists;
pub mod pending;

use configured::{Configured, narrower};
use lists::{Entry, Lists};
use pending::{Asked, Pending, Wrong};
use proto::bounded::BoundedStr;
use proto::senders::{ChannelId, PairingCode, SenderId, SenderMode, SenderRefusal, SenderVerb, Verdict};
use rustix::io::Errno;

/// Why a question or a verb is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SenderError {
    /// No channel is called that.
    #[error("a channel is 1 to 32 of a-z 0-9 . - and begins with a letter")]
    Channel,
    /// A sender's id cannot be that.
    #[error("a sender's id is 1 to 128 printable characters without spaces")]
    Sender,
    /// A name that its bearer can give up, and another take.
    #[error("{0} senders are numbers: a name can be given up and taken by another")]
    NotANumber(&'static str),
    /// Everybody.
    #[error("* would let everybody in; add the senders that may speak, one by one")]
    Wildcard,
    /// No request has the code.
    #[error("no request on this channel has this code; {left} more wrong ones void every code on it")]
    WrongCode {
        /// Tries until they are void.
        left: u8,
    },
    /// That was one too many.
    #[error(
        "no request on this channel has this code, and its codes are void now; senders get new ones when they write"
    )]
    Void,
    /// No request waits.
    #[error("no request waits on this channel; `moltbot pairing list` shows those that do")]
    NoRequest,
    /// It is not there.
    #[error("this sender is neither on the list nor waits; `moltbot allowlist list` shows who is")]
    NotThere,
    /// The configuration is narrower.
    #[error(
        "the configuration says {0} for this channel; change its dmPolicy in moltbot.json and `moltbot config apply`"
    )]
    Configured(&'static str),
    /// The configuration lists it.
    #[error("moltbot.json lists this sender in allowFrom; take it out there and `moltbot config apply`")]
    Listed,
    /// As many as there may be.
    #[error("there are {0} already")]
    Full(&'static str),
}

impl SenderError {
    /// The rule's name in refusals and records.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Channel => "senders.channel",
            Self::Sender => "senders.id",
            Self::NotANumber(_) => "senders.mutable_id",
            Self::Wildcard => "allowlist.wildcard",
            Self::WrongCode { .. } => "pairing.wrong_code",
            Self::Void => "pairing.void",
            Self::NoRequest => "pairing.no_request",
            Self::NotThere => "senders.not_there",
            Self::Configured(_) => "senders.configured",
            Self::Listed => "senders.listed_in_config",
            Self::Full(_) => "senders.full",
        }
    }
}

/// A channel and a sender in the one form that the tables have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The channel.
    pub channel: String,
    /// The sender.
    pub sender: String,
}

/// The channel's one form, if it is one.
///
/// # Errors
/// [`SenderError::Channel`].
pub fn channel(id: &ChannelId) -> Result<&str, SenderError> {
    let character = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    let name = id.0.as_str();
    let is_one = name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(character);
    if is_one { Ok(name) } else { Err(SenderError::Channel) }
}

impl Place {
    /// Brings an id into its one form: what stands before it for the reader's sake goes.
    ///
    /// # Errors
    /// [`SenderError`].
    pub fn new(id: &ChannelId, sender: &SenderId) -> Result<Self, SenderError> {
        let channel = channel(id)?;
        let kind = channel.split_once('.').map_or(channel, |(kind, _account)| kind);
        let mut rest = sender.0.as_str();
        let own = format!("{kind}:");
        for prefix in [own.as_str(), if kind == "telegram" { "tg:" } else { "user:" }] {
            rest = rest.strip_prefix(prefix).unwrap_or(rest);
        }
        if rest == "*" {
            return Err(SenderError::Wildcard);
        }
        if rest.is_empty() || !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SenderError::Sender);
        }
        for named in ["telegram", "discord"] {
            if kind == named && !rest.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(SenderError::NotANumber(named));
            }
        }
        Ok(Self { channel: channel.to_owned(), sender: rest.to_owned() })
    }
}

/// A name without what could steer a terminal or break a line.
fn plain(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    BoundedStr::<64>::truncated(&clean).to_string()
}

/// All that is known of senders.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Senders {
    /// Who waits.
    pub pending: Pending,
    /// Who is on the lists.
    pub lists: Lists,
}

/// What a verb came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// How many senders it concerned.
    Done(u32),
    /// The sender is on the list.
    Listed(Place, Entry),
}

impl Senders {
    /// May this sender speak? Where a stranger is to be paired, that is written down here.
    ///
    /// # Errors
    /// What the kernel says where it gives no random bytes.
    pub fn ask(
        &mut self,
        configured: &Configured,
        place: &Place,
        name: &str,
        now: u64,
        draw: impl FnMut() -> Result<PairingCode, Errno>,
    ) -> Result<Verdict, Errno> {
        let mode = narrower(self.lists.mode(&place.channel), configured.mode(&place.channel));
        if mode == SenderMode::Disabled {
            return Ok(Verdict::Refused(SenderRefusal::Disabled));
        }
        if self.lists.holds(place) || configured.lists(place) {
            return Ok(Verdict::Allowed);
        }
        if mode == SenderMode::Allowlist {
            return Ok(Verdict::Refused(SenderRefusal::NotListed));
        }
        Ok(match self.pending.ask(place, &plain(name), now, draw)? {
            Asked::Code { code, seconds, fresh } => Verdict::Pair { code, seconds, fresh },
            Asked::Full => Verdict::Refused(SenderRefusal::TooMany),
        })
    }

    /// Carries a verb out that changes something.
    ///
    /// # Errors
    /// [`SenderError`]; of those, wrong codes are counted all the same.
    pub fn change(&mut self, configured: &Configured, verb: &SenderVerb, now: u64) -> Result<Change, SenderError> {
        match verb {
            SenderVerb::Pending | SenderVerb::Channels | SenderVerb::Allowed { .. } => Ok(Change::Done(0)),
            SenderVerb::Approve { channel: id, code } => {
                let channel = channel(id)?.to_owned();
                configured.permits(&channel, SenderMode::Pairing)?;
                self.lists.room(&channel)?;
                let request = self.pending.approve(&channel, *code, now).map_err(|wrong| match wrong {
                    Wrong::NoRequest => SenderError::NoRequest,
                    Wrong::Left(left) => SenderError::WrongCode { left },
                    Wrong::Void => SenderError::Void,
                })?;
                let place = Place { channel, sender: request.sender };
                let entry = self.lists.add(&place, Entry { name: request.name, since: now, paired: true })?;
                Ok(Change::Listed(place, entry))
            }
            SenderVerb::Allow { channel, sender, name } => {
                let place = Place::new(channel, sender)?;
                let entry = self.lists.add(&place, Entry { name: plain(name), since: now, paired: false })?;
                self.pending.forget(&place);
                Ok(Change::Listed(place, entry))
            }
            SenderVerb::Revoke { channel, sender } | SenderVerb::Disallow { channel, sender } => {
                let place = Place::new(channel, sender)?;
                if configured.lists(&place) {
                    return Err(SenderError::Listed);
                }
                let listed = self.lists.remove(&place);
                // Whoever is taken off a list must not come back by a code that was given before.
                let waits = self.pending.forget(&place);
                if listed || waits { Ok(Change::Done(1)) } else { Err(SenderError::NotThere) }
            }
            SenderVerb::SetMode { channel: id, mode } => {
                let channel = channel(id)?;
                configured.permits(channel, *mode)?;
                self.lists.set_mode(channel, *mode)?;
                if *mode != SenderMode::Pairing {
                    self.pending.forget_all(channel);
                }
                Ok(Change::Done(1))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
