//! `cargo xtask chaos`: the release build under load while its processes are killed, crashed and stopped.

use crate::{Outcome, cargo, run, target};

/// Builds what runs and what hits it, and starts the latter; it ends with the outcome.
pub fn chaos(args: &[String]) -> Outcome {
    run_tool("chaos", args)
}

/// Builds a release, and runs a program of the package `tests` against it.
pub fn run_tool(name: &str, args: &[String]) -> Outcome {
    run(cargo().args(["build", "--release"]))?;
    let tool = ["run", "--release", "--package", "tests", "--bin", name, "--"];
    run(cargo().args(tool).args(args).env("MOLTBOT_BIN_DIR", target().join("release")))
}
