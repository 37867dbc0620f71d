//! gateway -> sandboxd and sandboxd -> launcher: running a command where it cannot do harm. Nobody on these edges can
//! name an image, a mount, a capability, a network or a flag.

use crate::approval::ApprovalId;
use crate::audit::RunEnd;
use crate::bounded::{BoundedBytes, BoundedStr, BoundedVec, TooLong};
use crate::ids::{RunId, SessionKey};
use crate::watch::Senses;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// gateway -> sandboxd.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum SandboxRequest {
    /// Run a command in the session's sandbox, which is made if it is not there. Output comes as chunks, under credit.
    Exec {
        /// Conversation that asks.
        session: SessionKey,
        /// The command as it was written; sandboxd alone judges it.
        command: BoundedStr<8192>,
        /// Where, how long, and how it is waited for.
        options: ExecOptions,
    },
    /// Something about the session's commands that run on, or ended and are kept.
    Process {
        /// Conversation they belong to; nobody else's are seen.
        session: SessionKey,
        /// What.
        verb: ProcessVerb,
    },
    /// Something with a file of the session's workspace.
    File {
        /// Conversation whose workspace it is.
        session: SessionKey,
        /// What.
        verb: FileVerb,
    },
    /// Which tools a conversation may use; each use of one is judged again.
    Tools {
        /// Which.
        session: SessionKey,
    },
    /// Which backend serves, or why none does.
    Describe,
    /// Which backend a conversation has: [`SandboxReply::Described`].
    Where {
        /// Which conversation.
        session: SessionKey,
    },
    /// Throw the session's sandbox away, with what is in it.
    Close {
        /// Conversation it belongs to.
        session: SessionKey,
    },
}

/// How a command runs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ExecOptions {
    /// Directory to run in; the workspace where empty.
    pub cwd: WorkspacePath,
    /// Seconds that it gets, sandboxd's most at most; sandboxd's default where none are said.
    pub timeout_s: Option<NonZeroU32>,
    /// When its run is handed over to [`ProcessVerb`]s.
    pub wait: Wait,
    /// Its standard input stays open for [`ProcessVerb::Write`]; otherwise there is none.
    pub stdin: bool,
    /// It gets a terminal, and its output is one stream.
    pub pty: bool,
}

/// How long whoever asked waits for a command.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Wait {
    /// Until it ends.
    #[default]
    ToItsEnd,
    /// This many milliseconds; then it runs on, and the answer is [`SandboxReply::Yielded`].
    Yield(u32),
    /// Not at all; the answer is [`SandboxReply::Yielded`] as soon as it runs.
    Background,
}

/// Path in the session's workspace: relative to it, or absolute with `/workspace` in front. Empty is the workspace itself.
/// It cannot lead out: not by `..`, not by a link.
pub type WorkspacePath = BoundedStr<1024>;

/// A part of a file, in one packet.
pub type Piece = BoundedBytes<131_072>;

/// Text of an edit or a patch, in one packet.
pub type PieceText = BoundedStr<131_072>;

/// What may be done about commands that were handed over. A run is named by the [`RunId`] that its command was
/// answered with.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum ProcessVerb {
    /// Which there are: [`SandboxReply::Processes`].
    List,
    /// Output since the last poll, as chunks, and [`SandboxReply::Polled`]. Where there is none yet and it still runs, it
    /// is waited for up to `wait_ms`.
    Poll {
        /// Which.
        run: RunId,
        /// Milliseconds, 120 000 at most.
        wait_ms: u32,
    },
    /// Lines of everything it wrote and that is kept, both streams in the order they came, as chunks of standard output,
    /// and [`SandboxReply::Logged`].
    Log {
        /// Which.
        run: RunId,
        /// First line, counted from 0; where none is said, the last `limit` lines.
        offset: Option<u32>,
        /// How many lines; 200 where none is said.
        limit: Option<NonZeroU32>,
    },
    /// Give it input: [`SandboxReply::Done`].
    Write {
        /// Which.
        run: RunId,
        /// The input.
        data: BoundedBytes<65_536>,
        /// Close its input behind this.
        eof: bool,
    },
    /// End it: [`SandboxReply::Polled`] with how it ended.
    Kill {
        /// Which.
        run: RunId,
    },
    /// Forget one that ended; one that runs is ended first: [`SandboxReply::Done`].
    Remove {
        /// Which.
        run: RunId,
    },
}

