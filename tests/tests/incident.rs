//! The reaction to what looks like an attack, over real processes: each role falls, in both layouts, with commands running and
//! with the very roles stopped that the reaction needs.

use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, docker_socket, is_alive, is_root, signal, skip, wait_for};

const STEPS: [&str; 5] = ["freeze-intake", "end-sandboxes", "revoke-leases", "checkpoint-log", "restart-suspects"];

/// A test of a running set, as root and as an ordinary user.
macro_rules! both {
    ($($name:ident;)*) => {
        $(mod $name {
            #[test]
            fn as_root() {
                if !super::is_root() {
                    return super::skip("not root");
                }
                super::$name(super::System::start(super::As::Root, &super::Sandbox::Native));
            }

            #[test]
            fn as_user() {
                super::$name(super::System::start(super::As::User, &super::Sandbox::Native));
            }
        })*
    };
}

both! {
    each_fallen_role_is_contained_and_comes_back;
    second_incident_locks_down_until_the_operator_clears;
    running_command_is_ended_and_its_conversation_stays_apart;
    command_dies_with_a_fallen_sandboxd;
    reaction_goes_on_past_roles_that_do_not_answer;
    operator_locks_everything_even_without_a_log;
    spoiled_lockdown_file_is_a_lockdown;
}

fn mode(system: &System) -> String {
    let status: Value = serde_json::from_str(&system.says(&["lockdown", "status", "--json"])).unwrap();
    status["mode"].as_str().unwrap().to_owned()
}

fn wait_mode(system: &System, wanted: &str) {
    wait_for(&format!("mode {wanted}"), || (mode(system) == wanted).then_some(()));
}

/// What the log says of each incident, by its name.
fn incidents(system: &System) -> Vec<(String, Vec<Value>)> {
    let mut incidents: Vec<(String, Vec<Value>)> = Vec::new();
    for record in system.records("system-audit").into_iter().filter(|record| record["type"] == "incident") {
        let name = record["incident"].as_str().unwrap().to_owned();
        match incidents.iter_mut().find(|(known, _)| *known == name) {
            Some((_, records)) => records.push(record),
            None => incidents.push((name, vec![record])),
        }
    }
    incidents
}

fn wait_incidents(system: &System, count: usize) -> Vec<(String, Vec<Value>)> {
    wait_for("the log of the reaction", || {
        let found = incidents(system);
        let whole = found.iter().filter(|(_, records)| records.len() == STEPS.len()).count();
        (whole >= count).then_some(found)
    })
}

fn steps(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["step"].as_str().unwrap()).collect()
}

fn outcome<'r>(records: &'r [Value], step: &str) -> &'r str {
    records.iter().find(|record| record["step"] == step).unwrap()["outcome"].as_str().unwrap()
}

/// Makes the role fall as one does that its filter has caught.
fn fell(system: &System, role: &str) -> u32 {
    let pid = system.pid(role);
    signal(pid, Signal::SYS);
    pid
}

