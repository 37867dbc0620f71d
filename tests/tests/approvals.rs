//! Approvals in a running set: a command waits for the operator's word, and the word covers what was shown and nothing else.
//! What asks here comes through gateway, which can say nothing but which command it wants.

use serde_json::{Value, json};
use system_tests::{As, Sandbox, System, is_root, wait_for};

fn system(timeout_s: u32) -> System {
    let who = if is_root() { As::Root } else { As::User };
    let mut system = System::prepare(who, &Sandbox::Native);
    system.set_exec(json!({ "ask": "on-miss", "approvalTimeoutSeconds": timeout_s }));
    system.up();
    system
}

fn read(system: &System, args: &[&str]) -> Value {
    let args = [&["approvals"], args, &["--json"]].concat();
    serde_json::from_str(&system.says(&args)).unwrap()
}

/// The number of the one question that waits.
fn waits(system: &System) -> String {
    let found = wait_for("a question", || read(system, &["list"]).get(0).cloned());
    found["id"].as_str().unwrap().to_owned()
}

/// Sends a command, says this to the question that it becomes, and returns the answer.
fn answered(system: &System, message: &str, session: &str, word: &[&str]) -> String {
    std::thread::scope(|scope| {
        let chat = scope.spawn(|| system.says(&["chat", "--session", session, message]));
        let id = waits(system);
        let _ = system.says(&[&["approvals", word[0], &id], &word[1..]].concat());
        chat.join().unwrap()
    })
}

const MAIN: &str = "agent:main:main";

#[test]
fn yes_lets_it_run_once_and_the_same_waits_again() {
    let system = system(600);
    let command = "/exec touch ran && echo it $((6*7))";
    let answer = answered(&system, command, MAIN, &["approve"]);
    assert!(answer.contains("it 42") && answer.contains("moltbot approvals show a-1"), "{answer}");
    let intents = system.records("command-audit");
    assert!(intents.iter().any(|record| record["allowedBy"] == "approval a-1"), "{intents:?}");
    let secrets = system.records("secret-audit");
    for verb in ["approvals.approve", "approvals.use"] {
        assert!(secrets.iter().any(|record| record["verb"] == verb), "{verb}: {secrets:?}");
    }
    let answer = answered(&system, command, MAIN, &["deny"]);
    assert!(answer.contains("refused (exec.not_approved)") && !answer.contains("it 42"), "{answer}");
    assert_eq!(read(&system, &["list"]), json!([]));
    // A number that was answered says nothing any more.
    assert!(!system.moltbot(&["approvals", "approve", "a-1"]).status.success());
}

#[test]
fn question_shows_everything_that_is_hashed() {
    let system = system(600);
    std::thread::scope(|scope| {
        let chat = scope.spawn(|| system.chat("/exec touch 'a b'; echo $x"));
        let id = waits(&system);
        let shown = read(&system, &["show", &id]);
        assert_eq!(shown["command"], "touch 'a b'; echo $x");
        assert_eq!(shown["session"], MAIN);
        assert!(shown["why"].as_str().unwrap().contains("expands something"), "{shown}");
        for field in ["runs", "cwd", "environment", "image", "mounts", "network", "secrets"] {
            assert!(!shown[field].as_str().unwrap().is_empty(), "{field}: {shown}");
        }
        assert_eq!(shown["digest"].as_str().unwrap().len(), 64);
        let _ = system.says(&["approvals", "deny", &id]);
        assert!(chat.join().unwrap().contains("exec.not_approved"));
    });
}

#[test]
fn grant_covers_the_same_as_often_as_was_said_and_nothing_wider() {
    let system = system(600);
    let command = "/exec mkdir -p made";
    assert!(answered(&system, command, MAIN, &["approve", "--uses", "3", "--for", "1h"]).contains("[exit 0"));
    assert_eq!(read(&system, &["grants"])[0]["uses"], 2);
    assert!(system.chat(command).contains("[exit 0"));
    // Another argument, and another conversation, are other commands.
    assert!(answered(&system, "/exec mkdir -p made/too", MAIN, &["deny"]).contains("exec.not_approved"));
    assert!(answered(&system, command, "agent:main:other", &["deny"]).contains("exec.not_approved"));
    assert!(system.chat(command).contains("[exit 0"));
    assert!(answered(&system, command, MAIN, &["deny"]).contains("exec.not_approved"));
    assert_eq!(read(&system, &["grants"]), json!([]));
}

#[test]
fn silence_is_a_no() {
    let answer = system(1).chat("/exec touch ran");
    assert!(answer.contains("refused (exec.unanswered)"), "{answer}");
}

