//! Turns that a model answers, through the whole of Moltbot: a client, gateway, egress, dialer, TLS, a model's server of the
//! test's own that speaks the documented protocols. Each way in which a provider fails ends its turn with a sentence, and the
//! next message is answered.

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, mpsc};
use system_tests::client::Client;
use system_tests::model::{self, Answer, Asked};
use system_tests::servers::{Authority, Server, name_server};
use system_tests::{As, Sandbox, System, is_root, remembers, wait_for};

const KEY: &str = "sk-live-0123456789abcdefghij";
const HOST: &str = "model.test";

/// A Moltbot with two providers: `claude/one` over TLS, with a key; `local/two` on this machine, without.
struct Scene {
    system: System,
    claude: Server,
    local: Server,
}

fn scene(
    who: As,
    claude: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static,
    local: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static,
) -> Scene {
    let authority = Authority::new();
    let (claude, local) = (model::tls(authority.server(HOST), claude), model::plain(local));
    let mut system = System::prepare(who, &Sandbox::Native);
    let config = json!({
        "agents": {"defaults": {
            "sandbox": {"backend": "native"}, "model": {"primary": "claude/one", "fallbacks": ["local/two"]},
        }},
        "models": {"providers": {
            "claude": {"baseUrl": format!("https://{HOST}:{}", claude.port), "apiKey": "vault:claude.key",
                "api": "anthropic-messages", "models": [{"id": "one"}]},
            "local": {"baseUrl": format!("http://localhost:{}/v1", local.port), "api": "openai-completions",
                "models": [{"id": "two"}]},
        }},
        "egress": {
            "local": [format!("https://{HOST}:{}", claude.port)], "ca": authority.path(),
            "resolver": name_server(|_, _| vec![Ipv4Addr::LOCALHOST]).to_string(),
        },
    });
    std::fs::write(system.state().join("moltbot.json"), config.to_string()).unwrap();
    system.up();
    fed(&system, &["secrets", "set", "claude.key"], KEY);
    let policy = format!(
        "verb inject\nrole egress\nheader x-api-key\nhost {HOST}\nport {}\nmethod POST\npath /v1/messages\n",
        claude.port
    );
    fed(&system, &["secrets", "policy", "claude.key", "--file", "-"], &policy);
    Scene { system, claude, local }
}

