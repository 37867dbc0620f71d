//! The resident runner on a real engine: what it starts, ends and serves. The image comes by `MOLTBOT_TEST_SANDBOX_IMAGE`,
//! the engine's socket by `MOLTBOT_TEST_DOCKER_SOCKET`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should stop"
)]

use proto::audit::RunEnd;
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::control::{BackendChoice, Scope, Sizes};
use proto::edge::Refusal;
use proto::ids::SessionKey;
use proto::runner::{Frames, FromFiles, Launch, Program, frame};
use proto::sandbox::{FileReply, FileVerb, WorkspacePath, shell};
use sandboxd::docker::{self, DockerBackend};
use sandboxd::job::{Event, Job};
use sandboxd::state::{Prune, Settings};
use std::time::Duration;
use tokio::sync::mpsc;

fn skip(why: &str) {
    assert!(std::env::var_os("MOLTBOT_TEST_REQUIRE").is_none(), "cannot be skipped here: {why}");
    eprintln!("SKIPPED: {why}");
}

fn session(name: &str) -> SessionKey {
    SessionKey(BoundedStr::new(name).unwrap())
}

/// A backend of its own on the engine, where its image has a runner.
async fn backend(name: &str, pool: usize) -> Option<DockerBackend> {
    let Ok(socket) = std::env::var("MOLTBOT_TEST_DOCKER_SOCKET") else {
        skip("MOLTBOT_TEST_DOCKER_SOCKET names no engine");
        return None;
    };
    let settings = Settings {
        socket,
        image: std::env::var("MOLTBOT_TEST_SANDBOX_IMAGE").unwrap_or_else(|_| "moltbot-sandbox:latest".to_owned()),
        choice: BackendChoice::Docker,
        workspaces: String::new(),
        instance: format!("{name}-{}", std::process::id()),
        sizes: Sizes { memory: 256 << 20, ..Sizes::default() },
        pool,
        prune: Prune::default(),
        scope: Scope::Session,
        modes: sandboxd::modes::Modes::default(),
    };
    let (words, mut told) = mpsc::channel(8);
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    let (found, taken) = docker::look(&settings).await;
    let backend = DockerBackend::new(taken.unwrap_or_else(|| panic!("{found:?}")), settings, words).await.unwrap();
    if !backend.has_runner() {
        skip("the image has no runner: deploy/sandbox-image/build makes one that has");
        return None;
    }
    Some(backend)
}

/// `$backend` in a runtime of its own; what it made is removed behind the test.
macro_rules! with {
    ($name:literal, |$backend:ident| $body:block) => {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let Some($backend) = backend($name, 0).await else { return };
            $body
            $backend.discard_all().await;
        })
    };
}

fn launch(command: &str) -> Launch {
    let program = Program::Words(shell(command).unwrap());
    Launch { program, cwd: WorkspacePath::default(), timeout_ms: 120_000, stdin: false, pty: false }
}

async fn rest(job: &mut Job) -> (Result<RunEnd, Refusal>, String) {
    let mut text = Vec::new();
    loop {
        match job.next().await.expect("an end comes first") {
            Event::Output { bytes, .. } => text.extend(bytes),
            Event::Ended(end) => return (end, String::from_utf8_lossy(&text).into_owned()),
        }
    }
}

async fn run(backend: &DockerBackend, launch: Launch) -> (Result<RunEnd, Refusal>, String) {
    rest(&mut backend.start(&session("agent:main:main"), launch).await.unwrap()).await
}

async fn until(job: &mut Job, word: &str) {
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(word) {
        match job.next().await.unwrap() {
            Event::Output { bytes, .. } => text.extend(bytes),
            Event::Ended(end) => panic!("{end:?}: {}", String::from_utf8_lossy(&text)),
        }
    }
}

#[test]
fn command_ends_as_it_ends_and_a_trap_stays_visible() {
    with!("ends", |backend| {
        for (command, end) in [
            ("exit 7", RunEnd::Exited(7)),
            ("kill -9 $$", RunEnd::Signalled(9)),
            ("kill -31 $$", RunEnd::Signalled(31)),
            ("sh -c 'kill -31 $$'; exit $?", RunEnd::Exited(159)),
        ] {
            assert_eq!(run(&backend, launch(command)).await.0, Ok(end), "{command}");
        }
        let program = Program::Words(proto::sandbox::words(["/bin/nothing"]).unwrap());
        let (end, text) = run(&backend, Launch { program, ..launch("") }).await;
        assert_eq!(end, Ok(RunEnd::Exited(127)), "{text}");
        assert!(text.contains("there is no such program in the sandbox"), "{text}");
        let program = Program::Words(proto::sandbox::words(["/bin/printf", "%s|", "a b", "$HOME", ";"]).unwrap());
        assert_eq!(run(&backend, Launch { program, ..launch("") }).await.1, "a b|$HOME|;|");
    });
}

