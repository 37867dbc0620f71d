//! Which tools a conversation may use: `tools` of the configuration, in upstream's words. A pure decision; each part of it can
//! only narrow what the ones before it left.

use crate::decide::Facts;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The tools that there are here.
pub const NAMES: [&str; 12] = [
    "exec",
    "process",
    "read",
    "write",
    "edit",
    "apply_patch",
    "ls",
    "grep",
    "sessions_list",
    "sessions_history",
    "sessions_send",
    "web_fetch",
];

/// Upstream's groups, with what of them is here. Of another name nothing is.
const GROUPS: [(&str, &[&str]); 10] = [
    ("group:fs", &["read", "write", "edit", "apply_patch", "ls", "grep"]),
    ("group:runtime", &["exec", "process"]),
    ("group:sessions", &["sessions_list", "sessions_history", "sessions_send"]),
    ("group:web", &["web_fetch"]),
    ("group:openclaw", &NAMES),
    ("group:memory", &[]),
    ("group:ui", &[]),
    ("group:automation", &[]),
    ("group:messaging", &[]),
    ("group:nodes", &[]),
];

/// The agent that is there whether it is listed or not.
const MAIN: &str = "main";

/// What conversations do not have that strangers' words have reached: others' conversations, and a way out that is no answer.
const NOT_STRICT: [&str; 3] = ["sessions_list", "sessions_history", "web_fetch"];
/// What those do not have that strangers speak in. Others may: the vault marks whatever they speak to.
const NOT_OUTSIDE: [&str; 1] = ["sessions_send"];

/// A set of tools to begin with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// None of those that are here.
    Minimal,
    /// Files, commands, conversations.
    Coding,
    /// Conversations.
    Messaging,
    /// All.
    #[default]
    Full,
}

/// What may be used, by name or group; `deny` wins.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Lists {
    /// Only these, where any stands here.
    pub allow: Vec<String>,
    /// Never these.
    pub deny: Vec<String>,
}

/// `tools` of the configuration, and the other places where tools are allowed and denied.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ToolPolicy {
    /// `tools.profile`
    pub profile: Profile,
    /// `tools.allow` and `tools.deny`
    pub all: Lists,
    /// `agents.defaults.tools`
    pub agents: Lists,
    /// `agents.list[].tools`, by the agent's id.
    pub by_agent: BTreeMap<String, Lists>,
    /// `tools.sandbox.tools`, and `agents.defaults.sandbox.tools`: every conversation is sandboxed.
    pub sandbox: Vec<Lists>,
}

fn names(entry: &str, tool: &str) -> bool {
    let entry = entry.trim().to_ascii_lowercase();
    // Upstream's older names.
    let entry = match entry.as_str() {
        "bash" => "exec",
        "apply-patch" => "apply_patch",
        other => other,
    };
    entry == "*" || entry == tool || GROUPS.iter().any(|(group, tools)| *group == entry && tools.contains(&tool))
}

impl Lists {
    /// Why not; none where it may.
    fn refusal(&self, tool: &str, place: &str) -> Option<String> {
        if let Some(entry) = self.deny.iter().find(|entry| names(entry, tool)) {
            return Some(format!("{place}.deny has \"{entry}\""));
        }
        let open = self.allow.is_empty() || self.allow.iter().any(|entry| names(entry, tool));
        (!open).then(|| format!("{place}.allow lists tools, and {tool} is not among them"))
    }
}

