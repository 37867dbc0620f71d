//! Backups of the vault: what Moltbot writes the real `age` and `tar` restore, what they write Moltbot restores, and an older
//! generation is put back only by somebody who says so twice.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use system_tests::{System, in_both_layouts, skip};

/// A recipient and the file with its identity, by the real `age-keygen`; none where there is none.
fn keygen(system: &System) -> Option<(String, PathBuf)> {
    let identity = system.state().with_file_name("identity.txt");
    let made = Command::new("age-keygen").arg("-o").arg(&identity).stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        skip("age-keygen and age are not installed");
        return None;
    }
    let text = std::fs::read_to_string(&identity).unwrap();
    std::fs::set_permissions(&identity, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let recipient = text.lines().find_map(|line| line.strip_prefix("# public key: ")).unwrap().to_owned();
    // Moltbot runs as another user here, and writes beside the state directory.
    std::fs::set_permissions(identity.parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    Some((recipient, identity))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn error(system: &System, args: &[&str]) -> String {
    let output = system.moltbot(args);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

in_both_layouts! {
    fn backup_is_recorded_and_comes_back_by_age_and_tar_and_by_moltbot(system: System) {
        let Some((recipient, identity)) = keygen(&system) else { return };
        let (state, file) = (system.state().to_owned(), system.state().with_file_name("backup.age"));
        let token = system.token();
        let said = system.says(&["vault", "backup", "--to", text(&file), "--recipient", &recipient]);
        assert!(said.contains("with its key") && !said.contains("not recorded"), "{said}");
        let records = system.records("secret-audit");
        let record = records.iter().find(|record| record["verb"] == "vault.backup").unwrap();
        assert_eq!(record["detail"], text(&file));
        assert!(error(&system, &["vault", "backup", "--to", text(&file), "--recipient", &recipient]).contains("exists"));
        assert!(error(&system, &["vault", "restore", text(&file), "--identity", text(&identity)]).contains("moltbot down"));
        system.down();
        // Without Moltbot.
        let plain = state.with_file_name("plain.tar");
        let age = Command::new("age").arg("-d").arg("-i").arg(&identity).arg("-o").arg(&plain).arg(&file).status();
        assert!(age.unwrap().success(), "the real age reads it");
        let there = state.with_file_name("there");
        std::fs::create_dir(&there).unwrap();
        assert!(Command::new("tar").arg("-xf").arg(&plain).arg("-C").arg(&there).status().unwrap().success());
        for name in ["keys/secrets.key", "vault/vault.db"] {
            assert_eq!(std::fs::read(there.join(name)).unwrap(), std::fs::read(state.join(name)).unwrap(), "{name}");
        }
        // By Moltbot, what the real age wrote.
        let again = state.with_file_name("again.age");
        let age = Command::new("age").arg("-r").arg(&recipient).arg("-o").arg(&again).arg(&plain).status();
        assert!(age.unwrap().success());
        std::fs::set_permissions(&again, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::remove_file(state.join("keys/secrets.key")).unwrap();
        std::fs::remove_file(state.join("vault/vault.db")).unwrap();
        let tried = system.says(&["vault", "restore", text(&again), "--identity", text(&identity), "--dry-run"]);
        assert!(tried.contains("nothing was written") && !state.join("vault/vault.db").exists(), "{tried}");
        let _ = system.says(&["vault", "restore", text(&again), "--identity", text(&identity)]);
        let mut system = system;
        system.up();
        assert_eq!(system.token(), token);
        assert_eq!(system.status()["vault"]["refuses"], "");
    }

    fn older_backup_is_refused_until_it_is_said_twice(system: System) {
        let Some((recipient, identity)) = keygen(&system) else { return };
        let (state, file) = (system.state().to_owned(), system.state().with_file_name("backup.age"));
        let _ = system.says(&["vault", "backup", "--to", text(&file), "--recipient", &recipient]);
        let _ = system.says(&["vault", "rotate"]);
        system.down();
        let restore = ["vault", "restore", text(&file), "--identity", text(&identity)];
        let before = std::fs::read(state.join("vault/vault.db")).unwrap();
        assert!(error(&system, &restore).contains("--accept-rollback"));
        // Nor where the store is gone: the log knows.
        std::fs::rename(state.join("vault/vault.db"), state.with_file_name("gone")).unwrap();
        assert!(error(&system, &restore).contains("the log speaks of generation"));
        std::fs::rename(state.with_file_name("gone"), state.join("vault/vault.db")).unwrap();
        assert_eq!(std::fs::read(state.join("vault/vault.db")).unwrap(), before);
        let said = system.says(&[&restore[..], &["--accept-rollback"]].concat());
        assert!(said.contains("moltbot vault accept-rollback"), "{said}");
        let mut system = system;
        system.up();
        assert!(system.status()["vault"]["refuses"].as_str().unwrap().contains("older store"));
        let _ = system.says(&["vault", "accept-rollback"]);
        assert!(!system.token().is_empty());
    }

    fn file_that_is_not_for_us_or_was_altered_or_is_of_another_vault_is_not_restored(system: System) {
        let Some((recipient, identity)) = keygen(&system) else { return };
        let (state, file) = (system.state().to_owned(), system.state().with_file_name("backup.age"));
        let _ = system.says(&["vault", "backup", "--to", text(&file), "--recipient", &recipient]);
        system.down();
        let before = std::fs::read(state.join("vault/vault.db")).unwrap();
        let stranger = state.with_file_name("stranger.txt");
        assert!(Command::new("age-keygen").arg("-o").arg(&stranger).stderr(Stdio::null()).status().unwrap().success());
        std::fs::set_permissions(&stranger, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let refused = error(&system, &["vault", "restore", text(&file), "--identity", text(&stranger)]);
        assert!(refused.contains("not encrypted to this identity"), "{refused}");
        let altered = state.with_file_name("altered.age");
        let mut bytes = std::fs::read(&file).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&altered, bytes).unwrap();
        let refused = error(&system, &["vault", "restore", text(&altered), "--identity", text(&identity)]);
        assert!(refused.contains("altered"), "{refused}");
        let other = System::start(system.who(), &system_tests::Sandbox::Native);
        let foreign = state.with_file_name("foreign.age");
        let _ = other.says(&["vault", "backup", "--to", text(&foreign), "--recipient", &recipient]);
        std::fs::set_permissions(&foreign, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let refused = error(&system, &["vault", "restore", text(&foreign), "--identity", text(&identity)]);
        assert!(refused.contains("another vault is here"), "{refused}");
        assert_eq!(std::fs::read(state.join("vault/vault.db")).unwrap(), before, "nothing was written");
    }
}
