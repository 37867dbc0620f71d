//! Commands, understood before they run: text to words, words to a plan, a plan to a verdict.
//!
//! Every command is hostile. What is understood is a small part of the shell's language, all of it literal: words, quotes,
//! pipes, lists, redirections to files. What is not understood is never guessed at: it is `ask`, with the reason. What the
//! rules allow is run from the plan, so that what was judged and what runs cannot differ. This is not the boundary: that is
//! the sandbox. It decides what a person is asked about.
//!
//! Nothing here reads, writes or waits; time is linear in the command, and no input makes it recurse.
#![forbid(unsafe_code)]

pub mod decide;
mod grammar;
pub mod lex;
pub mod parse;
pub mod plan;
pub mod propose;
pub mod rules;
pub mod setup;
pub mod show;
pub mod tools;

/// Longest command that is looked at, in bytes.
pub const MAX_COMMAND: usize = 65_536;
/// Most programs in one command.
pub const MAX_PROGRAMS: usize = 64;

#[cfg(test)]
mod tests;
