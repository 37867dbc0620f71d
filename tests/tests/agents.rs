//! Agents beside the main one: each has its conversations, its workspace, its model and its tools, and none of another's.

use serde_json::{Value, json};
use system_tests::System;
use system_tests::model::{Asked, Called, scene_with};

const WORK: &str = "agent:work:main";

fn says_in(system: &System, session: &str, message: &str) -> String {
    let output = system.moltbot(&["chat", "--session", session, message]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn call(name: &'static str, arguments: &Value) -> Vec<Called> {
    vec![(name, arguments.to_string())]
}

fn script(said: &Asked) -> (String, Vec<Called>) {
    let by = if said.anthropic { "claude" } else { "gpt" };
    let told = || (format!("{by} told: {}", said.results.join(" | ")), Vec::new());
    let tool = match said.words.split(' ').next().unwrap() {
        "write" => call("write", &json!({"path": "mine.txt", "content": format!("of {by}")})),
        "read" => call("read", &json!({"path": "mine.txt"})),
        "list" => call("sessions_list", &json!({})),
        "history" => call("sessions_history", &json!({"sessionKey": "agent:main:main"})),
        "send" => call("sessions_send", &json!({"sessionKey": "agent:main:main", "message": "psst"})),
        _ => return (format!("{by} has: {}.", said.offered.join(" ")), Vec::new()),
    };
    if said.results.is_empty() { (String::new(), tool) } else { told() }
}

#[test]
fn each_agent_has_its_own_model_workspace_tools_and_conversations() {
    let agents = json!({"list": [
        {"id": "work", "name": "At work", "model": "claude/m", "tools": {"deny": ["group:runtime"]}},
    ]});
    let (system, _server) = scene_with(&json!({"agents": agents, "tools": {"exec": {"ask": "off"}}}), script);
    // The model, and what it is offered.
    assert!(system.chat("hello").contains("gpt has: exec process read"));
    let said = says_in(&system, WORK, "hello");
    assert!(said.contains("claude has: read write"), "{said}");
    // sandboxd holds a person to it as well, and names the place.
    assert!(system.chat("/exec echo ran").contains("ran"));
    let refused = says_in(&system, WORK, "/exec echo ran");
    assert!(refused.contains("tools.denied") && refused.contains("agents.list[].tools.deny"), "{refused}");
    // The workspace.
    assert!(system.chat("write").contains("gpt told"));
    let none = says_in(&system, WORK, "read");
    assert!(none.contains("claude told") && !none.contains("of gpt"), "{none}");
    assert!(says_in(&system, WORK, "write").contains("claude told"));
    assert!(says_in(&system, WORK, "read").contains("of claude"));
    assert!(system.chat("read").contains("of gpt"));
    // Conversations.
    let list = system.chat("list");
    assert!(list.contains("agent:main:main") && !list.contains(WORK), "{list}");
    let list = says_in(&system, WORK, "list");
    assert!(list.contains(WORK) && !list.contains("agent:main:main"), "{list}");
    for verb in ["history", "send"] {
        let told = says_in(&system, WORK, verb);
        assert!(told.contains("this agent has no conversation agent:main:main"), "{told}");
    }
    assert!(system.chat("history").contains("user: hello"), "its own is read");
}

#[test]
fn agent_that_is_not_listed_is_not_spoken_to_and_leaves_nothing() {
    let (system, _server) = scene_with(&json!({}), script);
    for session in ["agent:ghost:main", "agent:ghost:x", WORK] {
        let refused = says_in(&system, session, "hello");
        assert!(refused.contains("there is no agent") && refused.contains("agents.list"), "{refused}");
    }
    let refused = says_in(&system, "agent:Main:main", "hello");
    assert!(refused.contains("a-z, 0-9"), "{refused}");
    assert!(says_in(&system, "agent:main:x", "hello").contains("gpt has"));
    let list = says_in(&system, "agent:main:x", "list");
    assert!(!list.contains("ghost") && list.contains("agent:main:x"), "{list}");
}
