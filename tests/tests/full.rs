//! A log that cannot be written, by the whole of Moltbot: nothing is done that cannot be recorded, whoever asks is told why,
//! and with room again everything goes on with a log that verifies. The room is taken by the limit of a file's size, which
//! can be set for a process that runs (EFBIG); a full disk and a failing one are auditd's own tests (`auditd/tests/faults.rs`).

use serde_json::Value;
use std::time::{Duration, Instant};
use system_tests::client::Client;
use system_tests::{System, in_both_layouts, limit_files, wait_for};

/// How long it takes to be refused, for whoever reads it: a busy machine is no test's matter.
fn timed<T>(what: &str, ask: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = ask();
    let took: Duration = begun.elapsed();
    println!("{what} refused after {took:?}");
    answer
}

fn verifies(system: &System) -> bool {
    let rows: Value = serde_json::from_str(&system.says(&["logs", "verify", "--json"])).unwrap();
    rows.as_array().unwrap().iter().all(|row| row["ok"] == true)
}

in_both_layouts! {
    fn log_without_room_refuses_commands_logins_and_verbs_with_that_reason_until_there_is_some(system: System) {
        let token = system.token();
        let mut client = Client::logged_in(system.port(), &token);
        assert!(client.chat("/exec touch /workspace/before", "r0").contains("[exit 0"));
        let auditd = system.pid("auditd");
        limit_files(auditd, Some(1));
        let command = timed("a command", || client.chat("/exec touch /workspace/meanwhile", "r1"));
        let mut other = Client::connect(system.port());
        let login = timed("a login", || other.log_in(4, 4, &token));
        let verb = timed("a verb", || system.moltbot(&["gateway", "token", "--reveal"]));
        limit_files(auditd, None);
        for said in [&command, login["error"]["message"].as_str().unwrap()] {
            assert!(said.contains("audit.unwritable") && said.contains("File too large"), "{said}");
        }
        let said = String::from_utf8_lossy(&verb.stderr).into_owned();
        assert!(!verb.status.success() && said.contains("File too large"), "{said}");
        assert!(!String::from_utf8_lossy(&verb.stdout).contains(&token));
        // The same with room, by the same auditd.
        let listed = client.chat("/exec ls /workspace", "r2");
        assert!(listed.contains("before") && !listed.contains("meanwhile"), "{listed}");
        let _ = Client::logged_in(system.port(), &token);
        assert_eq!((system.token(), system.pid("auditd")), (token, auditd));
        wait_for("the log to be whole", || verifies(&system).then_some(()));
        for stream in ["auth-audit", "command-audit"] {
            let resumed = system.records(stream).into_iter().find(|record| record["type"] == "resumed").unwrap();
            assert!(resumed["cause"].as_str().unwrap().contains("File too large"), "{resumed}");
        }
    }
}
