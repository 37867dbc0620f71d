//! A device's claim in a `connect`: taken apart, bounded and handed to the vault, which alone says whether it holds. What is
//! refused here is only what could not hold, so that its client gets to hear why.

use crate::frames::{Failure, Params};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proto::auth::{ConnectionId, DeviceId, DeviceProof};
use proto::bounded::BoundedStr;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// What a client is asked to sign, for one connection.
pub struct Challenge {
    /// The connection.
    pub connection: ConnectionId,
    /// The vault's nonce as text; where the vault gave none, one that nothing signed holds for.
    pub nonce: String,
}

/// What else of a `connect` a device signs.
pub struct Signed<'s> {
    /// The field `client`.
    pub client: &'s Map<String, Value>,
    /// The scopes, as they were written.
    pub scopes: &'s [&'s str],
}

fn cannot_hold(code: &str, message: &str) -> Failure {
    Failure::invalid(message).with(json!({"code": code}))
}

/// Takes the claim out of the parameters, if there is one.
///
/// # Errors
/// A [`Failure`] where it could not hold.
pub fn claim(
    params: &mut Params<'_>,
    signed: &Signed<'_>,
    challenge: &Challenge,
) -> Result<Option<DeviceProof>, Failure> {
    let Some(device) = params.take("device") else { return Ok(None) };
    let Value::Object(device) = device else { return Err(params.wrong("device", "be object")) };
    let text = |name: &str| device.get(name).and_then(Value::as_str);
    let needed =
        |name: &str| text(name).ok_or_else(|| params.wrong("device", &format!("have required property '{name}'")));
    let (id, key, signature) = (needed("id")?, needed("publicKey")?, needed("signature")?);
    let bad_key = || cannot_hold("DEVICE_AUTH_PUBLIC_KEY_INVALID", "device public key invalid");
    let public_key: [u8; 32] = decode(key).ok_or_else(bad_key)?;
    if id != name(&public_key) {
        return Err(cannot_hold("DEVICE_AUTH_DEVICE_ID_MISMATCH", "device identity mismatch"));
    }
    match text("nonce") {
        None => return Err(cannot_hold("DEVICE_AUTH_NONCE_REQUIRED", "device nonce required")),
        Some(nonce) if nonce != challenge.nonce => {
            return Err(cannot_hold("DEVICE_AUTH_NONCE_MISMATCH", "device nonce mismatch"));
        }
        Some(_) => {}
    }
    let bad_signature = || cannot_hold("DEVICE_AUTH_SIGNATURE_INVALID", "device signature invalid");
    let signature: [u8; 64] = decode(signature).ok_or_else(bad_signature)?;
    let (first, second) = signature.split_first_chunk::<32>().ok_or_else(bad_signature)?;
    let second: [u8; 32] = second.try_into().map_err(|_| bad_signature())?;
    let signed_at_ms = device.get("signedAt").and_then(Value::as_u64);
    let signed_at_ms = signed_at_ms.ok_or_else(|| params.wrong("device/signedAt", "be integer"))?;
    let of_client = |name: &str| signed.client.get(name).and_then(Value::as_str).unwrap_or_default();
    let scopes = signed.scopes.join(",");
    Ok(Some(DeviceProof {
        connection: challenge.connection,
        public_key,
        signature: [*first, second],
        signed_at_ms,
        client: bounded(params, "client/id", of_client("id"))?,
        mode: bounded(params, "client/mode", of_client("mode"))?,
        scopes: bounded(params, "scopes", &scopes)?,
        platform: bounded(params, "client/platform", of_client("platform"))?,
        family: bounded(params, "client/deviceFamily", of_client("deviceFamily"))?,
        // For the operator's eye alone.
        name: BoundedStr::truncated(of_client("displayName")),
    }))
}

/// The name of the device whose key this is.
#[must_use]
pub fn name(public_key: &[u8; 32]) -> String {
    DeviceId(Sha256::digest(public_key).into()).to_string()
}

pub(crate) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?.try_into().ok()
}

fn bounded<const N: usize>(params: &Params<'_>, path: &str, text: &str) -> Result<BoundedStr<N>, Failure> {
    BoundedStr::new(text)
        .map_err(|_| params.wrong(path, &format!("NOT have more than {N} bytes where a device signs it")))
}
