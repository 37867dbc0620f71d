//! What is seen of an escape and what is done about it, with a real engine and real hands in the containers. Each stimulus has
//! its twin beside it: what is close to it and honest leads to nothing.

#[path = "../../sandboxd/tests/fake/mod.rs"]
mod fake;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use system_tests::{As, Sandbox, System, docker_socket, is_root, signal, skip, wait_for};

/// The set, once it serves again: an incident replaces gateway and sandboxd.
fn serving(system: &System) -> &System {
    wait_for("a set that serves", || (system.status()["ready"] == true).then_some(()));
    system
}

/// One test at a time: each looks for the container that its own command made.
static ENGINE: Mutex<()> = Mutex::new(());
const MAIN: &str = "agent:main:main";

struct World {
    system: System,
    socket: PathBuf,
    container: String,
    _guard: MutexGuard<'static, ()>,
}

impl World {
    /// A running set with one warm container, in which nothing was seen; commands go by the resident runner.
    fn new() -> Option<Self> {
        let world = Self::with(&|_| None)?;
        let detail = world.system.status()["sandbox"]["detail"].clone();
        assert!(!detail.as_str().unwrap().contains("no runner"), "{detail}");
        Some(world)
    }

    /// As that, of another image.
    fn with(image: &dyn Fn(&Path) -> Option<String>) -> Option<Self> {
        if !is_root() {
            skip("only root can be sure to reach the engine's socket");
            return None;
        }
        let socket = docker_socket()?;
        let guard = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all(&socket);
        let mut system = System::prepare(As::Root, &Sandbox::Docker(socket.clone()));
        if let Some(image) = image(&socket) {
            let path = system.state().join("moltbot.json");
            let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            config["agents"]["defaults"]["sandbox"]["docker"]["image"] = image.into();
            std::fs::write(&path, config.to_string()).unwrap();
        }
        system.up();
        assert!(system.chat("/exec echo warm").contains("warm"));
        let made: Vec<String> = all(&socket).into_iter().filter(|id| !before.contains(id)).collect();
        // Others use the engine too: ours is the one whose label is of this state directory's start.
        let list: Value = serde_json::from_str(&system.says(&["sandbox", "list", "--json"])).unwrap();
        let row = list.as_array().unwrap().iter().find(|row| row["sessionKey"] == MAIN).expect("a row").clone();
        let container = row["container"].as_str().unwrap().to_owned();
        assert!(made.contains(&container), "{container} is not among {made:?}");
        assert_eq!((row["class"].clone(), row["quarantined"].clone()), (Value::Null, json!(false)), "{row}");
        let world = Self { system, socket, container, _guard: guard };
        assert_eq!(world.signals(), Vec::<Value>::new());
        Some(world)
    }

    fn docker(&self, args: &[&str]) -> Output {
        docker(&self.socket, args)
    }

    fn signals(&self) -> Vec<Value> {
        let records = self.system.records("system-audit");
        records.into_iter().filter(|record| record["type"] == "signal").collect()
    }

    fn signal(&self, number: &str) -> Value {
        wait_for(&format!("signal {number}"), || self.signals().into_iter().find(|record| record["signal"] == number))
    }

    /// Makes and warms a conversation's container.
    fn container_of(&self, session: &str) -> String {
        assert!(serving(&self.system).says(&["chat", "--session", session, "/exec echo warm"]).contains("warm"));
        let list: Value = serde_json::from_str(&self.system.says(&["sandbox", "list", "--json"])).unwrap();
        let row = list.as_array().unwrap().iter().find(|row| row["sessionKey"] == session).unwrap().clone();
        row["container"].as_str().unwrap().to_owned()
    }

    /// True where a command of main waits for the operator, who says yes.
    fn is_asked(&self, command: &str) -> bool {
        let chat = std::thread::scope(|scope| {
            let chat = scope.spawn(|| self.system.chat(&format!("/exec {command}")));
            while !chat.is_finished() {
                let list: Value = serde_json::from_str(&self.system.says(&["approvals", "list", "--json"])).unwrap();
                if let Some(id) = list.get(0).and_then(|question| question["id"].as_str()) {
                    let _ = self.system.moltbot(&["approvals", "approve", id]);
                }
            }
            chat.join().unwrap()
        });
        chat.contains("waits for an approval")
    }

