//! What will run, down to the last byte: programs by their absolute path, arguments as they will be handed over, where
//! each descriptor leads, in which directory and environment. Rules judge it, approvals are bound to it, and it runs.

use crate::lex::{Direction, Unclear, Word};
use crate::parse::{Join, Pipeline, Redirect, Simple, parse};
use sha2::{Digest, Sha256};

/// Directory in which commands begin.
pub const CWD: &str = "/workspace";
/// The environment of every command.
pub const ENVIRONMENT: [&str; 3] =
    ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8", "HOME=/workspace"];
/// Where a plain name is looked for. Commands cannot write there, in no backend.
const PROGRAMS: &str = "/usr/bin/";

/// Commands of the shell that change what later words mean, or run what is in their arguments.
const BUILTINS: [&str; 56] = [
    ".",
    ":",
    "alias",
    "bg",
    "bind",
    "break",
    "builtin",
    "caller",
    "cd",
    "command",
    "compgen",
    "complete",
    "compopt",
    "continue",
    "declare",
    "dirs",
    "disown",
    "enable",
    "eval",
    "exec",
    "exit",
    "export",
    "fc",
    "fg",
    "getopts",
    "hash",
    "help",
    "history",
    "jobs",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "pushd",
    "read",
    "readarray",
    "readonly",
    "return",
    "set",
    "shift",
    "shopt",
    "source",
    "suspend",
    "times",
    "trap",
    "type",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
    "wait",
    "newgrp",
    "login",
    "chpst",
];

/// One argument.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Arg {
    /// Handed over as it is.
    Literal(String),
    /// Names of files that fit; `*` and `?` stand at these places, all else is literal.
    Pattern(String, Vec<usize>),
}

impl Arg {
    /// What it says, pattern or not.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Literal(text) | Self::Pattern(text, _) => text,
        }
    }
}

/// Where a descriptor of a program leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stream {
    /// To or from a file of this name.
    File(u8, Direction, String),
    /// As another descriptor.
    As(u8, u8),
}

/// One program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Program {
    /// Its absolute path.
    pub path: String,
    /// Its arguments, its own name not among them.
    pub args: Vec<Arg>,
    /// Its redirections, in their order.
    pub streams: Vec<Stream>,
}

/// Programs that feed each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// When it runs.
    pub join: Join,
    /// At least one.
    pub programs: Vec<Program>,
}

/// What will run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// At least one.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Plans a command.
    ///
    /// # Errors
    /// [`Unclear`].
    pub fn of(text: &str) -> Result<Self, Unclear> {
        let steps = parse(text)?.into_iter().map(step).collect::<Result<_, _>>()?;
        Ok(Self { steps })
    }

    /// Every program in it.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.steps.iter().flat_map(|step| &step.programs)
    }

    /// The words of the one program that it is, where it is one without pattern or redirection: it needs no shell.
    #[must_use]
    pub fn argv(&self) -> Option<Vec<String>> {
        let [Step { programs, .. }] = self.steps.as_slice() else { return None };
        let [program] = programs.as_slice() else { return None };
        let literal = program.args.iter().all(|arg| matches!(arg, Arg::Literal(_)));
        let plain = literal && program.streams.is_empty();
        plain.then(|| {
            std::iter::once(&*program.path).chain(program.args.iter().map(Arg::text)).map(str::to_owned).collect()
        })
    }

    /// Text that makes any POSIX shell do this and nothing else: every word is in single quotes, but for the `*` and `?` that
    /// are patterns.
    #[must_use]
    pub fn shell(&self) -> String {
        let mut text = String::new();
        for (at, step) in self.steps.iter().enumerate() {
            text.push_str(match step.join {
                _ if at == 0 => "",
                Join::Always => " ; ",
                Join::IfDone => " && ",
                Join::IfFailed => " || ",
            });
            let programs: Vec<String> = step.programs.iter().map(program_text).collect();
            text.push_str(&programs.join(" | "));
        }
        text
    }

    /// The plan's bytes, the same for the same plan and no other: what is hashed.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        count(&mut bytes, self.steps.len());
        for step in &self.steps {
            bytes.push(match step.join {
                Join::Always => 0,
                Join::IfDone => 1,
                Join::IfFailed => 2,
            });
            count(&mut bytes, step.programs.len());
            step.programs.iter().for_each(|program| encode(&mut bytes, program));
        }
        bytes
    }

    /// SHA-256 of [`Plan::canonical`].
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.canonical()).into()
    }
}

fn count(bytes: &mut Vec<u8>, count: usize) {
    bytes.extend_from_slice(&u64::try_from(count).unwrap_or(u64::MAX).to_le_bytes());
}

