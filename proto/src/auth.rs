//! Logins: what gateway may ask about a client, and what an operator may do about how clients get in. Everything in a
//! [`Login`] was sent by a stranger. No answer to gateway holds a credential.

use crate::bounded::BoundedStr;
use crate::secret::Secret;
use serde::{Deserialize, Serialize};

/// What a client says of itself when it connects.
#[derive(Deserialize, Serialize)]
pub struct Login {
    /// Address of the peer without its port, from the kernel.
    pub address: BoundedStr<64>,
    /// The token it sent, if it sent one.
    pub token: Option<Secret>,
    /// The password it sent, if it sent one.
    pub password: Option<Secret>,
}

impl Login {
    /// One that offers a token or nothing.
    #[must_use]
    pub fn with_token(address: BoundedStr<64>, token: Option<Secret>) -> Self {
        Self { address, token, password: None }
    }
}

/// What an operator may do about how clients get in, at broker's socket.
#[derive(Deserialize, Serialize)]
pub enum LoginVerb {
    /// Lets clients in by this password from now on.
    SetPassword {
        /// The password.
        password: Secret,
    },
    /// Lets nobody in by a password.
    ClearPassword,
}

impl LoginVerb {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetPassword { .. } => "gateway.password.set",
            Self::ClearPassword => "gateway.password.clear",
        }
    }
}
