//! What the operator's configuration says of channels: who may write directly, and who is listed there. Broker hands it over
//! at the start, a line for each; it is the operator's own text, but it is checked as a stranger's would be.
//!
//! The store's lists and modes hold beside it, and the narrower of the two modes does: neither can open what the other closed.

use super::{Place, SenderError, channel};
use proto::bounded::BoundedStr;
use proto::senders::{ChannelId, SenderId, SenderMode};
use std::collections::{BTreeMap, BTreeSet};

/// The channel that stands for every one of which nothing is said.
const ANY: &str = "*";

/// A line that says nothing that is understood.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} says nothing of a channel")]
pub struct NotSaid(String);

/// What it says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Configured {
    /// What holds where nothing is said.
    other: SenderMode,
    modes: BTreeMap<String, SenderMode>,
    listed: BTreeSet<(String, String)>,
}

/// The channel of an account: `telegram` for `telegram.work`.
fn kind(channel: &str) -> &str {
    channel.split_once('.').map_or(channel, |(kind, _account)| kind)
}

/// How narrow it is.
const fn rank(mode: SenderMode) -> u8 {
    match mode {
        SenderMode::Pairing => 0,
        SenderMode::Allowlist => 1,
        SenderMode::Disabled => 2,
    }
}

/// The narrower of two modes.
#[must_use]
pub fn narrower(one: SenderMode, other: SenderMode) -> SenderMode {
    if rank(one) >= rank(other) { one } else { other }
}

impl Configured {
    /// Reads lines `CHANNEL mode MODE` and `CHANNEL allow SENDER`, of which `*` stands for every other channel.
    ///
    /// # Errors
    /// [`NotSaid`].
    pub fn read<'l>(lines: impl IntoIterator<Item = &'l str>) -> Result<Self, NotSaid> {
        let mut all = Self::default();
        for line in lines {
            let said = || NotSaid(line.to_owned());
            let mut words = line.splitn(3, ' ');
            let (Some(on), Some(what), Some(which)) = (words.next(), words.next(), words.next()) else {
                return Err(said());
            };
            let id = ChannelId(BoundedStr::new(on).map_err(|_| said())?);
            match what {
                "mode" => {
                    let mode = SenderMode::ALL.into_iter().find(|mode| mode.name() == which).ok_or_else(said)?;
                    if on == ANY {
                        all.other = mode;
                    } else {
                        all.modes.insert(channel(&id).map_err(|_| said())?.to_owned(), mode);
                    }
                }
                "allow" => {
                    let sender = SenderId(BoundedStr::new(which).map_err(|_| said())?);
                    match Place::new(&id, &sender) {
                        Ok(place) => drop(all.listed.insert((place.channel, place.sender))),
                        // The configuration's own rules name these; here they are nobody.
                        Err(SenderError::Wildcard | SenderError::NotANumber(_)) => {}
                        Err(_) => return Err(said()),
                    }
                }
                _ => return Err(said()),
            }
        }
        Ok(all)
    }

    /// Who may speak beside those on the list, as the configuration has it.
    #[must_use]
    pub fn mode(&self, channel: &str) -> SenderMode {
        self.modes.get(kind(channel)).copied().unwrap_or(self.other)
    }

    /// True where the sender is listed; one that is listed for a channel is listed for each account of it.
    #[must_use]
    pub fn lists(&self, place: &Place) -> bool {
        self.listed.contains(&(kind(&place.channel).to_owned(), place.sender.clone()))
    }

    /// Would the operator's word about a channel be of no effect?
    ///
    /// # Errors
    /// [`SenderError::Configured`].
    pub fn permits(&self, channel: &str, mode: SenderMode) -> Result<(), SenderError> {
        let own = self.mode(channel);
        if rank(mode) < rank(own) { Err(SenderError::Configured(own.name())) } else { Ok(()) }
    }

    /// Everybody who is listed, by channel and id.
    pub fn listed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.listed.iter().map(|(channel, sender)| (channel.as_str(), sender.as_str()))
    }

    /// Channels of which something is said.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        self.modes.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SenderMode::{Allowlist, Disabled, Pairing};

    fn place(channel: &str, sender: &str) -> Place {
        Place::new(&ChannelId(BoundedStr::truncated(channel)), &SenderId(BoundedStr::truncated(sender))).unwrap()
    }

    #[test]
    fn what_is_said_of_a_channel_holds_for_its_accounts_and_for_no_other() {
        let said =
            ["* mode allowlist", "telegram mode pairing", "telegram allow tg:5", "signal allow +44", "irc allow *"];
        let said = Configured::read(said).unwrap();
        assert_eq!(
            (said.mode("telegram"), said.mode("telegram.work"), said.mode("irc")),
            (Pairing, Pairing, Allowlist)
        );
        assert!(said.lists(&place("telegram", "5")) && said.lists(&place("telegram.work", "5")));
        assert!(said.lists(&place("signal", "+44")) && !said.lists(&place("telegram", "6")));
        assert_eq!(said.listed().count(), 2, "* is nobody");
    }

    #[test]
    fn narrower_mode_holds_and_a_wider_one_is_refused() {
        let all = [Pairing, Allowlist, Disabled];
        for (at, one) in all.into_iter().enumerate() {
            for (other_at, other) in all.into_iter().enumerate() {
                assert_eq!(narrower(one, other), all[at.max(other_at)]);
                let said = Configured { other: one, ..Configured::default() };
                assert_eq!(said.permits("x", other).is_ok(), other_at >= at);
            }
        }
    }

    #[test]
    fn line_that_is_not_understood_is_an_error_and_not_passed_over() {
        for line in ["", "telegram", "telegram mode", "telegram mode open", "telegram let 5", "Telegram mode pairing"] {
            assert_eq!(Configured::read([line]), Err(NotSaid(line.to_owned())));
        }
        assert_eq!(Configured::read([]).unwrap().mode("telegram"), Pairing, "the twin: nothing said is pairing");
    }
}
