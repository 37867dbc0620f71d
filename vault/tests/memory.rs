//! What root reads of the vault's memory while it works: nothing of any key or secret. The same scanner finds all of them
//! in a process that does the same on an ordinary heap.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::device::{device, pair};
use common::{Broker, PATIENCE, login};
use proto::auth::{Login, LoginVerb};
use proto::bounded::BoundedStr;
use proto::channel::Client;
use proto::edge::EgressVault;
use proto::ids::SessionKey;
use proto::secret::Secret;
use proto::senders::{ChannelId, PairingCode, SenderId, Verdict};
use proto::topology::EdgeId;
use proto::transcripts::{TranscriptId, TranscriptRequest};
use proto::vault::{Destination, LeaseReply, LeaseRequest, VaultReply, VaultRequest, VaultVerb};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vault::auth::password::Password;
use vault::cipher::Key;
use vault::codec::Writer;
use vault::keys::Master;
use vault::senders::configured::Configured;
use vault::senders::{Place, Senders};
use vault::state::{GATEWAY_TOKEN, State};
use vault::transcripts::Begins;

const TRANSCRIPT: &str = "key of a transcript";
const CODE: &str = "code of a pairing";
const VERIFIER: &str = "verifier of the password";
const COSIGNER: &str = "key of the cosigner";
const PASSWORD: &[u8] = b"a password that is typed in by hand";
/// Set for the process that is to be found out.
const ORDINARY: &str = "MOLTBOT_TEST_ORDINARY_VAULT";
/// Bytes in a row that count as found.
const WINDOW: usize = 16;

/// Memory is searched by pages: most of what is read is zeros.
const PAGE: usize = 4096;
/// Bytes of what is looked for whole: 2^-40 for a pairing code that comes by chance.
const WHOLE: usize = 8;

/// What must not be found, by what it is.
struct Needles {
    windows: std::collections::HashMap<[u8; WINDOW], String>,
    whole: std::collections::HashMap<[u8; WHOLE], String>,
    first: Vec<bool>,
}

impl Needles {
    fn new(secrets: &[(String, Vec<u8>)]) -> Self {
        let (windows, whole) = (Default::default(), Default::default());
        let mut needles = Self { windows, whole, first: vec![false; 1 << 16] };
        for (name, bytes) in secrets {
            if let Ok(whole) = <[u8; WHOLE]>::try_from(bytes.as_slice()) {
                needles.first[usize::from(u16::from_le_bytes([whole[0], whole[1]]))] = true;
                needles.whole.insert(whole, name.clone());
            }
            for window in bytes.windows(WINDOW) {
                needles.first[usize::from(u16::from_le_bytes([window[0], window[1]]))] = true;
                needles.windows.insert(window.try_into().unwrap(), name.clone());
            }
        }
        needles
    }

    fn search(&self, memory: &[u8], found: &mut BTreeSet<String>) {
        for from in (0..memory.len()).step_by(PAGE) {
            // A page, and as much of the next as a window may reach over.
            let page = &memory[from..memory.len().min(from + PAGE + WINDOW - 1)];
            if page == &[0; PAGE + WINDOW - 1][..page.len()] {
                continue;
            }
            for window in page.windows(WINDOW) {
                if self.first[usize::from(u16::from_le_bytes([window[0], window[1]]))] {
                    let names = [self.windows.get(window), self.whole.get(&window[..WHOLE])];
                    found.extend(names.into_iter().flatten().cloned());
                }
            }
        }
    }
}

struct Scan {
    found: BTreeSet<String>,
    read: usize,
    unreadable: usize,
}

/// Reads what root can of a process: of what may be written to, or, where `all`, of everything.
fn scan(pid: u32, needles: &Needles, all: bool) -> Scan {
    let mut scan = Scan { found: BTreeSet::new(), read: 0, unreadable: 0 };
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, access) = (fields.next().unwrap(), fields.next().unwrap());
        if !access.starts_with('r')
            || !(all || access.contains('w'))
            || line.contains("[vvar")
            || line.contains("[vsyscall")
        {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        match memory.read_exact_at(&mut bytes, from) {
            Ok(()) => {
                scan.read += bytes.len();
                needles.search(&bytes, &mut scan.found);
            }
            Err(_) => scan.unreadable += bytes.len(),
        }
    }
    scan
}

fn open(state: &Path) -> State {
    let fd = |name: &str| OwnedFd::from(File::open(state.join(name)).unwrap());
    State::open(&fd("keys"), fd("vault")).unwrap()
}

