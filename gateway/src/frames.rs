//! Frames of the gateway protocol, versions 3 and 4: one JSON object a text frame. What clients send is hostile: it is
//! read into a `Value` (serde_json bounds the nesting) and checked field by field; nothing is echoed but a bounded id.

use proto::edge::Refusal;
use serde_json::{Map, Value, json};

/// Longest id that is echoed.
const MAX_ID: usize = 256;

/// Error codes of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// The client's fault.
    InvalidRequest,
    /// Not now.
    Unavailable,
    /// Not before the operator has said yes.
    NotPaired,
    /// Not with these scopes; protocol 4 alone has a code for it.
    Forbidden,
}

impl Code {
    const fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::Unavailable => "UNAVAILABLE",
            Self::NotPaired => "NOT_PAIRED",
            Self::Forbidden => "FORBIDDEN",
        }
    }
}

/// Why a request was not carried out, as the client gets to see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Code.
    pub code: Code,
    /// For a person.
    pub message: String,
    /// For a program.
    pub details: Option<Value>,
    /// Milliseconds until it makes sense to try again.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// The client's fault.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: Code::InvalidRequest, message: message.into(), details: None, retry_after_ms: None }
    }

    /// Not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { code: Code::Unavailable, message: message.into(), details: None, retry_after_ms: None }
    }

    /// The same with details.
    #[must_use]
    pub fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The rule that refused, and the operator's command that says more of it.
    #[must_use]
    pub fn by(self, refusal: &Refusal) -> Self {
        self.with(json!({ "code": refusal.rule.as_str(), "explain": refusal.explained_by() }))
    }
}

/// A client's request.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// Comes back with the answer.
    pub id: String,
    /// What is asked.
    pub method: String,
    /// With what; `Null` where nothing came.
    pub params: Value,
}

/// What a text frame turned out to be.
#[derive(Debug, PartialEq)]
pub enum Parsed {
    /// A request.
    Request(Request),
    /// JSON, and no request: the answer's id, and why.
    Malformed(String, String),
    /// No JSON.
    NotJson,
}

/// Reads a text frame.
#[must_use]
pub fn parse(text: &str) -> Parsed {
    match serde_json::from_str(text) {
        Ok(value) => request(value),
        Err(_) => Parsed::NotJson,
    }
}

fn request(value: Value) -> Parsed {
    let Value::Object(mut frame) = value else {
        return Parsed::Malformed("invalid".to_owned(), "invalid request frame: must be object".to_owned());
    };
    let id = match frame.remove("id") {
        Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_ID => id,
        other => {
            let why = if other.is_none() {
                "must have required property 'id'"
            } else {
                "at /id: must be string of 1 to 256 bytes"
            };
            return Parsed::Malformed("invalid".to_owned(), format!("invalid request frame: {why}"));
        }
    };
    if frame.get("type").and_then(Value::as_str) != Some("req") {
        return Parsed::Malformed(id, "invalid request frame: at /type: must be equal to constant \"req\"".to_owned());
    }
    match frame.remove("method") {
        Some(Value::String(method)) if !method.is_empty() => {
            Parsed::Request(Request { id, method, params: frame.remove("params").unwrap_or(Value::Null) })
        }
        None => Parsed::Malformed(id, "invalid request frame: must have required property 'method'".to_owned()),
        Some(_) => Parsed::Malformed(id, "invalid request frame: at /method: must be a non-empty string".to_owned()),
    }
}

/// The answer to request `id`.
#[must_use]
pub fn response(id: &str, outcome: &Result<Value, Failure>) -> String {
    match outcome {
        Ok(payload) => json!({"type": "res", "id": id, "ok": true, "payload": payload}),
        Err(failure) => {
            let mut error = Map::new();
            error.insert("code".to_owned(), failure.code.name().into());
            error.insert("message".to_owned(), failure.message.as_str().into());
            if let Some(details) = &failure.details {
                error.insert("details".to_owned(), details.clone());
            }
            if let Some(after) = failure.retry_after_ms {
                error.insert("retryable".to_owned(), true.into());
                error.insert("retryAfterMs".to_owned(), after.into());
            }
            json!({"type": "res", "id": id, "ok": false, "error": error})
        }
    }
    .to_string()
}

