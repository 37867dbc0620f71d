//! Having the operator asked, by way of the vault, and knowing a yes when it comes: a token that the vault signed, over this
//! command's digest and this question's nonce. Whoever else could put words on the edge could make none.

use crate::state::nonce;
use ed25519_dalek::{Signature, VerifyingKey};
use proto::approval::{ApprovalId, ApprovalReply, ApprovalRequest, Subject, Token};
use proto::channel::CallError;
use proto::edge::{Refusal, SandboxdVault};
use proto::port::Port;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the vault may take for one answer.
const ANSWER: Duration = Duration::from_secs(15);
/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(300);

fn not_asked(error: CallError) -> Refusal {
    match error {
        CallError::Refused(refusal) => refusal,
        other => Refusal::new("exec.not_asked", &format!("nobody could be asked whether this may run: vault: {other}")),
    }
}

/// True where the token is the vault's yes to this question and no other.
#[must_use]
pub fn verify(token: &Token, key: &[u8; 32], subject: &Subject, nonce: &[u8; 32]) -> bool {
    let digest: [u8; 32] = Sha256::digest(subject.canonical()).into();
    let signature = Signature::from_components(token.signature.0, token.signature.1);
    let signed = Token::signed(&digest, nonce, token.id);
    token.digest == digest
        && token.nonce == *nonce
        && VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify_strict(&signed, &signature).is_ok())
}

/// Asks and waits; `told` is called with the number that waits, and `stopped` ends the waiting. Silence is a no.
///
/// # Errors
/// [`Refusal`] for everything but a yes.
pub async fn ask<F>(
    vault: &Port<SandboxdVault>,
    subject: Subject,
    timeout_s: u32,
    told: impl FnOnce(ApprovalId) -> F,
    stopped: impl Future<Output = Refusal>,
) -> Result<ApprovalId, Refusal>
where
    F: Future<Output = ()>,
{
    let nonce = nonce().map_err(|error| Refusal::new("sandbox.resource", &error))?;
    let answered = |reply| match reply {
        ApprovalReply::Approved(token) => Some(Ok(token)),
        ApprovalReply::Denied => {
            Some(Err(Refusal::new("exec.not_approved", "the operator or a paired device said no to it")))
        }
        ApprovalReply::Lapsed => Some(Err(Refusal::new(
            "exec.unanswered",
            "nobody approved it in time, or what waited was revoked; `moltbot approvals watch` shows what waits",
        ))),
        ApprovalReply::Key(_)
        | ApprovalReply::Waiting(_)
        | ApprovalReply::Withdrawn
        | ApprovalReply::Standing { .. } => None,
    };
    let ApprovalReply::Key(key) = vault.call(&ApprovalRequest::Key, ANSWER).await.map_err(not_asked)? else {
        return Err(not_asked(CallError::Gone));
    };
    let question = ApprovalRequest::Ask { subject: Box::new(subject.clone()), timeout_s, nonce };
    let mut reply = vault.call(&question, ANSWER).await.map_err(not_asked)?;
    if let ApprovalReply::Waiting(id) = reply {
        tokio::pin!(stopped);
        told(id).await;
        // The vault keeps the time; this is for a vault that does not.
        let until = Instant::now() + Duration::from_secs(u64::from(timeout_s)) + ANSWER;
        while matches!(reply, ApprovalReply::Waiting(_)) && Instant::now() < until {
            tokio::select! {
                refusal = &mut stopped => {
                    let _ = vault.call(&ApprovalRequest::Withdraw { id }, ANSWER).await;
                    return Err(refusal);
                }
                () = sleep(LOOK) => {}
            }
            reply = vault.call(&ApprovalRequest::Collect { id }, ANSWER).await.map_err(not_asked)?;
        }
    }
    let token = answered(reply).unwrap_or_else(|| Err(not_asked(CallError::Deadline)))?;
    if verify(&token, &key, &subject, &nonce) {
        Ok(token.id)
    } else {
        Err(Refusal::new("exec.bad_token", "what came as an approval is none for this command"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};
    use proto::approval::TokenSignature;
    use proto::bounded::BoundedStr;
    use proto::ids::SessionKey;

    fn subject(session: &str, command: &str) -> Subject {
        Subject {
            session: SessionKey(BoundedStr::truncated(session)),
            command: BoundedStr::truncated(command),
            why: BoundedStr::default(),
            runs: BoundedStr::truncated(command),
            cwd: BoundedStr::truncated("/workspace"),
            environment: BoundedStr::default(),
            image: BoundedStr::truncated("docker sha256:1"),
            mounts: BoundedStr::default(),
            network: BoundedStr::truncated("none"),
            secrets: BoundedStr::truncated("none"),
        }
    }

    fn token(key: &SigningKey, subject: &Subject, nonce: [u8; 32], id: u32) -> Token {
        let digest = Sha256::digest(subject.canonical()).into();
        let id = ApprovalId(id);
        let signature = key.sign(&Token::signed(&digest, &nonce, id));
        Token { digest, nonce, id, signature: TokenSignature(*signature.r_bytes(), *signature.s_bytes()) }
    }

    #[test]
    fn token_is_good_for_its_command_its_question_and_its_key_alone() {
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let asked = subject("agent:main:main", "touch a");
        let public = key.verifying_key().to_bytes();
        let good = token(&key, &asked, [3; 32], 7);
        assert!(verify(&good, &public, &asked, &[3; 32]));
        for wrong in [subject("agent:main:main", "touch b"), subject("agent:other:main", "touch a")] {
            assert!(!verify(&good, &public, &wrong, &[3; 32]));
        }
        for field in 0..8 {
            let mut wider = asked.clone();
            match field {
                0 => wider.runs = BoundedStr::truncated("x"),
                1 => wider.cwd = BoundedStr::truncated("/"),
                2 => wider.environment = BoundedStr::truncated("LD_PRELOAD=x"),
                3 => wider.image = BoundedStr::truncated("docker sha256:2"),
                4 => wider.mounts = BoundedStr::truncated("/"),
                5 => wider.network = BoundedStr::truncated("host"),
                6 => wider.secrets = BoundedStr::truncated("model.key"),
                _ => wider.why = BoundedStr::truncated("x"),
            }
            assert!(!verify(&good, &public, &wider, &[3; 32]), "field {field}");
        }
        assert!(!verify(&good, &public, &asked, &[4; 32]), "an earlier question's token");
        assert!(!verify(&good, &other.verifying_key().to_bytes(), &asked, &[3; 32]));
        assert!(!verify(&token(&other, &asked, [3; 32], 7), &public, &asked, &[3; 32]));
        let renumbered = Token { id: ApprovalId(8), ..good.clone() };
        assert!(!verify(&renumbered, &public, &asked, &[3; 32]));
        for at in 0..64 {
            let mut bent = good.clone();
            if at < 32 {
                bent.signature.0[at] ^= 1
            } else {
                bent.signature.1[at - 32] ^= 1
            }
            assert!(!verify(&bent, &public, &asked, &[3; 32]), "byte {at}");
        }
    }

    #[test]
    fn fields_cannot_be_moved_into_each_other() {
        let (mut a, mut b) = (subject("s", "c"), subject("s", "c"));
        (a.cwd, a.environment) = (BoundedStr::truncated("ab"), BoundedStr::truncated("c"));
        (b.cwd, b.environment) = (BoundedStr::truncated("a"), BoundedStr::truncated("bc"));
        assert_ne!(a.canonical(), b.canonical());
    }
}
