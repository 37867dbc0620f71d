//! What gateway and egress may ask of the vault. Nothing in gateway's enum returns a secret's bytes.

use crate::audit::AuthReason;
use crate::bounded::{BoundedBytes, BoundedStr};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};

/// gateway -> vault.
#[derive(Deserialize, Serialize)]
pub enum VaultRequest {
    /// Is this client who it says? Recorded durably before it is answered.
    VerifyClient {
        /// Address of the peer without its port, from the kernel.
        address: BoundedStr<64>,
        /// The token it sent, if it sent one.
        token: Option<Secret>,
    },
}

/// Answer to a [`VaultRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum VaultReply {
    /// The client is let in.
    Accepted,
    /// The client is kept out.
    Rejected {
        /// Why.
        reason: AuthReason,
        /// Seconds until the address may try again; 0 where it may at once.
        retry_after_s: u32,
    },
}

/// egress -> vault.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum LeaseRequest {
    /// The right to use one credential for one request.
    Lease {
        /// Name of the credential.
        credential: BoundedStr<64>,
        /// Host the request goes to.
        host: BoundedStr<253>,
        /// Its port.
        port: u16,
        /// SHA-256 of the request template.
        digest: BoundedBytes<32>,
    },
}

/// Answer to a [`LeaseRequest`]; a refusal travels as a refusal.
#[derive(Deserialize, Serialize)]
pub struct Lease {
    /// The credential, to be wiped when the request is done.
    pub credential: Secret,
    /// Header it goes into, lower case.
    pub header: BoundedStr<64>,
    /// Text before it in that header, as `Bearer `.
    pub prefix: BoundedStr<32>,
}
