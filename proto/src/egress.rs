//! gateway -> egress and egress -> dialer: the only way out.

use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use crate::ids::SessionKey;
use serde::{Deserialize, Serialize};

/// A header that the caller may set, or that an answer had.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HeaderField {
    /// Its name, lower case.
    pub name: BoundedStr<64>,
    /// Its value.
    pub value: BoundedStr<2048>,
}

/// Bytes that a request's body has at most.
pub const MAX_BODY: usize = 163_840;

/// gateway -> egress.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum EgressRequest {
    /// One HTTP request, with a credential by name and never by value. Whether it goes over TLS is the operator's
    /// configuration, not the caller's word.
    Http {
        /// Conversation that asks; for the log.
        session: SessionKey,
        /// Name of the credential in the vault. Without one, only services of this machine are reached.
        credential: Option<BoundedStr<64>>,
        /// Host, which the vault's policy for the credential must allow.
        host: BoundedStr<253>,
        /// Port.
        port: u16,
        /// `GET` or `POST`.
        method: BoundedStr<8>,
        /// Path and query.
        path: BoundedStr<2048>,
        /// Headers; those that carry credentials are refused.
        headers: BoundedVec<HeaderField, 16>,
        /// Seconds that the server may be silent.
        patience_s: u16,
        /// Body.
        body: BoundedBytes<MAX_BODY>,
    },
}

/// The answer is over; its head and its body came before this as chunks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EgressReply {
    /// Bytes of the body as they came, before anything was taken out.
    pub received: u64,
    /// Times that the credential was taken out of the answer.
    pub scrubbed: u32,
}

/// Part of an answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum EgressChunk {
    /// Comes once, first.
    Head {
        /// HTTP status.
        status: u16,
        /// Those headers that a caller has a use for.
        headers: BoundedVec<HeaderField, 8>,
    },
    /// Part of the body.
    Body(BoundedBytes<32_768>),
}

/// egress -> dialer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum DialRequest {
    /// Connect, and hand over the descriptor without reading a byte.
    Connect {
        /// Host name or address; must be on the allowlist with this port.
        host: BoundedStr<253>,
        /// Port.
        port: u16,
    },
}

/// The connected descriptor comes with this packet.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Dialed {
    /// The address that was connected to, after resolution and checks.
    pub address: BoundedStr<64>,
}