    fn label(&self, name: &str) -> String {
        let format = format!("{{{{index .Config.Labels \"{name}\"}}}}");
        let output = self.docker(&["inspect", "--format", &format, &self.container]);
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn pid(&self) -> u32 {
        let output = self.docker(&["inspect", "--format", "{{.State.Pid}}", &self.container]);
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    fn mode(&self) -> String {
        let status: Value = serde_json::from_str(&self.system.says(&["lockdown", "status", "--json"])).unwrap();
        status["mode"].as_str().unwrap().to_owned()
    }

    fn quarantined(&self) -> bool {
        self.system.says(&["lockdown", "status"]).contains(MAIN)
    }

    fn wait_gone(&self) {
        wait_for("the container's end", || (!all(&self.socket).contains(&self.container)).then_some(()));
    }

    /// Frozen, apart, looked at, replaced: everything that follows a doubt about the containment.
    fn assert_contained(&self, number: &str) {
        self.assert_contained_with(number, "stood still after", "changed-files");
    }

    fn assert_contained_with(&self, number: &str, how: &str, also: &str) {
        let seen = self.signal(number);
        assert_eq!(
            (seen["class"].as_str(), seen["container"].as_str()),
            (Some("S3"), Some(&*self.container)),
            "{seen}"
        );
        assert!(seen["detail"].as_str().unwrap().contains(how), "{seen}");
        for role in ["sandboxd", "gateway"] {
            self.system.wait_epoch(role, 2);
        }
        wait_for("the end of the reaction", || (self.mode() == "open").then_some(()));
        assert!(self.quarantined());
        self.wait_gone();
        let records = self.system.records("system-audit");
        for part in ["processes", "mounts", "inspect", "drift", "output", also] {
            let found = records.iter().find(|it| it["type"] == "evidence" && it["part"] == part);
            assert_eq!(found.map(|it| &it["sessionKey"]), Some(&json!(MAIN)), "{part}");
        }
        assert!(records.iter().any(|it| it["type"] == "role" && it["event"] == "breach"), "{records:?}");
        let incidents = records.iter().filter(|it| it["type"] == "incident");
        assert!(incidents.clone().count() == 5 && incidents.clone().all(|it| it["severity"] == "containment"));
        let refused = serving(&self.system).says(&["chat", "--session", MAIN, "/exec echo no"]);
        assert!(refused.contains("quarantine"), "{refused}");
        let other = serving(&self.system).says(&["chat", "--session", "agent:main:other", "/exec echo works"]);
        assert!(other.contains("works"), "{other}");
        let shown = self.system.says(&["sandbox", "evidence", MAIN]);
        assert!(shown.contains("processes") && shown.contains(&format!("S3 {number}")), "{shown}");
    }
}

fn docker(socket: &Path, args: &[&str]) -> Output {
    Command::new("docker").arg("--host").arg(format!("unix://{}", socket.display())).args(args).output().unwrap()
}

fn all(socket: &Path) -> Vec<String> {
    let output = docker(socket, &["ps", "-aq", "--no-trunc"]);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn root_put_into_a_container_by_hand_is_contained() {
    let Some(world) = World::new() else { return };
    // Twins: what only looks, of another's hand, and own commands.
    for look in ["inspect", "top", "logs", "diff", "port"] {
        let _ = world.docker(&[look, &world.container]);
    }
    assert!(world.system.chat("/exec echo still warm").contains("still warm"));
    assert_eq!(world.signals(), Vec::<Value>::new());
    let _ = world.docker(&["exec", "-u", "0", &world.container, "true"]);
    world.assert_contained_with("D2", "ended after", "exec");
    // What it was kept apart for is over when the operator says so.
    let _ = world.system.says(&["lockdown", "clear"]);
    assert!(serving(&world.system).chat("/exec echo again").contains("again"));
}

#[test]
fn files_taken_out_of_a_container_are_a_foreign_act() {
    let Some(world) = World::new() else { return };
    let _ = world.docker(&["cp", &format!("{}:/etc/hostname", world.container), "-"]);
    world.assert_contained("D2");
}

#[test]
fn limits_changed_by_hand_are_a_foreign_act() {
    let Some(world) = World::new() else { return };
    let _ = world.docker(&["update", "--pids-limit", "90", &world.container]);
    world.assert_contained("D2");
}

/// No engine has a hand in it: the kernel alone says it.
#[test]
fn process_with_rights_in_the_container_s_control_group_is_contained() {
    let Some(world) = World::new() else { return };
    let group = Path::new("/sys/fs/cgroup/pids/docker").join(&world.container).join("cgroup.procs");
    if !group.exists() {
        return skip("the engine's control groups are not where this test looks");
    }
    let mut root = Command::new("sleep").arg("300").spawn().unwrap();
    // Every hierarchy: which one the kernel names first is not the test's business.
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let procs = hierarchy.path().join("docker").join(&world.container).join("cgroup.procs");
        let _ = std::fs::write(procs, root.id().to_string());
    }
    world.signal("D5");
    // It stands still with the container, and is in nobody's way.
    let _ = root.kill();
    world.assert_contained("D5");
    let _ = root.wait();
}

#[test]
fn mount_in_the_container_from_outside_is_contained() {
    let Some(world) = World::new() else { return };
    let pid = world.pid().to_string();
    let mount = ["-t", &pid, "-m", "/usr/bin/busybox", "mount", "-t", "tmpfs", "none", "/tmp"];
    let mounted = Command::new("nsenter").args(mount).output().unwrap();
    if !mounted.status.success() {
        return skip(&format!("nothing can be mounted there: {}", String::from_utf8_lossy(&mounted.stderr)));
    }
    world.assert_contained("D7");
}

#[test]
fn file_beneath_a_read_only_root_is_contained() {
    let Some(world) = World::new() else { return };
    let output = world.docker(&["inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", &world.container]);
    let upper = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    if !upper.is_dir() {
        return skip("this engine keeps no directory of changes");
    }
    std::fs::write(upper.join("evil"), "").unwrap();
    world.assert_contained("D3");
}

#[test]
fn forbidden_call_costs_the_sandbox_and_what_was_allowed() {
    let Some(world) = World::new() else { return };
    // A twin: a call that is denied, and no more.
    let denied = world.system.chat("/exec unshare -m true; echo denied");
    assert!(denied.contains("denied"), "{denied}");
    assert_eq!(world.signals(), Vec::<Value>::new());
    let tripped = world.system.chat("/exec busybox pivot_root / /tmp");
    assert!(tripped.contains("only an attack makes"), "{tripped}");
    let seen = world.signal("D4");
    assert_eq!((seen["class"].as_str(), seen["sessionKey"].as_str()), (Some("S2"), Some(MAIN)), "{seen}");
    world.wait_gone();
    assert_eq!((world.mode().as_str(), world.quarantined()), ("open", false), "nobody else is touched");
    assert_eq!(world.system.role("sandboxd")["epoch"], 1);
    // Where nobody was asked before, everything is now; another conversation is as it was.
    let other = serving(&world.system).says(&["chat", "--session", "agent:main:other", "/exec echo works"]);
    assert!(other.contains("works"), "{other}");
    assert!(world.is_asked("echo asked"));
    let suspended = world.system.records("secret-audit");
    assert!(suspended.iter().any(|record| record["verb"] == "approvals.suspend"), "{suspended:?}");
    let list: Value = serde_json::from_str(&world.system.says(&["sandbox", "list", "--json"])).unwrap();
    let row = list.as_array().unwrap().iter().find(|row| row["sessionKey"] == MAIN).unwrap();
    assert_eq!((row["class"].as_str(), row["suspended"].as_bool()), (Some("S2"), Some(true)), "{row}");
    // A sandboxd that knows nothing of it asks the vault, which forgets only by the operator's word.
    signal(world.system.pid("sandboxd"), Signal::KILL);
    world.system.wait_epoch("sandboxd", 2);
    assert!(
        serving(&world.system).says(&["chat", "--session", "agent:main:other", "/exec echo works"]).contains("works")
    );
    assert!(world.is_asked("echo asked again"));
    let _ = world.system.says(&["sessions", "untaint", MAIN]);
    assert!(!world.is_asked("echo nobody is asked"));
}

/// A shell that says nothing of it, or something else: the kernel says it all the same. And a program's own word is no fact.
#[test]
fn filter_s_kill_is_known_whatever_the_shell_says_and_a_status_is_a_word() {
    let Some(world) = World::new() else { return };
    for _ in 0..12 {
        let _ = world.system.chat("/exec exit 159");
    }
    let _ = world.system.chat("/exec sh -c 'exit 159' | cat; sh -c 'kill -9 $$'; exit 137");
    let seen = world.signal("D4s");
    assert_eq!((seen["class"].as_str(), seen["sessionKey"].as_str()), (Some("S1"), Some(MAIN)), "{seen}");
    assert!(world.signals().iter().all(|record| record["class"] == "S1"), "{:?}", world.signals());
    assert!(all(&world.socket).contains(&world.container), "its container is the same");
    assert!(!world.is_asked("echo nobody is asked"));
    for (turn, hidden) in ["busybox pivot_root / /tmp; true", "busybox pivot_root / /tmp | cat"].into_iter().enumerate()
    {
        let session = format!("agent:main:hidden-{turn}");
        let container = world.container_of(&session);
        let _ = world.system.moltbot(&["chat", "--session", &session, &format!("/exec {hidden}; sleep 60")]);
        let seen = wait_for("the kernel's word", || {
            world
                .signals()
                .into_iter()
                .find(|record| record["sessionKey"] == session.as_str() && record["signal"] == "D4")
        });
        assert_eq!((seen["class"].as_str(), seen["container"].as_str()), (Some("S2"), Some(&*container)), "{seen}");
        wait_for("the container's end", || (!all(&world.socket).contains(&container)).then_some(()));
    }
    assert_eq!((world.mode().as_str(), world.system.role("sandboxd")["epoch"].as_u64()), ("open", Some(1)));
}

/// The same where the image has no runner, and the engine's exec serves.
#[test]
fn engine_s_exec_is_watched_as_the_runner_is() {
    let bare = format!("moltbot-test-watch-bare:{}", std::process::id());
    let make = |socket: &Path| {
        let image = std::env::var("MOLTBOT_TEST_SANDBOX_IMAGE").unwrap_or_else(|_| "moltbot-sandbox:latest".to_owned());
        let from = docker(socket, &["create", "--network", "none", &image, "/bin/sh"]).stdout;
        let from = String::from_utf8(from).unwrap().trim().to_owned();
        let made = docker(socket, &["commit", "--change", "LABEL moltbot.runner=none", &from, &bare]);
        assert!(made.status.success(), "{made:?}");
        let _ = docker(socket, &["rm", "-f", &from]);
        Some(bare.clone())
    };
    let Some(world) = World::with(&make) else { return };
    let detail = world.system.status()["sandbox"]["detail"].clone();
    assert!(detail.as_str().unwrap().contains("no runner"), "{detail}");
    let _ = world.system.chat("/exec exit 159");
    assert_eq!(world.signal("D4s")["class"], "S1");
    assert!(!world.is_asked("echo nobody is asked"));
    let tripped = world.system.chat("/exec exec busybox pivot_root / /tmp");
    assert!(tripped.contains("only an attack makes"), "{tripped}");
    assert_eq!(world.signal("D4")["class"], "S2");
    world.wait_gone();
    let container = world.container_of("agent:main:other");
    let _ = world.docker(&["exec", "-d", &container, "true"]);
    let seen = world.signal("D2");
    assert_eq!((seen["class"].as_str(), seen["container"].as_str()), (Some("S3"), Some(&*container)), "{seen}");
    wait_for("the container's end", || (!all(&world.socket).contains(&container)).then_some(()));
    let _ = world.docker(&["rmi", "-f", &bare]);
}

/// Who can have a containment doubted again and again has everything locked, and never the set stopped.
#[test]
fn doubts_in_quick_succession_lock_everything_and_stop_nothing() {
    let Some(world) = World::new() else { return };
    let broker = world.system.pid("broker");
    for turn in 0..2 {
        for (which, mode) in ["open", "locked"].into_iter().enumerate() {
            let session = format!("agent:main:doubt-{turn}-{which}");
            let container = world.container_of(&session);
            let _ = world.docker(&["rename", &container, &format!("moltbot-test-doubt-{}", std::process::id())]);
            wait_for("the quarantine", || world.system.says(&["lockdown", "status"]).contains(&session).then_some(()));
            wait_for("the container's end", || (!all(&world.socket).contains(&container)).then_some(()));
            wait_for("the end of the reaction", || (world.mode() == mode).then_some(()));
            let refused = serving(&world.system).moltbot(&["chat", "--session", &session, "/exec echo no"]);
            assert!(!String::from_utf8_lossy(&refused.stdout).contains("no\n"), "{refused:?}");
        }
        let _ = world.system.says(&["lockdown", "clear"]);
    }
    assert!(serving(&world.system).chat("/exec echo works").contains("works"));
    assert_eq!(world.system.pid("broker"), broker, "the set went on");
}

/// One whose ids and rights are a container's, and that is not in its namespaces.
#[test]
fn process_in_other_namespaces_is_contained() {
    let Some(world) = World::new() else { return };
    let group = Path::new("/sys/fs/cgroup/pids/docker").join(&world.container).join("cgroup.procs");
    if !group.exists() {
        return skip("the engine's control groups are not where this test looks");
    }
    // No capability, no new privileges, a filter that lets everything through.
    let script = "import ctypes, os, struct, sys, time
c = ctypes.CDLL(None)
[c.prctl(24, n, 0, 0, 0) for n in range(64)]
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
c.prctl(38, 1, 0, 0, 0)
allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
c.prctl(22, 2, ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 1, ctypes.addressof(allow))), 0, 0)
print('up', flush=True)
time.sleep(300)";
    let python = Command::new("python3").args(["-c", script]).stdout(std::process::Stdio::piped()).spawn();
    let Ok(mut other) = python else { return skip("there is no python3") };
    let mut up = [0; 2];
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut up).unwrap();
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let procs = hierarchy.path().join("docker").join(&world.container).join("cgroup.procs");
        let _ = std::fs::write(procs, other.id().to_string());
    }
    // What is suspicious is looked at more often.
    let _ = world.system.moltbot(&["chat", "/exec echo release_agent"]);
    let seen = world.signal("D6");
    let _ = other.kill();
    assert!(seen["class"] == "S3" && seen["detail"].as_str().unwrap().contains("process"), "{seen}");
    wait_for("the quarantine", || world.quarantined().then_some(()));
    world.wait_gone();
    let _ = other.wait();
}

