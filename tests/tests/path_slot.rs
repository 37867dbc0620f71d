//! A credential that belongs into a path, as Telegram's (`/bot<token>/sendMessage`), over real processes behind their real walls.
//! The test is gateway, and has fallen: it asks for the place in every way that a request can say one.

use std::io::Write;
use std::net::Ipv4Addr;
use system_tests::forms::forms;
use system_tests::servers::{Authority, Seen, Server, name_server, respond};
use system_tests::way_out::{Came, Setup, World, request};

const HOST: &str = "api.bots.test";
/// As a bot's token is, with characters that a path escapes.
const TOKEN: &str = "7654321098:AAE-x_Y0123456789 \"abc<def>ghij?kl#m";
const IN_PATH: &str = "7654321098:AAE-x_Y0123456789%20%22abc%3Cdef%3Eghij%3Fkl%23m";

struct Scene {
    world: World,
    server: Server,
}

fn scene(
    token: &str,
    place: &str,
    paths: &str,
    answer: impl Fn(&Seen, &mut dyn Write) + Send + Sync + 'static,
) -> Scene {
    let authority = Authority::new();
    let server = Server::tls(authority.server(HOST), answer);
    let resolver = Some(name_server(|_, _| vec![Ipv4Addr::LOCALHOST]));
    let local = vec![format!("{HOST}:{}", server.port)];
    let world = World::new(&Setup { local, resolver, ca: authority.path(), ..Setup::default() });
    let port = server.port;
    let policy =
        format!("verb inject\nrole egress\n{place}\nhost {HOST}\nport {port}\nmethod GET\nmethod POST\n{paths}");
    world.secret("bot", token.as_bytes(), &policy);
    Scene { world, server }
}

impl Scene {
    fn ask(&self, path: &str) -> Came {
        self.with(path, &[("accept", "*/*")])
    }

    fn with(&self, path: &str, headers: &[(&str, &str)]) -> Came {
        self.world.ask(&request(Some("bot"), "POST", HOST, self.server.port, path, headers, 60, b"{}"))
    }

    fn log(&self) -> String {
        self.world.records().iter().map(ToString::to_string).collect()
    }
}

const SLOT: &str = "slot /bot{secret}";
const SEND: &str = "path /sendMessage\n";

fn fine(_: &Seen, out: &mut dyn Write) {
    respond(out, "200 OK", "", b"ok");
}

#[test]
fn credential_stands_in_front_of_the_path_and_nowhere_else_and_no_record_has_it() {
    let scene = scene(TOKEN, SLOT, SEND, fine);
    let came = scene.ask("/sendMessage?chat_id=1");
    assert!(came.end.is_ok() && came.text() == "ok", "{came:?}");
    let seen = scene.server.seen();
    let line = format!("POST /bot{IN_PATH}/sendMessage?chat_id=1 HTTP/1.1\r\n");
    assert!(seen[0].head.starts_with(&line), "{}", seen[0].head);
    assert_eq!(seen[0].head.matches("7654321098").count(), 1);
    assert_eq!(scene.world.requests()[0]["what"], "POST /sendMessage");
    let log = scene.log();
    assert!(log.contains(&format!("POST {HOST}:{}/bot{{secret}}/sendMessage", scene.server.port)), "{log}");
    assert!(!log.contains("7654321098") && !log.contains("AAE-x"), "the credential is in the log");
}

#[test]
fn credential_that_the_server_gives_back_is_taken_out_in_every_form_at_every_border() {
    let mut all = forms(TOKEN);
    all.extend([IN_PATH.to_owned(), IN_PATH.replace("%3C", "%3c").replace("%3E", "%3e").replace("%3F", "%3f")]);
    let sent = all.clone();
    let scene = scene(TOKEN, SLOT, "path /\n", move |seen, out| {
        let (form, size) = seen.head.split(' ').nth(1).unwrap().rsplit_once('/').unwrap().1.split_once('-').unwrap();
        let body = format!("<no method /bot{}/x>", sent[form.parse::<usize>().unwrap()]);
        let head = format!("HTTP/1.1 404 Not Found\r\nLocation: /bot{IN_PATH}/x\r\nTransfer-Encoding: chunked\r\n\r\n");
        out.write_all(head.as_bytes()).unwrap();
        for piece in body.as_bytes().chunks(size.parse().unwrap()) {
            out.write_all(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()).unwrap();
            out.flush().unwrap();
        }
        out.write_all(b"0\r\n\r\n").unwrap();
    });
    for (at, form) in all.iter().enumerate() {
        for size in [1, 11, 10_000] {
            let came = scene.ask(&format!("/{at}-{size}"));
            let what = format!("{form} in pieces of {size}: {}", came.text());
            assert!(came.end.as_ref().is_ok_and(|reply| reply.scrubbed == 2), "{what}");
            assert!(came.text().contains("[redacted]"), "{what}");
            assert!(!came.text().contains("AAE-x") && !came.text().contains("0123456"), "{what}");
            assert_eq!(came.headers, [("location".to_owned(), "/bot[redacted]/x".to_owned())], "{what}");
        }
    }
}

