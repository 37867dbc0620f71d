//! A1 to A3, A16 and the log's part of P9: what a durable record costs a sealed auditd, beside what the disk and a packet cost
//! alone in the same seconds.

use super::control::Control;
use super::{Bound, Row, alternate, median, p50_us, us};
use crate::play_broker::{Peer, Sealed};
use auditd::journal::Journal;
use auditd::record::Source;
use auditd::state::Limits;
use auditd::writer::Writer;
use proto::audit::{AuditRequest, AuthMethod, AuthOutcome, CommandRecord, Record, RequestStep, Stream};
use proto::bounded::BoundedStr;
use proto::channel::{Channel, frame};
use proto::edge::{Edge, ToAuditd};
use proto::ids::{Epoch, RequestId, Role, RunId, SessionKey};
use proto::topology::EdgeId;
use proto::wire::Kind;
use proto::witness::{Fingerprint, tag};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a line as these records make them.
const LINE: usize = 400;
const TURNS: usize = 7;

/// Keeps the processors awake without taking them from anybody: an idle one here learns late of what the disk said. In sessions of
/// their own, so that nobody who is measured has their turn.
pub struct Awake(Vec<Child>);

impl Awake {
    pub fn new() -> Self {
        let spin = || {
            let mut command = Command::new("setsid");
            command
                .args(["chrt", "--idle", "0", "sh", "-c", "while [ -d /proc/$PPID ]; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .unwrap()
        };
        Self(vec![spin(), spin()])
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|child| {
            let _ = child.kill();
            let _ = child.wait();
        });
    }
}

pub fn auth() -> Record {
    let client = BoundedStr::truncated("192.0.2.1");
    Record::Auth { client, method: AuthMethod::Token, outcome: AuthOutcome::Accepted }
}

pub fn intent(command: &str) -> Record {
    Record::Command(CommandRecord::Intent {
        run: RunId(BoundedStr::truncated("r-0123456789abcdef")),
        session: SessionKey(BoundedStr::truncated("agent:main:main")),
        command: BoundedStr::truncated(command),
        backend: BoundedStr::truncated("native"),
        allowed_by: BoundedStr::truncated("make"),
    })
}

fn request() -> Record {
    Record::Request {
        id: BoundedStr::truncated("q-0123456789abcdef"),
        session: SessionKey(BoundedStr::truncated("agent:main:main")),
        credential: BoundedStr::truncated("model.key"),
        to: BoundedStr::truncated("api.example.org:443"),
        what: BoundedStr::truncated("POST /v1/messages"),
        step: RequestStep::Begun,
    }
}

fn event() -> Record {
    Record::Role {
        role: Role::Gateway,
        epoch: Epoch(1),
        event: BoundedStr::truncated("ready"),
        detail: BoundedStr::truncated("serves"),
    }
}

/// auditd on a disk, with the edge of each of its writers.
struct Log {
    sealed: Sealed,
    edges: [(Peer, Record); 4],
}

impl Log {
    fn start() -> Self {
        let sealed = Sealed::start(Role::Auditd);
        sealed.make_ready();
        let edges = [
            (sealed.grant(EdgeId::VaultAuditd), auth()),
            (sealed.grant(EdgeId::SandboxdAuditd), intent("make -C /workspace all")),
            (sealed.grant(EdgeId::EgressAuditd), request()),
            (sealed.grant(EdgeId::BrokerAuditd), event()),
        ];
        Self { sealed, edges }
    }

    /// Writes `each` records on every edge, `depth` of them at a time; records a second, all durable.
    fn rate(&self, each: usize, depth: usize) -> f64 {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for (peer, record) in &self.edges {
                scope.spawn(move || pipelined(&peer.0, &packet(record), each, depth));
            }
        });
        count(each * self.edges.len()) / begun.elapsed().as_secs_f64()
    }

    /// Seconds of processor that auditd has used.
    fn processor(&self) -> f64 {
        processor(self.sealed.pid())
    }
}

