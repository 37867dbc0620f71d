//! Commands that wait for a person, for clients that may answer. gateway shows what the vault has and passes on what a paired
//! device signed; it decides nothing, and a word that no device signed is not passed on. What a device signs is over what it
//! hashed itself, so that showing it another command is of no use.

use crate::device::decode;
use crate::frames::{Failure, Params};
use crate::sessions::now_ms;
use crate::sessions::plain::hex;
use crate::state::Gateway;
use proto::approval::{ApprovalId, ApprovalRow, Decision, DeviceWord, TokenSignature};
use proto::auth::DeviceId;
use proto::channel::CallError;
use proto::vault::{VaultReply, VaultRequest};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// How long the vault may take.
const VAULT_WAIT: Duration = Duration::from_secs(10);

/// Tells those who may answer that something waits.
pub(crate) fn announce(gateway: &Gateway, id: ApprovalId) {
    let payload = json!({"id": id.to_string(), "createdAtMs": now_ms()});
    gateway.hub.event_of_approval("exec.approval.requested", &payload.to_string());
}

/// `exec.approval.list`: what waits.
///
/// # Errors
/// A [`Failure`] for the client.
pub async fn list(gateway: &Gateway) -> Result<Value, Failure> {
    match ask(gateway, DeviceWord::List).await? {
        VaultReply::Questions(rows) => {
            Ok(json!({"approvals": rows.iter().map(|row| Value::Object(shown(row))).collect::<Vec<_>>()}))
        }
        _ => Err(another()),
    }
}

/// `exec.approval.get`: one of them, with everything that a yes is bound to.
///
/// # Errors
/// A [`Failure`] for the client.
pub async fn get(gateway: &Gateway, params: &Params<'_>) -> Result<Value, Failure> {
    let VaultReply::Question { subject, row, nonce } = ask(gateway, DeviceWord::Show(id(params)?)).await? else {
        return Err(another());
    };
    let request: Map<String, Value> =
        subject.fields().into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut answer = shown(&row);
    answer.insert("request".to_owned(), Value::Object(request));
    answer.insert("nonce".to_owned(), hex(&nonce).into());
    Ok(Value::Object(answer))
}

/// `exec.approval.resolve`: what a paired device says, with its signature.
///
/// # Errors
/// A [`Failure`] for the client.
pub async fn resolve(gateway: &Gateway, mut params: Params<'_>) -> Result<Value, Failure> {
    let id = id(&params)?;
    let decision = match params.required("decision", 1, 32)? {
        "allow-once" => Decision::AllowOnce,
        "deny" => Decision::Deny,
        "allow-always" => {
            let how =
                format!("invalid decision: only the operator lets more than one run: moltbot approvals approve {id}");
            return Err(Failure::invalid(how));
        }
        _ => return Err(Failure::invalid("invalid decision")),
    };
    let Some(Value::Object(device)) = params.take("device") else {
        let must =
            "be the publicKey and the signature of a paired device; without one, the operator says moltbot approvals";
        return Err(params.wrong("device", must));
    };
    let text = |name: &str| device.get(name).and_then(Value::as_str).unwrap_or_default();
    let key =
        decode::<32>(text("publicKey")).ok_or_else(|| params.wrong("device/publicKey", "be 32 bytes, base64url"))?;
    let (first, second) = decode::<64>(text("signature"))
        .and_then(|bytes| Some((bytes.first_chunk().copied()?, bytes.last_chunk().copied()?)))
        .ok_or_else(|| params.wrong("device/signature", "be 64 bytes, base64url"))?;
    let device = DeviceId(Sha256::digest(key).into());
    let word = DeviceWord::Answer { device, id, decision, signature: TokenSignature(first, second) };
    let VaultReply::Accepted = ask(gateway, word).await? else { return Err(another()) };
    let by = device.to_string();
    let payload = json!({"id": id.to_string(), "decision": decision.name(), "resolvedBy": by, "ts": now_ms()});
    gateway.hub.event_of_approval("exec.approval.resolved", &payload.to_string());
    Ok(json!({"ok": true}))
}

async fn ask(gateway: &Gateway, word: DeviceWord) -> Result<VaultReply, Failure> {
    match gateway.vault.call(&VaultRequest::Approval(word), VAULT_WAIT).await {
        Ok(reply) => Ok(reply),
        Err(CallError::Refused(refusal)) => Err(Failure::invalid(refusal.to_string()).by(&refusal)),
        Err(error) => Err(Failure::unavailable(format!("vault: {error}"))),
    }
}

fn another() -> Failure {
    Failure::unavailable("vault: an answer to another question".to_owned())
}

fn id(params: &Params<'_>) -> Result<ApprovalId, Failure> {
    let number = params.required("id", 1, 32)?.strip_prefix("a-").and_then(|number| number.parse().ok());
    number.map(ApprovalId).ok_or_else(|| Failure::invalid("unknown approval id"))
}

fn shown(row: &ApprovalRow) -> Map<String, Value> {
    let fields = [
        ("id", json!(row.id.to_string())),
        ("sessionKey", json!(row.session.0.as_str())),
        ("command", json!(row.command.as_str())),
        ("digest", json!(hex(&row.digest))),
        ("expiresAtMs", json!(now_ms().saturating_add(u64::from(row.left_s).saturating_mul(1_000)))),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
