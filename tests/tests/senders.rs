//! Who may speak to the agent, over real processes: a bridge brings strangers' messages in, the operator lets them in.

use serde_json::{Value, json};
use system_tests::client::Client;
use system_tests::{System, in_both_layouts};

fn inbound(client: &mut Client, id: &str, channel: &str, sender: &str) -> Value {
    let params = json!({ "channel": channel, "senderId": sender, "senderName": "Mallory \u{1b}[2J", "message": "/help",
        "idempotencyKey": id });
    client.send(id, "channels.inbound", &params);
    client.answer(id)
}

fn pairing(system: &System, args: &[&str]) -> (bool, Value) {
    let output = system.moltbot(&[&["--json"], args].concat());
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap())
}

in_both_layouts! {
    fn stranger_is_let_in_by_its_code_alone_and_out_again(system: System) {
        let mut client = Client::logged_in(system.port(), &system.token());
        let asked = inbound(&mut client, "1", "telegram", "8734062810");
        assert_eq!(asked["payload"]["status"], "pairing", "{asked}");
        let code = asked["payload"]["code"].as_str().unwrap().to_owned();
        let (_, rows) = pairing(&system, &["pairing", "list"]);
        assert_eq!((rows[0]["code"].as_str(), rows[0]["sender"].as_str()), (Some(code.as_str()), Some("8734062810")));
        let shown = system.says(&["pairing", "list", "telegram"]);
        assert!(shown.contains(&code) && !shown.contains('\u{1b}'), "{shown}");

        let wrong = if code == "AAAAAAAA" { "BBBBBBBB" } else { "AAAAAAAA" };
        let (approved, error) = pairing(&system, &["pairing", "approve", "telegram", wrong, "--yes"]);
        assert!(!approved && error["error"].as_str().unwrap().contains("pairing.wrong_code"), "{error}");
        // Without a terminal and without --yes nobody is let in.
        assert!(!system.moltbot(&["pairing", "approve", "telegram", &code]).status.success());
        assert_eq!(inbound(&mut client, "2", "telegram", "8734062810")["payload"]["status"], "pairing");

        let (approved, answer) = pairing(&system, &["pairing", "approve", "telegram", &code.to_lowercase(), "--yes"]);
        assert!(approved && answer["allowed"]["paired"] == true, "{answer}");
        let started = inbound(&mut client, "3", "telegram", "8734062810");
        assert_eq!(started["payload"]["status"], "started", "{started}");
        assert_eq!(inbound(&mut client, "4", "telegram", "8734062811")["payload"]["status"], "pairing");

        // The list outlives the vault.
        system.kill("vault");
        system.wait_epoch("vault", 2);
        assert_eq!(inbound(&mut client, "5", "telegram", "8734062810")["payload"]["status"], "started");
        let (revoked, _) = pairing(&system, &["pairing", "revoke", "telegram", "8734062810"]);
        assert!(revoked);
        assert_eq!(inbound(&mut client, "6", "telegram", "8734062810")["payload"]["status"], "pairing");

        let records = system.records("auth-audit");
        let verbs: Vec<_> = records.iter().filter(|record| record["type"] == "sender").collect();
        for (verb, success) in [("pairing.request", true), ("pairing.approve", false), ("pairing.approve", true), ("pairing.revoke", true)] {
            assert!(verbs.iter().any(|record| record["verb"] == verb && record["success"] == success), "{verb} {success}");
        }
        assert!(!serde_json::to_string(&records).unwrap().contains(&code), "no code is in the log");
    }

    fn allowlist_lets_in_who_is_on_it_and_an_empty_one_nobody(system: System) {
        let mut client = Client::logged_in(system.port(), &system.token());
        let status = |answer: &Value| answer["payload"]["status"].as_str().unwrap_or_default().to_owned();
        assert!(pairing(&system, &["pairing", "mode", "signal", "allowlist"]).0);
        let refused = inbound(&mut client, "1", "signal", "+441");
        assert_eq!((status(&refused).as_str(), refused["payload"]["reason"].as_str()), ("refused", Some("senders.not_listed")));
        assert!(pairing(&system, &["allowlist", "add", "signal", "+441", "--name", "Ann"]).0);
        assert_eq!(status(&inbound(&mut client, "2", "signal", "+441")), "started");
        assert_eq!(status(&inbound(&mut client, "3", "signal", "+442")), "refused");
        for (sender, rule) in [("*", "allowlist.wildcard"), ("a b", "senders.id")] {
            let (added, error) = pairing(&system, &["allowlist", "add", "signal", sender]);
            assert!(!added && error["error"].as_str().unwrap().contains(rule), "{error}");
        }
        let (_, lists) = pairing(&system, &["allowlist", "list"]);
        assert_eq!(lists[0]["allowed"][0]["name"], "Ann");
        assert!(pairing(&system, &["allowlist", "remove", "signal", "+441"]).0);
        assert_eq!(status(&inbound(&mut client, "4", "signal", "+441")), "refused");
        assert!(pairing(&system, &["pairing", "mode", "signal", "disabled"]).0);
        assert_eq!(inbound(&mut client, "5", "signal", "+441")["payload"]["reason"], "senders.disabled");
    }

    fn policy_of_the_configuration_is_the_vaults_from_the_moment_it_is_applied(system: System) {
        let set = |path: &str, value: &str| {
            let output = system.moltbot(&["config", "set", path, value, "--yes"]);
            assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
            Client::logged_in(system.port(), &system.token())
        };
        let status = |answer: &Value| answer["payload"]["status"].as_str().unwrap_or_default().to_owned();
        let mut client = Client::logged_in(system.port(), &system.token());
        assert_eq!(status(&inbound(&mut client, "1", "telegram", "42")), "pairing", "nothing said is pairing");
        let mut client = set("channels.telegram", "{ dmPolicy: 'allowlist', allowFrom: [7] }");
        assert_eq!(inbound(&mut client, "2", "telegram", "42")["payload"]["reason"], "senders.not_listed");
        assert_eq!(status(&inbound(&mut client, "3", "telegram", "7")), "started");
        assert_eq!(status(&inbound(&mut client, "4", "signal", "+441")), "pairing", "another channel is another");
        let (widened, error) = pairing(&system, &["pairing", "mode", "telegram", "pairing"]);
        assert!(!widened && error["error"].as_str().unwrap().contains("senders.configured"), "{error}");
        let (_, lists) = pairing(&system, &["allowlist", "list", "telegram"]);
        assert_eq!((lists[0]["mode"].as_str(), lists[0]["allowed"][0]["name"].as_str()), (Some("allowlist"), Some("(moltbot.json)")));
        let mut client = set("channels.telegram.enabled", "false");
        assert_eq!(inbound(&mut client, "5", "telegram", "7")["payload"]["reason"], "senders.disabled");
        let mut client = set("channels.defaults.dmPolicy", "disabled");
        assert_eq!(inbound(&mut client, "6", "signal", "+441")["payload"]["reason"], "senders.disabled");
        // Back to the beginning, the operator's own lists as they were.
        let _ = system.says(&["config", "unset", "channels", "--yes"]);
        let mut client = Client::logged_in(system.port(), &system.token());
        assert_eq!(status(&inbound(&mut client, "7", "telegram", "42")), "pairing");
    }
}
