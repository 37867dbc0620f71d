//! The verdict: a pure decision over a plan, the rules, and who asks from where.

use crate::lex::Unclear;
use crate::plan::Plan;
use crate::rules::{Outcome, Rule, RuleError, built_in, read};
use serde::{Deserialize, Serialize};

/// When a person is asked.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// Never: what no rule denies runs. The sandbox is the boundary.
    Off,
    /// Where no rule allows it.
    #[default]
    OnMiss,
    /// Before every command.
    Always,
}

/// What kind of session asks, by its key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// An agent's main session.
    Main,
    /// One with a sender that was paired.
    Paired,
    /// One that begins by itself.
    Cron,
    /// Any other: what strangers write reaches it.
    Tainted,
}

impl Class {
    /// The class's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Paired => "paired",
            Self::Cron => "cron",
            Self::Tainted => "tainted",
        }
    }
}

/// Which kind of sandbox will run it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A container.
    Docker,
    /// The launcher's.
    Native,
}

impl Place {
    /// The place's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Native => "native",
        }
    }
}

/// Who asks from where.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'f> {
    /// Key of the session, as `agent:main:main`.
    pub session: &'f str,
    /// Where it will run.
    pub place: Place,
    /// It has read what strangers wrote: the vault says so.
    pub tainted: bool,
}

impl Facts<'_> {
    /// The agent that the session is of.
    #[must_use]
    pub fn agent(&self) -> &str {
        let mut parts = self.session.split(':');
        match (parts.next(), parts.next()) {
            (Some("agent"), Some(agent)) => agent,
            _ => "",
        }
    }

    /// True where strangers' words reach it, by its key or by what it has read: nothing runs in it that no rule allows and no
    /// person has approved.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.tainted || self.is_outside()
    }

    /// True where strangers speak in it, by its key.
    #[must_use]
    pub fn is_outside(&self) -> bool {
        let mut parts = self.session.split(':').skip(2);
        let own = matches!((parts.next(), parts.next()), (Some("cron"), _) | (Some(_), None));
        !own || !self.session.starts_with("agent:")
    }

    /// What kind of session it is.
    #[must_use]
    pub fn class(&self) -> Class {
        let parts: Vec<&str> = self.session.split(':').collect();
        if self.tainted {
            return Class::Tainted;
        }
        match parts.as_slice() {
            ["agent", _, "main"] => Class::Main,
            ["agent", _, "cron", ..] => Class::Cron,
            ["agent", _, _, "dm", _] => Class::Paired,
            _ => Class::Tainted,
        }
    }
}

/// `tools.exec` of the configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Settings {
    /// When a person is asked.
    pub ask: Ask,
    /// Rules beside the built-in ones.
    pub rules: Vec<serde_json::Value>,
    /// Seconds after which silence of the operator is a no; 300 where nothing is said.
    pub approval_timeout_seconds: Option<u32>,
}

/// What came of a command.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What happens now.
    pub outcome: Outcome,
    /// What will run, where it was understood.
    pub plan: Option<Plan>,
    /// Why it was not understood, where it was not.
    pub unclear: Option<Unclear>,
    /// What decided: a rule's id, `miss`, `unclear`, `ask-always`, `ask-off`.
    pub rule: String,
    /// Program by program, which rule and why, for a person.
    pub why: Vec<String>,
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct Policy {
    ask: Ask,
    rules: Vec<Rule>,
    approval_timeout_s: u32,
}

