//! The store and its witness: each change is in the log before the vault answers for it, and what the vault has seen of the
//! log is in the store before the vault signs it.

use super::{State, StoreError};
use crate::audit::AuditError;
use crate::envelope::Record;
use crate::fingerprint;
use crate::rollback::{Rollback, judge};
use crate::snapshot::{self, Place, SnapshotError};
use crate::store;
use crate::witness::{View, Witness};
use proto::bounded::BoundedVec;
use proto::witness::{Commitment, StoreStep};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd as _;

/// Bytes of memory that are left while a store is written: for the store, and for what comes in meanwhile.
const SPARE: usize = snapshot::MAX + (256 << 10);

/// Why the vault does not go on from what it saw of the log.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The store or the log was put back.
    #[error(transparent)]
    Rollback(#[from] Rollback),
    /// Which store is on disk is not known: the process must end.
    #[error(transparent)]
    Store(StoreError),
}

/// What of the witness a state has beside the edge.
#[derive(Default)]
pub(super) struct Bond {
    pub(super) edge: Witness,
    /// True once store and log were found to belong together: from then on no change is made that the log is not told of.
    pub(super) holds: bool,
    /// What the fingerprints of secrets are made under that auditd is told.
    pub(super) fingerprints: Option<fingerprint::Key>,
    /// True where the log is to be told that the state in force was reached.
    pub(super) owes: bool,
}

const fn commitment(place: &Place) -> Commitment {
    Commitment { generation: place.generation, root: place.root }
}

impl State {
    /// The edge.
    pub const fn witness(&mut self) -> &mut Witness {
        &mut self.bond.edge
    }

    /// Writes everything to the store, durably, as the next generation; the log knows before and after.
    ///
    /// # Errors
    /// [`StoreError`]; after [`StoreError::Durability`] and [`StoreError::Unanswerable`] the process must end.
    pub fn persist(&mut self) -> Result<(), StoreError> {
        let next = Place {
            generation: self.place.generation.saturating_add(1),
            root: self.contents.root(),
            previous: self.place.root,
            ..self.place
        };
        let logged = self.contents.memory.logged;
        if self.bond.holds {
            self.contents.memory.logged = next.generation;
        }
        self.replace(&next).inspect_err(|_| self.contents.memory.logged = logged)?;
        self.place = next;
        self.unsaved = 0;
        if self.bond.holds {
            self.bond.edge.record(StoreStep::Committed, commitment(&next)).map_err(StoreError::Unanswerable)?;
        }
        Ok(())
    }

    /// Refuses a change that the vault's memory may not have room for: to run out of it would end the process.
    pub(super) fn spare(&self, bytes: usize) -> Result<(), StoreError> {
        let enough = confine::secret_memory::left() >= bytes.saturating_add(SPARE);
        if enough { Ok(()) } else { Err(SnapshotError::Memory.into()) }
    }

    fn replace(&mut self, next: &Place) -> Result<(), StoreError> {
        self.spare(0)?;
        let sealed = self.sealed(next)?;
        if self.bond.holds {
            self.pay().map_err(StoreError::Unrecorded)?;
            self.bond.edge.record(StoreStep::Intended, commitment(next)).map_err(StoreError::Unrecorded)?;
        }
        store::replace(self.directory.as_fd(), &sealed)
    }

    /// Tells the log of the state in force, where that is owed.
    fn pay(&mut self) -> Result<(), AuditError> {
        if self.bond.owes {
            self.bond.edge.record(StoreStep::Committed, commitment(&self.place))?;
            self.bond.owes = false;
        }
        Ok(())
    }

    /// Tells auditd which secrets it must not write. Where it does not take that, it is gone or going, and the next one is
    /// told when it is looked at.
    pub(super) fn make_secrets_known(&mut self) {
        if !self.bond.holds {
            return;
        }
        if self.bond.fingerprints.is_none() {
            self.bond.fingerprints = fingerprint::Key::draw().ok();
        }
        let Some(key) = &self.bond.fingerprints else { return };
        let print = |record: &Record| record.open(&self.contents.ring).ok().and_then(|secret| key.print(&secret));
        let prints: Vec<_> = self.contents.records.values().filter_map(print).collect();
        let key = key.expose();
        let _ = self.bond.edge.make_known(&key, &prints);
    }

