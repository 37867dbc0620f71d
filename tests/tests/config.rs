//! `moltbot config` against what really runs: what is changed holds, what is refused changes nothing, and only the roles
//! that a change is about start again.

use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, in_both_layouts, is_root};

fn json_of(system: &System, words: &[&str]) -> (bool, Value) {
    let output = system.moltbot(words);
    let text = String::from_utf8_lossy(&output.stdout);
    let value = text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null);
    (output.status.success(), value)
}

fn error_of(system: &System, words: &[&str]) -> String {
    let output = system.moltbot(words);
    assert!(!output.status.success(), "{words:?} succeeded");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn file(system: &System) -> String {
    std::fs::read_to_string(system.state().join("moltbot.json")).unwrap()
}

fn epochs(system: &System) -> Vec<(String, u64)> {
    let status = system.status();
    let rows = status["roles"].as_array().unwrap();
    rows.iter().map(|row| (row["role"].as_str().unwrap().to_owned(), row["epoch"].as_u64().unwrap())).collect()
}

fn restarted(before: &[(String, u64)], after: &[(String, u64)]) -> Vec<String> {
    before.iter().zip(after).filter(|(was, is)| was.1 != is.1).map(|(was, _)| was.0.clone()).collect()
}

fn as_everybody(run: impl Fn(As)) {
    run(As::User);
    if is_root() {
        run(As::Root);
    }
}

#[test]
fn change_is_written_kept_recorded_and_restarts_whom_it_is_about() {
    as_everybody(|who| {
        let system = System::start(who, &Sandbox::Native);
        let (before, text) = (epochs(&system), file(&system));
        let owner = std::fs::metadata(system.state().join("moltbot.json")).unwrap();
        let refused = error_of(&system, &["config", "set", "egress.allow", "['api.example.org:443']"]);
        assert!(
            refused.contains("--yes") && refused.contains("+ reachable: egress to api.example.org:443"),
            "{refused}"
        );
        assert_eq!(file(&system), text);

        let words = ["config", "set", "egress.allow", "['api.example.org:443']", "--yes", "--json"];
        let (ok, said) = json_of(&system, &words);
        assert!(ok, "{said}");
        let mut named: Vec<&str> = said["restarted"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        named.sort_unstable();
        assert_eq!(named, ["dialer", "gateway"], "what the dialer may do, and what the gateway shows");
        let mut changed = restarted(&before, &epochs(&system));
        changed.sort_unstable();
        assert_eq!(changed, named);

        let kept = system.state().join("moltbot.json.bak");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), text);
        for path in [kept, system.state().join("moltbot.json")] {
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, 0o600);
            assert_eq!((found.uid(), found.gid()), (owner.uid(), owner.gid()));
        }
        let (_, value) = json_of(&system, &["config", "get", "egress.allow", "--json"]);
        assert_eq!(value, json!(["api.example.org:443"]));
        let output = system.moltbot(&["logs", "system", "--json", "--grep", "config.apply"]);
        let log = String::from_utf8(output.stdout).unwrap();
        assert!(log.contains("restarts dialer, gateway"), "{log}");

        let words = ["config", "set", "logging.redactPatterns", "['x-[0-9]{9}']", "--json"];
        let (ok, said) = json_of(&system, &words);
        assert!(
            ok && said["restarted"].as_array().unwrap().contains(&json!("auditd")),
            "it is auditd's business: {said}"
        );

        // The same thing again changes nothing, and what closes is not asked about.
        let words = ["config", "set", "egress.allow", "['api.example.org:443']", "--yes", "--json"];
        let (_, again) = json_of(&system, &words);
        assert_eq!(again["changed"], false);
        let (ok, closed) = json_of(&system, &["config", "unset", "egress.allow", "--json"]);
        assert!(ok, "{closed}");
        assert!(!file(&system).contains("allow"));
    });
}

