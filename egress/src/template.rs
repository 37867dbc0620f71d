//! What a request template may hold. gateway writes it from what strangers and models said, so a line break in a header
//! or a path is an attack (request splitting), and a header that carries a credential is not gateway's to set.

use proto::edge::Refusal;
use proto::egress::EgressRequest;
use proto::secret::Secret;
use proto::vault::CredentialSlot;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Headers that belong to egress, to the connection, or to a credential (RFC 9110 sections 7.6.1 and 11).
const RESERVED: [&str; 19] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-auth-token",
    "x-goog-api-key",
    "x-forwarded-for",
];
/// Headers that a credential cannot go into: they say where a request ends.
const NO_SLOT: [&str; 9] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Checks a template and returns the digest that a lease is bound to.
///
/// # Errors
/// [`Refusal`] that names the rule.
pub fn check(request: &EgressRequest) -> Result<[u8; 32], Refusal> {
    let EgressRequest::Http { session: _, credential, host, port, method, path, headers, patience_s: _, body } =
        request;
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
    let credential = credential.as_ref().map_or("", |name| name.as_str());
    for text in [credential, host.as_str(), method.as_str(), path.as_str()] {
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

/// What a request says of where it goes.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if port == 443 { host.to_owned() } else { format!("{host}:{port}") }
}

/// A credential and the place that the vault's policy has for it.
pub struct Slot {
    /// The place.
    pub place: CredentialSlot,
    /// The credential.
    pub secret: Secret,
}

/// Is this a place that a credential may go into, beside what is in the request?
///
/// # Errors
/// [`Refusal`].
pub fn check_slot(request: &EgressRequest, place: &CredentialSlot) -> Result<(), Refusal> {
    let EgressRequest::Http { headers, .. } = request;
    let header = match place {
        CredentialSlot::Header { name, .. } => name.as_str(),
        // The vault has looked at it, and it stands in front of whatever the request says.
        CredentialSlot::Path { .. } => return Ok(()),
        CredentialSlot::Nowhere => "",
    };
    if header.is_empty() || NO_SLOT.contains(&header) {
        let why = format!("the credential's policy has {header:?} as its header, which no credential can go into");
        return Err(Refusal::new("egress.slot", &why));
    }
    if headers.iter().any(|other| other.name.as_str() == header) {
        let why = format!("the request has the header {header:?} already, which is the credential's");
        return Err(Refusal::new("egress.slot", &why));
    }
    Ok(())
}

/// The head of a request that was checked, with the credential in its place and nowhere else.
///
/// # Errors
/// [`Refusal`] where the credential cannot stand in its place, or is too short to be seen in an answer.
pub fn head(request: &EgressRequest, slot: Option<&Slot>) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let EgressRequest::Http { host, port, method, path, headers, body, .. } = request;
    let authority = authority(host, *port);
    let length = body.len().to_string();
    let own = [("host", authority.as_str()), ("accept-encoding", "identity"), ("connection", "close")];
    let length = (method.as_str() != "GET" || !body.is_empty()).then_some(("content-length", length.as_str()));
    let fields = headers.iter().map(|field| (field.name.as_str(), field.value.as_str()));
    // Large enough from the start: growing would leave a copy of the credential behind.
    let mut head = Zeroizing::new(Vec::with_capacity(64 * 1024));
    let secret = slot.map(|slot| injectable(&slot.secret)).transpose()?;
    let place = slot.map(|slot| &slot.place);
    head.extend_from_slice(method.as_bytes());
    head.push(b' ');
    if let (Some(CredentialSlot::Path { before, after }), Some(secret)) = (place, secret) {
        head.extend_from_slice(before.as_bytes());
        secret.iter().try_for_each(|byte| push_in_path(*byte, &mut head))?;
        head.extend_from_slice(after.as_bytes());
    }
    head.extend_from_slice(path.as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in own.into_iter().chain(length).chain(fields) {
        for text in [name, ": ", value, "\r\n"] {
            head.extend_from_slice(text.as_bytes());
        }
    }
    if let (Some(CredentialSlot::Header { name, prefix }), Some(secret)) = (place, secret) {
        for bytes in [name.as_bytes(), b": ", prefix.as_bytes(), secret, b"\r\n"] {
            head.extend_from_slice(bytes);
        }
    }
    head.extend_from_slice(b"\r\n");
    Ok(head)
}

/// The bytes of a credential that can stand in the head of a request.
fn injectable(secret: &Secret) -> Result<&[u8], Refusal> {
    let secret = secret.expose();
    if secret.len() < crate::scrub::SHORTEST {
        let why = "the credential has fewer than 8 bytes, so it could not be told apart in an answer";
        return Err(Refusal::new("egress.credential", why));
    }
    if !secret.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        let why = "the credential holds a byte that cannot stand in a header";
        return Err(Refusal::new("egress.credential", why));
    }
    Ok(secret)
}

/// True where a byte stands for itself in a segment of a path (RFC 3986 section 3.3). Of those that may, the semicolon is left
/// out: servers cut a segment there.
pub(crate) fn stands_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

