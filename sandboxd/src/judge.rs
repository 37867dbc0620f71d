//! What becomes of a command before it runs: by the rules it runs from its plan, or it is refused with the reason and the
//! narrowest thing that would allow it.

use command::decide::{Decision, Facts, Place, Policy};
use command::plan::Plan;
use command::rules::Outcome;
use command::show::visible;
use proto::edge::Refusal;
use proto::ids::SessionKey;
use proto::sandbox::{Backend, Words, shell, words};

/// The rules in force.
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
}

/// A command that may run.
#[derive(Debug)]
pub struct Ready {
    /// What runs.
    pub words: Words,
    /// What let it.
    pub allowed_by: String,
}

impl Judge {
    /// From `tools.exec` of the configuration; every rule is tried on its examples.
    ///
    /// # Errors
    /// Which rule is wrong, and how.
    pub fn new(exec: &[u8]) -> Result<Self, String> {
        let json = std::str::from_utf8(exec).map_err(|error| format!("tools.exec: {error}"))?;
        let policy = Policy::from_json(json)
            .map_err(|error| format!("tools.exec: {error}; `moltbot sandbox rules test` tries them without a start"))?;
        Ok(Self { policy })
    }

    /// Decides about a command.
    ///
    /// # Errors
    /// [`Refusal`], where it does not run.
    pub fn judge(&self, session: &SessionKey, command: &str, backend: Backend) -> Result<Ready, Refusal> {
        let place = if backend == Backend::Docker { Place::Docker } else { Place::Native };
        let decision = self.policy.decide(command, &Facts { session: &session.0, place });
        match decision.outcome {
            // What no rule allows runs as the text that it is: there may be no plan of it.
            Outcome::Allow if decision.rule == "ask-off" => ready(shell(command), decision.rule),
            Outcome::Allow => {
                let planned = decision.plan.as_ref().map_or_else(|| shell(command), from_plan);
                ready(planned, decision.rule)
            }
            Outcome::Ask => {
                Err(refusal("exec.ask", &decision, "a rule in tools.exec.rules that matches would allow it"))
            }
            Outcome::Deny => Err(refusal("exec.denied", &decision, "no approval allows it")),
        }
    }
}

/// One program runs by itself; where there are more, a shell runs them from the plan's own text, in which every word is
/// quoted.
fn from_plan(plan: &Plan) -> Result<Words, proto::bounded::TooLong> {
    match plan.argv() {
        Some(argv) => words(argv.iter().map(String::as_str)),
        None => shell(&plan.shell()),
    }
}

fn ready(words: Result<Words, proto::bounded::TooLong>, allowed_by: String) -> Result<Ready, Refusal> {
    let too_long =
        |_| Refusal::new("command.too_long", "the command, quoted as it would run, is over 12 KiB; split it");
    Ok(Ready { words: words.map_err(too_long)?, allowed_by })
}

fn refusal(rule: &str, decision: &Decision, way: &str) -> Refusal {
    let why = decision.why.iter().map(|why| visible(why)).collect::<Vec<_>>().join("; ");
    Refusal::new(rule, &format!("{why}; {way}, and `moltbot sandbox explain` shows how it is judged"))
}
