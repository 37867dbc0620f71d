//! How a conversation stands: whether strangers' words have reached it, and whether something that only an attack does was seen
//! in its sandbox. The vault keeps both, beyond any sandboxd; where it does not say, both are so.

use crate::serve::Sandboxd;
use crate::state::place;
use proto::approval::{ApprovalReply, ApprovalRequest};
use proto::ids::SessionKey;
use std::time::Duration;

/// How long the vault may take.
const WAIT: Duration = Duration::from_secs(2);

/// How it stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Standing {
    /// Strangers' words have reached it.
    pub(crate) tainted: bool,
    /// Nothing of it runs unasked.
    pub(crate) suspended: bool,
}

impl Default for Standing {
    /// Of one of which nobody knows.
    fn default() -> Self {
        Self { tainted: true, suspended: true }
    }
}

impl Sandboxd {
    /// Asked for each use, once: what was read a moment ago counts.
    pub(crate) async fn standing(&self, session: &SessionKey) -> Standing {
        let own = self.standing_of(session).await;
        let place = place(self.settings.scope, session);
        // Where a sandbox is shared, what was seen in it holds for whoever shares it.
        let shared = if place == *session { own } else { self.standing_of(&place).await };
        let suspended = own.suspended || shared.suspended || self.is_suspended(session);
        Standing { tainted: own.tainted, suspended }
    }

    async fn standing_of(&self, session: &SessionKey) -> Standing {
        let request = ApprovalRequest::Standing { session: session.clone() };
        match self.vault.call(&request, WAIT).await {
            Ok(ApprovalReply::Standing { tainted, suspended }) => Standing { tainted, suspended },
            _ => Standing::default(),
        }
    }
}
