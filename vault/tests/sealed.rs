//! The real process behind its real walls, with the test in the places of broker, auditd and gateway.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::{Broker, PATIENCE, login};
use hmac::{Hmac, Mac as _};
use proto::audit::{AuthReason, Record};
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::{CallError, Channel};
use proto::control::{FromRole, ToRole};
use proto::edge::Refusal;
use proto::secret::Secret;
use proto::topology::{EdgeId, Side};
use proto::vault::{Destination, LeaseReply, LeaseRequest, VaultAnswer, VaultReply, VaultRequest, VaultVerb};
use sha2::Sha256;

#[test]
fn sealed_vault_reveals_its_token_recorded_and_lets_it_in() {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    let verb = |record| match record {
        Record::Secret { verb, requester, granted, .. } => (verb.to_string(), requester.to_string(), granted),
        other => panic!("{other:?}"),
    };
    assert_eq!(verb(records.recv().unwrap()), ("create".into(), "vault".into(), true));
    let token = broker.reveal().unwrap();
    assert_eq!(verb(records.recv().unwrap()), ("reveal".into(), "operator:1000".into(), true));
    let mut gateway = broker.client(EdgeId::GatewayVault);
    assert!(matches!(login(&mut gateway, &token).unwrap(), VaultReply::Admitted(_)));
    assert!(matches!(records.recv().unwrap(), Record::Auth { .. }));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn sealed_vault_locks_after_five_failures_and_a_restart_does_not_forget() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let token = broker.reveal().unwrap();
    let mut gateway = broker.client(EdgeId::GatewayVault);
    for _ in 0..5 {
        let reply = login(&mut gateway, b"wrong").unwrap();
        assert!(matches!(reply, VaultReply::Rejected { reason: AuthReason::TokenMismatch, .. }));
    }
    // No farewell: what was answered is on disk.
    drop(broker);
    let (broker, _records) = Broker::ready(state.path(), true);
    let reply = login(&mut broker.client(EdgeId::GatewayVault), &token).unwrap();
    assert!(matches!(reply, VaultReply::Rejected { reason: AuthReason::RateLimited, retry_after_s: 1..=300 }));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn sealed_vault_refuses_everything_while_nothing_can_be_recorded() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), false);
    assert_eq!(broker.reveal().unwrap_err().rule.as_str(), "audit.unwritable");
    let refused = login(&mut broker.client(EdgeId::GatewayVault), b"x").unwrap_err();
    assert!(matches!(refused, CallError::Refused(refusal) if refusal.message.contains("No space left")));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn lease_without_a_policy_is_recorded_and_refused() {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    let request = lease("gateway.token", "example.org");
    let mut egress = broker.egress();
    let Err(CallError::Refused(refusal)) = egress.call(&request, &[], PATIENCE) else { panic!("granted") };
    assert_eq!(refusal.rule.as_str(), "vault.no_grant");
    let last = records.recv().and_then(|_made| records.recv()).unwrap();
    assert!(matches!(last, Record::Secret { granted: false, .. }));
    assert_eq!(broker.exit(), Some(0));
}

const POLICY: &str =
    "verb inject\nrole egress\nheader authorization\nprefix \"Bearer \"\nhost example.org\nmethod GET\npath /v1\n";

fn lease(name: &str, host: &str) -> LeaseRequest {
    LeaseRequest::Lease {
        session: proto::ids::SessionKey(BoundedStr::truncated("agent:main:main")),
        credential: BoundedStr::truncated(name),
        to: Destination { host: BoundedStr::truncated(host), port: 443 },
        method: BoundedStr::truncated("GET"),
        path: BoundedStr::truncated("/v1/chat?key=1"),
        digest: [7; 32],
    }
}

fn redeem(reply: LeaseReply) -> LeaseRequest {
    let LeaseReply::Leased { lease, .. } = reply else { panic!("no lease") };
    let to = Destination { host: BoundedStr::truncated("example.org"), port: 443 };
    LeaseRequest::Redeem { lease, to, digest: [7; 32] }
}

