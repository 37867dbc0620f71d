//! Messages that a bridge brings in from a channel: the client is known, the sender is a stranger until the vault says
//! otherwise. Channel, sender and name are what the bridge heard; here they are only passed on, and nothing of the message
//! reaches the agent before the answer.

use crate::frames::{Failure, Params};
use crate::methods::{Done, begin};
use crate::sessions::{normalise, uuid};
use crate::state::Gateway;
use proto::bounded::BoundedStr;
use proto::channel::CallError;
use proto::senders::{ChannelId, PairingCode, SenderId, Verdict};
use proto::vault::{VaultReply, VaultRequest};
use serde_json::json;
use std::time::Duration;

/// How long the vault may take.
const VAULT_WAIT: Duration = Duration::from_secs(10);

/// `channels.inbound`: a turn of the sender's own conversation, a code to be sent back, or nothing.
///
/// # Errors
/// A [`Failure`] for the client.
pub async fn inbound(gateway: &Gateway, params: &Params<'_>) -> Result<Done, Failure> {
    let (channel, sender) = (params.required("channel", 1, 32)?, params.required("senderId", 1, 128)?);
    let name = params.text("senderName", 0, 1024)?.unwrap_or_default();
    let message = params.required("message", 1, crate::connect::MAX_PAYLOAD)?;
    let run_id = params.text("idempotencyKey", 1, crate::methods::MAX_RUN_ID)?.map_or_else(uuid, str::to_owned);
    let request = VaultRequest::MaySpeak {
        channel: ChannelId(BoundedStr::truncated(channel)),
        sender: SenderId(BoundedStr::truncated(sender)),
        name: BoundedStr::truncated(name),
    };
    let verdict = match gateway.vault.call(&request, VAULT_WAIT).await {
        Ok(VaultReply::Speak(verdict)) => verdict,
        Ok(_) => return Err(Failure::unavailable("vault: an answer to another question".to_owned())),
        Err(CallError::Refused(refusal)) => {
            return Err(Failure::invalid(refusal.to_string()).by(&refusal));
        }
        Err(error) => return Err(Failure::unavailable(format!("vault: {error}"))),
    };
    match verdict {
        Verdict::Allowed => {
            let session = normalise(&format!("{channel}:{sender}"))
                .map_err(|error| params.wrong("senderId", &error.to_string().replacen("must ", "", 1)))?;
            begin(gateway, session, message.to_owned(), run_id).await
        }
        Verdict::Pair { code, seconds, fresh } => Ok(Done::Answer(json!({
            "status": "pairing", "code": code.to_string(), "expiresInMs": u64::from(seconds).saturating_mul(1000),
            // Once is enough: who writes on is not answered again.
            "reply": fresh.then(|| reply(channel, code)),
        }))),
        Verdict::Refused(why) => Ok(Done::Answer(json!({"status": "refused", "reason": why.name()}))),
    }
}

fn reply(channel: &str, code: PairingCode) -> String {
    format!(
        "I do not know you yet. If you know who runs me, give them this code within 15 minutes: {code}\n\
         They let you in with: moltbot pairing approve {channel} {code}"
    )
}
