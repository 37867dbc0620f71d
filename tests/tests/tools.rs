//! Turns in which a model uses tools, through the whole of Moltbot: what it asks for is done in the sandbox or refused, it is told
//! what came of that, and whatever it makes up ends as a sentence.

use serde_json::{Value, json};
use system_tests::client::{Came, Client};
use system_tests::model::{exec, scene};
use system_tests::{System, wait_for};

/// What a tool printed so far, as soon as it printed something.
fn progress(client: &mut Client) -> String {
    loop {
        match client.receive() {
            Came::Frame(frame) if frame["event"] == "agent" && frame["payload"]["data"]["phase"] == "update" => {
                let data = &frame["payload"]["data"];
                return data["partialResult"]["content"][0]["text"].as_str().unwrap().to_owned();
            }
            Came::Frame(frame) if frame["event"] == "chat" && frame["payload"]["state"] != "delta" => panic!("{frame}"),
            Came::Frame(_) => {}
            Came::Closed(code, reason) => panic!("{code} {reason}"),
        }
    }
}

fn reads(system: &System, message: &str) -> String {
    let output = system.moltbot(&["chat", message]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn model_of_either_protocol_has_commands_run_and_hears_what_they_printed() {
    let (system, server) = scene(json!({"exec": {"ask": "off"}}), |said| {
        let name = if said.anthropic { "claude" } else { "gpt" };
        match said.results.as_slice() {
            [] => {
                let write = exec(&format!("printf 'of %s\\n' {name} >> made.txt"));
                (format!("I make it, says {name}."), vec![write, exec("cat made.txt; exit 3")])
            }
            [wrote, read] => {
                assert!(wrote.contains("[exit 0]"), "{wrote}");
                assert!(read.starts_with("<untrusted-") && read.contains(&format!("of {name}\n[exit 3]")), "{read}");
                (format!("{name} is done."), Vec::new())
            }
            other => panic!("{other:?}"),
        }
    });
    let first = system.chat("make it");
    assert!(first.contains("I make it, says gpt.\n\ngpt is done."), "{first}");
    assert!(system.chat("/model claude/m").contains("claude/m"));
    assert!(system.chat("make it").contains("claude is done."));
    assert_eq!(system.chat("/exec cat made.txt").lines().take(2).collect::<Vec<_>>(), ["of gpt", "of claude"]);
    let status = system.chat("/status");
    assert!(status.contains("40 read, 20 written, $0.000210"), "{status}");
    // Each protocol saw its own calls and results again.
    let seen = server.seen();
    let body: Value = serde_json::from_slice(&seen[1].body).unwrap();
    assert_eq!(body["messages"][2]["tool_calls"][1]["function"]["name"], "exec");
    assert_eq!(body["messages"][4]["tool_call_id"], "call-1");
    let body: Value = serde_json::from_slice(&seen[3].body).unwrap();
    let results = body["messages"].as_array().unwrap().last().unwrap()["content"].as_array().unwrap().clone();
    assert_eq!((&results[0]["type"], &results[1]["is_error"]), (&"tool_result".into(), &true.into()));
    let commands: Vec<Value> = system.records("command-audit");
    let is_command = |record: &&Value| record["type"] == "intent" && record["allowedBy"] != "tools";
    assert_eq!(commands.iter().filter(is_command).count(), 5, "each command is in the log");
}

#[test]
fn clients_see_tools_at_work_and_the_transcript_keeps_them_sealed() {
    let (system, _server) = scene(json!({"exec": {"ask": "off"}}), |said| match said.results.len() {
        0 => (String::new(), vec![exec("echo from-the-sandbox")]),
        _ => ("Done.".to_owned(), Vec::new()),
    });
    let mut client = Client::logged_in(system.port(), &system.token());
    client.send("2", "chat.send", &json!({"sessionKey": "main", "message": "look", "idempotencyKey": "k1"}));
    let mut tools = Vec::new();
    let end = loop {
        match client.receive() {
            Came::Frame(frame) if frame["event"] == "agent" && frame["payload"]["stream"] == "tool" => {
                tools.push(frame["payload"]["data"].clone());
            }
            Came::Frame(frame) if frame["event"] == "chat" && frame["payload"]["state"] != "delta" => {
                break frame["payload"].clone();
            }
            Came::Frame(_) => {}
            Came::Closed(code, reason) => panic!("{code} {reason}"),
        }
    };
    assert_eq!((&end["state"], &end["message"]["content"][0]["text"]), (&"final".into(), &"Done.".into()));
    let first = &tools[0];
    assert_eq!(
        (&first["phase"], &first["name"], &first["args"]["command"]),
        (&"start".into(), &"exec".into(), &"echo from-the-sandbox".into())
    );
    let last = tools.last().unwrap();
    assert_eq!(
        (&last["phase"], &last["isError"], &last["toolCallId"]),
        (&"result".into(), &false.into(), &first["toolCallId"])
    );
    assert!(last["result"]["content"][0]["text"].as_str().unwrap().starts_with("from-the-sandbox\n[exit 0]"));
    client.send("3", "chat.history", &json!({"sessionKey": "main"}));
    let history = client.answer("3")["payload"]["messages"].clone();
    let roles: Vec<&str> =
        history.as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "toolResult", "assistant"]);
    assert_eq!(history[1]["content"][0]["type"], "toolCall");
    for file in std::fs::read_dir(system.state().join("sessions")).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(16).any(|part| part == b"from-the-sandbox"), "the transcript is sealed");
    }
}

