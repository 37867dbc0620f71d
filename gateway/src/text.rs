//! Output of a command, bytes from a stranger's program, made into text for a chat: decoded across chunk borders, merged
//! in the order it came, rid of controls, and cut at a cap. Controls go because JSON makes six bytes of one, which would
//! undo the cap, and because some client will print the text to a terminal.

/// Bytes of text that one answer may have.
pub const MAX_TEXT: usize = 256 * 1024;
const CUT: &str = "\n[output cut]";

/// Decodes UTF-8 that comes in pieces; what is not UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub struct Decoder {
    carry: Vec<u8>,
}

impl Decoder {
    /// The text of `bytes` and of what was kept of earlier ones.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.carry.extend_from_slice(bytes);
        let whole = self.carry.len().saturating_sub(incomplete_tail(&self.carry));
        let tail = self.carry.split_off(whole);
        let text = String::from_utf8_lossy(&self.carry).into_owned();
        self.carry = tail;
        text
    }

    /// The text of what was kept.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.carry).into_owned();
        self.carry.clear();
        text
    }
}

/// How many bytes at the end start a character that could still be completed.
fn incomplete_tail(bytes: &[u8]) -> usize {
    for back in 1..=3usize.min(bytes.len()) {
        let Some(byte) = bytes.get(bytes.len().saturating_sub(back)) else { return 0 };
        let wants = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if wants > back { back } else { 0 };
    }
    0
}

/// Colours, cursor movements and the like become U+FFFD.
fn without_controls(text: &str) -> String {
    let plain =
        |c: char| if c.is_control() && !matches!(c, '\n' | '\t' | '\r') { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(plain).collect()
}

/// Text that grows to [`MAX_TEXT`] and no further.
#[derive(Debug, Default)]
pub struct Answer {
    text: String,
    cut: bool,
}

impl Answer {
    /// Adds text; returns the part that was added.
    pub fn push(&mut self, more: &str) -> String {
        if self.cut {
            return String::new();
        }
        let more = &without_controls(more);
        let from = self.text.len();
        let room = MAX_TEXT.saturating_sub(from);
        if more.len() <= room {
            self.text.push_str(more);
        } else {
            let mut end = room;
            while !more.is_char_boundary(end) {
                end = end.saturating_sub(1);
            }
            self.text.push_str(more.get(..end).unwrap_or_default());
            self.text.push_str(CUT);
            self.cut = true;
        }
        self.text.get(from..).unwrap_or_default().to_owned()
    }

    /// Adds a line of the gateway's own, which the cap does not touch.
    pub fn note(&mut self, line: &str) -> String {
        let from = self.text.len();
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.text.push_str(line);
        self.text.get(from..).unwrap_or_default().to_owned()
    }

    /// True where it came to the cap.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// The two ends of a text of any length, in bounded memory.
#[derive(Debug)]
pub struct Excerpt {
    half: usize,
    head: String,
    tail: String,
    /// Bytes that stood between.
    missing: usize,
}

impl Excerpt {
    /// Keeps about `room` bytes.
    #[must_use]
    pub const fn new(room: usize) -> Self {
        Self { half: room / 2, head: String::new(), tail: String::new(), missing: 0 }
    }

    /// Adds text.
    pub fn push(&mut self, more: &str) {
        let more = without_controls(more);
        let room = if self.tail.is_empty() { self.half.saturating_sub(self.head.len()) } else { 0 };
        let (head, tail) = more.split_at(more.floor_char_boundary(room));
        self.head.push_str(head);
        self.tail.push_str(tail);
        if self.tail.len() > self.half.saturating_mul(2) {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        let cut = self.tail.ceil_char_boundary(self.tail.len().saturating_sub(self.half));
        self.missing = self.missing.saturating_add(cut);
        self.tail.drain(..cut);
    }

    /// The newest of it.
    #[must_use]
    pub fn tail(&self, bytes: usize) -> &str {
        let text = if self.tail.is_empty() { &self.head } else { &self.tail };
        text.get(text.ceil_char_boundary(text.len().saturating_sub(bytes))..).unwrap_or_default()
    }

    /// Both ends, and between them how much is missing.
    #[must_use]
    pub fn finish(mut self) -> String {
        // A head that ends before a letter of several bytes leaves its room to the tail.
        let whole = self.head.len().saturating_add(self.tail.len());
        if self.tail.len() > self.half && (self.missing > 0 || whole > self.half.saturating_mul(2)) {
            self.shorten();
        }
        match self.missing {
            0 => self.head + &self.tail,
            missing => format!("{}\n[{missing} bytes are left out here]\n{}", self.head, self.tail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decoder_pieces_give_what_the_whole_gives(text in ".{0,40}", cuts in proptest::collection::vec(0usize..200, 0..6)) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut decoder = Decoder::default();
            let mut got: String = cuts.windows(2).map(|pair| decoder.push(&bytes[pair[0]..pair[1]])).collect();
            got.push_str(&decoder.finish());
            prop_assert_eq!(got, text);
        }

        #[test]
        fn decoder_any_bytes_end_and_keep_at_most_three(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..9)) {
            let mut decoder = Decoder::default();
            for chunk in &chunks {
                decoder.push(chunk);
                prop_assert!(decoder.carry.len() <= 3);
            }
        }
    }

    proptest! {
        #[test]
        fn excerpt_is_the_whole_where_it_fits_and_both_ends_where_not(pieces in proptest::collection::vec("[a-zé]{0,30}", 0..30)) {
            let mut excerpt = Excerpt::new(100);
            for piece in &pieces {
                excerpt.push(piece);
            }
            let (whole, kept) = (pieces.concat(), excerpt.finish());
            if whole.len() <= 100 {
                prop_assert_eq!(kept, whole);
            } else if let Some((head, tail)) = kept.split_once("\n[") {
                prop_assert!(whole.starts_with(head) && kept.len() < 160);
                prop_assert!(whole.ends_with(tail.split_once("]\n").unwrap().1));
            } else {
                prop_assert_eq!(kept, whole);
            }
        }
    }

    #[test]
    fn answer_over_the_cap_is_cut_once_and_says_so() {
        let mut answer = Answer::default();
        answer.push(&"é".repeat(MAX_TEXT));
        assert!(answer.push("more").is_empty());
        answer.note("[exit 0]");
        assert!(answer.as_str().ends_with("é\n[output cut]\n[exit 0]"));
        assert!(answer.as_str().len() < MAX_TEXT + 64);
    }

    #[test]
    fn answer_terminal_controls_are_defused_and_line_ends_are_not() {
        let mut answer = Answer::default();
        answer.push("\u{1b}]0;title\u{7}\ta\r\nb\u{9b}");
        assert_eq!(answer.as_str(), "\u{fffd}]0;title\u{fffd}\ta\r\nb\u{fffd}");
    }

    #[test]
    fn answer_under_the_cap_is_whole() {
        let mut answer = Answer::default();
        assert_eq!(answer.push("a"), "a");
        assert_eq!(answer.note("b"), "\nb");
        assert_eq!(answer.as_str(), "a\nb");
    }
}