#[test]
fn word_that_no_container_can_know_locks_everything() {
    let Some(world) = World::new() else { return };
    let canary = world.label("moltbot.epoch");
    let turned: String = canary.chars().rev().collect();
    // A twin: as long and as random, and not it.
    assert!(world.system.chat(&format!("/exec echo {turned}")).contains(&turned));
    assert_eq!(world.signals(), Vec::<Value>::new());
    // In two pieces, so that the command itself does not hold it.
    let (one, two) = canary.split_at(30);
    let output = world.system.moltbot(&["chat", &format!("/exec printf {one}; sleep 0.2; printf {two}; sleep 60")]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains(&canary));
    wait_for("the lockdown", || (world.mode() == "locked").then_some(()));
    let seen = world.signal("D14");
    assert_eq!(seen["class"], "S4", "{seen}");
    world.wait_gone();
    let refused = world.system.moltbot(&["chat", "--session", "agent:main:other", "/exec echo no"]);
    assert!(!String::from_utf8_lossy(&refused.stdout).contains("no\n"));
    let log = std::fs::read_to_string(world.system.state().join("logs/system-audit.jsonl")).unwrap();
    assert!(!log.contains(&canary), "whoever reads the log must not set it off");
    let _ = world.system.says(&["lockdown", "clear"]);
    assert!(
        serving(&world.system).says(&["chat", "--session", "agent:main:other", "/exec echo works"]).contains("works")
    );
}

