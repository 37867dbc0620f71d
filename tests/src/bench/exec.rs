//! P8: a command that does nothing, in the native sandbox.

use super::net::{Ws, start};
use super::{Bound, Row, alternate, ms};
use crate::play_broker::Sealed;
use crate::{USER, is_root, skip};
use proto::bounded::BoundedStr;
use proto::channel::Client;
use proto::edge::SandboxdLauncher;
use proto::ids::Role;
use proto::sandbox::{Bounds, LaunchReply, LaunchRequest, WorkspaceName};
use proto::topology::{EdgeId, role};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 40;

fn bubblewrap() -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]);
    for link in ["bin", "lib", "lib64", "sbin"] {
        command.args(["--symlink", &format!("usr/{link}"), &format!("/{link}")]);
    }
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--", "/bin/sh", "-c", "true"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").env_clear();
    if is_root() {
        command.uid(USER).gid(USER);
    }
    command
}

fn p50_ms(mut run: impl FnMut()) -> f64 {
    super::median((0..RUNS).map(|_| {
        let begin = Instant::now();
        run();
        ms(begin.elapsed())
    }))
}

pub fn p8(_full: bool) -> Vec<Row> {
    if !bubblewrap().status().is_ok_and(|status| status.success()) {
        skip("P8 needs bubblewrap and user namespaces");
        return Vec::new();
    }
    let bwrap = || p50_ms(|| assert!(bubblewrap().status().unwrap().success()));
    let row = |what: &str, (measured, control), bound| Row {
        goal: "P8",
        what: format!("{what} / bubblewrap with the same namespaces"),
        measured,
        control,
        unit: "ms",
        bound,
        published: "docker exec by API 39 ms, bubblewrap 4 ms",
    };
    vec![
        row("`true` at a sealed launcher, one-shot", alternate(7, launcher(), bwrap), Bound::RatioAtMost(1.0)),
        row("/exec true by chat, both records durable", alternate(7, chat(), bwrap), Bound::AtMost(2.0)),
    ]
}

fn launcher() -> impl FnMut() -> f64 {
    let sealed = Sealed::start(Role::Launcher);
    sealed.make_ready();
    let mut client = Client::<SandboxdLauncher>::new(role::Sandboxd);
    client.attach(sealed.grant(EdgeId::SandboxdLauncher).0);
    let null: OwnedFd = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap().into();
    move || {
        let _alive = &sealed;
        p50_ms(|| {
            let workspace = WorkspaceName(BoundedStr::truncated(&"0123456789abcdef".repeat(2)));
            let words = proto::sandbox::shell("true").unwrap_or_default();
            let request = LaunchRequest::Run {
                workspace,
                agent: None,
                words,
                cwd: BoundedStr::default(),
                timeout_s: 20,
                bounds: Bounds::default(),
            };
            let (reply, _) =
                client.call(&request, &[null.as_fd(), null.as_fd()], Duration::from_secs(20)).expect("the launcher");
            assert_eq!(reply, LaunchReply::Ended(proto::audit::RunEnd::Exited(0)));
        })
    }
}

fn chat() -> impl FnMut() -> f64 {
    let system = start();
    let mut ws = Ws::login(system.port(), &system.token());
    let mut number = 0;
    move || {
        let _up = &system;
        p50_ms(|| {
            number += 1;
            let (_, text) = ws.chat("main", "/exec true", &format!("p8-{number}"));
            assert!(text.contains("[exit 0"), "{text}");
        })
    }
}
