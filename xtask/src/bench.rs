//! `cargo xtask bench`: figures of the release build, each beside a control in the same run.

use crate::Outcome;
use crate::chaos::run_tool;

/// Builds what is measured and what measures it; the latter prints the rows and writes `target/bench.json`.
pub fn bench(args: &[String]) -> Outcome {
    run_tool("bench", args)
}