#[test]
fn texts_of_escapes_are_recorded_and_change_nothing() {
    let Some(world) = World::new() else { return };
    let texts = "echo release_agent nsenter docker.sock /proc/1/root insmod 'uid=0(root)' amicontained";
    for _ in 0..12 {
        assert!(world.system.chat(&format!("/exec {texts}")).contains("amicontained"));
    }
    let classes: Vec<Value> = world.signals().into_iter().map(|record| record["class"].clone()).collect();
    assert!(!classes.is_empty() && classes.iter().all(|class| class == "S1"), "{classes:?}");
    assert!(classes.len() <= 16, "a flood is not recorded whole");
    assert_eq!((world.mode().as_str(), world.quarantined()), ("open", false));
    assert!(all(&world.socket).contains(&world.container), "its container is the same");
    assert_eq!(world.system.role("sandboxd")["epoch"], 1);
}

#[test]
fn honest_commands_are_no_signal() {
    let Some(world) = World::new() else { return };
    for command in [
        "id; uname -a; env; ls -la /; ls -la /proc /sys /dev",
        "cat /proc/self/status /proc/self/mountinfo /proc/1/status; cat /proc/1/environ; true",
        "find / -xdev -type f 2>/dev/null | wc -l",
        "for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.1 &) ; done; wait",
        "seq 1 20000 | sort -n | tail -1; seq 1 20000 | awk '{s+=$1} END {print s}'",
        "mkdir -p a/b/c; echo x > a/b/c/d; chmod +x a/b/c/d; ln -s d a/b/c/e; rm -r a",
        "dd if=/dev/zero of=/workspace/z bs=1M count=8 2>/dev/null; rm z",
        "printf '#!/bin/sh\\necho run' > r; chmod +x r; ./r",
        "touch /etc/x; chown 0 /workspace; mount; kill -9 1; true",
        "unshare -U true; chroot / true; true",
        "sh -c 'kill -SEGV $$'; exit 139",
        "exit 137",
        "timeout 1 sleep 5; exit 124",
    ] {
        let _ = world.system.chat(&format!("/exec {command}"));
    }
    let signals = world.signals();
    assert!(signals.iter().all(|record| record["class"] == "S1"), "{signals:?}");
    assert!(all(&world.socket).contains(&world.container), "its container is the same");
    assert_eq!((world.mode().as_str(), world.quarantined()), ("open", false));
}

