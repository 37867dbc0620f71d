//! How much of a corpus is understood, and how much of that runs unasked: commands on standard input, one a line.

use command::decide::{Facts, Place, Policy, Settings};
use command::lex::Unclear;
use command::rules::Outcome;
use std::collections::BTreeMap;

fn main() {
    let Ok(policy) = Policy::new(&Settings::default()) else { return };
    let facts = Facts { session: "agent:main:main", place: Place::Docker, tainted: false };
    let (mut all, mut understood, mut allowed) = (0u32, 0u32, 0u32);
    let (mut why, mut missed): (BTreeMap<String, u32>, BTreeMap<String, u32>) = (BTreeMap::new(), BTreeMap::new());
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let decision = policy.decide(&line, &facts);
        all = all.saturating_add(1);
        understood = understood.saturating_add(u32::from(decision.plan.is_some()));
        allowed = allowed.saturating_add(u32::from(decision.outcome == Outcome::Allow));
        if let Some(unclear) = decision.unclear {
            let count = why.entry(Unclear::to_string(&unclear)).or_default();
            *count = count.saturating_add(1);
        } else if decision.outcome != Outcome::Allow
            && let Some(miss) = decision.why.iter().find(|why| !why.ends_with("says allow"))
        {
            let count = missed.entry(miss.clone()).or_default();
            *count = count.saturating_add(1);
        }
    }
    println!("{all} commands, {understood} understood, {allowed} allowed");
    for (title, counts) in [("not understood", why), ("asked", missed)] {
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (name, count) in counts.iter().take(25) {
            println!("{title}: {count} {name}");
        }
    }
}
