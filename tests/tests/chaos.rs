//! A short stretch of chaos; `cargo xtask chaos` runs the long one.

use std::time::Duration;
use system_tests::chaos::{Plan, run};
use system_tests::{As, is_root, skip};

fn short(who: As) {
    let report = run(Plan { who, length: Duration::from_secs(15), seed: 11 }, |line| eprintln!("{line}"));
    assert!(report.broken.is_empty(), "{:#?}\n{}", report.broken, report.facts.join("\n"));
    assert!(report.hits.values().sum::<u32>() >= 3, "{:?}", report.hits);
}

#[test]
fn set_of_root_survives_chaos() {
    if !is_root() {
        return skip("not root");
    }
    short(As::Root);
}

#[test]
fn set_of_a_user_survives_chaos() {
    short(As::User);
}
