//! The handshake as pure decisions: what a `connect` request must look like, who is let in by the vault's word, and the
//! `hello-ok` that real clients of protocol 3 and 4 read. The request is the first thing a stranger says. The token in
//! it is moved out, never copied, and wiped with everything else that came under `auth`.
//!
//! Nothing of who a client is, is decided here: token, password and a device's signature go to the vault as they came.

use crate::device::{self, Challenge, Signed};
use crate::frames::{Failure, Params};
use crate::hub::MAX_BUFFERED;
use crate::methods;
use crate::proof::{self, Credentials};
use crate::shapes;
use crate::state::Gateway;
use proto::auth::{Pass, Scopes, Who};
use proto::bounded::BoundedVec;
use serde_json::{Map, Value, json};

/// Largest frame from a client that is known, in bytes; advertised as `policy.maxPayload`.
pub const MAX_PAYLOAD: usize = 524_288;
/// Milliseconds between two `tick` events; advertised.
pub const TICK_MS: u64 = 30_000;
/// Newest protocol.
const NEWEST: u64 = 4;
/// Oldest protocol.
const OLDEST: u64 = 3;
const EVENTS: [&str; 8] = [
    "connect.challenge",
    "agent",
    "chat",
    "tick",
    "health",
    "shutdown",
    "exec.approval.requested",
    "exec.approval.resolved",
];

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
    /// Who it says that it is, and what it wants to do.
    pub who: Who,
    /// What it may do.
    pub scopes: Scopes,
    /// What it came in by.
    pub by: BoundedVec<Pass, 2>,
}

/// Checks the parameters of a `connect`.
///
/// # Errors
/// [`Refused`], with the texts that clients know.
pub fn check(params: Value, challenge: &Challenge) -> Result<Hello, Refused> {
    let mut params = Params::new("connect", params).map_err(Refused::policy)?;
    // First of all, so that no error leaves it behind unwiped.
    let credentials = proof::credentials(&mut params).map_err(Refused::policy)?;
    let protocol = protocol(&params)?;
    let client = client(&mut params).map_err(Refused::policy)?;
    for (name, kind) in [
        ("caps", "array"),
        ("commands", "array"),
        ("permissions", "object"),
        ("pathEnv", "string"),
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
    let asked = params.take("scopes").unwrap_or_else(|| json!([]));
    let asked = scopes(&params, &asked).map_err(Refused::policy)?;
    let signed = Signed { client: &client, scopes: &asked };
    let device = device::claim(&mut params, &signed, challenge).map_err(Refused::policy)?;
    let scopes = Scopes::of(asked.iter().copied());
    // Where nothing is asked for all is: what lets a bearer in is the whole right. A device gets what it was paired for.
    let scopes = if asked.is_empty() { Scopes::ALL } else { scopes };
    let who = device.map_or(Who::Bearer(scopes), |proof| Who::Device(Box::new(proof)));
    Ok(Hello { protocol, credentials, who, scopes, by: BoundedVec::default() })
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

fn client(params: &mut Params<'_>) -> Result<Map<String, Value>, Failure> {
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
    Ok(client)
}

/// The scopes asked for, as they were written.
fn scopes<'s>(params: &Params<'_>, asked: &'s Value) -> Result<Vec<&'s str>, Failure> {
    match asked.as_array() {
        Some(items) if items.len() <= 64 => {
            items.iter().map(|item| item.as_str().ok_or_else(|| params.wrong("scopes/0", "be string"))).collect()
        }
        _ => Err(params.wrong("scopes", "be array of at most 64 items")),
    }
}

/// True where `scopes` allow what needs `scope`.
#[must_use]
pub fn allows(scopes: Scopes, scope: &str) -> bool {
    let needed = Scopes::of([scope]);
    // A scope that there is not is had by nobody but who has all.
    scopes.cover(if needed.is_empty() { Scopes::ALL } else { needed })
}

/// The answer to a `connect` that is let in.
#[must_use]
pub fn hello_ok(gateway: &Gateway, protocol: u8, conn_id: &str, scopes: Scopes) -> Value {
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
        "auth": {"role": "operator", "scopes": scopes.spelled_out().names()},
        "policy": policy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::auth::ConnectionId;

    fn challenge() -> Challenge {
        Challenge { connection: ConnectionId([1; 16]), nonce: "n".to_owned() }
    }

    fn check(params: Value) -> Result<Hello, Refused> {
        super::check(params, &challenge())
    }

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
        assert_eq!((hello.protocol, hello.scopes), (4, Scopes::ALL));
        assert_eq!(hello.credentials.token.unwrap().expose(), b"secret");
        let narrow = check(params(|p| p["scopes"] = json!(["operator.read", "made.up"]))).ok().unwrap();
        assert_eq!(narrow.scopes.names(), ["operator.read"]);
        assert!(!allows(narrow.scopes, "operator.write"));
        assert!(allows(Scopes::of(["operator.write"]), "operator.read"));
        let unknown = check(params(|p| p["scopes"] = json!(["made.up"]))).ok().unwrap();
        assert!(unknown.scopes.is_empty(), "what asks for nothing that there is gets nothing");
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
}
