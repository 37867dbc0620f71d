//! Which conversation runs where, what of the agent's workspace it sees there, and what prepares its container. With a real
//! engine, whose socket comes by `MOLTBOT_TEST_DOCKER_SOCKET`, and the real launcher.

use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, docker_socket, is_root, skip, wait_for};

/// One test at a time: the engine is one, and slow.
static ENGINE: Mutex<()> = Mutex::new(());

/// Sets keys of `agents.defaults.sandbox`; a null takes one out.
fn configure(system: &System, change: &Value) {
    let path = system.state().join("moltbot.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let sandbox = &mut config["agents"]["defaults"]["sandbox"];
    for (key, value) in change.as_object().unwrap() {
        match value.as_object() {
            Some(inner) => inner.iter().for_each(|(name, value)| sandbox[key][name] = value.clone()),
            None => sandbox[key] = value.clone(),
        }
    }
    std::fs::write(&path, config.to_string()).unwrap();
}

/// Runs `test` on a Moltbot with an engine, as root and as an ordinary user.
fn each(change: &Value, test: fn(&System)) {
    if !is_root() {
        return skip("only root can be sure to reach the engine's socket, and to become a user who may");
    }
    let Some(socket) = docker_socket() else { return };
    let _alone = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    for who in [As::Root, As::User] {
        let mut system = System::prepare(who, &Sandbox::Docker(socket.clone()));
        configure(&system, change);
        system.up();
        test(&system);
        system.down();
    }
}

/// What a conversation answers, or how it is refused.
fn say(system: &System, session: &str, message: &str) -> String {
    static RUN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let run = format!("run-{}", RUN.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let mut client = Client::logged_in(system.port(), &system.token());
    let _ = client.call("chat.send", &json!({ "sessionKey": session, "message": message, "idempotencyKey": run }));
    loop {
        let event = client.event("chat");
        if event["runId"] == run.as_str() && event["state"] != "delta" {
            return event.to_string();
        }
    }
}

fn backends(system: &System, session: &str) -> Vec<String> {
    let is_of = |record: &Value| record["type"] == "intent" && record["sessionKey"] == format!("agent:main:{session}");
    let backend = |record: &Value| record["backend"].as_str().unwrap().to_owned();
    system.records("command-audit").iter().filter(|record| is_of(record)).map(backend).collect()
}

#[test]
fn main_conversation_is_native_and_keeps_its_files_and_others_are_in_containers_without_them() {
    each(&json!({ "backend": "auto" }), |system| {
        let made = say(system, "main", "/exec echo mine > /workspace/note; cat note");
        assert!(made.contains("mine") && made.contains("native-n"), "{made}");
        let other = say(system, "work", "/exec ls /workspace /agent; echo end; id -u");
        assert!(other.contains("end") && other.contains("65534") && other.contains("docker"), "{other}");
        assert!(!other.contains("note"), "{other}");
        assert!(say(system, "main", "/exec cat note").contains("mine"));
        assert!(backends(system, "main").iter().all(|backend| backend.starts_with("native")));
        assert!(backends(system, "work").iter().all(|backend| backend == "docker"));
        let status = system.status()["sandbox"].clone();
        assert_eq!(status["backend"], "docker");
        assert!(status["detail"].as_str().unwrap().contains("main conversations have native"), "{status}");
        // The host's programs cannot be changed from there.
        let write = say(system, "main", "/exec touch /usr/bin/x || echo refused");
        assert!(write.contains("refused"), "{write}");
    });
}

#[test]
fn every_conversation_is_in_a_container_where_the_mode_is_all() {
    each(&json!({ "backend": "auto", "mode": "all" }), |system| {
        assert!(say(system, "main", "/exec id -u").contains("docker"));
        assert_eq!(backends(system, "main"), ["docker"]);
    });
}

#[test]
fn native_backend_serves_everybody_where_no_engine_does_and_that_is_said() {
    let mut system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
    configure(&system, &json!({ "backend": "auto", "docker": { "socket": "/nonexistent/engine.sock" } }));
    system.up();
    for session in ["main", "work"] {
        assert!(say(&system, session, "/exec echo here").contains("native-n"));
    }
    assert!(system.status()["sandbox"]["detail"].as_str().unwrap().contains("no Docker engine"));
    let said = wait_for("a record of it", || {
        system.records("system-audit").into_iter().find(|record| record["event"] == "engine")
    });
    assert!(said["detail"].as_str().unwrap().contains("every conversation has native"), "{said}");
    let doctor = system.moltbot(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("no Docker engine"));
}

#[test]
fn off_is_refused_without_its_flag_and_critical_with_it() {
    let system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
    configure(
        &system,
        &json!({ "backend": "auto", "mode": "off", "docker": { "socket": "/nonexistent/engine.sock" } }),
    );
    let refused = system.moltbot(&["up", "--port", "0"]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("sandbox.mode_off") && text.contains("dangerouslyAllowOff"), "{text}");

    let mut system = system;
    configure(&system, &json!({ "dangerouslyAllowOff": true }));
    system.up();
    // One workspace for all of the agent's conversations, behind the native walls.
    assert!(say(&system, "main", "/exec echo mine > note").contains("native-n"));
    let work = say(&system, "work", "/exec cat note; touch /usr/bin/x || echo refused");
    assert!(work.contains("mine") && work.contains("refused") && work.contains("native-n"), "{work}");
    let audit = system.moltbot(&["security", "audit", "--json"]);
    let audit = String::from_utf8_lossy(&audit.stdout).into_owned();
    assert!(audit.contains("sandbox.mode_off") && audit.contains("critical"), "{audit}");
}

#[test]
fn agent_s_workspace_is_read_by_others_where_that_is_configured_and_changed_by_none() {
    each(&json!({ "backend": "auto", "workspaceAccess": "ro" }), |system| {
        let _ = say(system, "main", "/exec echo mine > note; ln -s /etc/shadow out");
        let work = say(
            system,
            "work",
            "/exec cat /agent/note; touch /agent/x || echo refused; cat /agent/out; echo own > own; ls",
        );
        assert!(work.contains("mine") && work.contains("refused") && work.contains("docker"), "{work}");
        assert!(!work.contains("root:"), "a link leads within the container: {work}");
        let main = say(system, "main", "/exec ls");
        assert!(main.contains("note") && !main.contains("own"), "{main}");
    });
}

#[test]
fn agent_s_workspace_is_changed_by_others_where_that_is_configured_and_leads_nowhere_else() {
    each(&json!({ "backend": "auto", "workspaceAccess": "rw" }), |system| {
        let _ = say(system, "main", "/exec echo mine > note");
        let work = say(
            system,
            "work",
            "/exec cat note; echo theirs > note; ln /etc/passwd hard || echo no-link; ln -s /etc/hostname soft; id -u",
        );
        assert!(work.contains("mine") && work.contains("no-link") && work.contains("docker"), "{work}");
        assert!(!work.contains("\\n0\\n"), "never as root: {work}");
        // The link is resolved where it is used, which has no such file.
        let main = say(system, "main", "/exec cat note; cat soft || echo nothing");
        assert!(main.contains("theirs") && main.contains("nothing"), "{main}");
        let large = say(system, "work", "/exec head -c 70000000 /dev/zero > large; stat -c %s large");
        assert!(large.contains("67108864"), "{large}");
    });
}

#[test]
fn native_sandbox_has_the_agent_s_workspace_as_a_container_has() {
    for (access, reads, writes) in [("none", false, false), ("ro", true, false), ("rw", true, true)] {
        let mut system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
        configure(&system, &json!({ "workspaceAccess": access }));
        system.up();
        let made = say(&system, "main", "/exec echo mine > note; ln -s /etc/hostname out");
        if made.contains("native-n2") {
            return skip("user namespaces are forbidden here, so there is no /agent");
        }
        let at = if access == "rw" { "/workspace" } else { "/agent" };
        let look = format!("/exec cat {at}/note {at}/out; touch {at}/new || echo refused");
        let work = say(&system, "work", &look);
        assert_eq!(work.contains("mine"), reads, "{access}: {work}");
        assert_eq!(!work.contains("refused"), writes, "{access}: {work}");
        let main = say(&system, "main", "/exec ls");
        assert_eq!(main.contains("new"), writes, "{access}: {main}");
        system.down();
    }
}

#[test]
fn set_up_command_runs_once_in_each_container_and_is_in_the_log() {
    each(&json!({ "docker": { "setupCommand": "mkdir made && touch made/once" } }), |system| {
        for session in ["main", "work"] {
            for _ in 0..2 {
                let answer = say(system, session, "/exec ls made");
                assert!(answer.contains("once") && answer.contains("exit 0"), "{answer}");
            }
        }
        let records = system.records("command-audit");
        let set_ups: Vec<&Value> = records.iter().filter(|record| record["allowedBy"] == "setupCommand").collect();
        assert_eq!(set_ups.len(), 2, "{records:?}");
        let outcome = |run: &Value| records.iter().find(|other| other["type"] == "outcome" && other["runId"] == *run);
        assert!(set_ups.iter().all(|record| outcome(&record["runId"]).unwrap()["exitCode"] == 0));
    });
}

#[test]
fn set_up_command_that_fails_refuses_every_command_and_says_why() {
    each(&json!({ "docker": { "setupCommand": "mkdir made && mkdir made" } }), |system| {
        for _ in 0..2 {
            let answer = say(system, "main", "/exec echo ran");
            assert!(answer.contains("sandbox.setup_failed") && answer.contains("File exists"), "{answer}");
            assert!(!answer.contains("ran\\n"), "{answer}");
        }
    });
}

#[test]
fn set_up_command_that_fetches_is_refused_before_anything_starts() {
    let system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
    configure(&system, &json!({ "docker": { "setupCommand": "cu''rl http://x" } }));
    for args in [&["up", "--port", "0"][..], &["config", "validate"]] {
        let refused = system.moltbot(args);
        let text = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
        assert!(!refused.status.success() && text.contains("curl fetches"), "{args:?}: {text}");
    }
}

#[test]
fn runtime_that_the_engine_lacks_is_replaced_by_nothing_and_one_that_it_has_is_named() {
    let Some(socket) = docker_socket() else { return };
    if has_runsc(&socket) {
        return skip("this engine has runsc, so that it is lacking cannot be shown");
    }
    each(&json!({ "backend": "auto", "docker": { "runtime": "runsc" } }), |system| {
        let refused = say(system, "work", "/exec echo ran");
        assert!(refused.contains("sandbox.unavailable") && refused.contains("no runtime runsc"), "{refused}");
        assert!(say(system, "main", "/exec echo ran").contains("native-n"), "the main one is native");
        let doctor = system.moltbot(&["doctor"]);
        assert!(String::from_utf8_lossy(&doctor.stdout).contains("no runtime runsc"));
    });
    each(&json!({ "docker": { "runtime": "runc" } }), |system| {
        let answer = say(system, "work", "/exec echo ran");
        assert!(answer.contains("ran") && answer.contains("docker"), "{answer}");
    });
}

fn has_runsc(socket: &Path) -> bool {
    let output = std::process::Command::new("docker")
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        .args(["info", "--format", "{{json .Runtimes}}"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).contains("runsc")
}

/// What `moltbot sandbox explain` answers, as JSON.
fn explained(system: &System, words: &[&str]) -> Value {
    let output = system.moltbot(&[&["sandbox", "explain", "--json"], words].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn explanation_of_a_conversation_is_what_its_commands_have() {
    each(&json!({ "backend": "auto", "workspaceAccess": "ro" }), |system| {
        let (main, work) = ("agent:main:main", "agent:main:work");
        let before = explained(system, &[work]);
        assert_eq!((&before["backend"], &before["workspaceAccess"]), (&json!("docker"), &json!("ro")));
        assert_eq!((&before["running"], &before["sandbox"]["container"]), (&json!(true), &json!("")));
        assert!(before["closed"].is_null() && before["tools"].as_array().unwrap().contains(&json!("read")), "{before}");
        let _ = say(system, "work", "/exec true");
        let after = explained(system, &[work]);
        let listed = system.moltbot(&["sandbox", "list", "--json"]);
        let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let row = listed.as_array().unwrap().iter().find(|row| row["sessionKey"] == work).unwrap();
        assert_eq!(after["sandbox"]["container"], row["container"]);
        let native = explained(system, &[]);
        assert_eq!(native["sessionKey"], main);
        assert!(native["backend"].as_str().unwrap().starts_with("native"), "{native}");
        // A command is judged where it would run.
        for (session, place) in [(main, "native"), (work, "docker")] {
            assert_eq!(explained(system, &["ls", "--session", session])["backend"], place);
        }
        assert_eq!(explained(system, &["ls", "--backend", "native", "--session", work])["backend"], "native");
    });
}

#[test]
fn explanation_says_that_the_configuration_answers_where_nothing_runs_and_why_nothing_may() {
    let mut system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
    configure(&system, &json!({ "docker": { "socket": "/nonexistent/engine.sock" } }));
    let idle = explained(&system, &["agent:main:main"]);
    assert_eq!((&idle["running"], &idle["backend"]), (&json!(false), &json!("native")));
    system.up();
    assert!(explained(&system, &[])["closed"].is_null());
    assert!(system.moltbot(&["lockdown", "on"]).status.success());
    let text = system.moltbot(&["sandbox", "explain"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("nothing (") && text.contains("lockdown"), "{text}");
}

#[test]
fn native_command_that_would_leave_too_little_room_is_refused_by_name_and_doctor_says_so_before() {
    let mut system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
    let disk = |system: &System| {
        let lines = system.moltbot(&["doctor", "--json"]);
        let lines: Value = serde_json::from_slice(&lines.stdout).unwrap();
        lines["checks"].as_array().unwrap().iter().find(|line| line["check"] == "disk").unwrap().clone()
    };
    // More than any disk of a test has.
    configure(&system, &json!({ "native": { "freeSpace": "1000000g" } }));
    let line = disk(&system);
    assert!(line["standing"] == "warn" && line["text"].as_str().unwrap().contains("no native command"), "{line}");
    system.up();
    let refused = say(&system, "main", "/exec echo here");
    assert!(refused.contains("sandbox.native.floor") && refused.contains("native.freeSpace"), "{refused}");
    system.down();
    configure(&system, &json!({ "native": { "freeSpace": "64m", "freeInodes": 1024 } }));
    assert!(!disk(&system)["text"].as_str().unwrap().contains("no native command"));
    system.up();
    assert!(say(&system, "main", "/exec echo here").contains("here"));
}
