//! `moltbot confine-report`: what each process may still do, and whether it is so confined now. The walls are those of
//! this build's policies (`docs/confinement.json`, compared with them by `cargo xtask check`); what runs is broker's word,
//! which it has from the kernel.

use crate::CliError;
use crate::args::Args;
use crate::door::Door;
use crate::paint::{Paint, aside, beside};
use crate::status::role_as_json;
use proto::ids::Role;
use proto::operator::{RoleState, RoleStatus, Status};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// The walls of this build.
const DESIGN: &str = include_str!("../../docs/confinement.json");

/// The walls of this build.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Design {
    floor: Vec<Floor>,
    roles: Vec<Wall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Floor {
    layout: String,
    landlock_abi: u8,
}

/// The wall of one role.
#[derive(Debug, Deserialize)]
pub struct Wall {
    role: String,
    seccomp: Filter,
    landlock: Option<Domain>,
    limits: Vec<Limit>,
}

#[derive(Debug, Deserialize)]
struct Filter {
    default: String,
    rules: Vec<Rule>,
    soft: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    call: String,
    args: Vec<Arg>,
    why: String,
}

#[derive(Debug, Deserialize)]
struct Arg {
    means: String,
}

#[derive(Debug, Deserialize)]
struct Domain {
    files: Vec<String>,
    tcp: Vec<String>,
    scopes: Vec<String>,
    grants: Vec<Grant>,
    connect: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Grant {
    resource: String,
    access: String,
    why: String,
}

#[derive(Debug, Deserialize)]
struct Limit {
    resource: String,
    value: u64,
    why: String,
}

/// The walls of this build.
///
/// # Errors
/// [`CliError`] where this build's own table cannot be read.
pub fn design() -> Result<Design, CliError> {
    serde_json::from_str(DESIGN).map_err(CliError::failed)
}

impl Design {
    /// The wall of a role.
    #[must_use]
    pub fn wall(&self, role: Role) -> Option<&Wall> {
        self.roles.iter().find(|wall| wall.role == role.name())
    }
}

impl Wall {
    /// Whether the filter lets a call through, if only with some arguments.
    #[must_use]
    pub fn allows(&self, call: &str) -> bool {
        let named = || self.seccomp.rules.iter().filter(|rule| rule.call == call);
        // A filter that allows by default names what it forbids; one with arguments forbids only some of it.
        if self.seccomp.default == "allow" {
            !named().any(|rule| rule.args.is_empty())
        } else {
            named().next().is_some()
        }
    }

    /// How many calls the filter names.
    #[must_use]
    pub fn calls(&self) -> usize {
        let names: std::collections::BTreeSet<&str> = self.seccomp.rules.iter().map(|rule| &*rule.call).collect();
        names.len()
    }

    /// What it may do with which files.
    #[must_use]
    pub fn grants(&self) -> Vec<(String, String)> {
        let grants = self.landlock.iter().flat_map(|domain| &domain.grants);
        grants.map(|grant| (grant.resource.clone(), format!("{} ({})", grant.access, grant.why))).collect()
    }
}

/// Prints it. Where nothing runs the walls are shown as they would be.
///
/// # Errors
/// [`CliError`]; also where a process is not confined as it should be.
pub fn show(dir: &Path, args: &Args) -> Result<(), CliError> {
    let status = match Door::open(dir).and_then(|mut door| door.status()) {
        Ok(status) => Some(status),
        Err(CliError::NotRunning(_)) => None,
        Err(error) => return Err(error),
    };
    let design = design()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", as_json(&design, status.as_ref())?)?;
    } else {
        write!(out, "{}", as_text(&design, status.as_ref(), Paint::new(args)))?;
    }
    out.flush()?;
    let broken: Vec<String> = design.roles.iter().flat_map(|wall| deviations(&design, wall, status.as_ref())).collect();
    if broken.is_empty() { Ok(()) } else { Err(CliError::Failed(broken.join("; "))) }
}

fn live<'s>(wall: &Wall, status: Option<&'s Status>) -> Option<&'s RoleStatus> {
    let is_up = |row: &&RoleStatus| matches!(row.state, RoleState::Confined | RoleState::Ready | RoleState::Stopping);
    status?.roles.iter().filter(is_up).find(|row| row.role.name() == wall.role)
}

