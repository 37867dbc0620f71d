//! Who gets in, and what everybody else hears.

use super::{Bed, Client, Next, TOKEN, bed, connect_params};
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Sends `first` and returns the error it brings, if any, and the close.
async fn refused(bed: &Bed, first: Message) -> (Value, u16, String) {
    let mut client = Client::open(bed).await;
    client.ws.send(first).await.unwrap();
    let mut error = Value::Null;
    loop {
        match client.next().await {
            Next::Frame(frame) => error = frame["error"].clone(),
            Next::Closed(code, reason) => return (error, code, reason),
        }
    }
}

fn request(method: &str, params: &Value) -> Message {
    Message::text(json!({"type": "req", "id": "1", "method": method, "params": params}).to_string())
}

async fn http(bed: &Bed, head: &str) -> String {
    let mut tcp = TcpStream::connect(bed.address).await.unwrap();
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4096];
    let read = tcp.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn connect_with_the_token_says_hello_at_either_protocol() {
    let bed = bed().await;
    for protocol in [3, 4] {
        let (mut client, hello) = Client::login(&bed, protocol).await;
        assert_eq!(hello["type"], "hello-ok");
        assert_eq!(hello["protocol"], protocol);
        assert_eq!(hello["policy"]["maxPayload"], 524_288);
        assert_eq!(hello["snapshot"]["sessionDefaults"]["mainSessionKey"], "agent:main:main");
        assert_eq!(hello["server"]["host"].is_string(), protocol == 3);
        let Next::Frame(health) = client.next().await else { panic!("closed") };
        assert_eq!((&health["event"], &health["seq"]), (&json!("health"), &json!(1)));
    }
}

#[tokio::test]
async fn connect_without_the_right_token_is_told_why_and_closed() {
    let bed = bed().await;
    for (token, code, message) in [
        (None, "AUTH_TOKEN_MISSING", "unauthorized: gateway token missing (provide gateway auth token)"),
        (Some("wrong"), "AUTH_TOKEN_MISMATCH", "unauthorized: gateway token mismatch (provide gateway auth token)"),
        (Some("locked"), "AUTH_RATE_LIMITED", "Rate limit exceeded. Try again in 300s"),
    ] {
        let (error, close, reason) = refused(&bed, request("connect", &connect_params(3, 4, token))).await;
        assert_eq!(error["code"], "INVALID_REQUEST");
        assert_eq!(error["details"]["code"], code);
        assert_eq!((error["message"].as_str(), close, reason.as_str()), (Some(message), 1008, message));
    }
    assert!(bed.gateway.hub.is_empty());
}

#[tokio::test]
async fn connect_where_the_log_is_unwritable_is_refused_with_that_reason() {
    let bed = bed().await;
    let (error, close, _) = refused(&bed, request("connect", &connect_params(4, 4, Some("unwritable")))).await;
    assert_eq!(error["code"], "UNAVAILABLE");
    assert!(error["message"].as_str().unwrap().starts_with("audit.unwritable"), "{error}");
    assert_eq!(close, 1013);
}

#[tokio::test]
async fn first_frame_that_is_no_connect_is_refused() {
    let bed = bed().await;
    let (error, close, reason) = refused(&bed, request("health", &json!({}))).await;
    assert_eq!(error["message"], "invalid handshake: first request must be connect");
    assert_eq!((close, reason.as_str()), (1008, "invalid handshake: first request must be connect"));
    let (_, close, _) = refused(&bed, Message::text("{nonsense")).await;
    assert_eq!(close, 1008);
    let (_, close, _) = refused(&bed, Message::binary(vec![1, 2, 3])).await;
    assert_eq!(close, 1003);
}

#[tokio::test]
async fn connect_of_another_protocol_is_closed_1002() {
    let bed = bed().await;
    let (error, close, _) = refused(&bed, request("connect", &connect_params(5, 6, Some(TOKEN)))).await;
    assert_eq!(error["message"], "protocol mismatch");
    assert_eq!(error["details"]["expectedProtocol"], 4);
    assert_eq!(close, 1002);
}

#[tokio::test]
async fn frame_of_a_stranger_over_64_kib_is_closed_1009_and_one_below_is_read() {
    let bed = bed().await;
    let mut params = connect_params(4, 4, Some(TOKEN));
    params["userAgent"] = json!("x".repeat(65_536));
    let (_, close, _) = refused(&bed, request("connect", &params)).await;
    assert_eq!(close, 1009);
    params["userAgent"] = json!("x".repeat(60_000));
    let mut client = Client::open(&bed).await;
    assert_eq!(client.ask("connect", params).await["ok"], true);
}

#[tokio::test]
async fn requests_sent_with_the_connect_in_one_go_are_all_answered() {
    let bed = bed().await;
    let mut client = Client::open(&bed).await;
    let connect = json!({"type": "req", "id": "c", "method": "connect", "params": connect_params(4, 4, Some(TOKEN))});
    client.ws.feed(Message::Ping(vec![1].into())).await.unwrap();
    client.ws.feed(Message::text(connect.to_string())).await.unwrap();
    client.ws.feed(request("health", &json!({}))).await.unwrap();
    client.ws.flush().await.unwrap();
    assert_eq!(client.answer("c").await["ok"], true);
    assert_eq!(client.answer("1").await["ok"], true);
}

#[tokio::test(start_paused = true)]
async fn stranger_that_says_nothing_is_closed_after_ten_seconds() {
    let bed = bed().await;
    let mut client = Client::open(&bed).await;
    assert_eq!(client.closed().await, (1008, "handshake timeout".to_owned()));
}

#[tokio::test]
async fn strangers_over_the_cap_are_answered_503_and_clients_are_not_counted() {
    let bed = bed().await;
    let (mut friend, _) = Client::login(&bed, 4).await;
    let mut strangers = Vec::new();
    for _ in 0..crate::state::MAX_PRE_AUTH {
        strangers.push(Client::open(&bed).await);
    }
    let upgrade = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    assert!(http(&bed, upgrade).await.starts_with("HTTP/1.1 503"));
    assert_eq!(friend.ask("health", json!({})).await["ok"], true);
}

#[tokio::test]
async fn http_serves_health_and_refuses_heads_that_are_not_clear() {
    let bed = bed().await;
    let health = http(&bed, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with(r#"{"ok":true,"status":"live"}"#), "{health}");
    assert!(http(&bed, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404"));
    assert!(http(&bed, "GET /health HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(http(&bed, "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    assert!(http(&bed, "\u{16}\u{3}\u{1} garbage\r\n\r\n").await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn upgrade_from_a_page_of_another_site_is_refused() {
    let bed = bed().await;
    let upgrade = |origin: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: {0}\r\nOrigin: {origin}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            bed.address
        )
    };
    let evil = http(&bed, &upgrade("https://evil.example")).await;
    assert!(evil.starts_with("HTTP/1.1 403") && evil.contains("http.origin"), "{evil}");
    let own = http(&bed, &upgrade(&format!("http://{}", bed.address))).await;
    assert!(own.starts_with("HTTP/1.1 101"), "{own}");
}
