//! Tiles made by a stream that runs, is killed, and is tampered with.

use super::*;
use crate::keys::Ring;
use crate::stream::LogStream;
use crate::stream::tests::{Bench, open};
use crate::tree::{includes, leaf_hash};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

fn lines(dir: &Path) -> Vec<Vec<u8>> {
    let files = crate::offline::find(dir, Stream::Auth).unwrap();
    files
        .iter()
        .flat_map(|pair| {
            let text = std::fs::read(&pair.log).unwrap();
            text.split_inclusive(|byte| *byte == b'\n').map(|line| line[..line.len() - 1].to_vec()).collect::<Vec<_>>()
        })
        .collect()
}

fn tiles(dir: &Path) -> StoredTiles {
    StoredTiles::open(dir, Stream::Auth).unwrap().unwrap()
}

fn assert_whole(dir: &Path) {
    let lines = lines(dir);
    let tiles = tiles(dir);
    assert_eq!(tiles.size(), lines.len() as u64);
    let mut tree = Frontier::default();
    lines.iter().for_each(|line| tree.push(leaf_hash(line)));
    for (at, line) in (0..).zip(&lines) {
        assert_eq!(tiles.leaf(at), Some(leaf_hash(line)), "{at}");
        if at % 37 == 0 {
            let proof = tiles.inclusion(at, tree.size()).unwrap();
            assert!(includes(&tree.root(), tree.size(), at, &leaf_hash(line), &proof));
        }
    }
    let full = lines.len() / 256;
    assert_eq!(std::fs::metadata(dir.join("auth-audit.tile1")).unwrap().len(), full as u64 * 32);
}

/// Some 600 lines in three files.
fn grown(dir: &Path) -> Bench {
    let mut bench = Bench::new(dir);
    bench.limits.file_bytes = 100 << 10;
    for at in 0..600 {
        bench.put(&format!("192.0.2.{at}")).unwrap();
    }
    bench.with(LogStream::note);
    bench
}

fn append(dir: &Path, name: &str, bytes: &[u8]) {
    use std::io::Write as _;
    std::fs::OpenOptions::new().append(true).open(dir.join(name)).unwrap().write_all(bytes).unwrap();
}

fn cut(dir: &Path, name: &str, length: u64) {
    std::fs::OpenOptions::new().write(true).open(dir.join(name)).unwrap().set_len(length).unwrap();
}

#[test]
fn tiles_of_a_log_that_grows_over_files_are_the_hashes_of_its_lines() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = grown(dir.path());
    assert!(crate::offline::find(dir.path(), Stream::Auth).unwrap().len() >= 3);
    assert_whole(dir.path());
    bench = bench.reopened(dir.path()).unwrap();
    bench.put("after").unwrap();
    bench.with(LogStream::note);
    assert_whole(dir.path());
}

#[test]
fn tiles_that_a_crash_left_short_at_any_level_are_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = grown(dir.path());
    for (name, lengths) in
        [("auth-audit.tile0", [0u64, 1, 31, 32, 8_191, 8_192, 8_200]), ("auth-audit.tile1", [0, 1, 31, 32, 33, 40, 63])]
    {
        for length in lengths {
            cut(dir.path(), name, length);
            bench = bench.reopened(dir.path()).unwrap();
            bench.with(LogStream::note);
            assert_whole(dir.path());
        }
    }
    for level in 0..LEVELS {
        std::fs::remove_file(dir.path().join(file_name(Stream::Auth, level))).unwrap();
    }
    bench = bench.reopened(dir.path()).unwrap();
    assert_whole(dir.path());
    bench.put("goes on").unwrap();
}

#[test]
fn tiles_that_are_not_the_logs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(grown(dir.path()));
    let directory: Arc<OwnedFd> = Arc::new(File::open(dir.path()).unwrap().into());
    let ring = Ring::open(directory.as_fd()).unwrap().unwrap();
    let reopened = || open(&directory, Some(&ring), dir.path()).map(drop);
    let refused = || {
        let error = reopened().unwrap_err();
        assert!(error.is_final(), "{error}");
        error.to_string()
    };
    let tile = dir.path().join("auth-audit.tile0");
    let whole = std::fs::read(&tile).unwrap();
    let mut other = whole.clone();
    *other.last_mut().unwrap() ^= 1;
    std::fs::write(&tile, &other).unwrap();
    assert!(refused().contains("does not hold the hashes"));
    // A torn hash that is no beginning of the right one.
    std::fs::write(&tile, &whole[..whole.len() - 32]).unwrap();
    append(dir.path(), "auth-audit.tile0", &[!whole[whole.len() - 32]]);
    assert!(refused().contains("does not hold the hashes"));
    std::fs::write(&tile, &whole).unwrap();
    append(dir.path(), "auth-audit.tile0", &[7; 32]);
    assert!(refused().contains("more lines than there are"));
    std::fs::write(&tile, &whole).unwrap();
    reopened().unwrap();
}
