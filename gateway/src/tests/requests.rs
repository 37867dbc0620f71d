//! What a client that is in may ask, and what hostile frames bring.

use super::{Client, Next, bed, connect_params};
use futures_util::SinkExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn every_advertised_method_is_served() {
    let bed = bed().await;
    let (mut client, hello) = Client::login(&bed, 4).await;
    let params = json!({"sessionKey": "main", "key": "main", "message": "/help", "idempotencyKey": "k",
        "channel": "signal", "senderId": "+441", "id": "a-1", "decision": "deny",
        "device": {"publicKey": "A".repeat(43), "signature": "A".repeat(86)}});
    for method in hello["features"]["methods"].as_array().unwrap() {
        let mut params = params.clone();
        if method == "sessions.delete" {
            params["key"] = json!("other");
        }
        let answer = client.ask(method.as_str().unwrap(), params).await;
        assert_eq!(answer["ok"], true, "{answer}");
    }
}

#[tokio::test]
async fn command_that_waits_is_shown_whole_and_a_word_that_nobody_signed_is_not_passed_on() {
    let bed = bed().await;
    let (mut client, hello) = Client::login(&bed, 4).await;
    assert!(hello["features"]["events"].as_array().unwrap().contains(&json!("exec.approval.requested")));
    let listed = client.ask("exec.approval.list", Value::Null).await;
    assert_eq!(listed["payload"]["approvals"][0]["id"], "a-1");
    let shown = client.ask("exec.approval.get", json!({"id": "a-1"})).await;
    assert_eq!(shown["payload"]["request"]["command"], "ls");
    assert_eq!(shown["payload"]["nonce"], "08".repeat(32));
    // What nobody signed is not passed on: the vault here would say yes to it.
    for params in [
        json!({"id": "a-1", "decision": "allow-once"}),
        json!({"id": "a-1", "decision": "allow-once", "device": {"publicKey": "A".repeat(43), "signature": "A"}}),
        json!({"id": "a-1", "decision": "allow-always", "device": {"publicKey": "A".repeat(43), "signature": "A".repeat(86)}}),
        json!({"id": "1", "decision": "deny", "device": {"publicKey": "A".repeat(43), "signature": "A".repeat(86)}}),
    ] {
        assert_eq!(client.ask("exec.approval.resolve", params).await["ok"], false);
    }
}

#[tokio::test]
async fn status_without_params_names_the_backend() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 3).await;
    client.send(r#"{"type":"req","id":"s","method":"status"}"#).await;
    let status = client.answer("s").await;
    assert_eq!(status["payload"]["moltbot"]["backend"], "docker");
    assert_eq!(status["payload"]["sessions"]["count"], 0);
}

#[tokio::test]
async fn config_get_has_the_redacted_configuration_and_its_hash() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    let config = client.ask("config.get", Value::Null).await;
    assert_eq!(config["payload"]["config"]["gateway"]["port"], 18_789);
    assert_eq!(config["payload"]["hash"].as_str().unwrap().len(), 64);
}

#[tokio::test]
async fn bad_requests_are_answered_and_the_connection_goes_on() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    let message = |answer: &Value| answer["error"]["message"].as_str().unwrap().to_owned();
    let unknown = client.ask("made.up", json!({})).await;
    assert_eq!(message(&unknown), "unknown method: made.up");
    let wrong = client.ask("chat.send", json!({"sessionKey": "main", "message": 5})).await;
    assert_eq!(message(&wrong), "invalid chat.send params: at /message: must be string");
    let bad_key = client.ask("chat.history", json!({"sessionKey": "../../etc"})).await;
    assert!(
        message(&bad_key).starts_with("invalid chat.history params: at /sessionKey: must be printable"),
        "{bad_key}"
    );
    client.send(r#"{"type":"req","method":"health"}"#).await;
    assert!(message(&client.answer("invalid").await).contains("'id'"));
    client.send("{not json").await;
    assert_eq!(client.ask("health", json!({})).await["ok"], true);
}

#[tokio::test]
async fn narrow_scopes_allow_no_more_than_they_say() {
    let bed = bed().await;
    let mut client = Client::open(&bed).await;
    let mut params = connect_params(4, 4, Some(super::TOKEN));
    params["scopes"] = json!(["operator.read"]);
    assert_eq!(client.ask("connect", params).await["payload"]["auth"]["scopes"], json!(["operator.read"]));
    assert_eq!(client.ask("health", json!({})).await["ok"], true);
    let refused = client.ask("chat.send", json!({"sessionKey": "main", "message": "x", "idempotencyKey": "k"})).await;
    assert_eq!(refused["error"]["code"], "FORBIDDEN");
    assert_eq!(refused["error"]["message"], "missing scope: operator.write");
}

