//! Providers that fail in the middle of a turn, when a tool has run and its result is sent: the turn ends with a sentence that says
//! what is wrong, the conversation goes on with the next message, the credential is nowhere, and the log has it.

use serde_json::{Value, json};
use std::sync::{Mutex, mpsc};
use system_tests::client::Client;
use system_tests::forms::Search;
use system_tests::model::{self, Answer, Asked, exec};
use system_tests::servers::{Server, reset};
use system_tests::{As, Sandbox, System, is_root, remembers, wait_for};

const KEY: &str = "sk-live-0123/4567+89abcdefxyz~Q";
/// Bytes that an answer may have here.
const MOST: usize = 4 << 20;

fn anybody() -> As {
    if is_root() { As::Root } else { As::User }
}

fn fed(system: &System, args: &[&str], input: &str) {
    let output = system.fed(args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A Moltbot that asks `script` as `claude/one`, with a key.
fn scene(agents: Value, script: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static) -> (System, Server) {
    let server = model::plain(script);
    let mut system = System::prepare(anybody(), &Sandbox::Native);
    let mut defaults = json!({"sandbox": {"backend": "native"}, "model": "claude/one"});
    defaults.as_object_mut().unwrap().extend(agents.as_object().unwrap().clone());
    let config = json!({
        "agents": {"defaults": defaults},
        "models": {"providers": {
            "claude": {"baseUrl": format!("http://localhost:{}", server.port), "apiKey": "vault:claude.key",
                "api": "anthropic-messages", "models": [{"id": "one"}]},
        }},
        "tools": {"exec": {"ask": "off"}},
    });
    std::fs::write(system.state().join("moltbot.json"), config.to_string()).unwrap();
    system.up();
    fed(&system, &["secrets", "set", "claude.key"], KEY);
    let policy = format!(
        "verb inject\nrole egress\nheader x-api-key\nhost localhost\nport {}\nmethod POST\npath /v1/messages\nbytes {MOST}\n",
        server.port
    );
    fed(&system, &["secrets", "policy", "claude.key", "--file", "-"], &policy);
    (system, server)
}

fn reads(system: &System, message: &str) -> String {
    let output = system.moltbot(&["chat", message]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn requests(system: &System) -> Vec<Value> {
    system.records("secret-audit").into_iter().filter(|record| record["type"] == "request").collect()
}

/// What every file of the log says.
fn log(system: &System) -> Vec<u8> {
    let files = std::fs::read_dir(system.state().join("logs")).unwrap().map(Result::unwrap);
    files.filter_map(|file| std::fs::read(file.path()).ok()).flatten().collect()
}

/// Says the same again until nobody listens, or a hundred megabytes are said.
fn flood(answer: &mut Answer<'_>, piece: &str) {
    let piece = piece.repeat(65_536 / piece.len() + 1);
    let mut said = 0;
    while said < 100 << 20 && answer.bytes(piece.as_bytes()) {
        said += piece.len();
    }
}

fn misbehave(words: &str, answer: &mut Answer<'_>) {
    let with_key = format!(r#"{{"error":{{"message":"no: {KEY}"}}}}"#);
    match words {
        "401" => answer.status("401 No", "", with_key.as_bytes()),
        "429" => answer.status("429 Slow", "retry-after: 0\r\n", with_key.as_bytes()),
        "500" => answer.status("500 No", "retry-after: 0\r\n", b"<html>oops</html>"),
        "redirect" => answer.status("307 Go", "location: http://localhost:1/\r\n", b""),
        "new key" => {
            answer.status("200 OK", "content-type: application/json\r\n", br#"{"access_token":"at-1234567890"}"#)
        }
        "not json" => {
            answer.begin();
            answer.bytes(b"data: {\"type\":\"content_bl\n\n");
        }
        "not text" => {
            answer.begin();
            answer.bytes(b"data: \xff\xfe\n\n");
        }
        "cut" => {
            answer.begin_chunked();
            let part = answer.event("half a");
            answer.chunk(part.as_bytes());
        }
        "half a call" => {
            answer.begin();
            let start = json!({"type": "content_block_start", "index": 1,
                "content_block": {"type": "tool_use", "id": "c", "name": "exec", "input": {}}});
            let delta = json!({"type": "content_block_delta", "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": "{\"command\": \"touch never"}});
            answer.bytes(format!("data: {start}\n\ndata: {delta}\n\n").as_bytes());
        }
        "reset" => {
            answer.begin_chunked();
            let part = answer.event("half a");
            answer.chunk(part.as_bytes());
            reset();
        }
        "gone" => reset(),
        "much text" => {
            answer.begin();
            let event = answer.event(&"x".repeat(4_000));
            flood(answer, &event);
        }
        "long line" => {
            answer.begin();
            answer.bytes(b"data: ");
            flood(answer, "x");
        }
        "many pings" => {
            answer.begin();
            flood(answer, ": ping\n\n");
        }
        "much to do" => {
            answer.begin();
            let start = json!({"type": "content_block_start", "index": 1,
                "content_block": {"type": "tool_use", "id": "c", "name": "exec", "input": {}}});
            answer.bytes(format!("data: {start}\n\n").as_bytes());
            let delta = json!({"type": "content_block_delta", "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": "x".repeat(4_000)}});
            flood(answer, &format!("data: {delta}\n\n"));
        }
        "much ado" => {
            answer.bytes(b"HTTP/1.1 500 No\r\ncontent-type: text/plain\r\n\r\n");
            flood(answer, "no ");
        }
        other => panic!("{other:?} is not in the script"),
    }
}

#[test]
fn each_failure_in_the_middle_of_a_turn_is_a_sentence_a_record_and_no_end_of_the_conversation() {
    let (system, _server) = scene(json!({}), |asked, answer| match (asked.words.as_str(), asked.results.as_slice()) {
        ("hello", _) => answer.say("fine"),
        (words, []) => answer.call("", &[exec(&format!("echo ran for {words}"))]),
        (words, results) => {
            assert!(results[0].contains(&format!("ran for {words}")), "{results:?}");
            misbehave(words, answer);
        }
    });
    let search = Search::of(KEY);
    let answered = |status: u64| move |record: &Value| record["step"] == "answered" && record["status"] == status;
    let failed = |rule: &'static str| move |record: &Value| record["step"] == "failed" && record["rule"] == rule;
    type Is = Box<dyn Fn(&Value) -> bool>;
    let cases: [(&str, &str, Is); 16] = [
        ("401", "it does not take the key (401): no: [redacted]", Box::new(answered(401))),
        ("429", "it is asked too often (429): no: [redacted]", Box::new(answered(429))),
        ("500", "it answered 500", Box::new(answered(500))),
        ("redirect", "egress.redirect", Box::new(failed("egress.redirect"))),
        ("new key", "egress.new_credential", Box::new(failed("egress.new_credential"))),
        ("not json", "it sent an event that is not JSON", Box::new(|record: &Value| record["step"] != "begun")),
        ("not text", "it sent what is not UTF-8", Box::new(|record: &Value| record["step"] != "begun")),
        ("cut", "the answer broke off: the connection ended before the answer did", Box::new(failed("egress.cut"))),
        ("half a call", "its answer ended before it was whole", Box::new(answered(200))),
        ("reset", "the answer broke off: ", Box::new(failed("egress.cut"))),
        ("gone", "(egress.cut)", Box::new(failed("egress.cut"))),
        ("much text", "its answer is longer than is shown", Box::new(failed("egress.cancelled"))),
        ("long line", "it sent an event of more than 524288 bytes", Box::new(failed("egress.cancelled"))),
        ("many pings", "(egress.too_large)", Box::new(failed("egress.too_large"))),
        ("much to do", "(egress.too_large)", Box::new(failed("egress.too_large"))),
        ("much ado", "(egress.too_large)", Box::new(failed("egress.too_large"))),
    ];
    for (words, sentence, is_recorded) in cases {
        let before = requests(&system).len();
        let read = reads(&system, words);
        let end = &read[read.floor_char_boundary(read.len().saturating_sub(2_000))..];
        assert!(read.contains("claude/one: ") && read.contains(sentence), "{words}: {end}");
        assert_eq!(search.find(read.as_bytes()), None, "{words}");
        wait_for(&format!("the record of {words}"), || {
            requests(&system)[before..].iter().any(&is_recorded).then_some(())
        });
        assert_eq!(system.chat("hello"), "fine\n", "the conversation goes on after {words}");
    }
    let commands = system.records("command-audit");
    // Looking at a file of the workspace is no command.
    let ran = |record: &&Value| record["type"] == "intent" && record["allowedBy"] != "tools";
    assert_eq!(commands.iter().filter(ran).count(), 16, "the first half of each turn, and never half a call");
    assert_eq!(search.find(&log(&system)), None, "the credential is in the log");
    assert!(search.find(format!("so is {KEY}").as_bytes()).is_some(), "it would be found");
}

#[test]
fn secret_that_a_provider_sends_back_is_run_by_no_tool_and_seen_by_nobody() {
    let base64 = system_tests::forms::base64(KEY.as_bytes());
    let (system, _server) = scene(json!({}), move |asked, answer| match asked.results.as_slice() {
        [] => {
            // The call in one piece, as some send it: who spreads it over several events hides it on purpose.
            let input = json!({"command": format!("echo '{KEY}' {base64}"), "yieldMs": 120_000});
            let mut events = model::claude(&format!("I use {KEY}. "), &[]);
            let end = events.split_off(events.len() - 2);
            events.push(json!({"type": "content_block_start", "index": 1,
                "content_block": {"type": "tool_use", "id": "c", "name": "exec", "input": input}}));
            answer.events(&[events, end].concat());
        }
        [result] => answer.say(&format!("It printed {result} of {base64}")),
        other => panic!("{other:?}"),
    });
    let mut client = Client::logged_in(system.port(), &system.token());
    let said = client.chat("go", "k1");
    assert_eq!(said.matches("[redacted]").count(), 4, "{said}");
    let history = client.call("chat.history", &json!({"sessionKey": "main"})).to_string();
    let search = Search::of(KEY);
    for text in [said.as_bytes(), history.as_bytes(), &log(&system)] {
        assert_eq!(search.find(text), None);
    }
    let scrubbed: u64 = requests(&system).iter().filter_map(|record| record["scrubbed"].as_u64()).sum();
    assert!(scrubbed >= 4, "{scrubbed}");
    if is_root() {
        assert_eq!(search.find_in(system.pid("gateway")), None, "gateway saw the credential");
    }
}

#[test]
fn provider_that_stalls_in_a_turn_is_given_up_when_the_turn_has_had_its_time() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let (system, _server) = scene(json!({"timeoutSeconds": 20}), move |asked, answer| {
        match (asked.words.as_str(), asked.results.as_slice()) {
            ("stall", []) => answer.call("", &[exec("echo before")]),
            ("stall", _) => {
                answer.begin_chunked();
                let part = answer.event("I was about to");
                answer.chunk(part.as_bytes());
                let _ = held.lock().unwrap().recv();
            }
            _ => answer.say("fine"),
        }
    });
    let read = reads(&system, "stall");
    assert!(
        read.contains("I was about to") && read.contains("longer than 20 seconds (agents.defaults.timeoutSeconds)"),
        "{read}"
    );
    wait_for("the record of the request that was taken back", || {
        requests(&system).iter().any(|record| record["rule"] == "egress.cancelled").then_some(())
    });
    assert_eq!(system.chat("hello"), "fine\n");
    drop(release);
}

#[test]
fn credential_is_nowhere_in_gateways_memory_while_tools_run_and_one_that_is_planted_is_found() {
    if !is_root() {
        return system_tests::skip("reading the memory of a process that is not dumpable needs root");
    }
    // Each request looks, while it is answered and the credential of it is in egress's hands.
    let pids = std::sync::Arc::new(Mutex::new(None::<(u32, u32)>));
    let looked = std::sync::Arc::new(Mutex::new(Vec::new()));
    let (given, found) = (std::sync::Arc::clone(&pids), std::sync::Arc::clone(&looked));
    let (system, _server) = scene(json!({}), move |asked, answer| {
        let search = Search::of(KEY);
        if let Some((gateway, egress)) = *given.lock().unwrap() {
            if asked.words.contains(KEY) {
                found.lock().unwrap().push((search.find_in(gateway), true));
                return answer.say("planted");
            }
            answer.begin();
            let events: Vec<Value> = match asked.results.len() {
                rounds @ 0..4 => model::claude(&format!("{KEY} "), &[exec(&format!("echo {rounds}"))]),
                _ => model::claude("done", &[]),
            };
            for event in events {
                answer.bytes(format!("data: {event}\n\n").as_bytes());
            }
            found.lock().unwrap().push((search.find_in(gateway), remembers(egress, KEY.as_bytes())));
        }
    });
    *pids.lock().unwrap() = Some((system.pid("gateway"), system.pid("egress")));
    assert!(system.chat("work").contains("done"));
    let rounds = std::mem::take(&mut *looked.lock().unwrap());
    assert_eq!(rounds.len(), 5);
    for (in_gateway, in_egress) in rounds {
        assert_eq!(in_gateway, None, "gateway has a form of the credential");
        assert!(in_egress, "in flight it is in egress: the search would find it");
    }
    assert_eq!(Search::of(KEY).find_in(system.pid("gateway")), None);
    // The same search finds what a person says.
    assert!(system.chat(&format!("is {KEY} a key?")).contains("planted"));
    assert!(looked.lock().unwrap()[0].0.is_some(), "what is there is found");
}
