//! The store under a kill at every system call, and under an error of every one: it opens as it was before or as it is
//! after, and where the change was acknowledged, as it is after. Each change is made under the eyes of a log that outlives
//! the kill, and what is found afterwards is what that log speaks of: no crash looks like a rollback.
//!
//! No test harness: the child that is killed must have one thread, so that its calls can be counted.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

use proto::channel::{Channel, Incoming, decode_incoming, reply_frame};
use proto::edge::{Edge, VaultWitness};
use proto::secret::Secret;
use proto::witness::{Commitment, StoreStep, WitnessReply, WitnessRequest};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vault::permit::Policy;
use vault::state::State;
use vault::state::front::Opened;
use vault::transcripts::Begins;

const CHANGE: &str = "MOLTBOT_TEST_CHANGE";
const CHANGES: [&str; 9] = ["make", "put", "rotate", "adopt", "policy", "remove", "transcript", "keys", "master"];
/// A change that takes Argon2 for each kill: minutes, so not with the others.
const SLOW: &str = "passphrase";
/// Calls that fail one after the other, of which every change makes some.
const FAIL: [&str; 7] = ["openat", "read", "write", "fsync", "renameat", "unlinkat", "getrandom"];

/// What a log says of a store: the state that was reached, and one that was about to be.
type Log = Arc<Mutex<(Option<Commitment>, Option<Commitment>)>>;

/// Writes into `log` what a vault says on the other end of what is returned.
fn keep(log: &Log) -> Channel {
    let ((ours, theirs), log) = (Channel::pair().unwrap(), Arc::clone(log));
    std::thread::spawn(move || {
        let patience = || Instant::now() + Duration::from_secs(60);
        while let Ok(packet) = ours.recv_by(VaultWitness::MAX_REQUEST, 0, patience()) {
            let Ok(Incoming::Request { id, request, .. }) = decode_incoming::<VaultWitness>(packet) else { return };
            let reply = {
                let mut log = log.lock().unwrap();
                match request {
                    WitnessRequest::Look { wait: true, .. } => continue,
                    WitnessRequest::Know { .. } => WitnessReply::Noted,
                    WitnessRequest::Look { .. } => {
                        let (committed, intended) = *log;
                        WitnessReply::Seen { committed, intended, heads: Default::default() }
                    }
                    WitnessRequest::Store(StoreStep::Intended, state) => {
                        log.1 = Some(state);
                        WitnessReply::Written
                    }
                    WitnessRequest::Store(StoreStep::Committed, state) => {
                        *log = (Some(state), None);
                        WitnessReply::Written
                    }
                }
            };
            if ours.send(&reply_frame::<VaultWitness>(id, &reply).unwrap(), &[]).is_err() {
                return;
            }
        }
    });
    theirs
}

/// Compares the store with the log, as the vault does before it serves.
fn meet(state: &mut State, log: Channel) -> Result<(), String> {
    state.witness().attach(log);
    state.look().map_err(|error| error.to_string())?;
    let view = state.witness().view(Some(Instant::now() + Duration::from_secs(20)));
    let view = view.map_err(|error| error.to_string())?.ok_or("no answer")?;
    state.take_view(&view, 2).map_err(|error| error.to_string())
}

/// What can be told of a store from the outside, by name: version, term, policy, value.
type Shape = BTreeMap<String, (u64, u32, String, Vec<u8>)>;

fn open(dir: &Path) -> Result<State, String> {
    let fd = |name| OwnedFd::from(File::open(dir.join(name)).unwrap());
    match State::open_or_wait(&fd("keys"), fd("vault"), None).map_err(|error| error.to_string())? {
        Opened::State(state) => Ok(*state),
        Opened::Locked(locked) => locked.unlock(&passphrase()).map_err(|(_, error)| error.to_string()),
    }
}

fn passphrase() -> Secret {
    Secret::new(b"correct horse".to_vec()).unwrap()
}

