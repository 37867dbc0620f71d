//! gateway -> sandboxd and sandboxd -> launcher: running a command where it cannot do harm. Nobody on these edges can
//! name an image, a mount, a capability, a network or a flag.

use crate::audit::RunEnd;
use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec, TooLong};
use crate::ids::{RunId, SessionKey};
use crate::watch::Senses;
use serde::{Deserialize, Serialize};

/// gateway -> sandboxd.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum SandboxRequest {
    /// Run a command in the session's sandbox, which is made if it is not there. Output comes as chunks, under credit.
    Exec {
        /// Conversation that asks.
        session: SessionKey,
        /// The command as it was written; sandboxd alone judges it.
        command: BoundedStr<8192>,
    },
    /// Which backend serves, or why none does.
    Describe,
    /// Throw the session's sandbox away, with what is in it.
    Close {
        /// Conversation it belongs to.
        session: SessionKey,
    },
}

/// A program's absolute path and its arguments.
pub type Words = BoundedVec<BoundedStr<12_288>, 4_096>;

/// Bounds words.
///
/// # Errors
/// [`TooLong`]; also where all of them together are too much for one packet.
pub fn words<'w>(words: impl IntoIterator<Item = &'w str>) -> Result<Words, TooLong> {
    let words: Vec<BoundedStr<12_288>> = words.into_iter().map(BoundedStr::new).collect::<Result<_, _>>()?;
    let all: usize = words.iter().map(|word| word.len().saturating_add(3)).sum();
    // A packet has 16 KiB, and a little of that is not for words.
    BoundedStr::<15_000>::new("x".repeat(all.min(15_001)))?;
    BoundedVec::new(words)
}

/// The words that have the shell of the sandbox run a text.
///
/// # Errors
/// [`TooLong`].
pub fn shell(text: &str) -> Result<Words, TooLong> {
    words(["/bin/sh", "-c", text])
}

/// Where commands are confined.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Backend {
    /// A hardened container of the Docker engine.
    Docker,
    /// Own launcher: namespaces, pivot_root, Landlock, seccomp.
    NativeN1,
    /// Own launcher where user namespaces are forbidden: Landlock and seccomp. The lower tier.
    NativeN2,
    /// Nothing can confine here, so nothing runs.
    None,
}

impl Backend {
    /// The name in logs and in `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::NativeN1 => "native-n1",
            Self::NativeN2 => "native-n2",
            Self::None => "none",
        }
    }
}

/// A part of the container engine.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Component {
    /// `docker`, `containerd` or `runc`.
    pub name: BoundedStr<32>,
    /// As it says itself.
    pub version: BoundedStr<64>,
}

/// A known hole of a part of the engine.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// The part.
    pub component: BoundedStr<32>,
    /// The hole's number, as `CVE-2025-31133`.
    pub number: BoundedStr<32>,
    /// What it means.
    pub why: BoundedStr<160>,
}

/// How the container engine stands, by its own word when it was taken on. Without components where none serves.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Posture {
    /// Its parts.
    pub components: BoundedVec<Component, 4>,
    /// It runs without root's rights.
    pub rootless: bool,
    /// Root in a container is an ordinary user of the host.
    pub userns_remap: bool,
    /// Known holes, by the table in `sandboxd::posture`.
    pub findings: BoundedVec<Finding, 16>,
    /// What of an escape this installation can see.
    pub senses: Senses,
}

impl Posture {
    /// The parts and their versions, in one line.
    #[must_use]
    pub fn versions(&self) -> String {
        let parts: Vec<String> =
            self.components.iter().map(|part| format!("{} {}", &*part.name, &*part.version)).collect();
        parts.join(", ")
    }

    /// In one line for a log: versions, numbers, how it runs.
    #[must_use]
    pub fn summary(&self) -> String {
        let rights = match (self.rootless, self.userns_remap) {
            (true, _) => "rootless",
            (false, true) => "userns-remap",
            (false, false) => "root in a container is root of the host (no userns-remap, not rootless)",
        };
        let holes: Vec<String> =
            self.findings.iter().map(|finding| format!("{} {}", &*finding.component, &*finding.number)).collect();
        let holes =
            if holes.is_empty() { "no known hole".to_owned() } else { format!("known holes: {}", holes.join(", ")) };
        format!("{}; {rights}; {holes}", self.versions())
    }
}

/// Answer to a [`SandboxRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum SandboxReply {
    /// The command ended.
    Ended {
        /// Names the run in the log.
        run: RunId,
        /// How it ended.
        end: RunEnd,
        /// Milliseconds it took.
        duration_ms: u64,
        /// Bytes of output that were dropped because the run's output cap was reached.
        dropped: u64,
    },
    /// What serves, and a line about it for a person.
    Described {
        /// The backend.
        backend: Backend,
        /// Why this one, or why none.
        detail: BoundedStr<512>,
    },
    /// The sandbox is gone.
    Closed,
}

/// Part of a run's output.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum OutputChunk {
    /// From its standard output.
    Stdout(BoundedBytes<16_384>),
    /// From its standard error.
    Stderr(BoundedBytes<16_384>),
}

impl OutputChunk {
    /// Bytes of output in it: what it costs in credit.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.len(),
        }
    }

    /// True where it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Directory name of a session's workspace: 32 hexadecimal digits, derived by sandboxd from the session's key.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct WorkspaceName(pub BoundedStr<32>);

/// sandboxd -> launcher.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum LaunchRequest {
    /// Run a program; the packet carries two descriptors, for its standard output and standard error.
    Run {
        /// Workspace to mount writable.
        workspace: WorkspaceName,
        /// The program's absolute path, and its arguments behind it.
        words: Words,
        /// Seconds of wall clock it gets.
        timeout_s: u32,
    },
    /// Which tier this machine allows.
    Probe,
}

/// Answer to a [`LaunchRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum LaunchReply {
    /// The command ended.
    Ended(RunEnd),
    /// The tier found, and what it is made of or lacks.
    Tier {
        /// [`Backend::NativeN1`], [`Backend::NativeN2`] or [`Backend::None`].
        backend: Backend,
        /// A line for a person.
        detail: BoundedStr<512>,
    },
}
