//! Every number that the kernel may know, and those of the x32 table.

use crate::WALLS;
use crate::child::{Behind, End, KILLED, call};
use crate::model::{Verdict, decide};
use confine::policy::{ABSENT, Policy};
use confine::sys;
use std::ops::RangeInclusive;

/// Past the newest call of Linux 6.18 (file_setattr, 469).
const NUMBERS: RangeInclusive<i64> = 0..=480;
/// The bit that marks the x32 table, and where that table has numbers of its own.
const X32: i64 = 0x4000_0000;
const X32_OWN: RangeInclusive<i64> = 512..=547;
/// No descriptor, address, flag or length: what is let through fails at its first look at an argument.
const NOTHING: [u64; 6] = [u64::MAX; 6];

/// Calls that take no argument to fail on, and do what must not be done to the machine, or make a second process that
/// would go on with the test. Without a filter these are not made, and said so.
const NOT_UNFILTERED: [(i64, &str); 5] = [
    (sys::SYS_fork, "makes a process"),
    (sys::SYS_vfork, "makes a process on the same stack"),
    (sys::SYS_clone, "makes a process"),
    (sys::SYS_sync, "writes every disk's cache"),
    (sys::SYS_vhangup, "hangs the terminal up"),
];

/// uretprobe and uprobe: since Linux 6.13 seccomp is not asked about them, because only a trampoline that the kernel itself
/// maps may make them. From anywhere else they end so and do nothing.
const KERNELS_OWN: [(i64, End); 2] = [(335, End::Signal(sys::SIGILL)), (336, End::Exit(sys::ENXIO))];

fn x32() -> impl Iterator<Item = i64> {
    NUMBERS.chain(X32_OWN).map(|nr| X32 + nr)
}

fn is_named(wall: &Policy, nr: i64) -> bool {
    wall.all_rules().chain(wall.soft).chain(ABSENT).any(|rule| rule.nr == nr)
}

pub fn numbers_that_no_rule_names_kill() {
    for wall in WALLS.iter().filter(|wall| !wall.default_allow) {
        let unnamed: Vec<i64> = NUMBERS.filter(|nr| !is_named(wall, *nr)).chain(x32()).collect();
        for nr in &unnamed {
            let end = call(Behind::Wall(wall), *nr, &NOTHING);
            let exempt = KERNELS_OWN.contains(&(*nr, end));
            assert!(end == KILLED || exempt, "{}: call {nr} ended in {end:?}", wall.role);
        }
        println!("  {}: {} of {} numbers kill", wall.role, unnamed.len(), NUMBERS.count() + x32().count());
    }
}

/// The twin: the same probes, unfiltered, end in every way but that one.
pub fn numbers_do_not_kill_unfiltered() {
    for (nr, why) in NOT_UNFILTERED {
        println!("  call {nr} is not made unfiltered: it {why}");
    }
    for nr in NUMBERS.chain(x32()).filter(|nr| NOT_UNFILTERED.iter().all(|(not, _)| nr != not)) {
        let end = call(Behind::Nothing, nr, &NOTHING);
        assert_ne!(end, KILLED, "call {nr}");
    }
}

/// Broker's and the launcher's filters are inherited by programs that know nothing of them. What they do not name goes
/// through, but for x32, which answers as a kernel without it.
pub fn inherited_walls_let_through_what_they_do_not_name() {
    for wall in WALLS.iter().filter(|wall| wall.default_allow) {
        for nr in NUMBERS.filter(|nr| NOT_UNFILTERED.iter().all(|(not, _)| nr != not)) {
            let end = call(Behind::Wall(wall), nr, &NOTHING);
            match decide(wall, nr, &NOTHING) {
                Verdict::Killed => assert_eq!(end, KILLED, "{}: call {nr}", wall.role),
                Verdict::Errno(errno) => assert_eq!(end, End::Exit(errno), "{}: call {nr}", wall.role),
                Verdict::Allowed => assert_ne!(end, KILLED, "{}: call {nr}", wall.role),
            }
        }
        for nr in x32() {
            assert_eq!(call(Behind::Wall(wall), nr, &NOTHING), End::Exit(sys::ENOSYS), "{}: call {nr}", wall.role);
        }
    }
}