/// What may be done with files of the workspace, answered by [`SandboxReply::File`]. They are read and written inside the
/// sandbox, with its rights and limits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum FileVerb {
    /// Its bytes as chunks of standard output, and [`FileReply::Read`].
    Read {
        /// Which.
        path: WorkspacePath,
        /// First byte.
        offset: u64,
        /// Bytes at most; 8 MiB at most.
        limit: u64,
    },
    /// Put these bytes in, making directories that are missing: [`FileReply::Written`].
    Write {
        /// Which.
        path: WorkspacePath,
        /// The bytes.
        bytes: Piece,
        /// Behind what is there, instead of in its place: how a file that is larger than a packet is written.
        append: bool,
    },
    /// Replace a text, which must be there once unless `all` is said: [`FileReply::Changed`].
    Edit {
        /// Which.
        path: WorkspacePath,
        /// Text that is there.
        old: PieceText,
        /// What is put in its place.
        new: PieceText,
        /// Every place.
        all: bool,
    },
    /// A patch in the form `*** Begin Patch` ... `*** End Patch`; either all of it is applied or nothing:
    /// [`FileReply::Changed`].
    Patch {
        /// The patch.
        patch: PieceText,
    },
    /// What a directory holds, by name: [`FileReply::Listed`].
    List {
        /// Which.
        path: WorkspacePath,
    },
    /// Lines that match an extended regular expression, in a file or everything beneath a directory, as chunks
    /// `PATH:LINE:TEXT`, and [`FileReply::Found`].
    Grep {
        /// The expression.
        pattern: BoundedStr<1024>,
        /// Where.
        path: WorkspacePath,
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
    /// When the image of sandboxes was made, as the engine says it: RFC 3339, or nothing.
    pub image_created: BoundedStr<40>,
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
    /// What the conversation may use.
    Tools {
        /// Names of tools.
        names: BoundedVec<BoundedStr<32>, 64>,
        /// What is said in it is a stranger's, or has been.
        outside: bool,
    },
    /// The command runs on; what it wrote so far came as chunks.
    Yielded {
        /// Its name for [`ProcessVerb`]s.
        run: RunId,
    },
    /// The session's runs that were handed over, the oldest first.
    Processes(BoundedVec<ProcessInfo, 32>),
    /// How far it is, and bytes of output that nobody polled in time.
    Polled {
        /// How far.
        state: RunState,
        /// Bytes that are not among the chunks because the cap on what is kept was reached.
        dropped: u64,
    },
    /// What the log was cut from.
    Logged {
        /// How far it is.
        state: RunState,
        /// Number of the first line that came.
        first: u32,
        /// Lines there are.
        lines: u32,
        /// Bytes at the log's front that are not kept any more.
        dropped: u64,
    },
    /// It is done.
    Done,
    /// Answer to a [`FileVerb`].
    File(FileReply),
}

/// Answer to a [`FileVerb`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum FileReply {
    /// It is written.
    Written,
    /// How large the file is; the bytes came as chunks.
    Read {
        /// Bytes it has.
        size: u64,
    },
    /// Files that were changed, one word each and the path behind it: `A` added, `M` modified, `D` deleted, `R` renamed to.
    Changed {
        /// How many places, or how many hunks.
        places: u32,
        /// The first of them.
        files: BoundedVec<BoundedStr<1026>, 24>,
    },
    /// The directory's entries, sorted by name.
    Listed {
        /// They.
        entries: BoundedVec<Entry, 1024>,
        /// True where there are more.
        more: bool,
    },
    /// How many lines matched; they came as chunks.
    Found {
        /// Lines.
        lines: u32,
        /// True where the search stopped at a cap.
        more: bool,
    },
}

/// A run that was handed over.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProcessInfo {
    /// Its name.
    pub run: RunId,
    /// The command, or its beginning.
    pub command: BoundedStr<512>,
    /// How far it is.
    pub state: RunState,
    /// Seconds since it began.
    pub age_s: u64,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum RunState {
    /// It runs.
    Running,
    /// It ended.
    Ended {
        /// How.
        end: RunEnd,
        /// After how many milliseconds.
        duration_ms: u64,
    },
}

/// Something in a directory of the workspace.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// Its name, which need not be text.
    pub name: BoundedBytes<255>,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes it has, of a file.
    pub size: u64,
}

/// What something in a directory is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum EntryKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A link, which no verb follows.
    Link,
    /// Anything else.
    Other,
}

/// Part of a run's output.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum OutputChunk {
    /// From its standard output.
    Stdout(BoundedBytes<16_384>),
    /// From its standard error.
    Stderr(BoundedBytes<16_384>),
    /// It waits for a person's word.
    Waits(ApprovalId),
}

impl OutputChunk {
    /// Bytes of output in it: what it costs in credit.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Stdout(bytes) | Self::Stderr(bytes) => bytes.len(),
            Self::Waits(_) => 0,
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

/// What one native command and all of its processes may use, and what they must leave of the machine:
/// `agents.defaults.sandbox.native`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Bounds {
    /// Bytes of memory that its processes may hold together.
    pub memory: u64,
    /// Bytes by which its files may grow.
    pub writes: u64,
    /// Bytes that stay free in the file system of the workspaces.
    pub free_space: u64,
    /// Files that can still be made in it.
    pub free_inodes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { memory: 1 << 30, writes: 4 << 30, free_space: 1 << 30, free_inodes: 131_072 }
    }
}

/// sandboxd -> launcher.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum LaunchRequest {
    /// Run a program; the packet carries two descriptors, for its standard output and standard error.
    Run {
        /// Workspace to mount writable.
        workspace: WorkspaceName,
        /// Workspace to mount beside it, to be read; where there are no mounts it is not there.
        agent: Option<WorkspaceName>,
        /// The program's absolute path, and its arguments behind it.
        words: Words,
        /// Directory of the workspace to begin in.
        cwd: WorkspacePath,
        /// Seconds of wall clock it gets.
        timeout_s: u32,
        /// What it may use.
        bounds: Bounds,
    },
    /// Run the runner for one file verb; the packet carries two descriptors as for [`LaunchRequest::Run`].
    File {
        /// Workspace to mount writable.
        workspace: WorkspaceName,
        /// As in [`LaunchRequest::Run`].
        agent: Option<WorkspaceName>,
        /// A frame of a [`FileVerb`], given to it as its input.
        verb: BoundedBytes<180_000>,
        /// Seconds of wall clock it gets.
        timeout_s: u32,
        /// What it may use.
        bounds: Bounds,
    },
    /// Which tier this machine allows.
    Probe,
    /// Have a workspace there, for a container to be given.
    Prepare {
        /// Which.
        workspace: WorkspaceName,
    },
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
    /// The workspace is there.
    Prepared {
        /// Whose it is, and so whose commands can write it.
        uid: u32,
        /// The group.
        gid: u32,
    },
}
