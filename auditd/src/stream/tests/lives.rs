//! Whole lives of a log, made at random, and one that is read while it grows.

use super::*;

/// One thing that happens to a log in its life.
#[derive(Clone, Debug)]
enum Event {
    Batch(usize),
    Note,
    Keys,
    Restart,
    /// The process died within a write; what it wrote of a line stays.
    Torn(Vec<u8>),
    /// The same for a checkpoint.
    TornNote(usize),
    /// The disk took nothing for a while.
    Refused,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1usize..6).prop_map(Event::Batch),
        2 => Just(Event::Note),
        1 => Just(Event::Keys),
        2 => Just(Event::Restart),
        1 => prop::collection::vec(prop_oneof![Just(b'\n'), Just(0u8), Just(b'{'), any::<u8>()], 1..40).prop_map(Event::Torn),
        1 => (1usize..200).prop_map(Event::TornNote),
        1 => Just(Event::Refused),
    ];
    prop::collection::vec(event, 0..24)
}

fn happen(mut bench: Bench, event: &Event, path: &Path) -> Bench {
    let limits = bench.limits;
    let last = bench.log.file_name().to_owned();
    let append = |name: &str, bytes: &[u8]| {
        let mut file = std::fs::OpenOptions::new().append(true).open(path.join(name)).unwrap();
        file.write_all(bytes).unwrap();
    };
    match event {
        Event::Batch(size) => drop(bench.put_all(&vec![auth("192.0.2.1", true); *size]).unwrap()),
        Event::Note => bench.with(LogStream::note),
        Event::Keys => bench.change_keys(),
        Event::Restart => bench = bench.reopened(path).unwrap(),
        Event::Torn(bytes) => {
            append(&last, bytes);
            bench = bench.reopened(path).unwrap();
        }
        Event::TornNote(length) => {
            // What is torn already is accounted for before another is written.
            bench.with(LogStream::make_ready);
            bench.with(LogStream::note);
            let last = bench.log.file_name().to_owned();
            let note = bench.ring.sign(Stream::Auth, bench.ring.epoch(), 99_999, [1; 32]).unwrap().to_string();
            append(&last.replace(".jsonl", ".checkpoints"), &note.as_bytes()[..(*length).min(note.len() - 1)]);
            bench = bench.reopened(path).unwrap();
        }
        Event::Refused => {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
            let real = bench.log.file.replace_appender(full);
            assert!(bench.put("192.0.2.9").is_err());
            bench.log.file.replace_appender(real);
        }
    }
    bench.limits = limits;
    bench
}

/// Lives a life, checking the log after everything that happens in it.
fn live(events: &[Event], size: u64) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits = Limits { file_bytes: size, checkpoint_every: 5, ..Limits::default() };
    bench.put("192.0.2.1").unwrap();
    for event in events {
        bench = happen(bench, event, dir.path());
        let report = check(dir.path());
        prop_assert!(report.is_ok(), "{event:?}: {}", report.unwrap_err());
    }
    bench.put("192.0.2.1").unwrap();
    bench.with(LogStream::close);
    let report = check(dir.path()).unwrap();
    prop_assert_eq!((report.head, report.signed, report.torn), (bench.log.at.head, report.head.size, false));
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let lines = |bytes: Vec<u8>| bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
    prop_assert_eq!(files.iter().map(|file| lines(std::fs::read(&file.log).unwrap())).sum::<u64>(), report.head.size);
    Ok(())
}

fn lives(cases: u32) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner.run(&(events(), 1_500u64..20_000), |(events, size)| live(&events, size)).unwrap();
}

#[test]
fn honest_log_of_any_life_raises_no_alarm() {
    lives(48);
}

#[test]
#[ignore = "minutes: cargo xtask torture auditd"]
fn torture_ten_thousand_honest_lives_raise_no_alarm() {
    lives(10_000);
}

#[test]
fn reader_of_a_growing_log_always_sees_an_honest_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits = Limits { file_bytes: 16 << 10, checkpoint_every: 8, ..Limits::default() };
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (seen, path) = (Arc::clone(&stop), dir.path().to_owned());
    let reader = std::thread::spawn(move || {
        let (mut checks, mut size) = (0, 0);
        while !seen.load(std::sync::atomic::Ordering::Relaxed) {
            let report = check(&path).unwrap_or_else(|error| panic!("{error}"));
            assert!(report.head.size >= size);
            (checks, size) = (checks + 1, report.head.size);
        }
        checks
    });
    for at in 0..600 {
        bench.put("192.0.2.1").unwrap();
        if at % 3 == 0 {
            bench.with(LogStream::note);
        }
        if at % 100 == 0 {
            bench.change_keys();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(reader.join().unwrap() > 3);
    assert!(check(dir.path()).unwrap().files > 10);
}
