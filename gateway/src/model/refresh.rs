//! A new key for a provider that takes the old one no more. gateway asks egress to exchange the credential that new ones are asked
//! for with; what comes of it goes from egress to the vault, and gateway hears only that it did.

use crate::model::ask::{EGRESS_WAIT, Failure, refused};
use crate::model::catalogue::Refresh;
use crate::state::Gateway;
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{CallError, Outgoing};
use proto::egress::EgressRequest;
use proto::ids::SessionKey;

/// Seconds that the server may be silent.
const PATIENCE_S: u16 = 30;
/// Bytes of its answer that may be on their way: there are next to none.
const CREDIT: u32 = 4096;

/// Has the key exchanged for another one; the same question can be asked again then.
pub(crate) async fn refresh(gateway: &Gateway, session: &str, with: &Refresh) -> Result<(), Failure> {
    let long = |_| Failure::lasting("the configuration has a name for it that is too long");
    let request = EgressRequest::Http {
        session: SessionKey(BoundedStr::truncated(session)),
        credential: Some(BoundedStr::new(with.credential.as_str()).map_err(long)?),
        host: BoundedStr::new(with.host.as_str()).map_err(long)?,
        port: with.port,
        method: BoundedStr::truncated("POST"),
        path: BoundedStr::new(with.path.as_str()).map_err(long)?,
        headers: BoundedVec::default(),
        patience_s: PATIENCE_S,
        body: BoundedBytes::default(),
    };
    let failed = |error| match error {
        CallError::Refused(refusal) => refused(&refusal),
        other => Failure::lasting(format!("egress: {other}")),
    };
    let mut stream = gateway.egress.stream(&request, CREDIT, EGRESS_WAIT).await.map_err(failed)?;
    loop {
        match stream.next().await {
            Some(Outgoing::Chunk(_)) => {}
            Some(Outgoing::Reply(..)) => return Ok(()),
            Some(Outgoing::Refused(refusal)) => return Err(refused(&refusal)),
            None => return Err(Failure::lasting("egress ended before the answer did")),
        }
    }
}
