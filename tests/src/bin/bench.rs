//! `cargo xtask bench`: see `system_tests::bench`. A missed goal is reported and is no failure.

use std::process::ExitCode;
use system_tests::bench::{run, serve_control};

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, kind] = words.as_slice()
        && first == "control"
    {
        serve_control(kind);
        return ExitCode::SUCCESS;
    }
    let full = words.iter().any(|word| word == "--full");
    words.retain(|word| word != "--full");
    match run(&words, full) {
        Ok((document, met)) => {
            let target = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("bench.json");
            std::fs::write(&target, format!("{document:#}\n")).unwrap();
            println!("{}: {}", if met { "every goal is met" } else { "some goals are missed" }, target.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
