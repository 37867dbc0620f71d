//! `tools`: what an agent may use.

use super::agents::ToolLists;
use super::scalar::Id;
use super::{choice, section};
use std::collections::BTreeMap;

section! {
    /// `tools`
    #[derive(Default)]
    pub struct Tools {
        /// Only these, where any stands here. No effect yet.
        pub allow: Vec<String>,
        /// Never these; wins. No effect yet.
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

section! {
    /// `tools.exec`
    #[derive(Default)]
    pub struct Exec {
        /// When the operator is asked.
        pub ask: Ask,
        /// Rules beside the built-in ones; `moltbot sandbox rules test` tries them. sandboxd tries each on its examples before
        /// it serves.
        pub rules: Vec<serde_json::Value>,
    }
}

choice! {
    /// `tools.exec.ask`
    pub enum Ask {
        /// Never: what no rule denies runs.
        #[default]
        Off,
        /// Where no rule allows the command.
        OnMiss,
        /// Before every command.
        Always,
    }
}

section! {
    /// `tools.sandbox`
    #[derive(Default)]
    pub struct SandboxTools {
        /// What they may use. No effect yet.
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
