//! Which signal hits whom, as a pure table: random by its seed, and never so often that supervision would be right to give
//! the set up (`supervise::state`: deaths of 3 in 30 s or 10 in 10 min; a suspicious one counts double).

use rustix::process::Signal;
use std::collections::BTreeMap;

/// (weight of deaths, within so many milliseconds) that a role must stay below.
const INTENSITY: [(u32, u64); 2] = [(3, 30_000), (10, 600_000)];
/// A death before the role was ready would count double; a second hit so soon could be one.
const APART_MS: u64 = 2_000;
/// A stopped role dies when broker has missed its pings: that late at most.
const HANGS_MS: u64 = 15_000;
/// Broker may notice a death late: what is under way in a reaction comes first, and holds the role until it is over.
const LATE_MS: u64 = 15_000;

/// SplitMix64 (Steele, Lea, Flood 2014): enough for a choice that must be repeatable.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

/// The signals, and what the death that follows weighs.
pub const SIGNALS: [(Signal, &str, u32); 4] =
    [(Signal::KILL, "KILL", 1), (Signal::SEGV, "SEGV", 2), (Signal::SYS, "SYS", 2), (Signal::STOP, "STOP", 1)];

/// Who was hit, and when he dies of it.
#[derive(Debug)]
pub struct Aim {
    random: Random,
    hits: BTreeMap<String, Vec<(u64, u32)>>,
}

/// Who may die with it: a vault whose store was changed and cannot say so ends (exit 70), which counts as a death.
fn takes_along(role: &str) -> Option<&'static str> {
    (role == "auditd").then_some("vault")
}

impl Aim {
    /// With no hit yet.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), hits: BTreeMap::new() }
    }

    /// A new broker has counted nothing.
    pub fn forget(&mut self) {
        self.hits.clear();
    }

    fn may(&self, role: &str, weight: u32, now: u64) -> bool {
        let hits = self.hits.get(role).map(Vec::as_slice).unwrap_or_default();
        let apart = hits.last().is_none_or(|(at, _)| now.saturating_sub(*at) >= APART_MS);
        apart
            && INTENSITY.iter().all(|(deaths, within)| {
                let recent = hits.iter().filter(|(at, _)| now.saturating_sub(*at) <= within + LATE_MS);
                recent.map(|(_, weight)| weight).sum::<u32>() + weight < *deaths
            })
    }

    /// Who of `ready` is hit now, and with what; nobody where each has had its share.
    pub fn next(&mut self, ready: &[String], now: u64) -> Option<(String, Signal, &'static str)> {
        let choices: Vec<_> = ready
            .iter()
            .flat_map(|role| SIGNALS.iter().map(move |signal| (role, signal)))
            .filter(|(role, (_, _, weight))| self.may(role, *weight, now))
            .filter(|(role, _)| takes_along(role).is_none_or(|other| self.may(other, 1, now)))
            .collect();
        if choices.is_empty() {
            return None;
        }
        let (role, (signal, name, weight)) = choices[self.random.below(choices.len())];
        let dies = if *signal == Signal::STOP { now + HANGS_MS } else { now };
        self.hits.entry(role.clone()).or_default().push((dies, *weight));
        if let Some(other) = takes_along(role) {
            self.hits.entry(other.to_owned()).or_default().push((dies, 1));
        }
        Some((role.clone(), *signal, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_never_reach_the_intensity_that_stops_a_set() {
        let ready: Vec<String> = ["vault", "auditd"].map(str::to_owned).to_vec();
        let mut aim = Aim::new(7);
        let mut count = 0;
        for second in 0..3_600u64 {
            count += usize::from(aim.next(&ready, second * 1_000).is_some());
        }
        assert!(count > 50, "{count} hits in an hour");
        for hits in aim.hits.values() {
            for (at, _) in hits {
                for (deaths, within) in INTENSITY {
                    let window = hits.iter().filter(|(other, _)| other <= at && at - other <= within);
                    assert!(window.map(|(_, weight)| weight).sum::<u32>() < deaths);
                }
            }
        }
    }

    #[test]
    fn same_seed_hits_the_same() {
        let ready = vec!["vault".to_owned(), "egress".to_owned()];
        let run = |seed| {
            let mut aim = Aim::new(seed);
            (0..200u64).filter_map(|at| aim.next(&ready, at * 500)).map(|hit| (hit.0, hit.2)).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
}
