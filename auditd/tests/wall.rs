//! What a fallen auditd can still do to its log, tried from behind its real wall: every attack in a process of its own,
//! with the descriptors that auditd holds. The same calls succeed where there is no wall, so a broken probe cannot pass.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use auditd::file::{appender, reader};
use auditd::journal::Journal;
use auditd::policy;
use auditd::state::Limits;
use auditd::writer::Writer;
use confine::startup::{Start, StartError};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::Channel;
use proto::control::{FromRole, Layout, LogFiles, MAX_CONTROL, Resource, RoleConfig, ToRole};
use proto::exit::Exit;
use proto::ids::{RequestId, Role};
use proto::wire::{self, Header, Kind};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

const LOG: &str = "auth-audit.jsonl";
const SIGSYS: i32 = 31;

/// What auditd holds and an attacker in it would use.
struct Hold {
    dir: OwnedFd,
    append: OwnedFd,
    read: OwnedFd,
}

type Attack = fn(&Hold) -> Result<(), Errno>;

fn open(hold: &Hold, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(&hold.dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)
}

/// What must be stopped: the filter kills, or the kernel says no.
const ATTACKS: [(&str, Attack); 13] = [
    ("clear append mode", |hold| rustix::fs::fcntl_setfl(&hold.append, OFlags::empty())),
    ("cut the file", |hold| rustix::fs::ftruncate(&hold.append, 10)),
    ("punch a hole", |hold| {
        rustix::fs::fallocate(&hold.append, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, 4096)
    }),
    ("zero a range", |hold| rustix::fs::fallocate(&hold.append, FallocateFlags::ZERO_RANGE, 0, 100)),
    ("open it for writing", |hold| open(hold, LOG, OFlags::WRONLY).map(drop)),
    ("open it for both", |hold| open(hold, LOG, OFlags::RDWR).map(drop)),
    ("open it for appending again", |hold| open(hold, LOG, OFlags::WRONLY | OFlags::APPEND).map(drop)),
    ("open it and cut it", |hold| open(hold, LOG, OFlags::WRONLY | OFlags::APPEND | OFlags::TRUNC).map(drop)),
    ("make a file that is not for appending", |hold| {
        open(hold, "new", OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL).map(drop)
    }),
    ("remove it", |hold| rustix::fs::unlinkat(&hold.dir, LOG, AtFlags::empty())),
    ("rename it", |hold| rustix::fs::renameat(&hold.dir, LOG, &hold.dir, "gone")),
    ("give it another name", |hold| rustix::fs::linkat(&hold.dir, LOG, &hold.dir, "other", AtFlags::empty())),
    ("change its mode", |hold| rustix::fs::fchmod(&hold.append, Mode::empty())),
];

/// What must work.
const WORK: [(&str, Attack); 4] = [
    ("append", |hold| rustix::io::write(&hold.append, b"x").map(drop)),
    ("write at an offset, which appends", |hold| rustix::io::pwrite(&hold.append, b"x", 0).map(drop)),
    ("read", |hold| rustix::io::pread(&hold.read, &mut [0u8; 16], 0).map(drop)),
    ("make the next file", |hold| appender(hold.dir.as_fd(), "next", true).map(drop).map_err(|_| Errno::ACCESS)),
];

fn all() -> impl Iterator<Item = (&'static str, Attack)> {
    ATTACKS.into_iter().chain(WORK)
}

fn hold(dir: OwnedFd) -> Hold {
    let append = appender(dir.as_fd(), LOG, false).unwrap();
    let read = reader(dir.as_fd(), LOG).unwrap();
    Hold { dir, append, read }
}

/// The attacker's process: exits 0 where the call succeeded and 1 where the kernel refused it.
fn inside(mut start: Start) -> Result<Exit, StartError> {
    let name = std::env::args().nth(1).unwrap();
    let (_, attack) = all().find(|(attack, _)| *attack == name).unwrap();
    let directory = start.take(Resource::LogDir)?;
    confine::privileges::answer_file_size_limit_with_errno().map_err(StartError::internal)?;
    let writer = Writer::from_system("single-uid".to_owned()).map_err(StartError::internal)?;
    let hold = hold(directory.try_clone().unwrap());
    let journal = Journal::open(directory, writer, Limits::default())?;
    let (_sealed, _control) = start.seal(&policy::POLICY, &[(Resource::LogDir, journal.directory())])?;
    attack(&hold).map(|()| Exit::Ok).map_err(StartError::internal)
}

fn say(control: &Channel, message: &ToRole, fds: &[BorrowedFd<'_>]) {
    let header = Header { kind: Kind::Note, id: RequestId(0), deadline_ms: 0 };
    control.send(&wire::encode(header, message, MAX_CONTROL).unwrap(), fds).unwrap();
}

fn hear(control: &Channel) -> FromRole {
    let packet = control.recv_by(MAX_CONTROL, 0, Instant::now() + Duration::from_secs(20)).unwrap();
    wire::decode(wire::split(&packet.bytes, MAX_CONTROL).unwrap().1).unwrap()
}

fn attempt(name: &str, logs: &Path) -> ExitStatus {
    let (control, theirs) = Channel::pair().unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "exec \"$0\" \"$1\" 3<&0 0<&- 2>&-"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env_clear()
        .env("WALL", "1")
        .stdin(Stdio::from(theirs.into_fd()))
        .spawn()
        .unwrap();
    let FromRole::Hello { .. } = hear(&control) else { panic!("hello") };
    let directory: OwnedFd = std::fs::File::open(logs).unwrap().into();
    let config = RoleConfig::Auditd {
        layout: BoundedStr::truncated("single-uid"),
        redact: BoundedVec::default(),
        files: LogFiles::default(),
    };
    let resources = BoundedVec::new(vec![Resource::LogDir]).unwrap();
    say(&control, &ToRole::Configure { layout: Layout::SplitUid, config, resources }, &[directory.as_fd()]);
    let FromRole::Confined(_) = hear(&control) else { panic!("confined") };
    say(&control, &ToRole::Attested, &[]);
    child.wait().unwrap()
}

fn logs() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let writer = Writer::from_system("single-uid".to_owned()).unwrap();
    Journal::open(std::fs::File::open(dir.path()).unwrap().into(), writer, Limits::default()).unwrap();
    dir
}

fn main() -> ExitCode {
    if std::env::var_os("WALL").is_some() {
        return confine::startup::run(Role::Auditd, inside);
    }
    for (name, attack) in all() {
        let free = logs();
        match attack(&hold(std::fs::File::open(free.path()).unwrap().into())) {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP) => {
                println!("SKIPPED: this file system cannot {name}");
                continue;
            }
            Err(errno) => panic!("{name}: {errno}"),
        }
        let walled = logs();
        let before = std::fs::read(walled.path().join(LOG)).unwrap();
        let status = attempt(name, walled.path());
        let after = std::fs::read(walled.path().join(LOG)).unwrap();
        assert!(after.starts_with(&before), "{name} changed what was written");
        if WORK.iter().any(|(work, _)| *work == name) {
            assert_eq!(status.code(), Some(0), "{name} must work: {status}");
        } else {
            let stopped = status.signal() == Some(SIGSYS) || status.code().is_some_and(|code| code != 0);
            assert!(stopped && after == before, "{name} was not stopped: {status}");
        }
        println!("test wall::{} ... ok", name.replace(' ', "_"));
    }
    ExitCode::SUCCESS
}
