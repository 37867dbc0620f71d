//! Filters from rules. Three are stacked, because one filter has one action for what it matches: clone3 is answered
//! `ENOSYS` (its flags are behind a pointer, so the C library must fall back to clone), soft calls `EACCES`, and the
//! allowlist kills the process for everything it does not name. Where filters differ the kernel takes the strictest.

use crate::policy::{ABSENT, Policy, Rule};
use crate::startup::StartError;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCH: TargetArch = TargetArch::aarch64;

fn table<'r>(
    rules: impl Iterator<Item = &'r Rule>,
) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut table: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut any = Vec::new();
    for rule in rules {
        let entry = table.entry(rule.nr).or_default();
        if rule.args.is_empty() {
            any.push(rule.nr);
            continue;
        }
        let conditions = rule
            .args
            .iter()
            .map(|arg| {
                SeccompCondition::new(arg.index, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(arg.mask), arg.value)
            })
            .collect::<Result<Vec<_>, _>>()?;
        entry.push(SeccompRule::new(conditions)?);
    }
    // An empty list matches any arguments, so a rule without conditions swallows its siblings.
    for nr in any {
        table.insert(nr, Vec::new());
    }
    Ok(table)
}

fn compile<'r>(
    rules: impl Iterator<Item = &'r Rule>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(table(rules)?, otherwise, matched, ARCH)?.try_into()
}

/// A policy's filters, compiled.
#[derive(Debug)]
pub struct Filters {
    programs: Vec<BpfProgram>,
    policy: &'static Policy,
}

impl Filters {
    /// Compiles them.
    ///
    /// # Errors
    /// [`StartError`], exit 78.
    pub fn of(policy: &'static Policy) -> Result<Self, StartError> {
        let bad = |error: seccompiler::BackendError| {
            StartError::permanent(format!("seccomp filter of {} does not compile: {error}", policy.role))
        };
        Ok(Self { programs: programs(policy).map_err(bad)?, policy })
    }

    /// Installs them on the calling thread, for good. Returns how many rules the list has. A role does this through
    /// [`crate::startup::Start::seal`]; by itself it is for who attacks this layer alone.
    ///
    /// # Errors
    /// [`StartError`], exit 78.
    pub fn install(&self) -> Result<u16, StartError> {
        for program in &self.programs {
            seccompiler::apply_filter(program)
                .map_err(|error| StartError::permanent(format!("seccomp filter of {}: {error}", self.policy.role)))?;
        }
        let count = self.policy.all_rules().count().saturating_add(self.policy.soft.len());
        Ok(u16::try_from(count).unwrap_or(u16::MAX))
    }
}

fn programs(policy: &Policy) -> Result<Vec<BpfProgram>, seccompiler::BackendError> {
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let eacces = SeccompAction::Errno(libc::EACCES.unsigned_abs());
    let mut programs = vec![compile(ABSENT.iter(), SeccompAction::Allow, enosys)?];
    if !policy.soft.is_empty() {
        programs.push(compile(policy.soft.iter(), SeccompAction::Allow, eacces)?);
    }
    if policy.default_allow {
        programs.push(compile(policy.all_rules(), SeccompAction::Allow, SeccompAction::KillProcess)?);
        // The x32 table has other numbers for the same calls: a list of what is allowed names none of them, one of what
        // is denied would let them all through.
        if cfg!(target_arch = "x86_64") {
            programs.push(crate::jail::filter::no_x32());
        }
    } else {
        let known = policy.all_rules().chain(policy.soft).chain(ABSENT);
        programs.push(compile(known, SeccompAction::KillProcess, SeccompAction::Allow)?);
    }
    Ok(programs)
}
