//! System call numbers by their kernel names, so that no other crate needs `libc`.

pub use libc::*;
