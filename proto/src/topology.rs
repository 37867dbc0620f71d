//! The wiring, written once. Broker iterates over it, the documents draw from it, and only these rows exist.

use crate::ids::Role;
use serde::{Deserialize, Serialize};

/// Names one edge.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum EdgeId {
    /// gateway -> vault
    GatewayVault,
    /// gateway -> sandboxd
    GatewaySandboxd,
    /// gateway -> egress
    GatewayEgress,
    /// egress -> vault
    EgressVault,
    /// egress -> dialer
    EgressDialer,
    /// sandboxd -> launcher
    SandboxdLauncher,
    /// vault -> auditd
    VaultAuditd,
    /// sandboxd -> auditd
    SandboxdAuditd,
    /// broker -> auditd
    BrokerAuditd,
}

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

const fn wire(edge: EdgeId, client: Role, server: Role, says: &'static str) -> Wire {
    Wire { edge, client, server, says }
}

/// Every edge there is.
pub const TOPOLOGY: [Wire; 9] = [
    wire(EdgeId::BrokerAuditd, Role::Broker, Role::Auditd, "append"),
    wire(EdgeId::VaultAuditd, Role::Vault, Role::Auditd, "append"),
    wire(EdgeId::SandboxdAuditd, Role::Sandboxd, Role::Auditd, "append"),
    wire(EdgeId::SandboxdLauncher, Role::Sandboxd, Role::Launcher, "run, probe"),
    wire(EdgeId::EgressVault, Role::Egress, Role::Vault, "lease"),
    wire(EdgeId::EgressDialer, Role::Egress, Role::Dialer, "connect -> fd"),
    wire(EdgeId::GatewayVault, Role::Gateway, Role::Vault, "verify client"),
    wire(EdgeId::GatewaySandboxd, Role::Gateway, Role::Sandboxd, "exec, describe, close"),
    wire(EdgeId::GatewayEgress, Role::Gateway, Role::Egress, "http"),
];

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
