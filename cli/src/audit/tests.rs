use super::exposure::Exposure;
use super::facts::{Deep, Facts, FileFact};
use super::*;
use config::Config;
use proto::auth::{DeviceId, DeviceRow, DeviceState, Scopes};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::ids::{Epoch, Role};
use proto::operator::{Lockdown, Mode, RoleState, RoleStatus, Status};
use proto::sandbox::{Backend, Component, Finding as Hole, Posture};
use proto::senders::{AllowedRow, ChannelId, SenderId};
use proto::vault::SecretRow;

fn text<const N: usize>(text: &str) -> BoundedStr<N> {
    BoundedStr::truncated(text)
}

fn role(role: Role) -> RoleStatus {
    RoleStatus {
        role,
        pid: 1,
        uid: 1,
        epoch: Epoch(1),
        state: RoleState::Ready,
        restarts: 0,
        uptime_s: 1,
        seccomp: 2,
        no_new_privs: true,
        landlock_abi: 7,
        capabilities: 0,
        attested_ms: 10,
        degraded: BoundedVec::default(),
    }
}

fn healthy() -> Facts {
    let status = Status {
        version: text("0"),
        layout: text("split-uid"),
        listen: text("127.0.0.1:18789"),
        state_dir: text("/s"),
        ready: true,
        lockdown: Lockdown {
            mode: Mode::Open,
            since_ms: 0,
            incident: text(""),
            why: text(""),
            quarantined: BoundedVec::default(),
        },
        backend: Backend::Docker,
        backend_detail: text(""),
        vault: text(""),
        posture: Box::new(Posture {
            components: BoundedVec::new(vec![Component { name: text("runc"), version: text("9") }]).unwrap(),
            rootless: true,
            image_created: text("1970-03-30T00:00:00Z"),
            userns_remap: false,
            ..Posture::default()
        }),
        roles: BoundedVec::new(vec![role(Role::Broker), role(Role::Vault)]).unwrap(),
        logs: BoundedVec::default(),
    };
    let file = |name: &str, is_dir, mode| FileFact { name: name.into(), is_dir, is_link: false, mode, is_way: false };
    Facts {
        dir: "/s".into(),
        files: vec![
            file("", true, 0o700),
            file("moltbot.json", false, 0o600),
            file("keys", true, 0o700),
            file("keys/secrets.key", false, 0o400),
            file("logs", true, 0o700),
            file("logs/auth-audit.jsonl", false, 0o600),
            file("workspaces/anything", true, 0o777),
        ],
        config: Ok(Config::default()),
        status: Some(status),
        secrets: vec![SecretRow {
            name: text("model.key"),
            version: 1,
            created: NOW - 86_400,
            verb: text("inject"),
            purpose: text("p"),
            honey: false,
            used: 1,
            budget: None,
            shared: false,
        }],
        devices: vec![device(DeviceState::Paired)],
        waiting: 0,
        senders: vec![AllowedRow {
            channel: ChannelId(text("telegram")),
            sender: SenderId(text("1")),
            name: text("n"),
            since: NOW - 86_400,
            paired: true,
        }],
        now: NOW,
        deep: Some(Deep::default()),
    }
}

const NOW: u64 = 91 * 86_400;

fn device(state: DeviceState) -> DeviceRow {
    DeviceRow {
        id: DeviceId([7; 32]),
        state,
        scopes: Scopes::default(),
        since: NOW - 86_400,
        name: text("phone"),
        client: text("c"),
        platform: text("p"),
        address: text(""),
    }
}

type Change = fn(&mut Facts);

fn with_file(facts: &mut Facts, name: &str, mode: u32) {
    for file in facts.files.iter_mut().filter(|file| file.name == Path::new(name)) {
        file.mode = mode;
    }
}

fn with_role(facts: &mut Facts, change: impl Fn(&mut RoleStatus)) {
    let status = facts.status.as_mut().unwrap();
    let mut rows: Vec<RoleStatus> = status.roles.iter().cloned().collect();
    rows.iter_mut().filter(|row| row.role == Role::Vault).for_each(change);
    status.roles = BoundedVec::new(rows).unwrap();
}

fn status(facts: &mut Facts) -> &mut Status {
    facts.status.as_mut().unwrap()
}

