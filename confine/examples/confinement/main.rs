//! Every wall as data, printed: `json` for `docs/confinement.json`, which `moltbot confine-report` carries, `markdown` for
//! the generated part of `docs/CONFINEMENT.md`. An example, because only here and in tests does this crate know the roles.

mod json;
mod markdown;

use confine::policy::Policy;
use std::process::ExitCode;

/// Every wall there is, in the order in which broker starts them.
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

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("json") => println!("{}", json::lines(&json::report(&WALLS), 0)),
        Some("markdown") => print!("{}", markdown::report(&json::report(&WALLS))),
        _ => {
            eprintln!("say json or markdown");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