/// Everything that is to stay hidden, derived from the files.
fn secrets(state: &Path) -> Vec<(String, Vec<u8>)> {
    let opened = open(state);
    let keys = OwnedFd::from(File::open(state.join("keys")).unwrap());
    let master: Master = vault::keys::read(std::os::fd::AsFd::as_fd(&keys), vault::keys::NAME).unwrap();
    let ring = &opened.contents().ring;
    let text = std::fs::read(state.join("keys/secrets.key")).unwrap();
    let derived = |info: &[u8]| Key::derive(&master, ring.vault(), info).expose().to_vec();
    let mut all = vec![
        ("master key".to_owned(), master.expose().to_vec()),
        ("master key as text".to_owned(), text),
        ("wrapping key".to_owned(), derived(b"moltbot/kek-wrap/v1")),
        ("trailer key".to_owned(), derived(b"moltbot/trailer/v1")),
    ];
    all.extend(ring.expose().map(|kek| ("KEK".to_owned(), kek.to_vec())));
    for record in opened.records() {
        let value = record.open(ring).unwrap();
        if value.expose().len() >= WINDOW {
            all.push((record.name().to_owned(), value.expose().to_vec()));
        }
        all.push((format!("DEK of {}", record.name()), record.data_key(ring).unwrap().expose().to_vec()));
    }
    let contents = opened.contents();
    for (id, _) in contents.transcripts.iter() {
        let key = contents.transcripts.key(ring, id).unwrap().unwrap();
        all.push((TRANSCRIPT.to_owned(), key.expose().to_vec()));
    }
    for (_, request) in contents.senders.pending.requests() {
        all.push((CODE.to_owned(), request.code.0.to_vec()));
    }
    // As docs/FORMATS.md has them: what the store holds and shows to nobody.
    let mut bytes = Writer::new(256);
    if let Some(password) = &contents.password {
        password.encode(&mut bytes);
        all.push((VERIFIER.to_owned(), bytes.as_slice()[40..72].to_vec()));
    }
    let mut bytes = Writer::new(4096);
    contents.memory.encode(&mut bytes);
    if bytes.as_slice().starts_with(&32u32.to_le_bytes()) {
        all.push((COSIGNER.to_owned(), bytes.as_slice()[4..36].to_vec()));
    }
    all
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: reading the memory of a process that is not dumpable needs root");
    }
    root
}

/// A secret of 40 random bytes that egress may have.
fn put(broker: &Broker, name: &str) {
    let mut value = vec![0; 40];
    vault::entropy::fill(&mut value).unwrap();
    let (name, value) = (BoundedStr::truncated(name), Secret::new(value).unwrap());
    let text = "verb inject\nrole egress\nheader authorization\nhost api.example.org\nmethod GET\npath /\n";
    broker.verb(VaultVerb::PutSecret { name: name.clone(), value, rotate: false }).map(drop).unwrap();
    broker.verb(VaultVerb::SetPolicy { name, text: BoundedStr::truncated(text) }).map(drop).unwrap();
}

/// Leases the secret and has it given out.
fn use_once(egress: &mut Client<EgressVault>, name: &str) {
    let to = Destination { host: BoundedStr::truncated("api.example.org"), port: 443 };
    let (credential, method) = (BoundedStr::truncated(name), BoundedStr::truncated("GET"));
    let path = BoundedStr::truncated("/");
    let lease = LeaseRequest::Lease {
        session: proto::ids::SessionKey(BoundedStr::truncated("agent:main:main")),
        credential,
        to: to.clone(),
        method,
        path,
        digest: [1; 32],
    };
    let (reply, _) = egress.call(&lease, &[], PATIENCE).unwrap();
    let LeaseReply::Leased { lease, .. } = reply else { panic!("not leased") };
    let (reply, _) = egress.call(&LeaseRequest::Redeem { lease, to, digest: [1; 32] }, &[], PATIENCE).unwrap();
    assert!(matches!(reply, LeaseReply::Redeemed(value) if value.expose().len() == 40));
}