/// Everything that fires, on what, and how bad it is. That it is silent otherwise is the first assertion of the test.
const FIRES: &[(&str, Severity, Change)] = &[
    ("fs.state_dir.perms_world_writable", Severity::Critical, |it| with_file(it, "", 0o702)),
    ("fs.state_dir.perms_group_writable", Severity::Warn, |it| with_file(it, "", 0o720)),
    ("fs.state_dir.perms_readable", Severity::Warn, |it| with_file(it, "", 0o755)),
    ("fs.state_dir.symlink", Severity::Warn, |it| it.files[0].is_link = true),
    ("fs.config.perms_writable", Severity::Critical, |it| with_file(it, "moltbot.json", 0o620)),
    ("fs.config.perms_writable", Severity::Critical, |it| with_file(it, "moltbot.json", 0o602)),
    ("fs.config.perms_world_readable", Severity::Critical, |it| with_file(it, "moltbot.json", 0o604)),
    ("fs.config.perms_group_readable", Severity::Warn, |it| with_file(it, "moltbot.json", 0o640)),
    ("fs.config.symlink", Severity::Warn, |it| it.files[1].is_link = true),
    ("fs.config_include.perms_writable", Severity::Critical, |it| {
        it.files.push(FileFact {
            name: "more.json5".into(),
            is_dir: false,
            is_link: false,
            mode: 0o622,
            is_way: false,
        });
    }),
    ("fs.keys_dir.perms_readable", Severity::Warn, |it| with_file(it, "keys", 0o755)),
    ("fs.keys_dir.perms_writable", Severity::Critical, |it| with_file(it, "keys", 0o720)),
    ("fs.master_key.perms", Severity::Critical, |it| with_file(it, "keys/secrets.key", 0o600)),
    ("fs.master_key.symlink", Severity::Warn, |it| it.files[3].is_link = true),
    ("fs.logs_dir.perms_readable", Severity::Warn, |it| with_file(it, "logs", 0o750)),
    ("fs.log_file.perms_readable", Severity::Warn, |it| with_file(it, "logs/auth-audit.jsonl", 0o644)),
    ("fs.synced_dir", Severity::Warn, |it| it.dir = "/home/u/Dropbox/moltbot".into()),
    ("config.invalid", Severity::Critical, |it| it.config = Err("1:1".into())),
    ("gateway.tailscale_funnel", Severity::Critical, |it| {
        it.config = Config::understand("{ gateway: { tailscale: { mode: 'funnel' } } }", Path::new("x"), &|_| None)
            .map_err(|error| error.to_string());
    }),
    ("live.not_running", Severity::Info, |it| it.status = None),
    ("gateway.bind_not_loopback", Severity::Critical, |it| status(it).listen = text("0.0.0.0:1")),
    ("layout.single_uid", Severity::Info, |it| status(it).layout = text("single-uid")),
    ("vault.refuses", Severity::Critical, |it| status(it).vault = text("rolled back")),
    ("lockdown.active", Severity::Warn, |it| status(it).lockdown.mode = Mode::Locked),
    ("lockdown.quarantine", Severity::Info, |it| {
        let key = proto::ids::SessionKey(text("agent:main:x"));
        status(it).lockdown.quarantined = BoundedVec::new(vec![key]).unwrap();
    }),
    ("sandbox.lower_tier", Severity::Warn, |it| status(it).backend = Backend::NativeN2),
    ("sandbox.no_backend", Severity::Warn, |it| status(it).backend = Backend::None),
    ("devices.waiting", Severity::Info, |it| it.devices.push(device(DeviceState::Waits))),
    ("devices.old", Severity::Info, |it| it.devices[0].since = 0),
    ("devices.old", Severity::Info, |it| {
        (it.devices[0].since, it.devices[0].state) = (0, DeviceState::PairedWithToken);
    }),
    ("pairing.waiting", Severity::Info, |it| it.waiting = 1),
    ("allowlist.old", Severity::Info, |it| it.senders[0].since = 0),
    ("tools.exec.ask_off", Severity::Warn, |it| {
        it.config = Config::understand("{ tools: { exec: { ask: 'off' } } }", Path::new("x"), &|_| None)
            .map_err(|error| error.to_string());
    }),
    ("sandbox.engine.known_holes", Severity::Warn, |it| {
        let hole = Hole { component: text("runc"), number: text("CVE-1"), why: text("w") };
        status(it).posture.findings = BoundedVec::new(vec![hole]).unwrap();
    }),
    ("sandbox.image_old", Severity::Warn, |it| status(it).posture.image_created = text("1970-01-01T00:00:01Z")),
    ("sandbox.engine.rootful", Severity::Info, |it| status(it).posture.rootless = false),
    ("role.vault.not_ready", Severity::Warn, |it| with_role(it, |row| row.state = RoleState::Backoff)),
    ("role.vault.unconfined", Severity::Critical, |it| with_role(it, |row| row.seccomp = 0)),
    ("role.vault.unconfined", Severity::Critical, |it| with_role(it, |row| row.no_new_privs = false)),
    ("role.vault.unconfined", Severity::Critical, |it| with_role(it, |row| row.capabilities = 1)),
    ("role.vault.unconfined", Severity::Critical, |it| with_role(it, |row| row.landlock_abi = 0)),
    ("role.vault.attestation_stale", Severity::Warn, |it| with_role(it, |row| row.attested_ms = 60_000)),
    ("role.vault.degraded", Severity::Warn, |it| {
        with_role(it, |row| row.degraded = BoundedVec::new(vec![text("no memfd_secret")]).unwrap());
    }),
    ("secrets.old", Severity::Warn, |it| it.secrets[0].created = 0),
    ("secrets.reused", Severity::Warn, |it| it.secrets[0].shared = true),
    ("secrets.no_policy", Severity::Info, |it| it.secrets[0].verb = text("")),
    ("log.verify_failed", Severity::Critical, |it| {
        it.deep.as_mut().unwrap().log.push(("auth".into(), "line 3".into()))
    }),
    ("walls.differ", Severity::Critical, |it| it.deep.as_mut().unwrap().walls.push("vault".into())),
    ("systemd.exposed", Severity::Warn, |it| {
        it.deep.as_mut().unwrap().exposure = Some(Exposure { unit: "moltbot.service".into(), points: 5.0 });
    }),
    ("gateway.probe_failed", Severity::Warn, |it| it.deep.as_mut().unwrap().probe = Some("closed".into())),
];

