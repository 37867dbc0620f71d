//! Commands as a running set judges them: rules from the configuration, the plan that runs, what the log says of it.

use serde_json::{Value, json};
use system_tests::{As, Sandbox, System, is_root};

fn system(exec: Value) -> System {
    let who = if is_root() { As::Root } else { As::User };
    let mut system = System::prepare(who, &Sandbox::Native);
    system.set_exec(exec);
    system.up();
    system
}

fn allowed_by(system: &System, command: &str) -> Value {
    let records = system.records("command-audit");
    let intent = records.iter().find(|record| record["type"] == "intent" && record["command"] == command);
    intent.map(|record| record["allowedBy"].clone()).unwrap_or_default()
}

#[test]
fn what_rules_allow_runs_from_its_plan_and_the_log_says_which_rule() {
    let make = json!({
        "id": "make", "program": "mkdir", "options": "-p", "operands": "path*", "sessions": ["main"],
        "match": ["mkdir -p a/b"], "noMatch": ["mkdir /a"],
    });
    let write = json!({
        "id": "note", "program": "echo", "style": "none", "operands": "text*", "redirects": true,
        "match": ["echo a > b"], "noMatch": ["echo a > /b"],
    });
    let system = system(json!({ "ask": "on-miss", "rules": [make, write] }));
    assert!(system.chat("/exec mkdir -p a/b").contains("[exit 0"));
    assert_eq!(allowed_by(&system, "mkdir -p a/b"), "make");
    assert!(system.chat("/exec echo 'a;  b' > a/b/c.txt && cat a/b/*.txt | tr a-z A-Z").contains("A;  B\n[exit 0"));
    // No shell is in the way of a single program: this one says what it was called as.
    assert!(system.chat("/exec cat a/none").contains("/usr/bin/cat: "));
    // Nor one that would say that there is no such program.
    assert!(system.chat("/exec rg x").contains("[exit "));
}

#[test]
fn what_no_rule_allows_does_not_run_and_is_told_why() {
    let system = system(json!({ "ask": "on-miss" }));
    for (command, part) in [
        ("touch ran", "no rule is about it"),
        ("sort -o ran .", "the option -o is not in the grammar"),
        ("echo x > ran", "it writes to ran"),
        ("echo $(touch ran)", "it expands something"),
        ("A=b touch ran", "it sets a variable"),
        ("ls; touch ran", "no rule is about it"),
        ("ls /etc", "is not beneath the workspace"),
    ] {
        let answer = system.chat(&format!("/exec {command}"));
        assert!(answer.contains("refused (exec.") && answer.contains(part), "{command}: {answer}");
    }
    assert!(system.chat("/exec sudo ls").contains("refused (exec.denied)"));
    let listed = system.chat("/exec ls");
    assert!(listed.contains("[exit 0") && !listed.contains("ran"), "{listed}");
    let records = system.records("command-audit");
    assert!(
        records.iter().any(|record| record["type"] == "refused" && record["command"] == "touch ran"),
        "{records:?}"
    );
}

#[test]
fn ask_off_runs_the_text_and_denies_what_a_rule_denies() {
    let system = system(json!({ "ask": "off" }));
    assert!(system.chat("/exec x=1; echo got $x").contains("got 1"));
    assert_eq!(allowed_by(&system, "x=1; echo got $x"), "ask-off");
    assert!(system.chat("/exec nosuchprogram").contains("[exit 127"));
    assert!(system.chat("/exec rm -rf /").contains("refused (exec.denied)"));
}

#[test]
fn rule_with_a_failing_example_keeps_it_from_starting_and_is_named() {
    let who = if is_root() { As::Root } else { As::User };
    let mut system = System::prepare(who, &Sandbox::Native);
    let rule = |example: &str| json!([{ "id": "mine", "program": "touch", "operands": "path", "match": [example], "noMatch": ["touch /a"] }]);
    system.set_exec(json!({ "rules": rule("touch /b") }));
    let tried = system.moltbot(&["sandbox", "rules", "test"]);
    assert!(!tried.status.success() && String::from_utf8_lossy(&tried.stderr).contains("rule mine"));
    let started = system.moltbot(&["up", "--port", "0"]);
    assert!(!started.status.success());
    assert!(system.log().contains("rule mine") || String::from_utf8_lossy(&started.stderr).contains("rule mine"));
    system.set_exec(json!({ "rules": rule("touch b") }));
    assert!(system.says(&["sandbox", "rules", "test"]).contains("stood"));
    system.up();
}

#[test]
fn explain_says_what_a_running_set_does() {
    let who = if is_root() { As::Root } else { As::User };
    let system = System::prepare(who, &Sandbox::Native);
    system.set_exec(json!({ "ask": "on-miss" }));
    let explain = |command: &str| -> Value {
        serde_json::from_str(&system.says(&["sandbox", "explain", command, "--json"])).unwrap()
    };
    let found = explain("ls -l src");
    assert_eq!((&found["decision"], &found["argv"]), (&json!("allow"), &json!(["/usr/bin/ls", "-l", "src"])));
    assert_eq!(explain("ls -l src | sh")["decision"], "ask");
    assert_eq!(explain("insmod x")["decision"], "deny");
}