#[test]
fn fallen_gateway_gets_the_credential_onto_no_other_path_and_into_no_other_place() {
    let scene = scene(TOKEN, SLOT, SEND, fine);
    for (path, rule) in [
        // The place named by the caller: it names a path that the policy does not.
        ("/bot{secret}/sendMessage", "vault.path"),
        ("/{secret}/sendMessage", "vault.path"),
        ("/bot/sendMessage", "vault.path"),
        ("/", "vault.path"),
        // Out of the place, or over it.
        ("/..", "vault.path"),
        ("/../sendMessage", "vault.path"),
        ("/sendMessage/../getUpdates", "vault.path"),
        ("/./sendMessage", "vault.path"),
        ("/sendMessage/..;x/getUpdates", "vault.path"),
        ("/%2e%2e/sendMessage", "vault.path"),
        ("/sendMessage/%2E%2e/getUpdates", "vault.path"),
        ("/sendMessage%2f..%2fgetUpdates", "vault.path"),
        ("/sendMessage%5c..", "vault.path"),
        ("/sendMessage\\..\\getUpdates", "vault.path"),
        ("/sendMessage%252f..", "vault.path"),
        ("/sendMessage%00", "vault.path"),
        ("//sendMessage", "vault.path"),
        ("/sendMessage//x", "vault.path"),
        ("/sendMessage#x", "vault.path"),
        ("/sendMessage?x#y", "vault.path"),
        // Glued to it, so that it would be another's token or another host.
        ("x/sendMessage", "egress.path"),
        ("", "egress.path"),
        ("@evil.test/sendMessage", "egress.path"),
        ("?x=/sendMessage", "egress.path"),
        // What begins like what is allowed.
        ("/sendMessages", "vault.path"),
        ("/sendMessageTo", "vault.path"),
        ("/sendmessage", "vault.path"),
        ("/SENDMESSAGE", "vault.path"),
        // Another request behind it.
        ("/sendMessage HTTP/1.1\r\nhost: evil.test\r\n\r\n", "egress.path"),
        ("/sendMessage\t", "egress.path"),
    ] {
        assert_eq!(scene.ask(path).rule(), rule, "{path:?}");
    }
    assert_eq!(scene.server.connections(), 0);
    assert!(scene.world.uses().iter().all(|verb| verb == "lease"), "a credential left the vault");
    // What is allowed goes, and what looks like a place in it stays what it is.
    let headers = [("x-note", "{secret}"), ("accept", "/bot{secret}")];
    for path in ["/sendMessage", "/sendMessage/{secret}", "/sendMessage?a={secret}&b=%7Bsecret%7D"] {
        assert!(scene.with(path, &headers).end.is_ok(), "{path}");
        let head = scene.server.seen().pop().unwrap().head;
        assert!(head.starts_with(&format!("POST /bot{IN_PATH}{path} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("\r\nx-note: {secret}\r\n") && head.matches("7654321098").count() == 1, "{head}");
    }
}

#[test]
fn credential_whose_place_is_a_header_is_in_no_path_whatever_the_path_says() {
    let scene = scene(TOKEN, "header x-bot", "path /\n", fine);
    for path in ["/bot{secret}/sendMessage", "/{secret}", "/bot/sendMessage?{secret}"] {
        assert!(scene.ask(path).end.is_ok(), "{path}");
        let head = scene.server.seen().pop().unwrap().head;
        assert!(head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{head}");
        assert!(head.contains(&format!("\r\nx-bot: {TOKEN}\r\n")) && head.matches("7654321098").count() == 1, "{head}");
    }
}

#[test]
fn credential_that_would_end_its_segment_in_one_of_two_readings_goes_nowhere() {
    for bad in ["0123456789/x", "0123456789\\x", "0123456789%2fx", "0123456789;x"] {
        let scene = scene(bad, SLOT, SEND, fine);
        let came = scene.ask("/sendMessage");
        assert_eq!(came.rule(), "egress.credential", "{bad}");
        assert!(!came.end.unwrap_err().message.contains("0123456789"), "{bad}");
        assert!(scene.server.seen().is_empty(), "{bad}");
        assert!(!scene.log().contains("0123456789"), "{bad}");
    }
    let scene = scene("0123456789.x", SLOT, SEND, fine);
    assert!(scene.ask("/sendMessage").end.is_ok());
    assert!(scene.server.seen()[0].head.starts_with("POST /bot0123456789.x/sendMessage HTTP/1.1\r\n"));
}
