//! The wiring, written once. Broker iterates over it, the documents draw from it, the types enforce it, and only these rows
//! exist.

use crate::edge::{
    Edge, EgressDialer, EgressVault, GatewayEgress, GatewaySandboxd, GatewayVault, OperatorBroker, SandboxdLauncher,
    SandboxdVault, ToAuditd, VaultWitness,
};
use crate::ids::Role;
use serde::{Deserialize, Serialize};

/// Each role as a type: what [`crate::channel::Client::new`] and `Port::new` want to see. A role's sources name their own
/// only, which `cargo xtask check` looks after.
pub mod role {
    macro_rules! roles {
        ($($(#[$doc:meta])* $name:ident;)*) => {
            $($(#[$doc])* #[derive(Clone, Copy, Debug)] pub struct $name;)*
        };
    }
    roles! {
        /// Starts, attests, wires and supervises the others.
        Broker;
        /// Holds the log.
        Auditd;
        /// Holds the master key.
        Vault;
        /// Holds Docker.
        Sandboxd;
        /// Holds outbound connect().
        Dialer;
        /// Holds a credential while a request is in flight.
        Egress;
        /// Holds hostile input.
        Gateway;
        /// Makes native sandboxes.
        Launcher;
        /// A person at the operator socket: no process of the set.
        Operator;
    }
}

/// The right of a role to ask on edge `E`; only [`TOPOLOGY`] gives it. gateway has its own questions to the vault:
///
/// ```
/// use proto::{channel::Client, edge::GatewayVault, topology::role};
/// let client = Client::<GatewayVault>::new(role::Gateway);
/// assert!(!client.is_attached());
/// ```
///
/// and none of egress's, whose answers hold credentials:
///
/// ```compile_fail,E0277
/// use proto::{channel::Client, edge::EgressVault, topology::role};
/// let client = Client::<EgressVault>::new(role::Gateway);
/// ```
///
/// None of sandboxd's either: it can neither ask for an approval nor have one:
///
/// ```compile_fail,E0277
/// let client = proto::channel::Client::<proto::edge::SandboxdVault>::new(proto::topology::role::Gateway);
/// ```
///
/// Nor has it a way to the dialer, the launcher, the log or broker:
///
/// ```compile_fail,E0277
/// let client = proto::channel::Client::<proto::edge::EgressDialer>::new(proto::topology::role::Gateway);
/// ```
/// ```compile_fail,E0277
/// let client = proto::channel::Client::<proto::edge::SandboxdLauncher>::new(proto::topology::role::Gateway);
/// ```
/// ```compile_fail,E0277
/// let client = proto::channel::Client::<proto::edge::ToAuditd>::new(proto::topology::role::Gateway);
/// ```
/// ```compile_fail,E0277
/// let client = proto::channel::Client::<proto::edge::OperatorBroker>::new(proto::topology::role::Gateway);
/// ```
///
/// What it may ask it asks in the edge's own words:
///
/// ```
/// use proto::{auth::Login, bounded::BoundedStr, channel::Client};
/// use proto::{edge::GatewayVault, topology::role, vault::VaultRequest};
/// let mut vault = Client::<GatewayVault>::new(role::Gateway);
/// let login = Login::with_token(BoundedStr::truncated("192.0.2.1"), None);
/// let request = VaultRequest::VerifyClient(Box::new(login));
/// assert!(vault.call(&request, &[], std::time::Duration::ZERO).is_err(), "nobody is attached");
/// ```
///
/// and no others:
///
/// ```compile_fail,E0308
/// use proto::{bounded::BoundedStr, channel::Client, edge::GatewayVault, egress::DialRequest, topology::role};
/// let mut vault = Client::<GatewayVault>::new(role::Gateway);
/// let request = DialRequest::Connect { host: BoundedStr::truncated("192.0.2.1"), port: 443 };
/// let _ = vault.call(&request, &[], std::time::Duration::ZERO);
/// ```
///
/// The right cannot be had by implementing it: the trait and the roles are this crate's, and so is every edge.
///
/// ```compile_fail,E0117
/// impl proto::topology::Asks<proto::edge::EgressVault> for proto::topology::role::Gateway {}
/// ```
pub trait Asks<E: Edge>: Copy {}

// The one edge that is no row: it has a name in the file system, and the peer's uid is checked there.
impl Asks<OperatorBroker> for role::Operator {}

/// One row of the wiring.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Its name.
    pub edge: EdgeId,
    /// The end that asks.
    pub client: Role,
    /// The end that answers.
    pub server: Role,
    /// What the client may ask, for the diagram.
    pub says: &'static str,
}

macro_rules! topology {
    ($($edge:ident: $client:ident asks $server:ident $says:literal over $protocol:ident;)*) => {
        /// Names one edge.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        pub enum EdgeId {
            $(#[doc = concat!(stringify!($client), " -> ", stringify!($server))] $edge,)*
        }

        /// Every edge there is.
        pub const TOPOLOGY: [Wire; [$($says),*].len()] = [
            $(Wire { edge: EdgeId::$edge, client: Role::$client, server: Role::$server, says: $says },)*
        ];

        $(impl Asks<$protocol> for role::$client {})*
    };
}

topology! {
    BrokerAuditd: Broker asks Auditd "append" over ToAuditd;
    // Before the vault can append to a log, it has looked at it.
    VaultWitness: Vault asks Auditd "compare, cosign" over VaultWitness;
    VaultAuditd: Vault asks Auditd "append" over ToAuditd;
    SandboxdAuditd: Sandboxd asks Auditd "append" over ToAuditd;
    SandboxdLauncher: Sandboxd asks Launcher "run, probe" over SandboxdLauncher;
    SandboxdVault: Sandboxd asks Vault "ask, collect, suspend" over SandboxdVault;
    EgressAuditd: Egress asks Auditd "append" over ToAuditd;
    EgressVault: Egress asks Vault "lease, redeem, sign" over EgressVault;
    EgressDialer: Egress asks Dialer "connect -> fd" over EgressDialer;
    GatewayVault: Gateway asks Vault "verify client, challenge, watch, verify code, may speak, open transcript" over GatewayVault;
    GatewaySandboxd: Gateway asks Sandboxd "exec, process, file, describe, close" over GatewaySandboxd;
    GatewayEgress: Gateway asks Egress "http" over GatewayEgress;
}

/// Which end of an edge a descriptor is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Side {
    /// The end that asks.
    Client,
    /// The end that answers.
    Server,
}

impl EdgeId {
    /// The edge's row.
    #[must_use]
    pub fn wire(self) -> Option<&'static Wire> {
        TOPOLOGY.iter().find(|wire| wire.edge == self)
    }

    /// The role that asks on this edge.
    #[must_use]
    pub fn client(self) -> Option<Role> {
        self.wire().map(|wire| wire.client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topology_rows_are_unique_and_no_role_talks_to_itself() {
        for (at, wire) in TOPOLOGY.iter().enumerate() {
            assert_ne!(wire.client, wire.server);
            assert!(TOPOLOGY.iter().skip(at + 1).all(|other| other.edge != wire.edge));
        }
    }

    #[test]
    fn gateway_has_no_edge_that_leads_to_the_dialer() {
        assert!(!TOPOLOGY.iter().any(|wire| wire.client == Role::Gateway && wire.server == Role::Dialer));
        assert!(TOPOLOGY.iter().any(|wire| wire.client == Role::Egress && wire.server == Role::Dialer));
    }
}
