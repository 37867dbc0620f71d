//! Who may try a token, decided purely: `(table, address, now) -> ...`, no clock and no file.
//!
//! Addresses come from gateway and may be lies; a fallen gateway can lock anybody out and get around a lockout of its
//! own clients, but it cannot make the table grow. Five failures within five minutes of the first lock an address for
//! five minutes from the fifth; 500 of all addresses lock all. Time is the wall clock in seconds, because a lockout outlives a restart of the machine;
//! where the clock was set back, what lies in the future is taken to have happened now.

use crate::codec::{Reader, Writer};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

/// Failures that lock.
pub const FAILURES: u8 = 5;
/// Seconds from the first failure in which they must fall.
pub const WINDOW: u64 = 300;
/// Seconds that a lock holds.
pub const LOCK: u64 = 300;
/// Failures of all addresses together, in their windows, that let nobody try any more: a guesser with a thousand addresses
/// is one guesser. Logins from the operator's socket need no token and go on.
pub const CEILING: usize = 500;
/// Addresses remembered at most.
pub const CAPACITY: usize = 4096;

/// An address as far as it is one party: an IPv4 address, or an IPv6 network of 64 bits, which one subscriber has whole.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Party {
    /// An IPv4 address, also where it came mapped into IPv6.
    V4(u32),
    /// The upper half of an IPv6 address.
    V6(u64),
}

impl Party {
    /// Of an address as text, with or without a zone.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let address = text.split_once('%').map_or(text, |(address, _zone)| address);
        Some(match address.parse::<IpAddr>().ok()? {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::of_v6(v6),
        })
    }

    fn of_v6(v6: Ipv6Addr) -> Self {
        match v6.to_ipv4_mapped() {
            Some(v4) => Self::V4(v4.to_bits()),
            None => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

/// What is remembered of one party.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// When the first failure of its window was, in seconds since 1970.
    pub first: u64,
    /// Failures in the window.
    pub failures: u8,
    /// When its lock ends; 0 where it is not locked.
    pub until: u64,
}

impl Entry {
    const fn locked(&self, now: u64) -> bool {
        self.until > now
    }

    const fn over(&self, now: u64) -> bool {
        if self.until > 0 { self.until <= now } else { now.saturating_sub(self.first) >= WINDOW }
    }

    /// The clock was set back: nothing lies further ahead than if it had begun now.
    fn settle(&mut self, now: u64) {
        self.first = self.first.min(now);
        if self.until > 0 {
            self.until = self.until.min(now.saturating_add(LOCK));
        }
    }
}

/// What is remembered of all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Table {
    entries: BTreeMap<Party, Entry>,
}

impl Table {
    /// A table of these; more than [`CAPACITY`] are cut.
    #[cfg(test)]
    pub(crate) fn restore(entries: impl IntoIterator<Item = (Party, Entry)>) -> Self {
        Self { entries: entries.into_iter().take(CAPACITY).collect() }
    }

