//! The master key as a credential of the service manager (systemd's LoadCredential=), by the whole of Moltbot.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use system_tests::{As, Sandbox, System, USER, is_root, programs, skip};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

fn key_of_the_manager_is_used_by_every_vault_and_none_is_made(who: As) {
    let system = System::prepare(who, &Sandbox::Native);
    let credentials = system.state().with_file_name("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let key = credentials.join("secrets.key");
    std::fs::write(&key, KEY).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o400)).unwrap();
    if is_root() && who == As::User {
        for path in [&credentials, &key] {
            std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
        }
    }
    let mut up = system.command(&programs().join("moltbot"));
    up.arg("--state-dir").arg(system.state()).args(["up", "--port", "0"]).stdin(Stdio::null());
    let output = up.env("CREDENTIALS_DIRECTORY", &credentials).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let token = system.token();
    assert_eq!(std::fs::read_dir(system.state().join("keys")).unwrap().count(), 0);
    // Broker holds the file open for the next vault, which reads it from its beginning.
    system.kill("vault");
    system.wait_epoch("vault", 2);
    assert_eq!(system.token(), token);
    // The drill's copy of the vault has what the vault has behind its walls: not the key.
    assert!(system.says(&["drill", "run"]).contains("vault"));
}

#[test]
fn as_root() {
    if is_root() {
        key_of_the_manager_is_used_by_every_vault_and_none_is_made(As::Root);
    } else {
        skip("not root");
    }
}

#[test]
fn as_user() {
    key_of_the_manager_is_used_by_every_vault_and_none_is_made(As::User);
}
