//! Rules about what runs.

use super::facts::Facts;
use super::finding;
use config::rules::{Finding, Severity};
use proto::auth::{DeviceRow, DeviceState};
use proto::ids::Role;
use proto::operator::{Mode, RoleState, RoleStatus, Status};
use proto::sandbox::Backend;

/// Broker looks at every role each five seconds; three times that is too long.
const STALE_MS: u64 = 15_000;
/// Age from which a credential should be another one. Source: the Phase 1 guide.
const OLD_DAYS: u64 = 90;
/// Points from which systemd calls a unit exposed in the middle or worse.
const EXPOSED: f32 = 5.0;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    match &facts.status {
        Some(status) => {
            set(status, &mut all);
            status.roles.iter().for_each(|row| role(row, &mut all));
            engine(status, &mut all);
            image(facts.now, status, &mut all);
        }
        None => all.push(finding(
            Severity::Info,
            "live.not_running",
            "",
            "nothing runs, so nothing that runs was looked at",
            "files and configuration were",
            "`moltbot up`, and audit again",
        )),
    }
    secrets(facts, &mut all);
    people(facts, &mut all);
    deep(facts, &mut all);
    all
}

fn set(status: &Status, all: &mut Vec<Finding>) {
    let mut push = |severity, id: &str, path: &str, title: &str, detail: &str, remediation: &str| {
        all.push(finding(severity, id, path, title, detail, remediation));
    };
    if !status.listen.starts_with("127.") && !status.listen.starts_with("[::1]") {
        let title = "it listens on the network";
        push(
            Severity::Critical,
            "gateway.bind_not_loopback",
            &status.listen,
            title,
            "anybody can try to log in",
            "file a bug: no configuration does this",
        );
    }
    if status.layout.as_str() == "single-uid" {
        push(
            Severity::Info,
            "layout.single_uid",
            "",
            "all roles share your uid",
            "Landlock, seccomp and non-dumpable processes keep them apart; uids of their own would as well",
            "start it as root, or as the service in deploy/systemd",
        );
    }
    if !status.vault.is_empty() {
        push(
            Severity::Critical,
            "vault.refuses",
            "",
            "the vault refuses everything",
            &status.vault,
            "what it says names the way out",
        );
    }
    match status.lockdown.mode {
        Mode::Open => {}
        Mode::Reacting | Mode::Locked => push(
            Severity::Warn,
            "lockdown.active",
            "",
            "everything is locked down",
            &status.lockdown.why,
            "look at `moltbot logs system`, then `moltbot lockdown clear`",
        ),
    }
    if !status.lockdown.quarantined.is_empty() {
        let detail = format!("{} conversations run nothing", status.lockdown.quarantined.len());
        push(
            Severity::Info,
            "lockdown.quarantine",
            "",
            "conversations are quarantined",
            &detail,
            "`moltbot lockdown clear` ends it",
        );
    }
    match status.backend {
        Backend::Docker | Backend::NativeN1 => {}
        Backend::NativeN2 => push(
            Severity::Warn,
            "sandbox.lower_tier",
            "",
            "sandboxes have the lower tier of the native backend",
            &status.backend_detail,
            "allow user namespaces, or install Docker",
        ),
        Backend::None => push(
            Severity::Warn,
            "sandbox.no_backend",
            "",
            "nothing can confine a command here, so none runs",
            &status.backend_detail,
            "install Docker, or allow user namespaces",
        ),
    }
}

fn role(row: &RoleStatus, all: &mut Vec<Finding>) {
    let name = row.role.name();
    let mut push = |severity, id: &str, title: &str, detail: &str, remediation: &str| {
        all.push(finding(severity, &format!("role.{name}.{id}"), name, title, detail, remediation));
    };
    if row.state == RoleState::Idle {
        return;
    }
    if row.state != RoleState::Ready {
        let title = format!("{name} is {}", row.state.name());
        push(
            Severity::Warn,
            "not_ready",
            &title,
            "what it does is refused meanwhile",
            "`moltbot logs system` shows why",
        );
        return;
    }
    let broker = row.role == Role::Broker;
    let open = crate::status::gaps(row);
    if !open.is_empty() {
        let title = format!("{name} is not confined");
        push(
            Severity::Critical,
            "unconfined",
            &title,
            &open.join(", "),
            "`moltbot lockdown on`, and find out why: broker ends such a process",
        );
    }
    if !broker && row.attested_ms > STALE_MS {
        let detail = format!("{} s ago", row.attested_ms / 1_000);
        push(
            Severity::Warn,
            "attestation_stale",
            "nobody has looked at it for long",
            &detail,
            "broker hangs; restart it",
        );
    }
    for lack in row.degraded.iter() {
        push(Severity::Warn, "degraded", "weaker than designed", lack, "what it says names what is missing");
    }
}

fn engine(status: &Status, all: &mut Vec<Finding>) {
    let posture = &status.posture;
    if !posture.findings.is_empty() {
        let holes: Vec<String> = posture
            .findings
            .iter()
            .map(|hole| format!("{} {}: {}", hole.component.as_str(), hole.number.as_str(), hole.why.as_str()))
            .collect();
        all.push(finding(
            Severity::Warn,
            "sandbox.engine.known_holes",
            "docker",
            "the engine has known holes, by its versions",
            &holes.join("\n"),
            "install newer versions, or say agents.defaults.sandbox.backend native",
        ));
    }
    if !posture.components.is_empty() && !posture.rootless && !posture.userns_remap {
        all.push(finding(
            Severity::Info,
            "sandbox.engine.rootful",
            "docker",
            "root in a container is root of the host",
            "no command runs as root in ours; whoever finds a way to would be it",
            "set userns-remap in the engine's daemon.json, or run it rootless",
        ));
    }
}

