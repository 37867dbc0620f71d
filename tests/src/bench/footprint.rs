//! P2: memory, before and after work. P12: the size on disk.

use super::net::Ws;
use super::{Bound, Row};
use crate::{As, Sandbox, System, is_root, programs, skip};
use std::time::Duration;

const MIB: f64 = 1024.0 * 1024.0;

/// Sum of the proportional set sizes of every process of the set, in MiB, with each one's share.
fn pss(system: &System) -> (f64, String) {
    let status = system.status();
    let mut parts = Vec::new();
    let mut sum = 0.0;
    for row in status["roles"].as_array().unwrap().iter().filter(|row| row["pid"] != 0) {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", row["pid"])).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        let mib = line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0;
        parts.push(format!("{} {mib:.1}", row["role"].as_str().unwrap()));
        sum += mib;
    }
    (sum, parts.join(", "))
}

pub fn p2(full: bool) -> Vec<Row> {
    if !is_root() {
        skip("P2 reads what only root may: the memory of sealed processes");
        return Vec::new();
    }
    let system = System::start(As::Root, &Sandbox::Native);
    // Everything that a start leaves to do has been done.
    std::thread::sleep(Duration::from_secs(2));
    let (idle, parts) = pss(&system);
    let turns = if full { 10_000 } else { 1_000 };
    let mut client = Ws::login(system.port(), &system.token());
    for turn in 0..turns {
        let _ = client.chat("main", "/help", &format!("t{turn}"));
    }
    drop(client);
    std::thread::sleep(Duration::from_secs(2));
    let (after, then) = pss(&system);
    vec![
        Row {
            goal: "P2",
            what: format!("PSS of all processes, idle ({parts}) / ZeroClaw's published one process"),
            measured: idle,
            control: 32.0,
            unit: "MiB",
            bound: Bound::AtMost(24.0),
            published: "ZeroClaw 32 MiB, OpenClaw 420 MB",
        },
        Row {
            goal: "P2",
            what: format!("PSS after {turns} chat turns ({then}) / idle"),
            measured: after,
            control: idle,
            unit: "MiB",
            bound: Bound::RatioAtMost(1.25),
            published: "",
        },
    ]
}

pub fn p12(_full: bool) -> Vec<Row> {
    let sizes = std::fs::read_dir(programs()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    #[expect(clippy::cast_precision_loss, reason = "sizes of files, shown with two digits")]
    let mib = sizes.sum::<u64>() as f64 / MIB;
    vec![Row {
        goal: "P12",
        what: "all programs, stripped / ZeroClaw's published one".to_owned(),
        measured: mib,
        control: 45.7,
        unit: "MiB",
        bound: Bound::AtMost(25.0),
        published: "ZeroClaw 45.7 MiB, OpenClaw 1.4 GB",
    }]
}
