//! A store that a passphrase seals, over the real process: locked at each start, refusing everything, opened by the right one
//! alone, and never by the key file or the passphrase by itself.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::{Broker, PATIENCE, logged, login, put_log_back};
use proto::audit::Record;
use proto::channel::CallError;
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::edge::Refusal;
use proto::secret::Secret;
use proto::topology::EdgeId;
use proto::vault::{VaultAnswer, VaultReply, VaultVerb};
use std::path::Path;
use std::sync::mpsc::Receiver;

fn secret(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec()).unwrap()
}

fn set(broker: &Broker, passphrase: &str) -> Result<VaultAnswer, Refusal> {
    broker.verb(VaultVerb::SetPassphrase { passphrase: secret(passphrase) })
}

fn unlock(broker: &Broker, passphrase: &str) -> Result<VaultAnswer, Refusal> {
    broker.verb(VaultVerb::Unlock { passphrase: secret(passphrase) })
}

fn rule(outcome: Result<VaultAnswer, Refusal>) -> String {
    outcome.err().unwrap().rule.to_string()
}

fn standing(broker: &Broker) -> String {
    broker.say(&ToRole::Admin(9, AdminRequest::Standing), &[]);
    match broker.hear() {
        FromRole::Admin(9, Ok(AdminReply::Standing(why))) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

/// A vault with a passphrase, ended; and its token.
fn sealed(state: &Path) -> Vec<u8> {
    let (broker, _records) = Broker::ready(state, true);
    let token = broker.reveal().unwrap();
    assert_eq!(rule(unlock(&broker, "correct horse")), "vault.not_locked");
    assert_eq!(rule(set(&broker, "short")), "vault.short");
    assert_eq!(rule(broker.verb(VaultVerb::RemovePassphrase)), "vault.no_passphrase");
    set(&broker, "correct horse").map(drop).unwrap();
    assert_eq!(rule(broker.verb(VaultVerb::RenewMaster)), "vault.passphrase");
    assert_eq!(broker.reveal().unwrap(), token, "who set it works on");
    assert_eq!(broker.exit(), Some(0));
    token
}

fn verbs(records: &Receiver<Record>) -> Vec<(String, bool)> {
    let verb = |record| match record {
        Record::Secret { verb, granted, .. } => (verb.to_string(), granted),
        other => panic!("{other:?}"),
    };
    records.try_iter().map(verb).collect()
}

#[test]
fn locked_vault_refuses_everything_until_the_passphrase_and_a_wrong_one_is_recorded() {
    let state = tempfile::tempdir().unwrap();
    let token = sealed(state.path());
    let (broker, records) = Broker::ready(state.path(), true);
    assert!(standing(&broker).contains("moltbot vault unlock"));
    assert_eq!(broker.reveal().unwrap_err().rule.as_str(), "vault.locked");
    assert_eq!(rule(broker.verb(VaultVerb::RotateKeys)), "vault.locked");
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let refused = login(&mut gateway, &token).unwrap_err();
    assert!(matches!(refused, CallError::Refused(refusal) if refusal.rule.as_str() == "vault.locked"));
    assert_eq!(rule(unlock(&broker, "correct horsf")), "vault.wrong_passphrase");
    assert_eq!(verbs(&records), [("vault.unlock".into(), true), ("vault.unlock".into(), false)]);
    let generation = logged(state.path()).committed.unwrap().generation;
    assert!(matches!(unlock(&broker, "correct horse"), Ok(VaultAnswer::Done(number)) if number == generation));
    // On the edges that it was given while it was locked.
    assert!(matches!(login(&mut gateway, &token).unwrap(), VaultReply::Admitted(_)));
    assert_eq!((standing(&broker), broker.reveal().unwrap()), (String::new(), token));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn frozen_while_locked_stays_frozen_when_it_opens() {
    let state = tempfile::tempdir().unwrap();
    let token = sealed(state.path());
    let (broker, _records) = Broker::ready(state.path(), true);
    broker.say(&ToRole::Freeze { why: proto::bounded::BoundedStr::truncated("a test") }, &[]);
    assert!(matches!(broker.hear(), FromRole::Frozen { .. }));
    let mut gateway = broker.client(EdgeId::GatewayVault);
    unlock(&broker, "correct horse").map(drop).unwrap();
    let refused = login(&mut gateway, &token).unwrap_err();
    assert!(matches!(refused, CallError::Refused(refusal) if refusal.rule.as_str() == "lockdown"));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn passphrase_that_is_not_recorded_is_not_tried() {
    let state = tempfile::tempdir().unwrap();
    sealed(state.path());
    let (broker, _records) = Broker::ready(state.path(), false);
    assert_eq!(rule(unlock(&broker, "correct horse")), "audit.unwritable");
    assert!(standing(&broker).contains("locked"));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn passphrase_without_the_key_file_and_the_key_file_of_another_vault_open_nothing() {
    let state = tempfile::tempdir().unwrap();
    sealed(state.path());
    let store = std::fs::read(state.path().join("vault/vault.db")).unwrap();
    let other = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(other.path(), true);
    assert_eq!(broker.exit(), Some(0));
    let key = state.path().join("keys/secrets.key");
    std::fs::rename(&key, state.path().join("key")).unwrap();
    let mut without = Broker::start(state.path());
    assert_eq!(without.child.wait().unwrap().code(), Some(80));
    std::fs::copy(other.path().join("keys/secrets.key"), &key).unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(rule(unlock(&broker, "correct horse")), "vault.wrong_passphrase");
    assert_eq!(broker.exit(), Some(0));
    assert_eq!(std::fs::read(state.path().join("vault/vault.db")).unwrap(), store);
    std::fs::rename(state.path().join("key"), &key).unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    unlock(&broker, "correct horse").map(drop).unwrap();
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn passphrase_is_changed_and_removed_and_the_old_one_opens_nothing() {
    let state = tempfile::tempdir().unwrap();
    let token = sealed(state.path());
    let (broker, _records) = Broker::ready(state.path(), true);
    unlock(&broker, "correct horse").map(drop).unwrap();
    set(&broker, "battery staple").map(drop).unwrap();
    assert_eq!(broker.exit(), Some(0));
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(rule(unlock(&broker, "correct horse")), "vault.wrong_passphrase");
    unlock(&broker, "battery staple").map(drop).unwrap();
    broker.verb(VaultVerb::RemovePassphrase).map(drop).unwrap();
    assert_eq!(broker.exit(), Some(0));
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!((standing(&broker), broker.reveal().unwrap()), (String::new(), token));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn store_from_before_the_passphrase_is_a_rollback() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(broker.exit(), Some(0));
    let path = state.path().join("vault/vault.db");
    let open = std::fs::read(&path).unwrap();
    let log = logged(state.path());
    sealed(state.path());
    let now = logged(state.path());
    std::fs::write(&path, open).unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(broker.reveal().unwrap_err().rule.as_str(), "vault.rolled_back");
    assert_eq!(broker.exit(), Some(0));
    // The twin: with the log of that time it opens, which is the limit.
    put_log_back(state.path(), log);
    let (broker, _records) = Broker::ready(state.path(), true);
    assert!(broker.reveal().is_ok() && now.committed != log.committed);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn locked_vault_gives_up_who_breaks_the_protocol() {
    let state = tempfile::tempdir().unwrap();
    sealed(state.path());
    let (broker, _records) = Broker::ready(state.path(), true);
    let (ours, theirs) = proto::channel::Channel::pair().unwrap();
    broker.grant(EdgeId::GatewayVault, proto::topology::Side::Server, &theirs);
    drop(theirs);
    ours.send(b"garbage", &[]).unwrap();
    assert!(matches!(broker.hear(), FromRole::Violated { edge: EdgeId::GatewayVault, .. }));
    assert!(ours.recv_by(64, 0, std::time::Instant::now() + PATIENCE).is_err());
    unlock(&broker, "correct horse").map(drop).unwrap();
    assert_eq!(broker.exit(), Some(0));
}
