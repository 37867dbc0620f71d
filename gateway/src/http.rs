//! HTTP/1.1 in front of the protocol: health for monitors, the upgrade for clients, 404 for the rest. Heads are hostile:
//! bounded in size and time by hyper, and a head that names two hosts or none is refused.
//!
//! A browser sends `Origin`; a page of a stranger's site must not reach a gateway on the visitor's own machine. So an
//! `Origin` is only let in where it is this very host and that host is loopback. Clients that are no browsers send none.

use crate::connection::{self, Peer};
use crate::state::{Gateway, log};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

const HEAD: Duration = Duration::from_secs(10);
const MAX_HEAD: usize = 16_384;

type Answer = Response<Full<Bytes>>;

/// Serves one stream to its end. `slot` is given back then.
pub async fn serve<S>(gateway: Arc<Gateway>, stream: S, peer: Peer, slot: Option<OwnedSemaphorePermit>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slot = Arc::new(slot);
    let (served, asked) = (Arc::clone(&gateway), Arc::new(AtomicBool::new(false)));
    let has_asked = Arc::clone(&asked);
    let service = hyper::service::service_fn(move |request| {
        asked.store(true, Ordering::Release);
        let mut answer = answer(&served, request, peer, &slot);
        if served.drain.refusal().is_some() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    // What fails here is one client's connection, and hyper has answered what can be answered.
    let _ = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = gateway.drain.closed() => {
            // What was taken in is answered, and its connection is not kept for another request. hyper would close one on
            // which nothing was asked yet, whose client waits for its first answer.
            if has_asked.load(Ordering::Acquire) {
                connection.as_mut().graceful_shutdown();
            }
            connection.await
        }
    };
}

fn answer(
    gateway: &Arc<Gateway>,
    mut request: Request<Incoming>,
    peer: Peer,
    slot: &Arc<Option<OwnedSemaphorePermit>>,
) -> Answer {
    let host = match host(request.headers()) {
        Ok(host) => host.to_owned(),
        Err(why) => return error(StatusCode::BAD_REQUEST, why),
    };
    if !names(request.headers(), &UPGRADE, "websocket") {
        return plain(gateway, request.method(), request.uri().path());
    }
    let accept = match upgrade(&request, &host) {
        Ok(accept) => accept,
        Err((status, why)) => return error(status, why),
    };
    let stranger = match peer {
        Peer::Operator => None,
        Peer::Network(_) => match Arc::clone(&gateway.pre_auth).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                let mut busy = error(StatusCode::SERVICE_UNAVAILABLE, "too many clients are logging in; try again");
                busy.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
                return busy;
            }
        },
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let (gateway, slot) = (Arc::clone(gateway), Arc::clone(slot));
    tokio::spawn(async move {
        match upgraded.await {
            Ok(io) => connection::serve(gateway, io, peer, stranger).await,
            Err(error) => log(&format!("upgrade: {error}")),
        }
        drop(slot);
    });
    let mut switching = Response::new(Full::default());
    *switching.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = switching.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    switching
}

/// The one `Host` (RFC 9112, section 3.2).
fn host(headers: &HeaderMap) -> Result<&str, &'static str> {
    let mut all = headers.get_all(HOST).iter();
    match (all.next(), all.next()) {
        (Some(host), None) => host.to_str().map_err(|_| "the Host header is not text"),
        (None, _) => Err("a request needs a Host header"),
        (Some(_), Some(_)) => Err("a request needs one Host header, not several"),
    }
}

/// True where the comma-separated header `name` has `token`.
fn names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Checks the upgrade (RFC 6455, section 4.2.1); returns the accept key.
fn upgrade(request: &Request<Incoming>, host: &str) -> Result<HeaderValue, (StatusCode, &'static str)> {
    let headers = request.headers();
    if request.method() != Method::GET || !names(headers, &CONNECTION, "upgrade") {
        return Err((StatusCode::BAD_REQUEST, "an upgrade needs GET and `Connection: Upgrade`"));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 is spoken here"));
    }
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) if key.len() == 24 => key,
        _ => return Err((StatusCode::BAD_REQUEST, "an upgrade needs one Sec-WebSocket-Key of 24 characters")),
    };
    if !headers.get_all(ORIGIN).iter().all(|origin| may_come_from(origin, host)) {
        return Err((
            StatusCode::FORBIDDEN,
            "origin refused (http.origin): a browser may connect only from a page of this gateway on a loopback host",
        ));
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| (StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is not usable"))
}

/// True where `origin` is this very host, and loopback.
fn may_come_from(origin: &HeaderValue, host: &str) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let Some(authority) = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")) else {
        return false;
    };
    authority.eq_ignore_ascii_case(host) && is_loopback(authority)
}

fn is_loopback(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn plain(gateway: &Gateway, method: &Method, path: &str) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return error(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
    }
    match path {
        "/health" | "/healthz" => json_answer(StatusCode::OK, &json!({"ok": true, "status": "live"})),
        "/ready" | "/readyz" => {
            let peers = [
                ("vault", gateway.vault.is_attached()),
                ("sandboxd", gateway.sandbox.is_attached()),
                ("egress", gateway.egress.is_attached()),
                ("lockdown", gateway.gate.refusal().is_none()),
            ];
            let failing: Vec<_> = peers.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
            let status = if failing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let body = json!({"ready": failing.is_empty(), "failing": failing, "uptimeMs": gateway.uptime_ms()});
            json_answer(status, &body)
        }
        _ => error(StatusCode::NOT_FOUND, "there is nothing here; clients connect by WebSocket"),
    }
}

fn error(status: StatusCode, why: &str) -> Answer {
    json_answer(status, &json!({"ok": false, "error": {"message": why}}))
}

fn json_answer(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body.to_string())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_of_this_loopback_host_alone_may_come() {
        let may = |origin: &'static str, host| may_come_from(&HeaderValue::from_static(origin), host);
        assert!(may("http://127.0.0.1:18789", "127.0.0.1:18789"));
        assert!(may("https://LOCALHOST:18789", "localhost:18789"));
        assert!(may("http://[::1]:18789", "[::1]:18789"));
        assert!(!may("http://evil.example", "127.0.0.1:18789"));
        assert!(!may("http://evil.example", "evil.example"), "rebound names are not loopback");
        assert!(!may("http://127.0.0.1:9999", "127.0.0.1:18789"), "another page of this machine");
        assert!(!may("http://127.0.0.1.evil.example", "127.0.0.1.evil.example"));
        assert!(!may("null", "127.0.0.1:18789"));
        assert!(!may("file://", "127.0.0.1:18789"));
    }
}
