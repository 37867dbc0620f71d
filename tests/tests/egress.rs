//! The way out, over real processes behind their real walls and real TLS: what a request carries, what comes back, and what
//! each attack meets. Beside every attack stands the same request without it, which goes through.

use proto::channel::Outgoing;
use proto::egress::EgressChunk;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, mpsc};
use system_tests::forms::{base64, forms};
use system_tests::servers::{Authority, Seen, Server, name_server, respond};
use system_tests::way_out::{Came, Setup, World, get, post, request};
use system_tests::{is_root, remembers, skip, wait_for};

const HOST: &str = "model.test";
const KEY: &str = r#"sk-live-0123/4567+89ab"c\dEFxyz~Q%"#;

/// A world with one server for [`HOST`] over TLS, whose credential is `model`.
struct Scene {
    world: World,
    server: Server,
}

fn policy(port: u16, more: &str) -> String {
    format!("verb inject\nrole egress\nheader x-api-key\nhost {HOST}\nport {port}\nmethod POST\npath /v1\n{more}")
}

fn scene_with(more: &str, answer: impl Fn(&Seen, &mut dyn Write) + Send + Sync + 'static) -> Scene {
    let authority = Authority::new();
    let server = Server::tls(authority.server(HOST), answer);
    let resolver = Some(name_server(|_, _| vec![Ipv4Addr::LOCALHOST]));
    let local = vec![format!("{HOST}:{}", server.port)];
    let world = World::new(&Setup { local, resolver, ca: authority.path(), ..Setup::default() });
    world.secret("model", KEY.as_bytes(), &policy(server.port, more));
    Scene { world, server }
}

fn scene(answer: impl Fn(&Seen, &mut dyn Write) + Send + Sync + 'static) -> Scene {
    scene_with("", answer)
}

impl Scene {
    fn ask(&self, body: &[u8]) -> Came {
        self.world.ask(&post(HOST, self.server.port, body))
    }
}

#[test]
fn request_carries_the_credential_and_its_answer_comes_back_as_it_was() {
    let body: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
    let expected = body.clone();
    let scene = scene(move |_, out| respond(out, "200 OK", "Content-Type: text/event-stream\r\nX-Other: a\r\n", &body));
    let came = scene.ask(b"{\"hello\":1}");
    let reply = came.end.as_ref().unwrap();
    assert_eq!((came.status, reply.scrubbed), (200, 0));
    assert_eq!(reply.received, u64::try_from(expected.len()).unwrap());
    assert!(came.body == expected, "the body was changed");
    assert_eq!(came.headers, [("content-type".to_owned(), "text/event-stream".to_owned())]);
    let seen = scene.server.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].name.as_deref(), Some(HOST));
    assert!(seen[0].head.starts_with("POST /v1/messages?x=1 HTTP/1.1\r\n"), "{}", seen[0].head);
    assert!(seen[0].head.contains(&format!("\r\nx-api-key: {KEY}\r\n")), "{}", seen[0].head);
    assert_eq!(seen[0].head.matches(KEY).count(), 1);
    assert_eq!(seen[0].body, b"{\"hello\":1}");
    assert_eq!(scene.world.uses(), ["lease", "redeem"]);
    let records = scene.world.requests();
    assert_eq!((&records[0]["step"], &records[1]["step"]), (&"answered".into(), &"begun".into()));
    for record in &records {
        assert_eq!(record["sessionKey"], "agent:main:test");
        assert_eq!(record["credential"], "model");
        assert_eq!(record["to"], format!("{HOST}:{}", scene.server.port));
        assert_eq!(record["what"], "POST /v1/messages");
        assert_eq!(record["request"], records[0]["request"]);
    }
    assert_eq!((&records[0]["status"], &records[0]["sent"]), (&200.into(), &11.into()));
    assert_eq!(records[0]["address"], format!("127.0.0.1:{}", scene.server.port));
    let log = scene.world.records().iter().map(ToString::to_string).collect::<String>();
    assert!(!log.contains("hello") && !log.contains("sk-live"), "a body or a credential is in the log");
}