impl ToolPolicy {
    /// From JSON, as broker passes it on.
    ///
    /// # Errors
    /// Where it is none.
    pub fn from_json(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| format!("tools: {error}"))
    }

    /// May the conversation use it?
    ///
    /// # Errors
    /// What says no, for a person.
    pub fn check(&self, tool: &str, facts: &Facts<'_>) -> Result<(), String> {
        let profile: &[&str] = match self.profile {
            Profile::Full => &["*"],
            Profile::Coding => &["group:fs", "group:runtime", "group:sessions"],
            Profile::Messaging => &["group:sessions"],
            Profile::Minimal => &[],
        };
        if !profile.iter().any(|entry| names(entry, tool)) {
            return Err(format!("tools.profile has no {tool}"));
        }
        let mut lists = vec![(&self.all, "tools"), (&self.agents, "agents.defaults.tools")];
        match self.by_agent.get(facts.agent()) {
            Some(own) => lists.push((own, "agents.list[].tools")),
            // Whoever is in no list has no narrower one: a key that names it was made up, or its agent is not there any more.
            None if !matches!(facts.agent(), MAIN | "") => {
                return Err(format!("agents.list has no agent {:?}", facts.agent()));
            }
            None => {}
        }
        lists.extend(self.sandbox.iter().map(|lists| (lists, "tools.sandbox.tools")));
        if let Some(why) = lists.into_iter().find_map(|(lists, place)| lists.refusal(tool, place)) {
            return Err(why);
        }
        let denied =
            (facts.is_strict() && NOT_STRICT.contains(&tool)) || (facts.is_outside() && NOT_OUTSIDE.contains(&tool));
        if denied {
            return Err(format!(
                "{tool} is not for conversations that strangers reach, or that read what strangers wrote"
            ));
        }
        Ok(())
    }

    /// Those that it may use.
    #[must_use]
    pub fn allowed(&self, facts: &Facts<'_>) -> Vec<&'static str> {
        NAMES.into_iter().filter(|tool| self.check(tool, facts).is_ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Place;

    fn facts(session: &str, tainted: bool) -> Facts<'_> {
        Facts { session, place: Place::Native, tainted }
    }

    fn policy(json: &str) -> ToolPolicy {
        ToolPolicy::from_json(json).unwrap()
    }

    #[test]
    fn everything_is_allowed_where_nothing_is_said_and_strangers_have_no_way_out() {
        let policy = policy("{}");
        let owner = policy.allowed(&facts("agent:main:main", false));
        assert_eq!(owner, NAMES);
        let own = ["exec", "process", "read", "write", "edit", "apply_patch", "ls", "grep"];
        assert_eq!(policy.allowed(&facts("agent:main:telegram:1", false)), own);
        assert_eq!(policy.allowed(&facts("agent:main:telegram:1", true)), own);
        assert_eq!(policy.allowed(&facts("agent:main:main", true)), [own.as_slice(), &["sessions_send"]].concat());
    }

    #[test]
    fn deny_wins_groups_are_upstreams_and_each_place_narrows() {
        let owner = facts("agent:main:main", false);
        let of = |json| policy(json).allowed(&owner);
        assert_eq!(
            of(r#"{"all":{"allow":["group:fs","bash"],"deny":["write","apply-patch"]}}"#),
            ["exec", "read", "edit", "ls", "grep"]
        );
        assert_eq!(
            of(r#"{"all":{"allow":["*"]},"agents":{"allow":["read","ls"]},"sandbox":[{"deny":["ls"]}]}"#),
            ["read"]
        );
        assert_eq!(of(r#"{"profile":"messaging"}"#), ["sessions_list", "sessions_history", "sessions_send"]);
        assert!(of(r#"{"profile":"minimal"}"#).is_empty() && of(r#"{"all":{"allow":["browser"]}}"#).is_empty());
        assert!(!of(r#"{"profile":"coding"}"#).contains(&"web_fetch"));
        let why = policy(r#"{"sandbox":[{"allow":["read"]}]}"#).check("exec", &owner).unwrap_err();
        assert!(why.contains("tools.sandbox.tools.allow"), "{why}");
        assert!(ToolPolicy::from_json(r#"{"profile":"godlike"}"#).is_err());
    }

    #[test]
    fn agent_has_what_its_own_list_leaves_and_one_that_is_not_listed_has_nothing() {
        let policy = policy(
            r#"{"all":{"deny":["web_fetch"]},"byAgent":{"work":{"allow":["read","web_fetch"]},"main":{"deny":["exec"]}}}"#,
        );
        assert_eq!(policy.allowed(&facts("agent:work:main", false)), ["read"]);
        assert_eq!(policy.allowed(&facts("agent:work:telegram:1", true)), ["read"]);
        let main = policy.allowed(&facts("agent:main:main", false));
        assert!(!main.contains(&"exec") && main.contains(&"write") && !main.contains(&"web_fetch"));
        for session in ["agent:other:main", "agent:Work:main", "agent:work :main", "agent:work2:main"] {
            assert!(policy.allowed(&facts(session, false)).is_empty(), "{session}");
        }
        let why = policy.check("read", &facts("agent:other:main", false)).unwrap_err();
        assert_eq!(why, "agents.list has no agent \"other\"");
        let why = policy.check("write", &facts("agent:work:main", false)).unwrap_err();
        assert!(why.starts_with("agents.list[].tools.allow"), "{why}");
    }
}
