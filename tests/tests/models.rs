//! Turns that a model answers, through the whole of Moltbot: a client, gateway, egress, dialer, TLS, a model's server of the
//! test's own that speaks the documented protocols. Each way in which a provider fails ends its turn with a sentence, and the
//! next message is answered.

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, mpsc};
use system_tests::client::Client;
use system_tests::forms::Search;
use system_tests::model::{self, Answer, Asked};
use system_tests::servers::{Authority, Server, name_server, respond};
use system_tests::{As, Sandbox, System, is_root, remembers, wait_for};

const KEY: &str = "sk-live-0123456789abcdefghij";
const HOST: &str = "model.test";

/// A Moltbot with two providers: `claude/one` over TLS, with a key; `local/two` on this machine, without.
struct Scene {
    system: System,
    claude: Server,
    local: Server,
    authority: Authority,
}

fn scene(
    who: As,
    claude: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static,
    local: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static,
) -> Scene {
    let scene = started(who, "vault:claude.key", claude, local);
    fed(&scene.system, &["secrets", "set", "claude.key"], KEY);
    fed(&scene.system, &["secrets", "policy", "claude.key", "--file", "-"], &policy(&scene));
    scene
}

/// What the first provider's key is for.
fn policy(scene: &Scene) -> String {
    let port = scene.claude.port;
    format!("verb inject\nrole egress\nheader x-api-key\nhost {HOST}\nport {port}\nmethod POST\npath /v1/messages\n")
}

/// With this as the key that the configuration has.
fn started(
    who: As,
    key: &str,
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
            "claude": {"baseUrl": format!("https://{HOST}:{}", claude.port), "apiKey": key,
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
    Scene { system, claude, local, authority }
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
fn key_that_stood_in_the_file_answers_by_the_start_alone_and_goes_to_its_provider_and_nowhere_else() {
    let scene = started(anybody(), KEY, |_, answer| answer.say("here I am"), |_, answer| answer.say("local here"));
    assert!(scene.system.chat("hello").contains("here I am"));
    assert!(scene.claude.seen()[0].head.contains(&format!("\r\nx-api-key: {KEY}\r\n")));
    let file = std::fs::read_to_string(scene.system.state().join("moltbot.json")).unwrap();
    assert!(file.contains("vault:claude.apikey") && !file.contains(KEY), "{file}");
    let policy = scene.system.says(&["secrets", "policy", "claude.apikey"]);
    let port = scene.claude.port;
    for line in [
        "verb inject",
        "header x-api-key",
        &format!("host {HOST}"),
        &format!("port {port}"),
        "method POST",
        "path /v1/messages",
    ] {
        assert!(policy.lines().any(|found| found == line), "{line}: {policy}");
    }
    let adopted = |record: &&Value| record["verb"] == "secrets.adopt" && record["name"] == "claude.apikey";
    let records = scene.system.records("secret-audit");
    let detail = records.iter().find(adopted).unwrap()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("verb inject") && detail.contains(&format!("host {HOST}")), "{detail}");
    // Another place in the file is no other place in the policy: the key does not follow.
    let elsewhere = model::tls(scene.authority.server(HOST), |_, answer| answer.say("stolen"));
    let base = format!("\"https://{HOST}:{}\"", elsewhere.port);
    let _ = scene.system.says(&["config", "set", "egress.local", &format!("[{base}]"), "--yes"]);
    let _ = scene.system.says(&["config", "set", "models.providers.claude.baseUrl", &base, "--yes"]);
    let _ = Client::logged_in(scene.system.port(), &scene.system.token());
    assert!(scene.system.chat("hello").contains("local here"), "the next model answers");
    let refused = |record: &Value| {
        record["name"] == "claude.apikey"
            && record["detail"].as_str().is_some_and(|detail| detail.starts_with("vault.destination"))
    };
    assert!(scene.system.records("secret-audit").iter().any(refused));
    assert!(elsewhere.seen().iter().all(|seen| !seen.head.contains(KEY)));
}

#[test]
fn honey_secret_that_is_asked_for_is_an_incident_and_reaches_nobody() {
    let scene = scene(anybody(), |_, answer| answer.say("lured"), |_, answer| answer.say("local here"));
    let incidents = || {
        let records = scene.system.records("system-audit").into_iter();
        records.filter(|record| record["type"] == "incident").collect::<Vec<_>>()
    };
    assert!(scene.system.chat("hello").contains("lured"), "the twin");
    assert!(incidents().is_empty());
    let honey = format!("{}honey yes\n", policy(&scene));
    fed(&scene.system, &["secrets", "policy", "claude.key", "--file", "-"], &honey);
    let _ = scene.reads("hello again");
    let steps = wait_for("the reaction", || Some(incidents()).filter(|steps| steps.len() == 5));
    assert!(steps[0]["detail"].as_str().unwrap().starts_with("egress broke the protocol"), "{steps:?}");
    let why = "it asked for the honey secret claude.key";
    assert!(scene.system.records("system-audit").iter().any(|record| record.to_string().contains(why)));
    let records = scene.system.records("secret-audit");
    let asked = |record: &&Value| record["verb"] == "honey" && record["name"] == "claude.key";
    assert_eq!(records.iter().find(asked).map(|record| record["success"].clone()), Some(false.into()));
    assert_eq!(scene.claude.seen().len(), 1, "nothing was sent with it");
    scene.system.wait_epoch("egress", 2);
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
        nobody_remembers_the_key(&scene.system);
    }
    assert!(scene.system.chat("hello").contains("fine"));
    fed(&scene.system, &["secrets", "remove", "claude.key"], "");
    let without = scene.reads("hello");
    assert!(without.contains("vault.no_such_credential") && without.contains("moltbot secrets set"), "{without}");
}

