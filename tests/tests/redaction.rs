//! What the log says of a command that holds a secret of the vault's, over real processes: auditd takes it out in whatever
//! coat it stands, from the moment the operator put it in, after a restart of auditd, and without holding it.

use serde_json::Value;
use std::io::Write;
use std::process::Stdio;
use system_tests::{As, Sandbox, System, in_both_layouts, is_root, programs, remembers, wait_for};

/// Of a kind that no rule of a shape or a name takes for a key.
const VALUE: &str = "the grey 4 horses ran; over #13 hills, then";

fn put(system: &System, name: &str, value: &str) {
    let mut command = system.command(&programs().join("moltbot"));
    command.arg("--state-dir").arg(system.state()).args(["secrets", "set", name]).env_remove("MOLTBOT_STATE_DIR");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// What the log says of the last command.
fn recorded(system: &System, command: &str) -> String {
    let _ = system.chat(&format!("/exec {command}"));
    let records = system.records("command-audit");
    let intent = records.iter().rev().find(|record| record["type"] == "intent").unwrap();
    intent["command"].as_str().unwrap().to_owned()
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

in_both_layouts! {
    fn secret_of_the_vault_is_in_no_record_in_any_coat(system: System) {
        let plain = format!("true '{VALUE}'");
        assert_eq!(recorded(&system, &plain), plain, "it looks like nothing");
        put(&system, "story", VALUE);
        let percent: String = VALUE.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for dressed in [VALUE.to_owned(), hex(VALUE), percent] {
            let said = recorded(&system, &format!("true '{dressed}'"));
            assert!(said.starts_with("true '[redacted:vault-secret:") && said.ends_with("]'"), "{said}");
        }
        // What it was handed it has not kept; sandboxd, which was to run it, may have.
        if is_root() {
            let auditd = system.pid("auditd");
            let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap();
            assert!(remembers(auditd, boot.trim_ascii()), "what it has is found");
            assert!(!remembers(auditd, VALUE.as_bytes()), "auditd keeps a secret that a command held");
            assert!(!remembers(auditd, hex(VALUE).as_bytes()), "or its digits");
        }
        // The next auditd is told before it is asked to write.
        let epoch = system.role("auditd")["epoch"].as_u64().unwrap();
        system.kill("auditd");
        system.wait_epoch("auditd", epoch + 1);
        wait_for("the vault to have told the next auditd", || {
            recorded(&system, &format!("true '{VALUE}'")).contains("[redacted:vault-secret:").then_some(())
        });
        let old = recorded(&system, "true 'no such thing'");
        assert_eq!(old, "true 'no such thing'");
    }
}

#[test]
fn pattern_of_the_configuration_is_used_and_a_bad_one_refuses_the_start_with_its_place() {
    let mut system = System::prepare(As::Root, &Sandbox::Native);
    let path = system.state().join("moltbot.json");
    let plain: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let with = |patterns: &[&str]| {
        let mut config = plain.clone();
        config["logging"] = serde_json::json!({ "redactPatterns": patterns });
        std::fs::write(&path, config.to_string()).unwrap();
    };
    with(&["ticket-[0-9]+", "(never closed"]);
    let refused = system.moltbot(&["up", "--port", "0"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("logging.redactPatterns[1]"), "{text}");
    with(&["ticket-[0-9]+"]);
    system.up();
    let said = recorded(&system, "echo ticket-4711");
    assert!(said.starts_with("echo [redacted:pattern-0:"), "{said}");
}