#[test]
fn credential_that_the_server_sends_back_is_taken_out_in_every_form_at_every_border() {
    // Each form alone, in records of one byte, of seven, and in one: every border between two pieces is met.
    let forms = forms(KEY);
    let sent = forms.clone();
    let scene = scene(move |seen, out| {
        let asked = String::from_utf8(seen.body.clone()).unwrap();
        let (form, size) = asked.split_once(' ').unwrap();
        let body = format!("<{}>", sent[form.parse::<usize>().unwrap()]);
        let head = format!("HTTP/1.1 200 OK\r\nX-Request-Id: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n");
        out.write_all(head.as_bytes()).unwrap();
        for piece in body.as_bytes().chunks(size.parse().unwrap()) {
            out.write_all(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).unwrap();
            out.flush().unwrap();
        }
        out.write_all(b"0\r\n\r\n").unwrap();
    });
    for (at, form) in forms.iter().enumerate() {
        for size in [1, 7, 10_000] {
            let came = scene.ask(format!("{at} {size}").as_bytes());
            let what = format!("{form} in pieces of {size}: {}", came.text());
            let reply = came.end.as_ref().unwrap_or_else(|refusal| panic!("{what}: {refusal}"));
            assert_eq!(reply.scrubbed, 2, "{what}");
            // What is left of a form is what its first and last characters share with what stood around the key.
            let (head, tail) = came.text().split_once("[redacted]").map(|(a, b)| (a.len(), b.len())).unwrap();
            assert!(head <= 5 && tail <= 7, "{what}");
            assert_eq!(came.headers, [("x-request-id".to_owned(), "[redacted]".to_owned())], "{what}");
        }
    }
    assert_eq!(scene.world.requests()[0]["scrubbed"], 2);
}

#[test]
fn redirect_is_not_followed_and_with_a_credential_not_even_told() {
    let elsewhere = Server::plain(|_, out| respond(out, "200 OK", "", b"here"));
    let target = format!("Location: http://localhost:{}/\r\n", elsewhere.port);
    let (there, plain) = (target.clone(), target.clone());
    let authority = Authority::new();
    let server = Server::tls(authority.server(HOST), move |_, out| respond(out, "307 Go", &there, b""));
    let bare = Server::plain(move |_, out| respond(out, "307 Go", &plain, b""));
    let setup = Setup {
        local: vec![format!("{HOST}:{}", server.port)],
        plain: vec![format!("localhost:{}", bare.port), format!("localhost:{}", elsewhere.port)],
        resolver: Some(name_server(|_, _| vec![Ipv4Addr::LOCALHOST])),
        ca: authority.path(),
        ..Setup::default()
    };
    let world = World::new(&setup);
    world.secret("model", KEY.as_bytes(), &policy(server.port, ""));
    let came = world.ask(&post(HOST, server.port, b"x"));
    assert_eq!((came.rule(), came.status), ("egress.redirect", 0));
    let came = world.ask(&get("localhost", bare.port));
    assert!(came.end.is_ok() && came.status == 307, "{came:?}");
    assert!(came.headers[0].1.contains("localhost"), "the caller may decide");
    assert_eq!(elsewhere.connections(), 0);
    assert_eq!(world.ask(&get("localhost", elsewhere.port)).text(), "here");
}

#[test]
fn names_of_internal_addresses_are_refused_after_they_are_resolved() {
    let authority = Authority::new();
    let server = Server::tls(authority.server(HOST), |_, out| respond(out, "200 OK", "", b""));
    let inside: [(&str, &[[u8; 4]]); 9] = [
        ("loopback.test", &[[127, 0, 0, 1]]),
        ("metadata.test", &[[169, 254, 169, 254]]),
        ("private.test", &[[10, 0, 0, 1]]),
        ("home.test", &[[192, 168, 1, 1]]),
        ("shared.test", &[[100, 64, 0, 1]]),
        ("multicast.test", &[[224, 0, 0, 1]]),
        ("zero.test", &[[0, 0, 0, 0]]),
        ("mixed.test", &[[93, 184, 216, 34], [127, 0, 0, 1]]),
        ("none.test", &[]),
    ];
    let resolver = name_server(move |name, _| {
        let found = inside.iter().find(|(host, _)| *host == name).map(|(_, found)| *found);
        found.unwrap_or(&[[127, 0, 0, 1]]).iter().copied().map(Ipv4Addr::from).collect()
    });
    let port = server.port;
    let mut hosts: Vec<String> = inside.iter().map(|(host, _)| (*host).to_owned()).collect();
    hosts.push("localhost".to_owned());
    let setup = Setup {
        allow: hosts.iter().map(|host| format!("{host}:{port}")).collect(),
        local: vec![format!("{HOST}:{port}")],
        resolver: Some(resolver),
        ca: authority.path(),
        ..Setup::default()
    };
    let world = World::new(&setup);
    let lines: String = hosts.iter().map(|host| format!("host {host}\n")).collect();
    world.secret("model", KEY.as_bytes(), &policy(port, &lines));
    for host in &hosts {
        let came = world.ask(&post(host, port, b"x"));
        let expected = if host == "none.test" { "dialer.unresolved" } else { "dialer.private_address" };
        assert_eq!(came.rule(), expected, "{host}");
        assert_eq!(world.requests()[0]["rule"], expected, "{host}");
    }
    assert_eq!(server.connections(), 0);
    assert!(!world.uses().contains(&"redeem".to_owned()), "a credential left the vault");
    assert!(world.ask(&post(HOST, port, b"x")).end.is_ok(), "the same server, as a service of this machine");
    assert_eq!(world.uses().last().unwrap(), "redeem");
}

