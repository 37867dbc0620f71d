//! Strings, byte strings and lists with a hard upper bound that is checked when they are made and again when they are
//! decoded. There is no way to hold one that is over its bound.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, ops::Deref};

/// A value was longer than its type allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{found} is over the bound of {bound}")]
pub struct TooLong {
    /// What the type allows: bytes for strings, items for lists.
    pub bound: usize,
    /// What was offered.
    pub found: usize,
}

const fn check(found: usize, bound: usize) -> Result<(), TooLong> {
    if found <= bound { Ok(()) } else { Err(TooLong { bound, found }) }
}

/// UTF-8 text of at most `N` bytes.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BoundedStr<const N: usize>(String);

impl<const N: usize> BoundedStr<N> {
    /// Takes `text` if it fits.
    ///
    /// # Errors
    /// [`TooLong`] where `text` has more than `N` bytes.
    pub fn new(text: impl Into<String>) -> Result<Self, TooLong> {
        let text = text.into();
        check(text.len(), N).map(|()| Self(text))
    }

    /// The longest prefix of `text` that fits, cut at a character. For diagnostics only: never for a name or a command.
    #[must_use]
    pub fn truncated(text: &str) -> Self {
        let mut end = text.len().min(N);
        while !text.is_char_boundary(end) {
            end = end.saturating_sub(1);
        }
        Self(text.get(..end).unwrap_or_default().to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> Deref for BoundedStr<N> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for BoundedStr<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const N: usize> fmt::Display for BoundedStr<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const N: usize> Serialize for BoundedStr<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de, const N: usize> Deserialize<'de> for BoundedStr<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(d)?).map_err(de::Error::custom)
    }
}

/// At most `N` bytes of anything.
#[derive(Clone, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BoundedBytes<const N: usize>(Vec<u8>);

impl<const N: usize> BoundedBytes<N> {
    /// Takes `bytes` if they fit.
    ///
    /// # Errors
    /// [`TooLong`] where there are more than `N`.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, TooLong> {
        let bytes = bytes.into();
        check(bytes.len(), N).map(|()| Self(bytes))
    }

    /// The bytes, given up.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const N: usize> Deref for BoundedBytes<N> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for BoundedBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const N: usize> Serialize for BoundedBytes<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for BoundedBytes<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit<const N: usize>;
        impl<'de, const N: usize> de::Visitor<'de> for Visit<N> {
            type Value = BoundedBytes<N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                BoundedBytes::new(bytes).map_err(E::custom)
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
                BoundedBytes::new(bytes).map_err(E::custom)
            }
        }
        d.deserialize_byte_buf(Visit)
    }
}

/// A list of at most `N` items. `T` must not be zero-sized: a list of nothings costs no bytes on the wire and any amount
/// of time to decode.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BoundedVec<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Default for BoundedVec<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const N: usize> BoundedVec<T, N> {
    const NOT_ZERO_SIZED: () = assert!(size_of::<T>() > 0, "a list of zero-sized items cannot be bounded by bytes");

    /// Takes `items` if they fit.
    ///
    /// # Errors
    /// [`TooLong`] where there are more than `N`.
    pub fn new(items: Vec<T>) -> Result<Self, TooLong> {
        let () = Self::NOT_ZERO_SIZED;
        check(items.len(), N).map(|()| Self(items))
    }

    /// The items, given up.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<const M: usize, const N: usize> BoundedVec<BoundedStr<M>, N> {
    /// Takes `texts` if each of them fits, and all.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn texts(texts: impl IntoIterator<Item = String>) -> Result<Self, TooLong> {
        Self::new(texts.into_iter().map(BoundedStr::new).collect::<Result<_, _>>()?)
    }
}

impl<T, const N: usize> Deref for BoundedVec<T, N> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Serialize, const N: usize> Serialize for BoundedVec<T, N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for BoundedVec<T, N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit<T, const N: usize>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> de::Visitor<'de> for Visit<T, N> {
            type Value = BoundedVec<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "at most {N} items")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let () = BoundedVec::<T, N>::NOT_ZERO_SIZED;
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    check(items.len().saturating_add(1), N).map_err(de::Error::custom)?;
                    items.push(item);
                }
                Ok(BoundedVec(items))
            }
        }
        d.deserialize_seq(Visit(std::marker::PhantomData))
    }
}
