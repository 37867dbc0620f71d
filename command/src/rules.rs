//! Rules: a program, a grammar of its arguments, for whom, and what then. Read from JSON, the built-in ones as well as the
//! operator's, and each tried on its own examples before any of them counts.

use crate::decide::{Class, Facts, Place};
use crate::grammar::{Grammar, Style, beneath};
use crate::lex::Direction;
use crate::plan::{Arg, Plan, Program, Stream};
use serde::Deserialize;

/// What comes of a rule. The strictest of those that match wins.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It runs, from the plan.
    #[default]
    Allow,
    /// A person is asked.
    Ask,
    /// It does not run, and nobody is asked.
    Deny,
}

impl Outcome {
    /// The outcome's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// A rule as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    /// How it is called; the program where nothing is said.
    #[serde(default)]
    id: Option<String>,
    /// An absolute path, or a name in `/usr/bin`.
    program: String,
    #[serde(default)]
    decision: Outcome,
    #[serde(default)]
    style: Style,
    /// Options that it may have; every one where it is `*`.
    #[serde(default)]
    options: String,
    /// Operands that it may have.
    #[serde(default)]
    operands: String,
    /// One of these stands among the arguments.
    #[serde(default)]
    contains: Vec<String>,
    /// Output may be redirected to files beneath the workspace.
    #[serde(default)]
    redirects: bool,
    /// Agents that it is for; empty is all.
    #[serde(default)]
    agents: Vec<String>,
    /// Classes of session that it is for; empty is all.
    #[serde(default)]
    sessions: Vec<Class>,
    /// Backends that it is for; empty is all.
    #[serde(default)]
    backends: Vec<Place>,
    /// Commands that it is about.
    #[serde(rename = "match")]
    matches: Vec<String>,
    /// Commands that it is not about.
    no_match: Vec<String>,
}

/// A rule that stood its examples.
#[derive(Clone, Debug)]
pub struct Rule {
    /// How it is called.
    pub id: String,
    /// Absolute path of the program.
    pub program: String,
    /// What comes of it.
    pub outcome: Outcome,
    grammar: Option<Grammar>,
    written: Written,
}

/// Why a set of rules is none.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// It is not a list of rules.
    #[error("the rules do not read: {0}")]
    Json(String),
    /// One of them is not one.
    #[error("rule {id}: {why}")]
    Rule {
        /// Which.
        id: String,
        /// What is wrong with it.
        why: String,
    },
    /// An example came out the other way.
    #[error("rule {id}: the example {example:?} {how}")]
    Example {
        /// Which.
        id: String,
        /// The example.
        example: String,
        /// What came of it.
        how: String,
    },
}

impl Rule {
    fn compile(written: Written) -> Result<Self, RuleError> {
        let id = written.id.clone().unwrap_or_else(|| written.program.clone());
        let wrong = |why: String| RuleError::Rule { id: id.clone(), why };
        let program = if written.program.starts_with('/') {
            written.program.clone()
        } else {
            format!("/usr/bin/{}", written.program)
        };
        // As commands name it, or it could never match.
        let plan = Plan::of(&program).map_err(|error| wrong(format!("program: {error}")))?;
        if plan.programs().next().is_none_or(|planned| planned.path != program) {
            return Err(wrong(format!("program: {program} is no path of a program; those of /bin are in /usr/bin")));
        }
        if written.matches.is_empty() || written.no_match.is_empty() {
            return Err(wrong("it needs examples, of match and of noMatch".to_owned()));
        }
        let any = written.options == "*";
        if any && written.decision == Outcome::Allow {
            return Err(wrong("options \"*\" is for ask and deny: what is allowed is listed".to_owned()));
        }
        let grammar = match any {
            true => None,
            false => Some(Grammar::new(written.style, &written.options, &written.operands).map_err(wrong)?),
        };
        let rule = Self { id, program, outcome: written.decision, grammar, written };
        rule.try_examples()?;
        Ok(rule)
    }

