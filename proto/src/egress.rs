//! gateway -> egress and egress -> dialer: the only way out.

use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use serde::{Deserialize, Serialize};

/// A header that the caller may set.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct HeaderField {
    /// Its name, lower case.
    pub name: BoundedStr<64>,
    /// Its value.
    pub value: BoundedStr<2048>,
}

/// gateway -> egress.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum EgressRequest {
    /// One HTTP request, with a credential by name and never by value.
    Http {
        /// Name of the credential in the vault.
        credential: BoundedStr<64>,
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
        /// Body.
        body: BoundedBytes<49_152>,
    },
}

/// Head of the answer; the body came before it as chunks.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct EgressReply {
    /// HTTP status.
    pub status: u16,
}

/// Part of an answer's body.
pub type EgressChunk = BoundedBytes<32_768>;

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
