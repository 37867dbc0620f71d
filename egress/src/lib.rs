//! egress and dialer: the only way out of Moltbot, split so that who can connect sees no plaintext and who holds a
//! credential can connect to nothing.
//!
//! Every request comes from gateway, which reads strangers: it is checked here as if they had written it.
#![forbid(unsafe_code)]

pub mod allowlist;
pub mod dialer;
pub mod policy;
pub mod role;
pub mod serve;
pub mod template;