/// Scans a vault at work at `instants`.
fn scan_under_load(instants: usize) {
    if !is_root() {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    std::thread::spawn(move || records.iter().count());
    let token = broker.reveal().unwrap();
    put(&broker, "model");
    let password = || Secret::new(PASSWORD.to_vec()).unwrap();
    broker.verb(VaultVerb::Login(LoginVerb::SetPassword { password: password() })).map(drop).unwrap();
    let of_device = pair(&broker, &device(1));
    let mut first = broker.client(EdgeId::GatewayVault);
    let (session, id) = (SessionKey(BoundedStr::truncated("agent:main:main")), TranscriptId([7; 16]));
    let talk = VaultRequest::Transcript(TranscriptRequest::Make { session: session.clone(), id });
    assert!(matches!(first.call(&talk, &[], PATIENCE), Ok((VaultReply::Transcript(_), _))));
    let (channel, sender) = (ChannelId(BoundedStr::truncated("telegram")), SenderId(BoundedStr::truncated("42")));
    let stranger = VaultRequest::MaySpeak { channel, sender, name: BoundedStr::default() };
    assert!(matches!(first.call(&stranger, &[], PATIENCE), Ok((VaultReply::Speak(Verdict::Pair { .. }), _))));
    let talk = VaultRequest::Transcript(TranscriptRequest::Open { session, id });
    let mut hidden = secrets(state.path());
    for name in [TRANSCRIPT, CODE, VERIFIER, COSIGNER] {
        assert!(hidden.iter().any(|(known, _)| known == name), "{name} is looked for");
    }
    hidden.extend([("token of a device".to_owned(), of_device), ("password".to_owned(), PASSWORD.to_vec())]);
    let needles = Needles::new(&hidden);
    let pid = broker.child.id();
    let (mut gateway, mut egress) = (broker.client(EdgeId::GatewayVault), broker.egress());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0u32;
            while !over.load(Ordering::Relaxed) {
                turn += 1;
                // A failure writes the store, the success after it again.
                login(&mut gateway, if turn.is_multiple_of(3) { b"wrong" } else { &token }).unwrap();
                use_once(&mut egress, "model");
                for request in [&talk, &stranger] {
                    gateway.call(request, &[], PATIENCE).map(drop).unwrap();
                }
                // Argon2 is most of the time that it takes.
                if turn.is_multiple_of(50) {
                    let offered = Login::with_token(BoundedStr::truncated("192.0.2.2"), None);
                    let login = Login { password: Some(password()), ..offered };
                    let request = VaultRequest::VerifyClient(Box::new(login));
                    assert!(matches!(gateway.call(&request, &[], PATIENCE), Ok((VaultReply::Admitted(_), _))));
                }
            }
        });
        let mut hidden_bytes = 0;
        for at in 0..instants {
            let seen = scan(pid, &needles, at % 25 == 0);
            assert!(seen.found.is_empty(), "instant {at}: {:?}", seen.found);
            assert!(seen.read > 64 << 10, "{} bytes read", seen.read);
            hidden_bytes = seen.unreadable;
            std::thread::sleep(Duration::from_micros(u64::try_from(at * 7919 % 2000).unwrap()));
        }
        over.store(true, Ordering::Relaxed);
        println!(
            "{instants} instants, {} keys and secrets: none found; {hidden_bytes} bytes cannot be read",
            hidden.len()
        );
        assert!(hidden_bytes > 7 << 20, "heap and stack are out of reach");
    });
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn root_finds_no_key_and_no_secret_in_a_vault_at_work() {
    scan_under_load(50);
}

#[test]
#[ignore = "minutes: cargo xtask torture vault"]
fn torture_root_finds_no_key_and_no_secret_at_a_thousand_instants() {
    scan_under_load(1_000);
}

#[test]
fn same_scanner_finds_everything_in_an_ordinary_process() {
    let state = tempfile::tempdir().unwrap();
    for name in ["keys", "vault"] {
        std::fs::create_dir(state.path().join(name)).unwrap();
    }
    let mut opened = open(state.path());
    let typed = Secret::new(PASSWORD.to_vec()).unwrap();
    opened.set_password(Some(Password::keep(&typed, 1).unwrap())).unwrap();
    opened.make_transcript([7; 16], "agent:main:main", Begins::Open, 1).map(drop).unwrap();
    let mut senders = Senders::default();
    let place = Place { channel: "telegram".to_owned(), sender: "42".to_owned() };
    let code = || Ok(PairingCode(*b"QWERTY23"));
    senders.ask(&Configured::default(), &place, "", vault::state::unix_now(), code).map(drop).unwrap();
    opened.set_senders(senders).unwrap();
    drop(opened);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "ordinary_process", "--nocapture"])
        .env(ORDINARY, state.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = out.by_ref().map_while(Result::ok).any(|line| line.contains("holds them"));
    assert!(said);
    let seen = scan(child.id(), &Needles::new(&secrets(state.path())), false);
    drop(child.stdin.take());
    child.wait().unwrap();
    drop(out);
    for name in ["master key", "KEK", GATEWAY_TOKEN, "DEK of gateway.token", TRANSCRIPT, CODE, VERIFIER] {
        assert!(seen.found.contains(name), "{name} is not among {:?}", seen.found);
    }
}

/// Not a test by itself: the process that the one above looks into.
#[test]
fn ordinary_process() {
    let Some(state) = std::env::var_os(ORDINARY) else { return };
    let state = open(Path::new(&state));
    let record = state.record(GATEWAY_TOKEN).unwrap();
    let id = *state.contents().transcripts.iter().next().unwrap().0;
    let talk = state.contents().transcripts.key(&state.contents().ring, &id).unwrap();
    let held = (record.open(&state.contents().ring).unwrap(), record.data_key(&state.contents().ring).unwrap());
    println!("holds them");
    let _ = std::io::stdin().read(&mut [0]);
    drop((held, talk));
}

#[test]
fn vault_leaves_no_core() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", broker.child.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
    assert_eq!(broker.exit(), Some(0));
}
