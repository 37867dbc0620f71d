//! R7: how fast what is seen of an escape is answered, with a real engine.

use super::net::Ws;
use super::{Bound, Row, alternate, ms};
use crate::{As, Sandbox, System, docker_socket, is_root, skip, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Time in which nothing has happened yet: a record says it in microseconds.
fn stood_still(record: &Value) -> Option<f64> {
    let detail = record["detail"].as_str()?;
    let (_, after) = detail.rsplit_once(" after ")?;
    after.strip_suffix(" us")?.parse::<f64>().ok().map(|us| us / 1e3)
}

struct World {
    system: System,
    socket: PathBuf,
    turns: u32,
}

impl World {
    fn docker(&self, args: &[&str]) -> String {
        docker(&self.socket, args)
    }

    /// A fresh container for a conversation of this turn.
    fn container(&mut self) -> (String, String) {
        self.turns += 1;
        let session = format!("agent:main:r7-{}", self.turns);
        assert!(self.system.says(&["chat", "--session", &session, "/exec echo warm"]).contains("warm"));
        let list: Value = serde_json::from_str(&self.system.says(&["sandbox", "list", "--json"])).unwrap();
        let row = list.as_array().unwrap().iter().find(|row| row["sessionKey"] == session.as_str()).unwrap().clone();
        (session, row["container"].as_str().unwrap().to_owned())
    }

    fn signal(&self, container: &str) -> Value {
        wait_for("a signal", || {
            let records = self.system.records("system-audit");
            records.into_iter().find(|record| record["type"] == "signal" && record["container"] == container)
        })
    }

    /// The operator has looked, so that the next one is a first one.
    fn clear(&self) {
        wait_for("the end of the reaction", || {
            let cleared = self.system.moltbot(&["lockdown", "clear"]).status.success();
            (cleared && self.system.status()["ready"] == true).then_some(())
        });
    }
}

fn docker(socket: &Path, args: &[&str]) -> String {
    let output =
        Command::new("docker").arg("--host").arg(format!("unix://{}", socket.display())).args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub fn r7(_full: bool) -> Vec<Row> {
    if !is_root() {
        skip("R7 needs root, who can be sure to reach the engine");
        return Vec::new();
    }
    let Some(socket) = docker_socket() else { return Vec::new() };
    let system = System::start(As::Root, &Sandbox::Docker(socket.clone()));
    let world = std::cell::RefCell::new(World { system, socket: socket.clone(), turns: 0 });
    let pause = || {
        let id =
            docker(&socket, &["run", "-d", "--rm", "--init", "--network", "none", "moltbot-sandbox", "sleep", "300"]);
        let begun = Instant::now();
        docker(&socket, &["pause", &id]);
        let took = ms(begun.elapsed());
        docker(&socket, &["rm", "-f", &id]);
        took
    };
    let frozen = || {
        let mut world = world.borrow_mut();
        let (_, container) = world.container();
        world.docker(&["rename", &container, &format!("r7-{}-{}", std::process::id(), world.turns)]);
        let took = stood_still(&world.signal(&container)).expect("a time");
        world.clear();
        took
    };
    let plain = || {
        let mut world = world.borrow_mut();
        let (session, _) = world.container();
        let mut ws = Ws::login(world.system.port(), &world.system.token());
        let begun = Instant::now();
        let _ = ws.chat(&session, "/exec busybox false", &format!("plain-{}", world.turns));
        ms(begun.elapsed())
    };
    let killed = || {
        let mut world = world.borrow_mut();
        let (session, _) = world.container();
        let mut ws = Ws::login(world.system.port(), &world.system.token());
        let begun = Instant::now();
        let (_, text) = ws.chat(&session, "/exec busybox pivot_root / /tmp", &format!("trip-{}", world.turns));
        assert!(text.contains("only an attack makes"), "{text}");
        ms(begun.elapsed())
    };
    let row = |what: &str, (measured, control), bound| Row {
        goal: "R7",
        what: what.to_owned(),
        measured,
        control,
        unit: "ms",
        bound,
        published: "",
    };
    vec![
        row(
            "S3, from the sight of a foreign act to stillness / `docker pause`",
            alternate(5, frozen, pause),
            Bound::AtMost(60.0),
        ),
        row(
            "S2, a tripping command until its sandbox is gone and it is answered / a plain one",
            alternate(5, killed, plain),
            Bound::AtMost(200.0),
        ),
    ]
}
