//! Were the store or the log put back? A pure decision over what each remembers of the other.
//!
//! The log is told of a change of the store before it is made and when it is durable, and the vault answers after that. So
//! the store that the log speaks of last is the one that must be here, or the one before it where a crash came between. The
//! vault in turn cosigns the log, so the log that it remembers must be the beginning of the one that is here. Where both
//! were put back to the same moment, keys and all, nothing here can tell: that takes a witness on another machine.

use crate::snapshot::Place;
use proto::audit::Stream;
use proto::witness::Commitment;

/// What was put back, or changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rollback {
    /// The log speaks of a later store.
    #[error(
        "vault.db is of generation {found} and the log says that {committed} was reached: an older store was put back"
    )]
    Store {
        /// Of the store that is here.
        found: u64,
        /// The last one that was answered for.
        committed: u64,
    },
    /// The log speaks of another store of this generation.
    #[error("vault.db is not the store of generation {0} that the log speaks of: one from elsewhere was put here")]
    Fork(u64),
    /// The store has seen a later log.
    #[error(
        "vault.db is of generation {found} and the log knows of {committed}: the log was cut, or an older one put back"
    )]
    Log {
        /// Of the store that is here.
        found: u64,
        /// The last one that the log speaks of; 0 where it speaks of none.
        committed: u64,
    },
    /// A stream is shorter than it was.
    #[error("{} has {found} records and {cosigned} were cosigned: it was cut, or an older one put back", .stream.name())]
    Cut {
        /// Which.
        stream: Stream,
        /// Records that are there.
        found: u64,
        /// Records that the vault has seen.
        cosigned: u64,
    },
    /// A stream does not continue what was cosigned.
    #[error("{} does not continue the {cosigned} records that were cosigned: they were written anew", .stream.name())]
    Rewritten {
        /// Which.
        stream: Stream,
        /// Records that the vault has seen.
        cosigned: u64,
    },
    /// The clock is behind what was signed.
    #[error(
        "the machine's clock is {0} seconds behind the time at which this vault last signed the log: it was set back"
    )]
    Clock(u64),
    /// A stream is another installation's.
    #[error("{} is not the log that was cosigned: it has another name", .0.name())]
    Foreign(Stream),
}

/// Compares the store with what the log says of it. `logged` is the last generation up to this one that the log was told
/// of. True where the log is to be told that this one was reached.
///
/// # Errors
/// [`Rollback`].
pub fn judge(
    place: &Place,
    logged: u64,
    committed: Option<Commitment>,
    intended: Option<Commitment>,
) -> Result<bool, Rollback> {
    let here = Commitment { generation: place.generation, root: place.root };
    let reached = committed.map_or(0, |state| state.generation);
    if here.generation < reached {
        return Err(Rollback::Store { found: here.generation, committed: reached });
    }
    if here.generation == reached && committed != Some(here) && reached > 0 {
        return Err(Rollback::Fork(reached));
    }
    if here.generation == reached {
        return Ok(false);
    }
    // Changed at a start, before there was a log to tell; or a crash came between the change and the word of it.
    if logged == reached || intended == Some(here) {
        return Ok(true);
    }
    match intended {
        Some(intended) if intended.generation == here.generation => Err(Rollback::Fork(here.generation)),
        _ => Err(Rollback::Log { found: here.generation, committed: reached }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn state(generation: u64, root: u8) -> Commitment {
        Commitment { generation, root: [root; 32] }
    }

    const fn place(generation: u64, root: u8) -> Place {
        Place { vault: [1; 16], generation, root: [root; 32], previous: [0; 32] }
    }

    #[test]
    fn store_that_the_log_speaks_of_is_the_one() {
        assert_eq!(judge(&place(7, 7), 7, Some(state(7, 7)), None), Ok(false));
        // The change was announced and not made.
        assert_eq!(judge(&place(7, 7), 7, Some(state(7, 7)), Some(state(8, 8))), Ok(false));
    }

    #[test]
    fn crash_between_a_change_and_the_word_of_it_is_mended() {
        assert_eq!(judge(&place(8, 8), 8, Some(state(7, 7)), Some(state(8, 8))), Ok(true));
        // The first start, and renewals at starts that never came to a log.
        assert_eq!(judge(&place(1, 1), 0, None, None), Ok(true));
        assert_eq!(judge(&place(9, 9), 7, Some(state(7, 7)), None), Ok(true));
        assert_eq!(judge(&place(9, 9), 7, Some(state(9, 9)), None), Ok(false));
    }

    #[test]
    fn older_store_is_refused_however_much_older() {
        for found in 1..7 {
            let refused = judge(&place(found, 1), found, Some(state(7, 7)), None);
            assert_eq!(refused, Err(Rollback::Store { found, committed: 7 }));
        }
    }

    #[test]
    fn store_from_elsewhere_is_refused_at_the_same_generation() {
        assert_eq!(judge(&place(7, 6), 7, Some(state(7, 7)), None), Err(Rollback::Fork(7)));
        assert_eq!(judge(&place(8, 6), 8, Some(state(7, 7)), Some(state(8, 8))), Err(Rollback::Fork(8)));
    }

    #[test]
    fn log_that_does_not_know_the_store_is_refused() {
        let refused = |committed, intended| judge(&place(9, 9), 9, committed, intended);
        assert_eq!(refused(Some(state(7, 7)), None), Err(Rollback::Log { found: 9, committed: 7 }));
        assert_eq!(refused(None, None), Err(Rollback::Log { found: 9, committed: 0 }));
        assert_eq!(refused(Some(state(8, 8)), None), Err(Rollback::Log { found: 9, committed: 8 }));
    }
}
