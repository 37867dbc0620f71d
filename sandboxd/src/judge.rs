//! What becomes of a command before it runs: by the rules it runs from its plan, or the operator is asked, or it is refused
//! with the reason.

use command::decide::{Decision, Facts, Place, Policy};
use command::plan::Plan;
use command::rules::Outcome;
use command::show::visible;
use command::tools::ToolPolicy;
use proto::approval::Subject;
use proto::bounded::{BoundedStr, TooLong};
use proto::edge::Refusal;
use proto::ids::SessionKey;
use proto::sandbox::{Backend, ExecOptions, Words, shell, words};

/// Why what a rule allows is asked about.
const SUSPENDED: &str = "something only an attack does was seen in this conversation's sandbox";

/// The rules in force.
#[derive(Debug)]
pub struct Judge {
    policy: Policy,
    tools: ToolPolicy,
}

/// What becomes of a command.
#[derive(Debug)]
pub enum Verdict {
    /// It runs.
    Run(Ready),
    /// It runs where the operator says so.
    Ask(Box<Subject>, Words),
}

/// A command that may run.
#[derive(Debug)]
pub struct Ready {
    /// What runs.
    pub words: Words,
    /// What let it.
    pub allowed_by: String,
}

/// Where a command will run, as far as an approval is bound to it.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'s> {
    /// Which backend.
    pub backend: Backend,
    /// The image's digest; empty where there is none.
    pub image: &'s str,
    /// The agent's workspace is in it: to be written, or to be read beside its own.
    pub agent: Option<bool>,
    /// How.
    pub options: &'s ExecOptions,
    /// Something was seen in the conversation's sandbox, so that nothing of it runs unasked.
    pub suspended: bool,
}

impl Judge {
    /// From `tools.exec` and `tools` of the configuration; every rule is tried on its examples.
    ///
    /// # Errors
    /// Which rule is wrong, and how.
    pub fn new(exec: &[u8], tools: &[u8]) -> Result<Self, String> {
        let json = std::str::from_utf8(exec).map_err(|error| format!("tools.exec: {error}"))?;
        let policy = Policy::from_json(json)
            .map_err(|error| format!("tools.exec: {error}; `moltbot sandbox rules test` tries them without a start"))?;
        let tools = std::str::from_utf8(tools).map_err(|error| format!("tools: {error}"))?;
        Ok(Self { policy, tools: ToolPolicy::from_json(tools)? })
    }

    /// May the conversation use this tool?
    ///
    /// # Errors
    /// [`Refusal`], where it may not.
    pub fn may_use(&self, session: &SessionKey, tainted: bool, tool: &str) -> Result<(), Refusal> {
        // No tool differs by place.
        let facts = Facts { session: &session.0, place: Place::Native, tainted };
        self.tools.check(tool, &facts).map_err(|why| Refusal::new("tools.denied", &why))
    }

    /// The tools that the conversation may use.
    #[must_use]
    pub fn tools(&self, session: &SessionKey, tainted: bool) -> Vec<&'static str> {
        self.tools.allowed(&Facts { session: &session.0, place: Place::Native, tainted })
    }

    /// Decides about a command.
    ///
    /// # Errors
    /// [`Refusal`], where it does not run.
    pub fn judge(
        &self,
        session: &SessionKey,
        tainted: bool,
        command: &BoundedStr<8192>,
        around: Surroundings<'_>,
    ) -> Result<Verdict, Refusal> {
        let place = if around.backend == Backend::Docker { Place::Docker } else { Place::Native };
        let decision = self.policy.decide(command, &Facts { session: &session.0, place, tainted });
        // What no rule allows runs as the text that it is: there may be no plan of it, and it is what a person is shown.
        let as_text = decision.outcome == Outcome::Ask || decision.rule == "ask-off";
        let plan = decision.plan.as_ref().filter(|_| !as_text);
        let words = plan.map_or_else(|| shell(command), from_plan);
        match decision.outcome {
            Outcome::Allow if around.suspended => {
                let words = bounded(words)?;
                let mut subject = subject(session, command, &decision, &words, around);
                subject.why = BoundedStr::truncated(SUSPENDED);
                Ok(Verdict::Ask(Box::new(subject), words))
            }
            Outcome::Allow => Ok(Verdict::Run(Ready { words: bounded(words)?, allowed_by: decision.rule })),
            Outcome::Ask => {
                let words = bounded(words)?;
                Ok(Verdict::Ask(Box::new(subject(session, command, &decision, &words, around)), words))
            }
            Outcome::Deny => Err(refusal("exec.denied", &decision, "no approval allows it")),
        }
    }

    /// Seconds after which silence is a no.
    #[must_use]
    pub const fn timeout_s(&self) -> u32 {
        self.policy.approval_timeout_s()
    }
}

