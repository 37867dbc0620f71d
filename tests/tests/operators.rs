//! The group whose members operate a set that is not theirs: a second real user, in the group and outside it.

use proto::channel::{CallError, Client};
use proto::edge::OperatorBroker;
use proto::operator::{OperatorReply, OperatorRequest};
use proto::watch::SandboxVerb;
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use system_tests::{As, PATIENCE, Sandbox, System, is_root, limit_files, programs, skip, wait_for};

/// The second user, and the group.
const MEMBER: u32 = 12_377;
const GROUP: u32 = 12_399;

fn prepare(who: As) -> System {
    let mut system = System::prepare(who, &Sandbox::Native);
    let path = system.state().join("moltbot.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["operator"] = json!({ "group": GROUP.to_string() });
    std::fs::write(&path, config.to_string()).unwrap();
    system.up();
    system
}

/// `moltbot` as the second user, with this primary group and these others.
fn as_second(system: &System, gid: u32, groups: &str, args: &[&str]) -> Output {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &MEMBER.to_string(), "--regid", &gid.to_string()]);
    if groups.is_empty() {
        command.arg("--clear-groups");
    } else {
        command.args(["--groups", groups]);
    }
    command.arg("--").arg(programs().join("moltbot")).arg("--state-dir").arg(system.state()).args(args);
    command.stdin(Stdio::null()).current_dir("/").env_remove("MOLTBOT_STATE_DIR").output().unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn member_of_the_group_operates_and_is_recorded_by_uid_and_a_stranger_does_not() {
    if !is_root() {
        return skip("only root can be somebody else");
    }
    let system = prepare(As::Root);
    let state = system.state();
    for (directory, what) in [(state.to_owned(), "state"), (state.join("run"), "run")] {
        assert_eq!((mode(&directory), std::fs::metadata(&directory).unwrap().gid()), (0o710, GROUP), "{what}");
    }
    let socket = state.join("run/operator.sock");
    assert_eq!((mode(&socket), std::fs::metadata(&socket).unwrap().gid()), (0o660, GROUP));

    // By a supplementary group, behind many others, and by the primary one.
    let many: Vec<String> = (20_000..20_100).chain([GROUP]).map(|gid| gid.to_string()).collect();
    for (gid, groups) in [(MEMBER, GROUP.to_string()), (MEMBER, many.join(",")), (GROUP, String::new())] {
        let shown = as_second(&system, gid, &groups, &["status", "--json"]);
        assert!(shown.status.success(), "{gid} {groups}: {}", String::from_utf8_lossy(&shown.stderr));
        let status: Value = serde_json::from_slice(&shown.stdout).unwrap();
        assert_eq!(status["ready"], true);
    }
    let restarted = as_second(&system, MEMBER, &GROUP.to_string(), &["gateway", "restart"]);
    assert!(restarted.status.success(), "{}", String::from_utf8_lossy(&restarted.stderr));
    let verbs = system.records("system-audit");
    let of_member = |record: &&Value| record["uid"] == MEMBER && record["verb"] == "restart";
    assert!(verbs.iter().any(|record| of_member(&record)), "{verbs:?}");

    // The way to the socket is no way to anything else.
    for secret in ["moltbot.json", "vault/vault.db", "keys/secrets.key", "logs/auth-audit.jsonl"] {
        let path = state.join(secret);
        let script = format!("cat {0} || ls {1}", path.display(), state.display());
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &MEMBER.to_string(), "--regid", &MEMBER.to_string(), "--groups", &GROUP.to_string()]);
        let read = command.args(["--", "sh", "-c", &script]).output().unwrap();
        assert!(!read.status.success() && read.stdout.is_empty(), "{secret}");
    }

    // The same user, not of the group: as it is, and where the kernel would let it up to the socket.
    for open in [false, true] {
        if open {
            for (path, mode) in [(state.to_owned(), 0o711), (state.join("run"), 0o711), (socket.clone(), 0o666)] {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
            }
        }
        for groups in [String::new(), "20001,20002".to_owned()] {
            let shown = as_second(&system, MEMBER, &groups, &["status", "--json"]);
            let told = String::from_utf8_lossy(&shown.stderr).into_owned();
            assert_eq!(shown.status.code(), Some(16), "{open} {groups}: {told}");
            assert!(told.contains("operator.stranger") && told.contains("group"), "{open} {groups}: {told}");
            assert!(!String::from_utf8_lossy(&shown.stdout).contains("ready"), "{open} {groups}");
        }
    }
    // Who got as far as the socket is in the log, once for all of a minute.
    let strangers = || -> Vec<Value> {
        system.records("system-audit").into_iter().filter(|record| record["verb"] == "stranger").collect()
    };
    wait_for("a record of the stranger", || (!strangers().is_empty()).then_some(()));
    let strangers = strangers();
    assert_eq!((strangers.len(), &strangers[0]["uid"]), (1, &json!(MEMBER)), "{strangers:?}");
    assert!(strangers[0]["detail"].as_str().unwrap().contains(&format!("usermod -aG {GROUP}")), "{strangers:?}");
}