fn processor(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    text.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn packet(record: &Record) -> Vec<u8> {
    let request = AuditRequest::Append(record.clone());
    frame(Kind::Request, RequestId(7), 1_000, &request, ToAuditd::MAX_REQUEST).unwrap().to_vec()
}

/// Sends `packet` `each` times and takes as many answers, `depth` of them out at a time.
fn pipelined(channel: &Channel, packet: &[u8], each: usize, depth: usize) {
    let deadline = Instant::now() + PATIENCE;
    let (mut sent, mut answered) = (0, 0);
    while answered < each {
        while sent < each && sent - answered < depth {
            channel.send_by(packet, &[], deadline).unwrap();
            sent += 1;
        }
        channel.recv_by(4_096, 0, deadline).unwrap();
        answered += 1;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a measurement")]
fn count(of: usize) -> f64 {
    of as f64
}

/// One write of `records` lines to each of four files, each made durable: the least that a round of four streams does.
struct Raw {
    files: Vec<File>,
    _dir: tempfile::TempDir,
}

impl Raw {
    fn new(files: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = (0..files).map(|at| File::create(dir.path().join(at.to_string())).unwrap()).collect();
        Self { files, _dir: dir }
    }

    fn round(&mut self, records: usize) {
        let lines = vec![b'x'; records * LINE];
        for file in &mut self.files {
            file.write_all(&lines).unwrap();
            file.sync_data().unwrap();
        }
    }

    fn rate(&mut self, each: usize, depth: usize) -> f64 {
        let begun = Instant::now();
        (0..each / depth).for_each(|_| self.round(depth));
        count(each / depth * depth * self.files.len()) / begun.elapsed().as_secs_f64()
    }
}

/// Durable records a second under four pipelining writers, and the processor's time of each.
pub fn a1(full: bool) -> Vec<Row> {
    let each = if full { 20_000 } else { 5_000 };
    let _awake = Awake::new();
    let (log, mut raw) = (Log::start(), Raw::new(4));
    let (echo, channel) = Control::packets();
    let packet = packet(&auth());
    log.rate(1_000, ToAuditd::WINDOW);
    let (mut used, mut echoed) = (Vec::new(), Vec::new());
    let (rate, floor) = alternate(
        TURNS,
        || {
            let before = log.processor();
            let rate = log.rate(each, ToAuditd::WINDOW);
            used.push((log.processor() - before) * 1e6 / count(each * 4));
            rate
        },
        || {
            let disk = raw.rate(each, ToAuditd::WINDOW);
            let (begun, before) = (Instant::now(), processor(echo.pid()));
            pipelined(&channel, &packet, each, ToAuditd::WINDOW);
            let packets = count(each) / begun.elapsed().as_secs_f64();
            echoed.push((processor(echo.pid()) - before) * 1e6 / count(each));
            (0.8 * disk).min(0.6 * packets)
        },
    );
    let row = |goal, what: &str, measured, control, unit, bound| Row {
        goal,
        what: what.to_owned(),
        measured,
        control,
        unit,
        bound,
        published: "",
    };
    vec![
        row(
            "A1",
            "durable records of four pipelining writers, redacted and hashed / the lesser of 0.8 of four files written and \
             synced in the same batches, and 0.6 of raw packets echoed",
            rate / 1e3,
            floor / 1e3,
            "k/s",
            Bound::RatioAtLeast(1.0),
        ),
        row(
            "A3",
            "auditd's processor time a record, with its packet, its answer and its share of the disk / an echo's a packet",
            median(used.into_iter()),
            median(echoed.into_iter()),
            "us",
            Bound::Shown,
        ),
        a3(),
    ]
}

/// What auditd does with a record itself, in memory: redaction among a thousand known secrets, JSON, hashes, chain, tree and
/// checkpoints.
fn a3() -> Row {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut journal = open(dir.path());
    let key = [3; 32];
    let print = |number: u16| {
        let secret = auditd::redact::fingerprint(&key, &number.to_le_bytes());
        let mac = auditd::redact::fingerprint(&key, &secret);
        Fingerprint { tag: tag(&key, &secret), at: 0, length: 16, mac }
    };
    journal.know(key, (0..1_000).map(print).collect());
    let record = intent("make -C /workspace all");
    let batch = vec![(Source::OWN, &record); 256];
    let mut line = auditd::writer::Writer::from_system("single-uid".to_owned()).unwrap().line(
        auditd::chain::Head::EMPTY,
        Source::OWN,
        &record,
        auditd::clock::Instant::now(),
        &auditd::redact::Redactor::new(&key),
    );
    line.push(b'\n');
    let each = |work: &mut dyn FnMut()| {
        let before = super::vault::processor_ms();
        (0..20).for_each(|_| work());
        (super::vault::processor_ms() - before) * 1e3 / (20.0 * 256.0)
    };
    let (measured, control) = alternate(
        TURNS,
        || each(&mut || drop(journal.append(Stream::Command, &batch).unwrap())),
        || {
            each(&mut || {
                (0..256).for_each(|_| {
                    std::hint::black_box(auditd::chain::leaf(&line));
                });
            })
        },
    );
    let what = "what auditd does with a record itself, by one core, its files in memory / one SHA-256 of its line";
    Row { goal: "A3", what: what.to_owned(), measured, control, unit: "us", bound: Bound::AtMost(4.0), published: "" }
}

/// What one writer waits for one record; and sixteen records in flight, beside the same batches in this process.
pub fn a2(full: bool) -> Vec<Row> {
    let calls = if full { 2_000 } else { 400 };
    let _awake = Awake::new();
    let (log, mut raw) = (Log::start(), Raw::new(1));
    let (peer, record) = &log.edges[0];
    let one = packet(record);
    let (measured, control) =
        alternate(TURNS, || p50_us(calls, || pipelined(&peer.0, &one, 1, 1)), || p50_us(calls, || raw.round(1)));
    let alone = Row {
        goal: "A2",
        what: "durable record of one writer, p50 / write and fdatasync of as many bytes".to_owned(),
        measured,
        control,
        unit: "us",
        bound: Bound::MoreByAtMost(20.0),
        published: "",
    };
    let dir = tempfile::tempdir().unwrap();
    let (_writer, channel) = Control::durable_packets(dir.path());
    let (measured, control) = alternate(
        TURNS,
        || p50_us(calls, || pipelined(&peer.0, &one, 1, 1)),
        || p50_us(calls, || pipelined(&channel, &one, 1, 1)),
    );
    // On a busy machine a process that is woken waits for its turn: then this says what auditd itself costs.
    let beside = Row {
        goal: "A2",
        what: "the same / a process that writes, syncs and sends back, and does nothing else".to_owned(),
        measured,
        control,
        unit: "us",
        bound: Bound::Shown,
        published: "",
    };
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let mut journal = open(&logs);
    let rounds = calls / 2;
    let sixteen = |journal: &mut Journal| {
        let begun = Instant::now();
        for _ in 0..rounds {
            for (at, stream) in Stream::ALL.into_iter().enumerate() {
                journal.append(stream, &[(Source::OWN, &log.edges[at].1); 4]).unwrap();
            }
            journal.tick().unwrap();
        }
        count(rounds * 16) / begun.elapsed().as_secs_f64()
    };
    let (measured, control) = alternate(TURNS, || log.rate(rounds * 4, 4), || sixteen(&mut journal));
    let many = Row {
        goal: "A2",
        what: "durable records of four writers with four in flight each / the same batches in one process".to_owned(),
        measured: measured / 1e3,
        control: control / 1e3,
        unit: "k/s",
        bound: Bound::RatioAtLeast(0.85),
        published: "",
    };
    vec![alone, beside, many]
}

/// A journal in this process, beneath `dir`.
pub fn open(dir: &Path) -> Journal {
    let writer = Writer::from_system("single-uid".to_owned()).unwrap();
    Journal::open(File::open(dir).unwrap().into(), writer, Limits::default()).unwrap()
}

/// How late a record is durable while three others write as fast as they can.
pub fn a16(full: bool) -> Vec<Row> {
    let calls = if full { 2_000 } else { 500 };
    let _awake = Awake::new();
    let (log, mut raw) = (Log::start(), Raw::new(4));
    let [(peer, record), busy @ ..] = &log.edges;
    let one = packet(record);
    let done = std::sync::atomic::AtomicBool::new(false);
    let mut late: Vec<f64> = std::thread::scope(|scope| {
        let done = &done;
        for (peer, record) in busy {
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    pipelined(&peer.0, &packet(record), 4 * ToAuditd::WINDOW, ToAuditd::WINDOW);
                }
            });
        }
        let late = (0..calls).map(|_| timed(|| pipelined(&peer.0, &one, 1, 1))).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        late
    });
    let mut disk: Vec<f64> = (0..calls).map(|_| timed(|| raw.round(ToAuditd::WINDOW))).collect();
    let row = |what: &str, measured, control, bound| Row {
        goal: "A16",
        what: what.to_owned(),
        measured,
        control,
        unit: "ms",
        bound,
        published: "",
    };
    let (p99, disk_p99) = (percentile(&mut late, 99), percentile(&mut disk, 99));
    let busiest = "record behind three writers at full speed, p99 / a full round of four files written and synced, p99";
    vec![row(busiest, p99, disk_p99, Bound::AtMost(50.0))]
}

fn timed(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    us(begun.elapsed()) / 1e3
}

fn percentile(values: &mut [f64], of: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() * of / 100).min(values.len() - 1)]
}
