//! Changes to the text of a configuration that leave the rest of it alone: comments, order, spelling, `${NAME}`. Pure; who
//! writes the file checks the result first.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstNode, CstObject, CstRootNode};
use serde_json::Value;

/// Why a text cannot be changed so.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EditError {
    /// The text is no JSON5, or no object.
    #[error("the file is not a configuration as it stands: {0}")]
    Text(String),
    /// The path is not one.
    #[error(
        "{0:?} is no path of a key; write it as gateway.port, agents.list[0].id or channels.telegram.groups[\"-100\"]"
    )]
    Path(String),
    /// Something else stands on the way.
    #[error("{0} is no object that could hold it")]
    NoObject(String),
    /// There is nothing there.
    #[error("{0} is not set in the file")]
    NotSet(String),
}

/// A step of a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// A key of an object.
    Key(String),
    /// A place in a list.
    Index(usize),
}

/// Takes `a.b[0]["c.d"]` apart.
///
/// # Errors
/// [`EditError::Path`].
pub fn parse_path(path: &str) -> Result<Vec<Step>, EditError> {
    let bad = || EditError::Path(path.to_owned());
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (step, after) = match inner.strip_prefix('"') {
                Some(quoted) => {
                    let (key, after) = quoted.split_once("\"]").ok_or_else(bad)?;
                    (Step::Key(key.to_owned()), after)
                }
                None => {
                    let (index, after) = inner.split_once(']').ok_or_else(bad)?;
                    (Step::Index(index.parse().map_err(|_| bad())?), after)
                }
            };
            steps.push(step);
            rest = after;
        } else {
            let rest_of = if steps.is_empty() { Some(rest) } else { rest.strip_prefix('.') };
            let from = rest_of.ok_or_else(bad)?;
            let end = from.find(['.', '[']).unwrap_or(from.len());
            let (key, after) = from.split_at_checked(end).ok_or_else(bad)?;
            if key.is_empty() {
                return Err(bad());
            }
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        }
    }
    if steps.is_empty() { Err(bad()) } else { Ok(steps) }
}

/// Sets the key to the value; objects on the way are made.
///
/// # Errors
/// [`EditError`].
pub fn set(text: &str, path: &str, value: &Value) -> Result<String, EditError> {
    let steps = parse_path(path)?;
    let root = open(text)?;
    let object = root.object_value_or_create().ok_or_else(|| EditError::NoObject("the file".to_owned()))?;
    let (last, way) = steps.split_last().ok_or_else(|| EditError::Path(path.to_owned()))?;
    let holder = descend(CstNode::from(object), way, path, true)?;
    match (last, holder.as_object(), holder.as_array()) {
        (Step::Key(key), Some(object), _) => match object.get(key) {
            Some(member) => member.set_value(input(value)),
            None => drop(object.append(key, input(value))),
        },
        (Step::Index(at), _, Some(array)) => match array.elements().into_iter().nth(*at) {
            Some(element) => drop(replace(element, value)),
            None if *at == array.elements().len() => drop(array.append(input(value))),
            None => return Err(EditError::NotSet(path.to_owned())),
        },
        _ => return Err(EditError::NoObject(path.to_owned())),
    }
    Ok(root.to_string())
}

/// Takes the key out.
///
/// # Errors
/// [`EditError`].
pub fn unset(text: &str, path: &str) -> Result<String, EditError> {
    let steps = parse_path(path)?;
    let root = open(text)?;
    let not_set = || EditError::NotSet(path.to_owned());
    let object = root.object_value().ok_or_else(not_set)?;
    let (last, way) = steps.split_last().ok_or_else(|| EditError::Path(path.to_owned()))?;
    let holder = descend(CstNode::from(object), way, path, false)?;
    match last {
        Step::Key(key) => holder.as_object().and_then(|object| object.get(key)).ok_or_else(not_set)?.remove(),
        Step::Index(at) => {
            let element = holder.as_array().and_then(|array| array.elements().into_iter().nth(*at));
            element.ok_or_else(not_set)?.remove();
        }
    }
    Ok(root.to_string())
}

/// Applies a JSON Merge Patch (RFC 7396): objects are merged, null takes a key out, anything else replaces.
///
/// # Errors
/// [`EditError`].
pub fn patch(text: &str, patch: &Value) -> Result<String, EditError> {
    let root = open(text)?;
    let object = root.object_value_or_create().ok_or_else(|| EditError::NoObject("the file".to_owned()))?;
    let Value::Object(members) = patch else { return Err(EditError::NoObject("the patch".to_owned())) };
    merge(&object, members);
    Ok(root.to_string())
}

fn merge(object: &CstObject, members: &serde_json::Map<String, Value>) {
    for (key, value) in members {
        match (object.get(key), value) {
            (Some(member), Value::Null) => member.remove(),
            (None, Value::Null) => {}
            (Some(member), Value::Object(inner)) => merge(&member.object_value_or_set(), inner),
            (Some(member), value) => member.set_value(input(value)),
            (None, Value::Object(inner)) => merge(&object.object_value_or_set(key), inner),
            (None, value) => drop(object.append(key, input(value))),
        }
    }
}

fn open(text: &str) -> Result<CstRootNode, EditError> {
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    CstRootNode::parse(text, &options).map_err(|error| EditError::Text(error.to_string()))
}

fn descend(from: CstNode, way: &[Step], path: &str, make: bool) -> Result<CstNode, EditError> {
    let mut node = from;
    for step in way {
        let next = match step {
            Step::Key(key) => {
                let object = node.as_object().ok_or_else(|| EditError::NoObject(key.clone()))?;
                match object.get(key) {
                    Some(member) => member.value(),
                    None if make => Some(CstNode::from(object.object_value_or_set(key))),
                    None => None,
                }
            }
            Step::Index(at) => node.as_array().and_then(|array| array.elements().into_iter().nth(*at)),
        };
        node = next.ok_or_else(|| EditError::NotSet(path.to_owned()))?;
    }
    Ok(node)
}

fn replace(node: CstNode, value: &Value) -> Option<CstNode> {
    match node {
        CstNode::Container(jsonc_parser::cst::CstContainerNode::Object(object)) => object.replace_with(input(value)),
        CstNode::Container(jsonc_parser::cst::CstContainerNode::Array(array)) => array.replace_with(input(value)),
        other => {
            if let Some(literal) = other.as_string_lit() {
                literal.replace_with(input(value))
            } else if let Some(literal) = other.as_number_lit() {
                literal.replace_with(input(value))
            } else if let Some(literal) = other.as_boolean_lit() {
                literal.replace_with(input(value))
            } else {
                other.as_null_keyword()?.replace_with(input(value))
            }
        }
    }
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(list) => CstInputValue::Array(list.iter().map(input).collect()),
        Value::Object(members) => {
            CstInputValue::Object(members.iter().map(|(key, value)| (key.clone(), input(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests;
