//! V14: a right that was taken back, ran out, or belonged to an egress that is gone gives nothing, from the moment on at which
//! the vault said so. The bytes are never shared: they leave the vault with the answer to a redemption and not before, so a
//! lease that was not redeemed has nothing that could be left behind.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::{Broker, PATIENCE};
use proto::audit::Record;
use proto::bounded::BoundedStr;
use proto::channel::{CallError, Client};
use proto::edge::EgressVault;
use proto::ids::SessionKey;
use proto::secret::Secret;
use proto::vault::{Destination, LeaseId, LeaseReply, LeaseRequest, VaultAnswer, VaultVerb};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;

const NAME: &str = "model";
const VALUE: &[u8] = b"a credential that is lent";
const DIGEST: [u8; 32] = [1; 32];

fn policy(broker: &Broker, ttl: u64) {
    let text = format!(
        "verb inject\nrole egress\nheader authorization\nhost api.example.org\nmethod POST\npath /v1\nttl {ttl}\n"
    );
    let verb = VaultVerb::SetPolicy { name: BoundedStr::truncated(NAME), text: BoundedStr::truncated(&text) };
    broker.verb(verb).map(drop).unwrap();
}

fn scene(ttl: u64) -> (tempfile::TempDir, Broker, Receiver<Record>, Client<EgressVault>) {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    let (name, value) = (BoundedStr::truncated(NAME), Secret::new(VALUE.to_vec()).unwrap());
    broker.verb(VaultVerb::PutSecret { name, value, rotate: false }).map(drop).unwrap();
    policy(&broker, ttl);
    let egress = broker.egress();
    (state, broker, records, egress)
}

fn to() -> Destination {
    Destination { host: BoundedStr::truncated("api.example.org"), port: 443 }
}

fn lease(egress: &mut Client<EgressVault>) -> (LeaseId, u32) {
    let request = LeaseRequest::Lease {
        session: SessionKey(BoundedStr::truncated("agent:main:main")),
        credential: BoundedStr::truncated(NAME),
        to: to(),
        method: BoundedStr::truncated("POST"),
        path: BoundedStr::truncated("/v1/messages"),
        digest: DIGEST,
    };
    match egress.call(&request, &[], PATIENCE).unwrap() {
        (LeaseReply::Leased { lease, ttl_ms, .. }, _) => (lease, ttl_ms),
        _ => panic!("not leased"),
    }
}

/// The bytes behind a lease, or the rule that refused them.
fn redeem(egress: &mut Client<EgressVault>, lease: LeaseId) -> Result<Vec<u8>, String> {
    match egress.call(&LeaseRequest::Redeem { lease, to: to(), digest: DIGEST }, &[], PATIENCE) {
        Ok((LeaseReply::Redeemed(secret), _)) => Ok(secret.expose().to_vec()),
        Err(CallError::Refused(refusal)) => Err(refusal.rule.to_string()),
        other => panic!("{:?}", other.map(|_| ())),
    }
}

fn over() -> Result<Vec<u8>, String> {
    Err("vault.no_lease".to_owned())
}

/// Waits on a timer of the clock that leases go by.
fn let_pass(milliseconds: u32) {
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC).unwrap();
    let it_value =
        Timespec { tv_sec: i64::from(milliseconds / 1_000), tv_nsec: i64::from(milliseconds % 1_000) * 1_000_000 };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once).unwrap();
    poll(&mut [PollFd::new(&timer, PollFlags::IN)], None).unwrap();
}

#[test]
fn lease_that_was_taken_back_gives_nothing_and_one_that_was_not_gives_the_bytes() {
    let (_state, broker, records, mut egress) = scene(60);
    let kept = lease(&mut egress).0;
    assert_eq!(redeem(&mut egress, kept), Ok(VALUE.to_vec()), "the twin");
    assert_eq!(redeem(&mut egress, kept), over(), "once");
    let many: Vec<LeaseId> = (0..200).map(|_| lease(&mut egress).0).collect();
    assert!(matches!(broker.verb(VaultVerb::RevokeLeases), Ok(VaultAnswer::Done(200))));
    for lease in &many {
        assert_eq!(redeem(&mut egress, *lease), over());
    }
    // Whatever makes another secret of it takes the old one's leases back as well.
    type Changes<'b> = [(&'static str, &'b dyn Fn()); 3];
    let put = || {
        let (name, value) = (BoundedStr::truncated(NAME), Secret::new(b"another".to_vec()).unwrap());
        broker.verb(VaultVerb::PutSecret { name, value, rotate: true }).map(drop).unwrap();
    };
    let remove = || broker.verb(VaultVerb::RemoveSecret { name: BoundedStr::truncated(NAME) }).map(drop).unwrap();
    let changes: Changes<'_> =
        [("a rotation", &put), ("another policy", &|| policy(&broker, 60)), ("a removal", &remove)];
    for (what, change) in changes {
        let lease = lease(&mut egress).0;
        change();
        assert_eq!(redeem(&mut egress, lease), over(), "{what}");
    }
    assert_eq!(broker.exit(), Some(0));
    let revoked = records.iter().any(|record| {
        matches!(&record, Record::Secret { verb, detail, .. }
        if verb.as_str() == "secrets.revoke" && detail.as_str() == "200 ended: model")
    });
    assert!(revoked, "it is in the log");
}

