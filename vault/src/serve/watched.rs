//! What gateway is told of what lets clients in: one question of its is kept until there is something to say. It learns which
//! numbers hold and nothing of what they stand for; a gateway that fell and does not care keeps connections that it has anyway.

use super::{Answers, Vault, deliver};
use confine::startup::{Control, StartError};
use proto::auth::Standing;
use proto::channel::reply_frame;
use proto::edge::GatewayVault;
use proto::ids::RequestId;
use proto::topology::EdgeId;
use proto::vault::VaultReply;

impl Vault {
    /// gateway asks what lets clients in, as soon as that is not what it has seen. One that waits already is answered, so that no place in the window is lost to it.
    pub(super) fn watch(&mut self, id: RequestId, seen: Standing) -> Answers<VaultReply> {
        let standing = self.state.standing();
        let mut due: Vec<_> = self.watcher.take().map(|(id, _)| id).into_iter().collect();
        if standing.is_like(&seen) {
            self.watcher = Some((id, seen));
        } else {
            due.push(id);
        }
        due.into_iter().map(|id| (id, VaultReply::Standing(standing.clone()))).collect()
    }

    /// Answers gateway's question, where something else lets clients in now.
    pub(super) fn tell_watcher(&mut self, control: &Control) -> Result<(), StartError> {
        let standing = self.state.standing();
        let Some((id, _)) = self.watcher.take_if(|(_, seen)| !standing.is_like(seen)) else { return Ok(()) };
        let Some(channel) = self.gateway.take() else { return Ok(()) };
        let frame = reply_frame::<GatewayVault>(id, &VaultReply::Standing(standing));
        self.gateway = deliver(EdgeId::GatewayVault, channel, frame, control)?;
        Ok(())
    }
}
