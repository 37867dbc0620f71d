//! Lists of words that a text is looked through for, quickly: most pairs of letters begin none of them.

/// Words in lower case, in the order of their first letters.
pub(super) struct Words {
    words: &'static [&'static str],
    /// The first two letters of them: a bit for the second in the number for the first.
    pairs: [u32; 32],
    /// Where those of a first letter begin and end.
    ranges: [(usize, usize); 32],
}

impl Words {
    #[expect(clippy::indexing_slicing, reason = "worked out by the compiler, which would say so")]
    pub(super) const fn new(words: &'static [&'static str]) -> Self {
        let (mut pairs, mut ranges) = ([0; 32], [(0, 0); 32]);
        let mut at = 0;
        while at < words.len() {
            let word = words[at].as_bytes();
            let first = (word[0] & 31) as usize;
            pairs[first] |= 1 << (word[1] & 31);
            if ranges[first].1 == 0 {
                ranges[first].0 = at;
            }
            at += 1;
            ranges[first].1 = at;
        }
        Self { words, pairs, ranges }
    }

    /// True where one of them is in `bytes`, in letters of any case.
    pub(super) fn are_in(&self, bytes: &[u8]) -> bool {
        bytes.windows(2).enumerate().any(|(at, pair)| {
            let [one, two] = pair else { return false };
            let first = usize::from(one & 31);
            if self.pairs.get(first).is_none_or(|seconds| seconds >> (two & 31) & 1 == 0) {
                return false;
            }
            let (from, to) = self.ranges.get(first).copied().unwrap_or_default();
            let rest = bytes.get(at..).unwrap_or_default();
            let mut words = self.words.get(from..to).unwrap_or_default().iter();
            words
                .any(|word| word.as_bytes().get(1).is_some_and(|second| (second ^ two) & 31 == 0) && begins(rest, word))
        })
    }
}

/// True where `bytes` go on with `word`, which is in lower case.
pub(super) fn begins(bytes: &[u8], word: &str) -> bool {
    bytes.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_is_found_anywhere_in_any_case_and_no_other_is() {
        const WORDS: Words = Words::new(&["key", "secret", "sid", "token"]);
        for yes in ["key", "my-KEY", "xSecrets", "a sid", "tToken"] {
            assert!(WORDS.are_in(yes.as_bytes()), "{yes}");
        }
        for no in ["", "k", "ke", "secre", "toke n", "is d"] {
            assert!(!WORDS.are_in(no.as_bytes()), "{no}");
        }
    }

    #[test]
    fn lists_are_in_the_order_of_their_first_letters() {
        use crate::redact::rules::{CONTEXT, HARMLESS, NEXT_TO};
        for list in [&CONTEXT, &HARMLESS, &NEXT_TO] {
            assert!(list.words.is_sorted_by_key(|word| word.as_bytes()[0]), "{:?}", list.words);
        }
    }
}
