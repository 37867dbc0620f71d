//! What is read of a log of several files beside its check.

use super::*;

#[test]
fn newest_checkpoint_is_the_last_of_many() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = crate::stream::tests::Bench::new(dir.path());
    let mut sizes = Vec::new();
    for _ in 0..150 {
        bench.put("192.0.2.1").unwrap();
        bench.with(crate::stream::LogStream::note);
        let files = find(dir.path(), Stream::Auth).unwrap();
        let note = newest_checkpoint(&files).unwrap().unwrap();
        sizes.push((crate::note::Checkpoint::parse(note.text()).unwrap().size, bench.log.head().size));
    }
    assert!(std::fs::metadata(dir.path().join("auth-audit.checkpoints")).unwrap().len() > 30_000);
    assert!(sizes.iter().all(|(newest, size)| newest == size), "{sizes:?}");
}

#[test]
fn every_record_of_a_rotated_log_is_proved_and_no_other_passes() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.limits.file_bytes = 8 << 10;
    for at in 0..60 {
        bench.put(&format!("192.0.2.{at}")).unwrap();
    }
    bench.with(LogStream::note);
    let key = bench.log.position().key.clone().unwrap().key;
    let mut files = find(dir.path(), Stream::Auth).unwrap();
    assert!(files.len() >= 3);
    let size = bench.log.position().head.size;
    for seq in 0..size {
        let proof = crate::proof::prove(&files, seq).unwrap();
        let read = crate::proof::Proof::parse(&proof.to_string()).unwrap();
        assert_eq!(read, proof);
        assert_eq!(read.check(&key).unwrap().size, size);
        let other = crate::proof::Proof { record: b"{}".to_vec(), ..read.clone() };
        assert_eq!(other.check(&key), Err(crate::proof::ProofError::NotIncluded));
        let moved = crate::proof::Proof { index: (seq + 1) % size, ..read };
        assert!(moved.check(&key).is_err());
    }
    assert!(crate::proof::prove(&files, size).is_err());
    // Without the oldest file the rest is proved all the same.
    files.remove(0);
    let proof = crate::proof::prove(&files, size - 1).unwrap();
    assert!(proof.check(&key).is_ok());
    assert!(matches!(crate::proof::prove(&files, 0), Err(crate::proof::ProveError::Missing(0))));
}

#[test]
fn exported_tiles_hold_the_signed_tree() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    let batch: Vec<_> = (0..700).map(|_| crate::record::tests::auth("192.0.2.1", true)).collect();
    bench.put_all(&batch).unwrap();
    bench.with(LogStream::note);
    let to = tempfile::tempdir().unwrap();
    let size = crate::tiles::export(&find(dir.path(), Stream::Auth).unwrap(), to.path()).unwrap();
    assert_eq!(size, 702);
    let mut tree = crate::tree::Frontier::default();
    for name in ["tile/0/000", "tile/0/001", "tile/0/002.p/190"] {
        let bytes = std::fs::read(to.path().join(name)).unwrap();
        bytes.chunks(32).for_each(|hash| tree.push(hash.try_into().unwrap()));
    }
    assert_eq!((tree.size(), tree.root()), (702, bench.log.position().tree.root()));
    assert_eq!(std::fs::read(to.path().join("tile/1/000.p/2")).unwrap().len(), 64);
    assert!(to.path().join("tile/entries/002.p/190").is_file() && to.path().join("checkpoint").is_file());
}
