//! Whether strangers' words have reached a conversation: the vault keeps that, and where it does not say, they have.

use crate::serve::Sandboxd;
use proto::approval::{ApprovalReply, ApprovalRequest};
use proto::ids::SessionKey;
use std::time::Duration;

/// How long the vault may take.
const WAIT: Duration = Duration::from_secs(2);

impl Sandboxd {
    /// True where they have. Asked each time: what was read a moment ago counts.
    pub(crate) async fn is_tainted(&self, session: &SessionKey) -> bool {
        let request = ApprovalRequest::IsTainted { session: session.clone() };
        !matches!(self.vault.call(&request, WAIT).await, Ok(ApprovalReply::Tainted(false)))
    }
}