/// No process that it went through, or might have, has anything of it once the turns are over: broker passed it on to the vault,
/// egress sent it.
fn nobody_remembers_the_key(system: &System) {
    let gateway = system.pid("gateway");
    assert!(remembers(gateway, b"vault:claude.key"), "what it has is found");
    for role in ["broker", "auditd", "vault", "sandboxd", "dialer", "egress", "gateway"] {
        let pid = system.pid(role);
        // What the kernel has laid onto its stack.
        let start = std::fs::read(format!("/proc/{pid}/auxv")).unwrap();
        assert!(remembers(pid, &start), "{role} is not searched");
        wait_for(&format!("{role} to have nothing of the key"), || (!remembers(pid, KEY.as_bytes())).then_some(()));
    }
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

#[test]
fn key_that_is_taken_no_more_is_exchanged_for_one_that_gateway_never_sees() {
    const KEYS: [&str; 4] =
        ["sk-old-0123456789abcdef", "rt-one-0123456789abcdef", "at-new-0123456789abcdef", "rt-two-0123456789abcdef"];
    let [old, first, new, second] = KEYS;
    let wanted = Arc::new(Mutex::new(new));
    let status = Arc::new(Mutex::new("200 OK"));
    let (takes, says) = (Arc::clone(&wanted), Arc::clone(&status));
    let provider = model::plain(move |asked, answer| {
        if asked.head.contains(&format!("\r\nx-api-key: {}\r\n", takes.lock().unwrap())) {
            return answer.say("fine");
        }
        answer.status("401 No", "", br#"{"error":{"message":"expired"}}"#);
    });
    let giver = Server::plain(move |seen, out| {
        let body = format!(r#"{{"token_type":"bearer","access_token":"{new}","refresh_token":"{second}"}}"#);
        let status = *says.lock().unwrap();
        let body = if status == "200 OK" { body } else { String::from_utf8_lossy(&seen.body).into_owned() };
        respond(out, status, "content-type: application/json\r\n", body.as_bytes());
    });
    let mut system = System::prepare(anybody(), &Sandbox::Native);
    let config = json!({
        "agents": {"defaults": {"sandbox": {"backend": "native"}, "model": "claude/one"}},
        "models": {"providers": {"claude": {
            "baseUrl": format!("http://localhost:{}", provider.port), "apiKey": "vault:claude.key",
            "refresh": {"url": format!("http://localhost:{}/token", giver.port), "credential": "vault:claude.refresh"},
            "api": "anthropic-messages", "models": [{"id": "one"}]}}},
    });
    std::fs::write(system.state().join("moltbot.json"), config.to_string()).unwrap();
    system.up();
    let to = |verb: &str, port: u16, path: &str, more: &str| {
        format!("verb {verb}\nrole egress\nhost localhost\nport {port}\nmethod POST\npath {path}\n{more}\n")
    };
    fed(&system, &["secrets", "set", "claude.key"], old);
    let policy = to("inject", provider.port, "/v1/messages", "header x-api-key");
    fed(&system, &["secrets", "policy", "claude.key", "--file", "-"], &policy);
    fed(&system, &["secrets", "set", "claude.refresh"], first);
    let policy = to("refresh", giver.port, "/token", "into claude.key\nclient me");
    fed(&system, &["secrets", "policy", "claude.refresh", "--file", "-"], &policy);
    for _ in 0..2 {
        assert!(system.chat("hello").contains("fine"));
    }
    let bodies: Vec<String> =
        giver.seen().iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect();
    assert_eq!(bodies, [format!("grant_type=refresh_token&refresh_token={first}&client_id=me")], "once");
    let keys: Vec<bool> = provider.seen().iter().map(|seen| seen.head.contains(new)).collect();
    assert_eq!(keys, [false, true, true]);
    let stored =
        |record: &Value| record["type"] == "secret" && record["verb"] == "refresh" && record["success"] == true;
    assert_eq!(system.records("secret-audit").iter().filter(|record| stored(record)).count(), 1);
    // A key that is not taken either is exchanged once, and what the server says then is no key.
    *wanted.lock().unwrap() = "another";
    let read = || {
        let output = system.moltbot(&["chat", "hello"]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let refused = read();
    assert!(refused.contains("it does not take the key (401): expired"), "{refused}");
    let last = giver.seen().pop().unwrap();
    assert!(String::from_utf8_lossy(&last.body).contains(second), "the one before is used up");
    *status.lock().unwrap() = "400 No";
    let refused = read();
    assert!(refused.contains("no other key is had: no new credential: the server answered 400"), "{refused}");
    let logs = std::fs::read_dir(system.state().join("logs")).unwrap().map(Result::unwrap);
    let logs: Vec<u8> = logs.filter_map(|file| std::fs::read(file.path()).ok()).flatten().collect();
    for key in KEYS {
        let search = Search::of(key);
        assert_eq!(search.find(refused.as_bytes()).or(search.find(&logs)), None);
        if is_root() {
            assert_eq!(search.find_in(system.pid("gateway")), None, "gateway saw it");
        }
    }
}
