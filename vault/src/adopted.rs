//! Values that were taken over from a configuration, as digests. Each is taken over once: a variable that still holds an old
//! value at the next start must not undo a rotation.

use crate::codec::{Reader, Writer};
use crate::envelope::MAX_NAME;
use proto::secret::Secret;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

/// Entries at most.
const CAPACITY: usize = 256;

/// The last value of each name that was taken over.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Adopted(BTreeMap<String, [u8; 32]>);

fn digest(name: &str, value: &Secret) -> [u8; 32] {
    Sha256::new().chain_update(name.as_bytes()).chain_update([0]).chain_update(value.expose()).finalize().into()
}

impl Adopted {
    /// True where this is the value that was taken over last under this name.
    #[must_use]
    pub fn has(&self, name: &str, value: &Secret) -> bool {
        self.0.get(name).is_some_and(|known| *known == digest(name, value))
    }

    /// Notes a value. Where there are too many names, another is forgotten: its value would be taken over once more.
    pub fn note(&mut self, name: &str, value: &Secret) {
        if self.0.len() >= CAPACITY && !self.0.contains_key(name) {
            self.0.pop_first();
        }
        self.0.insert(name.to_owned(), digest(name, value));
    }

    /// Forgets a name.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Appends what there is.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.0.len());
        for (name, digest) in &self.0 {
            into.bytes(name.as_bytes()).raw(digest);
        }
    }

    /// Reads it back.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut all = BTreeMap::new();
        for _ in 0..from.count(CAPACITY)? {
            all.insert(from.text(MAX_NAME)?.to_owned(), from.array()?);
        }
        Some(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn value_is_known_under_its_name_alone_and_until_another_comes() {
        let mut all = Adopted::default();
        all.note("a", &secret("one"));
        assert!(all.has("a", &secret("one")) && !all.has("a", &secret("two")) && !all.has("b", &secret("one")));
        all.note("a", &secret("two"));
        assert!(all.has("a", &secret("two")) && !all.has("a", &secret("one")));
        all.forget("a");
        assert!(!all.has("a", &secret("two")));
    }

    #[test]
    fn more_names_than_there_may_be_still_read_back() {
        let mut all = Adopted::default();
        for number in 0..CAPACITY + 3 {
            all.note(&format!("n{number:04}"), &secret("x"));
        }
        let mut bytes = Writer::new(64);
        all.encode(&mut bytes);
        let bytes = bytes.finish();
        assert_eq!(Adopted::decode(&mut Reader::new(&bytes)), Some(all));
    }
}
