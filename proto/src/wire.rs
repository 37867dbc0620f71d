//! The codec, and the only place that knows it is bincode 2 (see `docs/adr/0002-bincode.md`).
//!
//! A frame is one SEQPACKET packet: `kind u8 | id u32 le | deadline_ms u16 le | body`. The header is parsed by hand, the
//! body is bincode `standard`. Callers check the edge's cap before they get here; the limit below bounds what a length
//! field inside a body may claim. Bytes after the value are an error, so is everything that does not decode.

use crate::ids::RequestId;
use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Largest frame on any edge, in bytes. Below the smallest SEQPACKET limit Linux has with a default `SO_SNDBUF`
/// (212,960 bytes, measured).
pub const MAX_FRAME: usize = 200_000;
/// Bytes before the body.
pub const HEADER: usize = 7;

const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_FRAME>> = config::standard().with_limit::<MAX_FRAME>();

/// A frame's bytes. Any may hold a credential, so all are wiped when they are dropped.
pub type Frame = Zeroizing<Vec<u8>>;

/// What a frame is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Client to server.
    Request = 1,
    /// Server to client: the last frame of a request that was carried out.
    Reply = 2,
    /// Server to client: the last frame of a request that was not.
    Refused = 3,
    /// Server to client: part of a stream that ends in a reply.
    Chunk = 4,
    /// Client to server: how many more bytes of chunks may be sent.
    Credit = 5,
    /// Client to server: stop the request with this id.
    Cancel = 6,
    /// One-way message on a control channel.
    Note = 7,
}

impl Kind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Request,
            2 => Self::Reply,
            3 => Self::Refused,
            4 => Self::Chunk,
            5 => Self::Credit,
            6 => Self::Cancel,
            7 => Self::Note,
            _ => return None,
        })
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Request it belongs to.
    pub id: RequestId,
    /// Milliseconds the client still waits; 0 where it means nothing.
    pub deadline_ms: u16,
}

/// Why bytes are not a frame. Every case is a violation of the protocol by the sender.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Fewer bytes than a header has.
    #[error("frame of {0} bytes has no header")]
    Short(usize),
    /// Over the cap of its edge and direction.
    #[error("frame of {found} bytes is over the cap of {cap}")]
    OverCap {
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        cap: usize,
    },
    /// No kind has this number.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Bytes follow the value.
    #[error("{0} bytes after the value")]
    Trailing(usize),
    /// The body is not a value of its type.
    #[error("body does not decode")]
    Decode(#[source] bincode::error::DecodeError),
    /// A value of ours does not encode within the cap.
    #[error("body does not encode")]
    Encode(#[source] bincode::error::EncodeError),
}

/// Encodes a frame of at most `cap` bytes.
///
/// # Errors
/// [`WireError::OverCap`] or [`WireError::Encode`]: a bug of the caller, nothing was sent.
pub fn encode<T: Serialize>(header: Header, body: &T, cap: usize) -> Result<Frame, WireError> {
    let mut frame = Wiped(Zeroizing::new(Vec::with_capacity(2 * 1024)));
    frame.put(&[header.kind as u8]);
    frame.put(&header.id.0.to_le_bytes());
    frame.put(&header.deadline_ms.to_le_bytes());
    bincode::serde::encode_into_std_write(body, &mut frame, CONFIG).map_err(WireError::Encode)?;
    if frame.0.len() > cap {
        return Err(WireError::OverCap { found: frame.0.len(), cap });
    }
    Ok(frame.0)
}

/// Grows without leaving a copy behind, which a `Vec` does.
struct Wiped(Frame);

impl Wiped {
    fn put(&mut self, bytes: &[u8]) {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }
}

impl std::io::Write for Wiped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Encodes a value of at most `cap` bytes behind its length (`u32 le`), for streams.
///
/// # Errors
/// [`WireError::OverCap`] or [`WireError::Encode`].
pub fn encode_behind_length<T: Serialize>(value: &T, cap: usize) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; 4];
    bincode::serde::encode_into_std_write(value, &mut frame, CONFIG).map_err(WireError::Encode)?;
    let found = frame.len().saturating_sub(4);
    let length = u32::try_from(found).ok().filter(|_| found <= cap);
    let length = length.ok_or(WireError::OverCap { found, cap })?;
    if let Some(place) = frame.first_chunk_mut::<4>() {
        *place = length.to_le_bytes();
    }
    Ok(frame)
}