#[test]
fn name_that_moves_is_checked_where_it_moved_to() {
    let authority = Authority::new();
    let server = Server::tls(authority.server(HOST), |_, out| respond(out, "200 OK", "", b""));
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let resolver = name_server(move |_, time| {
        *count.lock().unwrap() += 1;
        vec![if time % 2 == 0 { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(93, 184, 216, 34) }]
    });
    let (local, ca) = (vec![format!("{HOST}:{}", server.port)], authority.path());
    let world = World::new(&Setup { local, resolver: Some(resolver), ca, ..Setup::default() });
    world.secret("model", KEY.as_bytes(), &policy(server.port, ""));
    assert!(world.ask(&post(HOST, server.port, b"")).end.is_ok());
    assert_eq!(world.ask(&post(HOST, server.port, b"")).rule(), "dialer.not_local");
    assert!(world.ask(&post(HOST, server.port, b"")).end.is_ok());
    assert_eq!(*asked.lock().unwrap(), 3, "each name is resolved once a request");
    assert_eq!(world.uses(), ["lease", "redeem", "lease", "release", "lease", "redeem"]);
}

#[test]
fn template_that_would_split_a_request_or_carry_a_credential_goes_nowhere() {
    let scene = scene(|_, out| respond(out, "200 OK", "", b"ok"));
    let port = scene.server.port;
    let with = |method: &str, path: &str, header: (&str, &str)| {
        scene.world.ask(&request(Some("model"), method, HOST, port, path, &[header], 60, b""))
    };
    for (method, path, header) in [
        ("POST", "/v1 HTTP/1.1\r\nhost: other\r\n\r\n", ("accept", "a")),
        ("POST", "/v1\0", ("accept", "a")),
        ("POST", "/v1", ("accept", "a\r\nx-evil: b")),
        ("POST", "/v1", ("accept", "a\nx-evil: b")),
        ("POST", "/v1", ("accept", "a\0")),
        ("POST", "/v1", ("accept: b\r\nx", "a")),
        ("POST", "/v1", ("authorization", "Bearer mine")),
        ("POST", "/v1", ("x-api-key", "mine")),
        ("POST", "/v1", ("proxy-authorization", "mine")),
        ("POST", "/v1", ("cookie", "mine")),
        ("POST", "/v1", ("host", "other")),
        ("POST", "/v1", ("transfer-encoding", "chunked")),
        ("POST", "/v1", ("connection", "x-api-key")),
        ("POST", "/v1", ("accept-encoding", "gzip")),
        ("P\r\nT", "/v1", ("accept", "a")),
        ("CONNECT", "/v1", ("accept", "a")),
    ] {
        let came = with(method, path, header);
        assert!(came.rule().starts_with("egress."), "{method} {path:?} {header:?}: {came:?}");
    }
    assert_eq!((scene.server.connections(), scene.world.uses().len()), (0, 0));
    assert_eq!(with("POST", "/v1", ("accept", "a")).text(), "ok");
    assert!(scene.server.seen()[0].head.contains("\r\naccept: a\r\n"));
}

#[test]
fn server_that_does_not_prove_its_name_gets_no_credential() {
    let (ours, others) = (Authority::new(), Authority::new());
    let answer = |_: &Seen, out: &mut dyn Write| respond(out, "200 OK", "", b"");
    let right = Server::tls(ours.server(HOST), answer);
    let foreign = Server::tls(others.server(HOST), answer);
    let misnamed = Server::tls(ours.server("other.test"), answer);
    let without = Server::plain(answer);
    let servers = [&right, &foreign, &misnamed, &without];
    let setup = Setup {
        local: servers.iter().map(|server| format!("{HOST}:{}", server.port)).collect(),
        resolver: Some(name_server(|_, _| vec![Ipv4Addr::LOCALHOST])),
        ca: ours.path(),
        ..Setup::default()
    };
    let world = World::new(&setup);
    for (server, name) in servers.iter().zip(["right", "foreign", "misnamed", "without"]) {
        world.secret(name, KEY.as_bytes(), &policy(server.port, ""));
        let ask = request(Some(name), "POST", HOST, server.port, "/v1", &[], 60, b"");
        let came = world.ask(&ask);
        if name == "right" {
            assert!(came.end.is_ok(), "{came:?}");
            assert_eq!(server.seen()[0].name.as_deref(), Some(HOST));
        } else {
            assert_eq!(came.rule(), "egress.tls", "{name}");
            assert!(server.seen().is_empty(), "{name}");
        }
    }
    let redeemed = world.uses().iter().filter(|verb| *verb == "redeem").count();
    assert_eq!(redeemed, 1, "a credential left the vault for who is nobody");
}

