//! Everything about the vault that can be wrong when somebody starts it or asks it, by the whole of Moltbot: the person at the
//! command gets a status and a reason of each's own, nothing is written, and what was there is there when it was put right.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{SystemTime, UNIX_EPOCH};
use system_tests::{As, Sandbox, System, in_both_layouts, is_root};
use vault::keys::Master;
use vault::snapshot;

const KEY: &str = "keys/secrets.key";
const STORE: &str = "vault/vault.db";

/// All there is of key and store: owner, mode, content.
fn look(state: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for directory in ["keys", "vault"] {
        for entry in fs::read_dir(state.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::symlink_metadata(&path).unwrap();
            found.insert(path.clone(), (data.uid(), data.mode(), fs::read(&path).unwrap_or_default()));
        }
    }
    found
}

/// Makes the files what they were.
fn put_back(state: &Path, good: &BTreeMap<PathBuf, (u32, u32, Vec<u8>)>) {
    for path in look(state).keys() {
        let _ = fs::remove_dir(path).or_else(|_| fs::remove_file(path));
    }
    for (path, (uid, mode, bytes)) in good {
        fs::write(path, bytes).unwrap();
        if is_root() {
            chown(path, Some(*uid), Some(*uid)).unwrap();
        }
        fs::set_permissions(path, Permissions::from_mode(mode & 0o7777)).unwrap();
    }
}

/// Another content for one of them; owner and mode stay.
fn write(path: &Path, bytes: &[u8]) {
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The store of another vault.
fn foreign() -> Vec<u8> {
    let other = System::start(As::User, &Sandbox::Native);
    other.down();
    fs::read(other.state().join(STORE)).unwrap()
}

type Spoils<'s> = (&'static str, i32, &'static str, &'s dyn Fn(&Path));

