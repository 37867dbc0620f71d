//! Tokens that an answer of a model says it cost, found as the bytes go by: Anthropic's and chat completions' members of that
//! name. Inside a text their quotes would be escaped, so what a model says is not taken for them.
//!
//! An answer that is taken back before it says what it cost counts an event as a token: stopping early is no way around a bound.

/// Members, and which amount they are.
const NAMES: [(&[u8], usize); 6] = [
    (b"\"input_tokens\":", 0),
    (b"\"prompt_tokens\":", 0),
    (b"\"cache_creation_input_tokens\":", 1),
    (b"\"cache_read_input_tokens\":", 2),
    (b"\"output_tokens\":", 3),
    (b"\"completion_tokens\":", 3),
];
/// Bytes of the end of a piece that are looked at again with the next: the longest name, a space, and a number.
const KEPT: usize = 64;
/// Digits of a number that counts.
const DIGITS: usize = 15;
/// What an event begins with, behind the end of a line.
const EVENT: &[u8] = b"\ndata:";

/// What was found.
#[derive(Debug)]
pub struct Usage {
    tail: Vec<u8>,
    /// Read, put into a cache, read from a cache, written; the largest that was said of each.
    amounts: [u64; 4],
    events: u64,
    /// Bytes of [`EVENT`] that the last ones were.
    seen: usize,
}

impl Default for Usage {
    fn default() -> Self {
        // A body begins as a line does.
        Self { tail: Vec::new(), amounts: [0; 4], events: 0, seen: 1 }
    }
}

impl Usage {
    /// Takes a piece.
    pub fn look(&mut self, piece: &[u8]) {
        for byte in piece {
            self.seen = match EVENT.get(self.seen) {
                Some(next) if next == byte => self.seen.saturating_add(1),
                _ => usize::from(*byte == b'\n'),
            };
            if self.seen == EVENT.len() {
                self.events = self.events.saturating_add(1);
                self.seen = 0;
            }
        }
        self.tail.extend_from_slice(piece);
        for (name, which) in NAMES {
            let mut rest = self.tail.as_slice();
            while let Some(at) = rest.windows(name.len()).position(|window| window == name) {
                rest = rest.get(at.saturating_add(name.len())..).unwrap_or_default();
                let digits = rest.trim_ascii_start().iter().take(DIGITS).take_while(|byte| byte.is_ascii_digit());
                let number = digits.fold(0u64, |sum, digit| {
                    sum.saturating_mul(10).saturating_add(u64::from(digit.saturating_sub(b'0')))
                });
                if let Some(amount) = self.amounts.get_mut(which) {
                    *amount = number.max(*amount);
                }
            }
        }
        let past = self.tail.len().saturating_sub(KEPT);
        self.tail.drain(..past);
    }

    /// Tokens that were read, and that were written; of an answer that is not whole no fewer than it had events.
    #[must_use]
    pub fn tokens(&self, whole: bool) -> (u64, u64) {
        let [read, put, cached, written] = self.amounts;
        let written = if whole { written } else { written.max(self.events) };
        (read.saturating_add(put).saturating_add(cached), written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(answer: &str, cut: usize, whole: bool) -> (u64, u64) {
        let (one, two) = answer.as_bytes().split_at(cut);
        let mut usage = Usage::default();
        usage.look(one);
        usage.look(two);
        usage.tokens(whole)
    }

    #[test]
    fn tokens_of_both_protocols_are_found_wherever_the_answer_is_cut() {
        let claude = "data: {\"message\":{\"usage\":{\"input_tokens\":12,\"cache_creation_input_tokens\":30,\
            \"cache_read_input_tokens\": 400,\"output_tokens\":1}}}\n\ndata: {\"delta\":{\"text\":\"a \\\"output_tokens\\\":999\"}}\n\n\
            data: {\"usage\":{\"output_tokens\":57}}\n\n";
        let gpt = "data: {\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":5,\"total_tokens\":17}}\n\n";
        for cut in 0..=claude.len() {
            assert_eq!(tokens(claude, cut, true), (442, 57), "{cut}");
        }
        for cut in 0..=gpt.len() {
            assert_eq!(tokens(gpt, cut, true), (12, 5), "{cut}");
        }
    }

    #[test]
    fn answer_that_is_taken_back_counts_its_events() {
        let begun =
            "data: {\"usage\":{\"input_tokens\":12,\"output_tokens\":1}}\n\n".to_owned() + &"data: {}\n\n".repeat(40);
        for cut in 0..=begun.len() {
            assert_eq!(tokens(&begun, cut, false), (12, 41), "{cut}");
        }
        assert_eq!(tokens(&begun, 0, true), (12, 1));
    }
}