#[test]
fn credential_is_used_by_its_policy_and_no_oftener() {
    let scene = scene_with("rate 2/86400\n", |_, out| respond(out, "200 OK", "", b""));
    let port = scene.server.port;
    let with = |host, path| scene.world.ask(&request(Some("model"), "POST", host, port, path, &[], 60, b""));
    assert_eq!(with("other.test", "/v1").rule(), "vault.destination");
    assert_eq!(with(HOST, "/v2").rule(), "vault.path");
    // Without a credential something may be read where the dialer may go, and nothing said.
    let without = |method, body| scene.world.ask(&request(None, method, "other.test", port, "/", &[], 60, body));
    assert_eq!(without("POST", b"").rule(), "egress.no_credential");
    assert_eq!(without("GET", b"said").rule(), "egress.no_credential");
    assert!(with(HOST, "/v1").end.is_ok() && with(HOST, "/v1/x").end.is_ok());
    assert_eq!(with(HOST, "/v1").rule(), "vault.rate");
    assert_eq!(scene.server.connections(), 2);
    // What it reads counts as strangers' words, whether it came or not: the credential is none that answers need.
    assert_eq!(without("GET", b"").rule(), "dialer.not_allowed");
    assert_eq!(with(HOST, "/v1").rule(), "taint.no_lease");
}

#[test]
fn day_is_over_for_a_credential_when_it_has_moved_or_cost_enough_and_taking_an_answer_back_is_no_way_around() {
    let events = "data: {\"usage\":{\"input_tokens\":1000,\"output_tokens\":100}}\n\n";
    for (bound, is_reached) in [
        ("day-bytes 50\n", true),
        ("day-bytes 1000\n", false),
        ("day-tokens 1100\n", true),
        ("day-tokens 1101\n", false),
        ("day-usd 0.0045\nprice 3/15\n", true),
        ("day-usd 0.0046\nprice 3/15\n", false),
    ] {
        let scene = scene_with(bound, move |_, out| {
            respond(out, "200 OK", "content-type: text/event-stream\r\n", events.as_bytes());
        });
        assert!(scene.ask(b"x").end.is_ok(), "{bound}");
        let next = scene.ask(b"x");
        assert_eq!(
            next.end.as_ref().err().map(|refusal| refusal.rule.as_str()),
            is_reached.then_some("vault.day"),
            "{bound}"
        );
        assert_eq!(scene.server.seen().len(), if is_reached { 1 } else { 2 });
    }
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let scene = scene_with("day-tokens 30\n", move |_, out| {
        let body = "data: {}\n\n".repeat(30);
        out.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{body}").as_bytes()).unwrap();
        out.flush().unwrap();
        let _ = held.lock().unwrap().recv();
    });
    let id = scene.world.send(&post(HOST, scene.server.port, b""));
    let mut came = 0;
    while came < 300 {
        if let (_, Outgoing::Chunk(EgressChunk::Body(bytes))) = scene.world.hear() {
            came += bytes.len();
        }
    }
    scene.world.cancel(id);
    assert_eq!(scene.world.come(id).rule(), "egress.cancelled");
    assert_eq!(scene.ask(b"").rule(), "vault.day");
    drop(release);
}

#[test]
fn credential_goes_without_tls_to_a_listed_service_of_this_machine_alone() {
    let server = Server::plain(|_, out| respond(out, "200 OK", "", b"local"));
    let world = World::new(&Setup { plain: vec![format!("localhost:{}", server.port)], ..Setup::default() });
    let policy = policy(server.port, "host localhost\nhost 127.example\n");
    world.secret("model", KEY.as_bytes(), &policy);
    assert_eq!(world.ask(&post("localhost", server.port, b"")).text(), "local");
    assert!(server.seen()[0].head.contains(KEY));
    assert_eq!(world.ask(&post("127.example", server.port, b"")).rule(), "dialer.not_allowed");
    assert_eq!(server.connections(), 1);
}

