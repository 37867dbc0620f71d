//! sandboxd's side of an engine that cannot be trusted: one that lies, hangs, dies and talks nonsense. The real engine is
//! met in `tests/tests/docker.rs` and in `container.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should stop"
)]

mod fake;

use fake::{Answer, Engine, ID, IMAGE};
use proto::bounded::BoundedStr;
use proto::control::{BackendChoice, FromRole, Scope, Sizes};
use proto::edge::Refusal;
use proto::ids::SessionKey;
use sandboxd::docker::{self, DockerBackend};
use sandboxd::state::{self, Prune, Settings};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

fn settings(engine: &Engine) -> Settings {
    Settings {
        socket: engine.socket.to_str().unwrap().to_owned(),
        image: "image:latest".to_owned(),
        choice: BackendChoice::Docker,
        workspaces: String::new(),
        instance: "0123456789abcdef".to_owned(),
        sizes: Sizes::default(),
        pool: 0,
        prune: Prune::default(),
        scope: Scope::Session,
        modes: sandboxd::modes::Modes::default(),
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn session() -> SessionKey {
    SessionKey(BoundedStr::new("agent:main:main").unwrap())
}

/// What a command meets there, and what broker is told.
fn run(engine: &Engine) -> (Refusal, Vec<String>) {
    block(async {
        let settings = settings(engine);
        let (found, taken) = docker::look(&settings).await;
        let taken = taken.unwrap_or_else(|| panic!("{found:?}"));
        let (words, mut told) = mpsc::channel(8);
        let backend = DockerBackend::new(taken, settings, words).await.unwrap();
        let refusal =
            backend.run(&session(), proto::sandbox::shell("true").unwrap(), |_, _| async {}).await.unwrap_err();
        drop(backend);
        let mut details = Vec::new();
        while let Some(word) = told.recv().await {
            match word {
                FromRole::EngineDrifted { detail } => details.push(detail.to_string()),
                FromRole::EngineTaken { .. } => {}
                word => panic!("{word:?}"),
            }
        }
        (refusal, details)
    })
}

/// Changes one part of what the engine says of the container, named as a JSON pointer; a part that is not there is made.
fn lying(pointer: &'static str, value: Value) -> Engine {
    Engine::start(move |request, answer| match answer {
        Answer::Json(200, mut found) if request == format!("GET /containers/{ID}/json") => {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            found.pointer_mut(parent).unwrap()[field] = value.clone();
            Answer::Json(200, found)
        }
        answer => answer,
    })
}

#[test]
fn engine_that_makes_another_container_is_refused_and_reported_and_nothing_starts() {
    let lies: [(&'static str, Value); 40] = [
        ("/Id", json!("other")),
        ("/Image", json!("sha256:2222")),
        ("/Path", json!("/evil")),
        ("/Args", json!(["evil"])),
        ("/State", json!({ "Pid": 4711 })),
        ("/ExecIDs", json!(["x"])),
        ("/AppArmorProfile", json!("unconfined")),
        ("/Mounts", json!([{ "Type": "bind", "Source": "/", "Destination": "/host" }])),
        ("/Config/User", json!("0:0")),
        ("/Config/Env", json!(["LD_PRELOAD=/evil"])),
        ("/Config/Labels", json!({})),
        ("/Config/Cmd", json!(["sh"])),
        ("/Config/Volumes", json!({ "/v": {} })),
        ("/Config/NetworkDisabled", json!(false)),
        ("/Config/Healthcheck", json!({ "Test": ["CMD", "/evil"] })),
        ("/HostConfig/Privileged", json!(true)),
        ("/HostConfig/CapAdd", json!(["SYS_ADMIN"])),
        ("/HostConfig/CapDrop", json!([])),
        ("/HostConfig/SecurityOpt", json!(["no-new-privileges:true"])),
        ("/HostConfig/NetworkMode", json!("host")),
        ("/HostConfig/PidMode", json!("host")),
        ("/HostConfig/IpcMode", json!("shareable")),
        ("/HostConfig/UTSMode", json!("host")),
        ("/HostConfig/UsernsMode", json!("host")),
        ("/HostConfig/CgroupnsMode", json!("host")),
        ("/HostConfig/CgroupParent", json!("/")),
        ("/HostConfig/ReadonlyRootfs", json!(false)),
        ("/HostConfig/Memory", json!(0)),
        ("/HostConfig/MemorySwap", json!(-1)),
        ("/HostConfig/NanoCpus", json!(0)),
        ("/HostConfig/PidsLimit", json!(0)),
        ("/HostConfig/Ulimits", json!([])),
        ("/HostConfig/Tmpfs", json!({ "/tmp": "exec" })),
        ("/HostConfig/MaskedPaths", json!(["/proc/kcore"])),
        ("/HostConfig/ReadonlyPaths", json!([])),
        ("/HostConfig/Binds", json!(["/:/host"])),
        ("/HostConfig/Devices", json!([{ "PathOnHost": "/dev/kvm" }])),
        ("/HostConfig/GroupAdd", json!(["0"])),
        ("/HostConfig/Sysctls", json!({ "net.ipv4.ip_forward": "1" })),
        ("/HostConfig/Runtime", json!("evil")),
    ];
    for (pointer, value) in lies {
        let engine = lying(pointer, value);
        let (refusal, told) = run(&engine);
        let field = pointer.rsplit('/').next().unwrap();
        assert_eq!(refusal.rule.as_str(), "sandbox.drift", "{pointer}: {refusal}");
        assert!(refusal.message.contains(field), "{pointer}: {refusal}");
        assert_eq!(told, [field], "{pointer}");
        let asked = engine.asked();
        assert!(asked.contains(&format!("DELETE /containers/{ID}")), "{pointer}: {asked:?}");
        for verb in ["start", "attach", "exec"] {
            assert!(!asked.contains(&format!("POST /containers/{ID}/{verb}")), "{pointer}: {asked:?}");
        }
    }
}

/// The twin: what is made as it was asked for goes on to the start.
#[test]
fn honest_engine_is_asked_to_start_what_it_made() {
    let engine = Engine::start(|_, answer| answer);
    let (refusal, told) = run(&engine);
    assert_eq!((refusal.rule.as_str(), told.len()), ("sandbox.docker", 0), "{refusal}");
    let asked = engine.asked();
    assert!(asked.contains(&format!("POST /containers/{ID}/attach")), "{asked:?}");
}

#[test]
fn tag_that_is_moved_after_the_look_changes_nothing() {
    let engine = Engine::start(|_, answer| answer);
    let _ = run(&engine);
    let names: Vec<String> = engine.asked().into_iter().filter(|request| request.contains("/images/")).collect();
    assert_eq!(names, ["GET /images/image:latest/json"], "looked up once");
    assert_eq!(engine.created()["Image"], IMAGE, "by digest from then on");
}

#[test]
fn what_lacks_our_label_is_left_alone_though_the_engine_lists_it() {
    let label = "moltbot.instance";
    let engine = Engine::start(move |request, answer| match request {
        "GET /containers/json" => Answer::Json(
            200,
            json!([
                { "Id": "foreign", "Labels": { "other": "0123456789abcdef" } },
                { "Id": "bare" },
                { "Id": "another", "Labels": { label: "fedcba9876543210" } },
                { "Id": "ours", "Labels": { label: "0123456789abcdef", "moltbot.epoch": "gone" } },
            ]),
        ),
        _ => answer,
    });
    let _ = run(&engine);
    let removed: Vec<String> = engine.asked().into_iter().filter(|request| request.starts_with("DELETE")).collect();
    assert!(removed.contains(&"DELETE /containers/ours".to_owned()), "{removed:?}");
    for id in ["foreign", "bare", "another"] {
        assert!(!removed.contains(&format!("DELETE /containers/{id}")), "{removed:?}");
    }
}

#[test]
fn what_an_engine_made_without_saying_so_is_removed_before_the_next() {
    let engine = Engine::start(|request, answer| match request {
        "POST /containers/create" => Answer::Raw(Vec::new()),
        _ => answer,
    });
    block(async {
        let settings = settings(&engine);
        let (words, _told) = mpsc::channel(8);
        let backend = DockerBackend::new(docker::look(&settings).await.1.unwrap(), settings, words).await.unwrap();
        let lists = || engine.asked().iter().filter(|request| *request == "GET /containers/json").count();
        for looks in [2, 3] {
            backend.run(&session(), proto::sandbox::shell("true").unwrap(), |_, _| async {}).await.unwrap_err();
            assert_eq!(lists(), looks);
        }
    });
}

fn look(change: impl Fn(&str, Answer) -> Answer + Send + Sync + 'static) -> (state::Engine, Duration) {
    let engine = Engine::start(change);
    let begun = Instant::now();
    let (found, taken) = block(docker::look(&settings(&engine)));
    assert!(taken.is_none(), "{found:?}");
    (found, begun.elapsed())
}

#[test]
fn engine_without_the_image_is_told_from_one_that_does_not_answer() {
    let (found, _) = look(|request, answer| match request {
        "GET /images/image:latest/json" => Answer::Json(404, json!({ "message": "no such image" })),
        _ => answer,
    });
    assert_eq!(found, state::Engine::NoImage);
}

#[test]
fn engine_that_hangs_dies_or_talks_nonsense_is_passed_over_in_time() {
    type Bad = fn() -> Answer;
    let bad: [(&str, Bad); 6] = [
        ("hangs", || Answer::Never),
        ("hangs up", || Answer::Raw(Vec::new())),
        ("garbage", || Answer::Raw(vec![0xff; 4096])),
        ("half an answer", || Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_vec())),
        ("not JSON", || Answer::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{".to_vec())),
        ("an error", || Answer::Json(500, json!({ "message": "out of order" }))),
    ];
    for (how, answer) in bad {
        for at in ["GET /version", "GET /images/image:latest/json"] {
            let (found, took) = look(move |request, honest| if request == at { answer() } else { honest });
            assert!(matches!(found, state::Engine::Silent(_)), "{how} at {at}: {found:?}");
            assert!(took < Duration::from_secs(20), "{how} at {at}: {took:?}");
        }
    }
}

#[test]
fn engine_that_fails_in_the_middle_refuses_and_leaves_nothing() {
    for at in ["POST /containers/create", "GET /containers/c0ffee/json", "POST /containers/c0ffee/attach"] {
        for answer in [|| Answer::Raw(Vec::new()), || Answer::Raw(vec![0xff; 4096])] {
            let engine = Engine::start(move |request, honest| if request == at { answer() } else { honest });
            let (refusal, told) = run(&engine);
            assert_eq!((refusal.rule.as_str(), told.len()), ("sandbox.docker", 0), "{at}: {refusal}");
            let removed = engine.asked().contains(&format!("DELETE /containers/{ID}"));
            assert_eq!(removed, at != "POST /containers/create", "{at}: {:?}", engine.asked());
        }
    }
}
