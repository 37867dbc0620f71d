//! What a `connect` offers as proof: taken out of the parameters whole, so that nothing of it stays behind. Credentials are
//! moved, never copied, and wiped with everything else that came under `auth`. Nothing is decided here.

use crate::frames::{Failure, Params};
use proto::secret::Secret;
use serde_json::Value;
use zeroize::Zeroize;

/// What came under `auth`.
#[derive(Default)]
pub struct Credentials {
    /// The token.
    pub token: Option<Secret>,
    /// The password.
    pub password: Option<Secret>,
}

/// Takes the credentials out of the parameters of a `connect`.
///
/// # Errors
/// A [`Failure`] where one is no text, or too long.
pub fn credentials(params: &mut Params<'_>) -> Result<Credentials, Failure> {
    let Some(auth) = params.take("auth") else { return Ok(Credentials::default()) };
    let Value::Object(auth) = auth else {
        wipe(auth);
        return Err(params.wrong("auth", "be object"));
    };
    let (mut found, mut wrong) = (Credentials::default(), None);
    for (name, value) in auth {
        let slot = match name.as_str() {
            "token" => &mut found.token,
            "password" => &mut found.password,
            _ => {
                wipe(value);
                continue;
            }
        };
        match value {
            Value::String(text) if text.is_empty() => {}
            Value::String(text) => match Secret::new(text.into_bytes()) {
                Ok(secret) => *slot = Some(secret),
                Err(_) => wrong = Some(params.wrong(&format!("auth/{name}"), "NOT have more than 1024 bytes")),
            },
            other => {
                wipe(other);
                wrong = Some(params.wrong(&format!("auth/{name}"), "be string"));
            }
        }
    }
    wrong.map_or(Ok(found), Err)
}

/// Overwrites every text in `value`.
pub fn wipe(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Array(items) => items.into_iter().for_each(wipe),
        Value::Object(map) => map.into_iter().for_each(|(_, value)| wipe(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
