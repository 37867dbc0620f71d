//! Approvals: sandboxd's questions and the operator's answers, in front of the table and behind the log.
//!
//! sandboxd is hostile here: it may ask for anything, and what it asks for is shown to the operator as it is hashed. A yes is
//! recorded before it is given, and given once: the token is over the digest and the nonce of the question.

use super::{Vault, now_ms};
use crate::approvals::{Answer, ApprovalError, Approvals, Digest};
use crate::auth::{AskError, recorded};
use crate::entropy;
use crate::lend::secret_record;
use crate::verbs::changed;
use confine::startup::{Control, StartError};
use ed25519_dalek::{Signer as _, SigningKey};
use proto::approval::{
    ApprovalAnswer, ApprovalId, ApprovalReply, ApprovalRequest, ApprovalVerb, Token, TokenSignature,
};
use proto::edge::{Refusal, SandboxdVault};
use proto::topology::EdgeId;
use sha2::{Digest as _, Sha256};

/// The table and the key, both of this process alone.
#[derive(Default)]
pub(super) struct Approving {
    pub(super) table: Approvals,
    key: Option<SigningKey>,
}

impl Approving {
    /// Takes everything back; says how many approvals there were.
    pub(super) fn end_all(&mut self) -> usize {
        let revoked = self.table.revoke(None);
        self.table.withdraw_all();
        revoked
    }

    fn key(&mut self) -> Result<&SigningKey, Refusal> {
        if self.key.is_none() {
            let mut seed = zeroize::Zeroizing::new([0; 32]);
            entropy::fill(seed.as_mut())
                .map_err(|errno| Refusal::new("vault.random", &format!("getrandom: {errno}")))?;
            self.key = Some(SigningKey::from_bytes(&seed));
        }
        self.key.as_ref().ok_or_else(|| Refusal::new("vault.random", "there is no key"))
    }

    fn token(&mut self, id: ApprovalId, digest: Digest, nonce: [u8; 32]) -> Result<Token, Refusal> {
        let signature = self.key()?.sign(&Token::signed(&digest, &nonce, id));
        Ok(Token { digest, nonce, id, signature: TokenSignature(*signature.r_bytes(), *signature.s_bytes()) })
    }
}

