//! Disks without room.

use super::*;

#[test]
fn device_without_room_refuses_and_nothing_is_acknowledged_until_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new(dir.path());
    bench.put("a").unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into();
    let real = bench.log.file.replace_appender(full);
    let size = bench.log.at.head.size;
    for _ in 0..2 {
        let error = bench.put("a").unwrap_err();
        assert!(matches!(error, AppendError::Unwritable { step: "write", errno: Errno::NOSPC }), "{error}");
    }
    assert_eq!(bench.log.at.head.size, size);
    bench.log.file.replace_appender(real);
    assert_eq!(bench.put("b").unwrap().seq, Seq(size + 1));
    assert!(text(dir.path()).contains("\"type\":\"resumed\",\"actor\":\"auditd\""));
    assert!(text(dir.path()).contains("\"refused\":2"));
    check(dir.path()).unwrap();
}

/// A small file system that can be filled, taken down at the end of its test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: &std::ffi::CStr) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        if rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, Some(size)).is_err() {
            eprintln!("SKIPPED: mounting a tmpfs needs root");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn full_file_system_refuses_says_why_in_its_last_record_and_resumes_with_room() {
    let Some(Small(dir)) = &Small::mount(c"size=256k") else { return };
    let ballast = dir.path().join("ballast");
    std::fs::write(&ballast, vec![0; 128 << 10]).unwrap();
    let mut bench = Bench::new(dir.path());
    let mut acknowledged = Vec::new();
    let error = loop {
        match bench.put("192.0.2.1") {
            Ok(receipt) => acknowledged.push(receipt),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, AppendError::Unwritable { errno: Errno::NOSPC, .. }), "{error}");
    assert!(!acknowledged.is_empty());
    let last = text(dir.path()).lines().rev().nth(1).unwrap().to_owned();
    assert!(last.contains("\"type\":\"full\"") && last.contains("No space left on device"), "{last}");
    assert_eq!(check(dir.path()).unwrap().signed, bench.log.at.head.size - 1);
    for _ in 0..3 {
        assert!(bench.put("192.0.2.2").is_err());
    }
    assert_eq!(text(dir.path()).matches("\"type\":\"full\"").count(), 1);
    std::fs::remove_file(&ballast).unwrap();
    acknowledged.push(bench.put("192.0.2.3").unwrap());
    let report = check(dir.path()).unwrap();
    let leaves: Vec<_> = text(dir.path()).lines().map(|line| chain::leaf(line.as_bytes())).collect();
    for receipt in &acknowledged {
        assert_eq!(leaves[usize::try_from(receipt.seq.0).unwrap()], receipt.leaf);
    }
    assert_eq!(report.head, bench.log.at.head);
    assert!(text(dir.path()).contains("\"refused\":4"));
}
