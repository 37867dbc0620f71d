//! `channels`: where messages come from, and who may speak there. No channel is built in yet; bridges bring messages in. Who
//! may write directly is said to the vault, which decides; groups are not served.

use super::scalar::Id;
use super::{choice, section};
use std::collections::BTreeMap;

section! {
    /// `channels`
    #[derive(Default)]
    pub struct Channels {
        /// What holds for every channel.
        pub defaults: ChannelDefaults,
        /// Telegram.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub telegram: Option<Channel>,
        /// Discord.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub discord: Option<Channel>,
        /// Slack.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub slack: Option<Channel>,
        /// Signal.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub signal: Option<Channel>,
        /// WhatsApp.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub whatsapp: Option<Channel>,
        /// Matrix.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub matrix: Option<Channel>,
        /// IRC.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub irc: Option<Channel>,
    }
}

impl Channels {
    /// The channels that the configuration speaks of, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Channel)> {
        [
            ("telegram", &self.telegram),
            ("discord", &self.discord),
            ("slack", &self.slack),
            ("signal", &self.signal),
            ("whatsapp", &self.whatsapp),
            ("matrix", &self.matrix),
            ("irc", &self.irc),
        ]
        .into_iter()
        .filter_map(|(name, channel)| channel.as_ref().map(|channel| (name, channel)))
    }
}

impl Channels {
    /// What the vault is told of who may write directly: `CHANNEL mode MODE` and `CHANNEL allow SENDER`; `*` is every channel
    /// of which nothing is said.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("* mode {}", self.defaults.dm_policy.name())];
        for (name, channel) in self.iter() {
            let policy = if channel.enabled { channel.dm_policy(&self.defaults) } else { DmPolicy::Disabled };
            lines.push(format!("{name} mode {}", policy.name()));
            lines.extend(channel.listed().map(|id| format!("{name} allow {id}")));
        }
        lines
    }
}

section! {
    /// `channels.defaults`
    #[derive(Default)]
    pub struct ChannelDefaults {
        /// Who may write to the bot directly.
        pub dm_policy: DmPolicy,
        /// Who may speak to it in groups: nobody, by either word, since groups are not served.
        pub group_policy: GroupPolicy,
    }
}

choice! {
    /// `dmPolicy`
    pub enum DmPolicy {
        /// Whoever was paired; a stranger gets a code and nothing else.
        #[default]
        Pairing,
        /// Whoever is listed; a stranger gets nothing.
        Allowlist,
        /// Nobody.
        Disabled,
        /// Everybody; removed, and refused.
        Open,
    }
}

impl DmPolicy {
    /// Its name. What is refused is not let in either.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pairing => "pairing",
            Self::Allowlist => "allowlist",
            Self::Disabled | Self::Open => "disabled",
        }
    }
}

choice! {
    /// `groupPolicy`
    pub enum GroupPolicy {
        /// Whoever is listed.
        #[default]
        Allowlist,
        /// Nobody.
        Disabled,
        /// Everybody in the group; refused.
        Open,
    }
}

section! {
    /// A channel. Its tokens are the vault's: `moltbot secrets set`, or `${NAME}` of the environment.
    pub struct Channel {
        /// Whether it is used.
        pub enabled: bool,
        /// Who may write directly; upstream's place for `dm.policy`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub dm_policy: Option<DmPolicy>,
        /// Direct messages.
        pub dm: DirectMessages,
        /// Who may speak in groups: nobody, by either word, since groups are not served.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub group_policy: Option<GroupPolicy>,
        /// Who may write directly, by their number on the channel.
        pub allow_from: Vec<Id>,
        /// Who may speak in groups. Empty, or refused: groups are not served.
        pub group_allow_from: Vec<Id>,
        /// Groups, by their number. Each with `enabled: false`, or refused: groups are not served.
        pub groups: BTreeMap<String, Group>,
        /// Discord's servers, by their number; likewise.
        pub guilds: BTreeMap<String, Group>,
        /// Telegram's token: `vault:NAME`. One that stands here goes into the vault at the start.
        #[serde(skip_serializing)]
        pub bot_token: Option<String>,
        /// Discord's token, likewise.
        #[serde(skip_serializing)]
        pub token: Option<String>,
        /// Slack's token, likewise.
        #[serde(skip_serializing)]
        pub app_token: Option<String>,
        /// Slack's secret, likewise.
        #[serde(skip_serializing)]
        pub signing_secret: Option<String>,
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self {
            enabled: true,
            dm_policy: None,
            dm: DirectMessages::default(),
            group_policy: None,
            allow_from: Vec::new(),
            group_allow_from: Vec::new(),
            groups: BTreeMap::new(),
            guilds: BTreeMap::new(),
            bot_token: None,
            token: None,
            app_token: None,
            signing_secret: None,
        }
    }
}

impl Channel {
    /// Who may write directly, by either spelling.
    #[must_use]
    pub fn dm_policy(&self, defaults: &ChannelDefaults) -> DmPolicy {
        if !self.dm.enabled {
            return DmPolicy::Disabled;
        }
        self.dm_policy.or(self.dm.policy).unwrap_or(defaults.dm_policy)
    }

    /// Who may write directly, by either spelling.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.allow_from.iter().chain(&self.dm.allow_from).map(|id| id.0.as_str())
    }

    /// Who may speak in groups.
    #[must_use]
    pub fn group_policy(&self, defaults: &ChannelDefaults) -> GroupPolicy {
        self.group_policy.unwrap_or(defaults.group_policy)
    }
}

section! {
    /// `channels.<channel>.dm`
    pub struct DirectMessages {
        /// Whether there are any.
        pub enabled: bool,
        /// Who may write.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub policy: Option<DmPolicy>,
        /// Who may write, by their number on the channel.
        pub allow_from: Vec<Id>,
    }
}

impl Default for DirectMessages {
    fn default() -> Self {
        Self { enabled: true, policy: None, allow_from: Vec::new() }
    }
}

section! {
    /// A group, or one of Discord's servers.
    pub struct Group {
        /// Whether the bot listens there.
        pub enabled: bool,
        /// Whether it must be spoken to by name.
        pub require_mention: bool,
        /// Who may speak to it there.
        pub allow_from: Vec<Id>,
        /// Discord's word for it.
        pub users: Vec<Id>,
    }
}

impl Default for Group {
    fn default() -> Self {
        Self { enabled: true, require_mention: true, allow_from: Vec::new(), users: Vec::new() }
    }
}
