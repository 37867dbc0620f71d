//! `tools`: what an agent may use.

use super::agents::ToolLists;
use super::scalar::Id;
use super::{choice, section};
use std::collections::BTreeMap;

section! {
    /// `tools`
    #[derive(Default)]
    pub struct Tools {
        /// What there is to begin with.
        pub profile: Profile,
        /// Only these, where any stands here: names, upstream's groups as `group:fs`, or `*`.
        pub allow: Vec<String>,
        /// Never these; wins.
        pub deny: Vec<String>,
        /// Commands on the host: there are none, and `enabled` is refused.
        pub elevated: Elevated,
        /// A browser: there is none, and `enabled` is refused.
        pub browser: Switch,
        /// A canvas: there is none, and `enabled` is refused.
        pub canvas: Switch,
        /// What sandboxed conversations may use.
        pub sandbox: SandboxTools,
        /// Commands: who is asked about which.
        pub exec: Exec,
    }
}

choice! {
    /// `tools.profile`
    pub enum Profile {
        /// No tool of those that are here.
        Minimal,
        /// Files, commands, conversations.
        Coding,
        /// Conversations.
        Messaging,
        /// All.
        #[default]
        Full,
    }
}

section! {
    /// `tools.exec`
    #[derive(Default)]
    pub struct Exec {
        /// When the operator is asked.
        pub ask: Ask,
        /// Rules beside the built-in ones; `moltbot sandbox rules test` tries them. sandboxd tries each on its examples before
        /// it serves.
        pub rules: Vec<serde_json::Value>,
        /// Seconds after which silence of the operator is a no; 300 where nothing is said.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub approval_timeout_seconds: Option<u32>,
    }
}

choice! {
    /// `tools.exec.ask`
    pub enum Ask {
        /// Never: what no rule denies runs.
        Off,
        /// Where no rule allows the command.
        #[default]
        OnMiss,
        /// Before every command.
        Always,
    }
}

section! {
    /// `tools.sandbox`
    #[derive(Default)]
    pub struct SandboxTools {
        /// What they may use; every conversation is sandboxed.
        pub tools: ToolLists,
    }
}

section! {
    /// `tools.elevated`
    #[derive(Default)]
    pub struct Elevated {
        /// Only false is taken.
        pub enabled: bool,
        /// Who could use it, by channel.
        pub allow_from: BTreeMap<String, Vec<Id>>,
    }
}

section! {
    /// Something that can be on or off.
    #[derive(Default)]
    pub struct Switch {
        /// Whether it is on.
        pub enabled: bool,
    }
}