/// Splits a packet into its header and its body.
///
/// # Errors
/// [`WireError::Short`], [`WireError::OverCap`], [`WireError::Kind`].
pub fn split(packet: &[u8], cap: usize) -> Result<(Header, &[u8]), WireError> {
    if packet.len() > cap {
        return Err(WireError::OverCap { found: packet.len(), cap });
    }
    let Some((&[kind, i0, i1, i2, i3, d0, d1], body)) = packet.split_first_chunk::<HEADER>() else {
        return Err(WireError::Short(packet.len()));
    };
    let header = Header {
        kind: Kind::from_byte(kind).ok_or(WireError::Kind(kind))?,
        id: RequestId(u32::from_le_bytes([i0, i1, i2, i3])),
        deadline_ms: u16::from_le_bytes([d0, d1]),
    };
    Ok((header, body))
}

/// Decodes a body to its last byte.
///
/// # Errors
/// [`WireError::Decode`], [`WireError::Trailing`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    let (value, used) = bincode::serde::decode_from_slice(body, CONFIG).map_err(WireError::Decode)?;
    match body.len().saturating_sub(used) {
        0 => Ok(value),
        left => Err(WireError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec};
    use proptest::prelude::*;

    fn header() -> Header {
        Header { kind: Kind::Request, id: RequestId(7), deadline_ms: 250 }
    }

    proptest! {
        #[test]
        fn frame_round_trip_returns_value(id: u32, deadline: u16, text in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let body = (BoundedStr::<240>::new(text).unwrap(), BoundedBytes::<300>::new(bytes).unwrap());
            let header = Header { kind: Kind::Chunk, id: RequestId(id), deadline_ms: deadline };
            let frame = encode(header, &body, MAX_FRAME).unwrap();
            let (found, rest) = split(&frame, MAX_FRAME).unwrap();
            prop_assert_eq!(found, header);
            prop_assert_eq!(decode::<(BoundedStr<240>, BoundedBytes<300>)>(rest).unwrap(), body);
        }

        #[test]
        fn frame_with_trailing_bytes_is_refused(extra in prop::collection::vec(any::<u8>(), 1..9)) {
            let mut frame = encode(header(), &BoundedStr::<8>::new("x").unwrap(), MAX_FRAME).unwrap();
            frame.extend_from_slice(&extra);
            let (_, body) = split(&frame, MAX_FRAME).unwrap();
            prop_assert!(matches!(decode::<BoundedStr<8>>(body), Err(WireError::Trailing(n)) if n == extra.len()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            if let Ok((_, body)) = split(&bytes, 2048) {
                let _ = decode::<crate::audit::Record>(body);
                let _ = decode::<crate::control::ToRole>(body);
                let _ = decode::<crate::vault::VaultRequest>(body);
                let _ = decode::<crate::sandbox::SandboxRequest>(body);
                let _ = decode::<BoundedVec<u8, 16>>(body);
            }
        }
    }

    #[test]
    fn packet_over_cap_is_refused_before_decoding() {
        let frame = encode(header(), &BoundedBytes::<64>::new(vec![0; 64]).unwrap(), MAX_FRAME).unwrap();
        assert!(matches!(split(&frame, 32), Err(WireError::OverCap { cap: 32, .. })));
        assert!(split(&frame, frame.len()).is_ok());
    }

    #[test]
    fn hostile_length_field_claims_nothing() {
        // A byte string that says it is 2^60 bytes long: bincode's u64 varint marker, then the length.
        let mut body = vec![253];
        body.extend_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(matches!(decode::<BoundedBytes<64>>(&body), Err(WireError::Decode(_))));
        assert!(matches!(decode::<BoundedVec<u64, 64>>(&body), Err(WireError::Decode(_))));
        assert!(matches!(decode::<BoundedStr<64>>(&body), Err(WireError::Decode(_))));
    }

    #[test]
    fn list_over_its_bound_is_refused() {
        let frame = encode(header(), &BoundedVec::<u8, 5>::new(vec![1; 5]).unwrap(), MAX_FRAME).unwrap();
        let (_, body) = split(&frame, MAX_FRAME).unwrap();
        assert!(decode::<BoundedVec<u8, 4>>(body).is_err());
        assert!(decode::<BoundedVec<u8, 5>>(body).is_ok());
    }

    #[test]
    fn short_packet_and_unknown_kind_are_refused() {
        assert!(matches!(split(&[1, 0, 0], 64), Err(WireError::Short(3))));
        assert!(matches!(split(&[99, 0, 0, 0, 0, 0, 0], 64), Err(WireError::Kind(99))));
    }
}
