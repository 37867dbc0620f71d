//! sandboxd <-> the runner, a small program inside each sandbox. In a container it is resident and speaks over the attach
//! stream; in a native sandbox it is started for one file verb.
//!
//! Hostile, for sandboxd: everything that comes from there. It is a claim of the sandbox, bounded here and believed only
//! as far as the sandbox itself is concerned. A frame is `length u32 le | body`, the body as everywhere. What a command
//! writes is never on this stream by itself, and each run's frames carry a number that only sandboxd and the runner know,
//! so that a command which reached the stream could still not speak for another run.

use crate::bounded::{BoundedBytes, BoundedStr};
use crate::edge::Refusal;
use crate::sandbox::{FileReply, Words, WorkspacePath};
use crate::wire::{self, WireError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Goes up with every change of what is said here or of the file verbs. An image tells its runner's by [`LABEL`].
pub const VERSION: u32 = 1;
/// Label of an image that holds a runner: its [`VERSION`].
pub const LABEL: &str = "moltbot.runner";
/// Where an image holds it.
pub const PROGRAM: &str = "/moltbot/runner";
/// Most bytes of a frame's body.
pub const MAX: usize = 180_000;
/// What a chunk of output takes of its reader's credit beyond its bytes, so that tiny ones are bounded as well.
pub const OVERHEAD: u64 = 64;
/// Most bytes of output in one frame.
pub const CHUNK: usize = 16_384;

/// 128 random bits that name a run between sandboxd and the runner.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Nonce(pub [u8; 16]);

/// What is started.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Program {
    /// A program's absolute path and its arguments; `execve`, no shell.
    Words(Words),
    /// The runner itself, for one [`crate::sandbox::FileVerb`] that comes as a frame on its standard input. It answers in
    /// frames of [`FromFiles`] on its standard output.
    Files,
}

/// One run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Launch {
    /// What.
    pub program: Program,
    /// Where.
    pub cwd: WorkspacePath,
    /// Milliseconds until everything of it is killed.
    pub timeout_ms: u64,
    /// It gets input.
    pub stdin: bool,
    /// It gets a terminal.
    pub pty: bool,
}

/// sandboxd -> runner.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum ToRunner {
    /// Start this.
    Run {
        /// Its name.
        nonce: Nonce,
        /// What.
        launch: Launch,
        /// What its output may cost before more is allowed.
        credit: u32,
    },
    /// Its output may cost this much more.
    Credit {
        /// Which run.
        nonce: Nonce,
        /// How much.
        cost: u32,
    },
    /// Input for it.
    Input {
        /// Which run.
        nonce: Nonce,
        /// The input.
        bytes: BoundedBytes<65_536>,
        /// Nothing follows.
        eof: bool,
    },
    /// Kill everything of it.
    Kill {
        /// Which run.
        nonce: Nonce,
    },
}

/// How a run ended, as the runner says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Ending {
    /// With this status; 127 where there is no such program.
    Exited(u8),
    /// By this signal.
    Signalled(u8),
    /// Its time was over.
    TimedOut,
    /// By [`ToRunner::Kill`].
    Killed,
    /// It was not started; why.
    NotStarted(BoundedStr<256>),
}

/// runner -> sandboxd.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum FromRunner {
    /// First of all.
    Hello {
        /// Its [`VERSION`].
        version: u32,
    },
    /// Output of a run, under credit.
    Output {
        /// Which run.
        nonce: Nonce,
        /// From its standard error.
        is_error: bool,
        /// The bytes.
        bytes: BoundedBytes<CHUNK>,
    },
    /// It took this much of its input.
    Taken {
        /// Which run.
        nonce: Nonce,
        /// Bytes.
        bytes: u32,
    },
    /// The last word of a run.
    Ended {
        /// Which run.
        nonce: Nonce,
        /// How.
        ending: Ending,
    },
}

/// What a file verb is answered with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum FromFiles {
    /// Part of it.
    Data(BoundedBytes<CHUNK>),
    /// The last word.
    Ended(Result<FileReply, Refusal>),
}

/// What `bytes` of output cost.
#[must_use]
pub fn cost(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX).saturating_add(OVERHEAD)
}

/// A frame of `value`.
///
/// # Errors
/// [`WireError`] where it is too large: a bug of the caller.
pub fn frame<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    wire::encode_behind_length(value, MAX)
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Frames {
    held: Vec<u8>,
    taken: usize,
}

impl Frames {
    /// Takes more of the stream. To be followed by [`Frames::take`] until there is none, which bounds what is held.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.drain(..self.taken);
        self.taken = 0;
        self.held.extend_from_slice(bytes);
    }

    /// The next whole one.
    ///
    /// # Errors
    /// [`WireError`]: whoever wrote this does not keep to the protocol, and nothing that follows can be read.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, WireError> {
        let Some((length, rest)) = self.held.get(self.taken..).unwrap_or_default().split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX {
            return Err(WireError::OverCap { found: length, cap: MAX });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let value = wire::decode(body)?;
        self.taken = self.taken.saturating_add(4).saturating_add(length);
        Ok(Some(value))
    }

    /// True where nothing is held that is not read yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held.len() == self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::FileVerb;
    use proptest::prelude::*;

    fn output(bytes: &[u8]) -> FromRunner {
        FromRunner::Output { nonce: Nonce([7; 16]), is_error: false, bytes: BoundedBytes::new(bytes).unwrap() }
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..12),
            cuts in prop::collection::vec(1usize..97, 1..60),
        ) {
            let said: Vec<FromRunner> = bodies.iter().map(|body| output(body)).collect();
            let stream: Vec<u8> = said.iter().flat_map(|word| frame(word).unwrap()).collect();
            let (mut frames, mut heard, mut rest) = (Frames::default(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*cut));
                frames.push(now);
                while let Some(word) = frames.take::<FromRunner>().unwrap() {
                    heard.push(word);
                }
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert!(frames.is_empty());
            prop_assert_eq!(heard, said);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_are_not_hoarded(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..512), 1..24),
        ) {
            let mut frames = Frames::default();
            for piece in pieces {
                frames.push(&piece);
                loop {
                    match frames.take::<FromRunner>() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(frames.held.len() <= MAX + 4 + 512);
            }
        }

        #[test]
        fn arbitrary_bytes_as_a_body_never_panic(body in prop::collection::vec(any::<u8>(), 0..4096)) {
            let _ = wire::decode::<FromRunner>(&body);
            let _ = wire::decode::<ToRunner>(&body);
            let _ = wire::decode::<FromFiles>(&body);
            let _ = wire::decode::<FileVerb>(&body);
        }
    }

    #[test]
    fn length_over_the_cap_is_an_error_before_anything_is_held_for_it() {
        let mut frames = Frames::default();
        frames.push(&u32::MAX.to_le_bytes());
        assert!(matches!(frames.take::<FromRunner>(), Err(WireError::OverCap { .. })));
        let most = frame(&output(&[0; CHUNK])).unwrap();
        frames = Frames::default();
        frames.push(&most);
        assert!(frames.take::<FromRunner>().unwrap().is_some());
    }
}
