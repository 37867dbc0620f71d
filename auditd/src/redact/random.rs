//! Telling what a machine drew from what a person or a program wrote. Keys are drawn; words, paths, names and numbers are
//! not. Letters of words follow one another in few ways, and drawn ones in all.

/// For each letter, those that often follow it in words, counted over English text and source code: nine tenths of all
/// pairs of letters in words, and three tenths of all there are.
const FOLLOWS: [&[u8]; 26] = [
    b"bcdgilmnprstuy",
    b"eilouy",
    b"aehiklortu",
    b"aeios",
    b"acdeflmnpqrstvwxy",
    b"ainortu",
    b"ehinr",
    b"aeiot",
    b"abcdefglmnorstv",
    b"",
    b"e",
    b"adefilostu",
    b"aeiopsu",
    b"acdeginostuy",
    b"cdfgklmnoprstuvw",
    b"aelortuy",
    b"u",
    b"acdegimnorstuy",
    b"acehiopstuy",
    b"acehiorstuwy",
    b"bdelmnrst",
    b"aei",
    b"aehinr",
    b"t",
    b"orst",
    b"e",
];

/// [`FOLLOWS`] as a bit for each letter.
#[expect(clippy::indexing_slicing, reason = "worked out by the compiler, which would say so")]
const COMMON: [u32; 26] = {
    let mut common = [0; 26];
    let mut letter = 0;
    while letter < 26 {
        let mut rest = FOLLOWS[letter];
        while let [byte, tail @ ..] = rest {
            common[letter] |= 1 << (*byte - b'a');
            rest = tail;
        }
        letter += 1;
    }
    common
};

/// No letter, and no character of a key.
const NONE: u8 = 31;
const DIGIT: u8 = 32;
const LOWER: u8 = 64;
const UPPER: u8 = 128;

/// What a byte is, and for a letter which.
#[expect(clippy::indexing_slicing, reason = "worked out by the compiler, which would say so")]
const KINDS: [u8; 256] = {
    let mut kinds = [NONE; 256];
    let mut at = 0;
    while at < 26 {
        kinds[b'a' as usize + at as usize] = LOWER | at;
        kinds[b'A' as usize + at as usize] = UPPER | at;
        at += 1;
    }
    let mut at = 0;
    while at < 10 {
        kinds[b'0' as usize + at] = DIGIT;
        at += 1;
    }
    kinds
};

/// A figure, a capital and a small letter as one in a third of a number each: of a run, all three are counted in one pass.
const FIGURE: u64 = 1;
const CAPITAL: u64 = 1 << 21;
const SMALL: u64 = 1 << 42;

#[expect(clippy::indexing_slicing, reason = "worked out by the compiler, which would say so")]
const COUNTS: [u64; 256] = {
    let mut counts = [0; 256];
    let mut at = 0;
    while at < 256 {
        counts[at] = match KINDS[at] & !31 {
            DIGIT => FIGURE,
            UPPER => CAPITAL,
            LOWER => SMALL,
            _ => 0,
        };
        at += 1;
    }
    counts
};

/// What a run of characters is made of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    length: usize,
    lower: usize,
    upper: usize,
    digits: usize,
    /// Letters beyond f.
    beyond_hex: usize,
    pairs: usize,
    common: usize,
    distinct: u64,
    /// From letter to digit and back.
    changes: usize,
    /// Digits of a number in base 16, in groups perhaps.
    hex: bool,
}

