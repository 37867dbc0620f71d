//! Decisions of auditd, without a clock and without a file: who may write what, and when a stream may be appended to.

use proto::audit::{Record, Stream};
use proto::control::LogFiles;
use proto::ids::Role;
use std::time::Duration;

/// A peer wrote what its edge does not let it write.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{role} may not write a record of type {kind}")]
pub struct NotYours {
    /// Who, by the edge.
    pub role: Role,
    /// The record's type.
    pub kind: &'static str,
}

/// The stream that a record of `role` goes to.
///
/// # Errors
/// [`NotYours`]: a violation of the protocol.
pub const fn admit(role: Role, record: &Record) -> Result<Stream, NotYours> {
    if record.may_be_written_by(role) {
        Ok(record.stream())
    } else {
        Err(NotYours { role, kind: crate::record::kind(record) })
    }
}

/// When a stream does what it does on its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes from which on a file is closed.
    pub file_bytes: u64,
    /// Age at which a file is closed.
    pub file_age: Duration,
    /// Age at which a key is replaced, if it signed anything.
    pub epoch_age: Duration,
    /// Records without a checkpoint at most.
    pub checkpoint_every: u64,
    /// Time without one at most, while there are records that none covers.
    pub note_interval: Duration,
}

impl Limits {
    /// The usual ones, with files of this size and age.
    #[must_use]
    pub fn of(files: LogFiles) -> Self {
        Self {
            file_bytes: files.bytes,
            file_age: Duration::from_secs(86_400).saturating_mul(files.days),
            epoch_age: Duration::from_secs(3_600),
            checkpoint_every: 1_024,
            note_interval: Duration::from_secs(1),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(LogFiles::default())
    }
}

/// Whether what a stream's file holds is known.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Health {
    /// The file ends where memory says.
    #[default]
    Sound,
    /// The file was found with a torn end; nothing was asked for since.
    Unclean,
    /// A write or its fdatasync failed. Nothing may be acknowledged until the end of the file was read again and a
    /// record of our own is durable behind it.
    Doubtful {
        /// What failed, as `write: No space left on device`.
        cause: String,
        /// Records refused since.
        refused: u64,
    },
}

impl Health {
    /// After a batch of `records` failed with `cause`. The first cause is kept: later ones are mostly its echo.
    #[must_use]
    pub fn failed(self, cause: &str, records: u64) -> Self {
        match self {
            Self::Sound | Self::Unclean => Self::Doubtful { cause: cause.to_owned(), refused: records },
            Self::Doubtful { cause, refused } => Self::Doubtful { cause, refused: refused.saturating_add(records) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{auth, intent};
    use proto::audit::{CommandRecord, RequestStep, RunEnd, Severity};
    use proto::bounded::BoundedStr;
    use proto::ids::{Epoch, RunId, SessionKey};
    use proto::watch::{Class, WatchRecord};
    use proto::witness::{Commitment, StoreStep};

    #[test]
    fn record_of_another_role_is_refused_and_ones_own_is_admitted() {
        assert_eq!(admit(Role::Vault, &auth("::1", true)), Ok(Stream::Auth));
        assert!(admit(Role::Sandboxd, &auth("::1", true)).is_err());
        assert_eq!(admit(Role::Sandboxd, &intent("true")), Ok(Stream::Command));
        assert!(admit(Role::Broker, &intent("true")).is_err());
        assert!(admit(Role::Gateway, &intent("true")).is_err());
    }

    /// One record of every type, with the role that may write it; none where it comes of another edge.
    fn of_every_type() -> Vec<(Record, Option<Role>)> {
        fn text<const N: usize>(text: &str) -> BoundedStr<N> {
            BoundedStr::truncated(text)
        }
        let session = || SessionKey(text("s"));
        let role = Record::Role { role: Role::Vault, epoch: Epoch(1), event: text("died"), detail: text("") };
        let (verb, requester) = (text("lease"), text("egress"));
        let secret = Record::Secret { name: text("n"), verb, requester, granted: true, detail: text("") };
        let (verb, requester) = (text("allowlist.add"), text("operator"));
        let (channel, sender) = (text("telegram"), text("7"));
        let sender = Record::Sender { channel, sender, verb, requester, granted: true, detail: text("") };
        let outcome =
            CommandRecord::Outcome { run: RunId(text("r")), session: session(), end: RunEnd::Lost, duration_ms: 1 };
        let refused = CommandRecord::Refused { session: session(), command: text("c"), rule: text("r") };
        let (container, class, detail) = (text("c"), Class::S1, text(""));
        let signal = WatchRecord::Signal { session: session(), container, signal: text("D2"), class, detail };
        let (container, part, sha256) = (text("c"), text("processes"), [0; 32]);
        let evidence = WatchRecord::Evidence { session: session(), container, part, sha256, length: 0, text: text("") };
        let (credential, to, what) = (text("model.key"), text("api.example.org:443"), text("GET /"));
        let step = RequestStep::Begun;
        let request = Record::Request { id: text("q-1"), session: session(), credential, to, what, step };
        let state = Commitment { generation: 1, root: [0; 32] };
        let store = |step| Record::Store { step, state };
        let (incident, step, outcome_text) = (text("i-1"), text("freeze-intake"), text("done"));
        let severity = Severity::Lockdown;
        let incident =
            Record::Incident { incident, severity, step, outcome: outcome_text, took_ms: 1, detail: text("") };
        vec![
            (auth("::1", true), Some(Role::Vault)),
            (secret, Some(Role::Vault)),
            (sender, Some(Role::Vault)),
            (intent("true"), Some(Role::Sandboxd)),
            (Record::Command(outcome), Some(Role::Sandboxd)),
            (Record::Command(refused), Some(Role::Sandboxd)),
            (Record::Watch(signal), Some(Role::Sandboxd)),
            (Record::Watch(evidence), Some(Role::Sandboxd)),
            (request, Some(Role::Egress)),
            (role, Some(Role::Broker)),
            (Record::Operator { uid: 0, pid: 1, verb: text("down"), detail: text("") }, Some(Role::Broker)),
            (incident, Some(Role::Broker)),
            (Record::Lifecycle { event: text("started"), layout: text("single-uid") }, Some(Role::Broker)),
            (store(StoreStep::Intended), None),
            (store(StoreStep::Committed), None),
            (Record::Cosigner { key: text("k") }, None),
        ]
    }

    #[test]
    fn every_role_writes_its_own_types_and_no_other_roles() {
        let types = of_every_type();
        let kinds: std::collections::BTreeSet<_> =
            types.iter().map(|(record, _)| crate::record::kind(record)).collect();
        assert_eq!(kinds.len(), types.len(), "each type once");
        for (record, owner) in &types {
            for role in Role::ALL {
                assert_eq!(admit(role, record).is_ok(), Some(role) == *owner, "{role} {record:?}");
            }
        }
    }

    #[test]
    fn doubt_keeps_its_first_cause_and_counts_what_it_cost() {
        let health = Health::Sound.failed("write: a", 3).failed("write: b", 2);
        assert_eq!(health, Health::Doubtful { cause: "write: a".into(), refused: 5 });
    }
}
