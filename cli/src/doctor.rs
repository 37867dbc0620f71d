//! `moltbot doctor`: whether this machine and this installation can carry Moltbot, a line each with what to do. It changes
//! nothing unless `--fix` says so, and then only modes.

use crate::CliError;
use crate::args::{Args, DoctorOptions};
use crate::audit::{self, FileFact};
use crate::door::Door;
use crate::paint::{Paint, columns, folded, harmless};
use auditd::offline::{self, Expected};
use config::Config;
use proto::audit::Stream;
use proto::control::Layout;
use proto::operator::Status;
use proto::sandbox::Backend;
use proto::watch::Sense;
use rustix::fs::statvfs;
use rustix::termios::isatty;
use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The programs of the set, beside this one.
const PROGRAMS: [&str; 10] = [
    "moltbot-broker",
    "moltbot-auditd",
    "moltbot-vault",
    "moltbot-sandboxd",
    "moltbot-launcher",
    "moltbot-runner",
    "moltbot-dialer",
    "moltbot-egress",
    "moltbot-gateway",
    "moltbot-drill",
];
/// Room below which the log will soon have none, in MiB.
const LITTLE_MIB: u64 = 1_024;
/// Room below which it is not worth starting.
const NO_MIB: u64 = 64;
/// 2026-01-01, before which no clock of a machine that has this program can be right.
const BUILT: u64 = 1_767_225_600;

/// How a thing stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Good,
    /// Not there by design: no fault.
    Off,
    Warn,
    Bad,
}

/// One line.
#[derive(Debug)]
struct Line {
    name: &'static str,
    standing: Standing,
    text: String,
    remedy: String,
}

fn line(name: &'static str, standing: Standing, text: impl Into<String>, remedy: impl Into<String>) -> Line {
    Line { name, standing, text: text.into(), remedy: remedy.into() }
}

/// Looks.
///
/// # Errors
/// [`CliError`] where something is bad.
pub fn run(dir: &Path, options: DoctorOptions, args: &Args) -> Result<(), CliError> {
    let lines = look(dir);
    let mended = if options.fix { mend(dir, options.yes)? } else { Vec::new() };
    // What was mended is looked at again.
    let lines = if mended.is_empty() { lines } else { look(dir) };
    print(&lines, &mended, args)
}

/// Only what a start needs.
///
/// # Errors
/// [`CliError`] where it would not start.
pub fn would_start(dir: &Path, args: &Args) -> Result<(), CliError> {
    let needed = ["programs", "kernel", "state", "config", "port", "clock", "disk", "vault"];
    let lines: Vec<Line> = look(dir).into_iter().filter(|line| needed.contains(&line.name)).collect();
    print(&lines, &[], args)
}

fn print(lines: &[Line], mended: &[String], args: &Args) -> Result<(), CliError> {
    let bad = lines.iter().filter(|line| line.standing == Standing::Bad).count();
    if args.json {
        let word = |standing| match standing {
            Standing::Good => "good",
            Standing::Off => "off",
            Standing::Warn => "warn",
            Standing::Bad => "bad",
        };
        let rows: Vec<_> = lines
            .iter()
            .map(|line| json!({ "check": line.name, "standing": word(line.standing), "text": line.text, "remedy": line.remedy }))
            .collect();
        println!("{}", json!({ "ok": bad == 0, "checks": rows, "mended": mended }));
        return if bad == 0 { Ok(()) } else { Err(CliError::Said) };
    }
    let paint = Paint::new(args);
    for line in lines {
        let mark = match line.standing {
            Standing::Good => paint.good("good"),
            Standing::Off => paint.dim("off "),
            Standing::Warn => paint.warn("warn"),
            Standing::Bad => paint.bad("BAD "),
        };
        let columns = columns();
        println!("{mark}  {:<12} {}", line.name, folded(&harmless(&line.text), 19, columns.saturating_sub(19)));
        if !line.remedy.is_empty() {
            let remedy = folded(&harmless(&line.remedy), 22, columns.saturating_sub(22));
            println!("{:19}{}", "", paint.dim(&format!("-> {remedy}")));
        }
    }
    for what in mended {
        println!("{}  {what}", paint.good("mended"));
    }
    if bad == 0 { Ok(()) } else { Err(CliError::Failed(format!("{bad} of {} checks are bad", lines.len()))) }
}