#[test]
fn look_is_recorded_before_it_is_answered_once_for_each_connection_and_verb() {
    let mut system = System::prepare(if is_root() { As::Root } else { As::User }, &Sandbox::Native);
    system.up();
    let recorded = |verb: &str| {
        let verbs = system.records("system-audit");
        verbs.iter().filter(|record| record["type"] == "operator" && record["verb"] == verb).count()
    };
    let look = |client: &mut Client<OperatorBroker>, verb: &OperatorRequest| {
        client.call(verb, &[], PATIENCE).map(|(reply, _)| reply)
    };
    let list = OperatorRequest::Sandbox(SandboxVerb::List);
    let before = (recorded("status"), recorded("sandbox.list"));
    let mut first = system.knock();
    for _ in 0..3 {
        assert!(matches!(look(&mut first, &OperatorRequest::Status), Ok(OperatorReply::Status(_))));
        assert!(matches!(look(&mut first, &list), Ok(OperatorReply::Sandbox(_))));
    }
    assert_eq!((recorded("status"), recorded("sandbox.list")), (before.0 + 1, before.1 + 1));
    let mut second = system.knock();
    assert!(look(&mut second, &list).is_ok());
    assert_eq!(recorded("sandbox.list"), before.1 + 2);

    // Where nothing can be recorded nothing is shown, but what is wrong.
    let auditd = system.pid("auditd");
    limit_files(auditd, Some(1));
    let mut third = system.knock();
    for _ in 0..2 {
        let refused = look(&mut third, &list);
        assert!(matches!(&refused, Err(CallError::Refused(refusal)) if refusal.rule.as_str() == "audit.unwritable"));
    }
    assert!(matches!(look(&mut third, &OperatorRequest::Status), Ok(OperatorReply::Status(_))));
    limit_files(auditd, None);
    assert!(look(&mut third, &list).is_ok());
    assert_eq!(recorded("sandbox.list"), before.1 + 3);
}

#[test]
fn audit_and_doctor_know_the_groups_way_and_without_a_group_there_is_none() {
    if !is_root() {
        return skip("only root can be somebody else");
    }
    let mut system = prepare(As::Root);
    let audit = || -> Value {
        let output = system.moltbot(&["security", "audit", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert!(!audit().to_string().contains("fs.state_dir"), "{}", audit());
    assert!(!audit().to_string().contains("fs.run_dir"));
    std::fs::set_permissions(system.state(), std::fs::Permissions::from_mode(0o750)).unwrap();
    assert!(audit().to_string().contains("fs.state_dir.perms_readable"));
    let _ = system.moltbot(&["doctor", "--fix", "--yes"]);
    assert_eq!(mode(system.state()), 0o710, "what it mends leaves the way open");
    let _ = system.says(&["down"]);
    let path = system.state().join("moltbot.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("operator");
    std::fs::write(&path, config.to_string()).unwrap();
    system.up();
    assert_eq!((mode(system.state()), mode(&system.state().join("run"))), (0o700, 0o700));
    assert_eq!(mode(&system.state().join("run/operator.sock")), 0o600);
    assert!(!as_second(&system, MEMBER, &GROUP.to_string(), &["status"]).status.success());
}

#[test]
fn set_of_a_user_lets_in_who_is_of_a_group_of_his_and_refuses_one_that_is_not() {
    if !is_root() {
        return skip("only root can be somebody else");
    }
    let system = System::prepare(As::User, &Sandbox::Native);
    let path = system.state().join("moltbot.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (group, starts) in
        [(GROUP.to_string(), false), ("no-such-group".to_owned(), false), (system_tests::USER.to_string(), true)]
    {
        config["operator"] = json!({ "group": group });
        std::fs::write(&path, config.to_string()).unwrap();
        let up = system.moltbot(&["up", "--port", "0"]);
        assert_eq!(up.status.success(), starts, "{group}: {}", String::from_utf8_lossy(&up.stderr));
        let told = String::from_utf8_lossy(&up.stderr).contains("operator.group");
        assert_eq!(told, !starts, "{group}: {}", String::from_utf8_lossy(&up.stderr));
    }
    let own = system_tests::USER.to_string();
    assert!(as_second(&system, MEMBER, &own, &["status"]).status.success());
    assert!(!as_second(&system, MEMBER, &GROUP.to_string(), &["status"]).status.success());
}

#[test]
fn package_makes_the_group_that_is_meant_and_nobody_is_in_it() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("etc")).unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sysusers/moltbot.conf");
    let made = Command::new("systemd-sysusers").arg(format!("--root={}", root.path().display())).arg(&file).output();
    let Ok(made) = made else { return skip("systemd-sysusers is not here") };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let groups = std::fs::read_to_string(root.path().join("etc/group")).unwrap();
    let line = groups.lines().find(|line| line.split(':').next() == Some(confine::operators::DEFAULT_GROUP));
    assert!(line.is_some_and(|line| line.ends_with(':')), "{groups}");
}
