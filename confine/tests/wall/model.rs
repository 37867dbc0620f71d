//! What a policy says about a call, computed from its data alone.

use confine::policy::{ABSENT, Policy, Rule};
use confine::sys::{EACCES, ENOSYS};

/// What must happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The kernel carries it out.
    Allowed,
    /// It answers this and does nothing.
    Errno(i32),
    /// The process dies by SIGSYS.
    Killed,
}

/// The verdict on one call, which is an ordinary number and none of x32.
pub fn decide(policy: &Policy, nr: i64, args: &[u64; 6]) -> Verdict {
    let named = policy.all_rules().any(|rule| rule.matches(nr, args));
    let soft = policy.soft.iter().any(|rule| rule.matches(nr, args));
    let absent = ABSENT.iter().any(|rule| rule.matches(nr, args));
    match (policy.default_allow, named) {
        (true, true) => Verdict::Killed,
        (false, false) if !soft && !absent => Verdict::Killed,
        _ if soft => Verdict::Errno(EACCES),
        _ if absent => Verdict::Errno(ENOSYS),
        _ => Verdict::Allowed,
    }
}

/// Arguments that fit the rule. Where it says nothing they are all ones, which is no descriptor, no address and no length,
/// so that an allowed call fails at once or changes nothing but the child.
pub fn fitting(rule: &Rule) -> [u64; 6] {
    let mut args = [u64::MAX; 6];
    for arg in rule.args {
        // Bits that may be anything stay clear: nothing unusual is asked of the kernel.
        args[usize::from(arg.index)] = arg.value;
    }
    args
}

/// Arguments that differ from the fitting ones in one bit that a condition looks at. Of a condition on many bits the low
/// ones are taken, the highest of an int, the first that an int loses, and the last.
pub fn perturbed(rule: &Rule) -> Vec<[u64; 6]> {
    const FEW: [u32; 8] = [0, 1, 2, 3, 16, 31, 32, 63];
    let mut all = Vec::new();
    for arg in rule.args {
        let bits: Vec<u32> = (0..64).filter(|bit| arg.mask & (1 << bit) != 0).collect();
        for bit in bits.iter().filter(|bit| bits.len() <= 12 || FEW.contains(bit)) {
            let mut args = fitting(rule);
            args[usize::from(arg.index)] ^= 1 << bit;
            all.push(args);
        }
    }
    all
}