fn look(dir: &Path) -> Vec<Line> {
    let status = Door::open(dir).ok().and_then(|mut door| door.status().ok());
    let config = Config::load(&dir.join("moltbot.json")).map_err(CliError::failed);
    let config = config.and_then(|config| crate::config::is_taken(&config).map(|()| config));
    let mut lines = vec![programs(), kernel(), namespaces()];
    lines.push(state(dir));
    lines.push(match &config {
        Ok(_) => line("config", Standing::Good, "moltbot.json loads, or is not there: then the defaults hold", ""),
        Err(error) => {
            line("config", Standing::Bad, error.to_string(), "`moltbot config validate`, then `moltbot config edit`")
        }
    });
    let config = config.unwrap_or_default();
    lines.push(docker(&config));
    lines.push(port(&config, status.as_ref()));
    lines.push(clock(dir));
    lines.push(disk(dir, &config.agents.defaults.sandbox.native));
    lines.push(log(dir));
    lines.push(vault(dir, status.as_ref()));
    lines.push(set(status.as_ref()));
    lines.extend(status.as_ref().filter(|status| status.ready).map(sandbox));
    lines.extend(status.iter().flat_map(|status| status.posture.senses.iter()).map(sense));
    lines
}

fn programs() -> Line {
    let here = std::env::current_exe().unwrap_or_default();
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|name| {
            let found = std::fs::metadata(here.with_file_name(name));
            !found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .collect();
    match missing.as_slice() {
        [] => line("programs", Standing::Good, format!("all of them, version {}", env!("CARGO_PKG_VERSION")), ""),
        missing => line(
            "programs",
            Standing::Bad,
            format!("missing beside this one: {}", missing.join(", ")),
            "install the whole package: programs of different builds do not speak to each other",
        ),
    }
}

fn kernel() -> Line {
    let abi = confine::landlock_abi();
    let layout = if rustix::process::geteuid().is_root() { Layout::SplitUid } else { Layout::SingleUid };
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let text = format!("{release}, Landlock ABI {abi}, for {}", layout.name());
    match confine::walls::floor(layout, abi) {
        Ok(()) => line("kernel", Standing::Good, text, ""),
        Err(error) => line("kernel", Standing::Bad, format!("{text}: {error}"), "a newer kernel, or start it as root"),
    }
}

fn namespaces() -> Line {
    let read = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let most = read("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let unprivileged = read("/proc/sys/kernel/unprivileged_userns_clone").unwrap_or(1);
    let restricted = read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or_default();
    if most > 0 && unprivileged > 0 && restricted == 0 {
        return line(
            "namespaces",
            Standing::Good,
            "user namespaces are allowed: native sandboxes have the full tier",
            "",
        );
    }
    line(
        "namespaces",
        Standing::Warn,
        "user namespaces are forbidden: native sandboxes have the lower tier",
        "sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces=10000, kernel.apparmor_restrict_unprivileged_userns=0; or Docker",
    )
}

fn state(dir: &Path) -> Line {
    if !dir.exists() {
        return line("state", Standing::Good, format!("{} is made at the first start", dir.display()), "");
    }
    match audit::gather_files(dir) {
        Err(error) => line("state", Standing::Bad, error.to_string(), "run it as whoever started Moltbot, or as root"),
        Ok(files) => {
            let open: Vec<String> = files.iter().filter_map(too_open).collect();
            match open.as_slice() {
                [] => line("state", Standing::Good, format!("{}: nobody but its owner looks in", dir.display()), ""),
                open => line("state", Standing::Bad, open.join("; "), "`moltbot doctor --fix`"),
            }
        }
    }
}

fn too_open(fact: &FileFact) -> Option<String> {
    let (_, mode) = audit::expected(fact)?;
    let name = if fact.name.as_os_str().is_empty() { Path::new(".") } else { &fact.name };
    if fact.is_link {
        return Some(format!("{} is a link", name.display()));
    }
    let extra = fact.mode & !mode & 0o777;
    (extra != 0).then(|| format!("{} is {:04o}, not {mode:04o}", name.display(), fact.mode))
}

fn docker(config: &Config) -> Line {
    let socket = config.docker_socket();
    let native_only = config.sandbox_backend() == config::Backend::Native;
    match UnixStream::connect(socket) {
        Ok(_) => line("docker", Standing::Good, format!("an engine listens on {socket}"), ""),
        Err(_) if native_only => line("docker", Standing::Good, "not wanted: sandboxes are native", ""),
        Err(error) => {
            let must = config.sandbox_backend() == config::Backend::Docker;
            let (standing, text) = if must {
                (Standing::Bad, format!("{socket}: {error}, and only Docker may serve"))
            } else {
                (Standing::Warn, format!("{socket}: {error}; sandboxes are native"))
            };
            line(
                "docker",
                standing,
                text,
                "start the engine, be in its group, or set agents.defaults.sandbox.backend to native",
            )
        }
    }
}

fn port(config: &Config, status: Option<&Status>) -> Line {
    if let Some(status) = status {
        return line("port", Standing::Good, format!("Moltbot listens on {}", status.listen.as_str()), "");
    }
    let port = config.gateway.port;
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => line("port", Standing::Good, format!("127.0.0.1:{port} is free"), ""),
        Err(error) => {
            line("port", Standing::Bad, format!("127.0.0.1:{port}: {error}"), "`moltbot config set gateway.port N`")
        }
    }
}

/// Seconds since 1970 at which something of the log was last written.
fn newest(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir.join("logs")).into_iter().flatten().flatten();
    let times = entries.filter_map(|entry| entry.metadata().ok()?.modified().ok());
    times.filter_map(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs()).max().unwrap_or_default()
}