pub(super) fn refused(error: ApprovalError) -> AskError {
    let rule = match error {
        ApprovalError::Crowded => "approvals.crowded",
        ApprovalError::Unknown => "approvals.unknown",
        ApprovalError::Bounds => "approvals.bounds",
    };
    Refusal::new(rule, &error.to_string()).into()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Vault {
    pub(super) fn turn_sandboxd(&mut self, control: &Control) -> Result<(), StartError> {
        let Some(channel) = self.sandboxd.take() else { return Ok(()) };
        let answer = |vault: &mut Self, id, request| Ok(vec![(id, vault.on_approval(request)?)]);
        self.sandboxd = self.turn::<SandboxdVault>(EdgeId::SandboxdVault, channel, control, answer)?;
        if self.sandboxd.is_none() {
            self.approving.table.withdraw_all();
        }
        Ok(())
    }

    fn on_approval(&mut self, request: ApprovalRequest) -> Result<ApprovalReply, AskError> {
        let now = now_ms();
        let answer = match request {
            ApprovalRequest::Key => return Ok(ApprovalReply::Key(self.approving.key()?.verifying_key().to_bytes())),
            ApprovalRequest::Ask { subject, timeout_s, nonce } => {
                let digest = Sha256::digest(subject.canonical()).into();
                self.approving.table.ask(subject, digest, nonce, timeout_s, now).map_err(refused)?
            }
            ApprovalRequest::Collect { id } => self.approving.table.collect(id, now),
            ApprovalRequest::Standing { session } => {
                let (taints, name) = (&self.state.contents().taints, session.0.as_str());
                return Ok(ApprovalReply::Standing { tainted: taints.has(name), suspended: taints.is_suspended(name) });
            }
            ApprovalRequest::Withdraw { id } => {
                self.approving.table.withdraw(id);
                return Ok(ApprovalReply::Withdrawn);
            }
            ApprovalRequest::Suspend { session } => {
                let count = self.approving.table.suspend(&session);
                let detail = format!("{count} of {}", session.0.as_str());
                recorded(
                    &mut self.auditor,
                    secret_record("", "approvals.suspend", "sandboxd", true, &detail),
                    "the suspension",
                )?;
                self.state.change_taints(|taints| taints.suspend(session.0.as_str())).map_err(changed)?;
                return Ok(ApprovalReply::Withdrawn);
            }
        };
        match answer {
            Answer::Waiting(id) => Ok(ApprovalReply::Waiting(id)),
            Answer::Denied => Ok(ApprovalReply::Denied),
            Answer::Lapsed => Ok(ApprovalReply::Lapsed),
            Answer::Approved(id, digest, nonce) => {
                // It is counted already: what cannot be recorded is spent and not given.
                let detail = format!("{id} for sha256:{}", hex(&digest));
                let record = secret_record("", "approvals.use", "sandboxd", true, &detail);
                recorded(&mut self.auditor, record, "the approval")?;
                Ok(ApprovalReply::Approved(self.approving.token(id, digest, nonce)?))
            }
        }
    }

    pub(super) fn on_approval_verb(&mut self, uid: u32, verb: &ApprovalVerb) -> Result<ApprovalAnswer, AskError> {
        let (now, who) = (now_ms(), format!("operator:{uid}"));
        let table = &mut self.approving.table;
        let about = |id: &ApprovalId, more: &str| format!("{id}{more}");
        let detail = match verb {
            // Looking tells nothing that the operator may not see at any time, and whoever watches looks every second.
            ApprovalVerb::List => return Ok(ApprovalAnswer::Rows(table.questions(now))),
            ApprovalVerb::Show(id) => about(id, ""),
            ApprovalVerb::Approve { id, uses, for_s } => {
                let (_, row) = table.show(*id, now).map_err(refused)?;
                about(id, &format!(" for sha256:{}, {uses} uses, {for_s} s", hex(&row.digest)))
            }
            ApprovalVerb::Deny(id) | ApprovalVerb::Revoke(Some(id)) => about(id, ""),
            ApprovalVerb::Grants => String::new(),
            ApprovalVerb::Revoke(None) => {
                // Taking a right back works when the log does not.
                let revoked = u32::try_from(table.revoke(None)).unwrap_or(u32::MAX);
                let record = secret_record("", verb.name(), &who, true, &format!("{revoked} revoked"));
                recorded(&mut self.auditor, record, "the answer, not the revocation,")?;
                return Ok(ApprovalAnswer::Done(revoked));
            }
        };
        if let (Some(why), ApprovalVerb::Approve { .. }) = (&self.frozen, verb) {
            return Err(Refusal::lockdown(why).into());
        }
        recorded(&mut self.auditor, secret_record("", verb.name(), &who, true, &detail), "the verb")?;
        let table = &mut self.approving.table;
        match verb {
            ApprovalVerb::Show(id) => table.show(*id, now).map(|(subject, row)| ApprovalAnswer::One(subject, row)),
            ApprovalVerb::Approve { id, uses, for_s } => {
                table.approve(*id, *uses, *for_s, now).map(|()| ApprovalAnswer::Done(1))
            }
            ApprovalVerb::Deny(id) => table.deny(*id, now).map(|()| ApprovalAnswer::Done(1)),
            ApprovalVerb::List | ApprovalVerb::Grants => Ok(ApprovalAnswer::Rows(table.grants(now))),
            ApprovalVerb::Revoke(id) => Ok(ApprovalAnswer::Done(u32::try_from(table.revoke(*id)).unwrap_or(u32::MAX))),
        }
        .map_err(refused)
    }
}
