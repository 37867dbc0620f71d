//! Commands that run on: a model starts them with `exec` and has them by the `process` tool, through the whole of Moltbot.

use serde_json::{Value, json};
use system_tests::model::{Called, exec, scene, scene_with};
use system_tests::{System, docker_socket, is_root, skip, wait_for};

fn call(name: &'static str, arguments: &Value) -> (String, Vec<Called>) {
    (String::new(), vec![(name, arguments.to_string())])
}

fn process(arguments: &Value) -> (String, Vec<Called>) {
    call("process", arguments)
}

fn end(results: &[String]) -> (String, Vec<Called>) {
    (format!("told: {}", results.join(" | ")), Vec::new())
}

/// What runs on, by what `exec` said of it.
fn run(result: &str) -> String {
    let id = result.split("it runs on as ").nth(1).unwrap_or_else(|| panic!("{result}"));
    id.split(';').next().unwrap().to_owned()
}

fn background(command: &str) -> (String, Vec<Called>) {
    call("exec", &json!({"command": command, "background": true}))
}

/// Every record of commands with this text in it.
fn records(system: &System, text: &str) -> Vec<Value> {
    system.records("command-audit").into_iter().filter(|record| record.to_string().contains(text)).collect()
}

#[test]
fn model_writes_to_what_runs_on_polls_it_to_its_end_and_reads_its_log() {
    if !is_root() {
        return skip("only root can be sure to reach the engine's socket");
    }
    let Some(socket) = docker_socket() else { return };
    // A command that is written to later is a container's.
    let sandbox = json!({"backend": "docker", "docker": {"socket": socket}});
    let agents = json!({"defaults": {"model": "gpt/m", "sandbox": sandbox}});
    let (system, _server) = scene_with(&json!({"agents": agents, "tools": {"exec": {"ask": "off"}}}), |said| {
        let results = said.results.as_slice();
        let id = || run(&results[0]);
        match results.len() {
            0 => background("echo ready; while read line; do echo got $line; done; echo over; exit 3"),
            1 => process(&json!({"action": "list"})),
            2 => process(&json!({"action": "write", "sessionId": id(), "data": "one\n"})),
            3 => process(&json!({"action": "write", "sessionId": id(), "data": "two\n", "eof": true})),
            // Until it has ended: each poll waits for a while itself.
            _ if !results.last().unwrap().contains("[exit 3]") => {
                process(&json!({"action": "poll", "sessionId": id()}))
            }
            _ if !results.iter().any(|result| result.contains("[from line")) => (
                String::new(),
                vec![
                    ("process", json!({"action": "log", "sessionId": id(), "offset": 1, "limit": 2}).to_string()),
                    ("process", json!({"action": "remove", "sessionId": id()}).to_string()),
                    ("process", json!({"action": "poll", "sessionId": id()}).to_string()),
                    ("process", json!({"action": "poll", "sessionId": id()}).to_string()),
                    exec("echo [exit 3]"),
                ],
            ),
            _ => end(results),
        }
    });
    let told = system.chat("go");
    let results: Vec<&str> = told.split(" | ").collect();
    assert!(results[1].contains(" runs, ") && results[1].contains("while read line"), "{told}");
    assert!(results[2].contains("done") && results[3].contains("done"), "{told}");
    let polled =
        results.iter().skip(4).take_while(|result| !result.contains("[from line")).copied().collect::<String>();
    for line in ["ready", "got one", "got two", "over"] {
        assert_eq!(polled.matches(line).count(), 1, "what was polled comes once: {told}");
    }
    let at =
        results.iter().position(|result| result.contains("[from line 1 of 4]")).unwrap_or_else(|| panic!("{told}"));
    assert!(results[at].contains("got one\ngot two") && !results[at].contains("over"), "{told}");
    assert!(results[at + 2].contains("refused: "), "what was removed is not there: {told}");
    // What ran and each write is in the log, and none of what was written.
    let outcome = records(&system, "\"exitCode\":3");
    assert!(outcome.iter().any(|record| record["type"] == "outcome"), "{outcome:?}");
    assert_eq!(records(&system, "[process] write").iter().filter(|record| record["type"] == "intent").count(), 2);
}

