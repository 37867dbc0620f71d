//! The sealed container on a real engine, attacked from inside. Each attempt has its twin in a container without walls, so
//! that a broken probe cannot pass. The engine's socket comes by `MOLTBOT_TEST_DOCKER_SOCKET`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should stop"
)]

use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::control::{BackendChoice, Scope, Sizes};
use proto::ids::SessionKey;
use sandboxd::docker::{self, DockerBackend};
use sandboxd::state::{Prune, Settings};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// What must end the process that tries it.
const KILLED: [&str; 11] = [
    "bpf_map",
    "pivot_root",
    "reboot",
    "kexec_load",
    "init_module",
    "finit_module",
    "delete_module",
    "swapon",
    "acct",
    "iopl",
    "process_vm_writev_broker",
];

/// What must be refused.
const DENIED: [&str; 45] = [
    "io_uring_setup",
    "io_uring_enter",
    "perf_event_open",
    "keyctl",
    "add_key",
    "request_key",
    "mount",
    "umount",
    "fsopen",
    "open_tree",
    "move_mount",
    "chroot",
    "swapoff",
    "settimeofday",
    "clock_settime",
    "syslog",
    "quotactl",
    "modify_ldt",
    "memfd_create",
    "memfd_exec",
    "fanotify_init",
    "socket_inet_stream",
    "socket_inet_dgram",
    "socket_inet_raw",
    "socket_inet_mptcp",
    "socket_inet_sctp",
    "socket_inet6_stream",
    "socket_inet6_dgram",
    "socket_netlink",
    "socket_packet",
    "socket_vsock",
    "socket_alg",
    "socket_bluetooth",
    "socket_xdp",
    "socket_key",
    "clone_newuser",
    "clone3",
    "clone3_namespaces",
    "unshare_user",
    "unshare_net",
    "unshare_mount",
    "unshare_pid",
    "setns",
    "ptrace_broker",
    "pidfd_getfd_bare",
];

fn skip(why: &str) {
    assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none(), "cannot be skipped here: {why}");
    eprintln!("SKIPPED: {why}");
}

/// The sandbox's image, by `MOLTBOT_TEST_SANDBOX_IMAGE` where another one is to be tried.
fn image() -> String {
    std::env::var("MOLTBOT_TEST_SANDBOX_IMAGE").unwrap_or_else(|_| "moltbot-sandbox:latest".to_owned())
}

fn docker(socket: &str, args: &[&str]) -> String {
    let output = Command::new("docker").args(["--host", &format!("unix://{socket}")]).args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The sandbox's image with the attacker in it; removed at the end.
struct Image<'s>(&'s str, String);

impl<'s> Image<'s> {
    fn with(socket: &'s str, program: &Path) -> Self {
        let name = format!("moltbot-test-probe:{}", std::process::id());
        let from = docker(socket, &["create", "--network", "none", &image(), "/bin/sh"]);
        docker(socket, &["cp", program.to_str().unwrap(), &format!("{from}:/bin/probe")]);
        docker(socket, &["commit", &from, &name]);
        docker(socket, &["rm", &from]);
        Self(socket, name)
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        docker(self.0, &["rmi", "-f", &self.1]);
    }
}

fn probe() -> std::path::PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["rustc", "-p", "sandboxd", "--example", "probe", "--", "-C", "target-feature=+crt-static"])
        .status()
        .unwrap();
    assert!(built.success());
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/probe")
}

fn parse(output: &str) -> BTreeMap<String, String> {
    output
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, outcome)| (name.to_owned(), outcome.to_owned()))
        .collect()
}

fn settings(socket: &str, image: &str, instance: &str) -> Settings {
    Settings {
        socket: socket.to_owned(),
        image: image.to_owned(),
        choice: BackendChoice::Docker,
        workspaces: String::new(),
        instance: instance.to_owned(),
        sizes: Sizes { memory: 256 << 20, ..Sizes::default() },
        pool: 0,
        prune: Prune::default(),
        scope: Scope::Session,
        modes: sandboxd::modes::Modes::default(),
    }
}

fn session() -> SessionKey {
    SessionKey(BoundedStr::new("agent:main:main").unwrap())
}

async fn run(backend: &DockerBackend, command: &str) -> (RunEnd, String) {
    let mut out = Vec::new();
    let end = backend
        .run(&session(), proto::sandbox::shell(command).unwrap(), |is_error, bytes| {
            if !is_error {
                out.extend(bytes);
            }
            async {}
        })
        .await
        .unwrap();
    (end, String::from_utf8_lossy(&out).into_owned())
}