#[test]
fn quarantine_outlives_a_sandboxd_and_a_broker_that_are_killed_on_the_way() {
    let Some(world) = World::new() else { return };
    let World { mut system, socket, container, _guard } = world;
    let (broker, sandboxd) = (system.pid("broker"), system.pid("sandboxd"));
    let _ = docker(&socket, &["exec", "-u", "0", &container, "true"]);
    // Kept by the file that every later broker reads, before anything else is done.
    let kept = system.state().join("lockdown.json");
    wait_for("the quarantine on disk", || std::fs::read_to_string(&kept).ok().filter(|text| text.contains(MAIN)));
    for pid in [sandboxd, broker] {
        if system_tests::is_alive(pid) {
            signal(pid, Signal::KILL);
        }
    }
    wait_for("the end of broker", || (!system_tests::is_alive(broker)).then_some(()));
    wait_for("the end of the container", || (!all(&socket).contains(&container)).then_some(()));
    system.up();
    let refused = serving(&system).says(&["chat", "--session", MAIN, "/exec echo no"]);
    assert!(refused.contains("quarantine"), "{refused}");
    let other = serving(&system).says(&["chat", "--session", "agent:main:other", "/exec echo works"]);
    assert!(other.contains("works"), "{other}");
}

#[test]
fn sandbox_is_ended_by_the_operator_and_made_anew() {
    let Some(world) = World::new() else { return };
    let ended = world.system.says(&["sandbox", "kill", MAIN]);
    assert!(ended.contains("fresh one"), "{ended}");
    world.wait_gone();
    assert!(!world.system.moltbot(&["sandbox", "kill", "agent:main:nobody"]).status.success());
    assert!(serving(&world.system).chat("/exec echo again").contains("again"));
    let log = world.system.says(&["sandbox", "logs", MAIN]);
    assert!(log.contains("runs echo warm") && log.contains("ended with 0"), "{log}");
    let verbs = world.system.records("system-audit");
    assert!(verbs.iter().any(|record| record["verb"] == "sandbox.kill" && record["detail"] == MAIN), "{verbs:?}");
}

