//! `cargo xtask systemd`: the units of `deploy/systemd` in a systemd that boots for it, in a container of its own. Needs root,
//! `debootstrap` and `systemd-nspawn`, and minutes the first time; so it is no part of the tests.

use crate::{Outcome, cargo, root, run, target};
use std::path::Path;
use std::process::Command;

const INSIDE: &str = include_str!("systemd/inside.sh");
/// Starts the script when the rest is up, and ends the system with it.
const UNIT: &str = "[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '/usr/local/bin/inside >/outcome 2>&1'
ExecStopPost=/bin/systemctl exit 0
TimeoutStartSec=600
";

/// Boots it, and shows what it found.
pub fn systemd(args: &[String]) -> Outcome {
    let [] = args else { return Err("it takes nothing".to_owned()) };
    run(cargo().args(["build", "--workspace", "--bins"]))?;
    let tree = target().join("systemd");
    if !tree.join("etc").exists() {
        make(&tree)?;
    }
    let failed = |error: std::io::Error| error.to_string();
    let _ = std::fs::remove_dir_all(tree.join("var/lib/moltbot"));
    let _ = std::fs::remove_dir_all(tree.join("etc/systemd/system/moltbot.service.d"));
    let outcome = tree.join("outcome");
    let _ = std::fs::remove_file(&outcome);
    let installed = tree.join("usr/lib/moltbot");
    std::fs::create_dir_all(&installed).map_err(failed)?;
    for entry in std::fs::read_dir(target().join("debug")).map_err(failed)?.filter_map(Result::ok) {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if (text == "moltbot" || text.starts_with("moltbot-")) && !text.contains('.') {
            std::fs::copy(entry.path(), installed.join(&name)).map_err(failed)?;
        }
    }
    let units = tree.join("etc/systemd/system");
    for entry in std::fs::read_dir(root().join("deploy/systemd")).map_err(failed)?.filter_map(Result::ok) {
        std::fs::copy(entry.path(), units.join(entry.file_name())).map_err(failed)?;
    }
    let inside = tree.join("usr/local/bin/inside");
    std::fs::write(&inside, INSIDE).map_err(failed)?;
    std::fs::set_permissions(&inside, std::os::unix::fs::PermissionsExt::from_mode(0o755)).map_err(failed)?;
    std::fs::write(units.join("inside.service"), UNIT).map_err(failed)?;
    let wants = units.join("multi-user.target.wants");
    std::fs::create_dir_all(&wants).map_err(failed)?;
    let _ = std::os::unix::fs::symlink("../inside.service", wants.join("inside.service"));
    // Its own filter knows neither Landlock nor memfd_secret.
    run(Command::new("systemd-nspawn")
        .env("SYSTEMD_SECCOMP", "0")
        .args(["--quiet", "--register=no", "--keep-unit", "--console=pipe", "--private-network", "--boot"])
        .arg("--directory")
        .arg(&tree))?;
    let said = std::fs::read_to_string(&outcome).map_err(|error| format!("it left no outcome: {error}"))?;
    print!("{said}");
    if said.lines().next_back() == Some("rc 0") { Ok(()) } else { Err("a step failed".to_owned()) }
}

fn make(tree: &Path) -> Outcome {
    // The release and the mirror that this machine has its own packages from.
    let format = ["indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages", "Component: main"];
    let said = Command::new("apt-get").args(format).output().map_err(|error| format!("apt-get: {error}"))?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let (release, mirror) =
        said.lines().next().and_then(|line| line.split_once(' ')).ok_or("apt-get knows no mirror; is this Debian?")?;
    let parts = ["--variant=minbase", "--include=systemd,systemd-sysv,dbus,procps,util-linux", release];
    run(Command::new("debootstrap").args(parts).arg(tree).arg(mirror))
}