async fn backend(settings: &Settings) -> DockerBackend {
    let (found, taken) = docker::look(settings).await;
    let (words, _) = mpsc::channel(8);
    DockerBackend::new(taken.unwrap_or_else(|| panic!("{found:?}")), settings.clone(), words).await.unwrap()
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn what_is_closed_is_closed_from_inside_and_open_without_the_walls() {
    let Ok(socket) = std::env::var("MOLTBOT_TEST_DOCKER_SOCKET") else {
        return skip("MOLTBOT_TEST_DOCKER_SOCKET names no engine");
    };
    let image = Image::with(&socket, &probe());
    let weak: Vec<&str> = "run --rm --network none --security-opt seccomp=unconfined --cap-add SYS_ADMIN --cap-add SYS_PTRACE \
        --cap-add SYS_MODULE --cap-add SYS_BOOT --cap-add SYS_TIME --cap-add SYS_RAWIO --cap-add SYS_PACCT --cap-add SYSLOG \
        --cap-add NET_ADMIN"
        .split_whitespace()
        .collect();
    let without = parse(&docker(&socket, &[&*weak, &[&image.1, "/bin/probe"]].concat()));
    let within = block(async {
        let backend = backend(&settings(&socket, &image.1, "probe-inside-0001")).await;
        let (end, out) = run(&backend, "probe").await;
        assert_eq!(end, RunEnd::Exited(0), "{out}");
        backend.discard_all().await;
        parse(&out)
    });
    assert!(without.len() > 200 && within.len() > 200, "{} and {}", without.len(), within.len());
    for name in KILLED {
        assert_eq!(within[name], "Killed(31)", "{name}");
    }
    for name in DENIED {
        assert!(within[name].starts_with("Denied") || within[name] == "Lacking", "{name}: {}", within[name]);
    }
    let twins: Vec<_> =
        KILLED.iter().chain(&DENIED).filter(|name| !matches!(&*without[**name], "Allowed" | "Lacking")).collect();
    assert!(
        twins.is_empty(),
        "these probes show nothing: {:?}",
        twins.iter().map(|n| (n, &without[**n])).collect::<Vec<_>>()
    );
}

/// Does nothing unless [`orphans_of_a_killed_sandboxd_are_removed_and_nothing_else`] starts it, and kills it.
#[test]
fn victim() {
    let (Ok(socket), Ok(instance)) =
        (std::env::var("MOLTBOT_TEST_DOCKER_SOCKET"), std::env::var("MOLTBOT_TEST_VICTIM"))
    else {
        return;
    };
    block(async {
        let backend = backend(&settings(&socket, &image(), &instance)).await;
        loop {
            run(&backend, "true").await;
            backend.discard(&session()).await;
        }
    });
}

#[test]
fn orphans_of_a_killed_sandboxd_are_removed_and_nothing_else() {
    let Ok(socket) = std::env::var("MOLTBOT_TEST_DOCKER_SOCKET") else {
        return skip("MOLTBOT_TEST_DOCKER_SOCKET names no engine");
    };
    let create = |label: &str| docker(&socket, &["create", "--network", "none", "--label", label, &image(), "/bin/sh"]);
    let foreign = [create("somebody=else"), create("moltbot.instance=another-instance")];
    let instance = format!("victim-{}", std::process::id());
    let ours = || docker(&socket, &["ps", "-aq", "--filter", &format!("label=moltbot.instance={instance}")]);
    let mut found = 0;
    for round in 0..200u64 {
        if round >= 12 && found > 0 {
            break;
        }
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim"])
            .env("MOLTBOT_TEST_VICTIM", &instance)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // No synchronisation: each round ends it at another place of its work.
        std::thread::sleep(Duration::from_millis(60 + round * 37));
        child.kill().unwrap();
        child.wait().unwrap();
        found += ours().lines().count();
        // What the engine was still making when its client died comes after the first look; the next one finds it.
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            block(backend(&settings(&socket, &image(), &instance)));
            if ours().is_empty() {
                break;
            }
            assert!(Instant::now() < until, "{}", ours());
        }
    }
    assert!(found > 0, "no round left an orphan, so none showed anything");
    let left = docker(&socket, &["ps", "-aq", "--no-trunc"]);
    for id in foreign {
        assert!(left.contains(&id), "{id} is gone");
        docker(&socket, &["rm", &id]);
    }
}

