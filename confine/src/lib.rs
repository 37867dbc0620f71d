//! How a process locks itself, and how broker starts one that will: the only crate of Moltbot that holds `unsafe`.
//!
//! Its inputs are constants of the roles' own `policy.rs`, never bytes from a peer. A step that fails ends the process;
//! there is no flag that weakens it. What it does not protect against is the kernel.

pub mod attest;
pub mod directories;
pub mod jail;
pub mod names;
pub mod operators;
pub mod policy;
pub mod privileges;
pub mod probe;
pub mod seccomp;
pub mod secret_memory;
pub mod spawn;
pub mod startup;
pub mod sys;
pub mod walls;

pub use walls::landlock_abi;
