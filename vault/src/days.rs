//! What each secret whose policy bounds a day has moved and cost today: bytes, a model's tokens, dollars. Kept in the store: a
//! bound that a restart gives back is none. A day is one of UTC.
//!
//! egress counts and tells when a request is over, so what is in flight when a bound is reached still ends.

use crate::codec::{Reader, Writer};
use crate::envelope::MAX_NAME;
use std::collections::BTreeMap;

/// Entries at most: as many as a store has records.
const CAPACITY: usize = 8192;

/// What one request moved, or all of a day.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Amount {
    /// Bytes of bodies, both ways.
    pub bytes: u64,
    /// Tokens that a model read.
    pub read: u64,
    /// Tokens that it wrote.
    pub written: u64,
    /// Billionths of a US dollar.
    pub nanodollars: u64,
}

impl Amount {
    const fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            read: self.read.saturating_add(other.read),
            written: self.written.saturating_add(other.written),
            nanodollars: self.nanodollars.saturating_add(other.nanodollars),
        }
    }
}

/// Bounds of a day. What is none has none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bounds {
    /// Bytes of bodies, both ways.
    pub bytes: Option<u64>,
    /// Tokens, read and written together.
    pub tokens: Option<u64>,
    /// Millionths of a US dollar.
    pub microdollars: Option<u64>,
    /// What a million tokens cost that are read, and that are written, in millionths of a US dollar.
    pub price: Option<(u64, u64)>,
}

impl Bounds {
    /// True where there is one.
    #[must_use]
    pub const fn is_some(self) -> bool {
        self.bytes.is_some() || self.tokens.is_some() || self.microdollars.is_some()
    }

    /// True where so much leaves room for more.
    #[must_use]
    pub fn has_room(self, spent: Amount) -> bool {
        let below = |spent: u64, bound: Option<u64>| bound.is_none_or(|bound| spent < bound);
        let nano = self.microdollars.map(|micro| micro.saturating_mul(1_000));
        below(spent.bytes, self.bytes)
            && below(spent.read.saturating_add(spent.written), self.tokens)
            && below(spent.nanodollars, nano)
    }

    /// What one request moved, with what it cost.
    #[must_use]
    pub fn amount(self, bytes: u64, read: u64, written: u64) -> Amount {
        let (of_read, of_written) = self.price.unwrap_or_default();
        let cost = |tokens: u64, micro: u64| tokens.saturating_mul(micro).div_ceil(1_000);
        Amount { bytes, read, written, nanodollars: cost(read, of_read).saturating_add(cost(written, of_written)) }
    }
}

/// Amounts by name, with the day that they are of, counted from 1970.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Days(BTreeMap<String, (u64, Amount)>);

impl Days {
    /// What was spent on this day.
    #[must_use]
    pub fn spent(&self, name: &str, day: u64) -> Amount {
        // A clock that was set back does not give a day back.
        self.0.get(name).filter(|(of, _)| *of >= day).map(|(_, amount)| *amount).unwrap_or_default()
    }

    /// Adds to it.
    pub fn add(&mut self, name: &str, day: u64, amount: Amount) {
        let of = self.0.get(name).map_or(day, |(of, _)| day.max(*of));
        let sum = self.spent(name, day).plus(amount);
        if self.0.len() < CAPACITY || self.0.contains_key(name) {
            self.0.insert(name.to_owned(), (of, sum));
        }
    }

    /// Forgets a name.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Bytes that what was spent of this name takes in the store.
    #[must_use]
    pub const fn length(name: &str) -> usize {
        4 + name.len() + 5 * 8
    }

    /// Appends what there is.
    pub fn encode(&self, into: &mut Writer) {
        into.count(self.0.len());
        for (name, (day, amount)) in &self.0 {
            into.bytes(name.as_bytes()).number(*day).number(amount.bytes).number(amount.read);
            into.number(amount.written).number(amount.nanodollars);
        }
    }

    /// Reads it back.
    #[must_use]
    pub fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut all = BTreeMap::new();
        for _ in 0..from.count(CAPACITY)? {
            let (name, day) = (from.text(MAX_NAME)?.to_owned(), from.number()?);
            let (bytes, read) = (from.number()?, from.number()?);
            all.insert(name, (day, Amount { bytes, read, written: from.number()?, nanodollars: from.number()? }));
        }
        Some(Self(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_of_a_day_is_reached_by_its_own_amount_and_the_next_day_begins_at_nothing() {
        let price = Some((3_000_000, 15_000_000));
        let none = Bounds::default();
        let amount = Bounds { price, ..none }.amount(70, 1_000, 100);
        assert_eq!(amount.nanodollars, 4_500_000, "0.3 and 0.15 cents");
        let mut days = Days::default();
        days.add("model", 9, amount);
        days.add("model", 9, amount);
        for (bounds, has_room) in [
            (none, true),
            (Bounds { bytes: Some(140), ..none }, false),
            (Bounds { bytes: Some(141), ..none }, true),
            (Bounds { tokens: Some(2_200), ..none }, false),
            (Bounds { tokens: Some(2_201), ..none }, true),
            (Bounds { microdollars: Some(9_000), price, ..none }, false),
            (Bounds { microdollars: Some(9_001), price, ..none }, true),
        ] {
            assert_eq!(bounds.has_room(days.spent("model", 9)), has_room, "{bounds:?}");
            assert!(bounds.has_room(days.spent("model", 10)) && bounds.has_room(days.spent("other", 9)));
        }
        assert_eq!(days.spent("model", 8), days.spent("model", 9), "a clock that was set back gives nothing back");
        days.add("model", 8, amount);
        assert_eq!(days.spent("model", 9).bytes, 210);
        let mut writer = Writer::new(64);
        days.encode(&mut writer);
        let bytes = writer.finish();
        assert_eq!(Days::decode(&mut Reader::new(&bytes)), Some(days));
    }
}
