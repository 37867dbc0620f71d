//! Who may speak to the agent on a channel: what gateway may ask of the vault about it, and what the operator may say.
//! gateway has one question. No message of its edge approves anybody, lists a request, or changes a list.

use crate::bounded::{BoundedStr, BoundedVec};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A channel, or one account of it: `telegram`, `telegram.work`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ChannelId(pub BoundedStr<32>);

/// A sender as the channel knows it, by the id that cannot be changed: `8734062810` and not `@alice`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct SenderId(pub BoundedStr<128>);

/// 40 random bits as eight characters that nobody mistakes for one another.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PairingCode(pub [u8; 8]);

impl PairingCode {
    /// 32 characters: capitals without I and O, digits without 0 and 1.
    pub const ALPHABET: [u8; 32] = *b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

    /// The code of 40 random bits, spread over eight bytes of which the lower five count.
    #[must_use]
    pub fn of(random: [u8; 8]) -> Self {
        Self(random.map(|byte| Self::ALPHABET.get(usize::from(byte & 31)).copied().unwrap_or(b'A')))
    }

    /// A code as a person writes it: small letters, spaces and hyphens are taken.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let letters = text.bytes().filter(|byte| !matches!(byte, b' ' | b'-')).map(|byte| byte.to_ascii_uppercase());
        let code: [u8; 8] = letters.collect::<Vec<_>>().try_into().ok()?;
        code.iter().all(|byte| Self::ALPHABET.contains(byte)).then_some(Self(code))
    }
}

impl fmt::Display for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Who may speak on a channel beside those on its list.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum SenderMode {
    /// Nobody; a stranger is given a code with which the operator can put them on the list.
    #[default]
    Pairing,
    /// Nobody.
    Allowlist,
    /// Nobody, nor those on the list.
    Disabled,
}

impl SenderMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Pairing, Self::Allowlist, Self::Disabled];

    /// The mode's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pairing => "pairing",
            Self::Allowlist => "allowlist",
            Self::Disabled => "disabled",
        }
    }
}

/// What gateway is told of a sender.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Verdict {
    /// The sender may speak.
    Allowed,
    /// The sender may not, and is to be shown this code.
    Pair {
        /// The code.
        code: PairingCode,
        /// Seconds that it holds.
        seconds: u32,
        /// True the first time: one message is enough for one code.
        fresh: bool,
    },
    /// The sender may not, and is to be told nothing.
    Refused(SenderRefusal),
}

/// Why a sender may not speak.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SenderRefusal {
    /// The channel takes no messages.
    Disabled,
    /// The sender is not on the channel's list, and no code is given.
    NotListed,
    /// As many requests wait as may.
    TooMany,
}

impl SenderRefusal {
    /// The refusal's name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "senders.disabled",
            Self::NotListed => "senders.not_listed",
            Self::TooMany => "senders.too_many",
        }
    }
}

/// What the operator may say about senders, at broker's socket alone.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SenderVerb {
    /// Requests that wait, with their codes.
    Pending,
    /// Puts the sender of this request on the channel's list.
    Approve {
        /// The channel.
        channel: ChannelId,
        /// The code that the sender was shown.
        code: PairingCode,
    },
    /// Takes a sender off the list, and its request away.
    Revoke {
        /// The channel.
        channel: ChannelId,
        /// The sender.
        sender: SenderId,
    },
    /// Channels that are known.
    Channels,
    /// Who is on the lists.
    Allowed {
        /// Only after this one.
        after: Option<(ChannelId, SenderId)>,
    },
    /// Puts a sender on the list.
    Allow {
        /// The channel.
        channel: ChannelId,
        /// The sender.
        sender: SenderId,
        /// A name for the operator.
        name: BoundedStr<64>,
    },
    /// Takes a sender off the list.
    Disallow {
        /// The channel.
        channel: ChannelId,
        /// The sender.
        sender: SenderId,
    },
    /// Sets who may speak beside those on the list.
    SetMode {
        /// The channel.
        channel: ChannelId,
        /// The mode.
        mode: SenderMode,
    },
}

impl SenderVerb {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pairing.list",
            Self::Approve { .. } => "pairing.approve",
            Self::Revoke { .. } => "pairing.revoke",
            Self::SetMode { .. } => "pairing.mode",
            Self::Channels | Self::Allowed { .. } => "allowlist.list",
            Self::Allow { .. } => "allowlist.add",
            Self::Disallow { .. } => "allowlist.remove",
        }
    }
}

/// A request that waits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PendingRow {
    /// The channel.
    pub channel: ChannelId,
    /// The sender.
    pub sender: SenderId,
    /// What the sender calls itself: a stranger's words.
    pub name: BoundedStr<64>,
    /// The code.
    pub code: PairingCode,
    /// Seconds that it holds.
    pub seconds: u32,
}

/// Somebody on a list.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AllowedRow {
    /// The channel.
    pub channel: ChannelId,
    /// The sender.
    pub sender: SenderId,
    /// A name: the sender's own words where it was paired.
    pub name: BoundedStr<64>,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// True where a code was approved, false where the operator wrote the sender down.
    pub paired: bool,
}

/// A channel that has a list, a mode or requests.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChannelRow {
    /// The channel.
    pub channel: ChannelId,
    /// Who may speak beside those on its list.
    pub mode: SenderMode,
    /// How many are on its list.
    pub allowed: u32,
    /// How many requests wait.
    pub pending: u32,
}

/// Answer to a [`SenderVerb`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SenderAnswer {
    /// It was done; how many it concerned.
    Done(u32),
    /// The sender is on the list.
    Listed(AllowedRow),
    /// Requests.
    Pending(BoundedVec<PendingRow, 64>),
    /// The page of a list; another follows where it is full.
    Allowed(BoundedVec<AllowedRow, 64>),
    /// Channels.
    Channels(BoundedVec<ChannelRow, 64>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_reads_back_as_people_write_it_and_what_is_none_does_not() {
        let code = PairingCode::of([0, 31, 32, 255, 7, 8, 13, 24]);
        assert_eq!(code.to_string(), "A9A9HJPZ".replace('Z', "2"));
        for written in ["A9A9HJP2", "a9a9hjp2", "a9a9-hjp2", " A9A9 HJP2 "] {
            assert_eq!(PairingCode::parse(written), Some(code), "{written}");
        }
        for bad in ["", "A9A9HJP", "A9A9HJP22", "A9A9HJPI", "A9A9HJP0", "A9A9HJPé"] {
            assert_eq!(PairingCode::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn alphabet_has_32_characters_and_none_that_is_mistaken_for_another() {
        let mut seen = PairingCode::ALPHABET.to_vec();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 32);
        assert!(!seen.iter().any(|byte| b"IO01".contains(byte)));
    }
}