#[test]
fn whatever_a_model_makes_up_is_told_to_it_or_ends_the_turn_with_a_sentence() {
    let (system, _server) = scene(json!({"exec": {"ask": "off"}}), |said| {
        let told = said.results.last().cloned().unwrap_or_default();
        let again = said.results.is_empty();
        match said.words.as_str() {
            "unknown tool" if again => (String::new(), vec![("fly", "{}".to_owned())]),
            "half json" if again => (String::new(), vec![("exec", "{\"command\": \"touch".to_owned())]),
            "too long" if again => (String::new(), vec![("exec", json!({"command": "x".repeat(60_000)}).to_string())]),
            "no command" if again => (String::new(), vec![("exec", "{}".to_owned())]),
            "odd argument" if again => {
                (String::new(), vec![("exec", json!({"command": "ls", "elevated": true}).to_string())])
            }
            "loop" => (String::new(), vec![exec("true")]),
            "many" => (String::new(), (0..17).map(|_| exec("true")).collect()),
            "flood" if again => (String::new(), vec![exec("head -c 3000000 /dev/zero | tr '\\0' x")]),
            _ if again => ("fine".to_owned(), Vec::new()),
            _ => (format!("told: {}", &told[..told.len().min(20_000)]), Vec::new()),
        }
    });
    for (message, sentence) in [
        ("unknown tool", "there is no tool fly here; there are: exec"),
        ("half json", "the arguments are not a JSON object"),
        ("too long", "the arguments of one reply are over"),
        ("no command", "exec: command is missing"),
        ("odd argument", "there is no argument elevated here"),
        ("flood", "bytes are left out here]"),
        ("loop", "the model asked for tools 24 times and did not answer"),
        ("many", "it asked for more than 16 tools at once"),
    ] {
        let read = reads(&system, message);
        assert!(read.contains(sentence), "{message}: {}", &read[read.len().saturating_sub(2_000)..]);
        assert!(system.chat("hello").contains("fine"), "the session goes on after {message}");
    }
}

#[test]
fn turn_that_is_aborted_in_a_tool_ends_at_once_and_the_next_one_knows() {
    let (system, _server) = scene(json!({"exec": {"ask": "off"}}), |said| match said.words.as_str() {
        "wait" => (String::new(), vec![exec("echo begun; sleep 600")]),
        _ => ("fine".to_owned(), Vec::new()),
    });
    let mut client = Client::logged_in(system.port(), &system.token());
    client.send("2", "chat.send", &json!({"sessionKey": "main", "message": "wait", "idempotencyKey": "k1"}));
    let _ = progress(&mut client);
    client.send("3", "chat.abort", &json!({"sessionKey": "main", "runId": "k1"}));
    let end = loop {
        let event = client.event("chat");
        if event["state"] != "delta" {
            break event;
        }
    };
    assert_eq!(end["state"], "aborted");
    assert!(system.chat("hello").contains("fine"));
    let aborted = || {
        let records = system.records("command-audit");
        records.iter().any(|record| record["type"] == "outcome" && record.to_string().contains("borted")).then_some(())
    };
    wait_for("the outcome of the command that was stopped", aborted);
}

