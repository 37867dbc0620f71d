//! `moltbot status`: what the kernel says of every process, as a table or as JSON.

use crate::CliError;
use crate::args::Args;
use crate::door::Door;
use crate::paint::Paint;
use proto::ids::Role;
use proto::operator::{Mode, RoleState, RoleStatus, Status};
use proto::sandbox::{Backend, Posture};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Prints it.
///
/// # Errors
/// [`CliError`].
pub fn show(dir: &Path, args: &Args) -> Result<(), CliError> {
    let status = Door::open(dir)?.status()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", as_json(&status))?;
    } else {
        write!(out, "{}", as_text(&status, Paint::new(args), crate::paint::columns()))?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One process as JSON; its keys are an interface.
#[must_use]
pub fn role_as_json(role: &RoleStatus) -> Value {
    json!({
        "role": role.role.name(),
        "pid": role.pid,
        "uid": role.uid,
        "epoch": role.epoch.0,
        "state": role.state.name(),
        "restarts": role.restarts,
        "uptimeSeconds": role.uptime_s,
        "seccomp": role.seccomp,
        "noNewPrivs": role.no_new_privs,
        "landlockAbi": role.landlock_abi,
        "capabilities": format!("{:016x}", role.capabilities),
        "attestedMsAgo": role.attested_ms,
        "degraded": role.degraded.iter().map(|lack| lack.as_str()).collect::<Vec<_>>(),
    })
}

/// The status as JSON; its keys are an interface.
#[must_use]
pub fn as_json(status: &Status) -> Value {
    json!({
        "version": status.version.as_str(),
        "layout": status.layout.as_str(),
        "listen": status.listen.as_str(),
        "stateDir": status.state_dir.as_str(),
        "ready": status.ready,
        "lockdown": crate::lockdown::as_json(&status.lockdown),
        "vault": { "refuses": status.vault.as_str() },
        "sandbox": {
            "backend": status.backend.name(),
            "detail": status.backend_detail.as_str(),
            "engine": engine_as_json(&status.posture),
            "signals": status.posture.senses.iter().map(crate::watch::sense_as_json).collect::<Vec<_>>(),
        },
        "roles": status.roles.iter().filter(|row| is_shown(row)).map(role_as_json).collect::<Vec<_>>(),
        "logs": status.logs.iter().map(|head| json!({
            "stream": head.stream.name(),
            "size": head.size,
            "cosigned": head.cosigned,
            "head": hex(&head.leaf.0),
        })).collect::<Vec<_>>(),
    })
}

/// `null` where no engine serves.
fn engine_as_json(posture: &Posture) -> Value {
    if posture.components.is_empty() {
        return Value::Null;
    }
    let versions = posture.components.iter().map(|part| (part.name.to_string(), json!(part.version.as_str())));
    json!({
        "versions": versions.collect::<serde_json::Map<_, _>>(),
        "rootless": posture.rootless,
        "usernsRemap": posture.userns_remap,
        "imageCreated": posture.image_created.as_str(),
        "findings": posture.findings.iter().map(|finding| json!({
            "component": finding.component.as_str(),
            "id": finding.number.as_str(),
            "why": finding.why.as_str(),
        })).collect::<Vec<_>>(),
    })
}

/// A line about the engine, where one serves.
fn engine_as_text(posture: &Posture, paint: Paint, width: u16) -> String {
    if posture.components.is_empty() {
        return String::new();
    }
    let summary = crate::paint::folded(&posture.summary(), 8, width.saturating_sub(8));
    let good = posture.findings.is_empty() && (posture.rootless || posture.userns_remap);
    format!("engine  {}\n", if good { paint.good(&summary) } else { paint.warn(&summary) })
}

/// Which signals of an escape are seen, by number.
fn senses_as_text(posture: &Posture, width: u16) -> String {
    let numbers = |on: bool| {
        let of_it = posture.senses.iter().filter(|sense| sense.on == on);
        of_it.map(|sense| sense.signal.as_str()).collect::<Vec<_>>().join(" ")
    };
    if posture.senses.is_empty() {
        return String::new();
    }
    let text = format!("sees {} and not {}; `moltbot doctor` says why", numbers(true), numbers(false));
    format!("watch   {}\n", crate::paint::folded(&text, 8, width.saturating_sub(8)))
}

/// The launcher is a process of the set only where sandboxd wanted it.
fn is_shown(row: &RoleStatus) -> bool {
    row.role != Role::Launcher || row.state != RoleState::Idle
}

fn as_text(status: &Status, paint: Paint, width: u16) -> String {
    let ready = if status.ready { paint.good("ready") } else { paint.warn("not ready") };
    let fold = |text: &str| crate::paint::folded(text, 8, width) + "\n";
    let mut text = fold(&format!(
        "moltbot {} · {ready} · {} · {} · {}",
        status.version, status.listen, status.layout, status.state_dir
    ));
    let sandbox = match status.backend {
        Backend::Docker | Backend::NativeN1 => paint.good(status.backend.name()),
        Backend::NativeN2 => paint.warn("native-n2 (lower tier)"),
        Backend::None => paint.bad("none: commands are refused"),
    };
    text.push_str(&fold(&format!("sandbox {sandbox} {}", paint.dim(&status.backend_detail))));
    if !status.vault.is_empty() {
        text.push_str(&fold(&format!("vault   {} {}", paint.bad("refuses everything:"), status.vault)));
    }
    text.push_str(&engine_as_text(&status.posture, paint, width));
    text.push_str(&senses_as_text(&status.posture, width));
    if status.lockdown.mode != Mode::Open || !status.lockdown.quarantined.is_empty() {
        text.push_str(&crate::lockdown::as_text(&status.lockdown, paint));
    }
    text.push('\n');
    let wide = width >= WIDE;
    text.push_str(if wide { HEAD } else { NARROW_HEAD });
    for row in status.roles.iter().filter(|row| is_shown(row)) {
        text.push_str(&if wide { wide_row(row, paint) } else { narrow_row(row, paint) });
    }
    for row in status.roles.iter() {
        for lack in row.degraded.iter() {
            text.push_str(&fold(&format!("{} {}: {lack}", paint.warn("weaker:"), row.role)));
        }
    }
    text.push('\n');
    for head in status.logs.iter() {
        text.push_str(&format!(
            "{:<14} {:>8} records {:>8} cosigned  {}\n",
            head.stream.name(),
            head.size,
            head.cosigned,
            paint.dim(hex(&head.leaf.0).get(..if wide { 64 } else { 24 }).unwrap_or_default())
        ));
    }
    text
}

/// Columns that the whole table needs.
const WIDE: u16 = 118;
const HEAD: &str = "ROLE          PID    UID  EPOCH  STATE     RESTARTS   UPTIME  SECCOMP  NNP  LANDLOCK  CAPABILITIES      ATTESTED\n";
const NARROW_HEAD: &str = "ROLE          PID    UID  EPOCH  STATE     RESTARTS   UPTIME  WALL   ATTESTED\n";

fn painted_state(row: &RoleStatus, paint: Paint) -> String {
    let state = format!("{:<9}", row.state.name());
    match row.state {
        RoleState::Ready => paint.good(&state),
        RoleState::Failed => paint.bad(&state),
        _ => paint.warn(&state),
    }
}

fn attested(row: &RoleStatus) -> String {
    if row.attested_ms == 0 { "-".to_owned() } else { format!("{} s ago", row.attested_ms / 1000) }
}

/// What both tables begin with.
fn row_head(row: &RoleStatus, paint: Paint) -> String {
    format!(
        "{:<9} {:>7} {:>6} {:>6}  {} {:>8} {:>8}",
        row.role.name(),
        row.pid,
        row.uid,
        row.epoch.0,
        painted_state(row, paint),
        row.restarts,
        duration(row.uptime_s),
    )
}

fn wide_row(row: &RoleStatus, paint: Paint) -> String {
    let landlock = if row.landlock_abi == 0 { "-".to_owned() } else { format!("ABI {}", row.landlock_abi) };
    format!(
        "{}  {:>7}  {:>3}  {landlock:>8}  {:016x}  {:>8}\n",
        row_head(row, paint),
        row.seccomp,
        u8::from(row.no_new_privs),
        row.capabilities,
        attested(row),
    )
}

/// The wall in one word; what an open one lacks is in the wide table and in the audit.
fn narrow_row(row: &RoleStatus, paint: Paint) -> String {
    let wall = if gaps(row).is_empty() { paint.good("whole") } else { paint.bad("open ") };
    format!("{}  {wall}  {:>8}\n", row_head(row, paint), attested(row))
}

/// What a process's wall lacks. Broker, which starts the others, has no Landlock and holds four capabilities.
#[must_use]
pub fn gaps(row: &RoleStatus) -> Vec<&'static str> {
    let broker = row.role == Role::Broker;
    let open = [
        (row.seccomp != 2, "no seccomp filter"),
        (!row.no_new_privs, "it may gain privileges"),
        (row.capabilities != 0 && !broker, "it holds capabilities"),
        (row.landlock_abi == 0 && !broker, "no Landlock domain"),
    ];
    open.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect()
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
