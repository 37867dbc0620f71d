//! The network-facing process: HTTP and WebSocket, sessions, agent turns.
//!
//! Everything it reads is hostile: the network, files that an earlier and perhaps fallen self wrote, and the output of
//! commands. It must not hold a credential longer than it takes to ask the vault about it, and it must not open a
//! socket, start a program, or reach a file outside its session directory; `policy` holds it to that.
#![forbid(unsafe_code)]

pub mod agent;
pub mod agents;
pub mod approvals;
pub mod brief;
pub mod connect;
pub mod connection;
pub mod device;
pub mod frames;
pub mod gate;
pub mod http;
pub mod hub;
pub mod methods;
pub mod model;
pub mod policy;
pub mod proof;
pub mod rejected;
pub mod reset;
mod sandbox;
pub mod senders;
pub mod serve;
pub mod sessions;
pub mod shapes;
pub mod state;
pub mod text;
mod tools;
pub mod transcripts;
mod turn;

#[cfg(test)]
mod tests;