#[test]
fn what_does_not_load_is_neither_written_nor_put_in_force() {
    let system = System::start(As::User, &Sandbox::Native);
    let (before, text) = (epochs(&system), file(&system));
    for (words, why) in [
        (&["config", "set", "gateway.prot", "1"][..], "did you mean port?"),
        (&["config", "set", "gateway.bind", "lan", "--yes"], "gateway.bind_not_loopback"),
        (&["config", "set", "channels.telegram.dmPolicy", "open", "--yes"], "pairing"),
        (
            &["config", "set", "gateway.controlUi.allowInsecureAuth", "true", "--yes"],
            "gateway.control_ui.insecure_auth",
        ),
        (&["config", "set", "logging.redactPatterns", "['(open']", "--yes"], "redactPatterns[0]"),
        (&["config", "set", "tools.exec.rules", "[{ id: 'x', nonsense: 1 }]", "--yes"], "tools.exec"),
        (&["config", "unset", "gateway.port"], "not set"),
        (&["config", "set", "a..b", "1"], "no path"),
    ] {
        let error = error_of(&system, words);
        assert!(error.contains(why), "{words:?}: {error}");
        assert_eq!(file(&system), text);
    }
    let dry = system.moltbot(&["config", "set", "gateway.port", "1", "--dry-run"]);
    let said = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert!(dry.status.success() && said.contains("nothing was changed"), "{said}");
    assert_eq!(file(&system), text);

    // Written by hand, past the command: broker refuses it, and goes on with what it has.
    std::fs::write(system.state().join("moltbot.json"), "{ gateway: { bind: 'lan' } }").unwrap();
    assert!(error_of(&system, &["config", "apply"]).contains("gateway.bind_not_loopback"));
    let invalid = system.moltbot(&["config", "validate", "--json"]);
    let report: Value = serde_json::from_slice(&invalid.stdout).unwrap();
    assert_eq!((invalid.status.code(), report["ok"].as_bool()), (Some(1), Some(false)), "{report}");
    assert_eq!((report["problems"][0]["line"].as_u64(), report["problems"][0]["column"].as_u64()), (Some(1), Some(14)));
    assert_eq!(epochs(&system), before);

    std::fs::write(system.state().join("moltbot.json"), &text).unwrap();
    assert!(system.moltbot(&["config", "apply"]).status.success(), "the twin: what loads is taken");
    assert!(system.moltbot(&["config", "validate"]).status.success());
}

#[test]
fn file_that_does_not_load_refuses_the_start_and_names_every_place() {
    let system = System::prepare(As::User, &Sandbox::Native);
    let good = file(&system);
    std::fs::write(
        system.state().join("moltbot.json"),
        "{ gateway: { bind: 'lan' },\n  tools: { canvas: { enabled: true } } }",
    )
    .unwrap();
    let error = error_of(&system, &["up", "--port", "0"]);
    assert!(
        error.contains("moltbot.json:1:14: gateway.bind") && error.contains("moltbot.json:2:22: tools.canvas"),
        "{error}"
    );
    std::fs::write(system.state().join("moltbot.json"), good).unwrap();
    assert!(system.moltbot(&["up", "--port", "0"]).status.success(), "the twin");
    assert!(system.moltbot(&["down"]).status.success());
}

#[test]
fn editor_gets_the_text_and_its_result_is_taken_only_if_it_loads() {
    let system = System::prepare(As::User, &Sandbox::Native);
    let text = file(&system);
    let edit = |script: &str| {
        let mut command = system.command(&system_tests::programs().join("moltbot"));
        command.arg("--state-dir").arg(system.state()).args(["config", "edit"]);
        let path = system.state().with_file_name("editor");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        command.env("VISUAL", path).stdin(std::process::Stdio::null()).output().unwrap()
    };
    assert!(!edit("echo '{ gatewy: {} }' > \"$1\"").status.success());
    assert!(!edit("exit 3").status.success());
    assert_eq!(file(&system), text);
    let done = edit("echo '{ /* mine */ logging: { keepDays: 30 } }' > \"$1\"");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(file(&system).contains("/* mine */"));
    let left: Vec<_> = std::fs::read_dir(system.state()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains(".edit.")), "{left:?}");
}

