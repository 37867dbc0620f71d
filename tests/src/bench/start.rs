//! P1: from exec of broker to the first healthy answer.

use super::{Bound, Row, alternate, ms};
use crate::{As, Sandbox, System, is_root, programs, wait_for};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What the control starts: broker's children, and broker's own program for its version.
const CHILDREN: [&str; 6] = ["auditd", "vault", "sandboxd", "dialer", "egress", "gateway"];

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// One healthy answer, or nothing where nobody listens yet.
fn health(port: u16) -> Option<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    let head = format!("GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.starts_with("HTTP/1.1 200").then_some(())
}

fn moltbot(system: &System) -> f64 {
    let port = free_port();
    let mut command = system.command(&programs().join("moltbot-broker"));
    command.arg("--state-dir").arg(system.state()).args(["--port", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut broker = command.spawn().unwrap();
    while health(port).is_none() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it does not start");
        std::thread::sleep(Duration::from_micros(200));
    }
    let took = ms(begin.elapsed());
    wait_for("its end", || system.moltbot(&["down"]).status.success().then_some(()));
    broker.wait().unwrap();
    took
}

/// The same seven programs, started side by side without any wall, to the point where a role refuses to run by hand.
fn bare() -> f64 {
    let start = |name: &str, args: &[&str]| {
        let mut command = Command::new(programs().join(format!("moltbot-{name}")));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let begin = Instant::now();
    let mut children: Vec<Child> = CHILDREN.iter().map(|name| start(name, &[])).collect();
    children.push(start("broker", &["--version"]));
    for (at, child) in children.iter_mut().enumerate() {
        let code = child.wait().unwrap().code();
        assert!(code == Some(78) || at == CHILDREN.len(), "a role runs by hand: {code:?}");
    }
    ms(begin.elapsed())
}

pub fn p1(_full: bool) -> Vec<Row> {
    let layouts: &[As] = if is_root() { &[As::Root, As::User] } else { &[As::User] };
    let row = |who: &As| {
        let mut system = System::prepare(*who, &Sandbox::Native);
        // Keys are made at the first start of all.
        system.up();
        system.down();
        let (measured, control) = alternate(11, || moltbot(&system), bare);
        let layout = if *who == As::Root { "a uid each" } else { "one uid" };
        Row {
            goal: "P1",
            what: format!(
                "start to first healthy answer, {layout} / the same 7 programs started bare, to their refusal"
            ),
            measured,
            control,
            unit: "ms",
            bound: Bound::RatioAtMost(2.0),
            published: "ZeroClaw 28 ms, OpenClaw 6-10 s",
        }
    };
    layouts.iter().map(row).collect()
}
