//! V1, V7, V8 of P9: what a credential costs that is lent by a sealed vault full of secrets, what a rotation of all of them
//! costs, and how soon such a vault lends after its start. The goals speak of 10,000 secrets, and the vault's secret memory takes
//! some 3,000: what is measured here is 2,000, and the goals are held to their share of it.

use super::control::Control;
use super::{Bound, Row, alternate, ms, p50_us};
use crate::play_broker::Sealed;
use ::vault::permit::Policy;
use ::vault::state::State;
use proto::bounded::BoundedStr;
use proto::channel::{Channel, Client};
use proto::edge::EgressVault;
use proto::ids::{Role, SessionKey};
use proto::secret::Secret;
use proto::topology::{EdgeId, role};
use proto::vault::{Destination, LeaseId, LeaseReply, LeaseRequest};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(10);
const CALLS: usize = 1_000;
/// Secrets in the store, of 40 bytes each.
const FULL: usize = 2_000;
const NAME: &str = "model.key";

fn open(dir: &Path) -> State {
    let fd = |name: &str| OwnedFd::from(File::open(dir.join(name)).unwrap());
    State::open(&fd("keys"), fd("vault")).unwrap()
}

/// A store with so many secrets, of which egress may have one.
pub(super) fn filled(secrets: usize) -> (TempDir, State) {
    // Not on a disk: each put replaces the store, and only what is made of it is measured.
    let dir = tempfile::Builder::new().prefix("moltbot-vault.").tempdir_in("/dev/shm").unwrap();
    for name in ["keys", "vault"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let mut state = open(dir.path());
    let value = |number: usize| Secret::new(format!("{number:040}").into_bytes()).unwrap();
    let policy =
        Policy::parse("verb inject\nrole egress\nheader authorization\nhost api.example.org\nmethod GET\npath /\n");
    state.put(NAME, &value(0), Some(&policy.unwrap()), 1).unwrap();
    for number in 1..secrets {
        state.put(&format!("s.{number:05}"), &value(number), None, 1).unwrap();
    }
    (dir, state)
}

fn started(dir: TempDir) -> (Sealed, Client<EgressVault>) {
    let sealed = Sealed::start_in(Role::Vault, dir);
    sealed.make_ready();
    let egress = egress(&sealed);
    (sealed, egress)
}

/// Its client, in egress's place.
pub(super) fn egress(vault: &Sealed) -> Client<EgressVault> {
    let mut egress = Client::new(role::Egress);
    egress.attach(vault.grant(EdgeId::EgressVault).0);
    egress
}

fn to() -> Destination {
    Destination { host: BoundedStr::truncated("api.example.org"), port: 443 }
}

fn request() -> LeaseRequest {
    let (credential, method, path) =
        (BoundedStr::truncated(NAME), BoundedStr::truncated("GET"), BoundedStr::truncated("/"));
    LeaseRequest::Lease {
        credential,
        to: to(),
        method,
        path,
        digest: [1; 32],
        session: SessionKey(BoundedStr::truncated("agent:main:main")),
    }
}

fn lease(egress: &mut Client<EgressVault>) -> LeaseId {
    match egress.call(&request(), &[], PATIENCE).unwrap() {
        (LeaseReply::Leased { lease, .. }, _) => lease,
        _ => panic!("not leased"),
    }
}

/// What comes of asking for one, in words.
pub(super) fn asked(egress: &mut Client<EgressVault>) -> String {
    match egress.call(&request(), &[], PATIENCE) {
        Ok((LeaseReply::Leased { .. }, _)) => "leased".to_owned(),
        Ok(_) => "not leased".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn lent(egress: &mut Client<EgressVault>) {
    let lease = lease(egress);
    let redeem = LeaseRequest::Redeem { lease, to: to(), digest: [1; 32] };
    assert!(matches!(egress.call(&redeem, &[], PATIENCE).unwrap(), (LeaseReply::Redeemed(_), _)));
}

/// Each question is one round trip to the vault and one of the vault to the log, which is a stand-in without a disk.
pub fn v1(_full: bool) -> Vec<Row> {
    let ((_full, mut egress), (_one, mut of_one)) = (started(filled(FULL).0), started(filled(1).0));
    let (_packets, channel) = Control::packets();
    let four = |channel: &Channel| {
        for _ in 0..4 {
            channel.send(&[b'x'; 64], &[]).unwrap();
            channel.recv_by(4096, 0, Instant::now() + PATIENCE).unwrap();
        }
    };
    lent(&mut egress);
    let (measured, control) = alternate(7, || p50_us(CALLS, || lent(&mut egress)), || p50_us(CALLS, || four(&channel)));
    let (full, one) = alternate(7, || p50_us(CALLS, || lent(&mut egress)), || p50_us(CALLS, || lent(&mut of_one)));
    let row = |goal, what: String, measured, control, bound| Row {
        goal,
        what,
        measured,
        control,
        unit: "us",
        bound,
        published: "",
    };
    vec![
        row(
            "V1",
            format!(
                "a credential leased and redeemed, {FULL} secrets, log without a disk / four raw packet round trips"
            ),
            measured,
            control,
            Bound::RatioAtMost(1.35),
        ),
        row("P11", format!("the same, {FULL} secrets / one"), full, one, Bound::RatioAtMost(1.5)),
    ]
}

/// Milliseconds of the processor that this thread has used: others are on it as well.
pub(super) fn processor_ms() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(now.tv_sec).unwrap(), u32::try_from(now.tv_nsec).unwrap());
    ms(Duration::new(seconds, nanoseconds))
}

/// The goal is 50 ms of processor for 10,000 secrets, and one snapshot.
pub fn v7(_full: bool) -> Vec<Row> {
    let (_dir, state) = filled(FULL);
    let state = std::cell::RefCell::new(state);
    let took = |act: &mut dyn FnMut(&mut State)| {
        let mut state = state.borrow_mut();
        let (begun, before) = (processor_ms(), state.generation());
        act(&mut state);
        assert_eq!(state.generation(), before + 1, "one snapshot");
        processor_ms() - begun
    };
    let value = Secret::new(vec![b'x'; 40]).unwrap();
    let (measured, control) = alternate(
        7,
        || took(&mut |state| assert!(state.rotate_keys(2).is_ok())),
        || took(&mut |state| assert!(state.put(NAME, &value, None, 2).is_ok())),
    );
    vec![Row {
        goal: "V7",
        what: format!("processor time of a rotation of {FULL} secrets / of a put of one into the same store"),
        measured,
        control,
        unit: "ms",
        bound: Bound::AtMost(50.0 * FULL as f64 / 10_000.0),
        published: "",
    }]
}

/// From the start of the process to the first credential that it lends, its walls and its attestation included.
pub fn v8(_full: bool) -> Vec<Row> {
    let dirs = std::cell::RefCell::new([Some(filled(FULL).0), Some(filled(1).0)]);
    let resident = std::cell::Cell::new([0.0; 2]);
    let start = |which: usize| {
        let dir = dirs.borrow_mut()[which].take().unwrap();
        let begun = Instant::now();
        let (sealed, mut egress) = started(dir);
        lent(&mut egress);
        let took = ms(begun.elapsed());
        let mut now = resident.get();
        now[which] = sealed.resident_kib() as f64 / 1024.0;
        resident.set(now);
        dirs.borrow_mut()[which] = Some(sealed.stop());
        took
    };
    let (measured, control) = alternate(9, || start(0), || start(1));
    let [full, one] = resident.get();
    let row = |what: String, measured, control, unit, bound| Row {
        goal: "V8",
        what,
        measured,
        control,
        unit,
        bound,
        published: "",
    };
    vec![
        row(
            format!(
                "start of a sealed vault with {FULL} secrets to its first credential / of one with a single secret"
            ),
            measured,
            control,
            "ms",
            Bound::AtMost(50.0),
        ),
        row(format!("resident after that, {FULL} secrets / one"), full, one, "MiB", Bound::AtMost(24.0)),
    ]
}