/// An event; `payload` is JSON already, since one payload goes to many.
#[must_use]
pub fn event(name: &str, payload: &str, seq: Option<u64>) -> String {
    match seq {
        Some(seq) => format!(r#"{{"type":"event","event":"{name}","payload":{payload},"seq":{seq}}}"#),
        None => format!(r#"{{"type":"event","event":"{name}","payload":{payload}}}"#),
    }
}

/// Parameters of one request, with the method's name for the error texts.
#[derive(Debug)]
pub struct Params<'a> {
    what: &'a str,
    map: Map<String, Value>,
}

impl<'a> Params<'a> {
    /// Takes the parameters; absent and null count as empty.
    ///
    /// # Errors
    /// A [`Failure`] where they are no object.
    pub fn new(what: &'a str, params: Value) -> Result<Self, Failure> {
        match params {
            Value::Null => Ok(Self { what, map: Map::new() }),
            Value::Object(map) => Ok(Self { what, map }),
            _ => Err(Failure::invalid(format!("invalid {what} params: must be object"))),
        }
    }

    /// The error for field `path`.
    #[must_use]
    pub fn wrong(&self, path: &str, must: &str) -> Failure {
        Failure::invalid(format!("invalid {} params: at /{path}: must {must}", self.what))
    }

    /// The error for a field that is not there.
    #[must_use]
    pub fn missing(&self, name: &str) -> Failure {
        Failure::invalid(format!("invalid {} params: must have required property '{name}'", self.what))
    }

    /// An optional text of `min` to `max` bytes.
    ///
    /// # Errors
    /// A [`Failure`] where it is something else.
    pub fn text(&self, name: &str, min: usize, max: usize) -> Result<Option<&str>, Failure> {
        match self.map.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.len() < min => {
                Err(self.wrong(name, &format!("NOT have fewer than {min} characters")))
            }
            Some(Value::String(text)) if text.len() > max => {
                Err(self.wrong(name, &format!("NOT have more than {max} bytes")))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name, "be string")),
        }
    }

    /// A text that must be there.
    ///
    /// # Errors
    /// A [`Failure`] where it is absent or something else.
    pub fn required(&self, name: &str, min: usize, max: usize) -> Result<&str, Failure> {
        self.text(name, min, max)?.ok_or_else(|| self.missing(name))
    }

    /// An optional whole number of `min` to `max`.
    ///
    /// # Errors
    /// A [`Failure`] where it is something else.
    pub fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.map.get(name) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if number < min => Err(self.wrong(name, &format!("be >= {min}"))),
            Some(number) if number > max => Err(self.wrong(name, &format!("be <= {max}"))),
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, "be integer")),
        }
    }

    /// Takes a field out, unchecked.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name)
    }

    /// Checks that a field, where present, is of the named kind.
    ///
    /// # Errors
    /// A [`Failure`] where it is not.
    pub fn kind(&self, name: &str, kind: &str) -> Result<(), Failure> {
        let fits = self.map.get(name).is_none_or(|value| match kind {
            "boolean" => value.is_boolean(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => value.is_string(),
        });
        if fits { Ok(()) } else { Err(self.wrong(name, &format!("be {kind}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_request_is_taken_apart() {
        let parsed = parse(r#"{"type":"req","id":"1","method":"health","extra":true}"#);
        assert_eq!(parsed, Parsed::Request(Request { id: "1".into(), method: "health".into(), params: Value::Null }));
    }

    #[test]
    fn parse_malformed_frames_keep_the_id_where_there_is_one() {
        let id = |text: &str| match parse(text) {
            Parsed::Malformed(id, _) => id,
            other => panic!("{other:?}"),
        };
        assert_eq!(id(r#"{"type":"req","id":"7"}"#), "7");
        assert_eq!(id(r#"{"type":"event","id":"7","method":"x"}"#), "7");
        assert_eq!(id(r#"{"type":"req","id":7,"method":"x"}"#), "invalid");
        assert_eq!(id("[1]"), "invalid");
    }

    #[test]
    fn params_errors_name_the_field_as_other_gateways_do() {
        let params = Params::new("chat.send", json!({"message": 5})).unwrap();
        let failure = params.required("message", 0, 10).unwrap_err();
        assert_eq!(failure.message, "invalid chat.send params: at /message: must be string");
        let failure = params.required("sessionKey", 1, 10).unwrap_err();
        assert_eq!(failure.message, "invalid chat.send params: must have required property 'sessionKey'");
        let good = Params::new("chat.send", json!({"message": "hi"})).unwrap();
        assert_eq!(good.required("message", 0, 10), Ok("hi"));
    }

    proptest! {
        #[test]
        fn parse_any_text_never_panics(text in ".*") {
            let _ = parse(&text);
        }
    }
}
