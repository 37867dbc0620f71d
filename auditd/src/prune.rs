//! Removing the oldest files of a log, by somebody who may: auditd itself may not. A file goes only once the log was
//! checked to its last line, the tiles hold every hash of it durably, and the lines in it that bring in keys are kept. The
//! newest file never goes. Whoever calls this has it recorded in the log before [`Plan::remove`].

use crate::chain::Links;
use crate::clock;
use crate::file::{appender, write_all};
use crate::offline::{self, LogPath, OfflineError};
use crate::proof::{Item, each_line};
use crate::pruned::{self, Attested};
use crate::segment::Segment;
use crate::tiles::stored::StoredTiles;
use proto::audit::Stream;
use rustix::fs::AtFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// What is to stay. What is kept by one of them stays whatever the other says; where nothing is said, everything does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Keep {
    /// The newest files of each stream, this many.
    pub files: Option<usize>,
    /// Files that were closed less than this ago.
    pub age: Option<Duration>,
}

/// Why nothing is removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The log is not what was written, or cannot be read: then nothing of it may go.
    #[error("{0}; nothing is pruned from a log that does not verify")]
    Log(#[from] OfflineError),
    /// The tiles do not hold the hashes yet.
    #[error("the tiles of {0} end before the lines to be pruned; the next start of auditd makes them")]
    Tiles(&'static str),
    /// The system would not.
    #[error("{what}: {errno}")]
    Os {
        /// What was done.
        what: String,
        /// Why it failed.
        errno: Errno,
    },
}

/// Files of a stream that may go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// Which stream.
    pub stream: Stream,
    /// The files, oldest first.
    pub files: Vec<LogPath>,
    /// Position of the first line that goes.
    pub first: u64,
    /// Position of the first line that stays.
    pub until: u64,
    /// Bytes of lines that go.
    pub bytes: u64,
}

/// What of a stream may go now; none where nothing may. Checks the whole stream.
///
/// # Errors
/// [`PruneError`].
pub fn plan(directory: &Path, stream: Stream, keep: &Keep, now: Duration) -> Result<Option<Plan>, PruneError> {
    let files = offline::find(directory, stream)?;
    let newest = files.len().saturating_sub(1);
    let by_count = keep.files.map(|keep| files.len().saturating_sub(keep.max(1)));
    let old = |pair: &LogPath| {
        let closed = begun(pair).unwrap_or(now);
        keep.age.is_none_or(|age| now.saturating_sub(closed) >= age)
    };
    // A file was closed when the next one was begun.
    let by_age = files.iter().skip(1).take_while(|next| old(next)).count();
    let wish = by_count.or(keep.age.map(|_| by_age)).unwrap_or(0);
    let starts: Vec<u64> = files.iter().filter_map(|pair| pruned::first_of(pair, stream)).collect();
    let needed = needed(directory, stream)?;
    let passed = starts.iter().take_while(|start| **start <= needed).count().saturating_sub(1);
    let count = wish.min(by_age).min(newest).min(passed);
    let (Some(&first), Some(&until)) = (starts.first(), starts.get(count).filter(|_| count > 0)) else {
        return Ok(None);
    };
    let (_, Attested { tiles, .. }) = pruned::verify(directory, stream, &offline::Expected::default(), |_, _| {})?;
    if tiles < until {
        return Err(PruneError::Tiles(stream.name()));
    }
    let files: Vec<LogPath> = files.into_iter().take(count).collect();
    let size = |pair: &LogPath| std::fs::metadata(&pair.log).map_or(0, |found| found.len());
    let bytes = files.iter().map(size).sum();
    Ok(Some(Plan { stream, files, first, until, bytes }))
}

/// First line of the file from which on everything must stay: the vault's store is compared with what the secret stream says
/// last of it, and a log that says nothing looks like one that was put back.
fn needed(directory: &Path, stream: Stream) -> Result<u64, PruneError> {
    if stream != Stream::Secret {
        return Ok(u64::MAX);
    }
    Ok(offline::find_commitments(directory)?.map_or(0, |found| found.first))
}

