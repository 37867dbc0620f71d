//! An engine that dies or hangs while a command runs. It is the real one, behind a socket whose connections the test cuts and
//! holds.
//!
//! What sandboxd is given that is bad, and the test that gives it:
//!
//! | what | test |
//! |---|---|
//! | no engine | `docker.rs` `missing_engine_refuses_exec_where_only_docker_is_allowed`, `modes.rs` `native_backend_serves_everybody_where_no_engine_does_and_that_is_said` |
//! | engine dies or hangs under a command | here |
//! | engine hangs, dies, talks nonsense when it is looked at | `sandboxd/tests/engine.rs` `engine_that_hangs_dies_or_talks_nonsense_is_passed_over_in_time` |
//! | engine dies or talks nonsense while it makes a container | `engine.rs` `engine_that_fails_in_the_middle_refuses_and_leaves_nothing`, `what_an_engine_made_without_saying_so_is_removed_before_the_next` |
//! | engine talks nonsense on a command's stream | `sandboxd/src/tests/resident.rs` `whatever_breaks_the_protocol_ends_the_connection_and_every_run_is_lost`, `arbitrary_bytes_end_the_connection_or_wait_for_more` |
//! | engine lies | `engine.rs` `engine_that_makes_another_container_is_refused_and_reported_and_nothing_starts` (40 fields), `docker.rs` `engine_that_lies_is_an_incident_and_nothing_runs`, `watch.rs` `container_that_changes_while_it_runs_is_found_by_chance` |
//! | image missing, image retagged | `engine.rs` `engine_without_the_image_is_told_from_one_that_does_not_answer`, `tag_that_is_moved_after_the_look_changes_nothing` |
//! | 1 GB of output | `sandboxd/tests/container.rs` `more_output_than_memory_passes_through`, `commands.rs` `output_over_the_cap_is_cut_and_counted_and_holds_nobody_up` |
//! | bombs of processes, memory, disk, zombies, inodes | `container.rs` `bomb_hits_its_own_session_alone_and_that_one_answers_again`; natively `sandboxd/tests/native.rs` `fork_bomb_is_bounded_and_leaves_nothing`, `large_files_and_memory_are_limited`, `zombies_and_files_without_end_end_with_their_time`, `native_bounds.rs` |
//! | workspace full of links of either kind | `runner/src/tests/files.rs` `workspace_full_of_links_is_served_within_bounds_and_leads_nowhere`, `no_verb_leads_out_of_the_workspace_by_whatever_path`; `modes.rs` `agent_s_workspace_is_changed_by_others_where_that_is_configured_and_leads_nowhere_else` |
//! | commands of 1 MB, with NUL, not UTF-8 | `commands.rs` `text_that_is_no_command_is_refused_with_a_sentence_and_the_next_one_runs`, `native.rs` `nul_in_the_command_is_refused`, `command/src/tests.rs` `long_and_deep_text_ends_in_as_many_steps_as_it_has_characters` |

use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use system_tests::client::Client;
use system_tests::{As, Sandbox, System, docker_socket, is_root, skip, wait_for};

#[derive(Clone, Copy, Eq, PartialEq)]
enum Line {
    Open,
    /// What is said is kept back.
    Held,
    /// Nobody is there.
    Cut,
}

struct Shared {
    line: Mutex<Line>,
    changed: Condvar,
    streams: Mutex<Vec<UnixStream>>,
}

/// A socket in front of the engine's.
struct Between {
    socket: PathBuf,
    shared: Arc<Shared>,
    _dir: tempfile::TempDir,
}

impl Between {
    fn start(engine: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        for (path, mode) in [(dir.path(), 0o755), (&*socket, 0o666)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let shared =
            Arc::new(Shared { line: Mutex::new(Line::Open), changed: Condvar::new(), streams: Mutex::default() });
        let (engine, here) = (engine.to_owned(), Arc::clone(&shared));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if *here.line.lock().unwrap() == Line::Cut {
                    continue;
                }
                let Ok(real) = UnixStream::connect(&engine) else { continue };
                for (from, to) in [(&client, &real), (&real, &client)] {
                    let (from, to, shared) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&here));
                    std::thread::spawn(move || copy(from, to, &shared));
                }
                here.streams.lock().unwrap().extend([client, real]);
            }
        });
        Self { socket, shared, _dir: dir }
    }

    fn set(&self, line: Line) {
        *self.shared.line.lock().unwrap() = line;
        self.shared.changed.notify_all();
        if line == Line::Cut {
            for stream in self.shared.streams.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

fn copy(mut from: UnixStream, mut to: UnixStream, shared: &Shared) {
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let line = shared.changed.wait_while(shared.line.lock().unwrap(), |line| *line == Line::Held).unwrap();
        drop(line);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// True where a process of the machine, in a container or not, is this sleep, or the shell that does it itself.
fn sleeps(seconds: u32) -> bool {
    let wanted = seconds.to_string().into_bytes();
    let has = |found: Vec<u8>| found.windows(wanted.len()).any(|part| part == wanted);
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(&has))
}

/// A command that runs, an engine that goes, and what `after` the client is told; then everything is as before.
fn goes(line: Line, after: impl FnOnce(&mut Client) -> String) {
    if !is_root() {
        return skip("only root sees the processes of containers");
    }
    let Some(engine) = docker_socket() else { return };
    let between = Between::start(&engine);
    let system = System::start(As::Root, &Sandbox::Docker(between.socket.clone()));
    let mut client = Client::logged_in(system.port(), &system.token());
    // Told from every other's by its length, which no test has in common with one that runs beside it.
    let seconds = 700_000_000 + std::process::id() * 4 + u32::from(line == Line::Cut);
    let message = format!("/exec echo begun; sleep {seconds}");
    let _ = client.call("chat.send", &json!({ "sessionKey": "main", "message": message, "idempotencyKey": "e" }));
    while client.event("chat")["state"] != "delta" {}
    wait_for("the command", || sleeps(seconds).then_some(()));
    between.set(line);
    let said = after(&mut client);
    assert!(!said.contains("[exit 0"), "{said}");
    between.set(Line::Open);
    let mut turn = 0;
    wait_for("another command", || {
        turn += 1;
        client.chat("/exec echo again", &format!("a{turn}")).contains("again\n[exit 0").then_some(())
    });
    wait_for("the end of what ran", || (!sleeps(seconds)).then_some(()));
    let records = system.records("command-audit");
    let of = |kind: &str| records.iter().filter(|record| record["type"] == kind).count();
    assert_eq!(of("intent"), of("outcome"), "each command has its end in the log: {records:?}");
    assert_eq!(system.role("sandboxd")["epoch"], 1, "sandboxd itself goes on");
}

#[test]
fn engine_that_dies_under_a_command_is_an_end_that_is_told_and_nothing_runs_on() {
    goes(Line::Cut, |client| {
        loop {
            let event = client.event("chat");
            if event["state"] != "delta" {
                break event.to_string();
            }
        }
    });
}

#[test]
fn engine_that_hangs_under_a_command_keeps_nobody_from_ending_it() {
    goes(Line::Held, |client| {
        let aborted = client.call("chat.abort", &json!({ "sessionKey": "main", "runId": "e" }));
        assert_eq!(aborted["aborted"], true, "{aborted}");
        aborted.to_string()
    });
}
