//! `cargo xtask`: what a checkout can do with itself. Development only; nothing of it is shipped.
#![forbid(unsafe_code)]

mod torture;

use proto::topology::TOPOLOGY;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask COMMAND

  up [--state-dir DIR] [--port N]   build a release and run it in the foreground
  test [ARGS for cargo test]        build everything and run every test
  torture [ROLE]                    tests that take minutes
  check                             dependency budgets, and documents drawn from the code
  docs                              draw those documents anew
  ci                                what .ci/run runs, without its installing
";

/// Crates that each role may depend on at most, itself not counted.
const BUDGETS: [(&str, usize); 6] =
    [("broker", 40), ("auditd", 50), ("vault", 60), ("egress", 90), ("sandboxd", 110), ("gateway", 140)];
/// What the tree of a role must not hold at all.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    ("vault", &["hyper", "bollard", "rustls", "tungstenite", "tokio"]),
    ("auditd", &["hyper", "bollard", "rustls", "tungstenite", "tokio"]),
    ("broker", &["hyper", "bollard", "rustls", "tungstenite", "tokio"]),
];
const BROKER_LINES: usize = 1_650;
const OPEN: &str = "<!-- topology -->\n";
const CLOSE: &str = "<!-- /topology -->";

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rest = words.get(1..).unwrap_or_default();
    let outcome = match words.first().map(String::as_str) {
        Some("up") => up(rest),
        Some("test") => test(rest),
        Some("torture") => torture::torture(rest),
        Some("check") => check(),
        Some("docs") => docs(true),
        Some("ci") => ci(),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(format!("unknown command {other}\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", command.get_program().display())),
        Err(error) => Err(format!("{}: {error}", command.get_program().display())),
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn up(args: &[String]) -> Outcome {
    run(cargo().args(["build", "--release"]))?;
    run(Command::new(target().join("release/moltbot")).args(["up", "--foreground"]).args(args))
}

fn test(args: &[String]) -> Outcome {
    run(cargo().arg("build"))?;
    run(cargo().args(["test", "--workspace"]).args(args).env("MOLTBOT_BIN_DIR", target().join("debug")))
}

fn ci() -> Outcome {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    check()?;
    test(&[])
}

fn check() -> Outcome {
    for (package, budget) in BUDGETS {
        let tree = tree(package)?;
        println!("{package}: {} of {budget} dependencies", tree.len());
        if tree.len() > budget {
            return Err(format!("{package} is over its budget"));
        }
    }
    for (package, forbidden) in FORBIDDEN {
        let tree = tree(package)?;
        if let Some(found) = forbidden.iter().find(|name| tree.contains(**name)) {
            return Err(format!("{package} must not depend on {found}"));
        }
    }
    let lines = broker_lines()?;
    println!("broker: {lines} of {BROKER_LINES} lines");
    if lines > BROKER_LINES {
        return Err("broker is over its lines: what grows does not belong there".to_owned());
    }
    docs(false)
}

fn tree(package: &str) -> Result<BTreeSet<String>, String> {
    let text = output(cargo().args(["tree", "--package", package, "--edges", "normal", "--prefix", "none"]))?;
    let names = text.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != package);
    Ok(names.map(str::to_owned).collect())
}

/// Lines of broker's code: neither blank nor comment, tests apart.
fn broker_lines() -> Result<usize, String> {
    let mut lines = 0;
    for entry in std::fs::read_dir(root().join("broker/src")).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_file() {
            let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            lines += code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        }
    }
    Ok(lines)
}

fn diagram() -> String {
    let mut text = String::from("```\n");
    for wire in &TOPOLOGY {
        text.push_str(&format!("{:<9} --- {:<20} --> {}\n", wire.client.name(), wire.says, wire.server.name()));
    }
    text.push_str("```\n");
    text
}

fn docs(write: bool) -> Outcome {
    let path = root().join("docs/ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let (before, rest) = text.split_once(OPEN).ok_or("docs/ARCHITECTURE.md has lost its topology mark")?;
    let (_, after) = rest.split_once(CLOSE).ok_or("docs/ARCHITECTURE.md has lost its topology mark")?;
    let drawn = format!("{before}{OPEN}{}{CLOSE}{after}", diagram());
    if write {
        std::fs::write(&path, drawn).map_err(|error| error.to_string())
    } else if drawn == text {
        Ok(())
    } else {
        Err("docs/ARCHITECTURE.md does not show the topology as it is; run `cargo xtask docs`".to_owned())
    }
}