    /// Appends what there is to store.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.entries.len());
        for (party, entry) in &self.entries {
            match party {
                Party::V4(address) => into.byte(4).number(u64::from(*address)),
                Party::V6(network) => into.byte(6).number(*network),
            };
            into.number(entry.first).byte(entry.failures).number(entry.until);
        }
    }

    /// Reads a table as it was stored.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut entries = BTreeMap::new();
        for _ in 0..from.count(CAPACITY)? {
            let (kind, network) = (from.byte()?, from.number()?);
            let party = match kind {
                4 => Party::V4(u32::try_from(network).ok()?),
                6 => Party::V6(network),
                _ => return None,
            };
            entries.insert(party, Entry { first: from.number()?, failures: from.byte()?, until: from.number()? });
        }
        Some(Self { entries })
    }

    /// Seconds until `party` may try, if it may not now. Where the table is full of locked ones, a new party waits for the
    /// first of them: a flood from everywhere must not buy unlimited tries.
    pub fn locked(&mut self, party: Party, now: u64) -> Option<u64> {
        if let Some(entry) = self.entries.get_mut(&party) {
            entry.settle(now);
            if entry.locked(now) {
                return Some(entry.until.saturating_sub(now));
            }
        }
        if let Some(seconds) = self.over_ceiling(now) {
            return Some(seconds);
        }
        if self.entries.contains_key(&party) || self.entries.len() < CAPACITY {
            return None;
        }
        for entry in self.entries.values_mut() {
            entry.settle(now);
        }
        let first = self.entries.values().map(|entry| if entry.locked(now) { entry.until } else { 0 }).min();
        first.filter(|until| *until > now).map(|until| until.saturating_sub(now))
    }

    /// Seconds until one of the failures that are too many is forgotten.
    fn over_ceiling(&mut self, now: u64) -> Option<u64> {
        if self.entries.len() < CEILING.div_ceil(usize::from(FAILURES)) {
            return None;
        }
        let (mut failures, mut first) = (0usize, u64::MAX);
        for entry in self.entries.values_mut() {
            entry.settle(now);
            if !entry.over(now) {
                failures = failures.saturating_add(entry.failures.into());
                first = first.min(entry.until.max(entry.first.saturating_add(WINDOW)));
            }
        }
        (failures >= CEILING).then(|| first.saturating_sub(now).max(1))
    }

    /// Counts a failure of `party`, which is not locked. Returns the seconds it is locked for now, 0 where it is not.
    pub fn failed(&mut self, party: Party, now: u64) -> u64 {
        if !self.entries.contains_key(&party) {
            self.make_room(now);
        }
        let fresh = Entry { first: now, failures: 0, until: 0 };
        let entry = self.entries.entry(party).or_insert(fresh);
        entry.settle(now);
        if entry.over(now) {
            *entry = fresh;
        }
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures >= FAILURES {
            entry.until = now.saturating_add(LOCK);
        }
        entry.until.saturating_sub(now)
    }

    /// Forgets `party`. True where there was something to forget.
    pub fn succeeded(&mut self, party: Party) -> bool {
        self.entries.remove(&party).is_some()
    }

    /// Forgets everybody. Returns how many there were.
    pub fn clear(&mut self) -> usize {
        std::mem::take(&mut self.entries).len()
    }

    fn make_room(&mut self, now: u64) {
        if self.entries.len() < CAPACITY {
            return;
        }
        self.entries.retain(|_, entry| !entry.over(now));
        if self.entries.len() >= CAPACITY {
            let unlocked = self.entries.iter().filter(|(_, entry)| !entry.locked(now));
            // `locked` keeps new parties out while there is none to drop.
            if let Some(oldest) = unlocked.min_by_key(|(_, entry)| entry.first).map(|(party, _)| *party) {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Party = Party::V4(1);
    const NOW: u64 = 1_795_431_600;

    #[test]
    fn four_failures_and_a_success_start_over() {
        let mut table = Table::default();
        for _ in 0..2 {
            for _ in 0..4 {
                assert_eq!((table.locked(A, NOW), table.failed(A, NOW)), (None, 0));
            }
            assert!(table.succeeded(A));
        }
        assert!(!table.succeeded(A));
        assert_eq!(table, Table::default());
    }

    #[test]
    fn fifth_failure_locks_for_300_seconds_and_no_longer() {
        let mut table = Table::default();
        for at in 0..4 {
            assert_eq!(table.failed(A, NOW + at), 0);
        }
        assert_eq!(table.failed(A, NOW + 299), 300);
        assert_eq!(table.locked(A, NOW + 299), Some(300));
        assert_eq!(table.locked(A, NOW + 598), Some(1));
        assert_eq!(table.locked(A, NOW + 599), None);
        assert_eq!(table.locked(Party::V4(2), NOW + 299), None);
        assert_eq!(table.failed(A, NOW + 599), 0);
        assert_eq!(table.entries[&A].failures, 1);
    }

    #[test]
    fn failures_outside_the_window_of_the_first_do_not_count() {
        let mut table = Table::default();
        for _ in 0..4 {
            table.failed(A, NOW);
        }
        assert_eq!(table.failed(A, NOW + 300), 0);
        assert_eq!(table.entries[&A], Entry { first: NOW + 300, failures: 1, until: 0 });
    }

    #[test]
    fn clock_that_went_back_locks_for_300_seconds_from_then_at_most() {
        let mut table = Table::default();
        for _ in 0..5 {
            table.failed(A, NOW);
        }
        assert_eq!(table.locked(A, NOW - 86_400), Some(300));
        assert_eq!(table.locked(A, NOW - 86_400 + 299), Some(1));
        assert_eq!(table.locked(A, NOW - 86_400 + 300), None);
    }

    #[test]
    fn ipv6_counts_by_64_bits_and_mapped_ipv4_as_ipv4() {
        let party = |text| Party::parse(text).unwrap();
        assert_eq!(party("2001:db8:1:2::1"), party("2001:db8:1:2:ffff::9"));
        assert_ne!(party("2001:db8:1:2::1"), party("2001:db8:1:3::1"));
        assert_eq!(party("::ffff:192.0.2.1"), party("192.0.2.1"));
        assert_ne!(party("192.0.2.2"), party("192.0.2.1"));
        assert_eq!(party("fe80::1%eth0"), party("fe80::2"));
        assert_eq!(Party::parse("localhost"), None);
    }

    #[test]
    fn full_table_forgets_what_is_over_and_refuses_where_all_are_locked() {
        let mut table = Table::restore(
            (0..4096).map(|n| (Party::V4(n), Entry { first: NOW - 299 + u64::from(n % 7), failures: 1, until: 0 })),
        );
        assert_eq!(table.locked(Party::V4(9999), NOW + 10), None, "all are over by then");
        table.failed(Party::V4(9999), NOW + 10);
        assert_eq!(table.entries.len(), 1);
        let mut full =
            Table::restore((0..4096).map(|n| (Party::V4(n), Entry { first: NOW, failures: 5, until: NOW + 100 })));
        assert_eq!(full.locked(Party::V4(9999), NOW + 99), Some(201), "five hundred failures are remembered");
    }

    #[test]
    fn guesser_with_many_addresses_is_stopped_as_one() {
        let mut table = Table::default();
        let mut tried = 0;
        for n in 0..10_000 {
            let party = Party::V4(n);
            while table.locked(party, NOW).is_none() {
                table.failed(party, NOW);
                tried += 1;
            }
        }
        assert_eq!(tried, CEILING);
        assert_eq!(table.locked(Party::V4(99_999), NOW), Some(300));
        assert_eq!(table.locked(Party::V4(99_999), NOW + 299), Some(1));
        assert_eq!(table.locked(Party::V4(99_999), NOW + 300), None);
        for n in 0..99 {
            let party = Party::V6(n);
            while table.locked(party, NOW + 300).is_none() {
                table.failed(party, NOW + 300);
            }
        }
        assert_eq!(table.locked(Party::V4(99_999), NOW + 300), None, "495 are not too many");
    }

    proptest! {
        #[test]
        fn table_agrees_with_a_plain_model_and_stays_bounded(steps in prop::collection::vec((0u32..4, 0u64..90, prop::bool::weighted(0.15)), 1..200)) {
            let mut table = Table::default();
            // Model: per party, times of failures since its last success or lock, and the end of its lock.
            let mut model: BTreeMap<u32, (Vec<u64>, u64)> = BTreeMap::new();
            let mut now = NOW;
            for (who, wait, good) in steps {
                now += wait;
                let (failures, until) = model.entry(who).or_default();
                let locked = table.locked(Party::V4(who), now);
                prop_assert_eq!(locked, until.checked_sub(now).filter(|left| *left > 0));
                if locked.is_some() {
                    continue;
                }
                if good {
                    table.succeeded(Party::V4(who));
                    failures.clear();
                    continue;
                }
                if failures.first().is_some_and(|first| now - first >= WINDOW) {
                    failures.clear();
                }
                failures.push(now);
                let lock = table.failed(Party::V4(who), now);
                prop_assert_eq!(lock > 0, failures.len() == 5);
                if lock > 0 {
                    *until = now + LOCK;
                    failures.clear();
                }
                prop_assert!(table.entries.len() <= CAPACITY);
            }
        }
    }
}
