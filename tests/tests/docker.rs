//! The Docker backend, with a real engine. The engine's socket comes by `MOLTBOT_TEST_DOCKER_SOCKET`.

#[path = "../../sandboxd/tests/fake/mod.rs"]
mod fake;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, docker_socket, is_alive, is_root, signal, skip, wait_for};

/// One test at a time: each looks for the container that its own command made.
static ENGINE: Mutex<()> = Mutex::new(());

fn system(who: As) -> Option<(System, PathBuf, MutexGuard<'static, ()>)> {
    if !is_root() {
        skip("only root can be sure to reach the engine's socket, and to become a user who may");
        return None;
    }
    let socket = docker_socket()?;
    let guard = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    Some((System::start(who, &Sandbox::Docker(socket.clone())), socket, guard))
}

/// Makes each function a test as root and one as an ordinary user in the engine's group.
macro_rules! in_both_layouts {
    ($(fn $name:ident($system:ident: System, $socket:ident: &Path) $body:block)*) => {
        $(fn $name($system: System, $socket: &Path) $body)*
        mod as_root {
            $(#[test] fn $name() {
                if let Some((system, socket, _guard)) = super::system(super::As::Root) {
                    super::$name(system, &socket);
                }
            })*
        }
        mod as_user {
            $(#[test] fn $name() {
                if let Some((system, socket, _guard)) = super::system(super::As::User) {
                    super::$name(system, &socket);
                }
            })*
        }
    };
}

fn docker(socket: &Path, args: &[&str]) -> String {
    let output =
        Command::new("docker").arg("--host").arg(format!("unix://{}", socket.display())).args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The containers of this Moltbot, by its label.
fn containers(socket: &Path, instance: &str) -> Vec<String> {
    docker(socket, &["ps", "-aq", "--no-trunc", "--filter", &format!("label=moltbot.instance={instance}")])
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The container that a chat's first command made, and the label on it.
fn only_container(socket: &Path, before: &[String]) -> (String, String) {
    let all = docker(socket, &["ps", "-aq", "--no-trunc", "--filter", "label=moltbot.instance"]);
    let id = all.lines().find(|id| !before.iter().any(|old| old == id)).expect("a container").to_owned();
    let label = docker(socket, &["inspect", "--format", "{{index .Config.Labels \"moltbot.instance\"}}", &id]);
    (id, label)
}

fn present(socket: &Path) -> Vec<String> {
    docker(socket, &["ps", "-aq", "--no-trunc"]).lines().map(str::to_owned).collect()
}

in_both_layouts! {
    fn exec_runs_in_a_hardened_container(system: System, socket: &Path) {
        let before = present(socket);
        assert_eq!(system.status()["sandbox"]["backend"], "docker");
        let answer = system.chat("/exec uname -n; id -u; echo kept > /workspace/f; cat /workspace/f");
        assert!(answer.contains("sandbox\n65534\nkept"), "{answer}");
        assert!(answer.contains("docker"), "{answer}");
        let status = system.chat("/exec grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status");
        for field in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(field), "{status}");
        }
        assert!(system.chat("/exec touch /x || echo refused").contains("refused"));
        assert!(system.chat("/exec ls /sys/class/net").contains("lo\n[exit 0"));
        let (id, _) = only_container(socket, &before);
        let inspect = docker(socket, &["inspect", "--format", "{{json .HostConfig}}", &id]);
        let host: serde_json::Value = serde_json::from_str(&inspect).unwrap();
        assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["ReadonlyRootfs"], true);
        assert!(
            host["Memory"].as_i64().unwrap() > 0
                && host["PidsLimit"].as_i64().unwrap() > 0
                && host["NanoCpus"].as_i64().unwrap() > 0
        );
        let records = system.records("command-audit");
        assert!(records.iter().any(|record| record["type"] == "intent" && record["backend"] == "docker"));
    }

    fn engine_s_versions_stand_in_the_status_and_in_the_log(system: System, socket: &Path) {
        let engine = system.status()["sandbox"]["engine"].clone();
        assert_eq!(engine["versions"]["docker"], docker(socket, &["version", "--format", "{{.Server.Version}}"]), "{engine}");
        let runc = engine["versions"]["runc"].as_str().unwrap();
        let findings = engine["findings"].as_array().unwrap();
        // No version of that branch has the fix.
        let flagged = findings.iter().any(|finding| finding["id"] == "CVE-2025-31133");
        assert!(!runc.starts_with("1.1.") || flagged, "{engine}");
        let taken = wait_for("a record of the engine", || {
            system.records("system-audit").into_iter().find(|record| record["event"] == "engine")
        });
        assert!(taken["detail"].as_str().unwrap().contains(runc), "{taken}");
    }

    fn exit_status_and_both_outputs_arrive(system: System, _socket: &Path) {
        let answer = system.chat("/exec echo out; echo err >&2; exit 3");
        assert!(answer.contains("out") && answer.contains("err") && answer.contains("[exit 3"), "{answer}");
    }

    fn aborted_command_ends_and_the_session_goes_on(system: System, _socket: &Path) {
        let mut client = Client::logged_in(system.port(), &system.token());
        let run =
            serde_json::json!({ "sessionKey": "main", "message": "/exec echo begun; sleep 100", "idempotencyKey": "a1" });
        let _ = client.call("chat.send", &run);
        while client.event("chat")["state"] != "delta" {}
        let aborted = client.call("chat.abort", &serde_json::json!({ "sessionKey": "main", "runId": "a1" }));
        assert_eq!(aborted["aborted"], true, "{aborted}");
        let mut number = 1;
        wait_for("the command's end", || {
            number += 1;
            let answer = client.chat("/exec ps | grep -c '[s]leep 100'; echo again", &format!("a{number}"));
            answer.contains("0\nagain").then_some(())
        });
    }

    fn orderly_stop_leaves_no_container(system: System, socket: &Path) {
        let before = present(socket);
        let _ = system.chat("/exec true");
        let (_, label) = only_container(socket, &before);
        assert_eq!(containers(socket, &label).len(), 1);
        system.down();
        wait_for("an empty engine", || containers(socket, &label).is_empty().then_some(()));
    }

    fn killed_broker_leaves_no_process_and_no_container(system: System, socket: &Path) {
        let before = present(socket);
        let _ = system.chat("/exec true");
        let (_, label) = only_container(socket, &before);
        let (broker, sandboxd) = (system.pid("broker"), system.pid("sandboxd"));
        signal(broker, rustix::process::Signal::KILL);
        wait_for("the end of sandboxd", || (!is_alive(sandboxd)).then_some(()));
        wait_for("an empty engine", || containers(socket, &label).is_empty().then_some(()));
    }
}

