//! The handshake as pure decisions: what a `connect` request must look like, who is let in by the vault's word, and the
//! `hello-ok` that real clients of protocol 3 and 4 read. The request is the first thing a stranger says. The token in
//! it is moved out, never copied, and wiped with everything else that came under `auth`.
//!
//! Device signatures are not verified here, and a `device` proves nothing: identity is the token or the password alone.

use crate::frames::{Code, Failure, Params};
use crate::hub::MAX_BUFFERED;
use crate::methods;
use crate::proof::{self, Credentials};
use crate::shapes;
use crate::state::Gateway;
use proto::audit::AuthReason;
use serde_json::{Value, json};

/// Largest frame from a client that is known, in bytes; advertised as `policy.maxPayload`.
pub const MAX_PAYLOAD: usize = 524_288;
/// Milliseconds between two `tick` events; advertised.
pub const TICK_MS: u64 = 30_000;
/// Newest protocol.
const NEWEST: u64 = 4;
/// Oldest protocol.
const OLDEST: u64 = 3;
const ADMIN: &str = "operator.admin";
const SCOPES: [&str; 5] = [ADMIN, "operator.read", "operator.write", "operator.approvals", "operator.pairing"];
const EVENTS: [&str; 6] = ["connect.challenge", "agent", "chat", "tick", "health", "shutdown"];

/// Why the handshake ends, and the code that the connection is closed with.
#[derive(Debug, PartialEq)]
pub struct Refused {
    /// For the answer.
    pub failure: Failure,
    /// For the close frame.
    pub close: u16,
}

impl Refused {
    const fn policy(failure: Failure) -> Self {
        Self { failure, close: 1008 }
    }
}

/// A `connect` that is well formed.
pub struct Hello {
    /// 3 or 4.
    pub protocol: u8,
    /// What it offers as proof.
    pub credentials: Credentials,
    /// What it may do, once the proof holds.
    pub scopes: Vec<&'static str>,
}

/// Checks the parameters of a `connect`.
///
/// # Errors
/// [`Refused`], with the texts that clients know.
pub fn check(params: Value) -> Result<Hello, Refused> {
    let mut params = Params::new("connect", params).map_err(Refused::policy)?;
    // First of all, so that no error leaves it behind unwiped.
    let credentials = proof::credentials(&mut params).map_err(Refused::policy)?;
    let protocol = protocol(&params)?;
    client(&mut params).map_err(Refused::policy)?;
    for (name, kind) in [
        ("caps", "array"),
        ("commands", "array"),
        ("permissions", "object"),
        ("pathEnv", "string"),
        ("device", "object"),
        ("locale", "string"),
        ("userAgent", "string"),
    ] {
        params.kind(name, kind).map_err(Refused::policy)?;
    }
    match params.text("role", 1, 32).map_err(Refused::policy)? {
        None | Some("operator") => {}
        Some("node") => {
            return Err(Refused::policy(Failure::invalid(
                "unauthorized role: node (this gateway serves operators only)",
            )));
        }
        Some(_) => return Err(Refused::policy(Failure::invalid("invalid role"))),
    }
    Ok(Hello { protocol, credentials, scopes: scopes(&mut params).map_err(Refused::policy)? })
}

fn protocol(params: &Params<'_>) -> Result<u8, Refused> {
    let bound = |name| match params.number(name, 1, u64::from(u32::MAX)) {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(Refused::policy(params.missing(name))),
        Err(failure) => Err(Refused::policy(failure)),
    };
    let (min, max) = (bound("minProtocol")?, bound("maxProtocol")?);
    if min <= NEWEST && max >= NEWEST {
        return Ok(4);
    }
    if min <= OLDEST && max == OLDEST {
        return Ok(3);
    }
    let failure = Failure::invalid("protocol mismatch").with(json!({
        "code": "PROTOCOL_MISMATCH", "clientMinProtocol": min, "clientMaxProtocol": max, "expectedProtocol": NEWEST,
        "minimumProbeProtocol": OLDEST,
    }));
    Err(Refused { failure, close: 1002 })
}