#[test]
fn revocation_and_lockdown_take_every_grant_back() {
    let system = system(600);
    let grant = ["approve", "--uses", "9", "--for", "1h"];
    for take_back in
        [&[&["approvals", "revoke"] as &[&str]] as &[&[&str]], &[&["lockdown", "on"], &["lockdown", "clear"]]]
    {
        assert!(answered(&system, "/exec mkdir -p made", MAIN, &grant).contains("[exit 0"));
        assert!(system.chat("/exec mkdir -p made").contains("[exit 0"));
        for words in take_back {
            let _ = system.says(words);
        }
        assert_eq!(read(&system, &["grants"]), json!([]), "{take_back:?}");
        assert!(answered(&system, "/exec mkdir -p made", MAIN, &["deny"]).contains("exec.not_approved"));
    }
}

#[test]
fn vault_that_starts_anew_knows_of_no_approval() {
    let system = system(600);
    let grant = ["approve", "--uses", "9", "--for", "1h"];
    assert!(answered(&system, "/exec mkdir -p made", MAIN, &grant).contains("[exit 0"));
    let epoch = system.role("vault")["epoch"].as_u64().unwrap();
    let _ = system.says(&["gateway", "restart", "vault"]);
    system.wait_epoch("vault", epoch + 1);
    wait_for("the vault", || {
        let output = system.moltbot(&["approvals", "grants", "--json"]);
        output.status.success().then(|| assert_eq!(output.stdout, b"[]\n"))
    });
}

#[test]
fn equal_questions_are_offered_as_one_answer_and_a_rule_lets_their_like_run() {
    let system = system(600);
    let command = "/exec touch made.txt";
    let listed = || {
        std::thread::scope(|scope| {
            let chat = scope.spawn(|| system.says(&["chat", "--session", MAIN, command]));
            let id = waits(&system);
            let listed = system.says(&["approvals", "list"]);
            let _ = system.says(&["approvals", "approve", &id]);
            assert!(chat.join().unwrap().contains("[exit 0"));
            listed
        })
    };
    assert!(!listed().contains("within the last hour") && !listed().contains("within the last hour"));
    let third = listed();
    assert!(third.contains("asked 2 times within the last hour") && third.contains("--uses 10 --for 1h"), "{third}");
    // Without a yes nothing happens, and with one the question that waits is answered and the rule written.
    let preview = system.says(&["sandbox", "rules", "propose", "touch other.txt"]);
    assert!(preview.contains("/usr/bin/touch") && preview.contains("3 x touch made.txt"), "{preview}");
    std::thread::scope(|scope| {
        let chat = scope.spawn(|| system.says(&["chat", "--session", MAIN, command]));
        let id = waits(&system);
        assert!(!system.moltbot(&["approvals", "approve", &id, "--rule"]).status.success(), "no terminal, no --yes");
        let _ = system.says(&["approvals", "approve", &id, "--rule", "--yes"]);
        assert!(chat.join().unwrap().contains("[exit 0"));
    });
    let _ = system.says(&["config", "apply"]);
    wait_for("the rule", || {
        let explained: Value = serde_json::from_str(&system.says(&["why", "touch third.txt", "--json"])).unwrap();
        (explained["decision"] == "allow").then_some(())
    });
    assert!(system.chat("/exec touch third.txt").contains("[exit 0"));
    assert!(answered(&system, "/exec touch -d 1970-01-01 x", MAIN, &["deny"]).contains("exec.not_approved"));
    assert!(answered(&system, "/exec touch third.txt", "agent:main:other", &["deny"]).contains("exec.not_approved"));
}

#[test]
fn why_says_who_may_and_by_what() {
    let system = system(600);
    let why = |what: &str| -> Value { serde_json::from_str(&system.says(&["why", what, "--json"])).unwrap() };
    let logs = why(&system.state().join("logs/command-audit.jsonl").display().to_string());
    let who = |answer: &Value| -> Vec<String> {
        let rows = answer["roles"].as_array().unwrap().iter().filter(|row| row["may"] == true);
        rows.map(|row| row["role"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(who(&logs), ["auditd"]);
    assert_eq!(who(&why("/etc/passwd")), Vec::<String>::new());
    let stranger = why("telegram:8734062810");
    assert_eq!(
        (&stranger["may"], &stranger["next"]),
        (&json!(false), &json!("moltbot allowlist add telegram 8734062810"))
    );
    let _ = system.says(&["allowlist", "add", "telegram", "8734062810"]);
    let friend = why("telegram:8734062810");
    assert_eq!((&friend["may"], &friend["rule"]), (&json!(true), &json!("allowlist")));
    assert_eq!(why("telegram:8734062811")["may"], false);
    let _ = system.says(&["pairing", "mode", "telegram", "disabled"]);
    assert_eq!(why("telegram:8734062810")["rule"], "mode disabled");
}