#[test]
fn server_that_stalls_breaks_off_or_compresses_ends_the_request_and_the_next_is_served() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let scene = scene(move |seen, out| match seen.body.as_slice() {
        b"stall" => {
            out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").unwrap();
            out.flush().unwrap();
            // Until the test is over.
            let _ = held.lock().unwrap().recv();
        }
        b"cut" => out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").unwrap(),
        b"nothing" => {}
        b"gzip" => respond(out, "200 OK", "content-encoding: gzip\r\n", b"\x1f\x8b"),
        b"two lengths" => respond(out, "200 OK", "content-length: 7\r\n", b"x"),
        b"upgrade" => respond(out, "101 Switching", "upgrade: x\r\n", b""),
        b"early" => respond(out, "100 Continue", "", b""),
        _ => respond(out, "429 Slow down", "retry-after: 7\r\n", b"later"),
    });
    let port = scene.server.port;
    for (what, rule, body) in [
        ("cut", "egress.cut", "half"),
        ("nothing", "egress.cut", ""),
        ("gzip", "egress.encoded", ""),
        ("two lengths", "egress.answer", ""),
        ("upgrade", "egress.answer", ""),
        ("early", "egress.cut", ""),
    ] {
        let came = scene.ask(what.as_bytes());
        assert_eq!((came.rule(), came.text().as_str()), (rule, body), "{what}");
        assert_eq!(scene.world.requests()[0]["rule"], rule, "{what}");
    }
    let came = scene.world.ask(&request(Some("model"), "POST", HOST, port, "/v1", &[], 1, b"stall"));
    assert_eq!((came.rule(), came.text().as_str()), ("egress.stalled", "half"));
    let came = scene.ask(b"");
    assert!(came.end.is_ok() && came.status == 429 && came.text() == "later");
    assert_eq!(came.headers, [("retry-after".to_owned(), "7".to_owned())]);
    drop(release);
}

#[test]
fn answer_of_a_hundred_megabytes_is_cut_and_costs_no_memory() {
    const MIB: usize = 1 << 20;
    let scene = scene_with("bytes 1048576\n", |seen, out| {
        let most = if seen.body == b"fits" { MIB } else { 100 * MIB };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {most}\r\n\r\n");
        let _ = out.write_all(head.as_bytes());
        for _ in 0..most / 65_536 {
            if out.write_all(&[b's'; 65_536]).is_err() {
                return;
            }
        }
    });
    let came = scene.ask(b"fits");
    assert!(came.end.is_ok() && came.body.len() == MIB, "{:?}", came.end);
    let before = scene.world.egress.resident_kib();
    for _ in 0..3 {
        let came = scene.ask(b"all");
        assert_eq!(came.rule(), "egress.too_large");
        assert!(came.body.len() <= MIB + 32_768, "{}", came.body.len());
    }
    let grown = scene.world.egress.resident_kib().saturating_sub(before);
    assert!(grown < 8 * 1024, "egress grew by {grown} KiB");
}

#[test]
fn request_that_nobody_waits_for_ends_and_is_recorded() {
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let scene = scene(move |_, out| {
        out.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n").unwrap();
        out.flush().unwrap();
        let _ = held.lock().unwrap().recv();
    });
    let id = scene.world.send(&post(HOST, scene.server.port, b""));
    // It is under way.
    loop {
        if let (_, Outgoing::Chunk(EgressChunk::Body(bytes))) = scene.world.hear() {
            assert_eq!(&bytes[..], b"first");
            break;
        }
    }
    scene.world.cancel(id);
    assert_eq!(scene.world.come(id).rule(), "egress.cancelled");
    assert_eq!(scene.world.requests()[0]["rule"], "egress.cancelled");
    drop(release);
}

#[test]
fn credential_is_gone_from_egress_when_its_request_is_over() {
    if !is_root() {
        return skip("reading the memory of a process that is not dumpable needs root");
    }
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let scene = scene(move |_, out| {
        out.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nfirst").unwrap();
        out.flush().unwrap();
        let _ = held.lock().unwrap().recv();
        let _ = out.write_all(b"last");
    });
    let pid = scene.world.egress.pid();
    for _ in 0..5 {
        let id = scene.world.send(&post(HOST, scene.server.port, b"{}"));
        while !matches!(scene.world.hear(), (_, Outgoing::Chunk(EgressChunk::Body(_)))) {}
        assert!(remembers(pid, KEY.as_bytes()), "in flight it must be there: it is looked for in the answer");
        release.send(()).unwrap();
        assert!(scene.world.come(id).end.is_ok());
    }
    wait_for("egress to hold nothing of the credential", || (!remembers(pid, KEY.as_bytes())).then_some(()));
    let leftover = base64(KEY.as_bytes());
    assert!(!remembers(pid, leftover.as_bytes()), "a form of it is left");
}