fn shape(state: &State) -> Shape {
    let one = |record: &vault::envelope::Record| {
        let value = state.open_secret(record.name()).unwrap().expose().to_vec();
        (record.name().to_owned(), (record.version(), record.term(), record.policy_text().to_owned(), value))
    };
    let contents = state.contents();
    let talk = |(id, entry): (&vault::transcripts::Id, &vault::transcripts::Entry)| {
        // Drawn anew by each change: that it opens is what is known of it.
        contents.transcripts.key(&contents.ring, id).unwrap().unwrap();
        (format!("transcript {id:?}"), (0, 0, entry.session.clone(), Vec::new()))
    };
    state.records().map(one).chain(contents.transcripts.iter().map(talk)).collect()
}

fn say(word: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(word.as_bytes()).and_then(|()| out.flush());
}

/// The child: makes one change and says so.
fn change(what: &str, dir: &Path) {
    say("begin\n");
    if what == "carelessly" {
        return carelessly(dir);
    }
    let Ok(mut state) = open(dir) else { std::process::exit(2) };
    let log = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    if meet(&mut state, Channel::from_fd(log)).is_err() {
        std::process::exit(4);
    }
    let value = Secret::new(b"next".to_vec()).unwrap();
    let changed = match what {
        // Both are made by the opening itself.
        "make" | "master" => Ok(()),
        "put" => state.put("other", &value, None, 2).map(drop),
        "adopt" => state.adopt("bot", &value, &Policy::default(), 2).map(drop),
        "transcript" => state.make_transcript([7; 16], "agent:main:main", Begins::Open, 2).map(drop),
        "rotate" => state.put("bot", &value, None, 2).map(drop),
        "policy" => state.set_policy("bot", &Policy::parse("reveal yes").unwrap(), 2).map(drop),
        "remove" => state.remove("bot"),
        SLOW => state.set_passphrase(Some(&passphrase())),
        _ => state.rotate_keys(2).map(drop),
    };
    if changed.is_err() {
        std::process::exit(3);
    }
    say("acknowledged\n");
}

/// The positive twin: what a store must not do, written over in place and in two halves.
fn carelessly(dir: &Path) {
    let path = dir.join("vault/vault.db");
    let bytes = std::fs::read(&path).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut file = File::create(&path).unwrap();
    file.write_all(first).and_then(|()| file.write_all(second)).unwrap();
    say("acknowledged\n");
}

/// A fresh pair of directories, with a store of two secrets unless the change is to make one.
fn prepared(what: &str) -> (tempfile::TempDir, Shape, Log) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["keys", "vault"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let (mut before, log) = (Shape::new(), Log::default());
    if what != "make" {
        let mut state = open(dir.path()).unwrap();
        meet(&mut state, keep(&log)).unwrap();
        state.put("bot", &Secret::new(b"first".to_vec()).unwrap(), None, 1).unwrap();
        before = shape(&state);
        if what == "master" {
            state.want_new_master().unwrap();
        }
    }
    (dir, before, log)
}

