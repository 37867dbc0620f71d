//! Logins: what gateway may ask about a client, and what an operator may do about how clients get in. Everything in a
//! [`Login`] was sent by a stranger. No answer to gateway holds a credential, and no question of it approves a device.

use crate::bounded::{BoundedStr, BoundedVec};
use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Paired devices at most, those whose pairing was taken back included.
pub const MAX_DEVICES: usize = 64;
/// Devices that wait for the operator's word at most.
pub const MAX_REQUESTS: usize = 16;

/// Names a device: SHA-256 of its public key. Shown as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct DeviceId(pub [u8; 32]);

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One connection of a client, as gateway tells it from others: 128 random bits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct ConnectionId(pub [u8; 16]);

/// What a client must sign so that its signature is good for one connection, once. Shown as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Nonce(pub [u8; 16]);

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a client may do, by the gateway protocol's names.
#[expect(clippy::struct_excessive_bools, reason = "a set of five, every one of which may be there or not")]
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Scopes {
    /// `operator.admin`, which is all of them.
    pub admin: bool,
    /// `operator.read`.
    pub read: bool,
    /// `operator.write`, which is `operator.read` too.
    pub write: bool,
    /// `operator.approvals`.
    pub approvals: bool,
    /// `operator.pairing`.
    pub pairing: bool,
}

impl Scopes {
    /// Every scope.
    pub const ALL: Self = Self { admin: true, read: true, write: true, approvals: true, pairing: true };

    /// Of names as the protocol has them; others are passed over.
    pub fn of<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut scopes = Self::default();
        for name in names {
            match name {
                "operator.admin" => scopes.admin = true,
                "operator.read" => scopes.read = true,
                "operator.write" => scopes.write = true,
                "operator.approvals" => scopes.approvals = true,
                "operator.pairing" => scopes.pairing = true,
                _ => {}
            }
        }
        scopes
    }

    /// The names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        [
            (self.admin, "operator.admin"),
            (self.read, "operator.read"),
            (self.write, "operator.write"),
            (self.approvals, "operator.approvals"),
            (self.pairing, "operator.pairing"),
        ]
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect()
    }

    /// True where nothing may be done.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// With what they imply.
    #[must_use]
    pub const fn spelled_out(self) -> Self {
        if self.admin { Self::ALL } else { Self { read: self.read || self.write, ..self } }
    }

    /// True where whoever has these may do all that `asked` may.
    #[must_use]
    pub fn cover(self, asked: Self) -> bool {
        let (have, want) = (self.spelled_out(), asked.spelled_out());
        [
            (want.admin, have.admin),
            (want.read, have.read),
            (want.write, have.write),
            (want.approvals, have.approvals),
            (want.pairing, have.pairing),
        ]
        .into_iter()
        .all(|(want, have)| have || !want)
    }
}

/// Of a device: that it holds its key, for this connection and these wishes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceProof {
    /// The connection whose nonce was signed.
    pub connection: ConnectionId,
    /// Ed25519.
    pub public_key: [u8; 32],
    /// Ed25519, both halves.
    pub signature: [[u8; 32]; 2],
    /// When it says that it signed, in milliseconds since 1970.
    pub signed_at_ms: u64,
    /// Which client; signed.
    pub client: BoundedStr<64>,
    /// In which mode; signed.
    pub mode: BoundedStr<32>,
    /// The scopes it asks for, with commas between them, as it wrote them; signed.
    pub scopes: BoundedStr<512>,
    /// The platform; signed from version 3 on.
    pub platform: BoundedStr<64>,
    /// The family of devices; signed from version 3 on.
    pub family: BoundedStr<64>,
    /// What it calls itself; not signed.
    pub name: BoundedStr<64>,
}

/// Who a client says that it is.
#[derive(Deserialize, Serialize)]
pub enum Who {
    /// Nobody in particular, who wants these scopes.
    Bearer(Scopes),
    /// A device.
    Device(Box<DeviceProof>),
}

/// What a client says of itself when it connects.
#[derive(Deserialize, Serialize)]
pub struct Login {
    /// Address of the peer without its port, from the kernel.
    pub address: BoundedStr<64>,
    /// The token it sent, if it sent one: gateway's, or a device's own.
    pub token: Option<Secret>,
    /// The password it sent, if it sent one.
    pub password: Option<Secret>,
    /// Who it is.
    pub who: Who,
}

impl Login {
    /// One that offers a token or nothing, and wants every scope.
    #[must_use]
    pub const fn with_token(address: BoundedStr<64>, token: Option<Secret>) -> Self {
        Self { address, token, password: None, who: Who::Bearer(Scopes::ALL) }
    }
}

/// What a client came in by. A newer one of its kind has a larger number.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Pass {
    /// The gateway token of this version.
    Token(u64),
    /// The password of this number.
    Password(u64),
    /// What a device may do and must show since then.
    Device(u64),
}

/// A client that is let in.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Admission {
    /// What it may do.
    pub scopes: Scopes,
    /// What it came in by: where one is taken back, the connection is to end.
    pub by: BoundedVec<Pass, 2>,
}

/// Which passes hold.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Standing {
    /// Larger for each change of the store: a number above it is of something newer, which is not in here yet.
    pub as_of: u64,
    /// Version of the gateway token.
    pub token: u64,
    /// Number of the password, where there is one.
    pub password: Option<u64>,
    /// Numbers of the paired devices.
    pub devices: BoundedVec<u64, MAX_DEVICES>,
}

