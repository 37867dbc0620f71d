//! The tests that documents name: each must be there. A row names them as `` `path/of/file.rs`: name, name; `another.rs`: name ``.

use crate::{Outcome, root};

/// The documents, from the root.
const DOCUMENTS: [&str; 1] = ["docs/security/evidence.md"];

/// Every test that a document names is in the file that it names.
pub fn check() -> Outcome {
    for document in DOCUMENTS {
        let text = std::fs::read_to_string(root().join(document)).map_err(|error| format!("{document}: {error}"))?;
        let mut count = 0_usize;
        for (file, test) in named(&text) {
            let source =
                std::fs::read_to_string(root().join(file)).map_err(|error| format!("{document}: {file}: {error}"))?;
            if !source.contains(&format!("fn {test}(")) {
                return Err(format!("{document} names {test} of {file}, which is not there"));
            }
            count = count.saturating_add(1);
        }
        println!("{document}: {count} tests are where it says");
    }
    Ok(())
}

/// File and test of each that a table's last column names.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let rows = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|')?.rsplit_once('|'));
    rows.flat_map(|(_, shown)| shown.split(';')).flat_map(|part| {
        let (file, tests) = part.trim().strip_prefix('`').and_then(|part| part.split_once("`: ")).unwrap_or_default();
        tests
            .split(", ")
            .map(move |test| (file, test.trim()))
            .filter(|(file, test)| !file.is_empty() && !test.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_in_the_last_column_alone() {
        let text = "| promise; `x.rs`: no | `a.rs`: one, two; `b/c.rs`: three |\n|---|---|\nprose `d.rs`: four\n";
        assert_eq!(named(text).collect::<Vec<_>>(), [("a.rs", "one"), ("a.rs", "two"), ("b/c.rs", "three")]);
    }
}
