//! Conversations that strangers' words have reached: the vault keeps which, by the word of whoever met them.

use crate::bounded::BoundedStr;
use crate::ids::SessionKey;
use serde::{Deserialize, Serialize};

/// What an operator asks about them.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum TaintVerb {
    /// Which there are.
    List {
        /// Only names after this one; empty for the first page.
        after: SessionKey,
    },
    /// Strangers' words in it count no more.
    Clear {
        /// Which.
        session: SessionKey,
    },
}

impl TaintVerb {
    /// The verb as it stands in the log.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::List { .. } => "taint.list",
            Self::Clear { .. } => "taint.clear",
        }
    }
}

/// One of them.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TaintRow {
    /// Which.
    pub session: SessionKey,
    /// What reached it first.
    pub why: BoundedStr<128>,
}
