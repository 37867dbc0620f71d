//! The list of each channel: who may speak, and whether strangers may ask to. A list that is empty, or is not there, lets
//! nobody speak.

use super::{Place, SenderError};
use crate::codec::{Reader, Writer};
use proto::senders::SenderMode;
use std::collections::BTreeMap;

/// Channels with a list or a mode at most.
pub const CHANNELS: usize = 32;
/// Senders on all lists together at most.
pub const ENTRIES: usize = 1024;

/// What is kept of somebody on a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// A name for the operator.
    pub name: String,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// True where a code was approved.
    pub paired: bool,
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct List {
    mode: SenderMode,
    entries: BTreeMap<String, Entry>,
}

/// Every channel's list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Lists {
    lists: BTreeMap<String, List>,
}

impl Lists {
    /// Who may speak beside those on the list.
    #[must_use]
    pub fn mode(&self, channel: &str) -> SenderMode {
        self.lists.get(channel).map_or(SenderMode::default(), |list| list.mode)
    }

    /// True where the sender is on the channel's list.
    #[must_use]
    pub fn holds(&self, place: &Place) -> bool {
        self.lists.get(&place.channel).is_some_and(|list| list.entries.contains_key(&place.sender))
    }

    /// Would this channel's list take another sender?
    ///
    /// # Errors
    /// [`SenderError::Full`].
    pub fn room(&self, channel: &str) -> Result<(), SenderError> {
        if self.entries().count() >= ENTRIES {
            return Err(SenderError::Full("1024 senders on the lists"));
        }
        self.room_for_list(channel)
    }

    fn room_for_list(&self, channel: &str) -> Result<(), SenderError> {
        if !self.lists.contains_key(channel) && self.lists.len() >= CHANNELS {
            return Err(SenderError::Full("32 channels"));
        }
        Ok(())
    }

    /// Puts a sender on the list; one that is there already stays as it is.
    ///
    /// # Errors
    /// [`SenderError::Full`].
    pub fn add(&mut self, place: &Place, entry: Entry) -> Result<Entry, SenderError> {
        if !self.holds(place) {
            self.room(&place.channel)?;
        }
        let list = self.lists.entry(place.channel.clone()).or_default();
        Ok(list.entries.entry(place.sender.clone()).or_insert(entry).clone())
    }

    /// Takes a sender off the list. True where it was there.
    pub fn remove(&mut self, place: &Place) -> bool {
        let Some(list) = self.lists.get_mut(&place.channel) else { return false };
        let was = list.entries.remove(&place.sender).is_some();
        self.lists.retain(|_, list| list.mode != SenderMode::default() || !list.entries.is_empty());
        was
    }

    /// Sets who may speak beside those on the list.
    ///
    /// # Errors
    /// [`SenderError::Full`].
    pub fn set_mode(&mut self, channel: &str, mode: SenderMode) -> Result<(), SenderError> {
        self.room_for_list(channel)?;
        self.lists.entry(channel.to_owned()).or_default().mode = mode;
        self.lists.retain(|_, list| list.mode != SenderMode::default() || !list.entries.is_empty());
        Ok(())
    }

    /// Everybody, by channel and id.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str, &Entry)> {
        self.lists.iter().flat_map(|(channel, list)| {
            list.entries.iter().map(|(sender, entry)| (channel.as_str(), sender.as_str(), entry))
        })
    }

    /// Channels, with the mode and how many are on the list.
    pub fn channels(&self) -> impl Iterator<Item = (&str, SenderMode, usize)> {
        self.lists.iter().map(|(channel, list)| (channel.as_str(), list.mode, list.entries.len()))
    }

    /// Appends the lists as the store has them.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.lists.len());
        for (channel, list) in &self.lists {
            let mode = SenderMode::ALL.iter().position(|mode| *mode == list.mode).unwrap_or_default();
            into.bytes(channel.as_bytes()).byte(u8::try_from(mode).unwrap_or_default()).count(list.entries.len());
            for (sender, entry) in &list.entries {
                into.bytes(sender.as_bytes()).bytes(entry.name.as_bytes()).number(entry.since);
                into.byte(u8::from(entry.paired));
            }
        }
    }

    /// Reads the lists.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut lists = BTreeMap::new();
        for _ in 0..from.count(CHANNELS)? {
            let channel = from.text(32)?.to_owned();
            let mode = SenderMode::ALL.get(usize::from(from.byte()?)).copied()?;
            let mut list = List { mode, entries: BTreeMap::new() };
            for _ in 0..from.count(ENTRIES)? {
                let (sender, name) = (from.text(128)?.to_owned(), from.text(64)?.to_owned());
                list.entries.insert(sender, Entry { name, since: from.number()?, paired: from.flag()? });
            }
            lists.insert(channel, list);
        }
        Some(Self { lists })
    }
}