/// One byte of a credential in a path. What servers decode before they look for the segments, or after, is refused: the
/// credential would end in one of their readings where it does not in the other.
fn push_in_path(byte: u8, head: &mut Vec<u8>) -> Result<(), Refusal> {
    if matches!(byte, b'/' | b'\\' | b'%' | b';') {
        let why = "the credential holds a byte (one of / \\ % ;) that servers read in two ways in a path; \
            its policy can give it a header";
        return Err(Refusal::new("egress.credential", why));
    }
    if stands_in_path(byte) {
        head.push(byte);
        return Ok(());
    }
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0').to_ascii_uppercase();
    head.push(b'%');
    for value in [byte >> 4, byte & 15] {
        head.extend_from_slice(digit(value).encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
    use proto::egress::HeaderField;

    fn request(method: &str, path: &str, header: (&str, &str)) -> EgressRequest {
        let header = HeaderField { name: BoundedStr::truncated(header.0), value: BoundedStr::truncated(header.1) };
        EgressRequest::Http {
            session: proto::ids::SessionKey(BoundedStr::truncated("agent:main:main")),
            credential: Some(BoundedStr::truncated("model")),
            host: BoundedStr::truncated("api.example.org"),
            port: 443,
            method: BoundedStr::truncated(method),
            path: BoundedStr::truncated(path),
            headers: BoundedVec::new(vec![header]).unwrap(),
            patience_s: 60,
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

    fn slot(secret: &[u8]) -> Slot {
        let secret = Secret::new(secret.to_vec()).unwrap();
        Slot { place: header("authorization", "Bearer "), secret }
    }

    fn header(name: &str, prefix: &str) -> CredentialSlot {
        CredentialSlot::Header { name: BoundedStr::truncated(name), prefix: BoundedStr::truncated(prefix) }
    }

    fn in_path(secret: &[u8]) -> Slot {
        let (before, after) = (BoundedStr::truncated("/bot"), BoundedStr::truncated("-x"));
        Slot { place: CredentialSlot::Path { before, after }, secret: Secret::new(secret.to_vec()).unwrap() }
    }

    #[test]
    fn credential_in_a_path_stands_in_front_of_it_once_and_what_looks_like_its_place_stays() {
        let request = request("GET", "/{secret}/{SECRET}?q={secret}", ("accept", "{secret}"));
        let head = head(&request, Some(&in_path(b"123:Ab-_ <\"?#[]^`{|}>"))).unwrap();
        let expected = "GET /bot123:Ab-_%20%3C%22%3F%23%5B%5D%5E%60%7B%7C%7D%3E-x/{secret}/{SECRET}?q={secret} HTTP/1.1\r\n\
            host: api.example.org\r\naccept-encoding: identity\r\nconnection: close\r\ncontent-length: 2\r\n\
            accept: {secret}\r\n\r\n";
        assert_eq!(std::str::from_utf8(&head).unwrap(), expected);
    }

    #[test]
    fn credential_that_could_end_its_segment_does_not_go_into_a_path() {
        let request = request("GET", "/", ("accept", "a"));
        assert!(head(&request, Some(&in_path(b"01234567"))).is_ok());
        for bad in [
            &b"0123456"[..],
            b"0123/4567",
            b"0123\\4567",
            b"0123%2f4567",
            b"0123;4567",
            b"0123\r\n4567",
            b"0123456\x80",
        ] {
            let refusal = head(&request, Some(&in_path(bad))).unwrap_err();
            assert_eq!(refusal.rule.as_str(), "egress.credential");
            assert!(!refusal.message.as_str().contains("0123"), "{refusal}");
        }
    }

    #[test]
    fn head_has_the_credential_in_its_header_and_once() {
        let request = request("POST", "/v1?q=1", ("accept", "a"));
        let head = head(&request, Some(&slot(b"0123456789"))).unwrap();
        let expected = "POST /v1?q=1 HTTP/1.1\r\nhost: api.example.org\r\naccept-encoding: identity\r\n\
            connection: close\r\ncontent-length: 2\r\naccept: a\r\nauthorization: Bearer 0123456789\r\n\r\n";
        assert_eq!(std::str::from_utf8(&head).unwrap(), expected);
    }

    #[test]
    fn credential_that_breaks_the_head_or_is_short_is_refused() {
        let request = request("GET", "/", ("accept", "a"));
        assert!(head(&request, Some(&slot(b"01234567"))).is_ok());
        for bad in [&b"0123456"[..], b"01234567\r\nx: y", b"01234567\0", b"01234567\x80"] {
            assert!(head(&request, Some(&slot(bad))).is_err());
        }
    }

    #[test]
    fn slot_that_ends_a_request_or_stands_twice_is_refused() {
        let request = request("GET", "/", ("x-key", "a"));
        assert!(check_slot(&request, &header("authorization", "")).is_ok());
        assert!(check_slot(&request, &in_path(b"01234567").place).is_ok());
        assert!(check_slot(&request, &CredentialSlot::Nowhere).is_err());
        for bad in ["host", "content-length", "transfer-encoding", "x-key", ""] {
            assert!(check_slot(&request, &header(bad, "")).is_err(), "{bad}");
        }
    }
}