fn clock(dir: &Path) -> Line {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now < BUILT || now + 60 < newest(dir) {
        let text = "the clock is behind: pairing codes, leases and lockouts go by it";
        return line("clock", Standing::Bad, text, "set it, best by NTP");
    }
    line("clock", Standing::Good, "not behind anything that was written", "")
}

/// Room for the log, and what the launcher wants to stay free besides.
fn disk(dir: &Path, native: &config::Native) -> Line {
    let mut at = dir;
    while !at.exists() {
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    match statvfs(at) {
        Err(errno) => line("disk", Standing::Bad, format!("{}: {errno}", at.display()), "look at the file system"),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize) >> 20;
            let inodes = found.f_files == 0 || found.f_favail > 1_000;
            let text = format!("{free} MiB free");
            let floor = native.free_space.0 >> 20;
            let short = free < floor || (found.f_files > 0 && found.f_favail < native.free_inodes);
            match free {
                _ if !inodes => line("disk", Standing::Bad, "no inodes left", "remove files"),
                0..NO_MIB => line("disk", Standing::Bad, text, "make room: what cannot be logged does not run"),
                _ if short => {
                    let text = format!("{text}, room for {} files: no native command begins", found.f_favail);
                    let least = native.free_inodes;
                    let key = "agents.defaults.sandbox.native";
                    let remedy =
                        format!("make room, or lower {key}.freeSpace ({floor} MiB), {key}.freeInodes ({least})");
                    line("disk", Standing::Warn, text, remedy)
                }
                NO_MIB..LITTLE_MIB => line("disk", Standing::Warn, text, "make room: `moltbot logs prune` is one way"),
                _ => line("disk", Standing::Good, text, ""),
            }
        }
    }
}

