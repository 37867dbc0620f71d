//! What an exit status means. Broker decides on restarts by this table, so a role never ends with a bare number.

/// Exit status of a role (sysexits where one fits).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// Asked to stop, and stopped.
    Ok = 0,
    /// A bug, or a fault of the system that has no better name. Restarted.
    Internal = 70,
    /// Broker's control channel closed: the set is going down. Not restarted.
    BrokerGone = 71,
    /// A resource was missing for now (memory, descriptors). Restarted.
    Resource = 75,
    /// A peer broke the protocol; the role ended its edge and then itself. Incident path.
    Violation = 76,
    /// The configuration or a confinement step is wrong: starting again would not help. Permanent.
    Config = 78,
    /// A log is not what it was. Permanent, as all that follow: a person must look.
    Integrity = 79,
    /// The master key is gone, and there is a store that needs it.
    KeyLost = 80,
    /// What is in the master key's place is no key.
    KeyForm = 81,
    /// Others may read the master key, or may have put it there.
    KeyExposed = 82,
    /// Key and store are not of one vault.
    KeyForeign = 83,
    /// The store is gone, and there is a key that sealed it.
    StoreLost = 84,
    /// The store was cut, or added to.
    StoreCut = 85,
    /// What is in the store's place is no store.
    StoreForm = 86,
    /// The store is not what was written.
    StoreAltered = 87,
}

/// Ends of a role after which a person must look: with the status, what it is about, and what to do. Broker ends with the
/// same status, and so does `moltbot up`.
pub const PERMANENT: [(Exit, &str, &str); 10] = [
    (Exit::Config, "the configuration, or a wall that cannot be raised", "`moltbot doctor`"),
    (Exit::Integrity, "a log is not what was written", "`moltbot logs verify`"),
    (Exit::KeyLost, "keys/secrets.key is not there, and vault/vault.db needs it", "put it back from its backup"),
    (Exit::KeyForm, "keys/secrets.key is no key: too short, too long, no file", "put it back from its backup"),
    (Exit::KeyExposed, "keys/secrets.key has another mode than 0400, or another owner", "see who read it; chmod 0400"),
    (Exit::KeyForeign, "keys/secrets.key and vault/vault.db are not of one vault", "put both back from one backup"),
    (Exit::StoreLost, "vault/vault.db is not there, and keys/secrets.key is", "put it back from its backup"),
    (Exit::StoreCut, "vault/vault.db was cut, or added to", "put it back from its backup"),
    (Exit::StoreForm, "vault/vault.db is no store of this version", "put it back from its backup"),
    (Exit::StoreAltered, "vault/vault.db is not what was written", "put it back from its backup"),
];

/// Refusals that end `moltbot` with a status of their own: the rule, the status, and what it is about. Every other refusal is 1.
pub const REFUSALS: [(&str, u8, &str); 7] = [
    ("vault.name", 10, "a secret's name that is none, or over 64 bytes"),
    ("vault.value", 11, "a secret's value of more than 1024 bytes"),
    ("vault.empty", 12, "a secret's value of no bytes"),
    ("vault.policy", 13, "a policy with a field that there is not, or that does not read"),
    ("vault.clock", 14, "the machine's clock is behind what the vault signed"),
    ("vault.rolled_back", 15, "the store or the log was put back"),
    ("operator.stranger", 16, "you are no operator of this set"),
];

/// The status of `moltbot` where this rule refused.
#[must_use]
pub fn of_refusal(rule: &str) -> u8 {
    REFUSALS.iter().find(|(known, ..)| *known == rule).map_or(1, |(_, status, _)| *status)
}

impl Exit {
    /// The status as the kernel wants it.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// True where broker must not start the role again by itself.
    #[must_use]
    pub const fn is_permanent(code: i32) -> bool {
        code >= Self::Config as i32 && code <= Self::StoreAltered as i32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const UNIT: &str = include_str!("../../deploy/systemd/moltbot.service");
    const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

    #[test]
    fn table_holds_what_is_permanent_and_nothing_else() {
        let codes: Vec<i32> = (0..256).filter(|code| Exit::is_permanent(*code)).collect();
        assert_eq!(codes, PERMANENT.map(|(exit, ..)| exit.code()));
        for exit in [Exit::Ok, Exit::Internal, Exit::BrokerGone, Exit::Resource, Exit::Violation] {
            assert!(!Exit::is_permanent(exit.code()));
        }
    }

    #[test]
    fn statuses_of_refusals_are_told_from_each_other_and_from_all_others() {
        let statuses: BTreeSet<u8> = REFUSALS.iter().map(|(_, status, _)| *status).collect();
        assert_eq!(statuses.len(), REFUSALS.len());
        assert!(statuses.iter().all(|status| (5..64).contains(status)));
        assert_eq!((of_refusal("vault.policy"), of_refusal("vault.exists")), (13, 1));
    }

    #[test]
    fn service_manager_does_not_try_again_what_is_permanent() {
        let line = UNIT.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
        let listed: Vec<i32> = line.split(' ').map(|code| code.parse().unwrap()).collect();
        assert_eq!(listed, PERMANENT.map(|(exit, ..)| exit.code()));
    }

    #[test]
    fn operations_lists_every_status() {
        for (exit, about, then) in PERMANENT {
            let row = format!("| {} | {about} | {then} |", exit.code());
            assert!(OPERATIONS.contains(&row), "{row}");
        }
        for (rule, status, about) in REFUSALS {
            let row = format!("| {status} | `{rule}` | {about} |");
            assert!(OPERATIONS.contains(&row), "{row}");
        }
    }
}
