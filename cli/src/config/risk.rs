//! What a change of the configuration opens and closes: findings before and after, and what becomes reachable.

use crate::paint::{Paint, beside};
use config::rules::{Finding, Severity, findings, rating, score};
use config::{Config, DmPolicy};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The difference that a change makes.
#[derive(Debug)]
pub struct Delta {
    before: u32,
    after: u32,
    raised: Vec<Finding>,
    settled: Vec<Finding>,
    opened: Vec<String>,
    closed: Vec<String>,
}

impl Delta {
    /// Between two configurations.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let (was, is) = (findings(old), findings(new));
        let without = |some: &[Finding], others: &[Finding]| {
            let known =
                |found: &&Finding| !others.iter().any(|other| (&other.id, &other.path) == (&found.id, &found.path));
            some.iter().filter(known).cloned().collect::<Vec<_>>()
        };
        let (reach_was, reach_is) = (reach(old), reach(new));
        Self {
            before: score(&was),
            after: score(&is),
            raised: without(&is, &was),
            settled: without(&was, &is),
            opened: reach_is.difference(&reach_was).cloned().collect(),
            closed: reach_was.difference(&reach_is).cloned().collect(),
        }
    }

    /// True where it wants an explicit yes: something becomes reachable, or a wall thinner.
    #[must_use]
    pub fn needs_a_yes(&self) -> bool {
        !self.opened.is_empty() || self.raised.iter().any(|found| found.severity <= Severity::Warn)
    }

    /// For a program.
    #[must_use]
    pub fn as_json(&self) -> Value {
        json!({
            "scoreBefore": self.before, "scoreAfter": self.after, "raised": self.raised, "settled": self.settled,
            "opened": self.opened, "closed": self.closed,
        })
    }

    /// For a person; empty where nothing changes.
    #[must_use]
    pub fn as_text(&self, paint: Paint) -> String {
        let mut text = String::new();
        if self.before != self.after {
            let (was, is) = (rating(self.before), rating(self.after));
            let line = format!("score {} ({was}) -> {} ({is})\n", self.before, self.after);
            text += &if self.after < self.before { paint.bad(&line) } else { paint.good(&line) };
        }
        for found in &self.raised {
            let line = format!("+ {}: {} - {}", found.id, found.title, found.detail);
            text += &(paint.bad(&beside(2, &line)) + "\n");
        }
        for found in &self.settled {
            text += &(paint.good(&beside(2, &format!("- {}: {}", found.id, found.title))) + "\n");
        }
        for what in &self.opened {
            text += &paint.warn(&format!("+ reachable: {what}\n"));
        }
        for what in &self.closed {
            text += &paint.good(&format!("- no longer reachable: {what}\n"));
        }
        text
    }
}

/// Who reaches what, under a configuration.
fn reach(config: &Config) -> BTreeSet<String> {
    let hosts = config.allowed().into_iter().chain(config.local(true)).chain(config.local(false));
    let mut all: BTreeSet<String> = hosts.map(|to| format!("egress to {to}")).collect();
    if !config.operator.group.is_empty() {
        all.insert(format!("the operator's socket, by members of the group {}", config.operator.group));
    }
    if config.channels.defaults.dm_policy == DmPolicy::Pairing {
        all.insert("channels that are not named: strangers may ask to be paired".to_owned());
    }
    for (name, channel) in config.channels.iter().filter(|(_, channel)| channel.enabled) {
        match channel.dm_policy(&config.channels.defaults) {
            DmPolicy::Pairing => {
                all.insert(format!("{name}: strangers may ask to be paired"));
            }
            DmPolicy::Allowlist | DmPolicy::Disabled | DmPolicy::Open => {}
        }
        let policy = channel.dm_policy(&config.channels.defaults);
        for id in channel.listed().filter(|id| *id != "*" && policy != DmPolicy::Disabled) {
            all.insert(format!("{name}: {id} may speak to the agent"));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, std::path::Path::new("x"), &|_| None).unwrap()
    }

    #[test]
    fn what_opens_wants_a_yes_and_what_closes_does_not() {
        let closed = config("{}");
        for text in [
            "{ egress: { allow: ['a:1'] } }",
            "{ models: { providers: { p: { baseUrl: 'https://api.example.org', models: [{ id: 'm' }] } } } }",
            "{ channels: { irc: { dmPolicy: 'allowlist', allowFrom: ['*'] } } }",
            "{ channels: { irc: {} } }",
            "{ channels: { irc: { dmPolicy: 'allowlist', allowFrom: ['alice'] } } }",
            "{ logging: { redactSensitive: 'off' } }",
            "{ operator: { group: 'staff' } }",
        ] {
            let open = config(text);
            assert!(Delta::between(&closed, &open).needs_a_yes(), "{text}");
            assert!(!Delta::between(&open, &closed).needs_a_yes(), "{text}");
        }
        let strict = config("{ channels: { defaults: { dmPolicy: 'allowlist' } } }");
        assert!(Delta::between(&strict, &closed).needs_a_yes() && !Delta::between(&closed, &strict).needs_a_yes());
        let other = config("{ logging: { keepDays: 3 } }");
        let delta = Delta::between(&closed, &other);
        assert_eq!((delta.needs_a_yes(), delta.as_text(Paint::plain())), (false, String::new()));
    }

    #[test]
    fn text_says_score_finding_and_reach() {
        let delta = Delta::between(
            &config("{ egress: { allow: ['a:1'] } }"),
            &config("{ egress: { allow: ['b:2'] }, channels: { irc: { allowFrom: ['*'] } } }"),
        );
        let text = delta.as_text(Paint::plain());
        for part in [
            "score 100 (EXCELLENT) -> 80 (GOOD)",
            "+ channels.irc.allowlist.wildcard",
            "+ reachable: egress to b:2",
            "- no longer reachable: egress to a:1",
            "+ reachable: irc: strangers may ask",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