    /// Finds out which values stand under two names, unless the secrets are those of which that is known: to find out opens
    /// each of them. Nothing is found where there is no randomness to compare under.
    pub fn compare_values(&mut self) {
        if self.shared.as_ref().is_some_and(|(root, _)| *root == self.place.root) {
            return;
        }
        let Ok(key) = fingerprint::Key::draw() else { return self.shared = None };
        let mut seen: BTreeMap<[u8; 16], &str> = BTreeMap::new();
        let mut shared = BTreeSet::new();
        for record in self.contents.records.values() {
            let mac = record.open(&self.contents.ring).ok().and_then(|secret| key.mac(&secret));
            if let Some(first) = mac.and_then(|mac| seen.insert(mac, record.name())) {
                shared.extend([first, record.name()].map(str::to_owned));
            }
        }
        self.shared = Some((self.place.root, shared));
    }

    /// True where another name had this one's value when that was found out last.
    #[must_use]
    pub fn is_shared(&self, name: &str) -> bool {
        self.shared.as_ref().is_some_and(|(_, names)| names.contains(name))
    }

    /// Asks where all of the log stands. The answer is [`State::take_view`]'s.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn look(&mut self) -> Result<(), AuditError> {
        self.bond.holds = false;
        // Where there is no randomness there is no key, and then nothing is asked.
        let _ = self.contents.memory.make_key();
        self.bond.edge.ask(&self.contents.memory, BoundedVec::default(), false)
    }

    /// Goes on from what auditd showed: compares, remembers, cosigns, and asks for what comes next.
    ///
    /// # Errors
    /// [`ViewError`].
    pub fn take_view(&mut self, view: &View, now: u64) -> Result<(), ViewError> {
        if view.whole {
            self.contents.memory.check_clock(now)?;
            self.contents.memory.check_all(&view.heads)?;
            self.bond.owes = judge(&self.place, self.contents.memory.logged, view.committed, view.intended)?;
            self.bond.holds = true;
        } else {
            view.heads.iter().try_for_each(|head| self.contents.memory.check(head))?;
        }
        if view.whole {
            self.make_secrets_known();
        }
        let remembered = self.remember(view).map_err(ViewError::Store)?;
        // Where it fails it is owed still, and paid before the next change.
        let _ = self.pay();
        self.go_on(view, remembered, now);
        Ok(())
    }

    /// Remembers the heads in the store, without a new generation: the log is not told, for that would make it grow. False
    /// where the disk does not take it.
    fn remember(&mut self, view: &View) -> Result<bool, StoreError> {
        if !self.contents.memory.is_new(&view.heads) {
            return Ok(true);
        }
        let before = self.contents.memory.clone();
        self.contents.memory.remember(&view.heads);
        let place = self.place;
        let sealed = self.sealed(&place).map_err(StoreError::from);
        match sealed.and_then(|sealed| store::replace(self.directory.as_fd(), &sealed)) {
            Ok(()) => Ok(true),
            Err(StoreError::Unwritable(_) | StoreError::Snapshot(SnapshotError::Memory | SnapshotError::Full(_))) => {
                self.contents.memory = before;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Signs what is remembered and asks for what comes next. Where auditd is gone, another will be looked at.
    fn go_on(&mut self, view: &View, remembered: bool, now: u64) {
        let memory = &mut self.contents.memory;
        let cosigned = if remembered { memory.cosign(&view.heads, now) } else { BoundedVec::default() };
        let _ = self.bond.edge.ask(memory, cosigned, true);
    }

    /// Goes on with a store or a log that was put back: remembers this log and no other, as a generation above all that the
    /// log speaks of. Returns it.
    ///
    /// # Errors
    /// [`StoreError`]: then everything is as it was.
    pub fn accept(&mut self, view: &View, now: u64) -> Result<u64, StoreError> {
        let (memory, place) = (self.contents.memory.clone(), self.place);
        self.contents.memory.begin_again(&view.heads);
        let spoken = view.committed.iter().chain(&view.intended).map(|state| state.generation).max().unwrap_or(0);
        self.place.generation = self.place.generation.max(spoken);
        (self.bond.holds, self.bond.owes) = (true, false);
        if let Err(error) = self.persist() {
            (self.contents.memory, self.place, self.bond.holds) = (memory, place, false);
            return Err(error);
        }
        self.go_on(view, true, now);
        Ok(self.place.generation)
    }
}