fn put(broker: &Broker, name: &str, policy: &str) {
    let (name, value) = (BoundedStr::truncated(name), Secret::new(b"the value".to_vec()).unwrap());
    broker.verb(VaultVerb::PutSecret { name: name.clone(), value, rotate: false }).map(drop).unwrap();
    broker.verb(VaultVerb::SetPolicy { name, text: BoundedStr::truncated(policy) }).map(drop).unwrap();
}

fn rule<T>(outcome: Result<T, CallError>) -> String {
    match outcome.map(drop).unwrap_err() {
        CallError::Refused(Refusal { rule, .. }) => rule.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn leased_secret_is_redeemed_once_and_each_step_is_recorded_before_it_is_answered() {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    put(&broker, "model", POLICY);
    let mut egress = broker.egress();
    let (reply, _) = egress.call(&lease("model", "example.org"), &[], PATIENCE).unwrap();
    let request = redeem(reply);
    let Ok((LeaseReply::Redeemed(value), _)) = egress.call(&request, &[], PATIENCE) else { panic!("not redeemed") };
    assert_eq!(value.expose(), b"the value");
    let again = egress.call(&request, &[], PATIENCE);
    assert_eq!(rule(again), "vault.no_lease");
    let seen: Vec<_> = records.try_iter().collect();
    let verbs: Vec<_> = seen
        .iter()
        .map(|record| match record {
            Record::Secret { verb, granted, detail, .. } => {
                assert!(!detail.contains("key=1") && !detail.contains("the value"), "{detail}");
                (verb.as_str(), *granted)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        ("create", true),
        ("secrets.set", true),
        ("secrets.policy.set", true),
        ("lease", true),
        ("redeem", true),
        ("redeem", false),
    ];
    assert_eq!(verbs, expected);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn freeze_ends_every_lease_and_names_what_was_lent() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    put(&broker, "model", POLICY);
    let mut egress = broker.egress();
    let (reply, _) = egress.call(&lease("model", "example.org"), &[], PATIENCE).unwrap();
    let request = redeem(reply);
    broker.say(&ToRole::Freeze { why: BoundedStr::truncated("a test") }, &[]);
    let FromRole::Frozen { detail, .. } = broker.hear() else { panic!("not frozen") };
    assert_eq!(detail.as_str(), "0 approvals revoked, 1 leases ended: model");
    assert_eq!(rule(egress.call(&request, &[], PATIENCE)), "lockdown");
    assert_eq!(rule(egress.call(&lease("model", "example.org"), &[], PATIENCE)), "lockdown");
    broker.say(&ToRole::Thaw, &[]);
    // Control and the edge are two ways: only what is answered on the one is known to be before what comes on the other.
    broker.say(&ToRole::Ping(1), &[]);
    assert!(matches!(broker.hear(), FromRole::Pong(1)));
    let (reply, _) = egress.call(&lease("model", "example.org"), &[], PATIENCE).unwrap();
    assert_eq!(rule(egress.call(&request, &[], PATIENCE)), "vault.no_lease", "what was lent before is gone for good");
    assert!(matches!(egress.call(&redeem(reply), &[], PATIENCE), Ok((LeaseReply::Redeemed(_), _))));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn lease_ends_with_its_edge_and_when_it_is_revoked() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    put(&broker, "model", POLICY);
    let mut egress = broker.egress();
    let (reply, _) = egress.call(&lease("model", "example.org"), &[], PATIENCE).unwrap();
    let mut egress = broker.egress();
    assert_eq!(rule(egress.call(&redeem(reply), &[], PATIENCE)), "vault.no_lease");
    let (reply, _) = egress.call(&lease("model", "example.org"), &[], PATIENCE).unwrap();
    assert!(matches!(broker.verb(VaultVerb::RevokeLeases), Ok(VaultAnswer::Done(1))));
    assert_eq!(rule(egress.call(&redeem(reply), &[], PATIENCE)), "vault.no_lease");
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn honey_secret_closes_the_edge_of_who_asks_and_is_reported_and_recorded() {
    let state = tempfile::tempdir().unwrap();
    let (broker, records) = Broker::ready(state.path(), true);
    put(&broker, "aws.root", &format!("{POLICY}honey yes\n"));
    put(&broker, "model", POLICY);
    let mut egress = broker.egress();
    egress.call(&lease("model", "example.org"), &[], PATIENCE).map(drop).unwrap();
    assert!(matches!(egress.call(&lease("aws.root", "example.org"), &[], PATIENCE), Err(CallError::Gone)));
    let FromRole::Violated { edge: EdgeId::EgressVault, detail } = broker.hear() else { panic!("not reported") };
    assert!(detail.contains("aws.root"));
    assert!(
        records
            .try_iter()
            .any(|record| matches!(&record, Record::Secret { verb, granted: false, .. } if verb.as_str() == "honey"))
    );
    let name = BoundedStr::truncated("aws.root");
    let shown = broker.verb(VaultVerb::RevealSecret { name }).map(drop);
    assert_eq!(shown.unwrap_err().rule.as_str(), "vault.honey");
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn gateway_learns_one_bit_of_a_secret_that_verifies() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    put(&broker, "hook", "verb verify\nrole gateway\nrate 2/60\n");
    put(&broker, "model", POLICY);
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let mut ask = |name: &str, mac| {
        let (credential, message) = (BoundedStr::truncated(name), BoundedBytes::new(b"message".to_vec()).unwrap());
        gateway.call(&VaultRequest::VerifyMac { credential, message, mac }, &[], PATIENCE).map(|(reply, _)| reply)
    };
    let mut right = Hmac::<Sha256>::new_from_slice(b"the value").unwrap();
    right.update(b"message");
    assert_eq!(ask("hook", right.finalize().into_bytes().into()).unwrap(), VaultReply::Accepted);
    assert_eq!(ask("hook", [0; 32]).unwrap(), VaultReply::Denied);
    assert_eq!(rule(ask("hook", [0; 32])), "vault.rate");
    assert_eq!(rule(ask("model", [0; 32])), "vault.verb");
    assert_eq!(rule(ask("absent", [0; 32])), "vault.no_such_credential");
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn garbage_on_an_edge_closes_it_alone_and_is_reported() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let (ours, theirs) = Channel::pair().unwrap();
    broker.grant(EdgeId::EgressVault, Side::Server, &theirs);
    ours.send(b"garbage garbage", &[]).unwrap();
    assert!(matches!(broker.hear(), FromRole::Violated { edge: EdgeId::EgressVault, .. }));
    assert!(matches!(login(&mut gateway, b"x").unwrap(), VaultReply::Rejected { .. }));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn altered_store_is_exit_87() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(broker.exit(), Some(0));
    let path = state.path().join("vault/vault.db");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut refused = Broker::start(state.path());
    assert_eq!(refused.child.wait().unwrap().code(), Some(87));
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
fn sealed_vault_refuses_a_login_whose_failure_it_cannot_store_and_goes_on() {
    let Some(Small(state)) = &Small::mount(c"size=64k") else { return };
    let (broker, _records) = Broker::ready(state.path(), true);
    let token = broker.reveal().unwrap();
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let ballast = state.path().join("ballast");
    assert!(std::fs::write(&ballast, vec![0; 1 << 20]).is_err());
    let Err(CallError::Refused(refusal)) = login(&mut gateway, b"wrong") else { panic!("answered") };
    assert_eq!(refusal.rule.as_str(), "vault.unwritable");
    std::fs::remove_file(&ballast).unwrap();
    assert!(matches!(login(&mut gateway, &token).unwrap(), VaultReply::Admitted(_)));
    assert_eq!(broker.exit(), Some(0));
    assert_eq!(std::fs::read_dir(state.path().join("vault")).unwrap().count(), 1);
}