in_both_layouts! {
    fn start_with_a_bad_key_or_store_ends_up_with_its_own_status_and_reason_and_writes_nothing(system: System) {
        let output = system.fed(&["secrets", "set", "model.key"], "the value");
        assert!(output.status.success(), "{output:?}");
        let token = system.token();
        system.down();
        let mut system = system;
        let state = system.state().to_owned();
        let (good, foreign) = (look(&state), foreign());
        let key = |text: String| move |state: &Path| write(&state.join(KEY), text.as_bytes());
        let mode = |mode| move |state: &Path| fs::set_permissions(state.join(KEY), Permissions::from_mode(mode)).unwrap();
        let gone = |name: &'static str| move |state: &Path| fs::remove_file(state.join(name)).unwrap();
        let link = |name: &'static str| move |state: &Path| {
            fs::rename(state.join(name), state.join("elsewhere")).unwrap();
            symlink(state.join("elsewhere"), state.join(name)).unwrap();
        };
        let edit = |change: fn(&mut Vec<u8>)| move |state: &Path| {
            let mut bytes = fs::read(state.join(STORE)).unwrap();
            change(&mut bytes);
            write(&state.join(STORE), &bytes);
        };
        let given_away = |state: &Path| if is_root() { chown(state.join(KEY), Some(54_321), None).unwrap() } else { mode(0o440)(state) };
        let spoils: [Spoils<'_>; 16] = [
            ("no key", 80, "keys/secrets.key is lost and vault/vault.db needs it", &gone(KEY)),
            ("a short key", 81, "keys/secrets.key is not 64 hexadecimal digits", &key("ab".repeat(31) + "\n")),
            ("a long key", 81, "keys/secrets.key is not 64 hexadecimal digits", &key("ab".repeat(33) + "\n")),
            ("a link to the key", 81, "keys/secrets.key is a link", &link(KEY)),
            ("a key that all read", 82, "keys/secrets.key has mode 0444 where 0400 is needed", &mode(0o444)),
            ("a key that its group reads", 82, "keys/secrets.key has mode 0440 where 0400 is needed", &mode(0o440)),
            ("a key of somebody else's", 82, "keys/secrets.key ", &given_away),
            ("another key", 83, "vault/vault.db is not the store of this key", &key("ab".repeat(32) + "\n")),
            ("another vault's store", 83, "vault/vault.db is not the store of this key", &|state| write(&state.join(STORE), &foreign)),
            ("no store", 84, "vault/vault.db is not there", &gone(STORE)),
            ("a cut store", 85, "it was cut, or added to", &edit(|bytes| bytes.truncate(bytes.len() / 2))),
            ("a store with something behind it", 85, "it was cut, or added to", &edit(|bytes| bytes.push(0))),
            ("an empty store", 86, "vault/vault.db is not a store of this version", &edit(Vec::clear)),
            ("something else", 86, "vault/vault.db is not a store of this version", &edit(|bytes| bytes[..8].copy_from_slice(b"SQLite f"))),
            ("a link to the store", 86, "vault/vault.db is not a regular file", &link(STORE)),
            ("one bit", 87, "vault/vault.db was altered", &edit(|bytes| bytes[100] ^= 1)),
        ];
        for (what, status, reason, spoil) in spoils {
            spoil(&state);
            let spoiled = look(&state);
            let (found, text) = said(&system.moltbot(&["up", "--port", "0"]));
            assert_eq!(found, Some(status), "{what}: {text}");
            assert!(text.contains(reason), "{what}: {text}");
            assert_eq!(look(&state), spoiled, "{what}: something was written");
            let _ = fs::remove_file(state.join("elsewhere"));
            put_back(&state, &good);
        }
        system.up();
        assert_eq!(system.token(), token, "and nothing was lost");
        let rows = system.says(&["secrets", "list"]);
        assert!(rows.contains("model.key"), "{rows}");
    }

    fn bad_name_value_or_policy_has_its_own_status_and_changes_nothing(system: System) {
        let set = |name: &str, value: &str| said(&system.fed(&["secrets", "set", name], value));
        assert_eq!(set("model.key", "the value").0, Some(0), "the twin");
        assert_eq!(set(&"n".repeat(64), &"v".repeat(1024)).0, Some(0), "the longest");
        let policy = |text: &str| said(&system.fed(&["secrets", "policy", "model.key", "--file", "-"], text));
        assert_eq!(policy("reveal yes\n").0, Some(0), "the twin");
        let before = fs::read(system.state().join(STORE)).unwrap();
        let long = "#".repeat(4097);
        for ((found, text), status, reason) in [
            (set(&"n".repeat(65), "x"), 10, "vault.name"),
            (set("a name", "x"), 10, "vault.name"),
            (set("long", &"v".repeat(1025)), 11, "vault.value"),
            (set("empty", ""), 12, "vault.empty"),
            (policy("hosts api.example.org\n"), 13, "line 1: there is no field \"hosts\""),
            (policy("reveal perhaps\n"), 13, "line 1: reveal is yes or no"),
            (policy(&long), 13, "at most 4096 bytes"),
            (set("model.key", "x"), 1, "vault.exists"),
        ] {
            assert_eq!(found, Some(status), "{text}");
            assert!(text.contains(reason), "{text}");
        }
        assert!(fs::read(system.state().join(STORE)).unwrap() == before, "nothing was written");
        assert_eq!(system.says(&["secrets", "reveal", "model.key"]), "the value\n");
    }

    fn clock_behind_what_was_signed_is_refused_with_its_own_status_until_it_is_accepted(system: System) {
        let token = system.token();
        system.down();
        let mut system = system;
        let (key, store) = (system.state().join(KEY), system.state().join(STORE));
        // No test may set the machine's clock: the vault signed tomorrow instead.
        let master = Master::from_text(&fs::read(key).unwrap()).unwrap();
        let (place, mut contents) = snapshot::unseal(&master, &fs::read(&store).unwrap()).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let _ = contents.memory.cosign(&[], now + 86_400);
        write(&store, &snapshot::seal(&[], &master, &place, &contents).unwrap());
        let before = fs::read(&store).unwrap();
        system.up();
        let (status, text) = said(&system.moltbot(&["gateway", "token", "--reveal"]));
        assert_eq!(status, Some(14), "{text}");
        assert!(text.contains("vault.clock") && text.contains("seconds behind the time"), "{text}");
        let (status, text) = said(&system.fed(&["secrets", "set", "model.key"], "x"));
        assert_eq!(status, Some(14), "{text}");
        assert!(fs::read(&store).unwrap() == before, "nothing was written");
        let records = system.records("secret-audit");
        assert!(records.iter().any(|record| record["verb"] == "vault.clock" && record["success"] == false));
        let accepted = system.says(&["vault", "accept-rollback"]);
        assert!(accepted.starts_with("accepted: the machine's clock is ") && !accepted.contains("set it right"), "{accepted}");
        assert_eq!(system.token(), token);
    }
}
