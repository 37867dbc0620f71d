//! A credential on its way through a message: wiped when dropped, never printed, never copied by accident.

use crate::bounded::TooLong;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// At most 1 KiB of secret bytes. No `Debug`, `Display` or `Clone`; the serde impl exists for the wire alone.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Largest secret that travels, in bytes.
    pub const MAX: usize = 1024;

    /// Takes `bytes`, which the caller gives up.
    ///
    /// # Errors
    /// [`TooLong`] above [`Secret::MAX`]; the bytes are wiped then as well.
    pub fn new(mut bytes: Vec<u8>) -> Result<Self, TooLong> {
        if bytes.len() > Self::MAX {
            let found = bytes.len();
            bytes.zeroize();
            return Err(TooLong { bound: Self::MAX, found });
        }
        Ok(Self(bytes))
    }

    /// The bytes, for as long as the borrow lasts.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visit;
        impl de::Visitor<'_> for Visit {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("secret bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Secret, E> {
                Secret::new(bytes.to_vec()).map_err(E::custom)
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Secret, E> {
                Secret::new(bytes).map_err(E::custom)
            }
        }
        d.deserialize_byte_buf(Visit)
    }
}
