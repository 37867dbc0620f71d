//! A reader that never reads past the end of the WebSocket frame it is in.
//!
//! A connection is parsed under a small cap until its client is known and under a large one afterwards. The parser keeps
//! what it has read in its own buffer, so it can only be exchanged where that buffer is empty: exactly between frames.
//! It also means that the first frame, which carries a token, is alone in its buffer and can be wiped whole.
//! Lengths here are hostile and only counted, never allocated for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A frame's header has at most this many bytes (RFC 6455, section 5.2).
const MAX_HEADER: usize = 14;

/// A stream seen frame by frame while it is shut, and as it is once opened.
#[derive(Debug)]
pub struct Gate<S> {
    inner: S,
    header: [u8; MAX_HEADER],
    have: usize,
    payload: u64,
    open: bool,
}

impl<S> Gate<S> {
    /// Wraps `inner`, shut.
    pub const fn new(inner: S) -> Self {
        Self { inner, header: [0; MAX_HEADER], have: 0, payload: 0, open: false }
    }

    /// Lets everything through from here on.
    pub const fn open(&mut self) {
        self.open = true;
    }

    /// How many bytes may be read now without passing a frame's end.
    fn allowance(&self) -> u64 {
        if self.payload > 0 {
            return self.payload;
        }
        let need = header_len(self.header.get(..self.have).unwrap_or_default());
        u64::try_from(need.saturating_sub(self.have)).unwrap_or(1).max(1)
    }

    fn account(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.payload > 0 {
                self.payload = self.payload.saturating_sub(1);
                continue;
            }
            if let Some(slot) = self.header.get_mut(self.have) {
                *slot = *byte;
                self.have = self.have.saturating_add(1);
            }
            let header = self.header.get(..self.have).unwrap_or_default();
            if self.have >= 2 && self.have >= header_len(header) {
                self.payload = payload_len(header);
                self.have = 0;
            }
        }
    }
}

/// Length of the header that starts with `head`, as far as it can be told.
fn header_len(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let extended = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    extended + mask + 2
}

fn payload_len(header: &[u8]) -> u64 {
    let big_endian = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
    match header.get(1).map_or(0, |second| second & 0x7f) {
        126 => big_endian(header.get(2..4).unwrap_or_default()),
        127 => big_endian(header.get(2..10).unwrap_or_default()),
        short => u64::from(short),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.open {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let most = usize::try_from(this.allowance()).unwrap_or(usize::MAX).min(buf.remaining());
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        this.account(part.filled());
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    fn frame(len: usize) -> Vec<u8> {
        let mut bytes = vec![0x81];
        match len {
            0..126 => bytes.push(0x80 | u8::try_from(len).unwrap()),
            126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend(u16::try_from(len).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend(u64::try_from(len).unwrap().to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes.resize(bytes.len() + len, 7);
        bytes
    }

    proptest! {
        #[test]
        fn gate_shut_stops_at_every_frame_end(lens in proptest::collection::vec(prop_oneof![0usize..300, 65_530usize..65_540], 1..5)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let frames: Vec<_> = lens.iter().map(|len| frame(*len)).collect();
                let wire = frames.concat();
                let mut gate = Gate::new(wire.as_slice());
                for frame in &frames {
                    let mut got = Vec::new();
                    while got.len() < frame.len() {
                        let mut buf = vec![0; 1 << 20];
                        let read = gate.read(&mut buf).await.unwrap();
                        got.extend_from_slice(&buf[..read]);
                    }
                    prop_assert_eq!(&got, frame);
                }
                Ok(())
            })?;
        }
    }

    #[tokio::test]
    async fn gate_open_reads_across_frames() {
        let wire = [frame(3), frame(4)].concat();
        let mut gate = Gate::new(wire.as_slice());
        gate.open();
        let mut buf = vec![0; 1024];
        assert_eq!(gate.read(&mut buf).await.unwrap(), wire.len());
    }
}
