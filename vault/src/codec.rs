//! Numbers and byte strings as the store writes them: little endian, lengths in front, nothing implied.
//!
//! What is read here may be hostile until its seal was checked, so a reader takes what is there or gives nothing; it claims
//! no memory before it has seen the bytes.

use zeroize::Zeroizing;

/// Appends to a buffer that is wiped when dropped. It is sized at the start: one that grows leaves copies behind.
pub struct Writer {
    bytes: Zeroizing<Vec<u8>>,
    /// Bytes that were only counted, where this is a writer that counts.
    counted: Option<usize>,
}

impl Writer {
    /// With room for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { bytes: Zeroizing::new(Vec::with_capacity(capacity)), counted: None }
    }

    /// As [`Writer::new`]; nothing where there is not the memory.
    #[must_use]
    pub fn try_new(capacity: usize) -> Option<Self> {
        let mut bytes = Zeroizing::new(Vec::new());
        bytes.try_reserve_exact(capacity).ok()?;
        Some(Self { bytes, counted: None })
    }

    /// How many bytes this writes.
    pub fn length_of(write: impl FnOnce(&mut Self)) -> usize {
        let mut counts = Self { bytes: Zeroizing::default(), counted: Some(0) };
        write(&mut counts);
        counts.counted.unwrap_or_default()
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        match &mut self.counted {
            Some(counted) => *counted = counted.saturating_add(bytes.len()),
            None => self.bytes.extend_from_slice(bytes),
        }
        self
    }

    /// What `write` writes, with its length in front, as a u32.
    pub fn counted(&mut self, write: impl Fn(&mut Self)) -> &mut Self {
        self.count(Self::length_of(&write));
        write(self);
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
        &self.bytes
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        self.bytes
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
            let length = Writer::length_of(|into| { into.byte(a).number32(b).bytes(text.as_bytes()); });
            prop_assert_eq!(length, 1 + 4 + 4 + text.len());
            let mut writer = Writer::try_new(64).unwrap();
            writer.counted(|into| { into.raw(text.as_bytes()); });
            let bytes = writer.finish();
            prop_assert_eq!(Reader::new(&bytes).text(160), Some(text.as_str()));
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
