//! The arguments that a rule is about: which options there are, what stands behind them, what operands may be. What is not
//! in the grammar is a miss: no abbreviations, no unknown letters in a cluster.

use crate::plan::{Arg, CWD};
use std::collections::BTreeMap;

/// What a value or an operand may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Digits, with a sign before and two letters behind at most.
    Number,
    /// Letters, digits and `_ . : , % + / -`, not beginning with a dash.
    Word,
    /// Anything literal.
    Text,
    /// A file beneath the workspace, and no hidden one.
    Path,
    /// A plus sign and anything literal, as `date` takes it.
    Format,
}

/// How often an operand may come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Times {
    Once,
    AtMostOnce,
    Any,
}

/// What stands behind an option.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Value {
    None,
    /// Glued to it or the next argument.
    Needed(Kind),
    /// Behind `=` or not there.
    Glued(Kind),
}

/// How options are written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// `-la`, `--all`, `--width=3`, `--`.
    #[default]
    Getopt,
    /// Whole words, as `find` has them.
    Words,
    /// None: every argument is an operand.
    None,
}

/// A compiled grammar.
#[derive(Clone, Debug, Default)]
pub struct Grammar {
    style: Style,
    options: BTreeMap<String, Value>,
    operands: Vec<Operand>,
}

/// What may stand where no option does.
#[derive(Clone, Debug)]
enum Operand {
    Of(Kind, Times),
    /// This word and no other.
    Exactly(String),
}

fn kind(text: &str) -> Result<Kind, String> {
    match text {
        "number" => Ok(Kind::Number),
        "word" => Ok(Kind::Word),
        "text" => Ok(Kind::Text),
        "path" => Ok(Kind::Path),
        "format" => Ok(Kind::Format),
        other => Err(format!("{other:?} is none of number, word, text, path, format")),
    }
}

impl Grammar {
    /// From a rule's words: options as `-a --all --width:number --color?:word`, operands as `=status text path*`.
    pub(crate) fn new(style: Style, options: &str, operands: &str) -> Result<Self, String> {
        let mut grammar = Self { style, ..Self::default() };
        for option in options.split_whitespace() {
            let (name, value) = match option.split_once(':') {
                None => (option, Value::None),
                Some((name, value)) => match name.strip_suffix('?') {
                    Some(name) => (name, Value::Glued(kind(value)?)),
                    None => (name, Value::Needed(kind(value)?)),
                },
            };
            let sound = match (style, name.strip_prefix('-')) {
                (Style::None, _) => false,
                (Style::Words, _) => !matches!(value, Value::Glued(_)),
                (Style::Getopt, Some("NUM")) => value == Value::None,
                (Style::Getopt, Some(letters)) => letters.starts_with('-') || letters.chars().count() == 1,
                (Style::Getopt, None) => false,
            };
            if !sound {
                return Err(format!("{option:?} is no option that this style has"));
            }
            grammar.options.insert(name.to_owned(), value);
        }
        for operand in operands.split_whitespace() {
            if let Some(word) = operand.strip_prefix('=') {
                grammar.operands.push(Operand::Exactly(word.to_owned()));
                continue;
            }
            let (name, times) = match (operand.strip_suffix('*'), operand.strip_suffix('?')) {
                (Some(name), _) => (name, Times::Any),
                (_, Some(name)) => (name, Times::AtMostOnce),
                _ => (operand, Times::Once),
            };
            grammar.operands.push(Operand::Of(kind(name)?, times));
        }
        Ok(grammar)
    }