#[test]
fn lease_whose_seconds_are_over_gives_nothing() {
    let (_state, broker, _records, mut egress) = scene(1);
    let (first, ttl_ms) = lease(&mut egress);
    assert_eq!(ttl_ms, 1_000);
    // The twin: within its second, however slow this machine is.
    let in_time = (0..50).any(|_| {
        let lease = lease(&mut egress).0;
        redeem(&mut egress, lease) == Ok(VALUE.to_vec())
    });
    assert!(in_time);
    let_pass(ttl_ms);
    assert_eq!(redeem(&mut egress, first), over());
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn lease_ends_with_the_egress_that_it_was_given_to() {
    let (_state, broker, _records, mut egress) = scene(60);
    let given = lease(&mut egress).0;
    drop(egress);
    let mut next = broker.egress();
    assert_eq!(redeem(&mut next, given), over());
    let own = lease(&mut next).0;
    assert_eq!(redeem(&mut next, own), Ok(VALUE.to_vec()), "the twin");
    assert_eq!(broker.exit(), Some(0));
}

/// Asks for the same credential in every way that its policy allows; how often it was lent, and the rules of all refusals.
fn asks_as_often_as_it_can(egress: &mut Client<EgressVault>) -> (usize, BTreeSet<String>) {
    let (mut lent, mut rules) = (0, BTreeSet::new());
    for number in 0..60u8 {
        let request = LeaseRequest::Lease {
            session: SessionKey(BoundedStr::truncated(&format!("agent:main:{number}"))),
            credential: BoundedStr::truncated(NAME),
            to: to(),
            method: BoundedStr::truncated("POST"),
            path: BoundedStr::truncated(&format!("/v1/{number}?{number}")),
            digest: [number; 32],
        };
        match egress.call(&request, &[], PATIENCE) {
            // Every other one is used; one that is given back was lent all the same.
            Ok((LeaseReply::Leased { lease, .. }, _)) => {
                lent += 1;
                let next = match number % 2 {
                    0 => LeaseRequest::Redeem { lease, to: to(), digest: [number; 32] },
                    _ => LeaseRequest::Release { lease },
                };
                egress.call(&next, &[], PATIENCE).map(drop).unwrap();
            }
            Err(CallError::Refused(refusal)) => drop(rules.insert(refusal.rule.to_string())),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
    (lent, rules)
}

#[test]
fn rate_budget_and_approval_hold_against_an_egress_that_asks_as_often_as_it_can() {
    let (state, broker, _records, mut egress) = scene(60);
    let bounded = |broker: &Broker, bound: &str| {
        let text = format!(
            "verb inject\nrole egress\nheader authorization\nhost api.example.org\nmethod POST\npath /v1\n{bound}\n"
        );
        let verb = VaultVerb::SetPolicy { name: BoundedStr::truncated(NAME), text: BoundedStr::truncated(&text) };
        broker.verb(verb).map(drop).unwrap();
    };
    let approve = |broker: &Broker| {
        broker.verb(VaultVerb::ApproveUse { name: BoundedStr::truncated(NAME) }).map(drop).unwrap();
    };
    let only = |rule: &str| BTreeSet::from([rule.to_owned()]);
    assert_eq!(asks_as_often_as_it_can(&mut egress), (60, BTreeSet::new()), "the twin");
    bounded(&broker, "rate 7/86400");
    assert_eq!(asks_as_often_as_it_can(&mut egress), (7, only("vault.rate")));
    // A new edge is the same role.
    assert_eq!(asks_as_often_as_it_can(&mut broker.egress()), (0, only("vault.rate")));
    let mut egress = broker.egress();
    bounded(&broker, "approval yes");
    approve(&broker);
    approve(&broker);
    assert_eq!(asks_as_often_as_it_can(&mut egress), (2, only("vault.approval")));
    approve(&broker);
    broker.verb(VaultVerb::RevokeLeases).map(drop).unwrap();
    assert_eq!(asks_as_often_as_it_can(&mut egress), (0, only("vault.approval")), "what was allowed was taken back");
    bounded(&broker, "budget 7");
    assert_eq!(asks_as_often_as_it_can(&mut egress), (7, only("vault.budget")));
    assert_eq!(broker.exit(), Some(0));
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(asks_as_often_as_it_can(&mut broker.egress()), (0, only("vault.budget")), "a start gives none back");
    assert_eq!(broker.exit(), Some(0));
}