fn log(dir: &Path) -> Line {
    let logs = dir.join("logs");
    if !logs.exists() {
        return line("log", Standing::Good, "not begun yet", "");
    }
    let check = |stream| {
        let expected = Expected { cosigner: offline::find_cosigner(&logs)?, ..Expected::default() };
        auditd::pruned::verify(&logs, stream, &expected, |_, _| {})
    };
    for stream in Stream::ALL {
        if let Err(error) = check(stream) {
            let text = format!("{}: {error}", stream.name());
            return line("log", Standing::Bad, text, "`moltbot logs verify`; keep the files as they are");
        }
    }
    line("log", Standing::Good, "every line is what was written", "")
}

fn vault(dir: &Path, status: Option<&Status>) -> Line {
    if let Some(status) = status {
        return match status.vault.as_str() {
            "" => line("vault", Standing::Good, "open", ""),
            why => line("vault", Standing::Bad, format!("refuses everything: {why}"), "what it says names the way out"),
        };
    }
    let (store, key) = (dir.join("vault/vault.db").exists(), dir.join("keys/secrets.key").exists());
    match (store, key) {
        (true, false) => line(
            "vault",
            Standing::Warn,
            "the store is there, and its key is not in keys/",
            "where systemd keeps it (LoadCredential=) that is as it should be; else put keys/secrets.key back, or `moltbot vault restore`",
        ),
        (false, true) => {
            line("vault", Standing::Warn, "a key without a store", "`moltbot vault restore` where there is a backup")
        }
        _ => {
            line("vault", Standing::Good, if store { "store and key are there" } else { "made at the first start" }, "")
        }
    }
}

fn set(status: Option<&Status>) -> Line {
    match status {
        None => line("set", Standing::Warn, "nothing runs", "`moltbot up`"),
        Some(status) if !status.ready => {
            line("set", Standing::Bad, "not every process serves", "`moltbot status`, `moltbot logs system`")
        }
        Some(status) => {
            line("set", Standing::Good, format!("every process serves; sandboxes are {}", status.backend.name()), "")
        }
    }
}

/// Where commands go, and where they would go otherwise.
fn sandbox(status: &Status) -> Line {
    let text = format!("{}: {}", status.backend.name(), status.backend_detail.as_str());
    let fix = "what it says names the way out; agents.defaults.sandbox of moltbot.json says which backend may serve";
    match status.backend {
        Backend::None => line("sandbox", Standing::Bad, format!("most commands are refused: {text}"), fix),
        _ if status.backend_detail.contains("no native sandbox serves") => line("sandbox", Standing::Warn, text, fix),
        _ => line("sandbox", Standing::Good, text, ""),
    }
}

/// A kind of signal. One that cannot be seen here by design is no fault; one that could be and is not, is.
fn sense(sense: &Sense) -> Line {
    let text = format!(
        "{} {}: {}, {}",
        sense.signal.as_str(),
        sense.name.as_str(),
        if sense.on { "seen" } else { "not seen" },
        sense.why.as_str()
    );
    let blind = !sense.on && (sense.why.contains("are not heard") || sense.why.contains("cannot be"));
    if blind {
        return line(
            "signal",
            Standing::Warn,
            text,
            "`moltbot logs system`; the engine's socket and /proc are what it sees by",
        );
    }
    line("signal", if sense.on { Standing::Good } else { Standing::Off }, text, "")
}

/// Mends modes; what was mended.
fn mend(dir: &Path, yes: bool) -> Result<Vec<String>, CliError> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let files = audit::gather_files(dir)?;
    let plan = audit::mend_modes(dir, &files, true);
    if plan.is_empty() {
        return Ok(Vec::new());
    }
    if !yes {
        for action in &plan {
            eprintln!("{}  {}", action.path.display(), action.change);
        }
        if !isatty(std::io::stdin()) {
            return Err(CliError::failed("say --yes where it is meant"));
        }
        if !crate::config::yes("mend these?", true)? {
            return Ok(Vec::new());
        }
    }
    let done = audit::mend_modes(dir, &files, false);
    Ok(done
        .into_iter()
        .map(|action| match action.error {
            None => format!("{}  {}", action.path.display(), action.change),
            Some(error) => format!("{}  not mended: {error}", action.path.display()),
        })
        .collect())
}