#[test]
fn missing_engine_refuses_exec_where_only_docker_is_allowed() {
    if !is_root() {
        return skip("not root");
    }
    let system = System::start(As::Root, &Sandbox::Docker("/nonexistent/docker.sock".into()));
    let answer = system.chat("/exec touch /tmp/ran");
    assert!(answer.contains("sandbox.unavailable") && answer.contains("auto"), "{answer}");
    let records = system.records("command-audit");
    assert!(
        records.iter().any(|record| record["type"] == "refused")
            && !records.iter().any(|record| record["type"] == "intent")
    );
}

/// Nothing runs in a container that is not the one that was asked for, and that one was made is an incident.
#[test]
fn engine_that_lies_is_an_incident_and_nothing_runs() {
    if !is_root() {
        return skip("not root");
    }
    let engine = fake::Engine::start(|request, answer| match answer {
        fake::Answer::Json(200, mut found) if request == format!("GET /containers/{}/json", fake::ID) => {
            found["HostConfig"]["Privileged"] = true.into();
            fake::Answer::Json(200, found)
        }
        answer => answer,
    });
    let system = System::start(As::Root, &Sandbox::Docker(engine.socket.clone()));
    let mut client = Client::logged_in(system.port(), &system.token());
    let run = serde_json::json!({ "sessionKey": "main", "message": "/exec true", "idempotencyKey": "d1" });
    let _ = client.call("chat.send", &run);
    let incident = wait_for("the incident", || {
        system.records("system-audit").into_iter().find(|record| record["type"] == "incident")
    });
    let violation = system.records("system-audit").into_iter().find(|record| record["event"] == "violation").unwrap();
    assert_eq!(violation["role"], "sandboxd", "{violation}");
    assert!(violation["detail"].as_str().unwrap().contains("Privileged"), "{violation} {incident}");
    assert!(!engine.asked().iter().any(|request| request.ends_with("/start")), "{:?}", engine.asked());
}
