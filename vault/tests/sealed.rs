//! The real process behind its real walls, with the test in the places of broker, auditd and gateway.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::{Broker, PATIENCE, login};
use proto::audit::{AuthReason, Record};
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::{CallError, Channel};
use proto::control::FromRole;
use proto::edge::EgressVault;
use proto::topology::{EdgeId, Side};
use proto::vault::{LeaseRequest, VaultReply};

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
    assert_eq!(login(&mut gateway, &token).unwrap(), VaultReply::Accepted);
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
    let request = LeaseRequest::Lease {
        credential: BoundedStr::truncated("gateway.token"),
        host: BoundedStr::truncated("example.org"),
        port: 443,
        digest: BoundedBytes::new(vec![0; 32]).unwrap(),
    };
    let mut egress = broker.client::<EgressVault>(EdgeId::EgressVault);
    let Err(CallError::Refused(refusal)) = egress.call(&request, &[], PATIENCE) else { panic!("granted") };
    assert_eq!(refusal.rule.as_str(), "vault.no_such_credential");
    let last = records.recv().and_then(|_made| records.recv()).unwrap();
    assert!(matches!(last, Record::Secret { granted: false, .. }));
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
fn altered_store_is_exit_79() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(broker.exit(), Some(0));
    let path = state.path().join("vault/vault.db");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut refused = Broker::start(state.path());
    assert_eq!(refused.child.wait().unwrap().code(), Some(79));
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
    assert_eq!(login(&mut gateway, &token).unwrap(), VaultReply::Accepted);
    assert_eq!(broker.exit(), Some(0));
    assert_eq!(std::fs::read_dir(state.path().join("vault")).unwrap().count(), 1);
}
