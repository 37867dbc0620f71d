//! A role's wall as data: which system calls, with which arguments, why; which files; which limits.
//!
//! Every rule, grant and limit has a reason because its type asks for one. Nothing here runs: `walls` and `seccomp` raise
//! what a [`Policy`] says, and a report prints it without the process. The sets that several roles share are in `sets`.

mod sets;

pub use sets::{ABSENT, BASE, SOFT, STREAMS, TOKIO};

use nix::sys::resource::Resource as LimitName;
use proto::control::Resource;
use proto::ids::Role;

/// A resource limit's name.
pub type LimitKind = LimitName;

/// A condition on one argument of a system call, over all 64 bits of it. In an allowlist that is the strict way: what the
/// kernel would cut off must be zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Arg {
    /// Which, from 0.
    pub index: u8,
    /// Which of its bits count.
    pub mask: u64,
    /// What they must be.
    pub value: u64,
    /// The condition in the words of the manual page, as `cmd = F_GETFD`.
    pub means: &'static str,
}

impl Arg {
    /// Argument `index` (from 0) is exactly `value`.
    #[must_use]
    pub const fn eq(index: u8, value: u64, means: &'static str) -> Self {
        Self::mask_eq(index, u64::MAX, value, means)
    }

    /// The bits of `mask` in argument `index` are exactly `value`.
    #[must_use]
    pub const fn mask_eq(index: u8, mask: u64, value: u64, means: &'static str) -> Self {
        Self { index, mask, value, means }
    }

    /// Argument `index` is `value` as the kernel reads an `int`, which drops the upper half. For lists of what is denied:
    /// there a comparison of 64 bits could be passed by a value that the kernel then cuts.
    #[must_use]
    pub const fn int(index: u8, value: u32, means: &'static str) -> Self {
        Self::mask_eq(index, 0xffff_ffff, value as u64, means)
    }

    /// True for an argument that fulfils it.
    #[must_use]
    pub const fn holds(&self, argument: u64) -> bool {
        argument & self.mask == self.value
    }

    /// True where every argument that fulfils `other` fulfils this.
    const fn covers(&self, other: &Self) -> bool {
        self.index == other.index && self.mask & other.mask == self.mask && other.value & self.mask == self.value
    }
}

/// One system call, the arguments it must have, and the reason.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rule {
    /// The call's number.
    pub nr: i64,
    /// All of these must hold; none is any arguments.
    pub args: &'static [Arg],
    /// Why the role needs it.
    pub why: &'static str,
    /// Why it stays although a run of every test never makes the call; none where one does.
    pub kept: Option<&'static str>,
}

impl Rule {
    /// The call with any arguments.
    #[must_use]
    pub const fn new(nr: i64, why: &'static str) -> Self {
        Self { nr, args: &[], why, kept: None }
    }

    /// The call where all of `args` hold.
    #[must_use]
    pub const fn with(nr: i64, args: &'static [Arg], why: &'static str) -> Self {
        Self { nr, args, why, kept: None }
    }

    /// The same rule, kept although no test makes the call. `cargo xtask rules-hit` asks for a reason, or for the rule's
    /// end.
    #[must_use]
    pub const fn kept(self, because: &'static str) -> Self {
        Self { kept: Some(because), ..self }
    }

    /// True for a call that the rule describes. `args` are the six registers.
    #[must_use]
    pub fn matches(&self, nr: i64, args: &[u64; 6]) -> bool {
        self.nr == nr && self.args.iter().all(|arg| args.get(usize::from(arg.index)).is_some_and(|it| arg.holds(*it)))
    }

    /// True where this rule describes every call that `other` does, so that `other` says nothing.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.nr == other.nr && self.args.iter().all(|mine| other.args.iter().any(|its| mine.covers(its)))
    }
}

/// A resource limit, soft and hard alike.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Which.
    pub resource: LimitKind,
    /// Its value in the resource's unit.
    pub value: u64,
    /// Why this much.
    pub why: &'static str,
}

/// What may be done beneath a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Open files and list.
    ReadOnly,
    /// Open files for reading and writing, make new ones; neither remove nor truncate.
    Append,
    /// Open, make, replace and remove files.
    ReadWrite,
    /// Make directories, and nothing else.
    MakeDir,
}

impl Access {
    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Append => "append",
            Self::ReadWrite => "read-write",
            Self::MakeDir => "make-dir",
        }
    }
}

