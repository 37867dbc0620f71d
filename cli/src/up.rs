//! `moltbot up` and `moltbot down`.

use crate::CliError;
use crate::args::Args;
use crate::door::Door;
use crate::paint::Paint;
use proto::operator::{Mode, OperatorRequest, Status};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that a start may take before it counts as failed.
const START: Duration = Duration::from_secs(30);
/// Longest that an orderly stop may take: every role's steps together.
const STOP: Duration = Duration::from_secs(75);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much of broker's log is shown where it did not come up, in bytes.
const TAIL: usize = 2_000;

/// Starts broker, waits until the set serves, prints the banner.
///
/// # Errors
/// [`CliError`] with broker's own words where it ended.
pub fn up(dir: &Path, port: Option<u16>, foreground: bool, args: &Args) -> Result<(), CliError> {
    is_taken(dir)?;
    let broker = std::env::current_exe().map_err(CliError::failed)?.with_file_name("moltbot-broker");
    let mut command = Command::new(&broker);
    command.arg("--state-dir").arg(dir).stdin(Stdio::null());
    if let Some(port) = port {
        command.arg("--port").arg(port.to_string());
    }
    let log = dir.join("broker.log");
    let mut begin = 0;
    if !foreground {
        std::fs::create_dir_all(dir).map_err(CliError::failed)?;
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
        let file = file.map_err(|error| CliError::Failed(format!("{}: {error}", log.display())))?;
        begin = file.metadata().map(|data| data.len()).unwrap_or_default();
        command.stdout(Stdio::null()).stderr(Stdio::from(file)).process_group(0);
    }
    let mut child = command.spawn().map_err(|error| CliError::Failed(format!("{}: {error}", broker.display())))?;
    match wait_ready(dir, &mut child) {
        Ok(status) => {
            print_banner(&status, args);
            settle(dir, &status, args)?;
        }
        Err(error) if foreground => return Err(error),
        Err(error) => {
            let text = std::fs::read(&log).unwrap_or_default();
            let new = text.get(usize::try_from(begin).unwrap_or_default()..).unwrap_or_default();
            let tail =
                String::from_utf8_lossy(new.get(new.len().saturating_sub(TAIL)..).unwrap_or_default()).into_owned();
            let text = format!("{error}\n{}", tail.trim_end());
            return Err(if let CliError::Ended(status, _) = error {
                CliError::Ended(status, text)
            } else {
                CliError::Failed(text)
            });
        }
    }
    if foreground {
        // Ctrl-C reaches broker as well: both are of the terminal's process group. It drains; we wait.
        let status = child.wait().map_err(CliError::failed)?;
        return if status.success() {
            Ok(())
        } else {
            Err(CliError::ended(status, format!("broker ended with {status}")))
        };
    }
    Ok(())
}

/// Says what a role would end by, before anything is started. A configuration that does not load at all is broker's to name.
fn is_taken(dir: &Path) -> Result<(), CliError> {
    match config::Config::load(&dir.join("moltbot.json")) {
        Ok(config) => crate::config::is_taken(&config),
        Err(_) => Ok(()),
    }
}

/// Moves secrets that stand in the configuration into the vault. Where the vault does not take one, what was started goes on
/// without it, and the command fails with the reason.
fn settle(dir: &Path, status: &Status, args: &Args) -> Result<(), CliError> {
    // A vault that waits for its passphrase, or for the operator's word, takes nothing.
    if !status.vault.is_empty() {
        return Ok(());
    }
    let sealed = crate::config::seal::seal(dir, &mut Door::open(dir)?)?.as_text();
    if !sealed.is_empty() && !args.json {
        println!("  secrets  {sealed}");
    }
    Ok(())
}

fn wait_ready(dir: &Path, child: &mut Child) -> Result<Status, CliError> {
    let until = Instant::now() + START;
    // One connection: each would be recorded.
    let mut door = None;
    loop {
        if let Some(status) = child.try_wait().map_err(CliError::failed)? {
            return Err(CliError::ended(status, format!("broker ended with {status}")));
        }
        // Another broker may own the directory's socket; ours will say so and end.
        door = door.or_else(|| Door::open(dir).ok());
        match door.as_mut().map(Door::status) {
            Some(Ok(status)) if status.ready && status.roles.iter().any(|row| row.pid == child.id()) => {
                return Ok(status);
            }
            Some(Ok(_)) | None => {}
            Some(Err(_)) => door = None,
        }
        if Instant::now() >= until {
            return Err(CliError::failed("it did not become ready in 30 s; `moltbot status` shows who is missing"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn print_banner(status: &Status, args: &Args) {
    if args.json {
        return println!("{}", crate::status::as_json(status));
    }
    println!("Moltbot {} serves on {}", status.version, status.listen);
    println!("  state    {}", status.state_dir);
    match status.layout.as_str() {
        "single-uid" => println!(
            "  layout   single-uid: all roles share your uid; Landlock, seccomp and non-dumpable processes keep them apart"
        ),
        layout => println!("  layout   {layout}: every role has a uid of its own"),
    }
    println!("  sandbox  {} - {}", status.backend.name(), status.backend_detail);
    if !status.vault.is_empty() {
        println!("  vault    {}", Paint::new(args).bad(&format!("refuses everything: {}", status.vault)));
    }
    if status.lockdown.mode != Mode::Open || !status.lockdown.quarantined.is_empty() {
        print!("{}", crate::lockdown::as_text(&status.lockdown, Paint::new(args)));
    }
    println!("  next     moltbot chat \"/help\"   moltbot status   moltbot gateway token --reveal   moltbot down");
}

/// Asks broker to come down, and waits until it has.
///
/// # Errors
/// [`CliError`].
pub fn down(dir: &Path, args: &Args) -> Result<(), CliError> {
    let mut door = Door::open(dir)?;
    let broker = door.status().ok().and_then(|status| status.roles.first().map(|row| row.pid));
    door.ask(&OperatorRequest::Down)?;
    let until = Instant::now() + STOP;
    let alive = |pid: u32| Path::new(&format!("/proc/{pid}")).exists() && Door::open(dir).is_ok();
    while broker.is_some_and(alive) || (broker.is_none() && Door::open(dir).is_ok()) {
        if Instant::now() >= until {
            return Err(CliError::failed("it is still up after 75 s; `moltbot status` shows who holds on"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    if args.json {
        println!("{}", serde_json::json!({ "ok": true }));
    } else {
        println!("Moltbot is down");
    }
    Ok(())
}
