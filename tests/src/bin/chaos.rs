//! `cargo xtask chaos`: see `system_tests::chaos`. Ends with status 1 where anything did not hold.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use system_tests::chaos::{Plan, run};
use system_tests::{As, is_root};

const HELP: &str = "chaos [--minutes N | --seconds N] [--seed N] [--as root|user]";

fn main() -> ExitCode {
    match plan() {
        Ok(plan) => carry_out(plan),
        Err(error) => {
            eprintln!("{error}\n{HELP}");
            ExitCode::from(2)
        }
    }
}

fn plan() -> Result<Plan, String> {
    let seed = SystemTime::UNIX_EPOCH.elapsed().map(|since| since.as_secs()).unwrap_or_default();
    let who = if is_root() { As::Root } else { As::User };
    let mut plan = Plan { who, length: Duration::from_secs(600), seed };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|error| format!("{word} {value}: {error}"));
        match word.as_str() {
            "--minutes" => plan.length = Duration::from_secs(60 * number()?),
            "--seconds" => plan.length = Duration::from_secs(number()?),
            "--seed" => plan.seed = number()?,
            "--as" if value == "root" && is_root() => plan.who = As::Root,
            "--as" if value == "user" => plan.who = As::User,
            _ => return Err(format!("{word} {value} is not understood")),
        }
    }
    Ok(plan)
}

fn carry_out(plan: Plan) -> ExitCode {
    println!("chaos for {} s as {:?}, --seed {}", plan.length.as_secs(), plan.who, plan.seed);
    let report = run(plan, |line| println!("{line}"));
    println!("\nrole       signal  hits");
    for ((role, signal), hits) in &report.hits {
        println!("{role:<10} {signal:<6} {hits:>5}");
    }
    println!("\nlongest return to service, ms: {:?}", report.back_ms);
    for fact in &report.facts {
        println!("{fact}");
    }
    for broken in &report.broken {
        println!("BROKEN: {broken}");
    }
    println!("{}", if report.broken.is_empty() { "all invariants hold" } else { "chaos found something" });
    if report.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
