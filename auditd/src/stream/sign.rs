//! What a stream writes about itself: its keys, its checkpoints, and where its files end and begin.

use super::{Closed, Draft, LogStream, Pen};
use crate::chain::Head;
use crate::clock::Instant;
use crate::file::{AppendError, LogFile, unwritable};
use crate::notes::NotesFile;
use crate::segment::Segment;
use crate::state::{Health, Limits};
use rustix::io::Errno;
use std::os::fd::AsFd;

impl LogStream {
    /// Pushes a checkpoint of everything before it; behind an announcement, the one that the old key vouches with and
    /// the first of the new one.
    pub(super) fn checkpoint(&self, pen: &Pen<'_>, draft: &mut Draft) -> Result<(), AppendError> {
        loop {
            let epoch = draft.at.key.as_ref().map_or(0, |key| key.epoch);
            let note = pen
                .ring
                .sign(self.stream, epoch, draft.at.head.size, draft.at.tree.root())
                .map_err(|_| self.key("auditd does not hold its signing key"))?
                .to_string();
            let head = draft.at.head;
            let line = pen.writer.checkpoint(self.stream, head, &draft.at.tree, epoch, &note, pen.now);
            draft.recorded = head.size;
            draft.at.signed = head.size;
            draft.push(&line);
            match draft.at.next.take() {
                Some(next) => draft.at.key = Some(next),
                None => return Ok(()),
            }
        }
    }

    fn key(&self, what: &'static str) -> AppendError {
        AppendError::Key { file: self.file.name().to_owned(), what }
    }

    /// Brings in the first key.
    pub(super) fn begin(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        let first = pen.ring.public(self.stream, pen.ring.epoch()).ok_or_else(|| self.key("has no key"))?;
        if first.epoch != 0 {
            return Err(self.key("is missing or empty, though the log is older than that"));
        }
        let mut draft = self.draft();
        draft.push(&pen.writer.epoch(self.stream, draft.at.head, 0, &first.key, pen.now));
        (draft.at.first, draft.at.key) = (Some(first.clone()), Some(first));
        self.checkpoint(pen, &mut draft)?;
        self.commit(draft)?;
        self.begun = Some(pen.now.wall);
        Ok(())
    }

    /// Announces the next key, under the signature of the one in force.
    ///
    /// # Errors
    /// [`AppendError`]; another attempt may follow.
    pub fn announce(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        self.make_ready(pen)?;
        let mut draft = self.draft();
        let now = draft.at.key.as_ref().map(|key| key.epoch);
        if draft.at.next.is_none() {
            let Some(next) = pen.ring.next().filter(|next| now.is_none_or(|now| now < *next)) else { return Ok(()) };
            let key = pen.ring.public(self.stream, next).ok_or_else(|| self.key("has no next key"))?;
            draft.push(&pen.writer.epoch(self.stream, draft.at.head, key.epoch, &key.key, pen.now));
            draft.at.next = Some(key);
        }
        self.checkpoint(pen, &mut draft)?;
        self.commit(draft)
    }

    pub(super) fn is_due(&self, pen: &Pen<'_>) -> bool {
        let old = self.begun.is_some_and(|begun| pen.now.wall.saturating_sub(begun) >= pen.limits.file_age);
        self.file.bytes() >= pen.limits.file_bytes || old && self.at.head.size > self.recorded.saturating_add(1)
    }

    /// Writes a file's last record.
    fn close_file(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        self.account(pen)?;
        let mut draft = self.draft();
        // A key whose announcement a crash cut short comes in before: the next file says with which key it begins, and no
        // more than that.
        if draft.at.next.is_some() {
            self.checkpoint(pen, &mut draft)?;
        }
        let next = Segment::new(self.stream, draft.at.head.size.saturating_add(1));
        draft.push(&pen.writer.rotate(self.stream, draft.at.head, &next.log(), pen.now));
        draft.at.closed = true;
        self.commit(draft)?;
        // Where it fails, the first record of the next file covers it all the same.
        let _ = self.sign_beside(pen).and_then(|()| self.notes.sync());
        // Before the file may be pruned, the tiles must hold.
        let _ = self.tiles.sync();
        Ok(())
    }

