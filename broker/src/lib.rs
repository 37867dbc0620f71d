//! Broker's wall, for whoever prints it or attacks it; the rest of broker is the program's own.
#![forbid(unsafe_code)]

pub mod policy;
