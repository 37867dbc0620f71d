use super::*;

const BOUNDS: Bounds = Bounds { memory: 100, writes: 1 << 20, free_space: 6_400, free_inodes: 640 };

#[test]
fn command_begins_only_where_enough_stays_free() {
    let free = |bytes, inodes| may_begin(Free { bytes, inodes }, &BOUNDS);
    assert_eq!(free(6_400, 640), Ok(()));
    assert_eq!(free(6_400, u64::MAX), Ok(()), "a file system without a table of inodes");
    for (refused, key) in [(free(6_399, 640), "native.freeSpace"), (free(6_400, 639), "native.freeInodes")] {
        let refusal = refused.unwrap_err();
        assert_eq!(refusal.rule.as_str(), "sandbox.native.floor");
        assert!(refusal.message.contains(key), "{}", refusal.message.as_str());
    }
}

#[test]
fn stat_of_a_process_is_read_past_a_name_that_imitates_it() {
    let rest = "S 7 1 1 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 100 1000000 321 18446744073709551615";
    for name in ["sh", "a) S 1 1 (b", ")"] {
        assert_eq!(parent_and_pages(&format!("12 ({name}) {rest}")), Some((7, 321)), "{name}");
    }
    assert_eq!(parent_and_pages("12 (sh"), None);
    assert_eq!(parent_and_pages("12 (sh) S 7"), None);
}

#[test]
fn growth_counts_what_changed_since_and_stops_at_what_is_too_much() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
    std::fs::write(dir.path().join("a/b/file"), vec![1; 100_000]).unwrap();
    std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
    let top: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
    let most = Growth { bytes: 1 << 40, files: 1 << 40 };
    let grew = Growth::since(&top, (0, 0), most);
    assert!(grew.bytes >= 100_000 && (3..20).contains(&grew.files), "{grew:?}");
    assert_eq!(Growth::since(&top, (i64::MAX, 0), most), Growth::default(), "nothing is that new");
    assert!(
        Growth::since(&top, (0, 0), Growth { bytes: 1, files: 1 << 40 }).reaches(Growth { bytes: 1, files: 1 << 40 })
    );
    let deep = dir.path().join("d/".repeat(DEPTH + 1));
    std::fs::create_dir_all(deep).unwrap();
    assert_eq!(Growth::since(&top, (0, 0), most), most, "what is too deep to look at counts as too much");
}

#[test]
fn memory_is_that_of_all_descendants_and_of_nobody_else() {
    let processes = Processes {
        by_parent: BTreeMap::from([(1, vec![(10, 5), (20, 7)]), (10, vec![(11, 30)]), (11, vec![(12, 40)])]),
        available: u64::MAX,
    };
    assert_eq!(processes.held_by(10, 100), 70);
    assert_eq!(processes.held_by(20, 100), 0);
    let own = i32::try_from(std::process::id()).unwrap();
    let now = Processes::now();
    let parent = now.by_parent.iter().find(|(_, children)| children.iter().any(|(pid, _)| *pid == own));
    assert!(parent.is_some_and(|(_, children)| children.iter().any(|(pid, bytes)| *pid == own && *bytes > 0)));
}
