//! A credential exchanged for another one (RFC 6749 section 6): egress writes the request itself, reads the whole answer, and gives
//! what is new in it to the vault. gateway, which asked for it, has no word in the request and sees none of the answer.

use crate::template::authority;
use proto::edge::Refusal;
use proto::egress::EgressRequest;
use proto::secret::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Largest answer.
pub const MAX_ANSWER: usize = 64 * 1024;
/// Shortest credential: of a shorter one nothing could be told apart in an answer.
const SHORTEST: usize = crate::scrub::SHORTEST;

/// What is new.
pub struct Issued {
    /// The credential that requests go with.
    pub access: Secret,
    /// The next one to ask for others with, where the old one is used up.
    pub refresh: Option<Secret>,
}

/// Members of an answer (RFC 6749 section 5.1). What the strings hold is moved on, and wiped there.
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: Option<String>,
}

fn refuse(why: &str) -> Refusal {
    Refusal::new("egress.refresh", why)
}

fn percent(bytes: &[u8], into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            into.push(*byte);
            continue;
        }
        let digit = |half: u8| DIGITS.get(usize::from(half)).copied().unwrap_or_default();
        into.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
    }
}

/// The whole request. gateway gives where it goes and nothing else.
///
/// # Errors
/// [`Refusal`].
pub fn request(request: &EgressRequest, client: &str, secret: &Secret) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let EgressRequest::Http { host, port, method, path, headers, body, .. } = request;
    if method.as_str() != "POST" || !headers.is_empty() || !body.is_empty() {
        return Err(refuse("a credential is exchanged by a POST without headers and without a body of the caller's"));
    }
    if secret.expose().len() < SHORTEST {
        return Err(refuse("the credential has fewer than 8 bytes"));
    }
    // Large enough from the start: growing would leave a copy of the credential behind.
    let mut form = Zeroizing::new(Vec::with_capacity(8 * Secret::MAX));
    form.extend_from_slice(b"grant_type=refresh_token&refresh_token=");
    percent(secret.expose(), &mut form);
    if !client.is_empty() {
        form.extend_from_slice(b"&client_id=");
        percent(client.as_bytes(), &mut form);
    }
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\naccept-encoding: identity\r\nconnection: close\r\naccept: application/json\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        path.as_str(),
        authority(host, *port),
        form.len()
    );
    let mut whole = Zeroizing::new(Vec::with_capacity(head.len().saturating_add(form.len())));
    whole.extend_from_slice(head.as_bytes());
    whole.extend_from_slice(&form);
    Ok(whole)
}

/// What is new in an answer.
///
/// # Errors
/// [`Refusal`]; it says nothing of what stands there.
pub fn answer(status: u16, body: &[u8]) -> Result<Issued, Refusal> {
    if status != 200 {
        return Err(refuse(&format!("no new credential: the server answered {status}")));
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|_| refuse("the answer is no JSON object with an access_token"))?;
    let taken = |text: String| {
        let plain = text.len() >= SHORTEST && text.bytes().all(|byte| matches!(byte, b'!'..=b'~'));
        let secret = Secret::new(text.into_bytes()).map_err(|_| refuse("a new credential has more than 1024 bytes"))?;
        if plain {
            Ok(secret)
        } else {
            Err(refuse("a new credential is shorter than 8 bytes, or cannot stand in a header"))
        }
    };
    Ok(Issued { access: taken(answer.access_token)?, refresh: answer.refresh_token.map(taken).transpose()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};

    fn post(body: &[u8]) -> EgressRequest {
        EgressRequest::Http {
            session: proto::ids::SessionKey(BoundedStr::truncated("agent:main:main")),
            credential: None,
            host: BoundedStr::truncated("auth.test"),
            port: 443,
            method: BoundedStr::truncated("POST"),
            path: BoundedStr::truncated("/token"),
            headers: BoundedVec::default(),
            patience_s: 5,
            body: BoundedBytes::new(body.to_vec()).unwrap(),
        }
    }

    #[test]
    fn request_is_egresses_own_and_the_credential_cannot_add_to_it() {
        let secret = Secret::new(b"rt-1&scope=all\r\n".to_vec()).unwrap();
        let whole = request(&post(b""), "me&you", &secret).unwrap();
        let text = String::from_utf8(whole.to_vec()).unwrap();
        let (head, form) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /token HTTP/1.1\r\nhost: auth.test\r\n"), "{head}");
        assert!(head.ends_with(&format!("content-length: {}", form.len())), "{head}");
        assert_eq!(form, "grant_type=refresh_token&refresh_token=rt-1%26scope%3Dall%0D%0A&client_id=me%26you");
        assert!(request(&post(b"grant_type=password"), "", &secret).is_err());
    }

    #[test]
    fn answer_gives_what_is_new_or_a_refusal_that_holds_nothing_of_it() {
        let issued =
            answer(200, br#"{"access_token":"at-1234567","expires_in":3600,"refresh_token":"rt-1234567"}"#).unwrap();
        assert_eq!(
            (issued.access.expose(), issued.refresh.unwrap().expose()),
            (&b"at-1234567"[..], &b"rt-1234567"[..])
        );
        assert!(answer(200, br#"{"access_token":"at-1234567"}"#).unwrap().refresh.is_none());
        let long = format!(r#"{{"access_token":"{}"}}"#, "secret-".repeat(200));
        for (status, body) in [
            (400, &br#"{"error":"secret-1"}"#[..]),
            (200, b"secret-1"),
            (200, br#"{"token":"secret-1"}"#),
            (200, br#"{"access_token":"secret"}"#),
            (200, br#"{"access_token":"secret 1234"}"#),
            (200, br#"{"access_token":"at-1234567","refresh_token":"secret"}"#),
            (200, long.as_bytes()),
        ] {
            let refusal = answer(status, body).err().unwrap();
            assert!(
                refusal.rule.as_str() == "egress.refresh" && !refusal.message.as_str().contains("secret"),
                "{refusal}"
            );
        }
    }
}
