//! Finding out where a stream stands, before the walls go up.
//!
//! A short file is checked from its first line. A long one is taken up at its last checkpoint that our own key signed:
//! what is before it is for `moltbot logs verify`, so that the time to start does not grow with the log.

use super::{Closed, LogStream, failed};
use crate::chain::{Broken, Class, Links};
use crate::clock;
use crate::file::{AppendError, LogFile, unwritable};
use crate::keys::Ring;
use crate::notes::{self, Feed, NotesFile};
use crate::scan::{Scan, Tail, VerifyError, scan};
use crate::segment::Segment;
use crate::state::Health;
use crate::tiles::live::LiveTiles;
use crate::verify::{Position, Verifier};
use proto::audit::Stream;
use rustix::fs::{AtFlags, statat};
use std::io::BufRead as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that are checked at a start at most, but for those since the last checkpoint.
const TAIL: u64 = 1 << 20;

/// What a start reads of a stream.
struct Start<'s> {
    stream: Stream,
    directory: &'s Arc<OwnedFd>,
    ring: Option<&'s Ring>,
    tail: u64,
}

/// Bytes at a file's end in which at least one whole record is.
const LINES: u64 = 1 << 17;

/// A check's outcome, with the place in the file that it began at.
struct Found {
    from: u64,
    scan: Scan,
    recorded: u64,
}

