//! The append-only audit log: its line format, its hash chain, its files, and the loop that serves it.
//!
//! Everything that arrives on an edge is hostile: the writer of a record may have fallen. It decides what a record says
//! within its own type, and nothing else: not the actor, the time, the position or the chain. This crate must never
//! shorten, replace or rewrite a file, and must never acknowledge what is not on disk. The loss of whole
//! lines at the end, by somebody who can write the file, is for the witness to notice: the vault (`witness`).
#![forbid(unsafe_code)]

pub mod chain;
pub mod clock;
pub mod commitments;
pub mod cosign;
pub mod file;
pub mod journal;
pub mod keys;
pub mod note;
pub mod notes;
pub mod offline;
pub mod policy;
pub mod proof;
pub mod prune;
pub mod pruned;
pub mod record;
pub mod redact;
pub mod scan;
pub mod segment;
pub mod serve;
pub mod state;
pub mod stream;
pub mod tiles;
pub mod tree;
pub mod verify;
pub mod witness;
pub mod writer;
