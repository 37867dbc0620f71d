//! Keys and stores that are not what was made: each ends the vault with a status and a reason of its own, nothing is written,
//! and the right file opens as if nothing had been.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test that cannot go on has failed")]

mod common;

use common::Broker;
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

const KEY: &str = "keys/secrets.key";
const STORE: &str = "vault/vault.db";

/// What of the file is, by path: kind, mode, content.
fn look(state: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for directory in ["keys", "vault"] {
        for entry in fs::read_dir(state.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
            found.insert(path.clone(), (mode, fs::read(&path).unwrap_or_default()));
        }
    }
    found
}

/// Spoils a vault, sees how it ends, mends it, and sees that it opens with the token it had.
fn ends(what: &str, spoil: impl Fn(&Path), status: i32, says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path();
    let (broker, _records) = Broker::ready(state, true);
    let token = broker.reveal().unwrap();
    assert_eq!(broker.exit(), Some(0));
    let good = [KEY, STORE].map(|name| (name, fs::read(state.join(name)).unwrap()));
    spoil(state);
    let before = look(state);
    let (found, said) = Broker::fails(state);
    assert_eq!(found, Some(status), "{what}: {said}");
    assert!(said.contains(says), "{what}: {said}");
    assert_eq!(look(state), before, "{what}: something was written");
    for (name, bytes) in good {
        let path = state.join(name);
        let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(if name == KEY { 0o400 } else { 0o600 })).unwrap();
    }
    let (broker, _records) = Broker::ready(state, true);
    assert_eq!(broker.reveal().unwrap(), token, "{what}: mended");
    assert_eq!(broker.exit(), Some(0));
}

/// Puts this in the place of a file, with a mode.
fn put(name: &'static str, bytes: impl AsRef<[u8]> + 'static, mode: u32) -> impl Fn(&Path) {
    move |state| {
        let path = state.join(name);
        fs::remove_file(&path).unwrap();
        fs::write(&path, &bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
}

fn edit(change: impl Fn(&mut Vec<u8>)) -> impl Fn(&Path) {
    move |state| {
        let path = state.join(STORE);
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn lost_short_open_or_foreign_key_file_has_a_status_and_a_reason_for_each() {
    ends("another key", put(KEY, "ab".repeat(32) + "\n", 0o400), 83, "is not the store of this key");
    ends("short", put(KEY, "ab".repeat(31) + "\n", 0o400), 81, "64 hexadecimal digits");
    ends("long", put(KEY, "ab".repeat(33) + "\n", 0o400), 81, "64 hexadecimal digits");
    ends("empty", put(KEY, "", 0o400), 81, "64 hexadecimal digits");
    let mode = |mode| move |state: &Path| fs::set_permissions(state.join(KEY), Permissions::from_mode(mode)).unwrap();
    ends("readable by all", mode(0o444), 82, "has mode 0444 where 0400 is needed");
    ends("readable by its group", mode(0o440), 82, "has mode 0440 where 0400 is needed");
    ends("writable", mode(0o600), 82, "has mode 0600 where 0400 is needed");
    ends("missing", |state| fs::remove_file(state.join(KEY)).unwrap(), 80, "is lost and vault/vault.db needs it");
    let directory = |state: &Path| {
        fs::remove_file(state.join(KEY)).unwrap();
        fs::create_dir(state.join(KEY)).unwrap();
    };
    ends("a directory", directory, 81, "is not a regular file");
    if rustix::process::geteuid().is_root() {
        ends("of another uid", |state| chown(state.join(KEY), Some(12_345), None).unwrap(), 82, "belongs to uid 12345");
    } else {
        eprintln!("SKIPPED: giving a file away needs root");
    }
}

#[test]
fn link_in_the_place_of_the_key_or_the_store_is_not_followed() {
    let link = |name: &'static str| {
        move |state: &Path| {
            fs::rename(state.join(name), state.join("elsewhere")).unwrap();
            symlink(state.join("elsewhere"), state.join(name)).unwrap();
        }
    };
    ends("a link to the key", link(KEY), 81, "is a link, which is not followed");
    ends("a link to the store", link(STORE), 86, "is not a regular file");
}

#[test]
fn cut_altered_foreign_or_missing_store_has_a_status_and_a_reason_for_each() {
    ends("cut", edit(|bytes| bytes.truncate(bytes.len() - 1)), 85, "it was cut, or added to");
    ends("cut to its header", edit(|bytes| bytes.truncate(40)), 85, "it was cut, or added to");
    ends("added to", edit(|bytes| bytes.push(0)), 85, "it was cut, or added to");
    ends("empty", edit(Vec::clear), 86, "is not a store of this version");
    ends("something else", edit(|bytes| bytes[..8].copy_from_slice(b"SQLite f")), 86, "is not a store of this version");
    ends("one bit", edit(|bytes| bytes[100] ^= 1), 87, "its trailer does not hold");
    ends("its generation", edit(|bytes| bytes[40] += 1), 87, "its trailer does not hold");
    ends("too large", edit(|bytes| bytes.resize(2 << 20, 0)), 85, "it was cut, or added to");
    ends("missing", |state| fs::remove_file(state.join(STORE)).unwrap(), 84, "vault.db is not there");
    let directory = |state: &Path| {
        fs::remove_file(state.join(STORE)).unwrap();
        fs::create_dir(state.join(STORE)).unwrap();
    };
    ends("a directory", directory, 86, "is not a regular file");
    let greedy = |bytes: &mut Vec<u8>| {
        *bytes = [b"MOLTPASS".as_slice(), &[0xff; 44], bytes].concat();
    };
    ends("a passphrase that takes all memory", edit(greedy), 87, "no passphrase's salt and costs");
    let other = tempfile::tempdir().unwrap();
    assert_eq!(Broker::ready(other.path(), true).0.exit(), Some(0));
    let foreign = fs::read(other.path().join(STORE)).unwrap();
    ends("another vault's", put(STORE, foreign, 0o600), 83, "is not the store of this key");
}
