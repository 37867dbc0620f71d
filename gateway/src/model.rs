//! Turns that a model answers: which models there are, what is said to one, and what comes back.
//!
//! A model is a stranger: its text is shown, and no word of it changes what may be done. Keys are names here; egress has them put in.

pub mod ask;
pub(crate) mod asking;
pub mod calls;
pub mod catalogue;
pub(crate) mod choice;
pub(crate) mod messages;
pub(crate) mod refresh;
pub mod reply;
pub mod sse;
pub mod talk;
pub(crate) mod turn;
