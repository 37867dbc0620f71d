//! `moltbot security audit` and `moltbot doctor` over a real installation: clean when it is fresh, loud when it was opened,
//! mended by `--fix` without a link followed, and quiet again.

use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use system_tests::{As, Sandbox, System, is_root};

fn audit(system: &System, more: &[&str]) -> Value {
    let words = [&["security", "audit", "--json"][..], more].concat();
    serde_json::from_str(&system.says(&words)).unwrap()
}

fn ids(report: &Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|found| found["checkId"].as_str().unwrap()).collect()
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn fresh_installation_scores_at_least_95_without_a_critical() {
    for who in [As::User, As::Root] {
        if who == As::Root && !is_root() {
            continue;
        }
        let mut system = System::prepare(who, &Sandbox::Native);
        // As a first start has it, and not as other tests want it.
        system.set_exec(json!({}));
        system.up();
        let report = audit(&system, &["--deep"]);
        assert!(report["score"].as_u64().unwrap() >= 95, "{report}");
        assert_eq!((report["summary"]["critical"].as_u64(), report["rating"].as_str()), (Some(0), Some("EXCELLENT")));
        assert_eq!(report["deep"]["gateway"]["ok"], true, "{report}");
        let expected: &[&str] = if who == As::User { &["layout.single_uid"] } else { &[] };
        assert_eq!(ids(&report), expected, "{report}");
        assert!(system.says(&["security", "audit"]).contains("EXCELLENT"));
        let sarif: Value = serde_json::from_str(&system.says(&["security", "audit", "--sarif"])).unwrap();
        assert_eq!(sarif["runs"][0]["results"].as_array().unwrap().len(), expected.len());
        let doctor: Value = serde_json::from_str(&system.says(&["doctor", "--json"])).unwrap();
        assert_eq!(doctor["ok"], true, "{doctor}");
    }
}

#[test]
fn fix_mends_modes_and_redaction_keeps_the_rest_and_has_nothing_to_do_twice() {
    let system = System::prepare(As::User, &Sandbox::Native);
    let state = system.state();
    let config = state.join("moltbot.json");
    let text = "{\n  // mine\n  agents: { defaults: { sandbox: { backend: 'native' } } },\n  logging: { redactSensitive: 'off', level: \"${LEVEL}\" },\n}\n";
    std::fs::write(&config, text).unwrap();
    std::fs::create_dir(state.join("keys")).unwrap();
    std::fs::write(state.join("keys/secrets.key"), [7u8; 32]).unwrap();
    let outside = state.with_file_name("outside");
    std::fs::write(&outside, "x").unwrap();
    chmod(&outside, 0o666);
    std::os::unix::fs::symlink(&outside, state.join("link.json")).unwrap();
    if is_root() {
        for path in [state.join("keys"), state.join("keys/secrets.key"), config.clone(), outside.clone()] {
            std::os::unix::fs::chown(path, Some(system_tests::USER), Some(system_tests::USER)).unwrap();
        }
    }
    chmod(state, 0o777);
    chmod(&config, 0o664);
    chmod(&state.join("keys/secrets.key"), 0o644);
    chmod(&state.join("keys"), 0o755);

    let run = |more: &[&str]| -> Value {
        let mut command = system.command(&system_tests::programs().join("moltbot"));
        command.arg("--state-dir").arg(state).args(["security", "audit", "--json"]).args(more).env("LEVEL", "info");
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    };
    let before = run(&[]);
    for id in [
        "fs.state_dir.perms_world_writable",
        "fs.config.perms_writable",
        "fs.master_key.perms",
        "fs.keys_dir.perms_readable",
        "fs.config_include.symlink",
        "logging.redact_off",
    ] {
        assert!(ids(&before).contains(&id), "{id}: {before}");
    }
    let dry = run(&["--fix", "--dry-run"]);
    assert_eq!(dry["fix"]["actions"].as_array().unwrap().len(), 5, "{dry}");
    assert_eq!(
        (mode(state), std::fs::read_to_string(&config).unwrap()),
        (0o777, text.to_owned()),
        "a dry run changes nothing"
    );

    let fixed = run(&["--fix"]);
    assert_eq!(fixed["fix"]["ok"], true, "{fixed}");
    assert_eq!((mode(state), mode(&config), mode(&state.join("keys"))), (0o700, 0o600, 0o700));
    assert_eq!(mode(&state.join("keys/secrets.key")), 0o400);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text.replace("'off'", "\"tools\""));
    assert_eq!(mode(&outside), 0o666, "nothing went through the link");
    assert_eq!(ids(&fixed["report"]), ["fs.config_include.symlink", "live.not_running"], "{fixed}");
    assert_eq!(run(&["--fix"])["fix"]["actions"].as_array().unwrap().len(), 0, "there is nothing to do twice");
}

#[test]
fn deep_audit_and_doctor_find_a_log_that_was_changed() {
    let system = System::start(As::User, &Sandbox::Native);
    assert!(ids(&audit(&system, &["--deep"])).iter().all(|id| *id != "log.verify_failed"), "the twin");
    let _ = system.says(&["down"]);
    let log = system.state().join("logs/system-audit.jsonl");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, text.replacen("started", "startet", 1)).unwrap();
    assert!(ids(&audit(&system, &["--deep"])).contains(&"log.verify_failed"));
    let doctor = system.moltbot(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && said.contains("moltbot logs verify"), "{said}");
    let least = system.moltbot(&["security", "audit", "--deep", "--min-score", "85"]);
    assert_eq!(least.status.code(), Some(1));
}

#[test]
fn doctor_mends_only_when_told_and_names_what_is_bad() {
    let system = System::prepare(As::User, &Sandbox::Native);
    // Whichever port is free: another test may look at the usual one at the same moment.
    let _ = system.says(&["config", "set", "gateway.port", "0"]);
    chmod(system.state(), 0o755);
    let bad = system.moltbot(&["doctor"]);
    assert!(!bad.status.success() && String::from_utf8_lossy(&bad.stdout).contains("moltbot doctor --fix"));
    assert!(!system.moltbot(&["doctor", "--fix"]).status.success(), "without a terminal it wants --yes");
    assert_eq!(mode(system.state()), 0o755);
    let _ = system.says(&["doctor", "--fix", "--yes"]);
    assert_eq!(mode(system.state()), 0o700);
    let _ = system.says(&["gateway", "--test"]);
    std::fs::write(system.state().join("moltbot.json"), "{ gateway: { prot: 1 } }").unwrap();
    for words in [&["gateway", "test"][..], &["gateway", "--test"]] {
        let bad = system.moltbot(words);
        assert!(
            !bad.status.success() && String::from_utf8_lossy(&bad.stdout).contains("did you mean port"),
            "{words:?}"
        );
    }
    let bad = system.moltbot(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&bad.stdout).unwrap();
    let config = report["checks"].as_array().unwrap().iter().find(|check| check["check"] == "config").unwrap();
    assert!(config["standing"] == "bad" && config["text"].as_str().unwrap().contains("did you mean port"), "{config}");
}