#[test]
fn bomb_hits_its_own_session_alone_and_that_one_answers_again() {
    let Ok(socket) = std::env::var("MOLTBOT_TEST_DOCKER_SOCKET") else {
        return skip("MOLTBOT_TEST_DOCKER_SOCKET names no engine");
    };
    let bombs = [
        ("processes", "f() { f | f & }; f; sleep 1000"),
        ("memory", "tail /dev/zero"),
        ("disk", "cat /dev/zero > /workspace/f; cat /dev/zero > /tmp/f"),
        ("files", "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); : > /workspace/$i || exit 3; done"),
        (
            "all that it may keep",
            "cat /dev/zero > /workspace/f; cat /dev/zero > /tmp/f; rm /tmp/f; i=0
             while : > /workspace/$i && : > /tmp/$i; do i=$((i+1)); done; cat /dev/zero > /tmp/0; exit 3",
        ),
        ("zombies", "i=0; while [ $i -lt 400 ]; do i=$((i+1)); (sleep 0 & exec sleep 0 & ) ; done; wait"),
        ("waiting", "sleep 1000"),
        ("names that are none", "$(printf '\\377\\376')"),
    ];
    let beside = SessionKey(BoundedStr::new("agent:main:beside").unwrap());
    block(async {
        let instance = format!("bombs-{}", std::process::id());
        let backend = backend(&settings(&socket, &image(), &instance)).await;
        let quiet = |session: SessionKey| {
            let backend = &backend;
            async move { backend.run(&session, proto::sandbox::shell("echo here").unwrap(), |_, _| async {}).await }
        };
        assert_eq!(quiet(beside.clone()).await.unwrap(), RunEnd::Exited(0));
        for (what, command) in bombs {
            let bombed = session();
            let bomb = tokio::time::timeout(
                Duration::from_secs(4),
                backend.run(&bombed, proto::sandbox::shell(command).unwrap(), |_, _| async {}),
            );
            let (ended, other) = tokio::join!(bomb, quiet(beside.clone()));
            assert_eq!(other.unwrap(), RunEnd::Exited(0), "{what}: another session");
            // As serve does with what did not end by itself.
            if !matches!(ended, Ok(Ok(RunEnd::Exited(_)))) {
                backend.discard(&session()).await;
            }
            assert_eq!(quiet(session()).await.unwrap(), RunEnd::Exited(0), "after {what}: {ended:?}");
        }
        backend.discard_all().await;
    });
}

#[test]
fn more_output_than_memory_passes_through() {
    const BYTES: usize = 1 << 30;
    let Ok(socket) = std::env::var("MOLTBOT_TEST_DOCKER_SOCKET") else {
        return skip("MOLTBOT_TEST_DOCKER_SOCKET names no engine");
    };
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    block(async {
        let instance = format!("output-{}", std::process::id());
        let backend = backend(&settings(&socket, &image(), &instance)).await;
        let (mut passed, before) = (0, peak());
        let count = |_, bytes: Vec<u8>| {
            passed += bytes.len();
            async {}
        };
        let end = backend
            .run(&session(), proto::sandbox::shell(&format!("head -c {BYTES} /dev/zero")).unwrap(), count)
            .await
            .unwrap();
        assert_eq!((end, passed), (RunEnd::Exited(0), BYTES));
        assert!(peak() - before < 64 << 10, "{} KiB for {BYTES} bytes of output", peak() - before);
        backend.discard_all().await;
    });
}

#[test]
fn container_is_read_only_and_its_masked_paths_are_empty() {
    let Ok(socket) = std::env::var("MOLTBOT_TEST_DOCKER_SOCKET") else {
        return skip("MOLTBOT_TEST_DOCKER_SOCKET names no engine");
    };
    block(async {
        let backend = backend(&settings(&socket, &image(), "probe-inside-0002")).await;
        for path in ["/x", "/bin/x", "/etc/passwd", "/proc/sys/kernel/core_pattern", "/sys/x", "/dev/x"] {
            let (end, out) = run(&backend, &format!("echo x > {path}")).await;
            assert_ne!(end, RunEnd::Exited(0), "{path}: {out}");
        }
        for path in ["/workspace/x", "/tmp/x"] {
            assert_eq!(run(&backend, &format!("echo x > {path}")).await.0, RunEnd::Exited(0), "{path}");
        }
        for path in ["/proc/kallsyms", "/proc/iomem", "/proc/modules", "/proc/cmdline", "/proc/partitions"] {
            let (_, out) = run(&backend, &format!("cat {path}")).await;
            assert_eq!(out, "", "{path}");
        }
        assert!(!run(&backend, "cat /proc/uptime").await.1.is_empty(), "the twin");
        backend.discard_all().await;
    });
}