fn client(params: &mut Params<'_>) -> Result<(), Failure> {
    let Some(client) = params.take("client") else { return Err(params.missing("client")) };
    let Value::Object(client) = client else { return Err(params.wrong("client", "be object")) };
    for name in ["id", "version", "platform", "mode"] {
        match client.get(name) {
            Some(Value::String(text)) if !text.is_empty() && text.len() <= 256 => {}
            Some(Value::String(_)) => return Err(params.wrong(&format!("client/{name}"), "have 1 to 256 bytes")),
            Some(_) => return Err(params.wrong(&format!("client/{name}"), "be string")),
            None => return Err(params.wrong("client", &format!("have required property '{name}'"))),
        }
    }
    for name in ["displayName", "deviceFamily", "modelIdentifier", "instanceId", "buildId", "timeZone"] {
        if client.get(name).is_some_and(|value| !value.is_string()) {
            return Err(params.wrong(&format!("client/{name}"), "be string"));
        }
    }
    Ok(())
}

/// The scopes asked for, of those there are; all where none is asked for, since the token is the whole right.
fn scopes(params: &mut Params<'_>) -> Result<Vec<&'static str>, Failure> {
    let asked = match params.take("scopes") {
        None => return Ok(SCOPES.to_vec()),
        Some(Value::Array(items)) if items.len() <= 64 => items,
        Some(_) => return Err(params.wrong("scopes", "be array of at most 64 items")),
    };
    if asked.iter().any(|item| !item.is_string()) {
        return Err(params.wrong("scopes/0", "be string"));
    }
    let has = |scope: &str| asked.iter().any(|item| item.as_str() == Some(scope));
    if asked.is_empty() || has(ADMIN) {
        return Ok(SCOPES.to_vec());
    }
    Ok(SCOPES.into_iter().filter(|scope| has(scope)).collect())
}

/// True where `scopes` allow what needs `scope`.
#[must_use]
pub fn allows(scopes: &[&str], scope: &str) -> bool {
    scopes
        .iter()
        .any(|have| *have == ADMIN || *have == scope || (*have == "operator.write" && scope == "operator.read"))
}

/// The vault's no, in the words that clients know.
#[must_use]
pub fn rejected(reason: AuthReason, retry_after_s: u32) -> Refused {
    let (code, message) = match reason {
        AuthReason::TokenMissing => {
            ("AUTH_TOKEN_MISSING", "unauthorized: gateway token missing (provide gateway auth token)".to_owned())
        }
        AuthReason::TokenMismatch => {
            ("AUTH_TOKEN_MISMATCH", "unauthorized: gateway token mismatch (provide gateway auth token)".to_owned())
        }
        AuthReason::PasswordMismatch => (
            "AUTH_PASSWORD_MISMATCH",
            "unauthorized: gateway password mismatch (provide gateway auth password)".to_owned(),
        ),
        AuthReason::PasswordUnset => (
            "AUTH_PASSWORD_NOT_CONFIGURED",
            "unauthorized: gateway password not configured (moltbot gateway password set)".to_owned(),
        ),
        AuthReason::RateLimited => ("AUTH_RATE_LIMITED", format!("Rate limit exceeded. Try again in {retry_after_s}s")),
    };
    let after = (retry_after_s > 0).then(|| u64::from(retry_after_s).saturating_mul(1000));
    let mut details = json!({"code": code, "authReason": reason.name()});
    if let (Some(after), Some(map)) = (after, details.as_object_mut()) {
        map.insert("retryAfterMs".to_owned(), after.into());
    }
    let failure = Failure { code: Code::InvalidRequest, message, details: Some(details), retry_after_ms: after };
    Refused::policy(failure)
}

/// The answer to a `connect` that is let in.
#[must_use]
pub fn hello_ok(gateway: &Gateway, protocol: u8, conn_id: &str, scopes: &[&str]) -> Value {
    let identity = &gateway.identity;
    let version = env!("CARGO_PKG_VERSION");
    let mut server = json!({"version": version, "connId": conn_id});
    let mut policy = json!({"maxPayload": MAX_PAYLOAD, "maxBufferedBytes": MAX_BUFFERED, "tickIntervalMs": TICK_MS});
    if let (Some(server), Some(policy)) = (server.as_object_mut(), policy.as_object_mut()) {
        if protocol == 3 {
            server.insert("host".to_owned(), identity.host.as_str().into());
        } else {
            server.insert("buildId".to_owned(), version.into());
            server.insert("bootId".to_owned(), gateway.boot_id.as_str().into());
            // What fits a frame as base64; nothing takes attachments yet, and clients read the numbers all the same.
            policy.insert("attachments".to_owned(), json!({"maxBytes": 262_144, "maxImageBytes": 262_144}));
        }
    }
    let now = crate::sessions::now_ms();
    json!({
        "type": "hello-ok",
        "protocol": protocol,
        "server": server,
        "features": {"methods": methods::names(), "events": EVENTS},
        "snapshot": {
            "presence": [{
                "host": identity.host, "version": version, "platform": std::env::consts::OS, "mode": "gateway",
                "reason": "self", "text": format!("Gateway: {} · mode gateway · reason self", identity.host), "ts": now,
            }],
            "health": shapes::health(gateway),
            "stateVersion": {"presence": 1, "health": 1},
            "uptimeMs": gateway.uptime_ms(),
            "configPath": identity.config_path,
            "stateDir": identity.state_dir,
            "sessionDefaults": {
                "defaultAgentId": "main", "mainKey": "main", "mainSessionKey": crate::sessions::MAIN_KEY,
                "scope": "per-sender",
            },
            "authMode": "token",
        },
        "auth": {"role": "operator", "scopes": scopes},
        "policy": policy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(change: impl FnOnce(&mut Value)) -> Value {
        let mut params = json!({
            "minProtocol": 4, "maxProtocol": 4, "auth": {"token": "secret"}, "later": {"field": 1},
            "client": {"id": "cli", "version": "1", "platform": "linux", "mode": "cli", "buildId": "x"},
        });
        change(&mut params);
        params
    }

    #[test]
    fn check_good_connect_yields_token_and_scopes() {
        let hello = check(params(|_| {})).ok().unwrap();
        assert_eq!((hello.protocol, hello.scopes.len()), (4, 5));
        assert_eq!(hello.credentials.token.unwrap().expose(), b"secret");
        let narrow = check(params(|p| p["scopes"] = json!(["operator.read", "made.up"]))).ok().unwrap();
        assert_eq!(narrow.scopes, ["operator.read"]);
        assert!(!allows(&narrow.scopes, "operator.write"));
        assert!(allows(&["operator.write"], "operator.read"));
    }

    #[test]
    fn check_takes_token_and_password_and_nothing_empty() {
        let credentials = |auth: Value| check(params(|p| p["auth"] = auth)).ok().unwrap().credentials;
        let both = credentials(json!({"token": "t", "password": "p", "later": ["x"]}));
        assert_eq!((both.token.unwrap().expose(), both.password.unwrap().expose()), (&b"t"[..], &b"p"[..]));
        let none = credentials(json!({"token": "", "password": ""}));
        assert!(none.token.is_none() && none.password.is_none());
        let long = check(params(|p| p["auth"] = json!({"password": "x".repeat(1025)}))).err().unwrap();
        assert!(long.failure.message.contains("/auth/password"), "{}", long.failure.message);
    }

    #[test]
    fn check_protocol_range_picks_the_newest_common() {
        let pick = |min: u64, max: u64| {
            check(params(|p| {
                p["minProtocol"] = json!(min);
                p["maxProtocol"] = json!(max);
            }))
            .map(|hello| hello.protocol)
            .map_err(|refused| refused.close)
        };
        assert_eq!(pick(3, 3), Ok(3));
        assert_eq!(pick(3, 4), Ok(4));
        assert_eq!(pick(4, 9), Ok(4));
        assert_eq!(pick(5, 9), Err(1002));
        assert_eq!(pick(1, 2), Err(1002));
    }

    #[test]
    fn check_wrong_types_are_refused_with_their_place() {
        let message = |change: fn(&mut Value)| check(params(change)).err().unwrap().failure.message;
        assert_eq!(message(|p| p["client"]["id"] = json!(5)), "invalid connect params: at /client/id: must be string");
        assert_eq!(message(|p| p["auth"] = json!("x")), "invalid connect params: at /auth: must be object");
        assert_eq!(
            message(|p| p["auth"]["token"] = json!(1)),
            "invalid connect params: at /auth/token: must be string"
        );
        assert_eq!(
            message(|p| p["minProtocol"] = json!("4")),
            "invalid connect params: at /minProtocol: must be integer"
        );
        assert_eq!(message(|p| p["caps"] = json!({})), "invalid connect params: at /caps: must be array");
        assert!(message(|p| p["role"] = json!("node")).starts_with("unauthorized role: node"));
    }

    #[test]
    fn rejected_says_when_to_come_back() {
        let refused = rejected(AuthReason::RateLimited, 300);
        assert_eq!(refused.failure.message, "Rate limit exceeded. Try again in 300s");
        assert_eq!(refused.failure.retry_after_ms, Some(300_000));
        assert_eq!(refused.failure.details.unwrap()["code"], "AUTH_RATE_LIMITED");
    }
}
