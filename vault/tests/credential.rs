//! The master key from the service manager, over the real process: the same file, held to the same, and never beside another.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::Broker;
use proto::vault::VaultVerb;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

fn credential(state: &Path, text: &str, mode: u32) -> PathBuf {
    let path = state.join("credential");
    let _ = std::fs::remove_file(&path);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

fn ready(state: &Path, key: &Path) -> Broker {
    let broker = Broker::start_with(state, Some(key));
    let (broker, records) = Broker::go_on(broker, state, true, usize::MAX);
    std::mem::forget(records);
    broker
}

fn exit(state: &Path, key: &Path) -> Option<i32> {
    let mut broker = Broker::start_with(state, Some(key));
    broker.child.wait().unwrap().code()
}

#[test]
fn vault_whose_key_the_manager_keeps_opens_again_and_leaves_no_key_on_disk() {
    let state = tempfile::tempdir().unwrap();
    let key = credential(state.path(), KEY, 0o400);
    let broker = ready(state.path(), &key);
    let token = broker.reveal().unwrap();
    let refused = broker.verb(VaultVerb::RenewMaster).err().unwrap();
    assert_eq!(refused.rule.as_str(), "vault.kept_elsewhere");
    assert!(broker.verb(VaultVerb::RotateKeys).is_ok());
    assert_eq!(broker.exit(), Some(0));
    assert_eq!(std::fs::read_dir(state.path().join("keys")).unwrap().count(), 0);
    let broker = ready(state.path(), &key);
    assert_eq!(broker.reveal().unwrap(), token);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn key_that_is_moved_to_the_manager_opens_the_store_that_it_sealed() {
    let state = tempfile::tempdir().unwrap();
    let (broker, _records) = Broker::ready(state.path(), true);
    let token = broker.reveal().unwrap();
    assert_eq!(broker.exit(), Some(0));
    let file = state.path().join("keys/secrets.key");
    let key = credential(state.path(), &std::fs::read_to_string(&file).unwrap(), 0o400);
    let store = std::fs::read(state.path().join("vault/vault.db")).unwrap();
    assert_eq!(exit(state.path(), &key), Some(78), "two keys: which one?");
    std::fs::remove_file(file).unwrap();
    assert_eq!(std::fs::read(state.path().join("vault/vault.db")).unwrap(), store);
    let broker = ready(state.path(), &key);
    assert_eq!(broker.reveal().unwrap(), token);
    assert_eq!(broker.exit(), Some(0));
}

#[test]
fn credential_that_is_no_key_or_another_one_or_that_others_read_has_a_status_for_each() {
    let state = tempfile::tempdir().unwrap();
    let key = credential(state.path(), KEY, 0o400);
    assert_eq!(ready(state.path(), &key).exit(), Some(0));
    let store = std::fs::read(state.path().join("vault/vault.db")).unwrap();
    let other = KEY.replace("00", "11");
    let bad =
        [("", 0o400, 81), (&KEY[..40], 0o400, 81), (KEY.trim_end(), 0o400, 81), (KEY, 0o444, 82), (&other, 0o400, 83)];
    for (text, mode, status) in bad {
        assert_eq!(exit(state.path(), &credential(state.path(), text, mode)), Some(status), "{text:?} {mode:o}");
    }
    assert_eq!(std::fs::read(state.path().join("vault/vault.db")).unwrap(), store, "nothing was written");
    assert_eq!(ready(state.path(), &credential(state.path(), KEY, 0o400)).exit(), Some(0));
}
