//! The store is what `docs/FORMATS.md` says: a reader in another language, written from that text, opens what the vault
//! wrote, and refuses what was altered.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use proto::secret::Secret;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output};
use vault::permit::Policy;
use vault::state::{GATEWAY_TOKEN, State};

fn open(state: &Path) -> State {
    let fd = |name: &str| {
        std::fs::create_dir_all(state.join(name)).unwrap();
        OwnedFd::from(File::open(state.join(name)).unwrap())
    };
    State::open(&fd("keys"), fd("vault")).unwrap()
}

/// False, loudly, where python3 or its package `cryptography` is not there; a failure where everything is required.
fn has_python() -> bool {
    let found = Command::new("python3").args(["-c", "import cryptography"]).output();
    let found = found.is_ok_and(|output| output.status.success());
    let required = std::env::var("MOLTBOT_TEST_REQUIRE").is_ok_and(|all| all == "all");
    assert!(found || !required, "python3 with the package cryptography is required");
    if !found {
        eprintln!("SKIPPED: python3 with the package cryptography is not there");
    }
    found
}

/// Used where one seals the store. On a command line only here, where it protects nothing.
const PASSPHRASE: &str = "correct horse";

fn read(state: &Path) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader/read_vault.py");
    let (key, store) = (state.join("keys/secrets.key"), state.join("vault/vault.db"));
    Command::new("python3").arg(script).args([key, store]).arg(PASSPHRASE).output().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn reader_in_another_language_opens_every_secret() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let policy = "verb verify\nrole gateway\n";
    for n in 0..7 {
        let value = Secret::new(format!("value {n}").into_bytes()).unwrap();
        state.put(&format!("name.{n}"), &value, Some(&Policy::parse(policy).unwrap()), 9).unwrap();
    }
    state.rotate_keys(10).unwrap();
    let output = read(dir.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(&format!("\"generation\": {}", state.generation())));
    for n in 0..7 {
        assert!(text.contains(&format!("\"value\": \"{}\"", hex(format!("value {n}").as_bytes()))), "{text}");
    }
    let token = state.open_secret(GATEWAY_TOKEN).unwrap();
    assert!(text.contains(&hex(token.expose())) && text.contains("verb verify\\nrole gateway\\n"));
    let kek = hex(state.contents().ring.expose().next().unwrap());
    assert!(text.contains(&kek));
}

#[test]
fn reader_in_another_language_refuses_what_was_altered() {
    if !has_python() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    assert!(read(dir.path()).status.success());
    let path = dir.path().join("vault/vault.db");
    let bytes = std::fs::read(&path).unwrap();
    for (at, why) in
        [(0, "version"), (8, "another key"), (40, "altered"), (90, "altered"), (bytes.len() - 1, "altered")]
    {
        let mut bad = bytes.clone();
        if let Some(byte) = bad.get_mut(at) {
            *byte ^= 1;
        }
        std::fs::write(&path, bad).unwrap();
        let output = read(dir.path());
        assert!(!output.status.success());
        assert!(
            String::from_utf8_lossy(&output.stderr).contains(why),
            "{at}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[test]
fn reader_in_another_language_opens_a_store_that_a_passphrase_seals_with_that_one_alone() {
    if !has_python() {
        return;
    }
    let has_argon2 = "from cryptography.hazmat.primitives.kdf.argon2 import Argon2id";
    if !Command::new("python3").args(["-c", has_argon2]).output().unwrap().status.success() {
        return eprintln!("SKIPPED: this python3's cryptography has no Argon2id (it is in 44 and later)");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut state = open(dir.path());
    let value = Secret::new(b"behind it".to_vec()).unwrap();
    state.put("name", &value, None, 9).unwrap();
    for (passphrase, opens) in [(PASSPHRASE, true), ("another one", false)] {
        state.set_passphrase(Some(&Secret::new(passphrase.as_bytes().to_vec()).unwrap())).unwrap();
        let output = read(dir.path());
        assert_eq!(output.status.success(), opens, "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap().contains(&hex(b"behind it")), opens);
    }
}
