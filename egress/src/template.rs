//! What a request template may hold. gateway writes it from what strangers and models said, so a line break in a header
//! or a path is an attack (request splitting), and a header that carries a credential is not gateway's to set.

use proto::edge::Refusal;
use proto::egress::EgressRequest;
use sha2::{Digest, Sha256};

/// Headers that belong to egress, to the connection, or to a credential (RFC 9110 sections 7.6.1 and 11).
const RESERVED: [&str; 14] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
];

/// Checks a template and returns the digest that a lease is bound to.
///
/// # Errors
/// [`Refusal`] that names the rule.
pub fn check(request: &EgressRequest) -> Result<[u8; 32], Refusal> {
    let EgressRequest::Http { credential, host, port, method, path, headers, body } = request;
    let refuse = |rule: &str, what: &str| Err(Refusal::new(rule, what));
    if !matches!(method.as_str(), "GET" | "POST") {
        return refuse("egress.method", "only GET and POST leave");
    }
    if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        return refuse("egress.path", "a path begins with / and holds no space or control character");
    }
    if host.is_empty()
        || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'[' | b']' | b':'))
    {
        return refuse("egress.host", "a host is a name or an address");
    }
    for header in headers.iter() {
        let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if header.name.is_empty() || !header.name.bytes().all(token) || RESERVED.contains(&header.name.as_str()) {
            return refuse("egress.header", &format!("the header {:?} is not gateway's to set", header.name.as_str()));
        }
        if header.value.bytes().any(|byte| (byte < b' ' && byte != b'\t') || byte == 0x7f) {
            return refuse(
                "egress.header",
                &format!("the header {:?} holds a control character", header.name.as_str()),
            );
        }
    }
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    for text in [credential.as_str(), host.as_str(), method.as_str(), path.as_str()] {
        field(text.as_bytes());
    }
    field(&port.to_be_bytes());
    for header in headers.iter() {
        field(header.name.as_bytes());
        field(header.value.as_bytes());
    }
    field(body);
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
    use proto::egress::HeaderField;

    fn request(method: &str, path: &str, header: (&str, &str)) -> EgressRequest {
        let header = HeaderField { name: BoundedStr::truncated(header.0), value: BoundedStr::truncated(header.1) };
        EgressRequest::Http {
            credential: BoundedStr::truncated("model"),
            host: BoundedStr::truncated("api.example.org"),
            port: 443,
            method: BoundedStr::truncated(method),
            path: BoundedStr::truncated(path),
            headers: BoundedVec::new(vec![header]).unwrap(),
            body: BoundedBytes::new(b"{}".to_vec()).unwrap(),
        }
    }

    #[test]
    fn plain_template_has_a_digest_that_depends_on_every_field() {
        let plain = check(&request("POST", "/v1", ("accept", "a"))).unwrap();
        assert_eq!(plain, check(&request("POST", "/v1", ("accept", "a"))).unwrap());
        assert_ne!(plain, check(&request("GET", "/v1", ("accept", "a"))).unwrap());
        assert_ne!(plain, check(&request("POST", "/v2", ("accept", "a"))).unwrap());
        assert_ne!(plain, check(&request("POST", "/v1", ("accept", "b"))).unwrap());
    }

    #[test]
    fn template_that_splits_a_request_or_carries_a_credential_is_refused() {
        for (method, path, header) in [
            ("CONNECT", "/", ("accept", "a")),
            ("GET", "/ HTTP/1.1\r\nx: y", ("accept", "a")),
            ("GET", "http://other/", ("accept", "a")),
            ("GET", "/", ("accept", "a\r\nx: y")),
            ("GET", "/", ("accept\r\n", "a")),
            ("GET", "/", ("authorization", "Bearer x")),
            ("GET", "/", ("Authorization", "Bearer x")),
            ("GET", "/", ("host", "other")),
            ("GET", "/", ("transfer-encoding", "chunked")),
        ] {
            assert!(check(&request(method, path, header)).is_err(), "{method} {path:?} {header:?}");
        }
    }
}
