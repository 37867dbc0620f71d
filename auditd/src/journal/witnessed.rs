//! The journal as the vault sees it: where all streams stand, what they say of its store, and its cosignatures.

use super::Journal;
use crate::clock::Instant;
use crate::commitments::Commitments;
use crate::cosign::CosignerKey;
use crate::file::AppendError;
use crate::note::NoteError;
use crate::record::Source;
use crate::redact;
use crate::stream::Pen;
use crate::tree::Hash;
use proto::audit::{Record, Stream};
use proto::bounded::BoundedStr;
use proto::witness::{Commitment, Cosignature, Fingerprint, Known, StoreStep, TreeHead};
use rustix::io::Errno;
use std::os::fd::AsFd as _;

fn known_size(known: &[Known], stream: Stream) -> u64 {
    known.iter().find(|known| known.stream == stream).map_or(0, |known| known.size)
}

impl Journal {
    /// Streams that have another size than the vault knows.
    #[must_use]
    pub fn grown(&self, known: &[Known]) -> Vec<Stream> {
        let heads = self.streams.iter().map(crate::stream::LogStream::head);
        heads.filter(|head| head.size != known_size(known, head.stream)).map(|head| head.stream).collect()
    }

    /// What the log says of the vault's store, read once.
    fn commitments(&mut self) -> Result<&mut Commitments, Errno> {
        if self.commitments.is_none() {
            let secret = self.streams.iter().find(|stream| stream.head().stream == Stream::Secret);
            let files = secret.map(crate::stream::LogStream::segments).unwrap_or_default();
            self.commitments = Some(Commitments::find(self.directory.as_fd(), &files)?);
        }
        self.commitments.as_mut().ok_or(Errno::NOENT)
    }

    /// Where the streams stand, all of them or those that have grown, and what they say of the store.
    ///
    /// # Errors
    /// What reading the files says.
    pub fn look(&mut self, known: &[Known], only_grown: bool) -> Result<(Commitments, Vec<TreeHead>), Errno> {
        let commitments = self.commitments()?.clone();
        let grown = self.grown(known);
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now: Instant::now() };
        let mut heads = Vec::new();
        for stream in &mut self.streams {
            let name = stream.head().stream;
            if !only_grown || grown.contains(&name) {
                heads.push(stream.tree_head(&pen, known_size(known, name))?);
            }
        }
        Ok((commitments, heads))
    }

    /// Writes down how far a change of the vault's store has come.
    ///
    /// # Errors
    /// [`AppendError`]: it is not written.
    pub fn store(&mut self, source: Source, step: StoreStep, state: Commitment) -> Result<(), AppendError> {
        self.append(Stream::Secret, &[(source, &Record::Store { step, state })])?;
        if let Some(commitments) = &mut self.commitments {
            commitments.note(step, state);
        }
        Ok(())
    }

    /// The vault says which key it cosigns with. A new one is written down; where that fails, the next time does it.
    ///
    /// # Errors
    /// [`NoteError`] where it is no key.
    pub fn meet(&mut self, cosigner: &Hash) -> Result<(), NoteError> {
        let text = CosignerKey::new(&self.ring.cosigner(), cosigner)?.to_string();
        if self.commitments().is_ok_and(|known| known.cosigner.as_ref() != Some(&text)) {
            self.write_cosigner(text);
        }
        Ok(())
    }

    fn write_cosigner(&mut self, text: String) {
        let record = Record::Cosigner { key: BoundedStr::truncated(&text) };
        if self.append(Stream::Secret, &[(Source::OWN, &record)]).is_ok()
            && let Some(commitments) = &mut self.commitments
        {
            commitments.cosigner = Some(text);
        }
    }

    /// Takes a cosignature; false where it is none. Where it cannot be written, the vault remembers all the same.
    pub fn take_cosignature(&mut self, cosigner: &Hash, cosignature: &Cosignature) -> bool {
        let Ok(key) = CosignerKey::new(&self.ring.cosigner(), cosigner) else { return false };
        let line = key.line(cosignature);
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.head().stream == cosignature.stream) else {
            return false;
        };
        if let Some(note) = stream.offered_note(cosignature.size) {
            let mut note = note.clone();
            note.push(line.clone());
            if key.check(&note) != Some(true) {
                return false;
            }
        }
        let pen = Pen { writer: &self.writer, ring: &self.ring, limits: &self.limits, now: Instant::now() };
        let _ = stream.cosigned(&pen, cosignature.size.min(stream.head().size), line);
        true
    }

    /// Knows these secrets of the vault in what is written from now on.
    pub fn know(&mut self, key: [u8; 32], secrets: Vec<Fingerprint>) {
        self.ring.redactor_mut().learn(redact::Known::new(key, secrets));
    }

    /// The vault remembers so much of a stream.
    pub fn remembered(&mut self, known: Known) {
        let stream = self.streams.iter_mut().find(|stream| stream.head().stream == known.stream);
        stream.into_iter().for_each(|stream| stream.remembered(known.size));
    }

    /// Carries what the log says of the store over into the newest file: older ones may be taken away one day. Not while a
    /// change of the store is under way.
    pub(super) fn carry(&mut self) {
        let Some(kept) = self.commitments.clone() else { return };
        let secret = self.streams.iter().find(|stream| stream.head().stream == Stream::Secret);
        let Some(first) = secret.map(crate::stream::LogStream::file_first).filter(|first| *first > kept.first) else {
            return;
        };
        if kept.intended.is_some() {
            return;
        }
        if let Some(state) = kept.committed
            && self.store(Source::OWN, StoreStep::Committed, state).is_err()
        {
            return;
        }
        if let Some(text) = kept.cosigner {
            self.write_cosigner(text);
        }
        if let Some(commitments) = &mut self.commitments {
            commitments.first = first;
        }
    }
}