#[tokio::test]
async fn frame_over_max_payload_is_closed_1009_and_one_at_it_is_answered() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    let frame = |len: usize| {
        let empty = json!({"type": "req", "id": "big", "method": "health", "params": {"x": ""}}).to_string();
        empty.replace(r#""x":"""#, &format!(r#""x":"{}""#, "x".repeat(len - empty.len())))
    };
    client.send(frame(524_288)).await;
    assert_eq!(client.answer("big").await["ok"], true);
    let (mut other, _) = Client::login(&bed, 4).await;
    other.send(frame(524_289)).await;
    assert_eq!(other.closed().await.0, 1009);
    client.ws.send(Message::binary(vec![0])).await.unwrap();
    assert_eq!(client.closed().await.0, 1003);
}

#[tokio::test]
async fn client_that_does_not_read_is_cut_and_the_others_go_on() {
    let bed = bed().await;
    let (mut slow, _) = Client::login(&bed, 4).await;
    let (mut quick, _) = Client::login(&bed, 4).await;
    let payload = json!({"x": "y".repeat(200_000)}).to_string();
    // Far more than the kernel's buffers and the queue hold; the quick one reads after every event.
    for _ in 0..200 {
        bed.gateway.hub.event("agent", &payload);
        while !matches!(quick.next().await, Next::Frame(frame) if frame["event"] == "agent") {}
    }
    assert_eq!(quick.ask("health", json!({})).await["ok"], true);
    // What had left before is still readable; then comes the end, with or without the reason.
    while let Some(Ok(_)) = futures_util::StreamExt::next(&mut slow.ws).await {}
    assert_eq!(bed.gateway.hub.len(), 1, "the slow one is off the list");
}

#[tokio::test]
async fn drained_gateway_says_goodbye_with_1012() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    let hub = Arc::clone(&bed.gateway);
    hub.hub.event("shutdown", r#"{"reason":"service restart","restartExpectedMs":1500}"#);
    hub.hub.close(1012, "service restart");
    let mut said = false;
    let closed = loop {
        match client.next().await {
            Next::Frame(frame) => said |= frame["event"] == "shutdown",
            Next::Closed(code, reason) => break (code, reason),
        }
    };
    assert!(said);
    assert_eq!(closed, (1012, "service restart".to_owned()));
    hub.hub.emptied().await;
}

#[tokio::test]
async fn message_of_a_stranger_reaches_no_agent_and_one_of_a_known_sender_does() {
    let bed = bed().await;
    let (mut client, _) = Client::login(&bed, 4).await;
    let inbound = |sender: &str, key: &str| json!({"channel": "signal", "senderId": sender, "senderName": "Mallory", "message": "/help", "idempotencyKey": key});
    let fresh = client.ask("channels.inbound", inbound("stranger", "k1")).await;
    assert_eq!(fresh["payload"]["status"], "pairing", "{fresh}");
    assert_eq!(fresh["payload"]["code"], "ABCDEFGH");
    assert!(fresh["payload"]["reply"].as_str().unwrap().contains("moltbot pairing approve signal ABCDEFGH"));
    let again = client.ask("channels.inbound", inbound("again", "k2")).await;
    assert!(again["payload"]["reply"].is_null(), "{again}");
    let refused = client.ask("channels.inbound", inbound("refused", "k3")).await;
    assert_eq!(refused["payload"], json!({"status": "refused", "reason": "senders.not_listed"}));
    let wrong = client.ask("channels.inbound", inbound("*", "k4")).await;
    assert_eq!(wrong["error"]["details"]["code"], "allowlist.wildcard");
    assert_eq!(wrong["error"]["details"]["explain"], "moltbot explain rule allowlist.wildcard");
    assert!(bed.gateway.sessions().is_empty(), "nothing of theirs was written down");
    let known = client.ask("channels.inbound", inbound("+441", "k5")).await;
    assert_eq!(known["payload"]["status"], "started");
    assert_eq!(client.chat("k5", "final").await["sessionKey"], "agent:main:signal:+441");
}
