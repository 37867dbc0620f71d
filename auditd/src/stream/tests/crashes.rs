//! Every state of the files that a crash can leave, made without luck: the writes of a life are cut at every byte, in the
//! order in which they are made, and what a start does about it is cut at every byte again.

use super::*;
use std::collections::BTreeMap;

/// Every file of a log and what is in it.
type Files = BTreeMap<String, Vec<u8>>;

/// Bytes of a file that a start checks: all of it, and so few that it takes up the log at a checkpoint.
const TAILS: [u64; 2] = [1 << 20, 1_500];

/// A directory in memory, where there is one: tens of thousands are made.
fn in_memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn look(path: &Path) -> Files {
    let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// In which order a step writes: the key, then file by file the lines, their checkpoints, the tiles; a new file's
/// checkpoints are made before its lines.
fn order(name: &str, new: bool) -> (u8, String) {
    let rank = |at: u8| (at, String::new());
    match name {
        "auth-audit.checkpoints" if new => rank(0),
        "signing.key" => rank(0),
        "auth-audit.jsonl" => rank(1),
        "auth-audit.checkpoints" => rank(2),
        _ if name.contains(".tile") => (3, name.to_owned()),
        _ => (4, name.replace(".checkpoints", ".0").replace(".jsonl", ".1")),
    }
}

/// A step of a life: what the files were, what they became, and what had been acknowledged before it.
struct Step {
    before: Files,
    after: Files,
    receipts: Vec<Receipt>,
}

impl Step {
    /// Every state on the way, once for each byte that is written.
    fn states(&self) -> Vec<Files> {
        let mut names: Vec<&String> =
            self.after.keys().filter(|name| self.before.get(*name) != self.after.get(*name)).collect();
        names.sort_by_key(|name| order(name, !self.before.contains_key(*name)));
        let (mut now, mut states) = (self.before.clone(), vec![self.before.clone()]);
        for name in names {
            let (old, new) = (self.before.get(name).cloned(), &self.after[name]);
            let appended = old.as_ref().is_none_or(|old| new.starts_with(old));
            let from = if appended { old.as_ref().map_or(0, |old| old.len() + 1) } else { 1 };
            for written in from..=new.len() {
                let mut bytes = new[..written].to_vec();
                if let Some(old) = old.as_ref().filter(|_| !appended) {
                    bytes.extend_from_slice(old.get(written..).unwrap_or_default());
                }
                // Of a key that is overwritten in place, most bytes stay what they are.
                if now.get(name) != Some(&bytes) {
                    now.insert(name.clone(), bytes);
                    states.push(now.clone());
                }
            }
        }
        states
    }
}

/// A life, looked at after everything that it does.
struct Life {
    dir: tempfile::TempDir,
    bench: Option<Bench>,
    steps: Vec<Step>,
    receipts: Vec<Receipt>,
    seen: Files,
}

impl Life {
    fn took(&mut self) {
        let after = look(self.dir.path());
        let before = std::mem::replace(&mut self.seen, after.clone());
        self.steps.push(Step { before, after, receipts: self.receipts.clone() });
    }

    fn act(&mut self, act: impl FnOnce(&mut Bench)) {
        act(self.bench.as_mut().unwrap());
        self.took();
    }

    fn put(&mut self, records: usize) {
        let receipts = self.bench.as_mut().unwrap().put_all(&vec![auth("192.0.2.1", true); records]).unwrap();
        self.took();
        self.receipts.extend(receipts);
    }

    fn change_keys(&mut self) {
        self.act(|bench| bench.ring.prepare().unwrap());
        self.act(|bench| bench.with(LogStream::announce));
        self.act(|bench| bench.ring.advance().unwrap());
    }
}

/// Records in the log and beside it, changes of keys, a start over a torn end, files closed for their size.
fn life() -> Vec<Step> {
    let dir = in_memory();
    let mut life = Life { bench: None, steps: Vec::new(), receipts: Vec::new(), seen: Files::new(), dir };
    let path = life.dir.path().to_owned();
    let mut bench = Bench::new(&path);
    bench.limits = limits();
    life.bench = Some(bench);
    life.took();
    life.put(1);
    life.act(|bench| bench.with(LogStream::note));
    life.put(3);
    life.change_keys();
    life.put(1);
    life.act(|bench| bench.with(LogStream::note));
    // What a crash cut short, and what a start says of it.
    append_raw(&path, b"{\"seq\":");
    let notes = path.join("auth-audit.checkpoints");
    let whole = std::fs::read(&notes).unwrap();
    std::fs::write(&notes, [whole.as_slice(), &whole[..whole.len() / 3]].concat()).unwrap();
    life.bench = Some(life.bench.take().unwrap().reopened(&path).unwrap());
    life.seen = look(&path);
    life.act(|bench| bench.with(LogStream::make_ready));
    life.act(|bench| bench.with(LogStream::note));
    // Closes the file.
    life.put(5);
    life.put(1);
    life.act(|bench| bench.with(LogStream::note));
    life.change_keys();
    life.put(1);
    life.act(|bench| bench.with(LogStream::close));
    assert_eq!(offline::find(&path, Stream::Auth).unwrap().len(), 2);
    life.steps
}

fn limits() -> Limits {
    Limits { file_bytes: 9500, checkpoint_every: 4, ..Limits::default() }
}

/// What a start does about `files`, a record that is written then, and the end; each as a step.
fn recovers(files: &Files, receipts: &[Receipt], tail: u64, what: &str) -> Vec<Step> {
    let dir = in_memory();
    let path = dir.path();
    files.iter().for_each(|(name, bytes)| std::fs::write(path.join(name), bytes).unwrap());
    if files.contains_key("auth-audit.jsonl") {
        check(path).unwrap_or_else(|error| panic!("{what}: a crash is taken for an attack: {error}"));
    }
    let directory: Arc<OwnedFd> = Arc::new(std::fs::File::open(path).unwrap().into());
    let found = Ring::open(directory.as_fd()).unwrap();
    let names: Vec<String> = look(path).into_keys().collect();
    let log = LogStream::open_within(&directory, Stream::Auth, &names, found.as_ref().ok(), tail)
        .unwrap_or_else(|error| panic!("{what}: the start refuses: {error}"));
    let ring = found.unwrap_or_else(|empty| {
        assert!(log.position().key.is_none(), "{what}: the key is lost");
        empty.begin().unwrap()
    });
    let (writer, now) = (Writer::for_tests(), Writer::TEST_NOW);
    let mut bench = Bench { writer, ring, limits: limits(), now, log, directory };
    let mut steps = Vec::new();
    let mut seen = look(path);
    let mut took = |receipts: &[Receipt]| {
        let after = look(path);
        let before = std::mem::replace(&mut seen, after.clone());
        steps.push(Step { before, after, receipts: receipts.to_vec() });
    };
    let act = |bench: &mut Bench, act: fn(&mut LogStream, &Pen<'_>) -> Result<(), AppendError>| {
        bench.with(|log, pen| act(log, pen).map_err(|error| panic!("{what}: {error}")));
    };
    act(&mut bench, LogStream::make_ready);
    took(receipts);
    let ready = check(path).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(!ready.torn, "{what}: a start leaves a torn end");
    if bench.ring.next().is_some() {
        act(&mut bench, LogStream::announce);
        took(receipts);
        bench.ring.advance().unwrap();
        took(receipts);
    }
    let mut receipts = receipts.to_vec();
    let receipt = bench.put("192.0.2.2").unwrap_or_else(|error| panic!("{what}: {error}"));
    took(&receipts);
    receipts.push(receipt);
    act(&mut bench, LogStream::note);
    took(&receipts);
    holds(path, files, &receipts, what);
    steps
}

/// Only appended, every acknowledged record there, all of it signed.
fn holds(path: &Path, before: &Files, receipts: &[Receipt], what: &str) {
    let after = look(path);
    for (name, bytes) in before.iter().filter(|(name, _)| *name != "signing.key") {
        assert!(after[name].starts_with(bytes), "{what}: {name} was changed");
    }
    let report = check(path).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(!report.torn && report.signed == report.head.size, "{what}: {report:?}");
    let files = offline::find(path, Stream::Auth).unwrap();
    let lines: Vec<u8> = files.iter().flat_map(|file| std::fs::read(&file.log).unwrap()).collect();
    let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
    for receipt in receipts {
        let line = lines.get(usize::try_from(receipt.seq.0).unwrap());
        assert_eq!(line.map(|line| chain::leaf(line)), Some(receipt.leaf), "{what}: an acknowledged record is gone");
    }
}

/// States of the files with what was acknowledged before them.
fn states(steps: &[Step]) -> Vec<(String, Files, Vec<Receipt>)> {
    let of = |(at, step): (usize, &Step)| {
        let states = step.states().into_iter().enumerate();
        states
            .map(|(byte, files)| (format!("step {at}, {byte} bytes"), files, step.receipts.clone()))
            .collect::<Vec<_>>()
    };
    let mut states: Vec<_> = steps.iter().enumerate().flat_map(of).collect();
    // Checkpoints and hashes are not made durable one by one: a power cut may take back any of them, and all of the hashes. What a
    // record calls torn was made durable before it.
    for (at, step) in steps.iter().enumerate() {
        let newest = step.after.keys().rfind(|name| name.ends_with(".checkpoints"));
        let Some(name) = newest.filter(|name| step.before.get(*name) != step.after.get(*name)) else { continue };
        for left in durable(step, name)..step.after[name].len() {
            let mut files = step.after.clone();
            files.insert(name.clone(), step.after[name][..left].to_vec());
            files.retain(|name, _| !name.contains(".tile") || left % 2 == 0);
            let what = format!("power cut after step {at}, {left} bytes of {name}");
            states.push((what, files, step.receipts.clone()));
        }
    }
    states
}

/// Bytes of a file of checkpoints that the lines beside it account for as torn, or that stand before such.
fn durable(step: &Step, notes: &str) -> usize {
    let lines = String::from_utf8_lossy(&step.after[&notes.replace(".checkpoints", ".jsonl")]).into_owned();
    let records = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let torn = records.filter(|record| record["type"] == "torn-checkpoints");
    let ends = torn.map(|record| record["offset"].as_u64().unwrap() + record["len"].as_u64().unwrap());
    usize::try_from(ends.max().unwrap_or(0)).unwrap()
}

/// A sequence that is the same each time.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap()
}