#[test]
fn runner_is_out_of_its_commands_reach() {
    with!("reach", |backend| {
        let find = "for p in /proc/[0-9]*; do case \"$(tr '\\0' ' ' <$p/cmdline)\" in '/moltbot/runner serve'*) \
                    echo ${p#/proc/};; esac; done";
        let (_, text) = run(&backend, launch(find)).await;
        let pid: u32 = text.trim().parse().unwrap_or_else(|_| panic!("{text}"));
        for what in ["mem", "environ", "fd/1", "exe"] {
            let (end, text) = run(&backend, launch(&format!("head -c 1 /proc/{pid}/{what}"))).await;
            assert_eq!(end, Ok(RunEnd::Exited(1)), "{what}: {text}");
            let twin = format!("sleep 1000 & head -c 1 /proc/$!/{}", if what == "mem" { "environ" } else { what });
            assert!(
                what == "fd/1" || run(&backend, launch(&twin)).await.0 == Ok(RunEnd::Exited(0)),
                "the twin of {what}"
            );
        }
        let (end, _) = run(&backend, launch(&format!("echo x >/proc/{pid}/fd/1"))).await;
        assert_ne!(end, Ok(RunEnd::Exited(0)));
        assert_eq!(run(&backend, launch("true")).await.0, Ok(RunEnd::Exited(0)), "it goes on");
    });
}

#[test]
fn nothing_outlives_its_run_whatever_session_it_fled_to() {
    with!("outlives", |backend| {
        let left = "ps | grep -c '[s]leep 1234$'";
        let (end, _) =
            run(&backend, launch("sleep 1234 & setsid sleep 1234 & setsid sh -c 'sleep 1234 & sleep 1234' & exit 5"))
                .await;
        assert_eq!(end, Ok(RunEnd::Exited(5)));
        assert_eq!(run(&backend, launch(left)).await.1.trim(), "0");
        // The twin: while a run lives, what is of it lives.
        let mut job =
            backend.start(&session("agent:main:main"), launch("setsid sleep 1234 & echo here; wait")).await.unwrap();
        until(&mut job, "here").await;
        assert_eq!(run(&backend, launch("true")).await.0, Ok(RunEnd::Exited(0)));
        assert_eq!(run(&backend, launch(left)).await.1.trim(), "1");
        assert!(job.handle().kill());
        assert_eq!(rest(&mut job).await.0, Ok(RunEnd::Aborted));
        assert_eq!(run(&backend, launch(left)).await.1.trim(), "0");
        let late = Launch { timeout_ms: 300, ..launch("sleep 1234") };
        assert_eq!(run(&backend, late).await.0, Ok(RunEnd::TimedOut));
    });
}

#[test]
fn slow_reader_holds_up_its_own_command_alone() {
    with!("slow", |backend| {
        let mut slow =
            backend.start(&session("agent:main:main"), launch("yes | head -c 50000000; echo over")).await.unwrap();
        assert!(matches!(slow.next().await, Some(Event::Output { .. })));
        // It is full now, and stays so.
        let (end, text) = run(&backend, launch("head -c 20000000 /dev/zero | wc -c")).await;
        assert_eq!((end, text.trim()), (Ok(RunEnd::Exited(0)), "20000000"));
        let (end, text) = rest(&mut slow).await;
        assert_eq!(end, Ok(RunEnd::Exited(0)));
        assert!(text.ends_with("over\n") && text.len() > 49_000_000, "{}", text.len());
    });
}

