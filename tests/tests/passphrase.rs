//! A vault with a passphrase, by the whole of Moltbot: it comes up locked, says so to everybody, and is opened by the operator.

use system_tests::client::Client;
use system_tests::{System, in_both_layouts};

const PASSPHRASE: &str = "correct horse battery staple";

fn refuses(system: &System) -> String {
    system.status()["vault"]["refuses"].as_str().unwrap().to_owned()
}

in_both_layouts! {
    fn vault_with_a_passphrase_comes_up_locked_and_says_so_until_it_is_unlocked(system: System) {
        let token = system.token();
        assert!(system.fed(&["vault", "passphrase", "set"], &format!("{PASSPHRASE}\n")).status.success());
        assert_eq!(system.token(), token);
        system.down();
        let mut system = system;
        system.up();
        assert!(refuses(&system).contains("moltbot vault unlock"));
        let refused = Client::connect(system.port()).log_in(3, 4, &token).to_string();
        assert!(refused.contains("vault.locked"), "{refused}");
        let wrong = system.fed(&["vault", "unlock"], "wrong horse battery staple\n");
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("vault.wrong_passphrase"));
        assert!(system.fed(&["vault", "unlock"], &format!("{PASSPHRASE}\n")).status.success());
        assert_eq!((refuses(&system), system.token()), (String::new(), token.clone()));
        drop(Client::logged_in(system.port(), &token));
        // A vault that died comes back locked: nobody keeps the passphrase.
        system.kill("vault");
        system.wait_epoch("vault", 2);
        assert!(refuses(&system).contains("moltbot vault unlock"));
        assert!(system.fed(&["vault", "unlock"], PASSPHRASE).status.success());
        assert_eq!(system.token(), token);
        for name in ["logs/secret-audit.jsonl", "logs/system-audit.jsonl", "broker.log", "vault/vault.db"] {
            let bytes = std::fs::read(system.state().join(name)).unwrap();
            assert!(!bytes.windows(12).any(|part| part == &PASSPHRASE.as_bytes()[..12]), "{name}");
        }
    }
}
