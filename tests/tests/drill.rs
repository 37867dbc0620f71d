//! `moltbot drill run` against a running installation, as root and as an ordinary user.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use system_tests::{System, in_both_layouts};

/// Every name beneath the state directory.
fn names(dir: &std::path::Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(names(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

fn processes(system: &System) -> Vec<(Value, Value, Value)> {
    let status = system.status();
    let rows = status["roles"].as_array().unwrap();
    rows.iter().map(|row| (row["role"].clone(), row["pid"].clone(), row["epoch"].clone())).collect()
}

in_both_layouts! {
    fn drill_finds_every_wall_held_and_is_recorded(system: System) {
        let report: Value = serde_json::from_str(&system.says(&["drill", "run", "--json"])).unwrap();
        assert_eq!(report["ok"], true, "{report}");
        assert_eq!(report["holes"], 0);
        let roles = report["roles"].as_array().unwrap();
        let names: Vec<&str> = roles.iter().map(|row| row["role"].as_str().unwrap()).collect();
        assert_eq!(names, ["broker", "auditd", "vault", "sandboxd", "dialer", "egress", "gateway", "launcher"]);
        let records = system.records("system-audit");
        for row in roles {
            let attempts = row["attempts"].as_array().unwrap();
            assert!(attempts.len() > 200, "{}", row["role"]);
            assert_eq!(row["verdicts"]["unclear"], 0, "{}", row["verdicts"]);
            // A drill that is denied nothing has attacked nothing.
            let floor = if row["role"] == "broker" { 20 } else { 80 };
            assert!(row["verdicts"]["held"].as_u64().unwrap() > floor, "{}", row["verdicts"]);
            let record = records.iter().rfind(|it| it["event"] == "drill" && it["role"] == row["role"]).unwrap();
            let detail = record["detail"].as_str().unwrap();
            assert!(detail.starts_with(&format!("{} attempts: ", attempts.len())), "{detail}");
            assert!(detail.contains(", 0 hole,"), "{detail}");
        }
        let verbs = records.iter().filter(|it| it["verb"] == "drill.start").count();
        assert_eq!(verbs, roles.len());
    }

    fn drill_shows_what_is_open_on_purpose_with_its_reason(system: System) {
        let report: Value = serde_json::from_str(&system.says(&["drill", "run", "--json"])).unwrap();
        let attempt = |role: &str, probe: &str| {
            let row = report["roles"].as_array().unwrap().iter().find(|row| row["role"] == role).unwrap();
            row["attempts"].as_array().unwrap().iter().find(|it| it["probe"] == probe).unwrap().clone()
        };
        let open = attempt("dialer", "socket_inet_stream");
        assert_eq!((open["verdict"].as_str(), open["outcome"].as_str()), (Some("open"), Some("ALLOW")));
        assert!(!open["why"].as_str().unwrap().is_empty());
        // The same attempt is the end of a process that has no such work.
        assert_eq!(attempt("vault", "socket_inet_stream")["outcome"], "KILL");
        // What broker denies everybody ends its own copy as well; and that one is attacked by what the others may not.
        assert_eq!(attempt("broker", "setresuid_root")["outcome"], "KILL");
        assert_eq!(attempt("broker", "socket_inet_stream")["verdict"], "open");
        // Behind its wall auditd's copy holds the log as auditd does.
        assert_eq!(attempt("auditd", "log_fd_map_shared")["outcome"], "KILL");
        let text = system.says(&["drill", "run"]);
        assert!(text.contains("socket_inet_stream") && text.contains("dialer: TCP outwards is its work"), "{text}");
    }

    fn drill_touches_no_role_and_leaves_no_trace(system: System) {
        // A fresh installation has no configuration, and must not be given an empty one.
        let (config, aside) = (system.state().join("moltbot.json"), system.state().with_file_name("aside.json"));
        std::fs::rename(&config, &aside).unwrap();
        let (before, files) = (processes(&system), names(system.state()));
        let _ = system.says(&["drill", "run"]);
        assert!(!config.exists());
        std::fs::rename(&aside, &config).unwrap();
        let _ = system.chat("/exec echo after");
        assert_eq!(processes(&system).iter().filter(|it| before.contains(it)).count(), before.len());
        let new: Vec<PathBuf> = names(system.state()).difference(&files).cloned().collect();
        let probes: Vec<&PathBuf> = new.iter().filter(|path| path.to_string_lossy().contains("probe")).collect();
        assert!(probes.is_empty(), "{probes:?}");
        let incidents: Vec<Value> = system.records("system-audit").into_iter().filter(|it| it["event"] == "incident").collect();
        assert!(incidents.is_empty(), "{incidents:?}");
    }
}
