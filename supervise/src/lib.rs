//! What broker decides, without what it does: two tables that take events and give actions. No clock, no I/O, no process;
//! time is a number that the caller read. Broker carries out what they say, and nothing else decides.
#![forbid(unsafe_code)]

pub mod incident;
pub mod state;
