//! What a responder gets: an archive whose digest the log vouches for, and the blast radius of every role.

use serde_json::Value;
use std::process::Command;
use system_tests::{As, Sandbox, System, is_root};

fn run(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program).args(args).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn report_is_read_by_other_tools_and_its_digest_is_proved_by_the_log() {
    let system = System::start(As::User, &Sandbox::Native);
    let _ = system.says(&["chat", "/exec echo find-me-in-the-report"]);
    let token = system.token();
    let out = system.state().with_file_name("report.tar");
    if is_root() {
        let parent = system.state().parent().unwrap();
        std::os::unix::fs::chown(parent, Some(system_tests::USER), Some(system_tests::USER)).unwrap();
    }
    let path = out.to_str().unwrap();
    let said: Value = serde_json::from_str(&system.says(&["incident", "report", "--out", path, "--json"])).unwrap();

    let (_, listed) = run("tar", &["-tf", path]);
    for name in ["manifest.json", "status.json", "audit.json", "config.json", "records/command-audit.jsonl"] {
        assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
    }
    let (_, commands) = run("tar", &["-xOf", path, "records/command-audit.jsonl"]);
    assert!(commands.contains("find-me-in-the-report"));
    let (_, manifest) = run("tar", &["-xOf", path, "manifest.json"]);
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let (_, sum) = run("sh", &["-c", &format!("tar -xOf {path} records/command-audit.jsonl | sha256sum")]);
    assert_eq!(sum.split(' ').next(), manifest["records/command-audit.jsonl"].as_str());
    let archive = std::fs::read(&out).unwrap();
    assert!(!archive.windows(token.len()).any(|part| part == token.as_bytes()), "the token is in the report");

    let (_, sum) = run("sha256sum", &[path]);
    let digest = sum.split(' ').next().unwrap();
    assert_eq!(said["sha256"], digest);
    let proof = format!("{path}.proof");
    assert!(
        system.says(&["logs", "check-proof", &proof]).contains(digest),
        "the record that is proved names the archive"
    );
    // A proof of something else does not pass, and a report is not written over another.
    let genuine = std::fs::read_to_string(&proof).unwrap();
    let record = genuine.lines().find_map(|line| line.strip_prefix("extra ")).unwrap();
    let forged = genuine.replace(record, &record.replacen('a', "b", 1));
    assert_ne!(genuine, forged);
    std::fs::write(format!("{path}.forged"), forged).unwrap();
    assert!(!system.moltbot(&["logs", "check-proof", &format!("{path}.forged")]).status.success());
    assert!(!system.moltbot(&["incident", "report", "--out", path]).status.success());
}

#[test]
fn blast_radius_of_every_role_is_what_its_wall_and_its_edges_leave() {
    let system = System::start(As::User, &Sandbox::Native);
    let of = |role: &str| -> Value {
        serde_json::from_str(&system.says(&["explain", "blast-radius", role, "--json"])).unwrap()
    };
    let lists = |value: &Value, key: &str, what: &str| value[key].as_array().unwrap().iter().any(|it| it == what);
    for role in ["auditd", "vault", "sandboxd", "dialer", "egress", "gateway"] {
        let radius = of(role);
        assert!(lists(&radius, "cannot", "start a program"), "{radius}");
        assert_eq!(radius["running"]["pid"], system.pid(role));
    }
    let gateway = of("gateway");
    let asks: Vec<&str> = gateway["asks"].as_array().unwrap().iter().filter_map(|it| it["role"].as_str()).collect();
    assert_eq!(asks, ["vault", "sandboxd", "egress"]);
    assert!(lists(&gateway, "cannot", "make a socket") && lists(&of("dialer"), "can", "make a socket"), "the twin");
    assert_eq!(of("egress")["hosts"], serde_json::json!([]));
    let _ = system.says(&["config", "set", "egress.allow", "['a.example.org:443']", "--yes"]);
    assert_eq!(of("egress")["hosts"], serde_json::json!(["a.example.org:443"]));
    assert!(system.says(&["explain", "blast-radius", "vault"]).contains("asks      auditd"));
    assert!(!system.moltbot(&["explain", "blast-radius", "nobody"]).status.success());
}
