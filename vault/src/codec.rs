//! Numbers and byte strings as the store writes them: little endian, lengths in front, nothing implied.
//!
//! What is read here may be hostile until its seal was checked, so a reader takes what is there or gives nothing; it claims
//! no memory before it has seen the bytes.

use zeroize::Zeroizing;

/// Appends to a buffer that is wiped when dropped. It is sized at the start: one that grows leaves copies behind.
pub struct Writer(Zeroizing<Vec<u8>>);

impl Writer {
    /// With room for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Zeroizing::new(Vec::with_capacity(capacity)))
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub fn byte(&mut self, byte: u8) -> &mut Self {
        self.raw(&[byte])
    }

    /// A u32.
    pub fn number32(&mut self, number: u32) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    /// A u64.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.raw(&number.to_le_bytes())
    }

    /// A count as a u32. Everything counted is bounded far below; a wrong one would not open again and is caught by that.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.number32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Bytes with their length in front, as a u32.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).raw(bytes)
    }

    /// What was written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

/// Takes from the front of a slice.
pub struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// Of these bytes.
    #[must_use]
    pub const fn new(bytes: &'b [u8]) -> Self {
        Self(bytes)
    }

    /// True where nothing is left.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    /// One byte.
    pub fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A u32.
    pub fn number32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A u64.
    pub fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A truth value: 0 or 1 and nothing else.
    pub fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// A count of at most `most`.
    pub fn count(&mut self, most: usize) -> Option<usize> {
        usize::try_from(self.number32()?).ok().filter(|count| *count <= most)
    }

    /// At most `most` bytes with their length in front.
    pub fn bytes(&mut self, most: usize) -> Option<&'b [u8]> {
        let count = self.count(most)?;
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    /// Text of at most `most` bytes.
    pub fn text(&mut self, most: usize) -> Option<&'b str> {
        std::str::from_utf8(self.bytes(most)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_written_reads_back(a: u8, b: u32, c: u64, text in ".{0,40}", flag: bool) {
            let mut writer = Writer::new(8);
            writer.byte(a).number32(b).number(c).bytes(text.as_bytes()).byte(u8::from(flag));
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!((reader.byte(), reader.number32(), reader.number()), (Some(a), Some(b), Some(c)));
            prop_assert_eq!((reader.text(160), reader.flag()), (Some(text.as_str()), Some(flag)));
            prop_assert!(reader.is_done());
        }
    }

    #[test]
    fn length_over_its_bound_or_over_what_is_there_gives_nothing() {
        assert_eq!(Reader::new(&[3, 0, 0, 0, 1, 2, 3]).bytes(2), None);
        assert_eq!(Reader::new(&[3, 0, 0, 0, 1, 2]).bytes(9), None);
        assert_eq!(Reader::new(&[3, 0, 0, 0, 1, 2, 3]).bytes(3), Some([1, 2, 3].as_slice()));
        assert_eq!(Reader::new(&[2]).flag(), None);
    }
}
