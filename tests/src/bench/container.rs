//! What a command costs in a container: by its resident runner, beside the engine's own exec by API in the same run.

use super::{Bound, Row, alternate, ms, p50_us};
use crate::skip;
use command::decide::{Facts, Place, Policy};
use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::control::{BackendChoice, Scope, Sizes};
use proto::ids::SessionKey;
use proto::sandbox::words;
use sandboxd::docker::{self, DockerBackend};
use sandboxd::state::{Prune, Settings};
use std::process::Command;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Commands in one turn.
const RUNS: usize = 30;
/// Sessions at once, and containers that wait for one.
const SESSIONS: usize = 8;
const PUBLISHED: &str = "docker exec by API 39 ms and 27/s; a container from nothing 97 ms";

/// The engine and the image with the runner, and the same image said to be without: that one is served by the engine's exec.
struct Engine {
    socket: String,
    image: String,
    bare: String,
}

impl Engine {
    fn find() -> Option<Self> {
        let socket = std::env::var("MOLTBOT_TEST_DOCKER_SOCKET").ok()?;
        let image = std::env::var("MOLTBOT_TEST_SANDBOX_IMAGE").unwrap_or_else(|_| "moltbot-sandbox:latest".to_owned());
        let bare = format!("moltbot-bench-bare:{}", std::process::id());
        let engine = Self { socket, image, bare };
        let from = engine.docker(&["create", "--network", "none", &engine.image, "/bin/sh"])?;
        let commit = ["commit", "--change", "LABEL moltbot.runner=none", &from, &engine.bare];
        let made = engine.docker(&commit);
        let _ = engine.docker(&["rm", "-f", &from]);
        made.map(|_| engine)
    }

    fn docker(&self, args: &[&str]) -> Option<String> {
        let host = format!("unix://{}", self.socket);
        let output = Command::new("docker").args(["--host", &host]).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    async fn backend(&self, name: &str, image: &str, pool: usize) -> DockerBackend {
        let settings = Settings {
            socket: self.socket.clone(),
            image: image.to_owned(),
            choice: BackendChoice::Docker,
            workspaces: String::new(),
            instance: format!("bench-{name}-{}", std::process::id()),
            sizes: Sizes { memory: 128 << 20, ..Sizes::default() },
            pool,
            prune: Prune::default(),
            scope: Scope::Session,
            modes: sandboxd::modes::Modes::default(),
        };
        let (words, mut told) = mpsc::channel(8);
        tokio::spawn(async move { while told.recv().await.is_some() {} });
        let taken = docker::look(&settings).await.1.unwrap();
        DockerBackend::new(taken, settings, words).await.unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.docker(&["rmi", "-f", &self.bare]);
    }
}

fn session(name: &str) -> SessionKey {
    SessionKey(BoundedStr::truncated(name))
}

async fn run(backend: &DockerBackend, session: &SessionKey) {
    let end = backend.run(session, words(["/bin/true"]).unwrap(), |_, _| async {}).await;
    assert_eq!(end, Ok(RunEnd::Exited(0)));
}

/// Median time of one command in a warm session.
fn one(runtime: &Runtime, backend: &DockerBackend) -> f64 {
    runtime.block_on(async {
        let session = session("one");
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let begin = Instant::now();
            run(backend, &session).await;
            times.push(ms(begin.elapsed()));
        }
        super::median(times.into_iter())
    })
}

/// Commands a second of eight sessions at once.
fn many(runtime: &Runtime, backend: &DockerBackend) -> f64 {
    runtime.block_on(async {
        let begin = Instant::now();
        let work = (0..SESSIONS).map(|number| async move {
            let session = session(&format!("many-{number}"));
            for _ in 0..RUNS {
                run(backend, &session).await;
            }
        });
        futures_util::future::join_all(work).await;
        let commands = u32::try_from(SESSIONS * RUNS).unwrap();
        f64::from(commands) / begin.elapsed().as_secs_f64()
    })
}

/// Median time from nothing to the end of a new session's first command.
fn fresh(runtime: &Runtime, backend: &DockerBackend, pool: usize) -> f64 {
    runtime.block_on(async {
        backend.fill();
        while backend.waiting() < pool {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let mut times = Vec::new();
        for number in 0..pool.max(3) {
            let session = session(&format!("fresh-{number}"));
            let begin = Instant::now();
            run(backend, &session).await;
            times.push(ms(begin.elapsed()));
        }
        for number in 0..pool.max(3) {
            backend.discard(&session(&format!("fresh-{number}"))).await;
        }
        super::median(times.into_iter())
    })
}

/// Rows S-P1 to S-P3 of the container, and P10.
pub fn sandbox(_full: bool) -> Vec<Row> {
    let mut rows = vec![decision()];
    let Some(engine) = Engine::find() else {
        skip("the container's figures need MOLTBOT_TEST_DOCKER_SOCKET and its image");
        return rows;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (warm, bare, pooled, cold) = runtime.block_on(async {
        let warm = engine.backend("warm", &engine.image, 0).await;
        let bare = engine.backend("bare", &engine.bare, 0).await;
        let pooled = engine.backend("pooled", &engine.image, SESSIONS).await;
        (warm, bare, pooled, engine.backend("cold", &engine.image, 0).await)
    });
    if !warm.has_runner() {
        skip("the container's figures need an image with a runner: deploy/sandbox-image/build");
        return rows;
    }
    let row = |goal, what: &str, (measured, control), unit, bound| Row {
        goal,
        what: what.to_owned(),
        measured,
        control,
        unit,
        bound,
        published: PUBLISHED,
    };
    let pair = alternate(5, || one(&runtime, &warm), || one(&runtime, &bare));
    let what = "`true` in a warm session / by the engine's exec";
    rows.push(row("P8", what, pair, "ms", Bound::RatioAtMost(1.0 / 15.0)));
    rows.push(row("P8", "the same, p50", pair, "ms", Bound::AtMost(2.0)));
    let pair = alternate(5, || many(&runtime, &warm), || many(&runtime, &bare));
    let what = "commands of eight sessions at once / by the engine's exec";
    rows.push(row("P8", what, pair, "1/s", Bound::RatioAtLeast(12.0)));
    rows.push(row("P8", "the same, a second", pair, "1/s", Bound::AtLeast(500.0)));
    let pair = alternate(5, || fresh(&runtime, &pooled, SESSIONS), || fresh(&runtime, &cold, 0));
    let what = "a session's first command, from the pool / from nothing";
    rows.push(row("P8", what, pair, "ms", Bound::AtMost(5.0)));
    runtime.block_on(async {
        for backend in [&warm, &bare, &pooled, &cold] {
            backend.discard_all().await;
        }
    });
    rows
}

/// The decision about a command of 200 bytes, beside that about the shortest.
fn decision() -> Row {
    let policy = Policy::from_json("{}").unwrap();
    let long = format!("grep -n pattern {} | sort | head -n 20", "file-name.txt ".repeat(12));
    let facts = Facts { session: "agent:main:main", place: Place::Docker, tainted: false };
    let decide = |command: &str| {
        let command = command.to_owned();
        let (policy, facts) = (&policy, &facts);
        move || p50_us(2_000, || drop(std::hint::black_box(policy.decide(&command, facts))))
    };
    let (measured, control) = alternate(5, decide(&long[..200]), decide("ls"));
    Row {
        goal: "P10",
        what: "the decision about a command of 200 bytes / about `ls`".to_owned(),
        measured,
        control,
        unit: "us",
        bound: Bound::AtMost(20.0),
        published: "codex's parser alone 18 us",
    }
}
