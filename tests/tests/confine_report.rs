//! `moltbot confine-report` over real processes: what it says of them is what the kernel says.

use serde_json::Value;
use system_tests::{As, Sandbox, System, in_both_layouts};

fn report(system: &System) -> Value {
    serde_json::from_str(&system.says(&["confine-report", "--json"])).unwrap()
}

fn field(pid: u64, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

in_both_layouts! {
    fn report_joins_each_wall_with_the_process_behind_it(system: System) {
        let report = report(&system);
        assert_eq!(report["running"], true);
        let roles = report["roles"].as_array().unwrap();
        assert_eq!(roles.len(), 8);
        for role in roles {
            assert_eq!(role["deviations"], serde_json::json!([]), "{}", role["role"]);
            let Some(pid) = role["live"]["pid"].as_u64() else {
                assert_eq!(role["role"], "launcher", "every other role runs");
                continue;
            };
            assert_eq!(field(pid, "Seccomp"), role["live"]["seccomp"].to_string());
            assert_eq!(field(pid, "NoNewPrivs"), "1");
            // ENOSYS, EACCES where some calls are answered so, and the list; broker's filter is the first of each child.
            let own = match role["role"].as_str() {
                Some("launcher") => 4,
                Some("auditd" | "vault" | "gateway") => 2,
                _ => 3,
            };
            let filters = if role["role"] == "broker" { 3 } else { 3 + own };
            assert_eq!(field(pid, "Seccomp_filters"), filters.to_string(), "{}", role["role"]);
        }
    }

    fn report_in_words_names_pids_and_rules(system: System) {
        let text = system.says(&["confine-report"]);
        assert!(!text.contains('\x1b'), "no colours away from a terminal");
        for role in ["broker", "auditd", "vault", "sandboxd", "dialer", "egress", "gateway"] {
            assert!(text.contains(&format!("{role}  pid {} ", system.pid(role))), "{role}: {text}");
        }
        assert!(text.contains("accept4") && text.contains("prot without PROT_EXEC"), "{text}");
    }
}

#[test]
fn report_without_a_running_moltbot_shows_the_design_and_says_so() {
    let system = System::prepare(As::User, &Sandbox::Native);
    let report = report(&system);
    assert_eq!(report["running"], false);
    assert!(report["roles"].as_array().unwrap().iter().all(|role| role["live"].is_null()));
    assert!(system.says(&["confine-report"]).starts_with("moltbot is not running"));
}
