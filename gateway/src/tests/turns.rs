//! Turns of the local agent, as clients of both protocols see them.

use super::{Client, attach_sandbox, bed, bed_in, text_of};
use serde_json::{Value, json};

async fn send(client: &mut Client, run: &str, message: &str) -> Value {
    let params = json!({"sessionKey": "main", "message": message, "idempotencyKey": run, "deliver": false});
    client.ask("chat.send", params).await
}

#[tokio::test]
async fn help_is_answered_to_every_client_in_its_own_protocol() {
    let bed = bed().await;
    let (mut old, _) = Client::login(&bed, 3).await;
    let (mut new, _) = Client::login(&bed, 4).await;
    let started = send(&mut old, "run", "/help").await;
    assert_eq!(started["payload"], json!({"runId": "run", "status": "started"}));
    let delta = old.chat("run", "delta").await;
    assert!(text_of(&delta).contains("/exec COMMAND") && delta["deltaText"].is_null());
    let last = old.chat("run", "final").await;
    assert!(text_of(&last).contains("/exec COMMAND"));
    assert_eq!(last["sessionKey"], "agent:main:main");
    assert!(new.chat("run", "delta").await["deltaText"].as_str().unwrap().contains("/exec COMMAND"));
    assert!(text_of(&new.chat("run", "final").await).contains("/exec COMMAND"));
    assert_eq!(send(&mut old, "run", "/help").await["payload"]["status"], "ok");
}

#[tokio::test]
async fn plain_words_are_answered_with_what_is_missing() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    send(&mut client, "run", "what is the weather?").await;
    assert!(text_of(&client.chat("run", "final").await).starts_with("No model provider is configured"));
}

#[tokio::test]
async fn exec_output_is_merged_decoded_and_followed_by_its_end() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    send(&mut client, "run", "/exec hello").await;
    let last = client.chat("run", "final").await;
    assert_eq!(text_of(&last), "caf!é\n[exit 3, 12 ms, docker]");
    let mut deltas = String::new();
    for event in client.events.iter().filter(|event| event["payload"]["state"] == "delta") {
        deltas.push_str(event["payload"]["deltaText"].as_str().unwrap());
    }
    assert_eq!(deltas, text_of(&last), "the deltas of protocol 4 add up");
}

#[tokio::test]
async fn exec_flood_is_cut_at_the_cap_and_credit_keeps_it_flowing() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 3).await;
    send(&mut client, "run", "/exec flood").await;
    let last = client.chat("run", "final").await;
    assert!(text_of(&last).ends_with("x\n[output cut]\n[exit 0, 12 ms, docker]"));
    assert!(text_of(&last).len() < crate::text::MAX_TEXT + 100);
}

#[tokio::test]
async fn exec_that_is_refused_names_the_rule() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    send(&mut client, "run", "/exec rm").await;
    let last = client.chat("run", "final").await;
    assert_eq!(
        text_of(&last),
        "refused (exec.not_allowed): this is no command for you\n`moltbot explain rule exec.not_allowed` says more"
    );
}

#[tokio::test]
async fn running_command_is_stopped_by_abort_and_by_the_word() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    for (run, by_word) in [("a", false), ("b", true)] {
        send(&mut client, run, "/exec hang").await;
        client.chat(run, "delta").await;
        assert_eq!(send(&mut client, run, "/exec hang").await["payload"]["status"], "in_flight");
        let stopped = if by_word {
            send(&mut client, "stop", "/stop").await
        } else {
            client.ask("chat.abort", json!({"sessionKey": "main", "runId": run})).await
        };
        assert_eq!(stopped["payload"], json!({"ok": true, "aborted": true, "runIds": [run]}));
        let last = client.chat(run, "aborted").await;
        assert!(text_of(&last).starts_with("waiting\n[stopped"), "{last}");
    }
    let nothing = client.ask("chat.abort", json!({"sessionKey": "main"})).await;
    assert_eq!(nothing["payload"]["aborted"], false);
}

#[tokio::test]
async fn sandboxd_that_dies_ends_the_turn_and_the_next_one_runs() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    send(&mut client, "a", "/exec die").await;
    let failed = client.chat("a", "error").await;
    assert!(failed["errorMessage"].as_str().unwrap().starts_with("sandboxd ended before"), "{failed}");
    // The next command waits for the new sandboxd.
    send(&mut client, "b", "/exec hello").await;
    attach_sandbox(&bed.gateway);
    assert!(text_of(&client.chat("b", "final").await).contains("[exit 3"));
}

#[tokio::test]
async fn history_outlives_the_gateway_and_new_begins_another() {
    let first = bed().await;
    let (mut client, _) = Client::login(&first, 4).await;
    send(&mut client, "a", "/exec hello").await;
    client.chat("a", "final").await;
    let before = client.ask("chat.history", json!({"sessionKey": "main"})).await["payload"].clone();
    assert_eq!(before["messages"].as_array().unwrap().len(), 2);

    // The store of a second gateway reads what the first has written without a word of goodbye.
    let second = bed_in(first.directory).await;
    let (mut client, _) = Client::login(&second, 3).await;
    let after = client.ask("chat.history", json!({"sessionKey": "agent:main:main"})).await["payload"].clone();
    assert_eq!(after, before);
    assert_eq!(client.ask("sessions.list", Value::Null).await["payload"]["count"], 1);

    send(&mut client, "b", "/new").await;
    client.chat("b", "final").await;
    let new = client.ask("chat.history", json!({"sessionKey": "main"})).await["payload"].clone();
    assert_ne!(new["sessionId"], before["sessionId"]);
    assert_eq!(new["messages"].as_array().unwrap().len(), 1);
}
