//! The password as clients and the operator have it.

use serde_json::{Value, json};
use system_tests::client::Client;
use system_tests::{System, in_both_layouts};

const PASSWORD: &str = "correct horse battery";

/// The answer to a `connect` with this under `auth`.
fn log_in(system: &System, auth: &Value) -> Value {
    let mut client = Client::connect(system.port());
    let _ = client.event("connect.challenge");
    let mut hello = Client::hello(3, 4, "");
    hello["auth"] = auth.clone();
    client.send("hello", "connect", &hello);
    client.answer("hello")
}

fn refused_as(answer: &Value) -> &str {
    answer["error"]["details"]["code"].as_str().unwrap_or_else(|| panic!("let in: {answer}"))
}

/// What the last record of a login says.
fn recorded(system: &System) -> (String, bool, String) {
    let records = system.records("auth-audit");
    let last = records.iter().rfind(|record| record["type"] == "auth").unwrap();
    let text = |field: &str| last[field].as_str().unwrap_or_default().to_owned();
    (text("method"), last["success"] == true, text("reason"))
}

in_both_layouts! {
    fn password_lets_in_from_when_it_is_set_until_it_is_cleared(system: System) {
        let offered = json!({ "password": PASSWORD });
        assert_eq!(refused_as(&log_in(&system, &offered)), "AUTH_PASSWORD_NOT_CONFIGURED");
        let short = system.fed(&["gateway", "password", "set"], "short\n");
        assert!(String::from_utf8_lossy(&short.stderr).contains("auth.password_short"));
        assert!(system.fed(&["gateway", "password", "set"], &format!("{PASSWORD}\n")).status.success());
        let answer = log_in(&system, &offered);
        assert_eq!(answer["ok"], true, "{answer}");
        assert_eq!(recorded(&system), ("password".to_owned(), true, String::new()));
        assert_eq!(refused_as(&log_in(&system, &json!({ "password": "correct horse batterz" }))), "AUTH_PASSWORD_MISMATCH");
        assert_eq!(recorded(&system), ("password".to_owned(), false, "password_mismatch".to_owned()));
        // The token goes on letting in, beside a password that is wrong too.
        assert_eq!(log_in(&system, &json!({ "token": system.token(), "password": "wrong" }))["ok"], true);
        let _ = system.says(&["gateway", "password", "clear"]);
        assert_eq!(refused_as(&log_in(&system, &offered)), "AUTH_PASSWORD_NOT_CONFIGURED");
        let again = system.moltbot(&["gateway", "password", "clear"]);
        assert!(String::from_utf8_lossy(&again.stderr).contains("auth.no_password"));
        let verbs: Vec<_> = system.records("secret-audit").iter().filter_map(|record| {
            record["verb"].as_str().filter(|verb| verb.starts_with("gateway.password")).map(|verb| {
                (verb.to_owned(), record["success"] == true)
            })
        }).collect();
        let said = |verb: &str, granted| (format!("gateway.password.{verb}"), granted);
        assert_eq!(verbs, [said("set", false), said("set", true), said("clear", true), said("clear", false)]);
    }

    fn guesses_lock_out_password_and_token_alike_until_the_operator_unlocks(system: System) {
        assert!(system.fed(&["gateway", "password", "set"], PASSWORD).status.success());
        for at in 0..5 {
            let guess = if at % 2 == 0 { json!({ "password": "a guess" }) } else { json!({ "token": "a guess" }) };
            assert_eq!(refused_as(&log_in(&system, &guess)), ["AUTH_PASSWORD_MISMATCH", "AUTH_TOKEN_MISMATCH"][at % 2]);
        }
        for right in [json!({ "password": PASSWORD }), json!({ "token": system.token() })] {
            assert_eq!(refused_as(&log_in(&system, &right)), "AUTH_RATE_LIMITED");
        }
        let _ = system.says(&["gateway", "unlock"]);
        for right in [json!({ "password": PASSWORD }), json!({ "token": system.token() })] {
            let answer = log_in(&system, &right);
            assert_eq!(answer["ok"], true, "{answer}");
        }
    }
}
