//! Arguments of a call. What is missing, is of another kind, or is not known, is a sentence for the model.

use crate::model::calls::Call;
use serde_json::{Map, Value};

pub(super) struct Args<'c> {
    tool: &'c str,
    map: &'c Map<String, Value>,
}

impl<'c> Args<'c> {
    /// Takes them; `known` are the names there may be.
    pub(super) fn of(call: &'c Call, known: &[&str]) -> Result<Self, String> {
        let (tool, map) = (call.name.as_str(), &call.arguments);
        match map.iter().find(|(name, value)| !known.contains(&name.as_str()) && !value.is_null()) {
            Some((name, _)) => {
                let name: String = name.chars().take(40).collect();
                Err(format!("{tool}: there is no argument {name} here; there are: {}", known.join(", ")))
            }
            None => Ok(Self { tool, map }),
        }
    }

    fn value(&self, name: &str) -> Option<&'c Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A text, where it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'c str>, String> {
        self.value(name)
            .map(|value| value.as_str().ok_or_else(|| format!("{}: {name} must be a string", self.tool)))
            .transpose()
    }

    /// A text under the first of these names; models mix them up.
    pub(super) fn needed(&self, names: &[&str]) -> Result<&'c str, String> {
        for name in names {
            if let Some(text) = self.text(name)? {
                return Ok(text);
            }
        }
        Err(format!("{}: {} is missing", self.tool, names.first().copied().unwrap_or_default()))
    }

    /// A number, where it is there. Some models write numbers as text.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, String> {
        let wrong = || format!("{}: {name} must be a whole number, 0 or more", self.tool);
        let number = |value: &Value| {
            value
                .as_u64()
                .or_else(|| value.as_f64().and_then(|float| format!("{float:.0}").parse().ok()))
                .or_else(|| value.as_str()?.trim().parse().ok())
                .ok_or_else(wrong)
        };
        self.value(name).map(number).transpose()
    }

    /// Yes or no; no where nothing is said.
    pub(super) fn flag(&self, name: &str) -> Result<bool, String> {
        let wrong = || format!("{}: {name} must be true or false", self.tool);
        self.value(name).map_or(Ok(false), |value| value.as_bool().ok_or_else(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_are_taken_or_their_fault_is_named() {
        let arguments =
            json!({"path": "x", "offset": "7", "limit": 3.0, "all": true, "none": null, "odd": [], "bad": -1});
        let call = Call {
            id: "c".to_owned(),
            name: "read".to_owned(),
            arguments: arguments.as_object().unwrap().clone(),
            flaw: None,
        };
        assert!(Args::of(&call, &["path"]).is_err_and(|why| why.contains("no argument")));
        let args = Args::of(&call, &["path", "offset", "limit", "all", "odd", "bad"]).unwrap();
        assert_eq!(args.needed(&["file", "path"]), Ok("x"));
        assert_eq!((args.number("offset"), args.number("limit")), (Ok(Some(7)), Ok(Some(3))));
        assert_eq!((args.number("gone"), args.flag("all"), args.flag("gone")), (Ok(None), Ok(true), Ok(false)));
        assert!(args.text("odd").is_err() && args.number("bad").is_err() && args.flag("odd").is_err());
        assert_eq!(args.needed(&["gone"]), Err("read: gone is missing".to_owned()));
    }
}
