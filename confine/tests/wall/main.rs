//! Every role's filter against the kernel: what each rule allows, what it does not, what no rule names, and how a process
//! behind it dies. The policies are the roles' own.
//!
//! What is expected is computed from the data by [`model`]; whether the kernel agrees is seen in children of fork, one
//! call each. No test harness: a child of a process with threads could hardly do anything before it is sealed. Started
//! as root the children become an ordinary user first, because some calls are made unfiltered as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that fails should stop"
)]

mod child;
mod endings;
mod limits;
mod model;
mod numbers;
mod rules;

use confine::policy::Policy;
use std::process::ExitCode;
use std::time::Instant;

/// Every wall there is.
static WALLS: [&Policy; 8] = [
    &broker::policy::POLICY,
    &auditd::policy::POLICY,
    &vault::policy::POLICY,
    &sandboxd::policy::SANDBOXD,
    &sandboxd::policy::LAUNCHER,
    &egress::policy::DIALER,
    &egress::policy::EGRESS,
    &gateway::policy::POLICY,
];

type Test = fn();

const TESTS: &[(&str, Test)] = &[
    ("every_rule_has_a_name_for_the_report", rules::every_rule_has_a_name_for_the_report),
    ("probe_reports_success_errno_and_death", child::probe_reports_success_errno_and_death),
    ("policies_have_no_rule_that_another_swallows", rules::policies_have_no_rule_that_another_swallows),
    ("reasons_are_given_everywhere", rules::reasons_are_given_everywhere),
    (
        "untrusted_roles_name_no_way_to_a_socket_or_a_program",
        rules::untrusted_roles_name_no_way_to_a_socket_or_a_program,
    ),
    ("each_rule_decides_as_written_for_fitting_and_other_arguments", rules::each_rule_decides_as_written),
    ("soft_calls_answer_eacces_and_absent_ones_enosys", rules::soft_calls_answer_an_errno),
    ("numbers_that_no_rule_names_kill", numbers::numbers_that_no_rule_names_kill),
    ("numbers_that_kill_do_not_where_there_is_no_filter", numbers::numbers_do_not_kill_unfiltered),
    ("inherited_walls_let_through_what_they_do_not_name", numbers::inherited_walls_let_through_what_they_do_not_name),
    ("panic_ends_in_sigabrt_behind_every_wall", endings::panic_ends_in_sigabrt),
    ("panic_ends_in_sigsys_where_the_abort_path_is_missing", endings::panic_ends_in_sigsys_without_the_abort_path),
    ("stack_overflow_never_looks_like_an_attack", endings::stack_overflow_never_looks_like_an_attack),
    ("fault_ends_in_sigsegv_behind_every_wall", endings::fault_ends_in_sigsegv),
    ("limits_are_those_of_the_policy_and_a_lower_one_stays", limits::limits_are_those_of_the_policy),
];

fn main() -> ExitCode {
    // Roles are started with an empty environment, so a panic draws no trace.
    // SAFETY: there is one thread.
    unsafe { std::env::remove_var("RUST_BACKTRACE") };
    // Names as arguments choose, as in the usual harness; its options are of no use here.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    for (name, test) in TESTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|it| name.contains(it)))
    {
        let started = Instant::now();
        test();
        println!("test {name} ... ok ({} ms)", started.elapsed().as_millis());
    }
    ExitCode::SUCCESS
}