/// The next file's checkpoints, where an end between the two files of a rotation left them alone and empty. Behind the wall
/// a file that is there cannot be opened again.
fn left_over(
    stream: Stream,
    dir: BorrowedFd<'_>,
    names: &[String],
    found: &Found,
) -> Result<Option<NotesFile>, AppendError> {
    let next = Segment::new(stream, found.scan.sound.head.size);
    let (log, notes) = (next.log(), next.checkpoints());
    if names.contains(&log) || !names.contains(&notes) {
        return Ok(None);
    }
    let left = statat(dir, notes.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(unwritable("stat"))?;
    // What is in it nobody vouches for: the rotation is refused.
    if left.st_size == 0 { NotesFile::open(dir, &notes, false).map(Some) } else { Ok(None) }
}

impl LogStream {
    /// Opens a stream beneath `directory`, which holds files of these names; makes it where there is none. A torn end is
    /// repaired by the first append at the latest.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was written.
    pub fn open(
        directory: &Arc<OwnedFd>,
        stream: Stream,
        names: &[String],
        ring: Option<&Ring>,
    ) -> Result<Self, AppendError> {
        Self::open_within(directory, stream, names, ring, TAIL)
    }

    /// As [`LogStream::open`], with another bound of what is checked.
    pub(super) fn open_within(
        directory: &Arc<OwnedFd>,
        stream: Stream,
        names: &[String],
        ring: Option<&Ring>,
        tail: u64,
    ) -> Result<Self, AppendError> {
        let mut segments = Segment::all(stream, names.iter().map(String::as_str));
        let last = segments.pop().unwrap_or_else(|| Segment::new(stream, 0));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        let dir = directory.as_fd();
        // Lines without a file of checkpoints beside them look like an attack.
        let mut notes = NotesFile::open(dir, &last.checkpoints(), false)?;
        let mut file = LogFile::open(dir, last.log(), false, limit)?;
        let mut closed = Vec::with_capacity(segments.len());
        for segment in &segments {
            let name = segment.log();
            let bytes = statat(dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).map_err(unwritable("stat"))?.st_size;
            closed.push(Closed { name, bytes: u64::try_from(bytes).unwrap_or(0) });
        }
        let found = Start { stream, directory, ring, tail }.establish(&segments, &file, last.first, &mut notes)?;
        file.settle(found.from.saturating_add(found.scan.sound_bytes));
        let health = if found.scan.tail == Tail::Clean { Health::Sound } else { Health::Unclean };
        let fresh = found.scan.sound.closed && found.from == 0 && found.scan.sound_bytes == 0;
        let tiles = tiles(stream, directory, &segments, &file, last.first, &found.scan.sound)?;
        let next_notes = if found.scan.sound.closed { left_over(stream, dir, names, &found)? } else { None };
        let latest = last_time(&file)?;
        let begun = first_line(&file)?.and_then(|line| time(&line));
        Ok(Self {
            stream,
            directory: Arc::clone(directory),
            limit,
            closed,
            file,
            notes,
            tiles,
            next_notes,
            at: found.scan.sound,
            health,
            recorded: found.recorded,
            fresh,
            begun,
            latest,
            noted_ns: 0,
            noted: None,
            offered: None,
            cosigned: 0,
            mark: None,
        })
    }
}

/// Opens the tiles, makes from the lines what they lack, and holds them against the tree of the lines.
fn tiles(
    stream: Stream,
    directory: &Arc<OwnedFd>,
    closed: &[Segment],
    file: &LogFile,
    first: u64,
    at: &Position,
) -> Result<LiveTiles, AppendError> {
    let mut tiles = LiveTiles::open(directory.as_fd(), stream)?;
    let oldest = closed.first().map_or(first, |segment| segment.first);
    if tiles.size() < oldest {
        return Err(tiles.bad("lacks hashes of lines whose file is gone; put it back from a backup"));
    }
    let ends = closed.iter().skip(1).map(|segment| segment.first).chain([first]);
    for (segment, end) in closed.iter().zip(ends).filter(|(_, end)| *end > tiles.size()).collect::<Vec<_>>() {
        let file = LogFile::open(directory.as_fd(), segment.log(), false, None)?;
        catch_up(&mut tiles, &file, segment.first, file.end()?)?;
        if tiles.size() != end {
            return Err(tiles.bad("cannot be made: a file of lines does not reach to the next one"));
        }
    }
    catch_up(&mut tiles, file, first, file.bytes())?;
    if tiles.size() > at.head.size {
        return Err(tiles.bad("holds hashes of more lines than there are: the log was cut"));
    }
    if !tiles.are_of(&at.tree) {
        return Err(tiles.bad("does not hold the hashes of these lines; while no file was pruned, move .tile0 to .tile3 of the stream away and they are made anew"));
    }
    tiles.flush();
    Ok(tiles)
}

/// Gives the tiles the lines of a file, whose first is at `first`, that they lack.
pub(super) fn catch_up(tiles: &mut LiveTiles, file: &LogFile, first: u64, until: u64) -> Result<(), AppendError> {
    let mut reader = file.section(0, until);
    let (mut at, mut line) = (first, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(|error| failed(file.name(), error.into()))?;
        if read == 0 || line.pop_if(|byte| *byte == b'\n').is_none() {
            return Ok(());
        }
        if at == tiles.size() {
            tiles.push(crate::chain::leaf(&line).0)?;
        }
        at = at.saturating_add(1);
    }
}

impl Start<'_> {
    fn establish(
        &self,
        before: &[Segment],
        file: &LogFile,
        first: u64,
        notes: &mut NotesFile,
    ) -> Result<Found, AppendError> {
        let Self { stream, directory, tail, .. } = *self;
        let end = file.end()?;
        let content = notes.content().map_err(|error| failed(file.name(), error.into()))?;
        let known = notes::parse(&content, &[]);
        if let (Ok(known), true) = (&known, end > tail)
            && let Some((from, at)) = self.resume(file, end)?
        {
            let recorded = at.head.size;
            let mut verifier = Verifier::within(stream, at, first, None);
            // A torn checkpoint may look like a bad one; the lines tell, and they are gone through below.
            match check(file, from, end, &mut verifier, known) {
                Err(AppendError::Broken { .. }) => {}
                outcome => {
                    notes.settle(known.bytes, known.rest.is_some());
                    return outcome.map(|scan| Found { from, scan, recorded });
                }
            }
        }
        // From the first line on: either it says where it stands, or the file before does.
        let begins = first_line(file)?
            .is_some_and(|line| serde_json::from_slice::<Links<'_>>(&line).is_ok_and(|links| links.kind == "open"));
        let at = match before.split_last() {
            Some((previous, earlier)) if !begins => {
                let name = previous.log();
                let file = LogFile::open(directory.as_fd(), name, false, None)?;
                let mut notes = NotesFile::open(directory.as_fd(), &previous.checkpoints(), false)?;
                self.establish(earlier, &file, previous.first, &mut notes)?.scan.sound
            }
            _ => Position::default(),
        };
        let mut verifier = Verifier::new(stream, at.clone(), None);
        // The log first: it says which parts of the checkpoints' file are none.
        let unaided = scan(file.section(0, end), &mut verifier, |_, _| Ok(())).map_err(|e| failed(file.name(), e))?;
        let known = notes::parse(&content, verifier.torn_notes())
            .map_err(|broken| failed(file.name(), VerifyError::Notes(broken)))?;
        notes.settle(known.bytes, known.rest.is_some());
        let recorded = unaided.sound.signed;
        let mut verifier = Verifier::new(stream, at, None);
        let scan = check(file, 0, end, &mut verifier, &known)?;
        Ok(Found { from: 0, scan, recorded })
    }

    /// The last checkpoint of ours in the file's tail: where its line begins, and what it claims.
    fn resume(&self, file: &LogFile, end: u64) -> Result<Option<(u64, Position)>, AppendError> {
        // A checkpoint does not say which key was announced before it: while keys change, all lines are asked.
        let Some(ring) = self.ring.filter(|ring| ring.next().is_none()) else { return Ok(None) };
        let from = end.saturating_sub(self.tail);
        let mut reader = file.section(from, end);
        let (mut at, mut found) = (from, None);
        loop {
            let mut line = Vec::new();
            let read = reader.read_until(b'\n', &mut line).map_err(|error| failed(file.name(), error.into()))?;
            if read == 0 {
                return Ok(found);
            }
            let here = at;
            at = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            // Cheap before dear: few lines are checkpoints.
            if line.pop_if(|byte| *byte == b'\n').is_none() || !contains(&line, b"\"actor\":\"auditd\"") {
                continue;
            }
            let Ok(own) = serde_json::from_slice::<crate::chain::Own>(&line) else { continue };
            let Some(key) = own.epoch.filter(|_| own.note.is_some()).and_then(|epoch| ring.public(self.stream, epoch))
            else {
                continue;
            };
            if let Some(at) = Position::claimed(&line, Some(key)) {
                found = Some((here, at));
            }
        }
    }
}

/// Checks lines and checkpoints together.
fn check(
    file: &LogFile,
    from: u64,
    end: u64,
    verifier: &mut Verifier,
    known: &notes::Notes,
) -> Result<Scan, AppendError> {
    let mut feed = Feed::new(&known.entries);
    let found = scan(file.section(from, end), verifier, |verifier, _| feed.feed(verifier))
        .map_err(|error| failed(file.name(), error))?;
    match feed.left() {
        Some(left) if found.sound.head.size < left.point.size => {
            let broken = Broken { line: verifier.rewritten(Class::Truncated).line, class: Class::Truncated };
            Err(failed(file.name(), VerifyError::Notes(broken)))
        }
        _ => Ok(found),
    }
}

fn contains(line: &[u8], needle: &[u8]) -> bool {
    line.windows(needle.len()).any(|window| window == needle)
}

fn first_line(file: &LogFile) -> Result<Option<Vec<u8>>, AppendError> {
    let mut line = Vec::new();
    let mut reader = file.section(0, 1 << 16);
    reader.read_until(b'\n', &mut line).map_err(|error| failed(file.name(), error.into()))?;
    Ok(line.pop_if(|byte| *byte == b'\n').map(|_| line))
}

/// The time of the last whole record: the clock may have been set back while nobody wrote.
fn last_time(file: &LogFile) -> Result<Option<Duration>, AppendError> {
    let end = file.bytes();
    let lines = file.section(end.saturating_sub(LINES), end).split(b'\n');
    let lines = lines.collect::<Result<Vec<_>, _>>().map_err(|error| failed(file.name(), error.into()))?;
    Ok(lines.iter().rev().find_map(|line| time(line)))
}

fn time(line: &[u8]) -> Option<Duration> {
    let links: Links<'_> = serde_json::from_slice(line).ok()?;
    clock::parse_rfc3339(&links.ts)
}
