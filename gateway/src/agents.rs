//! Who the agents are: `agents.list` of the configuration, and `main`. Which agent a conversation is of, its key says; what an agent
//! may use is sandboxd's to know, by the same key.

use serde_json::{Value, json};

/// The agent that is always there, and is spoken to where none is named.
pub const MAIN: &str = "main";

/// Those that there are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agents(Vec<Agent>);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Agent {
    id: String,
    name: String,
}

/// The agent that a conversation is of.
#[must_use]
pub fn agent_of(session: &str) -> &str {
    session.strip_prefix("agent:").and_then(|rest| rest.split_once(':')).map_or(MAIN, |(agent, _)| agent)
}

/// True where two conversations are of one agent.
#[must_use]
pub fn is_same(one: &str, other: &str) -> bool {
    agent_of(one) == agent_of(other)
}

impl Agents {
    /// Reads the configuration. Broker checked it.
    #[must_use]
    pub fn of(config: &Value) -> Self {
        let mut agents = Vec::new();
        for agent in config.pointer("/agents/list").and_then(Value::as_array).into_iter().flatten() {
            let text = |name| agent.get(name).and_then(Value::as_str);
            let Some(id) = text("id") else { continue };
            agents.push(Agent { id: id.to_owned(), name: text("name").unwrap_or(id).to_owned() });
        }
        if !agents.iter().any(|agent| agent.id == MAIN) {
            agents.insert(0, Agent { id: MAIN.to_owned(), name: MAIN.to_owned() });
        }
        Self(agents)
    }

    /// Is the agent of this conversation there?
    #[must_use]
    pub fn have(&self, session: &str) -> bool {
        self.0.iter().any(|agent| agent.id == agent_of(session))
    }

    /// `agents.list`.
    #[must_use]
    pub fn list(&self) -> Value {
        let agents: Vec<_> = self.0.iter().map(|agent| json!({"id": agent.id, "name": agent.name})).collect();
        json!({"defaultId": MAIN, "mainKey": "main", "scope": "per-sender", "agents": agents})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_is_there_and_others_where_they_are_listed() {
        let alone = Agents::of(&json!({}));
        assert!(alone.have("agent:main:main") && !alone.have("agent:work:main"));
        let two = Agents::of(&json!({"agents": {"list": [{"id": "work", "name": "At work"}]}}));
        for (session, there) in [
            ("agent:main:main", true),
            ("agent:work:main", true),
            ("agent:work:telegram:7", true),
            ("agent:work2:main", false),
            ("agent:wor:main", false),
        ] {
            assert_eq!(two.have(session), there, "{session}");
        }
        assert_eq!(two.list()["agents"], json!([{"id": "main", "name": "main"}, {"id": "work", "name": "At work"}]));
        let named = Agents::of(&json!({"agents": {"list": [{"id": "main", "name": "Home"}]}}));
        assert_eq!(named.list()["agents"], json!([{"id": "main", "name": "Home"}]));
        assert!(is_same("agent:a:x", "agent:a:y") && !is_same("agent:a:x", "agent:b:x"));
    }
}
