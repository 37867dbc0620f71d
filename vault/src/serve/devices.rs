//! Paired devices' words about commands that wait, by way of gateway. gateway is hostile here: it may pass words on late, twice,
//! or to other questions, and make some up. What counts is the device's signature over this question, as the vault keeps it,
//! and what the operator paired the device for. No such word is good for more than one run.

use super::approving::{hex, refused};
use super::{Vault, now_ms};
use crate::approvals::Digest;
use crate::auth::devices::{Beside, Devices};
use crate::auth::{AskError, recorded};
use crate::lend::secret_record;
use ed25519_dalek::{Signature, VerifyingKey};
use proto::approval::{ApprovalId, Decision, DeviceWord, TokenSignature, signed_by_device};
use proto::auth::{DeviceId, Scopes};
use proto::edge::Refusal;
use proto::vault::VaultReply;

/// A device's word about one question.
struct Word {
    device: DeviceId,
    id: ApprovalId,
    decision: Decision,
    signature: TokenSignature,
}

/// Whether this is the word of a device that may say it, about the question that has this digest and this nonce.
fn check(devices: &Devices, word: &Word, digest: &Digest, nonce: &[u8; 32]) -> Result<(), Refusal> {
    let name = word.device;
    let Some(device) = devices.get(name).filter(|device| device.stands) else {
        return Err(Refusal::new(
            "approvals.device",
            "no device of this name is paired; `moltbot devices list` shows them",
        ));
    };
    if !device.scopes.cover(Scopes::of(["operator.approvals"])) {
        let why = format!(
            "it was not paired for operator.approvals: `moltbot devices approve {name} --scopes` says for what"
        );
        return Err(Refusal::new("approvals.scope", &why));
    }
    // What it shows is a secret between it and the vault, and no part of a word that others pass on.
    if device.beside != Beside::Nothing {
        return Err(Refusal::new(
            "approvals.token",
            "it must show a token beside its key, and a signature alone shows none",
        ));
    }
    let text = signed_by_device(name, word.id, digest, nonce, word.decision);
    let signature = Signature::from_components(word.signature.0, word.signature.1);
    let key = VerifyingKey::from_bytes(&device.public_key).ok();
    if key.is_none_or(|key| key.verify_strict(text.as_bytes(), &signature).is_err()) {
        let why =
            "it did not sign this word about this question: another command, number, nonce or word, or another key";
        return Err(Refusal::new("approvals.signature", why));
    }
    Ok(())
}

impl Vault {
    pub(super) fn on_device_word(&mut self, word: &DeviceWord) -> Result<VaultReply, AskError> {
        let now = now_ms();
        let table = &mut self.approving.table;
        match *word {
            // Looking tells gateway nothing but how its own commands would be run.
            DeviceWord::List => Ok(VaultReply::Questions(table.questions(now))),
            DeviceWord::Show(id) => {
                let (_, nonce) = table.marks(id, now).map_err(refused)?;
                let (subject, row) = table.show(id, now).map_err(refused)?;
                Ok(VaultReply::Question { subject, row, nonce })
            }
            DeviceWord::Answer { device, id, decision, signature } => {
                self.on_device_answer(&Word { device, id, decision, signature }, now)
            }
        }
    }

    fn on_device_answer(&mut self, word: &Word, now: u64) -> Result<VaultReply, AskError> {
        let (digest, nonce) = self.approving.table.marks(word.id, now).map_err(refused)?;
        let verb = match word.decision {
            Decision::AllowOnce => "approvals.approve",
            Decision::Deny => "approvals.deny",
        };
        let who = format!("device:{}", word.device);
        if let Err(refusal) = check(self.state.devices(), word, &digest, &nonce) {
            let detail = format!("{}: {}", word.id, refusal.rule.as_str());
            recorded(&mut self.auditor, secret_record("", verb, &who, false, &detail), "the refusal")?;
            return Err(refusal.into());
        }
        let detail = format!("{} for sha256:{}, 1 uses, 0 s", word.id, hex(&digest));
        recorded(&mut self.auditor, secret_record("", verb, &who, true, &detail), "the word")?;
        let table = &mut self.approving.table;
        match word.decision {
            Decision::AllowOnce => table.approve(word.id, 1, 0, now),
            Decision::Deny => table.deny(word.id, now),
        }
        .map_err(refused)?;
        Ok(VaultReply::Accepted)
    }
}
