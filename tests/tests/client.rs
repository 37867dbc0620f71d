//! A client that we did not write: `@openclaw/gateway-client`, from the npm registry, at protocols 3 and 4.

use std::path::PathBuf;
use std::process::Command;
use system_tests::{As, Sandbox, System, skip};

#[test]
fn reference_client_connects_calls_and_chats_at_both_protocols() {
    let Some(client) = std::env::var_os("MOLTBOT_TEST_CLIENT").map(PathBuf::from) else {
        return skip("MOLTBOT_TEST_CLIENT names no folder with tests/client installed");
    };
    let system = System::start(As::User, &Sandbox::Native);
    let token = system.token();
    let url = format!("ws://127.0.0.1:{}", system.port());
    let run = |token: &str, min: &str, max: &str| {
        Command::new("node").arg("client.mjs").args([&url, token, min, max]).current_dir(&client).output().unwrap()
    };
    for (min, max) in [("3", "3"), ("4", "4"), ("3", "4")] {
        let output = run(&token, min, max);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "protocol {min}-{max}: {out}{err}");
    }
    // The twin: the same client with another token does not get in.
    assert!(!run("another-token-another-token-another", "4", "4").status.success());
}
