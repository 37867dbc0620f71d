//! How often each secret with a budget was used. Kept in the store: a budget that a restart gives back is none.

use crate::codec::{Reader, Writer};
use crate::envelope::MAX_NAME;
use std::collections::BTreeMap;

/// Entries at most.
const CAPACITY: usize = 8192;

/// Uses by name and version: a new version starts over.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Budgets(BTreeMap<String, (u64, u64)>);

impl Budgets {
    /// Uses of this version.
    #[must_use]
    pub fn used(&self, name: &str, version: u64) -> u64 {
        self.0.get(name).filter(|(of, _)| *of == version).map_or(0, |(_, used)| *used)
    }

    /// Counts a use of this version.
    pub fn count(&mut self, name: &str, version: u64) {
        let used = self.used(name, version).saturating_add(1);
        if self.0.len() < CAPACITY || self.0.contains_key(name) {
            self.0.insert(name.to_owned(), (version, used));
        }
    }

    /// What was counted of one version counts of another: it is the same secret, given anew by who takes it.
    pub fn carry(&mut self, name: &str, from: u64, to: u64) {
        if let Some(count) = self.0.get_mut(name).filter(|(of, _)| *of == from) {
            count.0 = to;
        }
    }

    /// Bytes that the count of this name takes in the store.
    #[must_use]
    pub const fn length(name: &str) -> usize {
        4 + name.len() + 8 + 8
    }

    /// Forgets a name.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Appends what there is.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.0.len());
        for (name, (version, used)) in &self.0 {
            into.bytes(name.as_bytes()).number(*version).number(*used);
        }
    }

    /// Reads it back.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut all = BTreeMap::new();
        for _ in 0..from.count(CAPACITY)? {
            all.insert(from.text(MAX_NAME)?.to_owned(), (from.number()?, from.number()?));
        }
        Some(Self(all))
    }
}
