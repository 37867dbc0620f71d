//! A wall clock that runs back.

use super::*;

#[test]
fn clock_that_runs_back_is_owned_up_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench.now.wall -= Duration::from_millis(10);
    bench.put("b").unwrap();
    assert!(!text(dir.path()).contains("\"type\":\"clock\""));
    bench.now.wall -= Duration::from_secs(60);
    bench.put("c").unwrap();
    bench.put("d").unwrap();
    assert_eq!(text(dir.path()).matches("\"type\":\"clock\"").count(), 1);
    check(dir.path()).unwrap();
}

#[test]
fn clock_that_was_set_back_while_nobody_wrote_is_owned_up_to_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("b").unwrap();
    assert!(!text(dir.path()).contains("\"type\":\"clock\""));
    bench = bench.reopened(dir.path()).unwrap();
    bench.now.wall -= Duration::from_secs(60);
    bench.put("c").unwrap();
    let before = crate::clock::rfc3339_micros(Writer::TEST_NOW.wall);
    let says = format!("\"type\":\"clock\",\"actor\":\"auditd\",\"layout\":\"single-uid\",\"before\":\"{before}\"");
    assert_eq!(text(dir.path()).matches(&says).count(), 1);
    check(dir.path()).unwrap();
}