#[test]
fn command_that_waits_for_a_person_says_so_and_a_no_is_told_to_the_model() {
    let (system, _server) = scene(json!({"exec": {"ask": "on-miss"}}), |said| match said.results.as_slice() {
        [] => (String::new(), vec![exec("touch made")]),
        [result] => (format!("told: {result}"), Vec::new()),
        other => panic!("{other:?}"),
    });
    let mut client = Client::logged_in(system.port(), &system.token());
    for (run, verb) in [("k1", "deny"), ("k2", "approve")] {
        client.send(run, "chat.send", &json!({"sessionKey": "main", "message": "go", "idempotencyKey": run}));
        let waits = progress(&mut client);
        let id = waits.split("moltbot approvals show ").nth(1).unwrap().split('`').next().unwrap().to_owned();
        let output = system.moltbot(&["approvals", verb, &id]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let end = loop {
            let event = client.event("chat");
            if event["state"] != "delta" {
                break event;
            }
        };
        let text = end["message"]["content"][0]["text"].as_str().unwrap();
        let expected = if verb == "deny" { "refused: exec.not_approved" } else { "[exit 0]" };
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn what_the_configuration_denies_is_not_offered_and_sandboxd_refuses_it_whoever_asks() {
    let (system, _server) =
        scene(json!({"exec": {"ask": "off"}, "deny": ["group:runtime"]}), |said| match said.results.as_slice() {
            [] => (String::new(), vec![exec("ls")]),
            [result] => (format!("told: {result}; offered: {}", said.offered.join(" ")), Vec::new()),
            other => panic!("{other:?}"),
        });
    let read = system.chat("go");
    assert!(read.contains("there is no tool exec here") && !read.contains("offered: exec"), "{read}");
    assert!(read.contains("offered: read write edit apply_patch"), "{read}");
    let refused = reads(&system, "/exec ls");
    assert!(refused.contains("tools.denied") && refused.contains("tools.deny has \"group:runtime\""), "{refused}");
    let records = system.records("command-audit");
    assert!(
        records.iter().any(|record| record["type"] == "refused" && record["rule"] == "tools.denied"),
        "{records:?}"
    );
}

#[test]
fn verbs_about_files_and_runs_are_in_the_log_before_they_are_done_and_without_contents() {
    let (system, _server) = scene(json!({"exec": {"ask": "off"}}), |said| match said.results.len() {
        0 => {
            let call = |name, arguments: Value| (name, arguments.to_string());
            let calls = vec![
                call("write", json!({"path": "notes/a.txt", "content": "the-inner-words"})),
                call("edit", json!({"path": "notes/a.txt", "oldText": "inner", "newText": "outer"})),
                call("read", json!({"path": "notes/a.txt"})),
                call("read", json!({"path": "notes/none.txt"})),
                call("grep", json!({"pattern": "outer", "path": "notes"})),
                call("ls", json!({"path": "notes"})),
                call("write", json!({"path": "/etc/passwd", "content": "x"})),
                call("process", json!({"action": "list"})),
            ];
            (String::new(), calls)
        }
        _ => (format!("told: {}", said.results.join(" | ")), Vec::new()),
    });
    let told = system.chat("go");
    assert!(told.contains("the-outer-words"), "{told}");
    let records = system.records("command-audit");
    let text = |record: &Value, field: &str| record[field].as_str().unwrap_or_default().to_owned();
    let of = |verb: &str| -> Vec<&Value> {
        records.iter().filter(|record| text(record, "command").starts_with(&format!("[{verb}] "))).collect()
    };
    for (verb, what) in [
        ("write", "notes/a.txt: 15 bytes"),
        ("edit", "notes/a.txt: 5 bytes for 5"),
        ("read", "notes/none.txt"),
        ("grep", "notes: outer"),
        ("ls", "notes"),
        ("process", "list"),
    ] {
        let found = of(verb).into_iter().find(|record| text(record, "command").contains(what));
        let found = found.unwrap_or_else(|| panic!("{verb} {what}: {records:?}"));
        assert_eq!((&found["type"], &found["allowedBy"]), (&"intent".into(), &"tools".into()), "{found}");
        let ended = records.iter().any(|other| other["type"] == "outcome" && other["runId"] == found["runId"]);
        assert_eq!(ended, ["write", "edit"].contains(&verb), "what only looks has no outcome: {found}");
    }
    // What failed says so, and contents are nowhere.
    let outside = of("write").into_iter().find(|record| text(record, "command").contains("/etc/passwd")).unwrap();
    let outcome =
        records.iter().find(|other| other["type"] == "outcome" && other["runId"] == outside["runId"]).unwrap();
    assert_eq!(outcome["exitCode"], 1, "{outcome}");
    assert!(!records.iter().any(|record| record.to_string().contains("inner-words")), "{records:?}");
}