impl Standing {
    /// True where this pass was not taken back, as far as is known here.
    #[must_use]
    pub fn holds(&self, pass: Pass) -> bool {
        match pass {
            Pass::Token(version) => version >= self.token,
            Pass::Password(number) => number > self.as_of || self.password == Some(number),
            Pass::Device(number) => number > self.as_of || self.devices.contains(&number),
        }
    }

    /// True where the same passes hold, whenever that was.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (self.token, self.password, &self.devices) == (other.token, other.password, &other.devices)
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
    /// Devices that are paired, that were, and that wait.
    ListDevices,
    /// Pairs a device that waits, or changes what a known one may do.
    ApproveDevice {
        /// Which.
        id: DeviceId,
        /// What it may do from now on.
        scopes: Scopes,
    },
    /// Pairs a device that was paired elsewhere, by its key. Whoever has that key is let in.
    AdmitDevice {
        /// Its Ed25519 key.
        public_key: [u8; 32],
        /// A name for it.
        name: BoundedStr<64>,
        /// What it may do from now on.
        scopes: Scopes,
    },
    /// Forgets that a device waits.
    DenyDevice {
        /// Which.
        id: DeviceId,
    },
    /// Lets a device in no more.
    RevokeDevice {
        /// Which.
        id: DeviceId,
    },
    /// Draws a token that the device must show from now on, beside its signature.
    RotateToken {
        /// Which.
        id: DeviceId,
    },
    /// Takes a device's token back: it stays paired, and is not let in before another is drawn.
    RevokeToken {
        /// Which.
        id: DeviceId,
    },
}

impl LoginVerb {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SetPassword { .. } => "gateway.password.set",
            Self::ClearPassword => "gateway.password.clear",
            Self::ListDevices => "devices.list",
            Self::ApproveDevice { .. } => "devices.approve",
            Self::AdmitDevice { .. } => "devices.admit",
            Self::DenyDevice { .. } => "devices.deny",
            Self::RevokeDevice { .. } => "devices.revoke",
            Self::RotateToken { .. } => "devices.token.rotate",
            Self::RevokeToken { .. } => "devices.token.revoke",
        }
    }
}

/// Where a device stands.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DeviceState {
    /// It waits for the operator's word.
    Waits,
    /// It is let in by its signature.
    Paired,
    /// It is let in by its signature and its token.
    PairedWithToken,
    /// It is paired, and its token was taken back.
    WithoutItsToken,
    /// It is not let in any more.
    Revoked,
}

impl DeviceState {
    /// The state's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waits => "waits",
            Self::Paired => "paired",
            Self::PairedWithToken => "paired+token",
            Self::WithoutItsToken => "token-revoked",
            Self::Revoked => "revoked",
        }
    }
}

/// One device as the operator sees it. All but its name, its state and its times it says of itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceRow {
    /// Its name.
    pub id: DeviceId,
    /// Where it stands.
    pub state: DeviceState,
    /// What it may do; where it waits, what it asks for.
    pub scopes: Scopes,
    /// When it was paired or last asked, in seconds since 1970.
    pub since: u64,
    /// What it calls itself.
    pub name: BoundedStr<64>,
    /// Which client it runs.
    pub client: BoundedStr<64>,
    /// On which platform.
    pub platform: BoundedStr<64>,
    /// From which address it asked; empty where it does not wait.
    pub address: BoundedStr<64>,
}

/// Answer to a [`LoginVerb`] that has more to say than that it was done.
#[derive(Deserialize, Serialize)]
pub enum LoginAnswer {
    /// Every device, those that wait first.
    Devices(BoundedVec<DeviceRow, { MAX_DEVICES + MAX_REQUESTS }>),
    /// The device's new token: it is shown this once.
    Token(Secret),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_cover_what_they_imply_and_no_more() {
        let of = |names: &[&str]| Scopes::of(names.iter().copied());
        assert!(of(&["operator.admin"]).cover(Scopes::ALL));
        assert!(of(&["operator.write"]).cover(of(&["operator.read"])));
        assert!(!of(&["operator.read"]).cover(of(&["operator.write"])));
        assert!(!of(&["operator.read", "operator.write", "operator.approvals", "operator.pairing"]).cover(Scopes::ALL));
        assert!(of(&["made.up"]).is_empty());
        assert_eq!(of(&Scopes::ALL.names()), Scopes::ALL);
    }

    #[test]
    fn standing_holds_what_it_lists_and_what_is_newer() {
        let devices = BoundedVec::new(vec![4, 9]).unwrap();
        let standing = Standing { as_of: 10, token: 2, password: Some(7), devices };
        for (pass, holds) in [
            (Pass::Token(1), false),
            (Pass::Token(2), true),
            (Pass::Token(3), true),
            (Pass::Password(6), false),
            (Pass::Password(7), true),
            (Pass::Password(11), true),
            (Pass::Device(4), true),
            (Pass::Device(5), false),
            (Pass::Device(11), true),
        ] {
            assert_eq!(standing.holds(pass), holds, "{pass:?}");
        }
        assert!(standing.is_like(&Standing { as_of: 99, ..standing.clone() }));
        assert!(!standing.is_like(&Standing { password: None, ..standing.clone() }));
    }
}
