//! The walls of every role as documents: `docs/confinement.json`, which `moltbot confine-report` carries, and the tables of
//! `docs/CONFINEMENT.md`. Both come from the policies themselves.

use crate::{Outcome, cargo, output, root};
use std::path::PathBuf;

const OPEN: &str = "<!-- confinement -->\n";
const CLOSE: &str = "<!-- /confinement -->";

/// Runs the generator.
pub fn generate(form: &str) -> Result<String, String> {
    output(cargo().args(["run", "--quiet", "--package", "confine", "--example", "confinement", "--", form]))
}

/// Prints the walls as they are designed. What runs is `moltbot confine-report`'s to say.
pub fn print(args: &[String]) -> Outcome {
    let form = if args.iter().any(|arg| arg == "--json") { "json" } else { "markdown" };
    generate(form).map(|text| print!("{text}"))
}

/// The documents as they should be, with their paths.
pub fn documents() -> Result<Vec<(PathBuf, String)>, String> {
    let path = root().join("docs/CONFINEMENT.md");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (before, rest) = text.split_once(OPEN).ok_or("docs/CONFINEMENT.md has lost its mark")?;
    let (_, after) = rest.split_once(CLOSE).ok_or("docs/CONFINEMENT.md has lost its mark")?;
    let drawn = format!("{before}{OPEN}\n{}\n{CLOSE}{after}", generate("markdown")?);
    Ok(vec![(path, drawn), (root().join("docs/confinement.json"), generate("json")?)])
}