    fn try_examples(&self) -> Result<(), RuleError> {
        let wrong =
            |example: &str, how: String| RuleError::Example { id: self.id.clone(), example: example.to_owned(), how };
        for (examples, wanted) in [(&self.written.matches, true), (&self.written.no_match, false)] {
            for example in examples {
                let plan = match Plan::of(example) {
                    Ok(plan) => plan,
                    Err(_) if !wanted => continue,
                    Err(error) => return Err(wrong(example, format!("is not understood: {error}"))),
                };
                let missed = plan.programs().find_map(|program| self.check(program).err());
                match (missed, wanted) {
                    (Some(why), true) => return Err(wrong(example, format!("should match and does not: {why}"))),
                    (None, false) => return Err(wrong(example, "matches and should not".to_owned())),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether the rule is for these circumstances.
    #[must_use]
    pub fn is_for(&self, facts: &Facts<'_>) -> bool {
        let Written { agents, sessions, backends, .. } = &self.written;
        (agents.is_empty() || agents.iter().any(|agent| agent == facts.agent()))
            && (sessions.is_empty() || sessions.contains(&facts.class()))
            && (backends.is_empty() || backends.contains(&facts.place))
    }

    /// Whether the rule is about this program with these arguments; if not, why.
    ///
    /// # Errors
    /// What does not fit, for a person.
    pub fn check(&self, program: &Program) -> Result<(), String> {
        if program.path != self.program {
            return Err(format!("{} is another program", program.path));
        }
        let holds = |wanted: &String| program.args.iter().any(|arg| arg.text() == wanted);
        if !self.written.contains.is_empty() && !self.written.contains.iter().any(holds) {
            return Err("it has none of the arguments that the rule is about".to_owned());
        }
        if let Some(grammar) = &self.grammar {
            grammar.check(&program.args)?;
            program.streams.iter().try_for_each(|stream| self.stream(stream))?;
        }
        Ok(())
    }

    fn stream(&self, stream: &Stream) -> Result<(), String> {
        match stream {
            Stream::As(..) => Ok(()),
            Stream::File(_, _, name) if name == "/dev/null" => Ok(()),
            Stream::File(_, Direction::Read, name) => beneath(name),
            Stream::File(_, _, name) if self.written.redirects => beneath(name),
            Stream::File(_, _, name) => Err(format!("it writes to {name}")),
        }
    }

    /// What of it is the operator's business, in a line.
    #[must_use]
    pub fn scope(&self) -> String {
        let mut scope = Vec::new();
        if !self.written.agents.is_empty() {
            scope.push(format!("agents {}", self.written.agents.join(" ")));
        }
        if !self.written.sessions.is_empty() {
            let names: Vec<&str> = self.written.sessions.iter().map(|class| class.name()).collect();
            scope.push(format!("sessions {}", names.join(" ")));
        }
        if !self.written.backends.is_empty() {
            let names: Vec<&str> = self.written.backends.iter().map(|place| place.name()).collect();
            scope.push(format!("backends {}", names.join(" ")));
        }
        if scope.is_empty() { "all".to_owned() } else { scope.join(", ") }
    }

    /// Its first example.
    #[must_use]
    pub fn example(&self) -> &str {
        self.written.matches.first().map(String::as_str).unwrap_or_default()
    }

    /// How many examples it stood.
    #[must_use]
    pub fn examples(&self) -> usize {
        self.written.matches.len().saturating_add(self.written.no_match.len())
    }
}

/// Reads rules from the text of a JSON list, and tries each on its examples.
///
/// # Errors
/// [`RuleError`], at the first that is wrong.
pub fn read(json: &str) -> Result<Vec<Rule>, RuleError> {
    let written: Vec<Written> = serde_json::from_str(json).map_err(|error| RuleError::Json(error.to_string()))?;
    written.into_iter().map(Rule::compile).collect()
}

/// The rules that are always there: programs that read and print, as far as they only do that.
///
/// # Errors
/// Where this build is broken; a test says that it is not.
pub fn built_in() -> Result<Vec<Rule>, RuleError> {
    read(include_str!("built-in.json"))
}

/// True where the argument is the literal text.
pub(crate) fn is(arg: &Arg, text: &str) -> bool {
    matches!(arg, Arg::Literal(literal) if literal == text)
}
