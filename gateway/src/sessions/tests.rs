//! What is recorded is found again, and what is not is not.

use super::*;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

fn store(dir: &std::path::Path) -> Store {
    Store::open(std::fs::File::open(dir).unwrap().into()).unwrap()
}

fn key(byte: u8) -> Key {
    Key::new(&[byte; 32]).unwrap()
}

/// A session of the main key, as it begins.
fn begun(dir: &std::path::Path) -> Store {
    let mut store = store(dir);
    store.begin(MAIN_KEY, &uuid(), key(1)).unwrap();
    store
}

fn file(store: &Store, dir: &std::path::Path) -> std::path::PathBuf {
    dir.join(file_name(&store.get(MAIN_KEY).unwrap().id))
}

#[test]
fn store_reopened_has_what_was_recorded_under_its_key_and_no_text_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = begun(dir.path());
    first.record(MAIN_KEY, "user", "hello there").unwrap();
    first.record(MAIN_KEY, "assistant", "hi\nthere").unwrap();
    let id = first.get(MAIN_KEY).unwrap().id.clone();
    let mut again = store(dir.path());
    assert_eq!(again.get(MAIN_KEY).unwrap().id, id);
    assert!(matches!(again.history(MAIN_KEY, 10), Err(SessionError::Sealed(_))));
    assert!(matches!(again.record(MAIN_KEY, "user", "x"), Err(SessionError::Sealed(_))));
    again.unlock(MAIN_KEY, key(1), 0).unwrap();
    let history = again.history(MAIN_KEY, 10).unwrap();
    assert_eq!((history.messages[1]["content"][0]["text"].as_str(), history.damaged), (Some("hi\nthere"), 0));
    assert_eq!(again.history(MAIN_KEY, 1).unwrap().messages.len(), 1);
    again.record(MAIN_KEY, "user", "on").unwrap();
    assert_eq!(again.history(MAIN_KEY, 10).unwrap().messages.len(), 3);
    let path = file(&again, dir.path());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("hello") && !text.contains("role"));
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    again.unlock(MAIN_KEY, key(2), 0).unwrap();
    assert!(again.history(MAIN_KEY, 10).unwrap().messages.is_empty(), "another key opens nothing");
}

#[test]
fn store_torn_last_line_is_left_out_and_the_next_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = begun(dir.path());
    first.record(MAIN_KEY, "user", "one").unwrap();
    let path = file(&first, dir.path());
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"1 c29tZXRo").unwrap();
    let mut again = store(dir.path());
    again.unlock(MAIN_KEY, key(1), 0).unwrap();
    assert_eq!(again.history(MAIN_KEY, 10).unwrap().messages.len(), 1);
    again.record(MAIN_KEY, "user", "two").unwrap();
    let history = again.history(MAIN_KEY, 10).unwrap();
    assert_eq!((history.messages.len(), history.damaged), (2, 1));
    assert_eq!(history.messages[1]["content"][0]["text"], "two");
}

#[test]
fn newest_lines_that_were_cut_off_stay_a_gap_and_their_numbers_are_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = begun(dir.path());
    for text in ["one", "two", "three"] {
        first.record(MAIN_KEY, "user", text).unwrap();
    }
    assert_eq!(first.take_untold().into_values().collect::<Vec<_>>(), [3]);
    assert!(first.take_untold().is_empty());
    let path = file(&first, dir.path());
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.split_inclusive('\n').take(1).collect::<String>()).unwrap();
    let mut again = store(dir.path());
    again.unlock(MAIN_KEY, key(1), 3).unwrap();
    again.record(MAIN_KEY, "user", "four").unwrap();
    let history = again.history(MAIN_KEY, 10).unwrap();
    assert_eq!((history.messages.len(), history.damaged), (2, 2));
    assert_eq!(again.take_untold().into_values().collect::<Vec<_>>(), [4]);
}

