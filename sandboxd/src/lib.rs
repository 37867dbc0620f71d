//! sandboxd: runs commands where they cannot do harm, in Docker or by the launcher, and nowhere else.
//!
//! Hostile inputs: gateway's requests, the engine's answers as far as containers shape them, everything a command writes.
//! No caller can name an image, a mount, a capability, a network or a flag. sandboxd never starts a program itself.
#![forbid(unsafe_code)]

pub mod approval;
mod container;
pub mod docker;
pub mod drift;
mod exec;
mod freeze;
pub mod job;
pub mod judge;
pub mod launch;
mod listing;
pub mod modes;
pub mod native;
pub mod policy;
pub mod posture;
mod processes;
mod reacting;
mod recorded;
pub mod resident;
pub mod runs;
pub mod seccomp;
mod senses;
pub mod serve;
mod serving;
mod setup;
pub mod spec;
pub mod state;
mod taint;
mod verbs;
pub mod watch;
