//! What the operator wants taken out beside what the rules find: `logging.redactPatterns` of moltbot.json. A pattern is a
//! regular expression of the crate `regex`, whose time to match grows with the text alone, whatever the pattern. Where it
//! has a group, the first group goes and the rest stays.

use super::{Rule, Span};
use regex::{Regex, RegexBuilder};

/// Bytes that one pattern may take in memory.
const SIZE: usize = 1 << 20;

/// Why a pattern is none.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("logging.redactPatterns[{place}] of moltbot.json: {what}")]
pub struct BadPattern {
    place: usize,
    what: String,
}

/// The operator's patterns, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Patterns(Vec<Regex>);

impl Patterns {
    /// Reads them.
    ///
    /// # Errors
    /// [`BadPattern`]: the first that is no regular expression, is too large, or matches nothing at all, with its place.
    pub fn new<'p>(texts: impl IntoIterator<Item = &'p str>) -> Result<Self, BadPattern> {
        let read = |(place, text): (usize, &str)| {
            let bad = |what: String| BadPattern { place, what };
            let one_line = |error: regex::Error| {
                let text = error.to_string();
                text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
            };
            let pattern = RegexBuilder::new(text).size_limit(SIZE).build().map_err(|error| bad(one_line(error)))?;
            if pattern.is_match("") {
                return Err(bad(format!("{text:?} matches the empty text, so it would match everywhere")));
            }
            Ok(pattern)
        };
        texts.into_iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn find(&self, text: &str, spans: &mut Vec<Span>) {
        for (place, pattern) in self.0.iter().enumerate() {
            for found in pattern.captures_iter(text) {
                if let Some(found) = found.get(1).or_else(|| found.get(0)).filter(|found| !found.is_empty()) {
                    spans.push(Span { rule: Rule::Pattern(place), start: found.start(), end: found.end() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::Redactor;

    fn with(patterns: &[&str]) -> Redactor {
        let mut redactor = Redactor::new(&[7; 32]);
        redactor.use_patterns(Patterns::new(patterns.iter().copied()).unwrap());
        redactor
    }

    #[test]
    fn pattern_adds_to_the_rules_and_its_group_is_what_goes() {
        let redactor = with(&[r"ticket-\d+", r"(?i)room (\w+)"]);
        let clean = redactor.clean("see ticket-4711 in Room blue, PGPASSWORD=hunter22").into_owned();
        assert!(
            clean.starts_with("see [redacted:pattern-0:") && clean.contains(" in Room [redacted:pattern-1:"),
            "{clean}"
        );
        assert!(clean.contains("[redacted:password:") && !clean.contains("4711") && !clean.contains("blue"), "{clean}");
        assert_eq!(redactor.clean(&clean), clean);
        let plain = Redactor::new(&[7; 32]);
        assert_eq!(plain.clean("see ticket-4711"), "see ticket-4711");
    }

    #[test]
    fn bad_pattern_is_named_by_its_place() {
        for (patterns, says) in [
            (vec!["fine", "(open"], "redactPatterns[1]"),
            (vec!["a*"], "redactPatterns[0]"),
            (vec!["fine", "fine", "x{1000}{1000}{1000}"], "redactPatterns[2]"),
            (vec![""], "empty text"),
        ] {
            let error = Patterns::new(patterns.iter().copied()).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn overlapping_finds_go_as_one_and_nothing_of_them_is_left() {
        let clean = with(&["hunter22 now"]).clean("PGPASSWORD=hunter22 now").into_owned();
        assert!(clean.starts_with("PGPASSWORD=[redacted:pattern-0:") && clean.ends_with(']'), "{clean}");
    }
}