/// An image is as old as the programs in it.
fn image(now: u64, status: &Status, all: &mut Vec<Finding>) {
    let created = auditd::clock::parse_rfc3339(&status.posture.image_created).map(|since| since.as_secs());
    // Images that are built to be the same each time say 1970.
    let Some(created) = created.filter(|created| *created > 0) else { return };
    let days = now.saturating_sub(created) / 86_400;
    if days >= OLD_DAYS {
        all.push(finding(
            Severity::Warn,
            "sandbox.image_old",
            "docker",
            "the image of sandboxes is old",
            &format!("it was made {days} days ago, and so were the programs in it"),
            "`deploy/sandbox-image/build` makes a new one; `moltbot restart sandboxd` takes it",
        ));
    }
}

fn secrets(facts: &Facts, all: &mut Vec<Finding>) {
    for row in facts.secrets.iter().filter(|row| !row.honey) {
        let days = facts.now.saturating_sub(row.created) / 86_400;
        let path = row.name.as_str();
        if days >= OLD_DAYS {
            let detail = format!("this version was put in {days} days ago");
            let fix = format!("make a new one where it comes from, then `moltbot secrets rotate {path}`");
            all.push(finding(Severity::Warn, "secrets.old", path, "a credential is old", &detail, &fix));
        }
        if row.shared {
            all.push(finding(
                Severity::Warn,
                "secrets.reused",
                path,
                "a credential is another one as well",
                "whoever learns one of them has both, and rotating one leaves the value in use",
                &format!("make a new one where it comes from, then `moltbot secrets rotate {path}`"),
            ));
        }
        // The gateway's own are the vault's to compare, and no role's to use.
        if path.starts_with("gateway.") {
            continue;
        }
        if row.used == 0 && !row.verb.is_empty() && days >= OLD_DAYS {
            let fix = format!("`moltbot secrets remove {path}` where nobody needs it");
            all.push(finding(
                Severity::Info,
                "secrets.unused",
                path,
                "a credential was never used",
                "what is not there cannot leak",
                &fix,
            ));
        }
        if row.verb.is_empty() {
            let fix = format!("`moltbot secrets policy {path} --file FILE`, or remove it");
            all.push(finding(
                Severity::Info,
                "secrets.no_policy",
                path,
                "nothing may be done with a credential",
                "it is kept for nobody",
                &fix,
            ));
        }
    }
}

/// Who was let in, or wants to be.
fn people(facts: &Facts, all: &mut Vec<Finding>) {
    let old = |since: u64| facts.now.saturating_sub(since) / 86_400 >= OLD_DAYS;
    let mut push = |id: &str, title: &str, detail: &str, fix: &str| {
        all.push(finding(Severity::Info, id, "", title, detail, fix));
    };
    let waits = facts.devices.iter().filter(|row| row.state == DeviceState::Waits).count();
    if waits > 0 {
        let detail = format!("{waits} of them; nobody is let in by waiting");
        push("devices.waiting", "devices wait to be paired", &detail, "`moltbot devices list`, then approve or deny");
    }
    let is_in = |row: &&DeviceRow| matches!(row.state, DeviceState::Paired | DeviceState::PairedWithToken);
    let stale: Vec<&str> =
        facts.devices.iter().filter(is_in).filter(|row| old(row.since)).map(|row| row.name.as_str()).collect();
    if !stale.is_empty() {
        let fix = "`moltbot devices revoke ID` for what is not used any more; `devices rotate ID` for a new token";
        push("devices.old", "devices were paired long ago", &stale.join(", "), fix);
    }
    if facts.waiting > 0 {
        let detail = format!("{} of them, each with a code that it was shown", facts.waiting);
        push(
            "pairing.waiting",
            "strangers wait to be let in",
            &detail,
            "`moltbot pairing list`; a code lapses by itself",
        );
    }
    let stale = facts.senders.iter().filter(|row| old(row.since)).count();
    if stale > 0 {
        let detail = format!("{stale} of {}; what they write reaches the agent", facts.senders.len());
        push(
            "allowlist.old",
            "senders were let in long ago",
            &detail,
            "`moltbot allowlist list`, and remove whom you don't know",
        );
    }
}

fn deep(facts: &Facts, all: &mut Vec<Finding>) {
    let Some(deep) = &facts.deep else { return };
    for (stream, what) in &deep.log {
        all.push(finding(
            Severity::Critical,
            "log.verify_failed",
            stream,
            "the log is not what was written, or cannot be checked",
            what,
            "`moltbot logs verify` shows the first bad line; keep the files as they are",
        ));
    }
    for what in &deep.walls {
        all.push(finding(
            Severity::Critical,
            "walls.differ",
            "",
            "a process is not confined as this build says",
            what,
            "`moltbot lockdown on`; `moltbot confine-report` shows what should be",
        ));
    }
    if let Some(exposure) = deep.exposure.as_ref().filter(|exposure| exposure.points >= EXPOSED) {
        all.push(finding(
            Severity::Warn,
            "systemd.exposed",
            &exposure.unit,
            "its unit leaves more open than it needs",
            &format!("systemd counts {} of 10; the one in deploy/systemd has 4.1", exposure.points),
            &format!("compare it with deploy/systemd/moltbot.service; `systemd-analyze security {}`", exposure.unit),
        ));
    }
    if let Some(why) = &deep.probe {
        let title = "the gateway does not answer";
        all.push(finding(Severity::Warn, "gateway.probe_failed", "gateway", title, why, "`moltbot status` shows why"));
    }
}
