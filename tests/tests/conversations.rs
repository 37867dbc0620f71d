//! What a conversation is made of, through the whole of Moltbot: what a model reads of it, what of others, what of the web; when it
//! begins anew; and what becomes of one that strangers' words have reached.

use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use system_tests::client::{Came, Client};
use system_tests::model::{self, Answer, Asked, Called, exec};
use system_tests::servers::{Authority, Server, name_server, respond};
use system_tests::{As, Sandbox, System, is_root};

fn anybody() -> As {
    if is_root() { As::Root } else { As::User }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// A Moltbot that asks `script` as `gpt/m`; `gpt/small` has a small window, `claude/eyes` takes images.
fn scene(more: Value, script: impl Fn(&Asked, &mut Answer<'_>) + Send + Sync + 'static) -> (System, Server) {
    let server = model::plain(script);
    let mut system = System::prepare(anybody(), &Sandbox::Native);
    let base = format!("http://localhost:{}", server.port);
    let mut config = json!({
        "agents": {"defaults": {"sandbox": {"backend": "native"}, "model": "gpt/m"}},
        "models": {"providers": {
            "gpt": {"baseUrl": format!("{base}/v1"), "api": "openai-completions",
                "models": [{"id": "m", "contextWindow": 100_000}, {"id": "small", "contextWindow": 2_000}]},
            "claude": {"baseUrl": base, "api": "anthropic-messages", "models": [{"id": "eyes", "input": ["text", "image"]}]},
        }},
        "tools": {"exec": {"ask": "off"}},
    });
    merge(&mut config, more);
    std::fs::write(system.state().join("moltbot.json"), config.to_string()).unwrap();
    system.up();
    (system, server)
}

/// What is answered in a conversation, or why not.
fn says(system: &System, session: &str, message: &str) -> String {
    let output = system.moltbot(&["chat", "--session", session, message]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn bodies(server: &Server) -> Vec<Value> {
    server.seen().iter().map(|seen| serde_json::from_slice(&seen.body).unwrap()).collect()
}

fn tool(name: &'static str, arguments: Value) -> Called {
    (name, arguments.to_string())
}

#[test]
fn conversation_that_fills_the_window_goes_on_from_a_summary_and_one_that_does_not_is_whole() {
    let (system, server) = scene(json!({}), |asked, answer| {
        let summary = asked.words.starts_with("Sum up this conversation");
        answer.say(if summary { "THE-SUMMARY" } else { "noted" });
    });
    let long = "x".repeat(5_000);
    for session in ["wide", "narrow"] {
        if session == "narrow" {
            assert!(says(&system, session, "/model gpt/small").contains("gpt/small"));
        }
        for message in [format!("first {long}"), format!("second {long}"), "third".to_owned()] {
            assert!(says(&system, session, &message).contains("noted"));
        }
    }
    let bodies = bodies(&server);
    let said = |body: &Value, at: usize| body["messages"][at]["content"].as_str().unwrap().to_owned();
    // Three questions of the wide one, each longer than the one before; of the narrow one, four.
    assert_eq!(bodies.len(), 7);
    assert!(said(&bodies[2], 1).starts_with("first xxx") && said(&bodies[2], 5) == "third");
    assert!(said(&bodies[4], 1).starts_with("first xxx"), "what is summed up is the conversation");
    let after = said(&bodies[5], 1);
    assert!(after.starts_with("What was said before, in short:\n\nTHE-SUMMARY\n\nsecond xxx"), "{after}");
    assert!(!bodies[5].to_string().contains("first xxx"));
    assert_eq!((said(&bodies[6], 1), said(&bodies[6], 3)), (after, "third".to_owned()));
    // By hand as well, and the transcript keeps what was before.
    assert!(says(&system, "wide", "/compact names above all").contains("from a summary of its 6 parts"));
    assert!(says(&system, "wide", "fourth").contains("noted"));
    let asked = self::bodies(&server);
    assert!(asked[7].to_string().contains("What matters most: names above all"));
    assert_eq!(said(&asked[8], 1), "What was said before, in short:\n\nTHE-SUMMARY\n\nfourth");
    let mut client = Client::logged_in(system.port(), &system.token());
    let history = client.call("chat.history", &json!({"sessionKey": "wide"})).to_string();
    assert!(history.contains("first xxx") && history.contains("THE-SUMMARY"));
}

#[test]
fn files_of_the_workspace_are_the_owners_word_and_a_strangers_conversation_has_them_between_marks() {
    let (system, _server) = scene(json!({}), |asked, answer| match (asked.words.as_str(), asked.results.len()) {
        (words, 0) if words.contains("write it") => {
            answer.call("", &[tool("write", json!({"path": "AGENTS.md", "content": "Call me Ishmael.\n"}))]);
        }
        _ => answer.say(&format!("I was told: {}", asked.system)),
    });
    assert!(!says(&system, "main", "what?").contains("Ishmael"), "a new workspace is empty");
    assert!(system.chat("/exec echo 'Call me Ishmael.' > AGENTS.md").contains("exit 0"));
    let own = says(&system, "main", "what?");
    assert!(own.contains("# AGENTS.md, from the workspace\n\nCall me Ishmael.\n"), "{own}");
    assert!(!says(&system, "work", "what?").contains("Ishmael"), "another conversation has another workspace");
    assert!(says(&system, "telegram:7", "write it").contains("I was told"));
    let theirs = says(&system, "telegram:7", "what?");
    assert!(theirs.contains("source=\"AGENTS.md\">\nCall me Ishmael.\n"), "{theirs}");
    // What changes there is read again.
    assert!(system.chat("/exec echo 'Call me Ahab.' > AGENTS.md").contains("exit 0"));
    let own = says(&system, "main", "what?");
    assert!(own.contains("Call me Ahab.") && !own.contains("Ishmael"), "{own}");
}

#[test]
fn images_go_to_models_that_take_them_and_are_named_to_others() {
    const PIXEL: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    let (system, server) = scene(json!({}), |asked, answer| answer.say(&format!("I see {}", asked.images)));
    let mut client = Client::logged_in(system.port(), &system.token());
    let image = |kind: &str, content: &str| json!([{"type": "image", "mimeType": kind, "content": content}]);
    let mut look = |session: &str, run: &str| {
        let attachments = image("image/png", &format!("data:image/png;base64,{PIXEL}"));
        let params =
            json!({"sessionKey": session, "message": "look", "idempotencyKey": run, "attachments": attachments});
        client.call("chat.send", &params);
        loop {
            let event = client.event("chat");
            if event["runId"] == run && event["state"] != "delta" {
                return event["message"]["content"][0]["text"].as_str().unwrap().to_owned();
            }
        }
    };
    assert!(says(&system, "eyes", "/model claude/eyes").contains("claude/eyes"));
    assert_eq!(look("eyes", "k1"), "I see 1");
    assert_eq!(look("blind", "k2"), "I see 0");
    let bodies = bodies(&server);
    let source = &bodies[0]["messages"][0]["content"][0]["source"];
    assert_eq!((&source["media_type"], &source["data"]), (&"image/png".into(), &PIXEL.into()));
    assert!(!bodies[1].to_string().contains(PIXEL) && bodies[1].to_string().contains("image"));
    for (kind, content) in [("image/svg+xml", PIXEL), ("image/png", "no base64!"), ("image/png", &"A".repeat(102_404))]
    {
        let params = json!({"sessionKey": "eyes", "message": "look", "attachments": image(kind, content), "idempotencyKey": "k"});
        client.send("bad", "chat.send", &params);
        assert_eq!(client.answer("bad")["ok"], false, "{kind}");
    }
    assert_eq!(server.seen().len(), 2);
}

/// What a tool says so far that waits for the operator; panics where it does not wait.
fn waiting(client: &mut Client) -> String {
    loop {
        match client.receive() {
            Came::Frame(frame) if frame["event"] == "agent" && frame["payload"]["data"]["phase"] == "update" => {
                let text = &frame["payload"]["data"]["partialResult"]["content"][0]["text"];
                return text.as_str().unwrap().to_owned();
            }
            Came::Frame(frame) if frame["event"] == "chat" && frame["payload"]["state"] != "delta" => panic!("{frame}"),
            Came::Frame(_) => {}
            Came::Closed(code, reason) => panic!("{code} {reason}"),
        }
    }
}

#[test]
fn other_conversations_are_read_and_one_with_strangers_leaves_a_mark_that_gateway_cannot_take_off() {
    let (system, _server) = scene(json!({}), |asked, answer| match (asked.words.as_str(), asked.results.as_slice()) {
        ("list", []) => answer.call("", &[tool("sessions_list", json!({}))]),
        ("read work", []) => answer.call("", &[tool("sessions_history", json!({"sessionKey": "work"}))]),
        ("read telegram", []) => {
            answer.call("", &[tool("sessions_history", json!({"sessionKey": "agent:main:telegram:7"}))]);
        }
        ("act", []) => answer.call("", &[exec("touch made")]),
        (_, []) => answer.say(&format!("offered: {};", asked.offered.join(" "))),
        (_, results) => answer.say(&format!("came: {}", results.join("|"))),
    });
    assert!(says(&system, "work", "the launch is on friday").contains("sessions_history"));
    let strangers = says(&system, "telegram:7", "touch everything");
    assert!(strangers.contains("ls grep;"), "a stranger's conversation reads no others: {strangers}");
    let list = says(&system, "main", "list");
    assert!(list.contains("agent:main:work,") && list.contains("agent:main:telegram:7,"), "{list}");
    let work = says(&system, "main", "read work");
    assert!(work.contains("<untrusted-") && work.contains("user: the launch is on friday"), "{work}");
    assert!(!system.says(&["sessions", "tainted"]).contains("agent:main:main"), "the owner's words mark nothing");
    assert!(says(&system, "main", "act").contains("[exit 0]"));
    assert!(says(&system, "main", "read telegram").contains("user: touch everything"));
    let marked = || system.says(&["sessions", "tainted"]);
    assert!(marked().contains("agent:main:main: the conversation agent:main:telegram:7"), "{}", marked());
    // A gateway that is another one knows nothing of it, and the vault does.
    system.kill("gateway");
    system.wait_epoch("gateway", 2);
    assert!(marked().contains("agent:main:main"));
    let offered = says(&system, "main", "what now?");
    assert!(offered.contains("offered: exec") && !offered.contains("sessions_history"), "{offered}");
    let mut client = Client::logged_in(system.port(), &system.token());
    client.send("2", "chat.send", &json!({"sessionKey": "main", "message": "act", "idempotencyKey": "k1"}));
    let asks = waiting(&mut client);
    let id = asks.split("moltbot approvals show ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    let shown = system.says(&["approvals", "show", &id]);
    assert!(shown.contains("touch made"), "{shown}");
    let _ = system.says(&["approvals", "deny", &id]);
    while client.event("chat")["state"] == "delta" {}
    let _ = system.says(&["sessions", "untaint", "agent:main:main"]);
    assert!(!marked().contains("agent:main:main"));
    assert!(says(&system, "main", "act").contains("[exit 0]"));
}

#[test]
fn words_sent_to_another_conversation_are_answered_there_and_carry_the_mark_along() {
    let (system, server) = scene(json!({}), |asked, answer| match (asked.words.as_str(), asked.results.as_slice()) {
        (words, []) if words.starts_with("tell ") => {
            let (to, message) = words.strip_prefix("tell ").unwrap().split_once(' ').unwrap();
            answer.call("", &[tool("sessions_send", json!({"sessionKey": to, "message": message}))]);
        }
        ("read telegram", []) => {
            answer.call("", &[tool("sessions_history", json!({"sessionKey": "agent:main:telegram:7"}))]);
        }
        (words, []) if words.contains("this, from its conversation") && words.contains("pass it on") => {
            answer.call("", &[tool("sessions_send", json!({"sessionKey": "main", "message": "again"}))]);
        }
        (words, []) => answer.say(&format!("heard <{words}> offered {};", asked.offered.join(" "))),
        (_, results) => answer.say(&format!("came: {}", results.join("|"))),
    });
    for session in ["work", "other", "telegram:7"] {
        assert!(says(&system, session, "hello").contains("heard <"));
    }
    let sent = says(&system, "main", "tell work /exec touch made");
    assert!(
        sent.contains("heard <[the agent says this, from its conversation agent:main:main]\n/exec touch made>"),
        "{sent}"
    );
    let ran = |record: &Value| record["type"] == "intent" && record["allowedBy"] != "tools";
    assert!(!system.records("command-audit").iter().any(ran), "it was no command");
    let back = says(&system, "main", "tell work pass it on");
    assert!(back.contains("came: <untrusted-") && back.contains("agent:main:main began this turn"), "{back}");
    for (words, why) in
        [("tell main x", "that is this conversation"), ("tell nowhere x", "this agent has no conversation")]
    {
        let read = says(&system, "main", words);
        assert!(read.contains(why), "{read}");
    }
    assert_eq!(system.says(&["sessions", "tainted"]).matches("agent:main:").count(), 0);
    // To a stranger's conversation the owner's may speak, and is marked by the answer that it reads.
    assert!(says(&system, "other", "tell telegram:7 hello").contains("heard <"));
    let marked = system.says(&["sessions", "tainted"]);
    assert!(marked.contains("agent:main:other: the conversation agent:main:telegram:7"), "{marked}");
    assert!(!marked.contains("agent:main:work"));
    assert!(says(&system, "other", "tell telegram:7 more").contains("taint.no_way_out"));
    let on = says(&system, "other", "tell work go on");
    assert!(on.contains("heard <") && !on.contains("web_fetch"), "it reads it as a stranger's: {on}");
    let marked = system.says(&["sessions", "tainted"]);
    assert!(marked.contains("agent:main:work: the conversation agent:main:other"), "{marked}");
    let last = &bodies(&server)[server.seen().len() - 2];
    assert!(last.to_string().contains("source=\\\"message\\\""), "{last}");
    // A stranger's has no such tool, whatever its model calls.
    let theirs = says(&system, "telegram:7", "tell work x");
    assert!(theirs.contains("there is no tool sessions_send here"), "{theirs}");
}

#[test]
fn conversation_begins_anew_after_silence_and_after_the_hour_and_not_before() {
    for (session, hours) in [
        (json!({"reset": {"mode": "daily", "atHour": 0}}), 25),
        (json!({"reset": {"mode": "idle", "idleMinutes": 90}}), 2),
        (json!({"idleMinutes": 90}), 2),
    ] {
        let (mut system, server) = scene(json!({"session": session}), |_, answer| answer.say("noted"));
        for message in ["one", "two"] {
            assert!(system.chat(message).contains("noted"));
        }
        system.down();
        // As it is when nobody spoke for so long: the gateway's clock is the kernel's, so the file's is set back.
        for file in std::fs::read_dir(system.state().join("sessions")).unwrap().map(Result::unwrap) {
            let ago = format!("{hours} hours ago");
            assert!(Command::new("touch").args(["-d", &ago]).arg(file.path()).status().unwrap().success());
        }
        system.up();
        for message in ["three", "four"] {
            assert!(system.chat(message).contains("noted"));
        }
        let counts: Vec<usize> =
            bodies(&server).iter().map(|body| body["messages"].as_array().unwrap().len()).collect();
        assert_eq!(counts, [2, 4, 2, 4], "{session}: the third message begins anew, the others do not");
    }
}

#[test]
fn pages_are_read_from_listed_hosts_alone_wherever_a_redirect_or_a_name_leads() {
    let authority = Authority::new();
    let (listed, second) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(0)));
    let (target, other) = (Arc::clone(&listed), Arc::clone(&second));
    let docs = Server::tls(authority.server("docs.test"), move |seen, out| {
        let path = seen.head.split(' ').nth(1).unwrap().to_owned();
        let port = *other.lock().unwrap();
        let to = |url: String| format!("location: {url}\r\n");
        match path.as_str() {
            "/page" => respond(
                out,
                "200 OK",
                "content-type: text/html\r\n",
                b"<h1>Title</h1><script>no()</script><p>Words.</p>",
            ),
            "/moved" => respond(out, "302 Go", "location: /page\r\n", b""),
            "/loop" => respond(out, "302 Go", "location: /loop\r\n", b""),
            "/inside" => respond(out, "302 Go", &to(format!("https://inside.test:{port}/")), b""),
            "/elsewhere" => respond(out, "302 Go", &to(format!("https://elsewhere.test:{port}/")), b""),
            "/plain" => respond(out, "302 Go", &to("http://docs.test/".to_owned()), b""),
            "/image" => respond(out, "200 OK", "content-type: image/png\r\n", b"\x89PNG"),
            "/named" => respond(out, "302 Go", &to(target.lock().unwrap().clone()), b""),
            _ => respond(out, "404 No", "", b""),
        }
    });
    let port = docs.port;
    *second.lock().unwrap() = port;
    *listed.lock().unwrap() = format!("https://docs.test:{port}/page");
    let resolver = name_server(|name, _| {
        vec![match name {
            "inside.test" => Ipv4Addr::new(10, 0, 0, 1),
            "metadata.test" => Ipv4Addr::new(169, 254, 169, 254),
            _ => Ipv4Addr::LOCALHOST,
        }]
    });
    let more = json!({"egress": {
        "allow": [format!("inside.test:{port}"), format!("metadata.test:{port}"), format!("home.test:{port}")],
        "local": [format!("https://docs.test:{port}")], "ca": authority.path(), "resolver": resolver.to_string(),
    }});
    let (system, _server) = scene(more, |asked, answer| match (asked.words.as_str(), asked.results.as_slice()) {
        ("offer", _) => answer.say(&format!("offered: {};", asked.offered.join(" "))),
        (url, []) => answer.call("", &[tool("web_fetch", json!({"url": url}))]),
        (_, results) => answer.say(&format!("came: {}", results.join("|"))),
    });
    let here = |path: &str| format!("https://docs.test:{port}{path}");
    for path in ["/page", "/moved", "/named"] {
        let page = says(&system, "main", &here(path));
        assert!(page.contains("Title") && page.contains("Words.") && !page.contains("no()"), "{path}: {page}");
        assert!(page.contains("source=\"web_fetch\""), "{page}");
    }
    for (at, (url, why)) in [
        (here("/inside"), "dialer.private_address"),
        (here("/elsewhere"), "dialer.not_allowed"),
        (here("/plain"), "must begin with https://"),
        (here("/loop"), "docs.test answered 302"),
        (here("/image"), "and no text"),
        (here("/gone"), "docs.test answered 404"),
        (format!("https://metadata.test:{port}/"), "dialer.private_address"),
        (format!("https://home.test:{port}/"), "dialer.private_address"),
        (format!("https://127.0.0.1:{port}/"), "dialer.not_allowed"),
        (format!("https://[::ffff:127.0.0.1]:{port}/"), "dialer.not_allowed"),
        (format!("https://2130706433:{port}/"), "dialer.not_allowed"),
        ("file:///etc/passwd".to_owned(), "must begin with https://"),
    ]
    .into_iter()
    .enumerate()
    {
        // Each in a conversation of its own: what left for the world marks one, whatever came of it.
        let read = says(&system, &format!("s{at}"), &url);
        assert!(read.contains(why), "{url}: {read}");
    }
    let marked = system.says(&["sessions", "tainted"]);
    assert!(marked.contains("agent:main:s0: inside.test") && marked.contains("agent:main:s8: 127.0.0.1"), "{marked}");
    assert!(!marked.contains("agent:main:main") && !marked.contains("agent:main:s2"), "{marked}");
    assert!(!says(&system, "s0", "offer").contains("web_fetch"));
    assert!(says(&system, "main", "offer").contains("web_fetch"));
    let refused: Vec<Value> = system
        .records("secret-audit")
        .into_iter()
        .filter(|record| record["type"] == "request" && record["rule"] == "dialer.private_address")
        .collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert_eq!(docs.seen().len(), 14);
}
