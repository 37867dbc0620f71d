//! The place of a credential in a path, as Telegram has it: `/bot{secret}`. It is a text in front of the path that gateway gives,
//! so there is nothing in what gateway says that could be taken for the credential's place, and no second one.

use super::is_plain_path;
use proto::bounded::BoundedStr;
use proto::vault::CredentialSlot;
use std::fmt;

/// What a slot is, for the refusal of one that is none.
pub(super) const WANTED: &str =
    "is a plain path with {secret} in it once, as /bot{secret}; what `path` allows comes behind it";
/// Where the credential goes.
const PLACE: &str = "{secret}";
/// Longest text on either side of it, in bytes.
const MAX_SIDE: usize = 128;

/// What stands in a path before the credential, and behind it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PathSlot {
    before: String,
    after: String,
}

impl PathSlot {
    /// Reads one. Neither side can be read in two ways, and the credential's segment ends where the slot ends or before.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.split_once(PLACE)?;
        let sides = [before, after];
        let plain = |side: &&str| side.len() <= MAX_SIDE && !side.contains(['{', '}', '?', '#', '%', ';']);
        // One character for the credential: none that it could be changes how the path is read.
        let whole = is_plain_path(&format!("{before}x{after}")) && !after.ends_with('/');
        (whole && sides.iter().all(plain)).then(|| Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// As egress is told.
    #[must_use]
    pub fn told(&self) -> CredentialSlot {
        CredentialSlot::Path { before: BoundedStr::truncated(&self.before), after: BoundedStr::truncated(&self.after) }
    }
}

impl fmt::Display for PathSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACE}{}", self.before, self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_has_one_place_and_can_be_read_in_one_way() {
        for good in ["/bot{secret}", "/file/bot{secret}", "/{secret}", "/a/{secret}/b", "/bot{secret}-x"] {
            assert_eq!(PathSlot::parse(good).unwrap().to_string(), good);
        }
        let long = format!("/{}{{secret}}", "a".repeat(MAX_SIDE));
        for bad in [
            "",
            "/bot",
            "bot{secret}",
            "{secret}",
            "/bot{secret}/",
            "/bot{secret}{secret}",
            "/bot{secret}/{other}",
            "/../{secret}",
            "/a//{secret}",
            "/a%2f{secret}",
            "/a%41{secret}",
            "/a?x={secret}",
            "/a#{secret}",
            "/a;x={secret}",
            "/a{secret}/..",
            "/a\\{secret}",
            "/a {secret}",
            "/{Secret}",
            long.as_str(),
        ] {
            assert!(PathSlot::parse(bad).is_none(), "{bad}");
        }
    }
}