/// Goes through the states, and through each `second`th of those of each `again`th one's recovery.
fn crash(states: &[(String, Files, Vec<Receipt>)], again: usize, second: usize, thread: u64) -> (usize, usize) {
    let (mut once, mut twice, mut seed) = (0, 0, thread);
    for (what, files, receipts) in states {
        for tail in TAILS {
            let what = format!("{what}, {tail} bytes checked");
            let steps = recovers(files, receipts, tail, &what);
            once += 1;
            if !random(&mut seed).is_multiple_of(again) {
                continue;
            }
            for (then, files, receipts) in self::states(&steps) {
                if random(&mut seed).is_multiple_of(second) {
                    recovers(&files, &receipts, tail, &format!("{what}; then {then}"));
                    twice += 1;
                }
            }
        }
    }
    (once, twice)
}

#[test]
fn crash_in_the_middle_of_any_write_is_recovered_from() {
    let states = states(&life());
    let mut seed = 7;
    let some: Vec<_> = (0..60).map(|_| states[random(&mut seed) % states.len()].clone()).collect();
    let (once, twice) = crash(&some, 12, 150, 3);
    assert!(once == 120 && twice > 30, "{once} {twice}");
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_crash_at_every_byte_of_a_life_and_of_its_recovery() {
    let states = states(&life());
    let half = states.len() / 2;
    let parts = [&states[..half], &states[half..]];
    let done = std::thread::scope(|scope| {
        let threads = [0, 1].map(|at| scope.spawn(move || crash(parts[at], 100, 20, at as u64)));
        threads.map(|thread| thread.join().unwrap())
    });
    let [(a, b), (c, d)] = done;
    println!("{} states recovered from, {} crashes in a recovery", a + c, b + d);
}

#[test]
fn start_that_is_cut_short_twice_in_a_checkpoint_accounts_for_all_of_it() {
    let dir = in_memory();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.with(LogStream::note);
    let notes = dir.path().join("auth-audit.checkpoints");
    let whole = std::fs::read(&notes).unwrap();
    let path = dir.path().to_owned();
    let again = |bench: Bench, tail| {
        let names: Vec<String> = look(&path).into_keys().collect();
        let log = LogStream::open_within(&bench.directory, Stream::Auth, &names, Some(&bench.ring), tail).unwrap();
        let mut bench = Bench { log, ..bench };
        bench.with(LogStream::make_ready);
        bench
    };
    // The first time the whole log is looked at, the second time its end.
    for (cut, tail) in [(30, 1 << 20), (50, 1_400)] {
        let now = std::fs::read(&notes).unwrap();
        std::fs::write(&notes, [now.as_slice(), &whole[..cut]].concat()).unwrap();
        bench = again(bench, tail);
    }
    bench.put("b").unwrap();
    bench.with(LogStream::note);
    let report = check(dir.path()).unwrap();
    assert_eq!((report.torn, report.signed), (false, report.head.size));
    again(bench, 1 << 20);
}

/// A change of keys of which the log has the first `lines`, as a crash leaves it; both keys are there.
fn announcement_cut_short(lines: usize) -> (tempfile::TempDir, Files) {
    let dir = in_memory();
    let mut bench = Bench::new(dir.path());
    for _ in 0..6 {
        bench.put("192.0.2.1").unwrap();
    }
    bench.ring.prepare().unwrap();
    let before = text(dir.path()).lines().count();
    bench.with(LogStream::announce);
    let cut: Vec<String> = text(dir.path()).lines().take(before + lines).map(|line| format!("{line}\n")).collect();
    std::fs::write(dir.path().join("auth-audit.jsonl"), cut.concat()).unwrap();
    let files = look(dir.path());
    (dir, files)
}

#[test]
fn announcement_that_a_crash_cut_short_is_finished_wherever_the_start_takes_the_log_up() {
    for lines in 0..=3 {
        let (_dir, files) = announcement_cut_short(lines);
        for tail in [1 << 20, 2_500, 900] {
            recovers(&files, &[], tail, &format!("{lines} lines, {tail} bytes checked"));
        }
    }
}

#[test]
fn announcement_that_a_crash_cut_short_is_finished_in_the_next_file() {
    for lines in 0..=3 {
        let (dir, _) = announcement_cut_short(lines);
        let mut bench = Bench::new(dir.path());
        bench.limits.file_bytes = 1;
        bench.with(LogStream::make_ready);
        bench.limits.file_bytes = 10 << 20;
        bench.with(LogStream::announce);
        bench.ring.advance().unwrap();
        bench.put("192.0.2.2").unwrap();
        bench.with(LogStream::note);
        // The new file by itself, as whoever starts from it.
        bench = bench.reopened(dir.path()).unwrap();
        bench.put("192.0.2.3").unwrap();
        bench.with(LogStream::note);
        let report = check(dir.path()).unwrap_or_else(|error| panic!("{lines}: {error}"));
        assert_eq!((report.files, report.key.unwrap().epoch, report.signed), (2, 1, report.head.size), "{lines}");
    }
}
