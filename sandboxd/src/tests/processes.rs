use super::*;
use crate::job::Job;
use proto::audit::RunEnd;
use tokio::sync::mpsc;

fn process(name: &str) -> Arc<Process> {
    let (_, events) = mpsc::channel(1);
    let handle = Job::task(events, None, None).handle();
    Arc::new(Process::new(RunId(BoundedStr::truncated(name)), "yes", handle))
}

fn session(name: &str) -> SessionKey {
    SessionKey(BoundedStr::truncated(name))
}

const ENDED_WELL: RunState = RunState::Ended { end: RunEnd::Exited(0), duration_ms: 1 };

fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
fn run_is_seen_by_its_own_conversation_alone() {
    let all = Processes::default();
    let one = process("r-1");
    all.add(&session("a"), Arc::clone(&one));
    assert!(all.find(&session("a"), &one.run).is_ok());
    assert_eq!(all.find(&session("b"), &one.run).err().unwrap().rule.as_str(), "process.unknown");
    assert_eq!((all.list(&session("a")).len(), all.list(&session("b")).len()), (1, 0));
    all.forget(&session("b"));
    all.remove(&session("b"), &one.run);
    assert!(all.find(&session("a"), &one.run).is_ok());
    all.forget(&session("a"));
    block(one.killed());
}

#[test]
fn what_is_kept_is_capped_and_what_is_lost_is_counted() {
    let one = process("r-1");
    one.wrote(false, b"first", false);
    for _ in 0..100 {
        one.wrote(true, &[b'x'; 16_384], true);
    }
    let polled = block(one.poll(Duration::ZERO));
    let bytes: usize = polled.pieces.iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(bytes <= KEPT && bytes > KEPT - 16_384, "{bytes}");
    assert_eq!(polled.dropped, 100 * 16_384 - u64::try_from(bytes).unwrap());
    let again = block(one.poll(Duration::ZERO));
    assert!(again.pieces.is_empty() && again.dropped == 0 && again.state == RunState::Running);
    let log = one.log(None, None);
    assert_eq!(log.text.len(), KEPT);
    assert_eq!(log.dropped, 5 + 100 * 16_384 - 200_000);
}

#[test]
fn log_is_cut_by_lines_and_shows_its_end_where_nobody_says_where() {
    let one = process("r-1");
    for number in 0..1_000 {
        one.wrote(number % 2 == 1, format!("{number}\n").as_bytes(), true);
    }
    one.wrote(false, b"unfinished", true);
    let log = one.log(Some(10), Some(2));
    assert_eq!((log.text.as_slice(), log.first, log.lines), (&b"10\n11\n"[..], 10, 1_001));
    let end = one.log(None, Some(2));
    assert_eq!((end.text.as_slice(), end.first), (&b"999\nunfinished"[..], 999));
    assert_eq!(one.log(None, None).first, 801);
    assert!(one.log(Some(9_999), None).text.is_empty());
}

#[test]
fn poll_waits_for_output_or_the_end_and_no_longer() {
    block(async {
        let one = process("r-1");
        let (polled, ()) = tokio::join!(one.poll(Duration::from_secs(60)), async { one.wrote(false, b"x", true) });
        assert_eq!(polled.pieces, [(false, b"x".to_vec())]);
        let (polled, ()) = tokio::join!(one.poll(Duration::from_secs(60)), async { one.ended(ENDED_WELL) });
        assert_eq!((polled.pieces.len(), polled.state), (0, ENDED_WELL));
        assert_eq!(one.poll(Duration::from_secs(60)).await.state, ENDED_WELL);
    });
}

#[test]
fn ended_runs_make_room_and_running_ones_stay() {
    let all = Processes::default();
    let runs: Vec<_> = (0..EACH).map(|number| process(&format!("r-{number}"))).collect();
    for run in &runs {
        all.add(&session("a"), Arc::clone(run));
    }
    runs[3].ended(ENDED_WELL);
    all.add(&session("a"), process("r-new"));
    assert!(all.find(&session("a"), &runs[3].run).is_err());
    assert!(all.find(&session("a"), &runs[0].run).is_ok());
}
