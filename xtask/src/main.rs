//! `cargo xtask`: what a checkout can do with itself. Development only; nothing of it is shipped.
#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod evidence;
mod matrix;
mod report;
mod rules_hit;
mod systemd;
mod torture;

use proto::topology::TOPOLOGY;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask COMMAND

  up [--state-dir DIR] [--port N]   build a release and run it in the foreground
  test [ARGS for cargo test]        build everything and run every test
  chaos [--minutes N] [--seed N]    kill, crash and stop processes of a release under load; nothing may be lost
        [--as root|user]
  bench [NAME ...] [--full]         measure against controls in the same run; writes target/bench.json
  matrix [--bless]                  every attack on every role's wall, against tests/matrix.tsv
  systemd                           the units of deploy/systemd in a systemd that boots for it (root, debootstrap,
                                    systemd-nspawn)
  torture [ROLE]                    tests that take minutes
  check                             dependency budgets, tests that documents name, documents drawn from the code
  docs [--check]                    draw those documents anew, or compare them
  confine-report [--json]           print every role's wall as it is designed
  rules-hit                         run the tests under strace; no rule may be unused without a reason
  ci                                what .ci/run runs, without its installing
";

/// Crates that each role may depend on at most, itself not counted.
const BUDGETS: [(&str, usize); 7] = [
    ("broker", 40),
    ("auditd", 50),
    ("vault", 60),
    ("egress", 90),
    ("sandboxd", 110),
    ("runner", 40),
    ("gateway", 140),
];
/// What the tree of a role must not hold at all.
const FORBIDDEN: [(&str, &[&str]); 3] = [
    ("vault", &["hyper", "bollard", "rustls", "tungstenite", "tokio"]),
    ("auditd", &["hyper", "bollard", "rustls", "tungstenite", "tokio"]),
    ("broker", &["hyper", "bollard", "rustls", "tungstenite", "tokio"]),
];
/// As whom each crate may ask (`proto::topology::role`); the types do the rest.
const OWNERS: [(&str, &[&str]); 7] = [
    ("broker", &["Broker"]),
    ("auditd", &["Auditd"]),
    ("vault", &["Vault"]),
    ("egress", &["Egress", "Dialer"]),
    ("sandboxd", &["Sandboxd", "Launcher"]),
    ("gateway", &["Gateway"]),
    ("cli", &["Operator"]),
];
/// Lines of code that run with broker's rights, and of the tables that decide for it (docs/adr/0012-supervise.md).
const LINES: [(&str, usize); 2] = [("broker", 2_200), ("supervise", 600)];
const OPEN: &str = "<!-- topology -->\n";
const CLOSE: &str = "<!-- /topology -->";

type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let rest = words.get(1..).unwrap_or_default();
    let outcome = match words.first().map(String::as_str) {
        Some("up") => up(rest),
        Some("test") => test(rest),
        Some("chaos") => chaos::chaos(rest),
        Some("bench") => bench::bench(rest),
        Some("matrix") => matrix::matrix(rest),
        Some("systemd") => systemd::systemd(rest),
        Some("torture") => torture::torture(rest),
        Some("check") => check(),
        Some("docs") => docs(!rest.iter().any(|arg| arg == "--check")),
        Some("rules-hit") => rules_hit::rules_hit(),
        Some("confine-report") => report::print(rest),
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
    matrix::build()?;
    run(cargo().arg("build"))?;
    // One that fails hides no other.
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--no-fail-fast"]).args(args).env("MOLTBOT_BIN_DIR", target().join("debug"));
    let tests = run(&mut tests);
    // Words after `test` choose among the tests above.
    let matrix = if args.is_empty() { matrix::test(false) } else { Ok(()) };
    tests.and(matrix)
}

fn ci() -> Outcome {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let probes = ["clippy", "-p", "confine", "-p", "tests", "--features", "tests/probes", "--all-targets"];
    run(cargo().args(probes).args(["--", "-D", "warnings"]))?;
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
    for (package, owners) in OWNERS {
        if let Some(foreign) = foreign_role(&root().join(package).join("src"), owners)? {
            return Err(format!("{package} speaks as another role: {foreign}"));
        }
    }
    for (package, most) in LINES {
        let lines = lines_of_code(&root().join(package).join("src"))?;
        println!("{package}: {lines} of {most} lines");
        if lines > most {
            return Err(format!("{package} is over its lines: what grows does not belong there"));
        }
    }
    evidence::check()?;
    docs(false)
}

fn tree(package: &str) -> Result<BTreeSet<String>, String> {
    let text = output(cargo().args(["tree", "--package", package, "--edges", "normal", "--prefix", "none"]))?;
    let names = text.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| *name != package);
    Ok(names.map(str::to_owned).collect())
}

/// The first line beneath `dir` that names a role as which its crate must not ask.
fn foreign_role(dir: &Path, owners: &[&str]) -> Result<Option<String>, String> {
    for entry in std::fs::read_dir(dir).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            if let Some(found) = foreign_role(&path, owners)? {
                return Ok(Some(found));
            }
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
        // egress has a module of that name.
        for line in text.lines().filter(|line| !line.contains("crate::role::")) {
            let names = line.split("role::").skip(1).filter(|rest| rest.starts_with(|c: char| c.is_uppercase()));
            let foreign = |rest: &str| !owners.iter().any(|owner| rest.starts_with(owner));
            if line.contains("role::*") || line.contains("role::{") || names.into_iter().any(foreign) {
                return Ok(Some(format!("{}: {}", path.display(), line.trim())));
            }
        }
    }
    Ok(None)
}

/// Lines of broker's code: neither blank nor comment, tests apart.
/// Lines of code beneath `dir`, without comments and tests.
fn lines_of_code(dir: &Path) -> Result<usize, String> {
    let mut lines = 0;
    for entry in std::fs::read_dir(dir).map_err(|error| error.to_string())? {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            lines += lines_of_code(&path)?;
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
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
    let mut documents = vec![(path, format!("{before}{OPEN}{}{CLOSE}{after}", diagram()))];
    documents.extend(report::documents()?);
    for (path, drawn) in documents {
        if write {
            std::fs::write(&path, drawn).map_err(|error| error.to_string())?;
        } else if std::fs::read_to_string(&path).unwrap_or_default() != drawn {
            return Err(format!("{} does not show the code as it is; run `cargo xtask docs`", path.display()));
        }
    }
    Ok(())
}