#[test]
fn every_check_fires_on_what_it_is_about_and_is_silent_otherwise() {
    assert_eq!(findings(&healthy()), []);
    for (id, severity, change) in FIRES {
        let mut facts = healthy();
        change(&mut facts);
        let found = findings(&facts);
        assert!(found.iter().any(|found| (&*found.id, found.severity) == (*id, *severity)), "{id}: {found:?}");
        assert_eq!(found.len(), 1, "{id} and nothing else: {found:?}");
        assert!(!found[0].remediation.is_empty() && !found[0].title.is_empty(), "{id}");
    }
    let page = include_str!("../../../docs/security/audit-checks.md");
    for (id, ..) in FIRES {
        assert!(page.contains(&id.replace("role.vault.", "role.<role>.")), "{id} stands on the page of checks");
    }
    let mut unused = healthy();
    (unused.secrets[0].used, unused.secrets[0].created) = (0, 0);
    assert!(findings(&unused).iter().any(|found| found.id == "secrets.unused"));
    unused.secrets[0].honey = true;
    assert_eq!(findings(&unused), [], "a honey secret is to lie there");
}

/// Ids of the page's table under this title, one without the patterns in which a channel or the like is left open.
fn listed(page: &str, from: &str, to: &str) -> Vec<String> {
    let (_, part) = page.split_once(from).expect("the page has that part");
    let rows = part.split(to).next().unwrap_or_default().lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let words = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    words.filter(|word| word.contains('.') && !word.ends_with('.') && !word.starts_with('.') && *word != "*").collect()
}

#[test]
fn every_id_on_the_page_of_what_lies_there_and_runs_is_fired_by_a_test() {
    let page = include_str!("../../../docs/security/audit-checks.md");
    let listed = listed(page, "## Files", "## The configuration");
    assert!(listed.len() > 35, "{listed:?}");
    for id in listed {
        let id = id.replace("role.<role>.", "role.vault.");
        // It has two sides, and a test of its own above.
        let fires = id == "secrets.unused" || FIRES.iter().any(|(fires, ..)| *fires == id);
        assert!(fires, "no test makes {id} fire, or it is no id");
    }
}

#[test]
fn every_id_on_the_page_of_the_configuration_stands_in_a_test_of_it() {
    let page = include_str!("../../../docs/security/audit-checks.md");
    let tests =
        [include_str!("../../../config/src/tests.rs"), include_str!("../../../config/src/rules/tests.rs")].concat();
    let fired = |id: &str| FIRES.iter().any(|(fires, ..)| *fires == id);
    let listed = listed(page, "## The configuration", "Refused:");
    assert!(listed.len() > 15, "{listed:?}");
    for id in listed {
        let stands = tests.split('"').any(|text| {
            let (begin, end) = id.split_once("<channel>").unwrap_or((&*id, ""));
            text.strip_prefix(begin).is_some_and(|rest| rest.ends_with(end) && (end.is_empty() == rest.is_empty()))
        });
        assert!(stands || fired(&id), "no test of the configuration names {id}");
    }
    let (_, refused) = page.split_once("Refused:").expect("the page has that part");
    let refused = refused.split("`moltbot config validate`").next().unwrap_or_default();
    for id in refused.split('`').skip(1).step_by(2) {
        let (begin, end) = id.split_once("<channel>").or_else(|| id.split_once('*')).unwrap_or((id, ""));
        let stands = tests
            .split(|sign: char| !(sign.is_ascii_alphanumeric() || sign == '.' || sign == '_'))
            .any(|word| word.starts_with(begin) && word.ends_with(end));
        assert!(stands, "no test of the configuration is refused by {id}");
    }
}
