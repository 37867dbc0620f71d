//! The vault's no, in the words that clients know.

use crate::connect::Refused;
use crate::frames::{Code, Failure};
use proto::audit::AuthReason;
use serde_json::{Value, json};

/// The answer to a `connect` that the vault refused; `device` is the name of the device that asked, if one did.
#[must_use]
pub fn rejected(reason: AuthReason, retry_after_s: u32, device: Option<&str>) -> Refused {
    let (code, message) = words(reason);
    let message = match reason {
        AuthReason::RateLimited => format!("Rate limit exceeded. Try again in {retry_after_s}s"),
        _ => message.to_owned(),
    };
    let after = (retry_after_s > 0).then(|| u64::from(retry_after_s).saturating_mul(1000));
    let mut details = json!({"code": code, "authReason": reason.name()});
    if let Some(map) = details.as_object_mut() {
        map.extend(after.map(|after| ("retryAfterMs".to_owned(), after.into())));
        // What the operator finds it by.
        map.extend(device.map(|device| ("requestId".to_owned(), Value::from(device))));
    }
    let code = if code == "PAIRING_REQUIRED" { Code::NotPaired } else { Code::InvalidRequest };
    Refused { failure: Failure { code, message, details: Some(details), retry_after_ms: after }, close: 1008 }
}

const fn words(reason: AuthReason) -> (&'static str, &'static str) {
    match reason {
        AuthReason::TokenMissing => {
            ("AUTH_TOKEN_MISSING", "unauthorized: gateway token missing (provide gateway auth token)")
        }
        AuthReason::TokenMismatch => {
            ("AUTH_TOKEN_MISMATCH", "unauthorized: gateway token mismatch (provide gateway auth token)")
        }
        AuthReason::PasswordMismatch => {
            ("AUTH_PASSWORD_MISMATCH", "unauthorized: gateway password mismatch (provide gateway auth password)")
        }
        AuthReason::PasswordUnset => (
            "AUTH_PASSWORD_NOT_CONFIGURED",
            "unauthorized: gateway password not configured (moltbot gateway password set)",
        ),
        AuthReason::RateLimited => ("AUTH_RATE_LIMITED", ""),
        AuthReason::DeviceNonce => ("DEVICE_AUTH_NONCE_MISMATCH", "device nonce mismatch"),
        AuthReason::DeviceExpired => ("DEVICE_AUTH_SIGNATURE_EXPIRED", "device signature expired"),
        AuthReason::DeviceSignature => ("DEVICE_AUTH_SIGNATURE_INVALID", "device signature invalid"),
        AuthReason::DeviceUnpaired => ("PAIRING_REQUIRED", "pairing required (moltbot devices approve)"),
        AuthReason::DeviceScopes => {
            ("PAIRING_REQUIRED", "pairing required: it asks for more than it was paired for (moltbot devices approve)")
        }
        AuthReason::DeviceRevoked => ("PAIRING_REQUIRED", "pairing required: this device's pairing was revoked"),
        AuthReason::DevicesWaiting => {
            ("PAIRING_REQUIRED", "pairing required, and too many devices wait for it already; try again later")
        }
        AuthReason::DeviceTokenMissing => {
            ("AUTH_TOKEN_MISSING", "unauthorized: device token missing (moltbot devices rotate draws one)")
        }
        AuthReason::DeviceTokenStale => (
            "AUTH_DEVICE_TOKEN_MISMATCH",
            "unauthorized: device token mismatch: it was taken back (moltbot devices rotate draws another)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_says_when_to_come_back() {
        let refused = rejected(AuthReason::RateLimited, 300, None);
        assert_eq!(refused.failure.message, "Rate limit exceeded. Try again in 300s");
        assert_eq!(refused.failure.retry_after_ms, Some(300_000));
        assert_eq!(refused.failure.details.unwrap()["code"], "AUTH_RATE_LIMITED");
    }

    #[test]
    fn rejected_device_is_told_what_the_operator_finds_it_by() {
        let refused = rejected(AuthReason::DeviceUnpaired, 0, Some("d1"));
        assert_eq!((refused.failure.code, refused.close), (Code::NotPaired, 1008));
        assert_eq!(refused.failure.details.unwrap()["requestId"], "d1");
    }
}
