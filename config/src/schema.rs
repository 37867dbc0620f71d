//! The keys of `moltbot.json`, their meaning and their defaults. Names and spellings are upstream's of 2026.1.30; the
//! Phase 1 guide's where they differ. A key that is here and has no effect yet says so in its text.
//!
//! What may be *said* is here; what may be *wanted* is in `rules`: a value that this product never carries out still has
//! a place here where people write it, so that it is refused with its reason and not as a word that nobody knows.

mod agents;
mod channels;
mod egress;
mod gateway;
mod models;
mod scalar;
mod tools;

pub use agents::{
    Agent, AgentDefaults, Agents, Backend, Docker, Native, NativeFloor, Prune, Runtime, Sandbox, SandboxMode,
    SandboxScope, ToolLists, WorkspaceAccess,
};
pub use channels::{Channel, ChannelDefaults, Channels, DirectMessages, DmPolicy, GroupPolicy};
pub use egress::Egress;
pub(crate) use egress::{host_and_port, origin};
pub use gateway::{Auth, AuthMode, Bind, ControlUi, Gateway, Mode, Reload, ReloadMode, Tailscale, TailscaleMode};
pub(crate) use models::secret;
pub use models::{Api, Cost, Fallbacks, Model, ModelChoice, Models, Provider, Refresh};
pub use scalar::{Cpus, Dollars, NativeCommands, Size};
pub use tools::{Ask, Elevated, Exec, Profile, Switch, Tools};

use std::collections::BTreeMap;

