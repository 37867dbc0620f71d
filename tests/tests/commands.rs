//! Commands as a running set judges them: rules from the configuration, the plan that runs, what the log says of it.

use serde_json::{Value, json};
use system_tests::client::Client;
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
    let system = system(json!({ "ask": "on-miss", "approvalTimeoutSeconds": 1 }));
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

/// What no program could be started with is refused in a sentence, and costs nobody else anything.
#[test]
fn text_that_is_no_command_is_refused_with_a_sentence_and_the_next_one_runs() {
    let system = system(json!({ "ask": "off" }));
    let token = system.token();
    let mut client = Client::logged_in(system.port(), &token);
    let long = "x".repeat(400_000);
    for (number, (command, said)) in [
        (format!("echo {long}"), "command.too_long"),
        ("echo a\0b".to_owned(), "control character"),
        ("echo \u{202e}txt".to_owned(), "refused (exec.denied)"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = client.chat(&format!("/exec {command}"), &format!("n{number}"));
        assert!(answer.contains(said), "{said}: {answer}");
    }
    // More than a frame may have, and a frame that is no text: the connection ends, and says why.
    let mut huge = Client::logged_in(system.port(), &token);
    huge.send(
        "h",
        "chat.send",
        &json!({ "sessionKey": "main", "idempotencyKey": "h", "message": "x".repeat(1 << 20) }),
    );
    assert_eq!(huge.closed().0, 1009);
    let mut odd = Client::logged_in(system.port(), &token);
    odd.send_not_text(b"{\"type\":\"req\",\"id\":\"\xff\xfe\"}");
    assert_eq!(odd.closed().0, 1007);
    assert!(client.chat("/exec echo here", "last").contains("here\n[exit 0"));
    let ran = system.records("command-audit").into_iter().filter(|record| record["type"] == "intent").count();
    assert_eq!(ran, 1, "what was refused was not begun");
}

/// Four times what is passed on: the command ends by itself, what was left out is counted, nobody waits behind it.
#[test]
fn output_over_the_cap_is_cut_and_counted_and_holds_nobody_up() {
    let system = system(json!({ "ask": "off" }));
    let mut client = Client::logged_in(system.port(), &system.token());
    let run = json!({ "sessionKey": "main", "message": "/exec head -c 33554432 /dev/zero", "idempotencyKey": "g" });
    let _ = client.call("chat.send", &run);
    while client.event("chat")["state"] != "delta" {}
    let beside = system.says(&["chat", "--session", "agent:main:beside", "/exec echo beside"]);
    assert!(beside.contains("beside"), "{beside}");
    // Every client hears of every conversation.
    let last = loop {
        let event = client.event("chat");
        if event["runId"] == "g" && event["state"] != "delta" {
            break event;
        }
    };
    let text = last.to_string();
    assert!(last["state"] == "final" && text.contains("[exit 0"), "{}", &text[text.len().saturating_sub(300)..]);
    assert!(text.contains("bytes of output dropped") && text.len() < 1 << 20, "{}", text.len());
}