    /// Closes the file and opens the next.
    pub(super) fn rotate(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        if !self.at.closed {
            self.close_file(pen)?;
        }
        if !self.fresh {
            let next = Segment::new(self.stream, self.at.head.size);
            let directory = self.directory.as_fd();
            let notes = match self.next_notes.take() {
                Some(notes) => notes,
                None => NotesFile::open(directory, &next.checkpoints(), true)?,
            };
            let file = match LogFile::open(directory, next.log(), true, self.limit) {
                Ok(file) => file,
                Err(error) => {
                    // Behind the wall a file that is there cannot be opened again.
                    self.next_notes = Some(notes);
                    return Err(error);
                }
            };
            let old = std::mem::replace(&mut self.file, file);
            self.closed.push(Closed { name: old.name().to_owned(), bytes: old.bytes() });
            self.notes = notes;
            // What is cosigned from here on belongs beside the new file.
            (self.noted, self.offered) = (None, None);
            self.fresh = true;
        }
        let key = self.at.key.clone().ok_or_else(|| self.key("has no key"))?;
        let mut draft = self.draft();
        let head = draft.at.head;
        let note = pen.ring.sign(self.stream, key.epoch, head.size, draft.at.tree.root());
        let note = note.map_err(|_| self.key("auditd does not hold its signing key"))?.to_string();
        let tree = draft.at.tree.clone();
        draft.push(&pen.writer.open(self.stream, head, &tree, (key.epoch, &key.key), &note, pen.now));
        draft.at.closed = false;
        draft.recorded = head.size;
        self.commit(draft)?;
        // Its name is as durable as what stands under it.
        rustix::fs::fsync(self.directory.as_fd()).map_err(unwritable("fsync"))?;
        self.fresh = false;
        self.begun = Some(pen.now.wall);
        Ok(())
    }

    /// Nanoseconds until a checkpoint is due; none where everything is signed.
    #[must_use]
    pub fn note_due_in(&self, limits: &Limits, now: Instant) -> Option<u64> {
        let unsigned = self.at.head.size.saturating_sub(self.at.signed);
        if unsigned == 0 || self.at.key.is_none() || self.health != Health::Sound {
            return None;
        }
        if unsigned >= limits.checkpoint_every {
            return Some(0);
        }
        let due = self.noted_ns.saturating_add(u64::try_from(limits.note_interval.as_nanos()).unwrap_or(u64::MAX));
        Some(due.saturating_sub(now.monotonic_ns))
    }

    /// Writes a checkpoint beside the file, without waiting for the disk.
    ///
    /// # Errors
    /// [`AppendError`]; the records that it would cover are in the log all the same.
    pub fn note(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        // Nothing is signed before its end was looked at.
        if self.health == Health::Sound { self.write_note(pen) } else { Ok(()) }
    }

    fn write_note(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        self.noted_ns = pen.now.monotonic_ns;
        self.account(pen)?;
        self.sign_beside(pen)
    }

    /// Appends the note. Nothing may be torn before it.
    fn sign_beside(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        let Some(epoch) = self.at.key.as_ref().map(|key| key.epoch) else { return Ok(()) };
        let Head { size, .. } = self.at.head;
        let note = pen.ring.sign(self.stream, epoch, size, self.at.tree.root());
        let note = note.map_err(|_| self.key("auditd does not hold its signing key"))?;
        self.notes.append(&note)?;
        self.at.signed = size;
        self.tiles.flush();
        self.noted = Some((size, note));
        Ok(())
    }

    /// Writes down what is torn in the file of checkpoints, before another one is appended to it.
    pub(super) fn account(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        let torn = self.notes.torn().map_err(|error| AppendError::Unwritable {
            step: "pread",
            errno: error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error),
        })?;
        if let Some((offset, fragment)) = torn {
            // What the log says of it holds only of bytes that no power cut takes back: the next checkpoint would stand in their
            // place, and may begin as they did.
            self.notes.sync()?;
            let mut draft = self.draft();
            draft.push(&pen.writer.torn_note(self.stream, draft.at.head, offset, &fragment, pen.now));
            self.commit(draft)?;
            self.notes.accounted(&fragment);
        }
        Ok(())
    }

    /// The last checkpoint before the process ends, durable.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn close(&mut self, pen: &Pen<'_>) -> Result<(), AppendError> {
        if self.at.head.size > self.at.signed && self.health == Health::Sound {
            self.note(pen)?;
        }
        self.tiles.flush();
        self.tiles.sync()?;
        self.notes.sync()
    }
}