fn each_fallen_role_is_contained_and_comes_back(system: System) {
    let token = system.token();
    for (number, role) in ["gateway", "sandboxd", "vault", "egress", "dialer", "auditd"].into_iter().enumerate() {
        let before = system.role(role)["epoch"].as_u64().unwrap();
        let pid = fell(&system, role);
        system.wait_epoch(role, before + 1);
        wait_mode(&system, "open");
        let found = wait_incidents(&system, number + 1);
        let (_, records) = &found[number];
        assert_eq!(steps(records), STEPS, "{role}");
        assert!(records.iter().all(|record| record["severity"] == "containment"), "{role}: {records:?}");
        assert!(records[0]["detail"].as_str().unwrap().contains(role), "{records:?}");
        assert!(!is_alive(pid));
        let mut client = Client::logged_in(system.port(), &token);
        assert!(client.chat("/exec echo works", &format!("after-{role}")).contains("works"), "{role}");
        // The operator looks, so that the next one is a first one.
        let _ = system.says(&["lockdown", "clear"]);
    }
    let verified = system.moltbot(&["logs", "verify"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

fn second_incident_locks_down_until_the_operator_clears(mut system: System) {
    let token = system.token();
    let mut early = Client::logged_in(system.port(), &token);
    let _ = fell(&system, "egress");
    system.wait_epoch("egress", 2);
    wait_mode(&system, "open");
    assert_eq!(early.closed().0, 1013, "whoever was connected is shown out");
    let _ = fell(&system, "dialer");
    wait_mode(&system, "locked");
    assert_locked(&system, &token);
    // Neither a restart of a role nor one of everything opens it.
    let _ = system.says(&["gateway", "restart"]);
    assert_locked(&system, &token);
    system.down();
    system.up();
    assert_eq!(mode(&system), "locked");
    assert_locked(&system, &token);
    let status = system.says(&["status"]);
    assert!(status.contains("locked since") && status.contains("moltbot lockdown clear"), "{status}");

    let cleared: Value = serde_json::from_str(&system.says(&["lockdown", "clear", "--json"])).unwrap();
    assert_eq!(cleared["mode"], "open");
    let mut client = Client::logged_in(system.port(), &token);
    assert!(client.chat("/exec echo works", "after").contains("works"));
    assert!(system.records("system-audit").iter().any(|record| record["verb"] == "lockdown.clear"));
    system.down();
    system.up();
    assert_eq!(mode(&system), "open");
}

/// Nobody gets in by the network or by the operator's stream, nobody can open it from there, and each role holds by itself.
fn assert_locked(system: &System, token: &str) {
    let mut client = Client::connect(system.port());
    let answer = client.log_in(4, 4, token);
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(answer["error"]["code"], "UNAVAILABLE", "{answer}");
    assert!(answer.to_string().contains("LOCKDOWN"), "{answer}");
    assert_eq!(client.closed().0, 1013);
    for message in ["/exec echo no", "hello"] {
        let chat = system.moltbot(&["chat", message]);
        assert!(!chat.status.success() && !String::from_utf8_lossy(&chat.stdout).contains("no\n"));
    }
    for method in ["lockdown.clear", "lockdown", "health"] {
        let called = system.moltbot(&["gateway", "call", method]);
        assert!(!called.status.success(), "{method}");
    }
    assert_eq!(mode(system), "locked");
}

/// Pids of processes with this text in their command line.
fn with(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(text) && *pid != std::process::id()
    };
    pids.filter(has).collect()
}

/// Begins a command that runs for long, in a conversation of its own; returns its client and the text that its process shows.
fn long_command(system: &System, token: &str, session: &str) -> (Client, String) {
    let mut client = Client::logged_in(system.port(), token);
    let seconds = format!("{}.{}", 300 + std::process::id() % 97, system.port());
    let params =
        json!({ "sessionKey": session, "message": format!("/exec sleep {seconds}"), "idempotencyKey": session });
    let _ = client.call("chat.send", &params);
    let text = format!("sleep {seconds}");
    wait_for("the command to run", || (!with(&text).is_empty()).then_some(()));
    (client, text)
}

fn running_command_is_ended_and_its_conversation_stays_apart(system: System) {
    let token = system.token();
    let (_client, text) = long_command(&system, &token, "agent:main:suspect");
    let _ = fell(&system, "gateway");
    system.wait_epoch("gateway", 2);
    wait_mode(&system, "open");
    assert!(with(&text).is_empty(), "its sandbox outlived the reaction");
    let found = wait_incidents(&system, 1);
    let ended = found[0].1.iter().find(|record| record["step"] == "end-sandboxes").unwrap();
    assert!(ended["detail"].as_str().unwrap().contains("commands"), "{ended}");

    let say = |session: &str, run: &str| {
        let mut client = Client::logged_in(system.port(), &token);
        let params = json!({ "sessionKey": session, "message": "/exec echo works", "idempotencyKey": run });
        let _ = client.call("chat.send", &params);
        loop {
            let event = client.event("chat");
            if event["runId"] == run && event["state"] != "delta" {
                return event.to_string();
            }
        }
    };
    let apart = say("agent:main:suspect", "one");
    assert!(apart.contains("quarantine") && !apart.contains("works\\n"), "{apart}");
    assert!(say("agent:main:other", "two").contains("works"));
    // A new sandboxd is told as well.
    system.kill("sandboxd");
    system.wait_epoch("sandboxd", 2);
    assert!(say("agent:main:suspect", "three").contains("quarantine"));
    let shown = system.says(&["lockdown", "status"]);
    assert!(shown.contains("agent:main:suspect"), "{shown}");
    let refused = system.records("command-audit").into_iter().filter(|record| record["type"] == "refused");
    assert!(refused.into_iter().any(|record| record["sessionKey"] == "agent:main:suspect"));

    let _ = system.says(&["lockdown", "clear"]);
    assert!(say("agent:main:suspect", "four").contains("works"));
}

fn command_dies_with_a_fallen_sandboxd(system: System) {
    let token = system.token();
    let (_client, text) = long_command(&system, &token, "agent:main:main");
    let _ = fell(&system, "sandboxd");
    system.wait_epoch("sandboxd", 2);
    wait_mode(&system, "open");
    wait_for("the end of the sandbox", || with(&text).is_empty().then_some(()));
    let found = wait_incidents(&system, 1);
    assert_eq!(steps(&found[0].1), STEPS);
    assert!(Client::logged_in(system.port(), &token).chat("/exec echo works", "after").contains("works"));
}

fn reaction_goes_on_past_roles_that_do_not_answer(system: System) {
    let token = system.token();
    let stopped: Vec<u32> = ["gateway", "vault", "auditd"].map(|role| system.pid(role)).to_vec();
    stopped.iter().for_each(|pid| signal(*pid, Signal::STOP));
    let begun = Instant::now();
    let _ = fell(&system, "egress");
    for role in ["gateway", "vault", "auditd", "egress"] {
        system.wait_epoch(role, 2);
    }
    wait_mode(&system, "open");
    assert!(begun.elapsed() < Duration::from_secs(90));
    assert!(stopped.iter().all(|pid| !is_alive(*pid)));
    let found = wait_incidents(&system, 1);
    let records = &found[0].1;
    assert_eq!(steps(records), STEPS);
    for step in ["freeze-intake", "revoke-leases", "checkpoint-log"] {
        assert_eq!(outcome(records, step), "timed-out", "{records:?}");
    }
    assert_eq!(outcome(records, "end-sandboxes"), "done", "{records:?}");
    assert!(Client::logged_in(system.port(), &token).chat("/exec echo works", "after").contains("works"));
}

fn operator_locks_everything_even_without_a_log(system: System) {
    let token = system.token();
    let mut client = Client::logged_in(system.port(), &token);
    client.send("unknown", "lockdown.on", &json!({}));
    assert_eq!(client.answer("unknown")["ok"], false, "no client can lock, either");
    assert_eq!(mode(&system), "open");
    signal(system.pid("auditd"), Signal::STOP);
    let locked: Value = serde_json::from_str(&system.says(&["lockdown", "on", "--json"])).unwrap();
    assert_eq!(locked["mode"], "locked");
    assert!(locked["why"].as_str().unwrap().contains("operator"), "{locked}");
    system.wait_epoch("auditd", 2);
    assert_locked(&system, &token);
    let _ = system.says(&["lockdown", "clear"]);
    assert!(Client::logged_in(system.port(), &token).chat("/exec echo works", "after").contains("works"));
}

fn spoiled_lockdown_file_is_a_lockdown(mut system: System) {
    let token = system.token();
    system.down();
    let path = system.state().join("lockdown.json");
    std::fs::write(&path, "{\"mode\":\"Open\"").unwrap();
    let owner = std::fs::metadata(system.state()).unwrap().uid();
    std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
    system.up();
    assert_locked(&system, &token);
    let _ = system.says(&["lockdown", "clear"]);
    assert!(!system.state().join("lockdown.json").exists());
    let _ = Client::logged_in(system.port(), &token);
}

#[test]
fn drift_that_the_kernel_reports_is_a_lockdown() {
    if !is_root() {
        return skip("not root: nothing can be mounted over /proc");
    }
    let system = System::start(As::Root, &Sandbox::Native);
    let pid = system.pid("egress");
    // What broker would read had the role gained a capability: the kernel's own words, one bit changed, in their place.
    let path = format!("/proc/{pid}/status");
    let real = std::fs::read_to_string(&path).unwrap();
    let changed = real.replace("CapEff:\t0000000000000000", "CapEff:\t0000000000200000");
    assert_ne!(real, changed);
    let fake = system.state().join("status");
    std::fs::write(&fake, changed).unwrap();
    std::os::unix::fs::chown(&fake, Some(60_600), Some(60_600)).unwrap();
    let mounted = std::process::Command::new("mount").arg("--bind").arg(&fake).arg(&path).status().unwrap();
    if !mounted.success() {
        return skip("a mount over /proc/<pid>/status is forbidden here");
    }
    wait_mode(&system, "locked");
    assert!(!is_alive(pid));
    let found = wait_incidents(&system, 1);
    assert!(found[0].1.iter().all(|record| record["severity"] == "lockdown"), "{found:?}");
    let records = system.records("system-audit");
    assert!(records.iter().any(|record| record["event"] == "drift" && record["role"] == "egress"), "{records:?}");
    system.wait_epoch("egress", 2);
    assert_eq!(mode(&system), "locked");
}

#[test]
fn attestation_of_every_role_is_live() {
    let system = System::start(As::User, &Sandbox::Native);
    let _ = system.chat("/exec echo warm");
    // Twice each role's is found to be of later than this moment: of a round, and not of the start.
    for _ in 0..2 {
        let began = Instant::now();
        wait_for("a round of attestation", || {
            let asked = began.elapsed();
            let status = system.status();
            let rows = status["roles"].as_array().unwrap();
            let mut roles = rows.iter().filter(|row| row["role"] != "broker");
            roles.all(|row| u128::from(row["attestedMsAgo"].as_u64().unwrap()) < asked.as_millis()).then_some(())
        });
    }
}

#[test]
fn containers_end_with_the_incident() {
    let Some(socket) = docker_socket() else { return };
    let system = System::start(As::Root, &Sandbox::Docker(socket.clone()));
    let docker = |args: &[&str]| {
        let mut command = std::process::Command::new("docker");
        let output = command.args(args).env("DOCKER_HOST", format!("unix://{}", socket.display())).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // One that is not ours must stay.
    let foreign =
        docker(&["run", "--rm", "-d", "--network", "none", "moltbot-sandbox", "sleep", "300"]).trim().to_owned();
    assert!(system.chat("/exec echo warm").contains("warm"));
    let token = system.token();
    let (_client, text) = long_command(&system, &token, "agent:main:busy");
    let labelled = || docker(&["ps", "-aq", "--filter", "label=moltbot.instance"]).lines().count();
    let before = labelled();
    assert!(before >= 2, "{before} containers");
    let begun = Instant::now();
    let _ = system.says(&["lockdown", "on"]);
    let took = begun.elapsed();
    assert!(with(&text).is_empty(), "a command outlived the lockdown");
    let running = docker(&["ps", "-q", "--no-trunc"]);
    assert!(running.contains(&foreign), "a container that is not ours was touched");
    let _ = docker(&["rm", "-f", &foreign]);
    eprintln!("{before} containers ended, everything locked in {} ms", took.as_millis());
    let found = wait_incidents(&system, 1);
    let ended = found[0].1.iter().find(|record| record["step"] == "end-sandboxes").unwrap();
    assert!(ended["detail"].as_str().unwrap().contains("2 containers"), "{ended}");
}