    /// Whether these are arguments of the grammar; if not, which is not and why.
    pub(crate) fn check(&self, args: &[Arg]) -> Result<(), String> {
        let mut operands = self.operands.iter().peekable();
        let mut only_operands = self.style == Style::None;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let text = arg.text();
            let option = match self.style {
                Style::None => false,
                Style::Getopt => text.len() > 1 && text.starts_with('-'),
                Style::Words => text.starts_with('-') || self.options.contains_key(text),
            };
            if only_operands || !option {
                operand(&mut operands, arg)?;
                continue;
            }
            let Arg::Literal(text) = arg else { return Err(format!("{text} may become an option")) };
            if text == "--" && self.style == Style::Getopt {
                only_operands = true;
                continue;
            }
            self.option(text, &mut rest)?;
        }
        let missing = |operand: &&Operand| matches!(operand, Operand::Of(_, Times::Once) | Operand::Exactly(_));
        match operands.find(missing) {
            Some(Operand::Of(kind, _)) => Err(format!("an operand is missing ({kind:?})")),
            Some(Operand::Exactly(word)) => Err(format!("the word {word} is missing")),
            None => Ok(()),
        }
    }

    fn option<'a>(&self, text: &str, rest: &mut impl Iterator<Item = &'a Arg>) -> Result<(), String> {
        let unknown = || format!("the option {text} is not in the grammar");
        if self.style == Style::Words {
            return self.valued(text, None, rest).unwrap_or_else(|| Err(unknown()));
        }
        if text.starts_with("--") {
            let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
            return self.valued(name, value, rest).unwrap_or_else(|| Err(unknown()));
        }
        let letters = text.get(1..).unwrap_or_default();
        if letters.bytes().all(|byte| byte.is_ascii_digit()) && self.options.contains_key("-NUM") {
            return Ok(());
        }
        for (at, letter) in letters.char_indices() {
            let behind = letters.get(at.saturating_add(letter.len_utf8())..).unwrap_or_default();
            match self.options.get(format!("-{letter}").as_str()) {
                None => return Err(unknown()),
                Some(Value::None) => {}
                Some(Value::Glued(_)) if behind.is_empty() => {}
                Some(Value::Glued(kind)) => return fits(*kind, behind),
                Some(Value::Needed(kind)) if behind.is_empty() => return next(*kind, text, rest),
                Some(Value::Needed(kind)) => return fits(*kind, behind),
            }
        }
        Ok(())
    }

    fn valued<'a>(
        &self,
        name: &str,
        value: Option<&str>,
        rest: &mut impl Iterator<Item = &'a Arg>,
    ) -> Option<Result<(), String>> {
        Some(match (self.options.get(name)?, value) {
            (Value::None | Value::Glued(_), None) => Ok(()),
            (Value::None, Some(_)) => Err(format!("{name} takes no value")),
            (Value::Needed(kind) | Value::Glued(kind), Some(value)) => fits(*kind, value),
            (Value::Needed(kind), None) => next(*kind, name, rest),
        })
    }
}

fn next<'a>(kind: Kind, name: &str, rest: &mut impl Iterator<Item = &'a Arg>) -> Result<(), String> {
    match rest.next() {
        Some(Arg::Literal(value)) => fits(kind, value),
        Some(Arg::Pattern(..)) => Err(format!("the value of {name} is a pattern")),
        None => Err(format!("{name} lacks its value")),
    }
}

fn operand(left: &mut std::iter::Peekable<std::slice::Iter<'_, Operand>>, arg: &Arg) -> Result<(), String> {
    let (kind, times) = match left.peek() {
        None => return Err(format!("{} is one operand too many", arg.text())),
        Some(Operand::Exactly(word)) => {
            left.next();
            return if crate::rules::is(arg, word) { Ok(()) } else { Err(format!("{} is not {word}", arg.text())) };
        }
        Some(Operand::Of(kind, times)) => (kind, times),
    };
    if *times != Times::Any {
        left.next();
    }
    match arg {
        Arg::Literal(text) => fits(*kind, text),
        // It becomes names that nobody has seen yet: beneath the workspace they are, options they must not be.
        Arg::Pattern(text, _) if *kind == Kind::Path && *times == Times::Any => {
            if text.starts_with(['*', '?']) {
                return Err(format!("{text} may become an option; ./{text} cannot"));
            }
            fits(*kind, text)
        }
        Arg::Pattern(text, _) => Err(format!("{text} is a pattern")),
    }
}

pub(crate) fn fits(kind: Kind, text: &str) -> Result<(), String> {
    let fits = match kind {
        Kind::Text => true,
        Kind::Format => text.starts_with('+'),
        Kind::Word => {
            !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.:,%+/-".contains(c))
        }
        Kind::Number => {
            let digits = text.trim_start_matches(['+', '-']);
            let unit = digits.trim_start_matches(|c: char| c.is_ascii_digit());
            text.len().saturating_sub(digits.len()) <= 1
                && digits.len() > unit.len()
                && unit.len() <= 3
                && unit.bytes().all(|byte| byte.is_ascii_alphabetic())
        }
        Kind::Path => return beneath(text),
    };
    if fits { Ok(()) } else { Err(format!("{text:?} is no {kind:?}")) }
}

/// A path that stays beneath the workspace, links apart, and names nothing hidden.
pub(crate) fn beneath(text: &str) -> Result<(), String> {
    let relative = text.strip_prefix(CWD).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    if text.is_empty() || (text.starts_with('/') && relative.is_none()) {
        return Err(format!("{text:?} is not beneath the workspace"));
    }
    let mut parts = relative.unwrap_or(text).split('/').filter(|part| !matches!(*part, "" | "."));
    match parts.find(|part| part.starts_with('.')) {
        Some("..") => Err(format!("{text:?} may lead out of the workspace")),
        Some(_) => Err(format!("{text:?} names something hidden")),
        None => Ok(()),
    }
}