#[test]
fn every_signal_says_whether_it_is_seen_and_why_not() {
    let Some(world) = World::new() else { return };
    let status = world.system.status();
    let signals = status["sandbox"]["signals"].as_array().unwrap().clone();
    let on = |number: &str| signals.iter().find(|it| it["signal"] == number).unwrap()["on"].as_bool().unwrap();
    for number in ["D1", "D2", "D3", "D4", "D4s", "D5", "D6", "D7", "D9", "D14", "D16", "D17", "D18"] {
        assert!(on(number), "{number}: {signals:?}");
    }
    for number in ["D8", "D10", "D11", "D12", "D13", "D15"] {
        assert!(!on(number), "{number}");
    }
    assert!(signals.iter().all(|it| !it["why"].as_str().unwrap().is_empty()));
    let heard = signals.iter().find(|it| it["signal"] == "D2").unwrap();
    assert!(heard["why"].as_str().unwrap().contains("own acts were heard"), "{heard}");
    let doctor = world.system.moltbot(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("D5 /proc/PID/status of every process: seen"), "{text}");
}

/// An engine that made what it was asked for, and changes it while it runs.
#[test]
fn container_that_changes_while_it_runs_is_found_by_chance() {
    if !is_root() {
        return skip("not root");
    }
    let begun = std::sync::atomic::AtomicBool::new(false);
    let engine = fake::Engine::start(move |request, answer| {
        let path = format!("/containers/{}", fake::ID);
        let lies = begun.load(std::sync::atomic::Ordering::Acquire);
        match (request, answer) {
            (request, fake::Answer::Json(200, mut found)) if request == format!("GET {path}/json") => {
                found["HostConfig"]["Privileged"] = lies.into();
                found["State"]["Running"] = lies.into();
                fake::Answer::Json(200, found)
            }
            (request, _) if request == format!("POST {path}/attach") => {
                fake::Answer::Raw(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".to_vec())
            }
            (request, _) if request == format!("POST {path}/start") => {
                begun.store(true, std::sync::atomic::Ordering::Release);
                fake::Answer::Json(204, json!({}))
            }
            (_, answer) => answer,
        }
    });
    let system = System::start(As::Root, &Sandbox::Docker(engine.socket.clone()));
    let _ = system.moltbot(&["chat", "/exec true"]);
    // Looks are by chance, one in ten; where something was suspicious there are twenty a second.
    let _ = system.moltbot(&["chat", "/exec echo release_agent"]);
    let seen = wait_for("signal D1", || {
        system.records("system-audit").into_iter().find(|record| record["type"] == "signal" && record["signal"] == "D1")
    });
    assert!(seen["class"] == "S3" && seen["detail"].as_str().unwrap().contains("Privileged"), "{seen}");
    wait_for("the quarantine", || system.says(&["lockdown", "status"]).contains(MAIN).then_some(()));
}

/// Each act of a foreign hand that reaches into a container, in one set, one after the other.
#[test]
fn every_foreign_act_that_reaches_into_a_container_is_seen() {
    let name = format!("moltbot-test-watch-{}", std::process::id());
    let (image, id) = (format!("{name}:latest"), "ID");
    let acts: [(&str, &[&str]); 8] = [
        ("exec", &["exec", "-d", id, "true"]),
        ("exec", &["exec", "-d", "-u", "0", "--privileged", id, "true"]),
        ("archive-path", &["cp", "ID:/etc/passwd", "-"]),
        ("commit", &["commit", id, &image]),
        ("export", &["export", id]),
        ("rename", &["rename", id, &name]),
        ("update", &["update", "--cpus", "0.5", id]),
        ("attach", &["attach", "--no-stdin", id]),
    ];
    let Some(world) = World::new() else { return };
    for (turn, (word, act)) in acts.iter().enumerate() {
        let container = world.container_of(&format!("agent:main:act-{turn}"));
        let args: Vec<String> = act.iter().map(|arg| arg.replace(id, &container)).collect();
        let mut hand = Command::new("docker");
        hand.arg("--host").arg(format!("unix://{}", world.socket.display())).args(&args);
        hand.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut hand = hand.spawn().unwrap();
        let seen = wait_for(&format!("{word} to be seen"), || {
            world.signals().into_iter().find(|record| record["container"] == container.as_str())
        });
        assert_eq!((seen["signal"].as_str(), seen["class"].as_str()), (Some("D2"), Some("S3")), "{seen}");
        assert!(seen["detail"].as_str().unwrap().contains(word), "{word}: {seen}");
        wait_for("the container's end", || (!all(&world.socket).contains(&container)).then_some(()));
        let _ = hand.kill();
        let _ = hand.wait();
        // The operator looks, so that the next one is a first one.
        wait_for("the end of the reaction", || {
            world.system.moltbot(&["lockdown", "clear"]).status.success().then_some(())
        });
    }
    let _ = world.docker(&["rmi", "-f", &image]);
}

/// What somebody inside can try. Each attempt is answered by its class; its twin is that nothing graver follows.
#[test]
fn every_attempt_from_inside_is_seen_at_its_class() {
    let Some(world) = World::new() else { return };
    // A parent that stays: where it ended by the time that the kernel's word is read, nobody knows whose the process was.
    let attempts: [(&str, &str, &str); 27] = [
        ("S2", "D4", "busybox pivot_root / /tmp"),
        ("S2", "D4", "busybox reboot -f"),
        ("S2", "D4", "busybox rmmod moltbot"),
        ("S2", "D4", "echo x > /workspace/m.ko; busybox insmod /workspace/m.ko"),
        ("S2", "D4", "(busybox pivot_root / /tmp; sleep 60) | cat"),
        ("S2", "D4", "busybox reboot -f; sleep 60"),
        ("S1", "D4s", "exit 159"),
        ("S1", "D18", "cat /proc/1/root/etc/shadow"),
        ("S1", "D18", "echo /tmp/x > /sys/fs/cgroup/release_agent"),
        ("S1", "D18", "mkdir /sys/fs/cgroup/x; echo 1 > /sys/fs/cgroup/x/notify_on_release"),
        ("S1", "D18", "echo '|/tmp/x' > /proc/sys/kernel/core_pattern"),
        ("S1", "D18", "nsenter -t 1 -m -p true"),
        ("S1", "D18", "ls -la /var/run/docker.sock /run/docker.sock"),
        ("S1", "D18", "ls /run/containerd/containerd.sock"),
        ("S1", "D18", "dd if=/dev/vda of=/dev/null count=1"),
        ("S1", "D18", "head -c 1 /dev/sda"),
        ("S1", "D18", "head -c 1 /dev/mem"),
        ("S1", "D18", "head -c 1 /proc/kcore"),
        ("S1", "D18", "echo c > /proc/sysrq-trigger"),
        ("S1", "D18", "modprobe overlay"),
        ("S1", "D18", "wget -T 1 http://169.254.169.254/latest/meta-data"),
        ("S1", "D17", "printf 'uid=%s\\n' '0(root)'"),
        ("S1", "D17", "printf 'release%s\\n' _agent"),
        ("S1", "D17", "printf 'docker%s\\n' .sock"),
        ("S1", "D17", "printf 'nsen%s\\n' ter >&2"),
        ("S1", "D17", "printf '/proc/1/%s\\n' root"),
        ("S1", "D17", "printf 'insm%s\\n' od"),
    ];
    for (turn, (class, signal, attempt)) in attempts.into_iter().enumerate() {
        let session = format!("agent:main:try-{turn}");
        let _ = serving(&world.system).moltbot(&["chat", "--session", &session, &format!("/exec {attempt}")]);
        let of_it = || -> Vec<Value> {
            world.signals().into_iter().filter(|record| record["sessionKey"] == session.as_str()).collect()
        };
        // What the kernel says of a process that the shell said nothing of may be recorded a moment later.
        wait_for(attempt, || of_it().iter().any(|it| it["class"] == class && it["signal"] == signal).then_some(()));
        let of_it = of_it();
        assert!(of_it.iter().all(|it| it["class"].as_str() <= Some(class)), "{attempt}: {of_it:?}");
        let _ = world.system.moltbot(&["sandbox", "kill", &session]);
    }
    assert_eq!((world.mode().as_str(), world.system.role("sandboxd")["epoch"].as_u64()), ("open", Some(1)));
}
