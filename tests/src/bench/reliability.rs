//! R1: roles die at random instants under load. R3: every attack on every wall. What is counted is what must not be: the
//! control is how much was tried.

use super::{Bound, Row};
use crate::chaos::{Plan, run};
use crate::{As, is_root};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Invariants that did not hold while roles were killed, crashed and stopped.
pub fn r1(full: bool) -> Vec<Row> {
    let length = Duration::from_secs(if full { 600 } else { 60 });
    let who = if is_root() { As::Root } else { As::User };
    let report = run(Plan { who, length, seed: 42 }, |line| eprintln!("{line}"));
    report.facts.iter().chain(&report.broken).for_each(|line| eprintln!("{line}"));
    let back = report.back_ms.iter().map(|(signal, ms)| format!("{signal} {ms} ms")).collect::<Vec<_>>().join(", ");
    vec![Row {
        goal: "R1",
        what: format!(
            "invariants broken / hits under load in {} s; longest return to service: {back}",
            length.as_secs()
        ),
        measured: count(report.broken.len()),
        control: report.hits.values().copied().map(f64::from).sum(),
        unit: "",
        bound: Bound::AtMost(0.0),
        published: "",
    }]
}

/// Cells of the matrix that are not as committed, holes included.
pub fn r3(_full: bool) -> Vec<Row> {
    // From a checkout alone: the roles are built with the probes in them.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new("cargo").args(["xtask", "matrix"]).current_dir(root).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let cells = text.lines().find_map(|line| line.split_once(" cells in ")?.0.parse::<f64>().ok());
    let Some(cells) = cells else { panic!("no matrix: {text}{}", String::from_utf8_lossy(&output.stderr)) };
    let faults = text.lines().filter(|line| line.starts_with("FAULT")).count();
    vec![Row {
        goal: "R3",
        what: "cells of the confinement matrix that are not as committed / cells tried".to_owned(),
        measured: count(faults),
        control: cells,
        unit: "",
        bound: Bound::AtMost(0.0),
        published: "",
    }]
}

fn count(of: usize) -> f64 {
    f64::from(u32::try_from(of).unwrap_or(u32::MAX))
}
