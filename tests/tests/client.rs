//! A client that we did not write: `@openclaw/gateway-client`, from the npm registry, at protocols 3 and 4.

use std::path::PathBuf;
use std::process::{Command, Output};
use system_tests::{As, Sandbox, System, skip};

/// Where it is installed.
fn client() -> Option<PathBuf> {
    let client = std::env::var_os("MOLTBOT_TEST_CLIENT").map(PathBuf::from);
    if client.is_none() {
        skip("MOLTBOT_TEST_CLIENT names no folder with tests/client installed");
    }
    client
}

fn run(client: &PathBuf, system: &System, rest: &[&str]) -> Output {
    let url = format!("ws://127.0.0.1:{}", system.port());
    Command::new("node").arg("client.mjs").arg(url).args(rest).current_dir(client).output().unwrap()
}

fn says(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn reference_client_with_a_key_of_its_own_is_let_in_once_it_is_paired() {
    let Some(client) = client() else { return };
    let system = System::start(As::User, &Sandbox::Native);
    let seed = "5e".repeat(32);
    // Without a token: a stranger, until the operator knows it.
    let asks = |token: &str| run(&client, &system, &[token, "4", "4", &seed]);
    let refused = asks("-");
    assert!(!refused.status.success() && says(&refused).contains("pairing required"), "{}", says(&refused));
    let rows: serde_json::Value = serde_json::from_str(&system.says(&["devices", "list", "--json"])).unwrap();
    let id = rows[0]["id"].as_str().unwrap().to_owned();
    let _ = system.says(&["devices", "approve", &id]);
    let let_in = asks("-");
    assert!(let_in.status.success(), "{}", says(&let_in));
    // Beside a token of its own, from when there is one.
    let token = system.says(&["devices", "rotate", &id]).trim().to_owned();
    assert!(!asks("-").status.success());
    let let_in = asks(&token);
    assert!(let_in.status.success(), "{}", says(&let_in));
    let _ = system.says(&["devices", "revoke", &id]);
    assert!(!asks(&token).status.success());
    // Another device with the token of this one, and with gateway's.
    let other = |token: &str| run(&client, &system, &[token, "4", "4", &"5f".repeat(32)]);
    assert!(!other(&token).status.success());
    let let_in = other(&system.token());
    assert!(let_in.status.success(), "{}", says(&let_in));
}

#[test]
fn reference_client_connects_calls_and_chats_at_both_protocols() {
    let Some(client) = client() else { return };
    let system = System::start(As::User, &Sandbox::Native);
    let token = system.token();
    let run = |token: &str, min: &str, max: &str| run(&client, &system, &[token, min, max]);
    for (min, max) in [("3", "3"), ("4", "4"), ("3", "4")] {
        let output = run(&token, min, max);
        assert!(output.status.success(), "protocol {min}-{max}: {}", says(&output));
    }
    // The twin: the same client with another token does not get in.
    assert!(!run("another-token-another-token-another", "4", "4").status.success());
}
