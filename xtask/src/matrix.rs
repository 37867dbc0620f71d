//! The confinement matrix: test builds of the roles beside the ordinary ones, and the test that runs both.

use crate::{Outcome, cargo, run, target};
use std::fs;

/// Packages that roles are in, and their programs.
const ROLES: [(&str, &[&str]); 5] = [
    ("auditd", &["moltbot-auditd"]),
    ("vault", &["moltbot-vault"]),
    ("sandboxd", &["moltbot-sandboxd", "moltbot-launcher"]),
    ("egress", &["moltbot-egress", "moltbot-dialer"]),
    ("gateway", &["moltbot-gateway"]),
];

/// Builds the roles with the probes into `target/probes`. They are built where the ordinary ones are, so the caller builds
/// those after this.
pub fn build() -> Outcome {
    let mut command = cargo();
    command.arg("build");
    for (package, _) in ROLES {
        command.args(["--package", package, "--features", &format!("{package}/probes")]);
    }
    run(&mut command)?;
    let to = target().join("probes");
    fs::create_dir_all(&to).map_err(|error| format!("{}: {error}", to.display()))?;
    for name in ROLES.iter().flat_map(|(_, programs)| *programs) {
        let from = target().join("debug").join(name);
        // Not over a program that may be running: a new file in its place.
        let _ = fs::remove_file(to.join(name));
        fs::copy(&from, to.join(name)).map_err(|error| format!("{}: {error}", from.display()))?;
    }
    Ok(())
}

/// Runs the matrix over what was built; `bless` writes the committed table anew.
pub fn test(bless: bool) -> Outcome {
    let mut command = cargo();
    command.args(["test", "--package", "tests", "--features", "probes", "--test", "matrix"]);
    command.env("MOLTBOT_BIN_DIR", target().join("debug")).env("MOLTBOT_PROBE_BIN_DIR", target().join("probes"));
    if bless {
        command.env("MOLTBOT_BLESS", "1");
    }
    run(&mut command)
}

/// `cargo xtask matrix [--bless]`.
pub fn matrix(args: &[String]) -> Outcome {
    let bless = match args {
        [] => false,
        [word] if word == "--bless" => true,
        _ => return Err("matrix takes --bless or nothing".to_owned()),
    };
    build()?;
    run(cargo().arg("build"))?;
    test(bless)
}
