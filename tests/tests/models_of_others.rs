//! Turns against model servers that others wrote, on the loopback address: run by hand, with the programs named by the environment.
//! `MOLTBOT_TEST_LLMOCK` is the program `llmock` of npm's `@copilotkit/aimock`; `MOLTBOT_TEST_LLAMA` is a port of this machine on
//! which a llama.cpp server answers.

use serde_json::{Value, json};
use std::net::TcpStream;
use std::process::{Child, Command};
use system_tests::{As, Sandbox, System, is_root, wait_for};

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn system(port: u16, model: &str) -> System {
    let who = if is_root() { As::Root } else { As::User };
    let mut system = System::prepare(who, &Sandbox::Native);
    let base = format!("http://localhost:{port}");
    let config = json!({
        "agents": {"defaults": {"sandbox": {"backend": "native"}, "model": "openai/m"}},
        "models": {"providers": {
            "openai": {"baseUrl": format!("{base}/v1"), "api": "openai-completions", "models": [{"id": "m"}, {"id": model}]},
            "anthropic": {"baseUrl": base, "api": "anthropic-messages", "models": [{"id": "m"}]},
        }},
        "tools": {"exec": {"ask": "off"}},
    });
    std::fs::write(system.state().join("moltbot.json"), config.to_string()).unwrap();
    system.up();
    system
}

#[test]
#[ignore = "needs MOLTBOT_TEST_LLMOCK, a program of others"]
fn scripted_server_has_a_file_written_run_and_read_by_both_protocols() {
    let program = std::env::var("MOLTBOT_TEST_LLMOCK").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let call = |name: &str, arguments: Value| json!({"toolCalls": [{"name": name, "arguments": arguments}]});
    let mut fixtures = Vec::new();
    let steps = [
        call("write", json!({"path": "sum.sh", "content": "expr 20 + 22 > answer.txt\n"})),
        call("exec", json!({"command": "sh sum.sh", "yieldMs": 120_000})),
        call("edit", json!({"path": "answer.txt", "oldText": "42", "newText": "the answer is 42"})),
        call("read", json!({"path": "answer.txt"})),
        json!({"content": "It is done."}),
    ];
    for (turn, response) in steps.into_iter().enumerate() {
        fixtures.push(json!({"match": {"userMessage": "work it out", "turnIndex": turn}, "response": response}));
    }
    fixtures.push(json!({"match": {"model": "m"}, "response": {"content": "Hello from a server of others."}}));
    let file = dir.path().join("fixtures.json");
    std::fs::write(&file, json!({"fixtures": fixtures}).to_string()).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(program);
    let _server = Stopped(command.args(["-p", &port.to_string(), "-f"]).arg(&file).spawn().unwrap());
    wait_for("the server", || TcpStream::connect(("127.0.0.1", port)).ok());
    let system = system(port, "other");
    for provider in ["openai", "anthropic"] {
        assert!(system.chat(&format!("/model {provider}/m")).contains("from now on"));
        assert!(system.chat("hello").contains("Hello from a server of others."));
        assert!(system.chat("/new").contains("New session"));
        assert!(system.chat(&format!("/model {provider}/m")).contains("from now on"));
        let said = system.chat("work it out");
        assert!(said.contains("It is done."), "{said}");
        assert!(system.chat("/exec cat answer.txt").starts_with("the answer is 42\n"));
        assert!(system.chat("/exec rm answer.txt sum.sh").contains("exit 0"));
        assert!(system.chat("/new").contains("New session"));
    }
}

#[test]
#[ignore = "needs MOLTBOT_TEST_LLAMA, a server of others"]
fn model_of_others_streams_an_answer_through_the_whole_chain() {
    let port = std::env::var("MOLTBOT_TEST_LLAMA").unwrap().parse().unwrap();
    let system = system(port, "other");
    for provider in ["openai", "anthropic"] {
        // One that knows no tools is offered none.
        assert!(system.chat(&format!("/model {provider}/m")).contains("from now on"));
        let said = system.chat("Write one short sentence about the sea.");
        assert!(said.trim().len() > 10, "{said}");
        let status = system.chat("/status");
        assert!(!status.contains("tokens: 0 read"), "{status}");
    }
}