/// The time of a file's first line.
fn begun(pair: &LogPath) -> Option<Duration> {
    let mut line = Vec::new();
    BufReader::new(File::open(&pair.log).ok()?.take(1 << 16)).read_until(b'\n', &mut line).ok()?;
    let links: Links<'_> = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    clock::parse_rfc3339(&links.ts)
}

impl Keep {
    /// Where the operator says nothing: of each stream the newest hundred files, and what was closed within a year.
    pub const USUAL: Self = Self { files: Some(100), age: Some(Duration::from_secs(365 * 86_400)) };
}

impl Plan {
    /// Keeps the lines that bring in keys, and makes them and the tiles durable. To be done before it is recorded.
    ///
    /// # Errors
    /// [`PruneError`]; nothing was removed.
    pub fn keep_keys(&self, directory: &Path) -> Result<(), PruneError> {
        let unreadable = |source| OfflineError::Read { file: directory.display().to_string(), source };
        let tiles = StoredTiles::open(directory, self.stream).map_err(unreadable)?;
        tiles.ok_or(PruneError::Tiles(self.stream.name()))?.sync().map_err(unreadable)?;
        let known = pruned::last_kept(directory, self.stream)?;
        let mut announced = known.is_some_and(|(_, announced)| announced);
        // A line that a crash tore ends here.
        let mut text = b"\n".to_vec();
        each_line(&self.files, |item| {
            let Item::Line(at, line) = item else { return };
            if known.is_some_and(|(last, _)| at <= last) {
                return;
            }
            let Ok(links) = serde_json::from_slice::<Links<'_>>(line) else { return };
            let vouches = announced && matches!(links.kind.as_ref(), "checkpoint" | "open");
            if links.actor == "auditd" && (vouches || links.kind == "epoch") {
                announced = !vouches;
                text.extend_from_slice(line);
                text.push(b'\n');
            }
        })?;
        let opened = open(directory)?;
        let name = pruned::file(self.stream);
        let failed = |error: crate::file::AppendError| match error {
            crate::file::AppendError::Unwritable { step, errno } => {
                PruneError::Os { what: format!("{name}: {step}"), errno }
            }
            other => PruneError::Os { what: other.to_string(), errno: Errno::IO },
        };
        let file = appender(opened.as_fd(), &name, false).map_err(failed)?;
        write_all(&file, &text).map_err(failed)?;
        let synced = rustix::fs::fsync(&file).and_then(|()| rustix::fs::fsync(&opened));
        synced.map_err(|errno| PruneError::Os { what: format!("{name}: fsync"), errno })
    }

    /// Removes the files, oldest first. A kill at any point leaves a log that verifies.
    ///
    /// # Errors
    /// [`PruneError::Os`]; what is not removed yet is by the next attempt.
    pub fn remove(&self, directory: &Path) -> Result<(), PruneError> {
        let opened = open(directory)?;
        for pair in &self.files {
            let Some(segment) = pair.log.file_name().and_then(|name| Segment::parse(self.stream, name.to_str()?))
            else {
                continue;
            };
            // Checkpoints without lines harm nobody; lines without checkpoints look like an attack.
            for name in [segment.log(), segment.checkpoints()] {
                match rustix::fs::unlinkat(&opened, name.as_str(), AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => return Err(PruneError::Os { what: name, errno }),
                }
            }
        }
        rustix::fs::fsync(&opened).map_err(|errno| PruneError::Os { what: directory.display().to_string(), errno })
    }
}

fn open(directory: &Path) -> Result<OwnedFd, PruneError> {
    let opened = File::open(directory).map(OwnedFd::from);
    opened.map_err(|error| PruneError::Os {
        what: directory.display().to_string(),
        errno: error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error),
    })
}