impl Policy {
    /// From the configuration's text, `tools.exec` as JSON.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn from_json(json: &str) -> Result<Self, RuleError> {
        let settings: Settings = serde_json::from_str(json).map_err(|error| RuleError::Json(error.to_string()))?;
        Self::new(&settings)
    }

    /// The built-in rules and the configuration's.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn new(settings: &Settings) -> Result<Self, RuleError> {
        let mut rules = built_in()?;
        rules.extend(read(&serde_json::Value::from(settings.rules.clone()).to_string())?);
        let approval_timeout_s = settings.approval_timeout_seconds.unwrap_or(300);
        if !(1..=86_400).contains(&approval_timeout_s) {
            return Err(RuleError::Json("approvalTimeoutSeconds is 1 to 86400, a day".to_owned()));
        }
        Ok(Self { ask: settings.ask, rules, approval_timeout_s })
    }

    /// Seconds after which silence of the operator is a no.
    #[must_use]
    pub const fn approval_timeout_s(&self) -> u32 {
        self.approval_timeout_s
    }

    /// When a person is asked.
    #[must_use]
    pub const fn ask(&self) -> Ask {
        self.ask
    }

    /// The rules, the built-in ones first.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Decides about a command.
    #[must_use]
    pub fn decide(&self, text: &str, facts: &Facts<'_>) -> Decision {
        let plan = match Plan::of(text) {
            Ok(plan) => plan,
            Err(unclear) => {
                let outcome = if unclear.is_refused() { Outcome::Deny } else { Outcome::Ask };
                let decision = Decision {
                    outcome,
                    plan: None,
                    unclear: Some(unclear),
                    rule: "unclear".to_owned(),
                    why: vec![format!("not understood: {unclear}")],
                };
                return self.mode(decision, facts);
            }
        };
        let mut decision =
            Decision { outcome: Outcome::Allow, plan: None, unclear: None, rule: String::new(), why: Vec::new() };
        for program in plan.programs() {
            let (outcome, rule, why) = self.judge(program, facts);
            if decision.rule.is_empty() || outcome > decision.outcome {
                (decision.outcome, decision.rule) = (outcome, rule);
            }
            decision.why.push(why);
        }
        decision.plan = Some(plan);
        self.mode(decision, facts)
    }

    fn judge(&self, program: &crate::plan::Program, facts: &Facts<'_>) -> (Outcome, String, String) {
        let name = &program.path;
        let mut found: Option<&Rule> = None;
        let mut nearest = None;
        for rule in self.rules.iter().filter(|rule| rule.program == *name && rule.is_for(facts)) {
            match rule.check(program) {
                Ok(()) if found.is_none_or(|found| rule.outcome > found.outcome) => found = Some(rule),
                Ok(()) => {}
                Err(why) if rule.outcome == Outcome::Allow => nearest = Some(format!("rule {}: {why}", rule.id)),
                Err(_) => {}
            }
        }
        match found {
            Some(rule) => {
                (rule.outcome, rule.id.clone(), format!("{name}: rule {} says {}", rule.id, rule.outcome.name()))
            }
            None => {
                let why = nearest.unwrap_or_else(|| "no rule is about it".to_owned());
                (Outcome::Ask, "miss".to_owned(), format!("{name}: {why}"))
            }
        }
    }

    /// True where no rule is about this program with these arguments.
    pub(crate) fn misses(&self, program: &crate::plan::Program, facts: &Facts<'_>) -> bool {
        self.judge(program, facts).1 == "miss"
    }

    /// The same with more rules, from the text of a JSON list.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn with(&self, json: &str) -> Result<Self, RuleError> {
        let mut more = self.clone();
        more.rules.extend(read(json)?);
        Ok(more)
    }

    /// What the operator's choice makes of it.
    fn mode(&self, mut decision: Decision, facts: &Facts<'_>) -> Decision {
        let (outcome, rule) = match (self.ask, decision.outcome) {
            (Ask::Off, Outcome::Ask) if facts.is_strict() => {
                decision
                    .why
                    .push("strangers' words reach this conversation, so tools.exec.ask off is not for it".to_owned());
                return decision;
            }
            (Ask::Off, Outcome::Ask) => (Outcome::Allow, "ask-off"),
            (Ask::Always, Outcome::Allow) => (Outcome::Ask, "ask-always"),
            _ => return decision,
        };
        decision.outcome = outcome;
        decision.rule = rule.to_owned();
        decision
    }
}