#[test]
fn store_line_longer_than_the_end_that_is_read_keeps_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = begun(dir.path());
    first.record(MAIN_KEY, "user", "one").unwrap();
    first.record(MAIN_KEY, "user", &"x".repeat(2 << 20)).unwrap();
    let mut again = store(dir.path());
    again.unlock(MAIN_KEY, key(1), 0).unwrap();
    again.record(MAIN_KEY, "user", "three").unwrap();
    let (bytes, whole) = again.directory.tail(&file_name(&again.get(MAIN_KEY).unwrap().id), u64::MAX).unwrap();
    let found = transcript::read(&key(1), &bytes_of(&again), &bytes, whole);
    assert_eq!((found.next(), found.damaged), (3, 0));
}

fn bytes_of(store: &Store) -> transcript::Id {
    bytes(&store.get(MAIN_KEY).unwrap().id)
}

#[test]
fn store_new_session_keeps_the_old_file_and_no_key_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = begun(dir.path());
    store.record(MAIN_KEY, "user", "one").unwrap();
    let old = file(&store, dir.path());
    store.begin(MAIN_KEY, &uuid(), key(2)).unwrap();
    assert_ne!(file(&store, dir.path()), old);
    assert!(store.history(MAIN_KEY, 10).unwrap().messages.is_empty());
    assert!(old.exists());
}

#[test]
fn store_forgotten_session_is_not_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = begun(dir.path());
    assert!(first.forget(MAIN_KEY).unwrap());
    assert!(first.get(MAIN_KEY).is_none() && !first.is_open(MAIN_KEY));
    assert!(store(dir.path()).get(MAIN_KEY).is_none());
    assert!(!store(dir.path()).forget(MAIN_KEY).unwrap());
}

#[test]
fn store_full_transcript_takes_no_more_and_a_new_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = begun(dir.path());
    store.record(MAIN_KEY, "user", "one").unwrap();
    let path = file(&store, dir.path());
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(MAX_TRANSCRIPT).unwrap();
    assert!(matches!(store.record(MAIN_KEY, "user", "two"), Err(SessionError::Full(_))));
    store.begin(MAIN_KEY, &uuid(), key(2)).unwrap();
    store.record(MAIN_KEY, "user", "two").unwrap();
}

#[test]
fn store_index_that_names_a_path_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let evil = "{\"key\":\"agent:main:main\",\"sessionId\":\"../../../../../../../../../etc/passwd\"}\n";
    let good = "{\"key\":\"agent:main:x\",\"sessionId\":\"00000000-0000-4000-8000-000000000000\"}\n";
    std::fs::write(dir.path().join(INDEX), format!("{evil}{good}")).unwrap();
    let store = store(dir.path());
    assert!(store.get(MAIN_KEY).is_none());
    assert!(store.get("agent:main:x").is_some());
}

#[test]
fn normalise_has_one_form_for_a_key() {
    assert_eq!(normalise("main").unwrap(), MAIN_KEY);
    assert_eq!(normalise(MAIN_KEY).unwrap(), MAIN_KEY);
    assert_eq!(normalise("work").unwrap(), "agent:main:work");
    assert_eq!(normalise("agent:work-2:main").unwrap(), "agent:work-2:main");
    for bad in [
        "",
        "a b",
        "../x",
        "a\u{0}",
        "agent:Other:main",
        "agent:o.r:main",
        "agent::main",
        "agent:main",
        "agent:main:",
        "é",
    ] {
        assert!(normalise(bad).is_err(), "{bad}");
    }
    assert!(normalise(&"k".repeat(117)).is_ok());
    assert!(normalise(&"k".repeat(118)).is_err());
}

#[test]
fn uuid_has_version_and_variant_and_differs() {
    let id = uuid();
    assert!(is_id(&id));
    assert_eq!(id.as_bytes()[14], b'4');
    assert!(matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    assert_ne!(id, uuid());
}