/// A directory that stays reachable behind the wall. Which one is said here, by what broker calls it; the descriptor is
/// given when the wall is raised.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The directory.
    pub resource: Resource,
    /// What may be done beneath it.
    pub access: Access,
    /// Why.
    pub why: &'static str,
}

/// Which TCP ports Landlock lets the role connect to (ABI 4). None may be bound by any role.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ports {
    /// None.
    None,
    /// Those that the role names when it raises the wall.
    Named {
        /// Which and why.
        why: &'static str,
    },
}

/// A role's wall.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Whose.
    pub role: Role,
    /// Allowed calls; everything else kills the process. For `default_allow`, the calls that kill.
    pub rules: &'static [&'static [Rule]],
    /// Calls that libraries try on their own and that get `EACCES` instead of death.
    pub soft: &'static [Rule],
    /// Limits beside `CORE` 0, which all have.
    pub limits: &'static [Limit],
    /// Directories that Landlock leaves open, all that there are.
    pub grants: &'static [Grant],
    /// TCP ports that Landlock leaves open.
    pub ports: Ports,
    /// True for broker and the launcher alone: their filters are inherited by other programs, so they list what none of
    /// them may do.
    pub default_allow: bool,
    /// True where Landlock handles the file system. The launcher cannot: a process in such a domain may not mount.
    pub landlock_files: bool,
}

impl Policy {
    /// Every rule of every set, in order.
    pub fn all_rules(&self) -> impl Iterator<Item = &'static Rule> + use<> {
        self.rules.iter().copied().flatten()
    }

    /// Pairs of rules of which the first makes the second empty: within the list, within the soft calls, and a soft call
    /// that takes back what the list gives.
    #[must_use]
    pub fn redundant(&self) -> Vec<(&'static Rule, &'static Rule)> {
        let rules: Vec<&'static Rule> = self.all_rules().chain(self.soft).chain(ABSENT).collect();
        let mut found = Vec::new();
        for (at, one) in rules.iter().enumerate() {
            for (other_at, other) in rules.iter().enumerate() {
                if at != other_at && one.covers(other) {
                    found.push((*one, *other));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Rule = Rule::new(1, "any");
    const LOW: Rule = Rule::with(1, &[Arg::mask_eq(0, 0xff, 3, "low byte = 3")], "low");
    const ALL: Rule = Rule::with(1, &[Arg::eq(0, 3, "= 3"), Arg::eq(1, 0, "= 0")], "all");
    const OTHER: Rule = Rule::with(1, &[Arg::eq(1, 9, "= 9")], "other");

    fn with(rules: &'static [&'static [Rule]], soft: &'static [Rule]) -> Policy {
        Policy {
            role: Role::Vault,
            rules,
            soft,
            limits: &[],
            grants: &[],
            ports: Ports::None,
            default_allow: false,
            landlock_files: true,
        }
    }

    #[test]
    fn rule_covers_what_is_narrower_and_nothing_else() {
        assert!(ANY.covers(&LOW) && ANY.covers(&ALL) && LOW.covers(&ALL) && ALL.covers(&ALL));
        assert!(!LOW.covers(&ANY) && !ALL.covers(&LOW) && !OTHER.covers(&ALL) && !ALL.covers(&OTHER));
        assert!(!Rule::new(2, "another call").covers(&LOW));
    }

    #[test]
    fn swallowed_rule_is_found_across_sets_and_in_the_soft_calls() {
        assert_eq!(with(&[&[LOW], &[ALL]], &[]).redundant(), [(&LOW, &ALL)]);
        assert_eq!(with(&[&[LOW]], &[ANY]).redundant(), [(&ANY, &LOW)]);
        assert!(with(&[&[ALL], &[OTHER]], &[]).redundant().is_empty());
    }

    #[test]
    fn rule_matches_by_every_condition() {
        assert!(ALL.matches(1, &[3, 0, 9, 9, 9, 9]));
        assert!(!ALL.matches(1, &[3, 1, 9, 9, 9, 9]) && !ALL.matches(2, &[3, 0, 9, 9, 9, 9]));
        assert!(!ALL.matches(1, &[3 | 1 << 32, 0, 9, 9, 9, 9]), "the upper half counts");
        const INT: Rule = Rule::with(1, &[Arg::int(0, 0, "= 0")], "int");
        assert!(INT.matches(1, &[1 << 32, 0, 0, 0, 0, 0]), "the kernel cuts an int, so a denial must");
    }
}