#[test]
fn secret_that_is_set_goes_into_the_vault_and_never_into_the_file() {
    let system = System::start(As::User, &Sandbox::Native);
    let (old, new, text) = (system.token(), "abcdefghijklmnopqrstuvwxyz123456", file(&system));
    let admits = |token: &str| Client::connect(system.port()).log_in(4, 4, token)["ok"].as_bool().unwrap();
    assert!(admits(&old) && !admits(new));
    for (weak, rule) in [("a".repeat(31), "vault.short"), ("ab".repeat(20), "vault.weak"), ("${X}".to_owned(), "vault")]
    {
        assert!(error_of(&system, &["config", "set", "gateway.auth.token", &weak]).contains(rule), "{weak}");
    }
    assert!(admits(&old));
    let _ = system.says(&["config", "set", "gateway.auth.token", new]);
    assert!(admits(new) && !admits(&old));
    let _ = system.says(&["config", "set", "gateway.auth.password", "correct horse battery staple"]);
    for entry in std::fs::read_dir(system.state()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            let bytes = std::fs::read(&entry).unwrap();
            for secret in [new, "correct horse"] {
                let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!found, "{secret} is in {}", entry.display());
            }
        }
    }
    assert_eq!(file(&system), text);
}

const TOKEN: &str = "abcdefghijklmnopqrstuvwxyz123456";
const BOT: &str = "123456789:AAplain-bot-token";
const OLD: &str = "sk-an-older-key-in-a-backup";

/// Files beneath that hold this text.
fn holding(dir: &std::path::Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(holding(&entry, text));
        } else if entry.is_file()
            && std::fs::read(&entry).unwrap().windows(text.len()).any(|part| part == text.as_bytes())
        {
            found.push(entry);
        }
    }
    found
}

fn owned(system: &System, path: &std::path::Path) {
    if is_root() && system.who() == As::User {
        std::os::unix::fs::chown(path, Some(system_tests::USER), Some(system_tests::USER)).unwrap();
    }
}

in_both_layouts! {
    fn secret_that_stands_in_the_file_is_in_the_vault_after_a_start_and_nowhere_in_clear(system: System) {
        let mut system = system;
        let _ = system.says(&["down"]);
        let (path, backup) = (system.state().join("moltbot.json"), system.state().join("moltbot.json.bak.1"));
        let text = file(&system);
        let text = text.trim_start_matches('{');
        let clear = format!(
            "{{ // mine\n gateway: {{ auth: {{ token: '{TOKEN}' }} }}, channels: {{ telegram: {{ botToken: '{BOT}' }}, discord: {{ token: '${{NO_SUCH}}' }} }}, {text}"
        );
        std::fs::write(&path, &clear).unwrap();
        std::fs::write(&backup, format!("{{ models: {{ providers: {{ a: {{ apiKey: '{OLD}' }} }} }} }}")).unwrap();
        owned(&system, &backup);
        let old_blocks = std::fs::File::open(&path).unwrap();
        // The twin: the scan finds them where they are.
        assert_eq!((holding(system.state(), TOKEN).len(), holding(system.state(), BOT).len()), (1, 1));
        let (ok, report) = json_of(&system, &["config", "validate", "--json"]);
        assert!(ok && report.to_string().contains("gateway.auth.token_in_config"), "{report}");

        system.up();
        for secret in [TOKEN, BOT, OLD] {
            assert_eq!(holding(system.state(), secret), Vec::<std::path::PathBuf>::new());
        }
        let mut blocks = Vec::new();
        std::io::Read::read_to_end(&mut &old_blocks, &mut blocks).unwrap();
        assert!(blocks.iter().all(|byte| *byte == 0), "what stood there is written over");
        let now = file(&system);
        assert!(now.contains("// mine") && now.contains("'${NO_SUCH}'"), "{now}");
        assert!(now.contains("vault:gateway.token") && now.contains("vault:telegram.bottoken"), "{now}");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(system.token(), TOKEN, "it is the gateway's token");
        let log_in = |token: &str| Client::connect(system.port()).log_in(4, 4, token)["ok"].as_bool().unwrap();
        assert!(log_in(TOKEN));
        let adopted = |system: &System| {
            system.records("secret-audit").into_iter().filter(|record| record["verb"] == "secrets.adopt").count()
        };
        assert_eq!(adopted(&system), 2);
        let (ok, report) = json_of(&system, &["config", "validate", "--json"]);
        assert!(ok && !report.to_string().contains("in_config"), "{report}");

        // Put back by hand, while it runs: `config apply` does the same. The value was taken once, and is not taken again.
        std::fs::write(&path, &clear).unwrap();
        let rotated = system.fed(&["secrets", "rotate", "telegram.bottoken"], "another");
        assert!(rotated.status.success());
        let _ = system.says(&["config", "apply"]);
        assert_eq!(holding(system.state(), TOKEN), Vec::<std::path::PathBuf>::new());
        let secrets: Value = serde_json::from_str(&system.says(&["secrets", "list", "--json"])).unwrap();
        let bot = secrets.as_array().unwrap().iter().find(|row| row["name"] == "telegram.bottoken").unwrap().clone();
        assert_eq!(bot["version"], 2, "a rotation is not undone by an old file: {bot}");
    }
}

