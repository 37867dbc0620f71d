//! Who the agents are.

use super::Findings;
use crate::schema::Config;

/// Agents beside the main one at most.
const MAX_AGENTS: usize = 16;
/// Longest id: a key has 128 characters in all.
const MAX_ID: usize = 32;

fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(plain) && !id.starts_with(['-', '_'])
}

pub(super) fn rules(config: &Config, all: &mut Findings) {
    let list = &config.agents.list;
    all.refuse_if(
        list.len() > MAX_AGENTS,
        "agents.too_many",
        "agents.list",
        "there are 16 agents at most",
        "leave some out",
    );
    for (at, agent) in list.iter().enumerate() {
        let path = format!("agents.list[{at}]");
        all.refuse_if(
            !is_id(&agent.id),
            "agents.id",
            &format!("{path}.id"),
            "an agent's id is 1 to 32 of a-z, 0-9, - and _, and begins with a letter or digit",
            "name it so: it stands in the keys of its conversations",
        );
        all.refuse_if(
            list.iter().take(at).any(|other| other.id == agent.id),
            "agents.twice",
            &format!("{path}.id"),
            "two agents have this id",
            "name one of them otherwise",
        );
        all.refuse_if(
            agent.default && agent.id != "main",
            "agents.default",
            &format!("{path}.default"),
            "whoever names no agent speaks to main",
            "leave it out, and name the agent in the key: agent:ID:main",
        );
    }
}