/// Where what runs is not what was designed.
fn deviations(design: &Design, wall: &Wall, status: Option<&Status>) -> Vec<String> {
    let (Some(status), Some(row)) = (status, live(wall, status)) else { return Vec::new() };
    let floor = design.floor.iter().find(|floor| floor.layout == status.layout.as_str()).map(|it| it.landlock_abi);
    let is_broker = wall.landlock.is_none();
    let checks = [
        (row.seccomp == 2, "has no seccomp filter"),
        (row.no_new_privs, "may gain privileges"),
        (row.capabilities == 0 || is_broker, "holds capabilities"),
        (is_broker || floor.is_some_and(|floor| row.landlock_abi >= floor), "has a Landlock domain below the floor"),
    ];
    let failed = checks.iter().filter(|(holds, _)| !holds);
    failed.map(|(_, what)| format!("{} (pid {}) {what}", wall.role, row.pid)).collect()
}

/// Every process that is not confined as this build says.
#[must_use]
pub fn all_deviations(status: &Status) -> Vec<String> {
    match design() {
        Ok(design) => design.roles.iter().flat_map(|wall| deviations(&design, wall, Some(status))).collect(),
        Err(error) => vec![format!("this build's own table cannot be read: {error}")],
    }
}

/// The walls' own keys, and what runs beside them.
fn as_json(design: &Design, status: Option<&Status>) -> Result<Value, CliError> {
    let mut report: Value = serde_json::from_str(DESIGN).map_err(CliError::failed)?;
    if let Some(roles) = report.get_mut("roles").and_then(Value::as_array_mut) {
        for (wall, value) in design.roles.iter().zip(roles) {
            if let Some(value) = value.as_object_mut() {
                value.insert("live".to_owned(), live(wall, status).map_or(Value::Null, role_as_json));
                value.insert("deviations".to_owned(), json!(deviations(design, wall, status)));
            }
        }
    }
    if let Some(report) = report.as_object_mut() {
        report.insert("running".to_owned(), json!(status.is_some()));
        report.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
        report.insert("layout".to_owned(), status.map_or(Value::Null, |status| json!(status.layout.as_str())));
    }
    Ok(report)
}

fn as_text(design: &Design, status: Option<&Status>, paint: Paint) -> String {
    let mut text = match status {
        Some(status) => format!("moltbot {} · {} · {}\n", status.version, status.layout, status.state_dir),
        None => paint.warn("moltbot is not running: these are the walls as this build would raise them") + "\n",
    };
    for wall in &design.roles {
        let heading = heading(wall, status, paint);
        let _ = writeln!(text, "\n{}", beside(2, &format!("{}{heading}", paint.good(&wall.role))));
        for what in deviations(design, wall, status) {
            let _ = writeln!(text, "  {}", paint.bad(&what));
        }
        filter(&mut text, &wall.seccomp, paint);
        domain(&mut text, wall.landlock.as_ref(), paint);
        for limit in &wall.limits {
            let line = format!("  limit {} at most {}", limit.resource, limit.value);
            let _ = writeln!(text, "{}", aside(&line, 40, &limit.why, paint));
        }
    }
    text
}

fn heading(wall: &Wall, status: Option<&Status>, paint: Paint) -> String {
    let Some(row) = live(wall, status) else { return paint.dim("  does not run") };
    let mut text = format!("  pid {} · uid {} · seccomp {}", row.pid, row.uid, row.seccomp);
    let _ = write!(text, " · no_new_privs {}", u8::from(row.no_new_privs));
    let _ = write!(text, " · capabilities {:016x}", row.capabilities);
    if row.landlock_abi > 0 {
        let _ = write!(text, " · Landlock ABI {}", row.landlock_abi);
    }
    for lack in row.degraded.iter() {
        let _ = write!(text, "\n  {} {lack}", paint.warn("weaker:"));
    }
    text
}

fn filter(text: &mut String, filter: &Filter, paint: Paint) {
    let what = if filter.default == "kill" { "allows only" } else { "kills on" };
    let _ = writeln!(text, "  seccomp {what} {}:", count(filter.rules.len(), "rule"));
    rules(text, &filter.rules, paint);
    if !filter.soft.is_empty() {
        text.push_str("  seccomp answers EACCES to:\n");
        rules(text, &filter.soft, paint);
    }
}

fn rules(text: &mut String, rules: &[Rule], paint: Paint) {
    for rule in rules {
        let args: Vec<&str> = rule.args.iter().map(|arg| arg.means.as_str()).collect();
        let call = format!("    {} {}", rule.call, args.join("; "));
        let _ = writeln!(text, "{}", aside(call.trim_end(), 64, &rule.why, paint));
    }
}

