//! Secrets by hand, over real processes: what the operator puts in is used by its policy or not at all, nothing of it is
//! on disk or in an argument, and every verb is in the log before it is answered.

use serde_json::Value;
use system_tests::client::Client;
use system_tests::{System, in_both_layouts};

const VALUE: &str = "hunter2-is-the-value-of-it";
const POLICY: &str = "verb inject\nrole egress\nheader authorization\nprefix \"Bearer \"\nhost api.example.com\nmethod GET\npath /v1\nbudget 3\n";

fn does(system: &System, args: &[&str], input: &str) -> String {
    let output = system.fed(args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(system: &System, args: &[&str], input: &str) -> String {
    let output = system.fed(args, input);
    assert!(!output.status.success(), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn holds(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

in_both_layouts! {
    fn secret_goes_in_by_standard_input_and_comes_out_by_its_policy_alone(system: System) {
        does(&system, &["secrets", "set", "model.key"], &format!("{VALUE}\n"));
        assert!(refused(&system, &["secrets", "set", "model.key"], "x").contains("vault.exists"));
        assert!(refused(&system, &["secrets", "reveal", "model.key"], "").contains("vault.reveal"));
        does(&system, &["secrets", "policy", "model.key", "--file", "-"], "reveal yes\n");
        assert_eq!(does(&system, &["secrets", "reveal", "model.key"], ""), format!("{VALUE}\n"));
        does(&system, &["secrets", "policy", "model.key", "--file", "-"], POLICY);
        assert!(refused(&system, &["secrets", "reveal", "model.key"], "").contains("vault.reveal"));
        let wrong = refused(&system, &["secrets", "policy", "model.key", "--file", "-"], "hosts x.org\n");
        assert!(wrong.contains("vault.policy") && wrong.contains("line 1"), "{wrong}");
        let rows: Value = serde_json::from_str(&system.says(&["secrets", "list", "--json"])).unwrap();
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "model.key").unwrap();
        assert_eq!((&row["version"], &row["verb"], &row["budget"]), (&3.into(), &"inject".into(), &3.into()));
        does(&system, &["secrets", "rotate", "model.key"], "another");
        does(&system, &["vault", "rotate"], "");
        does(&system, &["secrets", "remove", "model.key"], "");
        assert!(refused(&system, &["secrets", "rotate", "model.key"], "x").contains("vault.no_such_secret"));
    }

    fn verbs_are_recorded_and_the_value_is_nowhere_on_disk(system: System) {
        does(&system, &["secrets", "set", "model.key"], VALUE);
        does(&system, &["secrets", "policy", "model.key", "--file", "-"], "reveal yes\n");
        does(&system, &["secrets", "reveal", "model.key"], "");
        let verbs: Vec<(String, String)> = system
            .records("secret-audit")
            .iter()
            .filter(|record| record["name"] == "model.key")
            .map(|record| (record["verb"].as_str().unwrap().to_owned(), record["requester"].as_str().unwrap().to_owned()))
            .collect();
        assert!(verbs.iter().all(|(_, who)| who.starts_with("operator:")));
        let verbs: Vec<&str> = verbs.iter().map(|(verb, _)| verb.as_str()).collect();
        assert_eq!(verbs, ["secrets.set", "secrets.policy.set", "secrets.reveal"]);
        let usage = system.says(&["secrets", "usage", "model.key", "--since", "1h"]);
        assert_eq!(usage.lines().count(), 3, "{usage}");
        let touched: Value = serde_json::from_str(&system.says(&["secrets", "touched", "--since", "10m", "--json"])).unwrap();
        assert_eq!((&touched[0]["name"], &touched[0]["times"]), (&"model.key".into(), &1.into()));
        for name in ["logs/secret-audit.jsonl", "logs/system-audit.jsonl", "vault/vault.db"] {
            let bytes = std::fs::read(system.state().join(name)).unwrap();
            assert!(!bytes.is_empty() && !holds(&bytes, VALUE), "{name}");
        }
    }

    fn lockout_ends_by_the_operators_word(system: System) {
        for _ in 0..6 {
            assert_eq!(Client::connect(system.port()).log_in(4, 4, "wrong")["ok"], false);
        }
        let token = system.token();
        assert_eq!(Client::connect(system.port()).log_in(4, 4, &token)["error"]["details"]["code"], "AUTH_RATE_LIMITED");
        assert_eq!(system.says(&["gateway", "unlock"]), "1 addresses may try again\n");
        assert_eq!(Client::connect(system.port()).log_in(4, 4, &token)["ok"], true);
    }

    fn master_key_is_renewed_while_everything_runs(system: System) {
        does(&system, &["secrets", "set", "model.key"], VALUE);
        does(&system, &["secrets", "policy", "model.key", "--file", "-"], "reveal yes\n");
        let (key, token) = (system.state().join("keys/secrets.key"), system.token());
        let old = std::fs::read(&key).unwrap();
        let epoch = system.role("vault")["epoch"].as_u64().unwrap();
        does(&system, &["vault", "rotate", "--master"], "");
        system.wait_epoch("vault", epoch + 1);
        assert_ne!(std::fs::read(&key).unwrap(), old);
        assert_eq!(std::fs::read_dir(system.state().join("keys")).unwrap().count(), 1);
        assert_eq!(does(&system, &["secrets", "reveal", "model.key"], ""), format!("{VALUE}\n"));
        assert_eq!(system.token(), token);
        let verbs = system.records("secret-audit");
        for verb in ["vault.renew", "vault.renewed"] {
            assert!(verbs.iter().any(|record| record["verb"] == verb), "{verb}");
        }
    }

    fn revocation_says_how_many_leases_it_ended(system: System) {
        assert_eq!(system.says(&["secrets", "revoke"]), "0 leases ended\n");
    }
}
