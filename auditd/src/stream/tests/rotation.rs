//! One file after another: by size, by age, and through every crash between two.

use super::*;

#[test]
fn rotation_keeps_the_chain_over_many_files_and_a_reader_sees_one_stream() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits.file_bytes = 8 << 10;
    for at in 0..400 {
        bench.put(&format!("192.0.2.{}", at % 256)).unwrap();
        if at % 97 == 0 {
            bench.change_keys();
            bench = bench.reopened(dir.path()).unwrap();
        }
    }
    bench.with(LogStream::note);
    let report = check(dir.path()).unwrap();
    assert!(report.files >= 12, "{}", report.files);
    assert_eq!((report.head, report.signed), (bench.log.at.head, bench.log.at.head.size));
    let mut whole = Vec::new();
    loop {
        let (from, bytes) = bench.log.read(whole.len() as u64, 1000).unwrap();
        assert_eq!(from, whole.len() as u64);
        if bytes.is_empty() {
            break;
        }
        whole.extend(bytes);
    }
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let joined: Vec<u8> = files.iter().flat_map(|file| std::fs::read(&file.log).unwrap()).collect();
    assert_eq!(whole, joined);
    // A file in the middle that is gone is noticed, and one at the beginning is not missed.
    std::fs::remove_file(&files[0].log).unwrap();
    assert_eq!(check(dir.path()).unwrap().head, report.head);
    std::fs::remove_file(&files[4].log).unwrap();
    let offline::OfflineError::Fault(fault) = check(dir.path()).unwrap_err() else { panic!("unreadable") };
    assert_eq!(
        (fault.file.as_str(), fault.broken.class),
        (files[5].log.file_name().unwrap().to_str().unwrap(), Class::MissingFile)
    );
}

#[test]
fn crash_at_any_step_of_a_rotation_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.limits.file_bytes = 1;
    bench.put("b").unwrap();
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let second = files[1].log.clone();
    let content = std::fs::read(&second).unwrap();
    bench.limits.file_bytes = 10 << 20;
    for kept in [None, Some(0), Some(40), Some(content.iter().position(|byte| *byte == b'\n').unwrap())] {
        match kept {
            None => {
                std::fs::remove_file(&second).unwrap();
                std::fs::remove_file(files[1].checkpoints.as_ref().unwrap()).unwrap();
            }
            Some(bytes) => std::fs::write(&second, &content[..bytes]).unwrap(),
        }
        bench = bench.reopened(dir.path()).unwrap();
        bench.put("c").unwrap();
        let report = check(dir.path()).unwrap();
        assert_eq!((report.files, report.head), (2, bench.log.at.head), "{kept:?}");
    }
    // Between the two files of the next: the checkpoints', empty, are made first.
    let notes = files[1].checkpoints.as_ref().unwrap();
    std::fs::remove_file(&second).unwrap();
    std::fs::write(notes, "").unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("d").unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!((report.files, report.head), (2, bench.log.at.head));
    // One that says something was left by nobody here, and is not written on.
    std::fs::remove_file(&second).unwrap();
    std::fs::write(notes, "x").unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    assert!(matches!(bench.put("e"), Err(AppendError::Unwritable { step: "open", errno: Errno::EXIST })));
}

#[test]
fn crash_while_the_last_checkpoint_of_a_closed_file_is_written_raises_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.limits.file_bytes = 1;
    bench.put("b").unwrap();
    bench.limits.file_bytes = 10 << 20;
    let files = offline::find(dir.path(), Stream::Auth).unwrap();
    let first = files[0].checkpoints.clone().unwrap();
    let notes = std::fs::read(&first).unwrap();
    for cut in 1..notes.len() {
        std::fs::write(&first, &notes[..notes.len() - cut]).unwrap();
        // Before the next file was made.
        for path in [&files[1].log, files[1].checkpoints.as_ref().unwrap()] {
            let _ = std::fs::remove_file(path);
        }
        bench = bench.reopened(dir.path()).unwrap();
        bench.put("c").unwrap();
        let report = check(dir.path()).unwrap_or_else(|error| panic!("{cut}: {error}"));
        assert_eq!((report.files, report.head, report.torn), (2, bench.log.at.head, false), "{cut}");
        let whole = cut == notes.len() || notes[..notes.len() - cut].is_empty();
        assert_eq!(report.cut_short.len(), usize::from(!whole), "{cut}");
    }
    // Lines are another matter: those of a closed file end in whole records.
    let lines = std::fs::read(&files[0].log).unwrap();
    std::fs::write(&files[0].log, &lines[..lines.len() - 3]).unwrap();
    assert!(check(dir.path()).is_err());
}

/// Of the smallest age that a configuration can say.
fn of_a_day() -> Limits {
    Limits::of(proto::control::LogFiles { days: 1, ..proto::control::LogFiles::default() })
}

const DAY: Duration = Duration::from_secs(86_400);
const INSTANT: Duration = Duration::from_micros(1);

#[test]
fn file_is_closed_at_the_age_that_is_configured_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits = of_a_day();
    let files = |dir: &Path| offline::find(dir, Stream::Auth).unwrap().len();
    bench.put("a").unwrap();
    let begun = bench.now.wall;
    for file in 1..4u32 {
        bench.now.wall = begun + DAY * file - INSTANT;
        bench.put("b").unwrap();
        assert_eq!(files(dir.path()), usize::try_from(file).unwrap());
        bench.now.wall += INSTANT;
        bench.put("c").unwrap();
        assert_eq!(files(dir.path()), usize::try_from(file).unwrap() + 1);
    }
    let report = check(dir.path()).unwrap();
    assert_eq!((report.files, report.head), (4, bench.log.at.head));
}

#[test]
fn age_of_a_file_is_counted_from_its_first_record_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits = of_a_day();
    bench.put("a").unwrap();
    let files = |dir: &Path| offline::find(dir, Stream::Auth).unwrap().len();
    for hours in [8, 16] {
        bench = bench.reopened(dir.path()).unwrap();
        bench.now.wall = Writer::TEST_NOW.wall + Duration::from_secs(3_600) * hours;
        bench.put("b").unwrap();
        assert_eq!(files(dir.path()), 1, "{hours}");
    }
    bench = bench.reopened(dir.path()).unwrap();
    bench.now.wall = Writer::TEST_NOW.wall + DAY;
    bench.put("c").unwrap();
    assert_eq!(files(dir.path()), 2);
    check(dir.path()).unwrap();
}

#[test]
fn old_file_without_a_record_of_anybody_and_a_clock_set_back_close_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits = of_a_day();
    let files = |dir: &Path| offline::find(dir, Stream::Auth).unwrap().len();
    bench.with(LogStream::make_ready);
    bench.now.wall += DAY * 3;
    // A month in which nothing happens is no month of files.
    (0..3).for_each(|_| bench.with(LogStream::make_ready));
    assert_eq!(files(dir.path()), 1);
    bench.put("a").unwrap();
    bench.now.wall -= DAY * 9;
    bench.put("b").unwrap();
    assert_eq!(files(dir.path()), 1);
    // What makes the clock's way back known is a record like any other, and the positive twin is the next day.
    bench.now.wall += DAY * 10;
    bench.put("c").unwrap();
    assert_eq!(files(dir.path()), 2);
    check(dir.path()).unwrap();
}