fn put(bytes: &mut Vec<u8>, text: &str) {
    count(bytes, text.len());
    bytes.extend_from_slice(text.as_bytes());
}

fn encode(bytes: &mut Vec<u8>, program: &Program) {
    put(bytes, &program.path);
    count(bytes, program.args.len());
    for arg in &program.args {
        let (tag, wild) = match arg {
            Arg::Literal(_) => (0, [].as_slice()),
            Arg::Pattern(_, wild) => (1, wild.as_slice()),
        };
        bytes.push(tag);
        put(bytes, arg.text());
        count(bytes, wild.len());
        wild.iter().for_each(|at| count(bytes, *at));
    }
    count(bytes, program.streams.len());
    for stream in &program.streams {
        match stream {
            Stream::File(fd, direction, name) => {
                let direction = match direction {
                    Direction::Read => 0,
                    Direction::Write => 1,
                    Direction::Append => 2,
                };
                bytes.extend_from_slice(&[0, *fd, direction]);
                put(bytes, name);
            }
            Stream::As(fd, to) => bytes.extend_from_slice(&[1, *fd, *to]),
        }
    }
}

fn step(pipeline: Pipeline) -> Result<Step, Unclear> {
    let programs = pipeline.commands.into_iter().map(program).collect::<Result<_, _>>()?;
    Ok(Step { join: pipeline.join, programs })
}

fn program(simple: Simple) -> Result<Program, Unclear> {
    let mut words = simple.words.into_iter();
    let name = words.next().filter(|name| name.wild.is_empty()).ok_or(Unclear::Program)?;
    let path = locate(&name.text)?;
    let args = words.map(argument).collect();
    let streams = simple.redirects.into_iter().map(stream).collect::<Result<_, _>>()?;
    Ok(Program { path, args, streams })
}

fn argument(word: Word) -> Arg {
    if word.wild.is_empty() { Arg::Literal(word.text) } else { Arg::Pattern(word.text, word.wild) }
}

fn stream(redirect: Redirect) -> Result<Stream, Unclear> {
    match redirect {
        Redirect::As(fd, to) => Ok(Stream::As(fd, to)),
        Redirect::File(fd, direction, word) if word.wild.is_empty() && !word.text.is_empty() => {
            Ok(Stream::File(fd, direction, word.text))
        }
        Redirect::File(..) => Err(Unclear::Redirect),
    }
}

/// The absolute path of a program. Names are looked for where no command can put anything; a relative path is beneath the
/// workspace. Both kinds of root have `/bin` as another name of `/usr/bin`.
fn locate(name: &str) -> Result<String, Unclear> {
    if BUILTINS.contains(&name) {
        return Err(Unclear::Builtin);
    }
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '['))
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-' | '['))
    };
    if let Some(path) = name.strip_prefix('/') {
        if !path.split('/').all(plain) {
            return Err(Unclear::Program);
        }
        return Ok(match path.strip_prefix("bin/") {
            Some(rest) if !rest.contains('/') => format!("{PROGRAMS}{rest}"),
            _ => name.to_owned(),
        });
    }
    match name.strip_prefix("./").unwrap_or(name) {
        path if path.split('/').any(|part| !plain(part)) => Err(Unclear::Program),
        path if name.contains('/') => Ok(format!("{CWD}/{path}")),
        path => Ok(format!("{PROGRAMS}{path}")),
    }
}

fn program_text(program: &Program) -> String {
    let mut words = vec![quoted(&program.path, &[])];
    words.extend(program.args.iter().map(|arg| match arg {
        Arg::Literal(text) => quoted(text, &[]),
        Arg::Pattern(text, wild) => quoted(text, wild),
    }));
    words.extend(program.streams.iter().map(|stream| match stream {
        Stream::As(fd, to) => format!("{fd}>&{to}"),
        Stream::File(fd, direction, name) => {
            let operator = match direction {
                Direction::Read => "<",
                Direction::Write => ">",
                Direction::Append => ">>",
            };
            format!("{fd}{operator}{}", quoted(name, &[]))
        }
    }));
    words.join(" ")
}

/// In single quotes, but for what stands at `wild`.
fn quoted(text: &str, wild: &[usize]) -> String {
    let mut quoted = String::with_capacity(text.len().saturating_add(2));
    quoted.push('\'');
    let mut wild = wild.iter().peekable();
    for (at, c) in text.char_indices() {
        if wild.next_if_eq(&&at).is_some() {
            quoted.extend(['\'', c, '\'']);
        } else if c == '\'' {
            quoted.push_str("'\\''");
        } else {
            quoted.push(c);
        }
    }
    quoted.push('\'');
    quoted
}