/// A part of the configuration: strict, and every key has a default.
macro_rules! section {
    ($(#[$meta:meta])* pub struct $name:ident $body:tt) => {
        $(#[$meta])*
        #[derive(Clone, Debug, serde::Deserialize, Eq, PartialEq, serde::Serialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(default, deny_unknown_fields, rename_all = "camelCase")]
        pub struct $name $body
    };
}
/// A choice between words.
macro_rules! choice {
    ($(#[$meta:meta])* pub enum $name:ident $body:tt) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, serde::Deserialize, Eq, PartialEq, serde::Serialize)]
        #[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
        #[serde(rename_all = "kebab-case")]
        pub enum $name $body
    };
}
use {choice, section};

section! {
    /// The whole configuration of Moltbot, `moltbot.json` in the state directory.
    #[derive(Default)]
    pub struct Config {
        /// Where this schema is, for editors; no effect.
        #[serde(rename = "$schema", skip_serializing_if = "Option::is_none")]
        pub schema: Option<String>,
        /// What upstream's editor notes about itself; no effect.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub meta: BTreeMap<String, String>,
        /// The listening side.
        pub gateway: Gateway,
        /// The agents.
        pub agents: Agents,
        /// Who is asked for answers.
        pub models: Models,
        /// The way out.
        pub egress: Egress,
        /// The audit log.
        pub logging: Logging,
        /// Conversations.
        pub session: Session,
        /// Where messages come from.
        pub channels: Channels,
        /// What an agent may use.
        pub tools: Tools,
        /// Commands that people type in a conversation.
        pub commands: Commands,
        /// Who may operate it.
        pub operator: Operator,
        /// Secrets that it held or named a variable for, without their values.
        #[serde(skip)]
        pub secrets: Vec<crate::secrets::Held>,
    }
}

section! {
    /// `operator`
    #[derive(Default)]
    pub struct Operator {
        /// Group whose members may use the operator's socket as you do, by its name in `/etc/group` or its number. Empty is
        /// `moltbot`, if there is such a group, where root starts Moltbot; nobody's where you do.
        #[serde(skip_serializing_if = "String::is_empty")]
        pub group: String,
    }
}

section! {
    /// `logging`. No process removes a file of the log; the operator's `moltbot logs prune` does, or its timer.
    pub struct Logging {
        /// Upstream's level of its own log; the audit log has no levels, and is always whole. No effect.
        pub level: Level,
        /// `off` is upstream's; what goes into the audit log is redacted whatever stands here.
        pub redact_sensitive: Redact,
        /// Regular expressions whose matches are redacted beside the built-in rules, never instead of them.
        pub redact_patterns: Vec<String>,
        /// Bytes from which on a stream goes on in a new file: 65,536 to 1,073,741,824.
        pub max_file_bytes: u64,
        /// Days after which it does: 1 to 3,650.
        pub max_file_days: u32,
        /// Files of each stream that `moltbot logs prune` keeps, the newest; 1 at least. Where neither this nor `keepDays` is said:
        /// 100 files, and every file for 365 days.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub keep_files: Option<u32>,
        /// Days for which it keeps a file after it was closed, however many there are; 1 at least.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub keep_days: Option<u32>,
    }
}

impl Default for Logging {
    fn default() -> Self {
        let (level, redact_sensitive) = (Level::default(), Redact::default());
        Self {
            level,
            redact_sensitive,
            redact_patterns: Vec::new(),
            max_file_bytes: 10 << 20,
            max_file_days: 30,
            keep_files: None,
            keep_days: None,
        }
    }
}

choice! {
    /// `logging.level`
    pub enum Level {
        /// Nothing.
        Silent,
        /// Only what ends it.
        Fatal,
        /// Errors.
        Error,
        /// Warnings.
        Warn,
        /// What a person wants to know.
        #[default]
        Info,
        /// More.
        Debug,
        /// All.
        Trace,
    }
}

choice! {
    /// `logging.redactSensitive`
    pub enum Redact {
        /// Redact.
        #[default]
        Tools,
        /// Has no effect: redaction cannot be turned off.
        Off,
    }
}

section! {
    /// `session`
    #[derive(Default)]
    pub struct Session {
        /// Which messages share a conversation. `per-agent` is the guide's word for `per-sender`. No effect yet.
        pub scope: SessionScope,
        /// Who shares a conversation in direct messages. No effect yet: every conversation has a key of its own.
        pub dm_scope: DmScope,
        /// Minutes of silence after which the next message begins a conversation anew.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub idle_minutes: Option<u32>,
        /// When a conversation begins anew.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reset: Option<Reset>,
        /// The same by what a conversation is, in place of `reset`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub reset_by_type: Option<ResetByType>,
        /// The same by the channel that a conversation is with, in place of both.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub reset_by_channel: BTreeMap<String, Reset>,
        /// Messages that begin a conversation anew. No effect yet.
        pub reset_triggers: Vec<String>,
        /// Upstream's; always `main`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub main_key: Option<String>,
    }
}

section! {
    /// `session.reset`
    pub struct Reset {
        /// Each day, or after silence.
        pub mode: ResetMode,
        /// The hour of the day, 0 to 23, in UTC; with `daily`.
        pub at_hour: u8,
        /// Minutes of silence; 60 with `idle` where nothing is said, and beside the hour with `daily` where something is.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub idle_minutes: Option<u32>,
    }
}

impl Default for Reset {
    fn default() -> Self {
        Self { mode: ResetMode::default(), at_hour: 4, idle_minutes: None }
    }
}

section! {
    /// `session.resetByType`
    #[derive(Default)]
    pub struct ResetByType {
        /// Of every conversation that is none of the others, the main one included.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub dm: Option<Reset>,
        /// Of groups. No effect: they are not served.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub group: Option<Reset>,
        /// Of threads. No effect: they are not served.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub thread: Option<Reset>,
    }
}

impl Session {
    /// Every rule of when a conversation begins anew, with its path.
    pub(crate) fn resets(&self) -> impl Iterator<Item = (String, &Reset)> {
        let kinds = self.reset_by_type.iter();
        let kinds = kinds.flat_map(|kinds| [("dm", &kinds.dm), ("group", &kinds.group), ("thread", &kinds.thread)]);
        let kinds = kinds.filter_map(|(kind, reset)| Some((format!("session.resetByType.{kind}"), reset.as_ref()?)));
        let channels = self.reset_by_channel.iter();
        let channels = channels.map(|(channel, reset)| (format!("session.resetByChannel.{channel}"), reset));
        self.reset.iter().map(|reset| ("session.reset".to_owned(), reset)).chain(kinds).chain(channels)
    }
}

choice! {
    /// `session.reset.mode`
    pub enum ResetMode {
        /// The first message of a day begins it anew.
        #[default]
        Daily,
        /// The first message after silence does.
        Idle,
    }
}

choice! {
    /// `session.scope`
    pub enum SessionScope {
        /// A conversation for every sender.
        #[default]
        PerSender,
        /// The guide's word for it.
        PerAgent,
        /// One for all.
        Global,
    }
}

choice! {
    /// `session.dmScope`
    pub enum DmScope {
        /// All direct messages share the main conversation.
        Main,
        /// A conversation for every person.
        PerPeer,
        /// A conversation for every person on every channel.
        #[default]
        PerChannelPeer,
        /// And on every account of ours.
        PerAccountChannelPeer,
    }
}

section! {
    /// `commands`. No effect yet: the local agent answers its own commands on loopback.
    pub struct Commands {
        /// Commands in the channel's own menus.
        pub native: NativeCommands,
        /// Skills there as well.
        pub native_skills: NativeCommands,
        /// Commands as text.
        pub text: bool,
        /// `/bash`: there is none, and only false is taken.
        pub bash: bool,
        /// `/config`: there is none, and only false is taken.
        pub config: bool,
        /// `/debug`: there is none, and only false is taken.
        pub debug: bool,
        /// `/restart`: there is none, and only false is taken.
        pub restart: bool,
        /// Whether allowlists hold for commands: they always do, and only true is taken.
        pub use_access_groups: bool,
    }
}

impl Default for Commands {
    fn default() -> Self {
        Self {
            native: NativeCommands::default(),
            native_skills: NativeCommands::default(),
            text: true,
            bash: false,
            config: false,
            debug: false,
            restart: false,
            use_access_groups: true,
        }
    }
}
