//! The text of a configuration: JSON5 to values that know where they stand, with `$include` and `${ENV}` resolved.
//!
//! The files are the operator's own; they are read before broker seals itself, and by `moltbot`. An included file lies in
//! the directory of the configuration or beneath it, and is no link: what can be written elsewhere cannot reconfigure us.

use crate::secrets::is_secret_key;
use crate::{ConfigError, Problem};
use jsonc_parser::ast::Value as Ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// Files within files, at most. Source: upstream's bound.
const MAX_DEPTH: usize = 10;

/// Where something stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A configuration as it was written.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its values, includes merged and variables put in.
    pub value: Value,
    /// Where each key stands, by its path as `agents.list[0].id`.
    places: BTreeMap<String, Place>,
    /// Keys whose value came from the environment.
    pub from_env: BTreeSet<String>,
    /// The file.
    pub(crate) file: PathBuf,
}

impl Source {
    /// Where the key stands, or the nearest one around it.
    #[must_use]
    pub fn place(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return place.clone();
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = path.get(..at).unwrap_or_default(),
                None => return Place { file: self.file.clone(), line: 1, column: 1 },
            }
        }
    }

    /// The keys that are written in it.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Makes a problem of it that says where.
    #[must_use]
    pub fn problem(&self, path: &str, message: String) -> Problem {
        Problem { place: self.place(path), path: path.to_owned(), message }
    }
}

/// What variables are looked up in.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a text that stands for the file `file`; what it includes is read from the file's directory.
///
/// # Errors
/// Every [`Problem`] there is, or what the system says of an included file.
pub fn read(text: &str, file: &Path, env: Env<'_>) -> Result<Source, ConfigError> {
    let mut reader = Reader {
        directory: file.parent().unwrap_or(Path::new(".")).to_owned(),
        within: Vec::new(),
        places: BTreeMap::new(),
        problems: Vec::new(),
    };
    let mut value = reader.text(text, file, "")?;
    let Reader { places, mut problems, .. } = reader;
    let mut source = Source { value: Value::Null, places, from_env: BTreeSet::new(), file: file.to_owned() };
    if !value.is_object() && problems.is_empty() {
        problems.push(source.problem("", "a configuration is an object: { ... }".to_owned()));
    }
    source.substitute(&mut value, "", env, &mut problems);
    source.value = value;
    if problems.is_empty() { Ok(source) } else { Err(ConfigError::Invalid { path: file.to_owned(), problems }) }
}

/// A value that stands for itself.
pub(crate) fn literal(text: &str) -> Option<Value> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options()).ok()?.value?;
    let mut reader =
        Reader { directory: PathBuf::new(), within: Vec::new(), places: BTreeMap::new(), problems: Vec::new() };
    let value = reader.value(&parsed, &Lines { text, file: Path::new("") }, "").ok()?;
    reader.problems.is_empty().then_some(value)
}

/// JSON5, which has commas between its members, and numbers that are some.
fn options() -> ParseOptions {
    ParseOptions { allow_missing_commas: false, allow_non_finite_numbers: false, ..ParseOptions::default() }
}

struct Reader {
    directory: PathBuf,
    /// The files that are being read, for circles.
    within: Vec<PathBuf>,
    places: BTreeMap<String, Place>,
    problems: Vec<Problem>,
}

impl Reader {
    /// A whole file, whose root stands at `path` of the configuration.
    fn text(&mut self, text: &str, file: &Path, path: &str) -> Result<Value, ConfigError> {
        let lines = Lines { text, file };
        let parsed = parse_to_ast(text, &CollectOptions::default(), &options());
        match parsed {
            Err(error) => {
                let place = lines.place(error.range().start);
                self.problems.push(Problem { place, path: path.to_owned(), message: lower(&error.kind().to_string()) });
                Ok(Value::Null)
            }
            // An empty file says nothing, and that is not the same as an empty object.
            Ok(parsed) => match parsed.value {
                None => Ok(Value::Null),
                Some(ast) => {
                    self.within.push(file.to_owned());
                    let value = self.value(&ast, &lines, path);
                    self.within.pop();
                    value
                }
            },
        }
    }

    fn value(&mut self, ast: &Ast<'_>, lines: &Lines<'_>, path: &str) -> Result<Value, ConfigError> {
        Ok(match ast {
            Ast::NullKeyword(_) => Value::Null,
            Ast::BooleanLit(literal) => Value::Bool(literal.value),
            Ast::StringLit(literal) => Value::String(literal.value.to_string()),
            Ast::NumberLit(literal) => number(literal.value).unwrap_or_else(|| {
                let message = format!("{} is no number that can be used here", literal.value);
                self.problems.push(Problem { place: lines.place(ast.start()), path: path.to_owned(), message });
                Value::Null
            }),
            Ast::Array(array) => {
                let mut values = Vec::with_capacity(array.elements.len());
                for (at, element) in array.elements.iter().enumerate() {
                    let path = format!("{path}[{at}]");
                    self.places.insert(path.clone(), lines.place(element.start()));
                    values.push(self.value(element, lines, &path)?);
                }
                Value::Array(values)
            }
            Ast::Object(object) => {
                let mut own = Map::new();
                let mut included = Value::Object(Map::new());
                for member in &object.properties {
                    let key = member.name.as_str();
                    let place = lines.place(member.name.range().start);
                    if key == "$include" {
                        for name in names(&member.value) {
                            let more = self.include(name, &place, path)?;
                            merge(&mut included, more);
                        }
                        continue;
                    }
                    let path = join(path, key);
                    if own.contains_key(key) {
                        let message = "is there twice; the second would hide the first".to_owned();
                        self.problems.push(Problem { place: place.clone(), path: path.clone(), message });
                    }
                    self.places.insert(path.clone(), place);
                    own.insert(key.to_owned(), self.value(&member.value, lines, &path)?);
                }
                merge(&mut included, Value::Object(own));
                included
            }
        })
    }

