//! What the vault remembers of the log, and the key it says so with. Part of the store, so that it is sealed with it.
//!
//! Nothing is cosigned that does not continue what was cosigned before, and nothing before it is remembered on disk: a
//! signature that the vault forgot would let a log be cut behind it. Heads come from auditd and are hostile.

use super::consistency::continues;
use crate::codec::{Reader, Writer};
use crate::entropy;
use crate::merkle::Hash;
use crate::rollback::Rollback;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use proto::audit::Stream;
use proto::bounded::BoundedVec;
use proto::witness::{Cosignature, Known, TreeHead};
use rustix::io::Errno;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Bytes of a log's name at most.
const MAX_ORIGIN: usize = 96;
/// Seconds that a clock may be set back by without a word.
const CORRECTION: u64 = 600;

/// A tree that was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Seen {
    origin: String,
    size: u64,
    root: Hash,
}

/// The memory. A vault that never met a log has none and no key.
#[derive(Clone, Default)]
pub struct Memory {
    seed: Option<Zeroizing<[u8; 32]>>,
    /// The last generation of the store up to this one that the log was told of.
    pub logged: u64,
    /// Time of the last cosignature; times do not go back.
    time: u64,
    seen: BTreeMap<Stream, Seen>,
}

impl Memory {
    /// Draws the key, where there is none yet.
    ///
    /// # Errors
    /// What `getrandom(2)` says.
    pub fn make_key(&mut self) -> Result<(), Errno> {
        if self.seed.is_none() {
            let mut seed = Zeroizing::new([0; 32]);
            entropy::fill(seed.as_mut_slice())?;
            self.seed = Some(seed);
        }
        Ok(())
    }

    fn key(&self) -> Option<SigningKey> {
        self.seed.as_ref().map(|seed| SigningKey::from_bytes(seed))
    }

    /// The key that cosignatures are checked with.
    #[must_use]
    pub fn public_key(&self) -> Option<[u8; 32]> {
        self.key().map(|key| key.verifying_key().to_bytes())
    }

    /// How much of each stream was seen.
    #[must_use]
    pub fn known(&self) -> BoundedVec<Known, 4> {
        let known = self.seen.iter().map(|(stream, seen)| Known { stream: *stream, size: seen.size });
        BoundedVec::new(known.collect()).unwrap_or_default()
    }

    /// True where these heads are more than is remembered.
    #[must_use]
    pub fn is_new(&self, heads: &[TreeHead]) -> bool {
        heads.iter().any(|head| self.seen.get(&head.stream).is_none_or(|seen| seen.size != head.size))
    }

    /// Does the stream continue what was seen of it?
    ///
    /// # Errors
    /// [`Rollback`].
    pub fn check(&self, head: &TreeHead) -> Result<(), Rollback> {
        let Some(seen) = self.seen.get(&head.stream) else { return Ok(()) };
        let (stream, cosigned) = (head.stream, seen.size);
        if seen.origin != head.origin.as_str() {
            return Err(Rollback::Foreign(stream));
        }
        if head.size < cosigned {
            return Err(Rollback::Cut { stream, found: head.size, cosigned });
        }
        if continues(cosigned, &seen.root, head.size, &head.root, &head.proof) {
            Ok(())
        } else {
            Err(Rollback::Rewritten { stream, cosigned })
        }
    }

    /// Is it no earlier than when the log was last signed, but for what a clock is corrected by?
    ///
    /// # Errors
    /// [`Rollback::Clock`].
    pub const fn check_clock(&self, now: u64) -> Result<(), Rollback> {
        let behind = self.time.saturating_sub(now);
        if behind > CORRECTION { Err(Rollback::Clock(behind)) } else { Ok(()) }
    }

    /// Does the log, all of which `heads` are, hold every stream that was seen?
    ///
    /// # Errors
    /// [`Rollback`].
    pub fn check_all(&self, heads: &[TreeHead]) -> Result<(), Rollback> {
        heads.iter().try_for_each(|head| self.check(head))?;
        let is_there = |stream: &Stream| heads.iter().any(|head| head.stream == *stream);
        match self.seen.iter().find(|(stream, _)| !is_there(stream)) {
            Some((stream, seen)) => Err(Rollback::Cut { stream: *stream, found: 0, cosigned: seen.size }),
            None => Ok(()),
        }
    }

    /// Remembers these heads, whatever was remembered of their streams before.
    pub fn remember(&mut self, heads: &[TreeHead]) {
        for head in heads.iter().filter(|head| head.size > 0) {
            let seen = Seen { origin: head.origin.to_string(), size: head.size, root: head.root };
            self.seen.insert(head.stream, seen);
        }
    }

    /// Remembers these heads and no others, and no time.
    pub fn begin_again(&mut self, heads: &[TreeHead]) {
        self.seen.clear();
        self.time = 0;
        self.remember(heads);
    }

    /// Signs what is remembered of the streams of these heads, which must be durable by now.
    pub fn cosign(&mut self, heads: &[TreeHead], now: u64) -> BoundedVec<Cosignature, 4> {
        let Some(key) = self.key() else { return BoundedVec::default() };
        self.time = self.time.max(now);
        let time = self.time;
        let seen = heads.iter().filter_map(|head| Some((head.stream, self.seen.get(&head.stream)?)));
        let cosigned = seen.map(|(stream, seen)| {
            let root = STANDARD.encode(seen.root);
            let text = format!("cosignature/v1\ntime {time}\n{}\n{}\n{root}\n", seen.origin, seen.size);
            let signature = key.sign(text.as_bytes()).to_bytes();
            let (mut first, mut second) = ([0; 32], [0; 32]);
            first.iter_mut().chain(&mut second).zip(signature).for_each(|(to, from)| *to = from);
            Cosignature { stream, size: seen.size, time, signature: [first, second] }
        });
        BoundedVec::new(cosigned.collect()).unwrap_or_default()
    }