impl Look {
    pub(super) fn of(run: &[u8]) -> Self {
        let run = run.strip_prefix(b"0x").unwrap_or(run);
        let mut look = Self { length: run.len(), ..Self::default() };
        let (mut before, mut was, mut dashes) = (NONE, NONE, 0);
        for byte in run {
            let kind = KINDS.get(usize::from(*byte)).copied().unwrap_or(NONE);
            look.distinct |= 1 << (byte & 63);
            let letter = kind & 31;
            match kind & !31 {
                DIGIT => look.digits += 1,
                LOWER => look.lower += 1,
                UPPER => look.upper += 1,
                _ => {
                    dashes += usize::from(*byte == b'-');
                    before = NONE;
                    continue;
                }
            }
            let digit = kind & !31 == DIGIT;
            look.changes += usize::from(was != NONE && (was == DIGIT) != digit);
            was = kind & !31;
            if digit {
                before = NONE;
                continue;
            }
            look.beyond_hex += usize::from(letter > 5);
            if before != NONE {
                look.pairs += 1;
                let common = COMMON.get(usize::from(before)).copied().unwrap_or_default();
                look.common += usize::from(common >> letter & 1 == 1);
            }
            before = letter;
        }
        let all = look.lower + look.upper + look.digits + dashes == run.len();
        let one_case = look.lower == 0 || look.upper == 0;
        look.hex = all && one_case && look.beyond_hex == 0 && look.digits >= 2 && look.lower + look.upper >= 2;
        look
    }

    /// False where [`Look::is_drawn`] would be, of most runs and at little cost.
    pub(super) fn may_be_drawn(run: &[u8]) -> bool {
        // No third runs over: a longer run is no key, and is looked at in its parts.
        let head = run.get(..run.len().min(1 << 20)).unwrap_or_default();
        let all = head.iter().fold(0, |sum, byte| sum + COUNTS.get(usize::from(*byte)).copied().unwrap_or_default());
        let (digits, upper, lower) = (all % CAPITAL, all % SMALL / CAPITAL, all / SMALL);
        digits >= 2 && lower + upper >= 4 || upper >= 3 && lower >= 3
    }

    /// Digits of a number in base 16: a hash, or a key.
    pub(super) const fn is_hex(&self) -> bool {
        self.hex
    }

    pub(super) const fn length(&self) -> usize {
        self.length
    }

    const fn is_varied(&self) -> bool {
        self.distinct.count_ones() >= 7
    }

    /// True where it was drawn, most probably, and something beside it says that it is a key. Of at least 16 characters.
    pub(super) const fn is_drawn(&self) -> bool {
        let letters = self.lower + self.upper;
        let mixed = self.digits >= 2 && letters >= 4 || self.upper >= 3 && self.lower >= 3;
        // Figures among letters again and again are no words either.
        let wordless = self.common * 100 <= self.pairs * 55 || self.changes >= 6 && letters * 4 >= self.length;
        self.length >= 16 && self.is_varied() && mixed && (self.hex || wordless)
    }

    /// True where it can be nothing but drawn.
    pub(super) const fn is_drawn_for_sure(&self) -> bool {
        let mixed = self.digits >= 3 && self.lower >= 4 && self.upper >= 4;
        let wordless = self.common * 100 <= self.pairs * 45 || self.length >= 40 && self.changes >= 8;
        self.length >= 24 && self.is_varied() && mixed && wordless
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_drawn_is_told_from_what_was_written() {
        for drawn in
            ["q8WvT0zLm3Xy7RkP2sNd", "0f3a9c5b7e1d24680f3a9c5b7e1d2468", "k3j9x0v7q2m5z8w1", "ZQKX7VJ2WPM4RTBN"]
        {
            assert!(Look::of(drawn.as_bytes()).is_drawn(), "{drawn}");
        }
        for written in [
            "org.apache.hadoop.hdfs.server",
            "thread-pool-executor-12",
            "TheQuickBrownFoxOfTheSession2",
            "x86_64-unknown-linux-gnu",
            "20261123T110001000042",
            "/usr/lib/python3/dist-packages",
            "aaaaaaaaaaaaaaaa1111",
        ] {
            assert!(!Look::of(written.as_bytes()).is_drawn(), "{written}");
        }
        assert!(Look::of(b"q8WvT0zLm3Xy7RkP2sNdB4hF").is_drawn_for_sure());
        assert!(!Look::of(b"0f3a9c5b7e1d24680f3a9c5b7e1d2468").is_drawn_for_sure());
    }
}
