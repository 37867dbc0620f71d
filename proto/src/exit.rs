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
    /// A key, a store or a log is not what it was. Permanent: a person must look.
    Integrity = 79,
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
        code == Self::Config as i32 || code == Self::Integrity as i32
    }
}
