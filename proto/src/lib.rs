//! What may be said between Moltbot's processes, and how it travels.
//!
//! Every byte that arrives here was written by a process that is assumed to have fallen, so every type is bounded, every
//! packet has a cap, and nothing is decoded before its size was checked. This crate holds no policy and does no I/O but
//! on sockets it was handed; it cannot protect against a peer that says legal things at the wrong time, which is the
//! business of each role's `state.rs`.
#![forbid(unsafe_code)]

pub mod approval;
pub mod audit;
pub mod auth;
pub mod bounded;
pub mod channel;
pub mod control;
pub mod edge;
pub mod egress;
pub mod exit;
#[cfg(feature = "tokio")]
pub mod gate;
pub mod ids;
pub mod operator;
pub mod outbox;
#[cfg(feature = "tokio")]
pub mod port;
pub mod probe;
pub mod runner;
pub mod sandbox;
pub mod secret;
pub mod senders;
pub mod taint;
pub mod topology;
pub mod transcripts;
pub mod vault;
pub mod watch;
pub mod wire;
pub mod witness;

/// SHA-256 over the sources of this crate and its version. Carried in `Hello`; a mismatch is exit 78, because all roles
/// ship together and a rolling mix of versions is not supported.
pub const SCHEMA_HASH: [u8; 32] = include!(concat!(env!("OUT_DIR"), "/schema_hash.rs"));
