//! What a user of Moltbot is promised, over real processes, as root and as an ordinary user.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use system_tests::client::Client;
use system_tests::{As, System, in_both_layouts, is_alive, signal, wait_for};

const ROLES: [&str; 7] = ["broker", "auditd", "vault", "sandboxd", "dialer", "egress", "gateway"];

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn status_field(pid: u64, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{field}:"))).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

/// Every regular file beneath a directory.
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn check_chain(system: &System, stream: &str) -> usize {
    let text = std::fs::read_to_string(system.state().join(format!("logs/{stream}.jsonl"))).unwrap();
    let mut prev = "0".repeat(64);
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["prev"], prev.as_str(), "{line}");
        let mut hash = Sha256::new();
        hash.update([0u8]);
        hash.update(line);
        prev = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    }
    text.lines().count()
}

in_both_layouts! {
    fn seven_processes_run_confined_and_attested(system: System) {
        let status = system.status();
        assert_eq!(status["ready"], true);
        let rows = status["roles"].as_array().unwrap();
        for name in ROLES {
            let row = rows.iter().find(|row| row["role"] == name).unwrap();
            let pid = row["pid"].as_u64().unwrap();
            assert_eq!(row["state"], "ready", "{name}");
            assert_eq!(status_field(pid, "NoNewPrivs"), "1", "{name}");
            assert_eq!(status_field(pid, "Seccomp"), "2", "{name}");
            if name != "broker" {
                for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                    assert_eq!(status_field(pid, set), "0000000000000000", "{name} {set}");
                }
                assert_eq!(row["capabilities"], "0000000000000000", "{name}");
                assert!(row["landlockAbi"].as_u64().unwrap() >= 6, "{name}");
            }
        }
        let uids: BTreeSet<u64> = rows.iter().map(|row| row["uid"].as_u64().unwrap()).collect();
        match system.who() {
            As::Root => {
                assert_eq!(uids.len(), rows.len());
                assert!(!uids.contains(&0));
                assert_eq!(status["layout"], "split-uid");
            }
            As::User => {
                assert_eq!(uids.len(), 1);
                assert_eq!(status["layout"], "single-uid");
            }
        }
    }

    fn processes_hold_the_expected_kinds_of_descriptors(system: System) {
        if !system_tests::is_root() {
            return system_tests::skip("only root may read the descriptors of a process that is not dumpable");
        }
        for name in ROLES.into_iter().filter(|name| *name != "broker") {
            let pid = system.pid(name);
            let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            for link in links.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap()) {
                let link = link.to_string_lossy().into_owned();
                let state = system.state().to_string_lossy().into_owned();
                let own: &[&str] = match name {
                    "auditd" => &["/logs"],
                    "vault" => &["/keys", "/vault"],
                    "gateway" => &["/sessions"],
                    "sandboxd" | "launcher" => &["/workspaces"],
                    _ => &[],
                };
                let known = ["/dev/null", "pipe:", "socket:", "anon_inode:"].iter().any(|kind| link.starts_with(kind))
                    || own.iter().any(|dir| link.starts_with(&format!("{state}{dir}")))
                    // Under its wall for reading alone; environment and memory of others are closed there (ADR 36).
                    || (name == "sandboxd" && link == "/proc");
                assert!(known, "{name} holds {link}");
            }
        }
    }

    fn first_start_makes_the_state_private(system: System) {
        let state = system.state();
        for dir in [".", "logs", "keys", "vault", "sessions", "workspaces", "run"] {
            assert_eq!(mode(&state.join(dir)), 0o700, "{dir}");
        }
        assert_eq!(mode(&state.join("keys/secrets.key")), 0o400);
        assert_eq!(mode(&state.join("vault/vault.db")), 0o600);
        assert_eq!(mode(&state.join("moltbot.json")), 0o600);
    }

    fn token_is_long_mixed_in_the_vault_alone_and_its_reveal_is_recorded(system: System) {
        let token = system.token();
        assert!(token.len() >= 32);
        assert!(token.chars().collect::<BTreeSet<_>>().len() >= 20);
        for file in files(system.state()) {
            let bytes = std::fs::read(&file).unwrap();
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{} holds the token", file.display());
        }
        let records = system.records("secret-audit");
        assert!(records.iter().any(|record| record["verb"] == "reveal" && record["success"] == true), "{records:?}");
        let verbs = system.records("system-audit");
        assert!(verbs.iter().any(|record| record["verb"] == "gateway.token.reveal"));
    }

    fn chat_answers_text_commands_and_says_how_it_stands_with_models(system: System) {
        let help = system.chat("/help");
        for command in ["/help", "/status", "/exec", "/new", "/stop"] {
            assert!(help.contains(command), "{help}");
        }
        assert!(system.chat("how are you?").to_lowercase().contains("model"), "no word on models");
    }

    fn exec_runs_in_a_sandbox_and_not_on_the_host(system: System) {
        let uname = system.chat("/exec uname -a");
        assert!(uname.contains("Linux"), "{uname}");
        let marker = system.state().parent().unwrap().join("host-marker");
        std::fs::write(&marker, "x").unwrap();
        std::fs::set_permissions(&marker, std::fs::Permissions::from_mode(0o644)).unwrap();
        let peek = system.chat(&format!("/exec cat {}", marker.display()));
        assert!(peek.contains("No such file") || peek.contains("can't open") || peek.contains("denied"), "{peek}");
        let write = system.chat("/exec echo kept > /workspace/file && cat /workspace/file");
        assert!(write.contains("kept"), "{write}");
        let root = system.chat("/exec touch /usr/x || echo refused");
        assert!(root.contains("refused"), "{root}");
        let network = system.chat("/exec cat /proc/net/dev 2>/dev/null | grep -v lo: | grep : || echo none");
        assert!(network.contains("none"), "{network}");
    }

    fn exec_output_streams_as_it_comes(system: System) {
        let mut client = Client::logged_in(system.port(), &system.token());
        let message = "/exec echo first; read nothing; echo second";
        let _ = client.call("chat.send", &json!({ "sessionKey": "main", "message": message, "idempotencyKey": "s1" }));
        let mut deltas = 0;
        let last = loop {
            let event = client.event("chat");
            if event["state"] == "final" {
                break event["message"]["content"][0]["text"].as_str().unwrap().to_owned();
            }
            assert!(event["deltaText"].is_string());
            deltas += 1;
        };
        assert!(deltas >= 1);
        assert!(last.contains("first") && last.contains("second"), "{last}");
    }

    fn command_has_a_durable_intent_and_an_outcome_in_a_chained_log(system: System) {
        let _ = system.chat("/exec exit 7");
        let records = system.records("command-audit");
        let intent = records.iter().position(|record| record["type"] == "intent").unwrap();
        let outcome = records.iter().position(|record| record["type"] == "outcome").unwrap();
        assert!(intent < outcome);
        assert_eq!(records[intent]["command"], "exit 7");
        assert_eq!(records[intent]["sandbox"], true);
        assert_eq!(records[outcome]["exitCode"], 7);
        assert_eq!(records[intent]["runId"], records[outcome]["runId"]);
        assert!(check_chain(&system, "command-audit") >= 2);
        assert!(check_chain(&system, "system-audit") >= 7);
    }

    fn login_is_recorded_before_it_is_answered(system: System) {
        let token = system.token();
        let mut client = Client::connect(system.port());
        assert_eq!(client.log_in(4, 4, &token)["ok"], true);
        assert!(system.records("auth-audit").iter().any(|record| record["success"] == true && record["method"] == "token"));
        let mut stranger = Client::connect(system.port());
        assert_eq!(stranger.log_in(4, 4, "not the token")["ok"], false);
        let raw = std::fs::read_to_string(system.state().join("logs/auth-audit.jsonl")).unwrap();
        assert!(raw.contains("\"success\":false") && raw.contains("token_mismatch"), "{raw}");
        assert!(check_chain(&system, "auth-audit") >= 2);
    }

    fn silent_auditd_means_no_command_and_no_login(system: System) {
        let token = system.token();
        let mut client = Client::logged_in(system.port(), &token);
        // A conversation that is not open yet would not be opened.
        let _ = client.chat("/help", "r0");
        let auditd = system.pid("auditd");
        signal(auditd, rustix::process::Signal::STOP);
        let refused = client.chat("/exec touch /workspace/ran", "r1");
        let mut other = Client::connect(system.port());
        let login = other.log_in(4, 4, &token);
        signal(auditd, rustix::process::Signal::CONT);
        assert!(refused.contains("audit.unwritable"), "{refused}");
        assert_eq!(login["ok"], false, "{login}");
        wait_for("auditd", || client.chat("/exec ls /workspace", "r2").contains("[exit 0").then_some(()));
        assert!(!client.chat("/exec ls /workspace", "r3").contains("ran"));
    }

    fn five_failures_lock_an_address_out_and_a_restart_does_not_forget(system: System) {
        let mut system = system;
        let token = system.token();
        for _ in 0..5 {
            let mut client = Client::connect(system.port());
            let answer = client.log_in(4, 4, "wrong-token-wrong-token-wrong-token");
            assert_eq!(answer["ok"], false);
            assert_eq!(client.closed().0, 1008);
        }
        let locked = |system: &System| {
            let mut client = Client::connect(system.port());
            let answer = client.log_in(4, 4, &token);
            assert_eq!(answer["ok"], false, "{answer}");
            assert_eq!(answer["error"]["details"]["code"], "AUTH_RATE_LIMITED", "{answer}");
        };
        locked(&system);
        system.down();
        system.up();
        locked(&system);
    }

    fn killed_role_comes_back_and_the_chat_goes_on(system: System) {
        let token = system.token();
        let mut client = Client::logged_in(system.port(), &token);
        for role in ["sandboxd", "vault", "auditd", "egress", "dialer"] {
            system.kill(role);
            system.wait_epoch(role, 2);
            assert!(client.chat("/exec echo alive", role).contains("alive"), "after {role}");
            let _ = Client::logged_in(system.port(), &token);
        }
    }

    fn killed_gateway_refuses_no_client_and_keeps_the_history(system: System) {
        let token = system.token();
        let _ = Client::logged_in(system.port(), &token).chat("/exec echo remembered", "h1");
        system.kill("gateway");
        // At once: the listener is broker's, so this connection waits in its queue.
        let mut client = Client::logged_in(system.port(), &token);
        let history = client.call("chat.history", &json!({ "sessionKey": "main" }));
        assert!(history["messages"].to_string().contains("remembered"), "{history}");
        system.wait_epoch("gateway", 2);
    }

    fn killed_broker_takes_everything_down(system: System) {
        let _ = system.chat("/exec echo warm");
        let pids: Vec<u32> = system.status()["roles"].as_array().unwrap().iter().map(|row| u32::try_from(row["pid"].as_u64().unwrap()).unwrap()).collect();
        let broker = system.pid("broker");
        signal(broker, rustix::process::Signal::KILL);
        for pid in pids {
            wait_for("the end of every process", || (!is_alive(pid)).then_some(()));
        }
        assert!(std::net::TcpStream::connect(("127.0.0.1", system.port())).is_err());
        assert_eq!(system.moltbot(&["status"]).status.code(), Some(3));
    }

    fn set_comes_up_again_after_its_broker_was_killed(system: System) {
        let mut system = system;
        let token = system.token();
        signal(system.pid("broker"), rustix::process::Signal::KILL);
        wait_for("the end of the set", || (system.moltbot(&["status"]).status.code() == Some(3)).then_some(()));
        wait_for("a new set", || system.moltbot(&["up", "--port", "0"]).status.success().then_some(()));
        assert_eq!(system.token(), token);
        system.down();
        system.up();
    }

    fn down_stops_in_order_and_auditd_last(system: System) {
        system.down();
        let records = system.records("system-audit");
        let events: Vec<&str> = records.iter().filter(|record| record["type"] == "lifecycle").map(|record| record["event"].as_str().unwrap()).collect();
        assert_eq!(events, ["started", "stopping", "stopped"]);
        let last = records.last().unwrap();
        assert_eq!(last["event"], "stopped", "{last}");
        assert!(!system.state().join("run/operator.sock").exists());
    }

    fn sigterm_drains_and_stops(system: System) {
        let broker = system.pid("broker");
        let mut client = Client::logged_in(system.port(), &system.token());
        signal(broker, rustix::process::Signal::TERM);
        let _ = client.event("shutdown");
        assert_eq!(client.closed().0, 1012);
        wait_for("broker's end", || (!is_alive(broker)).then_some(()));
        assert_eq!(system.records("system-audit").last().unwrap()["event"], "stopped");
    }

    fn second_start_is_refused_with_the_first_ones_pid(system: System) {
        let broker = system.pid("broker").to_string();
        let output = system.moltbot(&["up", "--port", "0"]);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("pid {broker}")));
        assert_eq!(system.pid("broker").to_string(), broker);
    }

    fn protocols_three_and_four_are_spoken_and_others_refused(system: System) {
        let token = system.token();
        for (min, max, spoken) in [(3, 3, 3), (4, 4, 4), (3, 4, 4)] {
            let mut client = Client::connect(system.port());
            let hello = client.log_in(min, max, &token);
            assert_eq!(hello["ok"], true, "{hello}");
            let payload = &hello["payload"];
            assert_eq!(payload["type"], "hello-ok");
            assert_eq!(payload["protocol"], spoken);
            for field in ["/server/version", "/server/connId", "/features/methods", "/features/events", "/snapshot/presence", "/snapshot/health", "/snapshot/stateVersion/health", "/snapshot/uptimeMs", "/policy/maxPayload", "/policy/maxBufferedBytes", "/policy/tickIntervalMs", "/auth/role", "/auth/scopes"] {
                assert!(payload.pointer(field).is_some(), "{field}");
            }
            for method in ["health", "status", "agents.list", "sessions.list", "models.list", "config.get"] {
                let _ = client.call(method, &json!({}));
            }
        }
        let mut client = Client::connect(system.port());
        let answer = client.log_in(9, 9, &token);
        assert_eq!(answer["ok"], false);
        assert_eq!(client.closed().0, 1002);
    }

    fn bad_frames_are_answered_by_the_rules_and_end_no_process(system: System) {
        let token = system.token();
        let before: Vec<Value> = system.status()["roles"].as_array().unwrap().iter().map(|row| row["pid"].clone()).collect();

        let mut order = Client::connect(system.port());
        let _ = order.event("connect.challenge");
        order.send("1", "health", &json!({}));
        let answer = order.answer("1");
        assert!(answer["error"]["message"].as_str().unwrap().contains("first request must be connect"), "{answer}");
        assert_eq!(order.closed().0, 1008);

        let mut wrong = Client::connect(system.port());
        assert_eq!(wrong.log_in(4, 4, "x")["ok"], false);
        let (code, reason) = wrong.closed();
        assert_eq!(code, 1008);
        assert!(reason.contains("token mismatch"), "{reason}");

        let mut large = Client::logged_in(system.port(), &token);
        large.send_text(&"x".repeat(600_000));
        assert_eq!(large.closed().0, 1009);

        let mut method = Client::logged_in(system.port(), &token);
        method.send("u", "no.such.method", &json!({}));
        assert!(method.answer("u")["error"]["message"].as_str().unwrap().contains("unknown method: no.such.method"));
        method.send_text("{\"type\":\"nonsense\",\"id\":\"n\"}");
        assert_eq!(method.answer("n")["ok"], false);
        method.send_text("{ not json");
        assert_eq!(method.call("health", &json!({}))["ok"], true);

        let mut garbage = Client::connect(system.port());
        garbage.send_bytes(&[0xff; 64]);
        assert!(matches!(garbage.closed().0, 1003 | 1008));

        let after: Vec<Value> = system.status()["roles"].as_array().unwrap().iter().map(|row| row["pid"].clone()).collect();
        assert_eq!(before, after);
    }

    fn configuration_that_does_not_load_stops_the_start(system: System) {
        system.down();
        std::fs::write(system.state().join("moltbot.json"), "{ gatewy: {} }").unwrap();
        let output = system.moltbot(&["up", "--port", "0"]);
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("gatewy"));
    }

    fn config_get_shows_no_secret(system: System) {
        let token = system.token();
        let config = Client::logged_in(system.port(), &token).call("config.get", &json!({}));
        assert!(!config.to_string().contains(&token));
        assert_eq!(config["valid"], true);
    }

    fn operator_socket_is_the_owners(system: System) {
        let socket = std::fs::metadata(system.state().join("run/operator.sock")).unwrap();
        assert_eq!(socket.permissions().mode() & 0o007, 0);
        if system.who() == As::User && system_tests::is_root() {
            assert_eq!(socket.uid(), system_tests::USER);
        }
    }
}
