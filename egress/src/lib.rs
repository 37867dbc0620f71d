//! egress and dialer: the only way out of Moltbot, split so that who can connect sees no plaintext and who holds a
//! credential can connect to nothing.
//!
//! Every request comes from gateway, which reads strangers: it is checked here as if they had written it.
#![forbid(unsafe_code)]

pub mod allowlist;
pub mod answer;
pub mod dialer;
pub mod dns;
pub mod exchange;
pub mod issued;
pub mod policy;
pub mod renewal;
pub mod role;
pub mod scrub;
pub mod serve;
pub mod template;
pub mod tls;
pub mod usage;