fn domain(text: &mut String, domain: Option<&Domain>, paint: Paint) {
    let Some(domain) = domain else {
        text.push_str("  no Landlock domain: what it starts would inherit it\n");
        return;
    };
    let ruled = [("files", &domain.files), ("TCP", &domain.tcp), ("scopes", &domain.scopes)];
    for (what, rights) in ruled {
        let rights = if rights.is_empty() { "not ruled".to_owned() } else { rights.join(" ") };
        let _ = writeln!(text, "  {}", beside(4, &format!("Landlock {what}: {rights}")));
    }
    for grant in &domain.grants {
        let line = format!("  Landlock grants {} {}", grant.resource, grant.access);
        let _ = writeln!(text, "{}", aside(&line, 40, &grant.why, paint));
    }
    if let Some(why) = &domain.connect {
        let _ = writeln!(text, "{}", aside("  Landlock grants ConnectTcp", 40, why, paint));
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::{BoundedStr, BoundedVec};
    use proto::ids::{Epoch, Role};
    use proto::operator::{Lockdown, Mode};
    use proto::sandbox::Backend;

    fn row(role: Role) -> RoleStatus {
        RoleStatus {
            role,
            pid: 7,
            uid: 60_601,
            epoch: Epoch(1),
            state: RoleState::Ready,
            restarts: 0,
            uptime_s: 1,
            seccomp: 2,
            no_new_privs: true,
            landlock_abi: 7,
            capabilities: 0,
            attested_ms: 1,
            degraded: BoundedVec::default(),
        }
    }

    fn status(layout: &str, row: RoleStatus) -> Status {
        Status {
            version: BoundedStr::truncated("0"),
            layout: BoundedStr::truncated(layout),
            listen: BoundedStr::default(),
            state_dir: BoundedStr::default(),
            ready: true,
            lockdown: Lockdown {
                mode: Mode::Open,
                since_ms: 0,
                incident: BoundedStr::default(),
                why: BoundedStr::default(),
                quarantined: BoundedVec::default(),
            },
            backend: Backend::None,
            backend_detail: BoundedStr::default(),
            vault: BoundedStr::default(),
            posture: Box::default(),
            roles: BoundedVec::new(vec![row]).unwrap(),
            logs: BoundedVec::default(),
        }
    }

    fn found(layout: &str, row: RoleStatus) -> usize {
        let design: Design = serde_json::from_str(DESIGN).unwrap();
        let status = status(layout, row);
        design.roles.iter().flat_map(|wall| deviations(&design, wall, Some(&status))).count()
    }

    #[test]
    fn process_as_designed_deviates_in_nothing_and_each_missing_wall_is_said() {
        assert_eq!(found("split-uid", row(Role::Vault)), 0);
        assert_eq!(found("split-uid", RoleStatus { seccomp: 0, ..row(Role::Vault) }), 1);
        assert_eq!(found("split-uid", RoleStatus { no_new_privs: false, ..row(Role::Vault) }), 1);
        assert_eq!(found("split-uid", RoleStatus { capabilities: 1, ..row(Role::Vault) }), 1);
        assert_eq!(found("split-uid", RoleStatus { landlock_abi: 1, ..row(Role::Vault) }), 1);
    }

    #[test]
    fn floor_of_the_report_is_the_layouts() {
        assert_eq!(found("split-uid", RoleStatus { landlock_abi: 5, ..row(Role::Vault) }), 0);
        assert_eq!(found("single-uid", RoleStatus { landlock_abi: 5, ..row(Role::Vault) }), 1);
        assert_eq!(found("single-uid", RoleStatus { landlock_abi: 6, ..row(Role::Vault) }), 0);
    }

    #[test]
    fn broker_may_hold_what_it_needs_and_a_dead_role_deviates_in_nothing() {
        assert_eq!(found("split-uid", RoleStatus { capabilities: 0x1e0, landlock_abi: 0, ..row(Role::Broker) }), 0);
        assert_eq!(found("split-uid", RoleStatus { state: RoleState::Backoff, seccomp: 0, ..row(Role::Vault) }), 0);
    }

    #[test]
    fn text_names_every_role_rule_and_reason_and_has_no_colour_unasked() {
        let design: Design = serde_json::from_str(DESIGN).unwrap();
        let args = <Args as clap::Parser>::try_parse_from(["moltbot", "--color", "never", "confine-report"]).unwrap();
        let text = as_text(&design, None, Paint::new(&args));
        assert!(!text.contains('\x1b'));
        assert_eq!(design.roles.len(), 8);
        for wall in &design.roles {
            assert!(text.contains(&wall.role));
            assert!(wall.seccomp.rules.iter().all(|rule| text.contains(&rule.call) && text.contains(&rule.why)));
        }
    }
}