    fn include(&mut self, name: Option<&str>, place: &Place, path: &str) -> Result<Value, ConfigError> {
        let mut refuse = |message: String| {
            self.problems.push(Problem { place: place.clone(), path: join(path, "$include"), message });
            Ok(Value::Object(Map::new()))
        };
        let Some(name) = name else { return refuse("is a file's name, or a list of them".to_owned()) };
        let relative = Path::new(name);
        if !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return refuse(format!("{name}: an included file lies beside the configuration or beneath it"));
        }
        let file = self.directory.join(relative);
        // Every step of the way, so that no directory of it is a link either.
        let mut step = self.directory.clone();
        for part in relative.components() {
            step.push(part);
            if std::fs::symlink_metadata(&step).is_ok_and(|found| found.file_type().is_symlink()) {
                return refuse(format!("{}: a link is not followed; include the file itself", step.display()));
            }
        }
        if self.within.contains(&file) {
            return refuse(format!("{name} includes itself"));
        }
        if self.within.len() >= MAX_DEPTH {
            return refuse(format!("{name}: files within files end at {MAX_DEPTH}"));
        }
        match crate::read_file(&file)? {
            Some(text) => self.text(&text, &file, path),
            None => refuse(format!("{}: there is no such file", file.display())),
        }
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_lowercase().to_string() + chars.as_str())
}

fn names<'a>(value: &'a Ast<'_>) -> Vec<Option<&'a str>> {
    match value {
        Ast::Array(list) => list.elements.iter().map(|name| name.as_string_lit().map(|name| &*name.value)).collect(),
        one => vec![one.as_string_lit().map(|name| &*name.value)],
    }
}

/// Objects are merged key by key, lists one after the other; of anything else the later one holds.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                match into.get_mut(&key) {
                    Some(there) => merge(there, value),
                    None => drop(into.insert(key, value)),
                }
            }
        }
        (Value::Array(into), Value::Array(mut from)) => into.append(&mut from),
        (into, from) => *into = from,
    }
}

/// A key's path: `a.b`, and `b` at the root.
#[must_use]
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// JSON5's numbers: signs, hexadecimal, and points at either end (json5.org, section 6).
fn number(text: &str) -> Option<Value> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if let Some(hexadecimal) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let value = i64::from_str_radix(hexadecimal, 16).ok()?;
        return Some(Value::from(if negative { value.checked_neg()? } else { value }));
    }
    if let Ok(value) = text.trim_start_matches('+').parse::<i64>() {
        return Some(Value::from(value));
    }
    let value: f64 = digits.parse().ok()?;
    serde_json::Number::from_f64(if negative { -value } else { value }).map(Value::Number)
}

impl Source {
    fn substitute(&mut self, value: &mut Value, path: &str, env: Env<'_>, problems: &mut Vec<Problem>) {
        match value {
            Value::String(text) => match expand(text, env) {
                Ok(None) => {}
                Ok(Some(expanded)) => {
                    self.from_env.insert(path.to_owned());
                    *text = expanded;
                }
                // A secret's variable is needed until the vault has the secret, and not longer.
                Err(_) if is_reference(text) && is_secret_key(last_key(path)) => {}
                Err(name) => problems.push(self.problem(
                    path,
                    format!("the environment has no {name}, or an empty one; set it where Moltbot is started, or write $${{{name}}} for the text itself"),
                )),
            },
            Value::Array(list) => {
                for (at, value) in list.iter_mut().enumerate() {
                    self.substitute(value, &format!("{path}[{at}]"), env, problems);
                }
            }
            Value::Object(members) => {
                for (key, value) in members.iter_mut() {
                    self.substitute(value, &join(path, key), env, problems);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The last key of a path, whatever it is in.
fn last_key(path: &str) -> &str {
    let path = path.trim_end_matches(|c: char| c == ']' || c == '[' || c.is_ascii_digit());
    path.rsplit('.').next().unwrap_or(path)
}

/// Puts `${NAME}` in, NAME being `[A-Z_][A-Z0-9_]*`; `$${NAME}` is the text `${NAME}`. Anything else stays as it is.
/// None where there was nothing to put in; the name, where the environment lacks it.
fn expand(text: &str, env: Env<'_>) -> Result<Option<String>, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find("${") {
        let (before, from) = (rest.get(..at).unwrap_or_default(), rest.get(at + 2..).unwrap_or_default());
        let Some(name) = from.split_once('}').map(|(name, _)| name).filter(|name| is_name(name)) else {
            out.push_str(before);
            out.push_str("${");
            rest = from;
            continue;
        };
        changed = true;
        match before.strip_suffix('$') {
            Some(before) => {
                out.push_str(before);
                out.push_str(&format!("${{{name}}}"));
            }
            None => {
                out.push_str(before);
                out.push_str(&env(name).filter(|value| !value.is_empty()).ok_or_else(|| name.to_owned())?);
            }
        }
        rest = from.get(name.len() + 1..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(changed.then_some(out))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase() || first == '_')
        && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// True where the text is nothing but a reference to the environment: it may stand in the file, whatever it stands for.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')).is_some_and(is_name)
}

struct Lines<'a> {
    text: &'a str,
    file: &'a Path,
}

impl Lines<'_> {
    fn place(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Place { file: self.file.to_owned(), line, column }
    }
}

#[cfg(test)]
mod tests;
