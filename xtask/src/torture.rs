//! `cargo xtask torture ROLE`: the tests of a role that take minutes, in release. They are ignored otherwise, and their
//! names begin with `torture`.

use crate::chaos::run_tool;
use crate::{Outcome, cargo, run};

/// Roles that have such tests.
const ROLES: [&str; 4] = ["auditd", "command", "config", "vault"];
/// The role whose torture takes a whole set and an engine: 20,000 honest commands, after which nothing may be left or alarmed.
const SOAKED: &str = "sandboxd";

/// Runs those of the named role; of every role where none is named.
pub fn torture(args: &[String]) -> Outcome {
    let wanted = args.first().map(String::as_str);
    if let Some(name) = wanted.filter(|name| *name != SOAKED && !ROLES.contains(name)) {
        return Err(format!("{name} has no tests that take minutes; these have: {}, {SOAKED}", ROLES.join(", ")));
    }
    for role in ROLES.iter().filter(|role| wanted.is_none_or(|wanted| wanted == **role)) {
        run(cargo().args(["test", "--release", "--package", role, "torture", "--", "--ignored", "--nocapture"]))?;
    }
    if wanted.is_none_or(|wanted| wanted == SOAKED) {
        run_tool("bench", &["soak".to_owned(), "--full".to_owned()])?;
    }
    Ok(())
}