fn child(what: &str, dir: &Path, log: &Log, strace: &[&str]) -> (bool, String) {
    let mut command = Command::new("strace");
    command.args(strace).arg(std::env::current_exe().unwrap()).arg(dir).env(CHANGE, what);
    let output = command.stdin(Stdio::from(keep(log).into_fd())).stderr(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (said.contains("acknowledged"), said)
}

/// Names of the calls that an undisturbed change makes, in their order, and the place of its beginning.
fn calls(what: &str) -> (Vec<String>, usize) {
    let ((dir, _, log), trace) = (prepared(what), tempfile::NamedTempFile::new().unwrap());
    let (acknowledged, said) = child(what, dir.path(), &log, &["-o", trace.path().to_str().unwrap()]);
    assert!(acknowledged, "{what} by itself: {said}");
    let text = std::fs::read_to_string(trace.path()).unwrap();
    let begin = text.lines().position(|line| line.contains("\"begin\\n\"")).unwrap();
    let name = |line: &str| line.split_once('(').map(|(name, _)| name.to_owned());
    (text.lines().filter_map(name).collect(), begin)
}

fn check(what: &str, injection: &str, after: &Shape) -> bool {
    let (dir, before, log) = prepared(what);
    // The gateway's token is drawn anew by every preparation.
    let known = before.get("gateway.token").map(|shape| shape.3.clone());
    let (acknowledged, _) = child(what, dir.path(), &log, &["-o", "/dev/null", "-e", injection]);
    let mut state = open(dir.path()).unwrap_or_else(|error| panic!("{what}, {injection}: {error}"));
    meet(&mut state, keep(&log)).unwrap_or_else(|error| panic!("{what}, {injection}: {error}"));
    let mut found = shape(&state);
    let token = found.remove("gateway.token").unwrap_or_else(|| panic!("{what}, {injection}: no token"));
    assert!(known.is_none_or(|known| known == token.3), "{what}, {injection}: another token");
    let strip = |shape: &Shape| {
        shape
            .iter()
            .filter(|(name, _)| *name != "gateway.token")
            .map(|(n, s)| (n.clone(), s.clone()))
            .collect::<Shape>()
    };
    if acknowledged {
        assert_eq!(found, strip(after), "{what}, {injection}: acknowledged and lost");
    } else {
        assert!(found == strip(&before) || found == strip(after), "{what}, {injection}: {found:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("vault")).unwrap().count(), 1, "{what}, {injection}: a leftover");
    acknowledged
}

fn torment(what: &str, errors: &[&str]) -> (usize, usize) {
    let (dir, _, log) = prepared(what);
    let (calls, begin) = calls(what);
    let (_, said) = child(what, dir.path(), &log, &["-o", "/dev/null"]);
    assert!(said.contains("acknowledged"));
    let after = shape(&open(dir.path()).unwrap());
    let (mut killed, mut survived, mut failed) = (0, 0, 0);
    for at in begin..calls.len() {
        let name = &calls[at];
        // Each name is counted by itself, from the first call of the process on.
        let nth = calls[..=at].iter().filter(|call| *call == name).count();
        if check(what, &format!("inject={name}:signal=KILL:when={nth}"), &after) {
            survived += 1;
        } else {
            killed += 1;
        }
        for error in errors.iter().filter(|_| FAIL.contains(&name.as_str())) {
            check(what, &format!("inject={name}:error={error}:when={nth}"), &after);
            failed += 1;
        }
    }
    assert!(killed > 10 && survived > 0, "{what}: {killed} were killed before their word and {survived} after it");
    (killed + survived, failed)
}

/// How often a kill leaves no store behind.
fn lost(what: &str) -> usize {
    let (calls, begin) = calls(what);
    let lost = |at: &usize| {
        let nth = calls[..=*at].iter().filter(|call| **call == calls[*at]).count();
        let (dir, _, log) = prepared(what);
        child(
            what,
            dir.path(),
            &log,
            &["-o", "/dev/null", "-e", &format!("inject={}:signal=KILL:when={nth}", calls[*at])],
        );
        open(dir.path()).is_err()
    };
    (begin..calls.len()).filter(lost).count()
}

fn main() {
    let mut args = std::env::args().skip(1);
    if let Ok(what) = std::env::var(CHANGE) {
        return change(&what, Path::new(&args.next().unwrap()));
    }
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return eprintln!("SKIPPED: killing at every call needs strace");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    if !status.contains("TracerPid:\t0\n") {
        return eprintln!("SKIPPED: killing at every call needs to trace, and this is traced already");
    }
    let torture = args.any(|arg| arg == "--ignored");
    let errors: &[&str] = if torture { &["EIO", "ENOSPC", "EINTR", "EDQUOT", "EROFS", "ENOMEM"] } else { &["EIO"] };
    assert!(lost("carelessly") >= 2, "kills that lose a store are noticed");
    for what in CHANGES.into_iter().chain(torture.then_some(SLOW)) {
        let (kills, failures) = torment(what, errors);
        println!("test store_opens_as_old_or_new_after_{what}: {kills} kills, {failures} failures ... ok");
    }
}
