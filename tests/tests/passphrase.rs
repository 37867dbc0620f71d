//! A vault with a passphrase, by the whole of Moltbot: it comes up locked, says so to everybody, and is opened by the operator.

use std::io::Write;
use std::process::{Output, Stdio};
use system_tests::client::Client;
use system_tests::{System, in_both_layouts, programs};

const PASSPHRASE: &str = "correct horse battery staple";

fn fed(system: &System, args: &[&str], input: &str) -> Output {
    let mut command = system.command(&programs().join("moltbot"));
    command.arg("--state-dir").arg(system.state()).args(args).env_remove("MOLTBOT_STATE_DIR");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn refuses(system: &System) -> String {
    system.status()["vault"]["refuses"].as_str().unwrap().to_owned()
}

in_both_layouts! {
    fn vault_with_a_passphrase_comes_up_locked_and_says_so_until_it_is_unlocked(system: System) {
        let token = system.token();
        assert!(fed(&system, &["vault", "passphrase", "set"], &format!("{PASSPHRASE}\n")).status.success());
        assert_eq!(system.token(), token);
        system.down();
        let mut system = system;
        system.up();
        assert!(refuses(&system).contains("moltbot vault unlock"));
        let refused = Client::connect(system.port()).log_in(3, 4, &token).to_string();
        assert!(refused.contains("vault.locked"), "{refused}");
        let wrong = fed(&system, &["vault", "unlock"], "wrong horse battery staple\n");
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("vault.wrong_passphrase"));
        assert!(fed(&system, &["vault", "unlock"], &format!("{PASSPHRASE}\n")).status.success());
        assert_eq!((refuses(&system), system.token()), (String::new(), token.clone()));
        drop(Client::logged_in(system.port(), &token));
        // A vault that died comes back locked: nobody keeps the passphrase.
        system.kill("vault");
        system.wait_epoch("vault", 2);
        assert!(refuses(&system).contains("moltbot vault unlock"));
        assert!(fed(&system, &["vault", "unlock"], PASSPHRASE).status.success());
        assert_eq!(system.token(), token);
        for name in ["logs/secret-audit.jsonl", "logs/system-audit.jsonl", "broker.log", "vault/vault.db"] {
            let bytes = std::fs::read(system.state().join(name)).unwrap();
            assert!(!bytes.windows(12).any(|part| part == &PASSPHRASE.as_bytes()[..12]), "{name}");
        }
    }
}