#[test]
fn what_runs_on_is_killed_by_the_model_or_by_its_time_and_the_session_goes_on() {
    let (system, _server) = scene(json!({"exec": {"ask": "off"}}), |said| {
        let results = said.results.as_slice();
        let over = |result: &String| result.contains("[it took too long") || result.contains("[it was stopped]");
        match (said.words.as_str(), results.len()) {
            ("kill", 0) => background("sleep 1000"),
            ("kill", 1) => process(&json!({"action": "write", "sessionId": run(&results[0]), "data": "x"})),
            ("kill", 2) => process(&json!({"action": "kill", "sessionId": run(&results[0])})),
            ("time", 0) => call("exec", &json!({"command": "sleep 1001", "background": true, "timeout": 1})),
            ("yield", 0) => call("exec", &json!({"command": "echo early; sleep 1002", "yieldMs": 10, "timeout": 1})),
            ("kill" | "time" | "yield", _) if !results.iter().any(over) => {
                process(&json!({"action": "poll", "sessionId": run(&results[0])}))
            }
            ("kill" | "time" | "yield", _) => end(results),
            _ => ("fine".to_owned(), Vec::new()),
        }
    });
    for (message, how) in [("kill", "[it was stopped]"), ("time", "[it took too long"), ("yield", "[it took too long")]
    {
        let told = system.chat(message);
        assert!(told.contains(how), "{message}: {told}");
        // The native backend gives no input, and says so.
        assert_eq!(told.contains("process.no_input"), message == "kill", "{told}");
        assert!(system.chat("hello").contains("fine"), "the session goes on after {message}");
    }
    for seconds in ["sleep 1000", "sleep 1001", "sleep 1002"] {
        let intent = records(&system, seconds).into_iter().find(|record| record["type"] == "intent").unwrap();
        let id = intent["runId"].clone();
        wait_for("the outcome", || {
            let ended = |record: &Value| record["type"] == "outcome" && record["runId"] == id;
            system.records("command-audit").iter().any(ended).then_some(())
        });
    }
}

#[test]
fn another_session_s_command_and_one_that_is_none_are_not_there() {
    let (system, _server) = scene(json!({"exec": {"ask": "off"}}), |said| {
        let results = said.results.as_slice();
        let word = said.words.split(' ').next().unwrap().to_owned();
        match (word.as_str(), results.len()) {
            ("begin", 0) => background("sleep 1003"),
            ("touch", 0) => {
                let id = said.words.split(' ').nth(1).unwrap();
                let verbs = ["poll", "log", "kill", "remove"].map(|verb| json!({"action": verb, "sessionId": id}));
                let write = json!({"action": "write", "sessionId": id, "data": "x"});
                let list = json!({"action": "list"});
                let all = verbs.iter().chain([&write, &list]).map(|verb| ("process", verb.to_string()));
                (String::new(), all.collect())
            }
            ("begin" | "touch", _) => end(results),
            ("own", 0) => {
                let id = said.words.split(' ').nth(1).unwrap();
                process(&json!({"action": "kill", "sessionId": id}))
            }
            _ => end(results),
        }
    });
    let id = run(&system.chat("begin"));
    let other = |message: &str| {
        let output = system.moltbot(&["chat", "--session", "other", message]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    for id in [id.as_str(), "nothing"] {
        let told = other(&format!("touch {id}"));
        assert_eq!(told.matches("refused: ").count(), 5, "{told}");
        assert!(told.contains("nothing runs on"), "{told}");
    }
    let told = system.chat(&format!("own {id}"));
    assert!(told.contains("[it was stopped]"), "{told}");
}
