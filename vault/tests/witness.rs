//! The sealed vault and its witness: nothing changes that the log is not told of first, nothing is answered before the log
//! knows that it was done, and nothing at all while the two do not belong together.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::{Broker, Commitments, logged, login, put_log_back};
use proto::audit::Record;
use proto::bounded::BoundedStr;
use proto::channel::CallError;
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::secret::Secret;
use proto::topology::EdgeId;
use proto::vault::{VaultAnswer, VaultVerb};
use proto::witness::Commitment;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;
use vault::state::State;

fn set(broker: &Broker, name: &str) -> Result<VaultAnswer, proto::edge::Refusal> {
    let (name, value) = (BoundedStr::truncated(name), Secret::new(b"the value".to_vec()).unwrap());
    broker.verb(VaultVerb::PutSecret { name, value, rotate: false })
}

fn standing(broker: &Broker) -> String {
    broker.say(&ToRole::Admin(9, AdminRequest::Standing), &[]);
    match broker.hear() {
        FromRole::Admin(9, Ok(AdminReply::Standing(why))) => why.to_string(),
        other => panic!("{other:?}"),
    }
}

fn store(state: &Path) -> Vec<u8> {
    std::fs::read(state.join("vault/vault.db")).unwrap()
}

#[test]
fn change_is_in_the_log_before_it_is_answered() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let made = logged(state.path()).committed.unwrap();
    assert_eq!(made.generation, 1);
    assert!(set(&broker, "model").is_ok());
    let log = logged(state.path());
    assert_eq!((log.committed.unwrap().generation, log.intended), (2, None));
    assert_ne!(log.committed.unwrap().root, made.root);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn change_that_the_log_cannot_be_told_of_is_not_made() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready_with(state.path(), true, 1);
    let before = store(state.path());
    assert_eq!(set(&broker, "model").err().unwrap().rule.as_str(), "audit.unwritable");
    assert_eq!(store(state.path()), before);
    assert_eq!(logged(state.path()).committed.unwrap().generation, 1);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn vault_that_cannot_say_what_it_did_ends_unanswered_and_its_successor_says_it() {
    let state = tempfile::tempdir().unwrap();
    // The state of the first start, then the intent; the word that it was reached is refused.
    let (mut broker, _records) = Broker::ready_with(state.path(), true, 2);
    broker.tell_verb(VaultVerb::RotateKeys);
    assert_eq!(broker.child.wait().unwrap().code(), Some(70));
    let log = logged(state.path());
    assert_eq!((log.committed.unwrap().generation, log.intended.unwrap().generation), (1, 2));
    let (broker, _records) = Broker::ready(state.path(), true);
    assert_eq!(logged(state.path()).committed, log.intended);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn vault_whose_log_speaks_of_a_later_store_refuses_everything_until_that_is_accepted() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let token = broker.reveal().unwrap();
    assert_eq!(broker.verb(VaultVerb::AcceptRollback).err().unwrap().rule.as_str(), "vault.not_rolled_back");
    assert_eq!((standing(&broker), broker.exit()), (String::new(), Some(0)));
    let later = Commitment { generation: 7, root: [7; 32] };
    put_log_back(state.path(), Commitments { committed: Some(later), intended: None });
    let before = store(state.path());
    let (broker, records) = Broker::ready(state.path(), true);
    assert!(standing(&broker).contains("older store was put back"));
    assert_eq!(broker.reveal().unwrap_err().rule.as_str(), "vault.rolled_back");
    assert_eq!(set(&broker, "model").err().unwrap().rule.as_str(), "vault.rolled_back");
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let refused = login(&mut gateway, &token).unwrap_err();
    assert!(matches!(refused, CallError::Refused(refusal) if refusal.rule.as_str() == "vault.rolled_back"));
    assert_eq!(store(state.path()), before, "what was put back is evidence");
    let verb = |record| match record {
        Record::Secret { verb, granted, .. } => (verb.to_string(), granted),
        other => panic!("{other:?}"),
    };
    assert_eq!(verb(records.recv().unwrap()), ("vault.rolled_back".into(), false));
    assert!(matches!(broker.verb(VaultVerb::AcceptRollback), Ok(VaultAnswer::Done(8))));
    assert_eq!(verb(records.recv().unwrap()), ("vault.accept-rollback".into(), true));
    assert_eq!((standing(&broker), broker.reveal().unwrap()), (String::new(), token));
    assert_eq!(logged(state.path()).committed.unwrap().generation, 8);
    assert_eq!(broker.exit(), Some(0));
}

/// Seconds since 1970 at the beginning of 2100.
const LATER: u64 = 4_102_444_800;

#[test]
fn vault_whose_clock_was_set_back_refuses_everything_until_that_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["keys", "vault"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let fd = |name: &str| OwnedFd::from(File::open(dir.path().join(name)).unwrap());
    let mut state = State::open(&fd("keys"), fd("vault")).unwrap();
    state.witness().attach(common::witness(dir.path(), usize::MAX));
    state.look().unwrap();
    let view = state.witness().view(Some(Instant::now() + common::PATIENCE)).unwrap().unwrap();
    state.take_view(&view, LATER).unwrap();
    state.put("model", &Secret::new(b"a value".to_vec()).unwrap(), None, LATER).unwrap();
    drop(state);
    let before = store(dir.path());
    let (broker, _records) = Broker::ready(dir.path(), true);
    assert!(standing(&broker).contains("clock is") && standing(&broker).contains("set back"), "{}", standing(&broker));
    assert_eq!(broker.reveal().unwrap_err().rule.as_str(), "vault.clock");
    assert_eq!(store(dir.path()), before, "nothing is lost and nothing is written");
    assert!(broker.verb(VaultVerb::AcceptRollback).is_ok());
    assert!(broker.reveal().is_ok() && standing(&broker).is_empty());
    assert_eq!(broker.exit(), Some(0));
    let (broker, _records) = Broker::ready(dir.path(), true);
    assert!(broker.reveal().is_ok(), "the twin: the time that was accepted holds");
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn store_of_which_the_log_knows_nothing_any_more_is_refused() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    assert!(set(&broker, "model").is_ok());
    assert_eq!(broker.exit(), Some(0));
    put_log_back(state.path(), Commitments::default());
    let (broker, _records) = Broker::ready(state.path(), true);
    assert!(standing(&broker).contains("the log was cut"), "{}", standing(&broker));
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn guesser_does_not_learn_from_a_log_that_cannot_be_written_which_token_was_right() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let token = broker.reveal().unwrap();
    assert_eq!(broker.exit(), Some(0));
    let (broker, _records) = Broker::ready_with(state.path(), false, 0);
    let mut gateway = broker.client(EdgeId::GatewayVault);
    let mut answer = |token: &[u8]| match login(&mut gateway, token).unwrap_err() {
        CallError::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(answer(&token), answer(b"wrong"));
    assert_eq!(answer(b"wrong").rule.as_str(), "audit.unwritable");
    assert_eq!(broker.exit(), Some(0));
}