fn fed(system: &System, args: &[&str], input: &str) {
    let output = system.fed(args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Scene {
    /// What a person reads, whatever the turn came to.
    fn reads(&self, message: &str) -> String {
        let output = self.system.moltbot(&["chat", message]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

fn anybody() -> As {
    if is_root() { As::Root } else { As::User }
}

#[test]
fn answer_is_streamed_through_the_whole_chain_and_the_conversation_is_remembered() {
    let others = (anybody() != As::User).then_some(As::User);
    for who in std::iter::once(anybody()).chain(others) {
        converse(who);
    }
}

fn converse(who: As) {
    let scene = scene(
        who,
        |asked, answer| answer.say(&format!("You said <{}>.", asked.words)),
        |_, answer| answer.say("local here"),
    );
    assert!(scene.system.chat("hello").contains("You said <hello>."));
    assert!(scene.system.chat("again").contains("You said <again>."));
    let seen = scene.claude.seen();
    assert_eq!(seen.len(), 2);
    for request in &seen {
        assert!(request.head.starts_with("POST /v1/messages HTTP/1.1\r\n"), "{}", request.head);
        assert!(request.head.contains(&format!("\r\nx-api-key: {KEY}\r\n")));
        assert!(request.head.contains("\r\nanthropic-version: 2023-06-01\r\n"));
    }
    let second: Value = serde_json::from_slice(&seen[1].body).unwrap();
    assert_eq!(second["messages"][0]["content"], "hello");
    assert_eq!(second["messages"][1]["content"], "You said <hello>.");
    assert_eq!((&second["model"], &second["stream"]), (&"one".into(), &true.into()));
    assert!(scene.system.chat("/status").contains("20 read, 10 written"));
    // Another model for this session, from now on, and on another one's protocol.
    assert!(scene.system.chat("/model local/two").contains("local/two"));
    assert!(scene.system.chat("who is there?").contains("local here"));
    let request = &scene.local.seen()[0];
    assert!(request.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n") && !request.head.contains("x-api-key"));
    assert!(scene.system.chat("/status").contains("30 read, 15 written"));
    assert!(scene.system.chat("/model gone/x").contains("no model gone/x"));
    let requests: Vec<Value> =
        scene.system.records("secret-audit").into_iter().filter(|record| record["type"] == "request").collect();
    assert_eq!(requests.len(), 6, "two records for each of three requests");
    assert!(requests.iter().all(|record| record["sessionKey"] == "agent:main:main"));
    let log = requests.iter().map(ToString::to_string).collect::<String>();
    assert!(!log.contains(KEY) && !log.contains("hello"));
}

#[test]
fn each_failure_of_a_provider_is_a_sentence_and_the_next_message_is_answered() {
    let tries = Arc::new(Mutex::new(0));
    let count = Arc::clone(&tries);
    let local = |asked: &Asked, answer: &mut Answer<'_>| match asked.words.as_str() {
        "fall back" => answer.say("the second answers"),
        _ => answer.status("503 No", "", br#"{"error":{"message":"local is tired"}}"#),
    };
    let scene = scene(
        anybody(),
        move |asked, answer| {
            let events = "content-type: text/event-stream\r\n";
            match asked.words.as_str() {
                "401" | "fall back" => answer.status("401 No", "", br#"{"error":{"message":"bad key"}}"#),
                "429 once" => {
                    *count.lock().unwrap() += 1;
                    match *count.lock().unwrap() {
                        1 => answer.status("429 Slow", "retry-after: 0\r\n", b"{}"),
                        _ => answer.say("at last"),
                    }
                }
                "500" => answer.status("500 No", "", b"<html>oops</html>"),
                "half json" => answer.status("200 OK", events, b"data: {\"type\":\"content_bl\n\n"),
                "no events" => answer.status("200 OK", "content-type: text/html\r\n", b"<html>"),
                "cut" => {
                    let part = answer.event("half a");
                    answer.status("200 OK", events, part.as_bytes());
                }
                "empty" => answer.say(""),
                "overloaded" => answer.events(&[json!({"type": "error", "error": {"message": "Overloaded"}})]),
                "reflect" => answer.say(&format!("your key is {KEY} indeed")),
                "endless" => answer.say(&format!("{} ", "x".repeat(4_000)).repeat(150)),
                _ => answer.say("fine"),
            }
        },
        local,
    );
    for (message, sentence) in [
        ("401", "claude/one: it does not take the key (401): bad key"),
        ("500", "claude/one: it answered 500"),
        ("half json", "claude/one: it sent an event that is not JSON"),
        ("no events", "claude/one: it answered with something else than a stream of events"),
        ("cut", "claude/one: the answer broke off: its answer ended before it was whole"),
        ("empty", "claude/one: it gave an empty answer"),
        ("overloaded", "claude/one: it broke off: Overloaded"),
        ("endless", "claude/one: its answer is longer than is shown"),
    ] {
        let read = scene.reads(message);
        assert!(read.contains(sentence), "{message}: {}", &read[read.len().saturating_sub(2_000)..]);
        assert!(!read.contains(KEY));
    }
    let both = scene.reads("401");
    assert!(both.contains("local/two: it answered 503: local is tired"), "{both}");
    assert!(scene.system.chat("429 once").contains("at last"));
    assert_eq!(*tries.lock().unwrap(), 2);
    assert!(scene.system.chat("fall back").contains("the second answers"));
    let reflected = scene.system.chat("reflect");
    assert!(reflected.contains("your key is [redacted] indeed"), "{reflected}");
    if is_root() {
        let gateway = scene.system.pid("gateway");
        assert!(remembers(gateway, b"vault:claude.key"), "what it has is found");
        assert!(!remembers(gateway, KEY.as_bytes()), "gateway saw the key");
        let auditd = scene.system.pid("auditd");
        let boot = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap();
        assert!(remembers(auditd, boot.trim_ascii()), "what it has is found");
        assert!(!remembers(auditd, KEY.as_bytes()), "auditd saw the key");
    }
    assert!(scene.system.chat("hello").contains("fine"));
    fed(&scene.system, &["secrets", "remove", "claude.key"], "");
    let without = scene.reads("hello");
    assert!(without.contains("vault.no_such_credential") && without.contains("moltbot secrets set"), "{without}");
}

#[test]
fn turn_that_is_aborted_ends_at_once_and_takes_its_request_back() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let scene = scene(
        anybody(),
        move |asked, answer| {
            if asked.words != "wait" {
                return answer.say("fine");
            }
            answer.begin_chunked();
            let part = answer.event("thinking");
            answer.chunk(part.as_bytes());
            let _ = held.lock().unwrap().recv();
        },
        |_, answer| answer.say("local here"),
    );
    let mut client = Client::logged_in(scene.system.port(), &scene.system.token());
    client.send("2", "chat.send", &json!({"sessionKey": "main", "message": "wait", "idempotencyKey": "k1"}));
    while client.event("chat")["state"] != "delta" {}
    client.send("3", "chat.abort", &json!({"sessionKey": "main", "runId": "k1"}));
    let end = loop {
        let event = client.event("chat");
        if event["state"] != "delta" {
            break event;
        }
    };
    assert_eq!(end["state"], "aborted");
    let cancelled = || {
        let records = scene.system.records("secret-audit");
        records.iter().any(|record| record["rule"] == "egress.cancelled").then_some(())
    };
    wait_for("the record of the request that was taken back", cancelled);
    assert!(scene.system.chat("hello").contains("fine"));
    drop(release);
}
