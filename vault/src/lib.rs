//! The vault: holds the master key and the secrets, and answers questions about them.
//!
//! Every edge is hostile. gateway may ask whether a client's token or a message's code is the right one and learns one bit
//! of it; egress may ask for a lease and gets none without a policy. Nothing here may answer before auditd made the record durable, open a
//! socket, or write any file but its store. It does not protect against root running code inside it, nor against an older
//! store put back together with the log of the same moment.
#![forbid(unsafe_code)]

pub mod adopted;
pub mod approvals;
pub mod audit;
pub mod auth;
pub mod budget;
pub mod cipher;
pub mod codec;
pub mod days;
pub mod entropy;
pub mod envelope;
pub mod fingerprint;
pub mod keys;
pub mod lease;
pub mod lend;
pub mod locked;
pub mod lockout;
pub mod merkle;
pub mod passphrase;
pub mod permit;
pub mod policy;
pub mod rollback;
pub mod senders;
pub mod serve;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod taints;
pub mod token;
pub mod transcripts;
pub mod verbs;
pub mod witness;