/// What the operator is shown, and what a yes is bound to.
fn subject(
    session: &SessionKey,
    command: &BoundedStr<8192>,
    decision: &Decision,
    words: &Words,
    around: Surroundings<'_>,
) -> Subject {
    let image = format!("{} {}", around.backend.name(), around.image);
    let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
    Subject {
        session: session.clone(),
        command: command.clone(),
        why: BoundedStr::truncated(&decision.why.join("; ")),
        runs: BoundedStr::truncated(&command::plan::quoted_words(&words)),
        cwd: BoundedStr::truncated(&directory(&around.options.cwd)),
        environment: BoundedStr::truncated(&environment(around.options)),
        image: BoundedStr::truncated(image.trim_end()),
        mounts: BoundedStr::truncated(mounts(around)),
        network: BoundedStr::truncated("none"),
        secrets: BoundedStr::truncated("none"),
    }
}

/// What of files it has.
const fn mounts(around: Surroundings<'_>) -> &'static str {
    match (around.backend, around.agent) {
        (Backend::Docker, None) => "read-only image; tmpfs /tmp and /workspace",
        (Backend::Docker, Some(true)) => "read-only image; the agent's /workspace, writable; tmpfs /tmp",
        (Backend::Docker, Some(false)) => "read-only image; the agent's workspace as /agent; tmpfs /tmp and /workspace",
        (Backend::NativeN1, None) => "read-only programs of the host; the session's /workspace, writable; tmpfs /tmp",
        (Backend::NativeN1, Some(true)) => {
            "read-only programs of the host; the agent's /workspace, writable; tmpfs /tmp"
        }
        (Backend::NativeN1, Some(false)) => {
            "read-only programs of the host; the session's /workspace, writable; the agent's as /agent; tmpfs /tmp"
        }
        (Backend::NativeN2 | Backend::None, Some(true)) => {
            "read-only programs of the host; the agent's workspace, writable"
        }
        (Backend::NativeN2 | Backend::None, _) => "read-only programs of the host; the session's workspace, writable",
    }
}

/// Where it begins, as the sandbox sees it.
fn directory(cwd: &str) -> String {
    match cwd {
        "" => command::plan::CWD.to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("{}/{relative}", command::plan::CWD),
    }
}

/// What it is given, what is written to it later included: nobody judges that.
fn environment(options: &ExecOptions) -> String {
    let mut words = command::plan::ENVIRONMENT.join(" ");
    words.push_str(if options.pty { "; a terminal" } else { "" });
    words.push_str(if options.stdin { "; the conversation writes its input" } else { "" });
    words
}

/// One program runs by itself; where there are more, a shell runs them from the plan's own text, in which every word is
/// quoted.
pub(crate) fn from_plan(plan: &Plan) -> Result<Words, TooLong> {
    match plan.argv() {
        Some(argv) => words(argv.iter().map(String::as_str)),
        None => shell(&plan.shell()),
    }
}

fn bounded(words: Result<Words, TooLong>) -> Result<Words, Refusal> {
    words.map_err(|_| Refusal::new("command.too_long", "the command, quoted as it would run, is over 12 KiB; split it"))
}

fn refusal(rule: &str, decision: &Decision, way: &str) -> Refusal {
    let why = decision.why.iter().map(|why| visible(why)).collect::<Vec<_>>().join("; ");
    Refusal::new(rule, &format!("{why}; {way}, and `moltbot sandbox explain` shows how it is judged"))
}