    /// Appends it to a store's body.
    pub fn encode(&self, into: &mut Writer) {
        into.bytes(self.seed.as_ref().map_or(&[], |seed| seed.as_slice())).number(self.logged).number(self.time);
        into.count(self.seen.len());
        for (stream, seen) in &self.seen {
            into.byte(code(*stream)).bytes(seen.origin.as_bytes()).number(seen.size).raw(&seen.root);
        }
    }

    /// The reverse of [`Memory::encode`].
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let seed = match from.bytes(32)? {
            [] => None,
            seed => Some(Zeroizing::new(<[u8; 32]>::try_from(seed).ok()?)),
        };
        let mut memory = Self { seed, logged: from.number()?, time: from.number()?, seen: BTreeMap::new() };
        for _ in 0..from.count(Stream::ALL.len())? {
            let number = from.byte()?;
            let stream = Stream::ALL.into_iter().find(|stream| code(*stream) == number)?;
            if memory.seen.last_key_value().is_some_and(|(last, _)| *last >= stream) {
                return None;
            }
            let origin = from.text(MAX_ORIGIN)?.to_owned();
            memory.seen.insert(stream, Seen { origin, size: from.number()?, root: from.array()? });
        }
        Some(memory)
    }
}

/// A stream in the store; rises with the stream's place in the log.
const fn code(stream: Stream) -> u8 {
    match stream {
        Stream::Auth => 1,
        Stream::Command => 2,
        Stream::Secret => 3,
        Stream::System => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::super::consistency::tests::{lines, proof};
    use super::*;
    use crate::merkle;
    use proto::bounded::BoundedStr;

    fn head(stream: Stream, lines: &[Vec<u8>], known: usize) -> TreeHead {
        TreeHead {
            stream,
            origin: BoundedStr::truncated(&format!("moltbot/0011/{}", stream.name())),
            size: u64::try_from(lines.len()).unwrap(),
            root: merkle::root(lines),
            proof: BoundedVec::new(if known == 0 { Vec::new() } else { proof(known, lines) }).unwrap(),
        }
    }

    fn knowing(count: u8) -> Memory {
        let mut memory = Memory::default();
        memory.make_key().unwrap();
        memory.remember(&[head(Stream::Secret, &lines(count), 0)]);
        memory
    }

    #[test]
    fn log_that_grew_is_known_and_one_that_was_cut_is_not() {
        let memory = knowing(5);
        assert_eq!(memory.check(&head(Stream::Secret, &lines(9), 5)), Ok(()));
        assert_eq!(memory.check(&head(Stream::Secret, &lines(5), 5)), Ok(()));
        let cut = memory.check(&head(Stream::Secret, &lines(4), 0));
        assert_eq!(cut, Err(Rollback::Cut { stream: Stream::Secret, found: 4, cosigned: 5 }));
        let gone = memory.check_all(&[head(Stream::Auth, &lines(9), 0)]);
        assert_eq!(gone, Err(Rollback::Cut { stream: Stream::Secret, found: 0, cosigned: 5 }));
    }

    #[test]
    fn log_with_another_beginning_is_refused_at_any_size() {
        let memory = knowing(5);
        for count in 5..20 {
            let mut forged = lines(count);
            forged[2] = b"forged".to_vec();
            let refused = memory.check(&head(Stream::Secret, &forged, 5));
            assert_eq!(refused, Err(Rollback::Rewritten { stream: Stream::Secret, cosigned: 5 }), "{count}");
        }
        let foreign = TreeHead {
            origin: BoundedStr::truncated("moltbot/0022/secret-audit"),
            ..head(Stream::Secret, &lines(9), 5)
        };
        assert_eq!(memory.check(&foreign), Err(Rollback::Foreign(Stream::Secret)));
    }

    #[test]
    fn clock_that_is_behind_what_was_signed_is_refused_until_it_begins_again() {
        let mut memory = knowing(5);
        assert_eq!(memory.check_clock(0), Ok(()), "nothing was signed yet");
        memory.cosign(&[head(Stream::Secret, &lines(5), 0)], 10_000);
        assert_eq!((memory.check_clock(9_400), memory.check_clock(20_000)), (Ok(()), Ok(())));
        assert_eq!(memory.check_clock(9_399), Err(Rollback::Clock(601)));
        memory.begin_again(&[head(Stream::Secret, &lines(5), 0)]);
        assert_eq!(memory.check_clock(9_399), Ok(()));
    }

    #[test]
    fn memory_reads_back_and_its_signatures_do_not_go_back_in_time() {
        let mut memory = knowing(5);
        let first = memory.cosign(&[head(Stream::Secret, &lines(5), 0)], 100);
        let again = memory.cosign(&[head(Stream::Secret, &lines(5), 0)], 50);
        assert_eq!((first[0].time, again[0].time), (100, 100));
        let mut into = Writer::new(1024);
        memory.encode(&mut into);
        let bytes = into.finish();
        let mut from = Reader::new(&bytes);
        let read = Memory::decode(&mut from).unwrap();
        assert!(from.is_done() && read.public_key() == memory.public_key() && read.known() == memory.known());
        assert!(
            memory.cosign(&[head(Stream::Auth, &lines(5), 0)], 100).is_empty(),
            "what is not remembered is not signed"
        );
    }
}
