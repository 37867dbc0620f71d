//! What root reads of gateway's memory after logins: nothing of a token or a password that a client has presented, right or wrong, while the
//! connections it came on are still open. The same scanner finds in the same memory what gateway does keep, and the token in
//! the process that presented it.

use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use system_tests::client::{Came, Client};
use system_tests::{As, Sandbox, System, is_root, skip, wait_for};

/// Bytes of the token in a row that count as found.
const WINDOW: usize = 12;
const PASSWORD: &str = "zebra-quartz-9-violin-hamper";
/// Connections that log in and stay.
const CLIENTS: usize = 20;
/// By how many bytes more than the one before each pads its frame; a stranger's may have 64 KiB.
const PADDING: usize = 3_000;

/// True where any window of `needle` stands in memory that the process may write to.
fn holds(pid: u32, needle: &[u8]) -> bool {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let writable = maps.lines().filter(|line| line.split_whitespace().nth(1).is_some_and(|it| it.starts_with("rw")));
    writable.into_iter().any(|line| {
        let (from, to) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // What was unmapped meanwhile holds nothing.
        memory.read_exact_at(&mut bytes, from).is_ok()
            && needle.windows(WINDOW).any(|window| bytes.windows(WINDOW).any(|at| at == window))
    })
}

/// Logs in and returns the connection, still open, and whether it was let in. What it offers lies behind `padding` bytes that
/// nobody asks for: deep in its frame, where what gateway does next does not happen to write over it.
fn login(system: &System, auth: &Value, padding: usize) -> (Client, bool) {
    let mut client = Client::connect(system.port());
    client.event("connect.challenge");
    let mut connect = connect(auth);
    connect["aside"] = json!("x".repeat(padding));
    client.send("1", "connect", &connect);
    let answer = client.answer("1");
    (client, answer["ok"] == true)
}

fn connect(auth: &Value) -> Value {
    json!({
        "minProtocol": 3, "maxProtocol": 4, "role": "operator", "scopes": ["operator.admin"],
        "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli"},
        "auth": auth,
    })
}

#[test]
fn what_was_presented_is_gone_from_gateway_while_its_connection_is_open() {
    if !is_root() {
        return skip("reading the memory of a process that is not dumpable needs root");
    }
    let mut system = System::prepare(As::Root, &Sandbox::Native);
    system.up();
    let token = system.token();
    assert!(system.fed(&["gateway", "password", "set"], PASSWORD).status.success());
    let gateway = system.pid("gateway");
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|at| {
            let auth = if at % 2 == 0 { json!({"token": token}) } else { json!({"password": PASSWORD}) };
            let (client, let_in) = login(&system, &auth, at * PADDING);
            assert!(let_in);
            client
        })
        .collect();
    // A wrong token is somebody's right one elsewhere.
    let wrong = "W".repeat(4) + &token.chars().rev().collect::<String>();
    let (mut refused, let_in) = login(&system, &json!({"token": wrong}), PADDING);
    assert!(!let_in);
    // Until its close frame it is open as well.
    while !matches!(refused.receive(), Came::Closed(..)) {}
    // Each connection lives: what was found, or not, was found in a gateway that serves them.
    for client in &mut clients {
        client.send("2", "health", &json!({}));
        assert_eq!(client.answer("2")["ok"], true);
    }
    for presented in [token.as_str(), &wrong, PASSWORD] {
        wait_for("gateway to hold nothing of what was presented", || {
            (!holds(gateway, presented.as_bytes())).then_some(())
        });
    }
    // Broker passed both between the operator and the vault, and kept neither.
    let broker = system.pid("broker");
    for passed in [token.as_str(), PASSWORD] {
        assert!(!holds(broker, passed.as_bytes()), "broker holds what it passed on");
    }
    let beneath = system.state().to_string_lossy().into_owned();
    assert!(holds(broker, beneath.as_bytes()), "the scanner finds nothing in broker");
    assert!(holds(std::process::id(), token.as_bytes()), "the scanner finds nothing where it is");
    let kept = system.state().join("moltbot.json");
    assert!(holds(gateway, kept.to_string_lossy().as_bytes()), "the scanner finds nothing in gateway");
    assert_eq!(system.pid("gateway"), gateway);
}