#[test]
fn secret_of_a_variable_is_in_the_vault_and_is_written_nowhere() {
    let system = System::prepare(As::User, &Sandbox::Native);
    let template = include_str!("../../docs/security/secure-config-template.json");
    std::fs::write(system.state().join("moltbot.json"), template).unwrap();
    let run = |words: &[&str], token: Option<&str>| {
        let mut command = system.command(&system_tests::programs().join("moltbot"));
        command.arg("--state-dir").arg(system.state()).args(words).stdin(std::process::Stdio::null());
        token.map(|token| command.env("MOLTBOT_GATEWAY_TOKEN", token));
        command.output().unwrap()
    };
    // As it stands: with the variable and without it.
    assert!(run(&["config", "validate"], None).status.success());
    assert!(run(&["config", "validate"], Some(TOKEN)).status.success());
    let up = run(&["up", "--port", "0"], Some(TOKEN));
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    assert_eq!(system.token(), TOKEN);
    assert_eq!(file(&system), template, "the file stays as it stands");
    assert_eq!(holding(system.state(), TOKEN), Vec::<std::path::PathBuf>::new());
    let rotated = "zyxwvutsrqponmlkjihgfedcba987654";
    assert!(system.fed(&["secrets", "rotate", "gateway.token"], rotated).status.success());
    let _ = system.says(&["down"]);
    // The variable still has the old one, which does not come back; without it the start is as good.
    assert!(run(&["up", "--port", "0"], Some(TOKEN)).status.success());
    assert_eq!(system.token(), rotated);
    let _ = system.says(&["down"]);
    assert!(run(&["up", "--port", "0"], None).status.success());
    assert_eq!(system.token(), rotated);
    let _ = system.says(&["down"]);

    // One that is no token is refused, and what was there holds.
    let weak = run(&["up", "--port", "0"], Some("short"));
    assert!(!weak.status.success() && String::from_utf8_lossy(&weak.stderr).contains("vault.short"));
    assert_eq!(system.token(), rotated);
    let _ = system.says(&["down"]);
}

#[test]
fn secret_that_is_set_by_the_command_goes_into_the_vault_and_the_file_names_it() {
    let system = System::start(As::User, &Sandbox::Native);
    let said = system.says(&["config", "set", "channels.telegram.botToken", BOT, "--yes"]);
    assert!(!said.contains(BOT), "{said}");
    assert_eq!(holding(system.state(), BOT), Vec::<std::path::PathBuf>::new());
    assert!(file(&system).contains("vault:telegram.bottoken"));
    assert!(system.says(&["secrets", "list"]).contains("telegram.bottoken"));
    let (_, dry) =
        json_of(&system, &["config", "set", "channels.telegram.botToken", "other-one", "--dry-run", "--json"]);
    assert!(!dry.to_string().contains("other-one"), "{dry}");
    let _ = system.says(&["down"]);
    let before = file(&system);
    let error = error_of(&system, &["config", "set", "channels.slack.appToken", BOT, "--yes"]);
    assert!(error.contains("moltbot up"), "{error}");
    assert_eq!(file(&system), before);
}