#[test]
fn input_terminal_and_directory_are_as_asked_for() {
    with!("streams", |backend| {
        let here = session("agent:main:main");
        let mut job = backend.start(&here, Launch { stdin: true, ..launch("cat; echo end") }).await.unwrap();
        job.handle().give(b"one\n".to_vec(), false).unwrap();
        until(&mut job, "one").await;
        job.handle().give(b"two\n".to_vec(), true).unwrap();
        assert_eq!(rest(&mut job).await, (Ok(RunEnd::Exited(0)), "two\nend\n".to_owned()));
        // Without input there is an end at once.
        assert_eq!(run(&backend, launch("cat; echo end")).await.1, "end\n");
        let terminal =
            Launch { pty: true, stdin: true, ..launch("test -t 0 && test -t 1 && stty size; read x; echo got $x") };
        let mut job = backend.start(&here, terminal).await.unwrap();
        until(&mut job, "30 120").await;
        job.handle().give(b"it\n".to_vec(), false).unwrap();
        let (end, text) = rest(&mut job).await;
        assert_eq!(end, Ok(RunEnd::Exited(0)));
        assert!(text.contains("got it"), "{text}");
        assert_eq!(run(&backend, launch("mkdir -p a/b; ln -s /etc link")).await.0, Ok(RunEnd::Exited(0)));
        let at = |path: &str| Launch { cwd: BoundedStr::new(path).unwrap(), ..launch("pwd") };
        for path in ["a/b", "/workspace/a/b"] {
            assert_eq!(run(&backend, at(path)).await.1, "/workspace/a/b\n");
        }
        for path in ["..", "/etc", "link", "a/../..", "nothing", "/proc/self/fd/7"] {
            let (end, text) = run(&backend, at(path)).await;
            assert_eq!(end.unwrap_err().rule.as_str(), "sandbox.not_started", "{path}: {text}");
        }
    });
}

async fn file(backend: &DockerBackend, verb: &FileVerb) -> (Result<FileReply, Refusal>, Vec<u8>) {
    let files = Launch { program: Program::Files, stdin: true, ..launch("") };
    let mut job = backend.start(&session("agent:main:main"), files).await.unwrap();
    job.handle().give(frame(verb).unwrap(), true).unwrap();
    let (mut frames, mut data) = (Frames::default(), Vec::new());
    loop {
        match job.next().await.unwrap() {
            Event::Output { is_error: false, bytes } => frames.push(&bytes),
            other => panic!("{other:?}"),
        }
        while let Some(word) = frames.take::<FromFiles>().unwrap() {
            match word {
                FromFiles::Data(bytes) => data.extend_from_slice(&bytes),
                FromFiles::Ended(outcome) => return (outcome, data),
            }
        }
    }
}

#[test]
fn files_are_those_that_commands_see() {
    with!("files", |backend| {
        let path: WorkspacePath = BoundedStr::new("a/b.txt").unwrap();
        let write =
            FileVerb::Write { path: path.clone(), bytes: BoundedBytes::new("one\ntwo\n").unwrap(), append: false };
        assert_eq!(file(&backend, &write).await.0, Ok(FileReply::Written));
        assert_eq!(run(&backend, launch("cat a/b.txt; stat -c %u:%a a/b.txt")).await.1, "one\ntwo\n65534:644\n");
        assert_eq!(
            run(&backend, launch("echo three >>a/b.txt; ln -s /etc/passwd link; mkfifo pipe")).await.0,
            Ok(RunEnd::Exited(0))
        );
        let read = |path: &str| FileVerb::Read { path: BoundedStr::new(path).unwrap(), offset: 4, limit: 1 << 20 };
        assert_eq!(
            file(&backend, &read("a/b.txt")).await,
            (Ok(FileReply::Read { size: 14 }), b"two\nthree\n".to_vec())
        );
        for (path, rule) in
            [("link", "file.link"), ("pipe", "file.not_a_file"), ("/etc/passwd", "file.outside"), ("x", "file.missing")]
        {
            assert_eq!(file(&backend, &read(path)).await.0.unwrap_err().rule.as_str(), rule, "{path}");
        }
        let grep = FileVerb::Grep { pattern: BoundedStr::new("t[wh]").unwrap(), path: WorkspacePath::default() };
        assert_eq!(file(&backend, &grep).await.1, b"a/b.txt:2:two\na/b.txt:3:three\n");
        let (end, _) = run(&backend, launch("head -c 300000000 /dev/zero >full")).await;
        assert_ne!(end, Ok(RunEnd::Exited(0)), "the workspace is full");
        assert_eq!(file(&backend, &write).await.0.unwrap_err().rule.as_str(), "file.full");
        assert_eq!(file(&backend, &read("a/b.txt")).await.1, b"two\nthree\n", "the old one is whole");
    });
}

#[test]
fn pool_is_taken_from_filled_again_and_ended_with_everything() {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let Some(backend) = backend("pool", 2).await else { return };
        let full = async |backend: &DockerBackend| {
            while backend.waiting() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        backend.fill();
        full(&backend).await;
        for name in ["agent:main:one", "agent:main:two"] {
            let mut job = backend.start(&session(name), launch("touch mark; ls")).await.unwrap();
            assert_eq!(rest(&mut job).await, (Ok(RunEnd::Exited(0)), "mark\n".to_owned()), "nobody was there before");
        }
        full(&backend).await;
        assert_eq!(backend.freeze().await.len(), 4);
        assert_eq!(backend.waiting(), 0);
        backend.discard_all().await;
    });
}
