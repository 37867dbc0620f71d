//! What a model says, put together from the events of its stream. Every word of it is untrusted: text for a person, and calls
//! of tools that are judged where they lead. Both providers' events become the same few parts here.

use crate::model::calls::{Call, Parts, TooMany};
use serde_json::{Value, json};

/// Bytes of thoughts that are kept, to be given back beside the calls that came of them.
const MAX_THOUGHTS: usize = 48 * 1024;

/// Tokens.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Read.
    pub input: u64,
    /// Written.
    pub output: u64,
    /// What they cost, in billionths of a US dollar.
    pub nanodollars: u64,
}

impl Usage {
    /// Both of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            nanodollars: self.nanodollars.saturating_add(other.nanodollars),
        }
    }
}

/// A reply so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reply {
    /// What it cost.
    pub usage: Usage,
    /// True where the provider said that it is whole.
    pub whole: bool,
    /// Why it stopped, in the provider's word.
    pub stop: String,
    /// Calls of tools so far.
    parts: Parts,
    /// Anthropic's thoughts, by their block: a provider wants them back with the calls that came of them.
    thoughts: Vec<(u64, Value)>,
    thought: usize,
}

/// Why a stream is no reply. Said to a person, behind the model's name.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReplyError {
    /// An event that is no JSON.
    #[error("it sent an event that is not JSON")]
    NotJson,
    /// Its own word.
    #[error("it broke off: {0}")]
    Said(String),
    /// More than one reply may ask for.
    #[error(transparent)]
    Calls(#[from] TooMany),
}

fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// A provider's error in words, cut to what a person reads.
#[must_use]
pub fn words(error: &Value) -> String {
    let said = ["/error/message", "/message", "/error", "/detail"].into_iter().map(|path| text(error, path));
    let said = said.into_iter().find(|said| !said.is_empty()).unwrap_or("no reason was given");
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

impl Reply {
    /// Takes an event of Anthropic's Messages; returns the text in it.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn on_anthropic(&mut self, event: &str) -> Result<String, ReplyError> {
        let event: Value = serde_json::from_str(event).map_err(|_| ReplyError::NotJson)?;
        let tokens = |path: &str| event.pointer(path).and_then(Value::as_u64);
        match text(&event, "/type") {
            "message_start" => {
                let kinds = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
                let read = |kind| tokens(&format!("/message/usage/{kind}")).unwrap_or_default();
                self.usage.input = kinds.into_iter().map(read).fold(0, u64::saturating_add);
            }
            "content_block_start" => return self.on_block(&event),
            "content_block_delta" => return self.on_delta(&event),
            "message_delta" => {
                self.usage.output = tokens("/usage/output_tokens").unwrap_or(self.usage.output);
                self.usage.input = tokens("/usage/input_tokens").filter(|read| *read > 0).unwrap_or(self.usage.input);
                self.stop = text(&event, "/delta/stop_reason").to_owned();
            }
            "message_stop" => self.whole = true,
            "error" => return Err(ReplyError::Said(words(&event))),
            _ => {}
        }
        Ok(String::new())
    }

    /// Takes an event of chat completions; returns the text in it.
    ///
    /// # Errors
    /// [`ReplyError`].
    pub fn on_openai(&mut self, event: &str) -> Result<String, ReplyError> {
        if event.trim() == "[DONE]" {
            self.whole = true;
            return Ok(String::new());
        }
        let event: Value = serde_json::from_str(event).map_err(|_| ReplyError::NotJson)?;
        if event.get("error").is_some_and(|error| !error.is_null()) {
            return Err(ReplyError::Said(words(&event)));
        }
        if let Some(read) = event.pointer("/usage/prompt_tokens").and_then(Value::as_u64) {
            let wrote = event.pointer("/usage/completion_tokens").and_then(Value::as_u64);
            self.usage = Usage { input: read, output: wrote.unwrap_or_default(), nanodollars: 0 };
        }
        for part in event.pointer("/choices/0/delta/tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let index = part.get("index").and_then(Value::as_u64).unwrap_or_default();
            let function = |name: &str| part.pointer(name).and_then(Value::as_str).unwrap_or_default();
            self.parts.begin(index, text(part, "/id"), function("/function/name"))?;
            self.parts.more(index, function("/function/arguments"));
        }
        let stop = text(&event, "/choices/0/finish_reason");
        if !stop.is_empty() {
            stop.clone_into(&mut self.stop);
            self.whole = true;
        }
        Ok(text(&event, "/choices/0/delta/content").to_owned())
    }

    fn on_block(&mut self, event: &Value) -> Result<String, ReplyError> {
        let index = event.get("index").and_then(Value::as_u64).unwrap_or_default();
        match text(event, "/content_block/type") {
            "tool_use" => {
                self.parts.begin(index, text(event, "/content_block/id"), text(event, "/content_block/name"))?;
                // Some give all of it at once.
                let whole = event.pointer("/content_block/input").and_then(Value::as_object);
                if let Some(whole) = whole.filter(|whole| !whole.is_empty()) {
                    self.parts.more(index, &Value::from(whole.clone()).to_string());
                }
            }
            "thinking" => self.think(index, json!({"type": "thinking", "thinking": "", "signature": ""})),
            "redacted_thinking" => {
                let data = text(event, "/content_block/data");
                self.think(index, json!({"type": "redacted_thinking", "data": data}));
            }
            _ => return Ok(text(event, "/content_block/text").to_owned()),
        }
        Ok(String::new())
    }

    fn on_delta(&mut self, event: &Value) -> Result<String, ReplyError> {
        let index = event.get("index").and_then(Value::as_u64).unwrap_or_default();
        match text(event, "/delta/type") {
            "text_delta" => return Ok(text(event, "/delta/text").to_owned()),
            "input_json_delta" => self.parts.more(index, text(event, "/delta/partial_json")),
            // Its thoughts are its own; it wants them back all the same.
            "thinking_delta" => self.think_on(index, "thinking", text(event, "/delta/thinking")),
            "signature_delta" => self.think_on(index, "signature", text(event, "/delta/signature")),
            _ => {}
        }
        Ok(String::new())
    }

    fn think(&mut self, index: u64, thought: Value) {
        self.thought = self.thought.saturating_add(thought.to_string().len());
        self.thoughts.push((index, thought));
    }

    fn think_on(&mut self, index: u64, part: &str, more: &str) {
        self.thought = self.thought.saturating_add(more.len());
        let thought =
            self.thoughts.iter_mut().find(|(at, _)| *at == index).and_then(|(_, thought)| thought.get_mut(part));
        if let (Some(Value::String(text)), true) = (thought, self.thought <= MAX_THOUGHTS) {
            text.push_str(more);
        }
    }

    /// The calls of tools in it, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.parts.calls()
    }

    /// Its thoughts, as the provider wants them back; none where they are more than is kept.
    #[must_use]
    pub fn thoughts(&self) -> Vec<Value> {
        let whole = self.thought <= MAX_THOUGHTS;
        self.thoughts.iter().filter(|_| whole).map(|(_, thought)| thought.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn anthropic_stream_gives_text_and_usage_and_no_thoughts() {
        let mut reply = Reply::default();
        let mut said = String::new();
        for event in [
            r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"cache_read_input_tokens":5}}}"#,
            r#"{"type":"ping"}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#,
            r#"{"type":"message_stop"}"#,
        ] {
            said.push_str(&reply.on_anthropic(event).unwrap());
        }
        assert_eq!((said.as_str(), reply.usage), ("Hello", Usage { input: 15, output: 7, nanodollars: 0 }));
        assert!(reply.whole && reply.stop == "end_turn");
    }

    #[test]
    fn openai_stream_gives_text_and_usage() {
        let mut reply = Reply::default();
        let mut said = String::new();
        for event in [
            r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"Hel"}}]}"#,
            r#"{"choices":[{"delta":{"content":"lo"}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#,
            "[DONE]",
        ] {
            said.push_str(&reply.on_openai(event).unwrap());
        }
        assert_eq!((said.as_str(), reply.usage), ("Hello", Usage { input: 3, output: 4, nanodollars: 0 }));
        assert!(reply.whole);
    }

    #[test]
    fn streams_that_are_none_are_named() {
        let mut reply = Reply::default();
        assert_eq!(reply.on_openai("{\"choices\":"), Err(ReplyError::NotJson));
        assert_eq!(reply.on_anthropic("<html>"), Err(ReplyError::NotJson));
        let said =
            reply.on_anthropic(r#"{"type":"error","error":{"type":"overloaded_error","message":"Over\nloaded"}}"#);
        assert_eq!(said, Err(ReplyError::Said("Over loaded".to_owned())));
        let said = reply.on_openai(r#"{"error":{"message":"no"}}"#);
        assert_eq!(said, Err(ReplyError::Said("no".to_owned())));
    }

    #[test]
    fn calls_are_put_together_from_both_streams() {
        let mut claude = Reply::default();
        for event in [
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig"}}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"a","name":"exec","input":{}}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"command\":"}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"\"ls\"}"}}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"b","name":"read","input":{"path":"x"}}}"#,
        ] {
            assert!(claude.on_anthropic(event).unwrap().is_empty());
        }
        let calls = claude.calls();
        assert_eq!((&calls[0].arguments["command"], &calls[1].arguments["path"]), (&"ls".into(), &"x".into()));
        assert_eq!(claude.thoughts(), [json!({"type": "thinking", "thinking": "hm", "signature": "sig"})]);
        let mut gpt = Reply::default();
        for event in [
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"exec","arguments":""}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"command\":\"ls\"}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"id":"b","function":{"name":"read","arguments":"{"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        ] {
            assert!(gpt.on_openai(event).unwrap().is_empty());
        }
        let calls = gpt.calls();
        assert_eq!((calls[0].name.as_str(), &calls[0].arguments["command"]), ("exec", &"ls".into()));
        assert!(calls[0].flaw.is_none() && calls[1].flaw.is_some() && gpt.whole);
        let many = (0..17).map(|id| format!(r#"{{"index":{id},"id":"i{id}"}}"#)).collect::<Vec<_>>().join(",");
        let many = format!(r#"{{"choices":[{{"delta":{{"tool_calls":[{many}]}}}}]}}"#);
        assert!(matches!(gpt.on_openai(&many), Err(ReplyError::Calls(_))));
    }

    proptest! {
        #[test]
        fn any_event_is_taken_or_refused(text in ".{0,200}", odd in "(null|-1|18446744073709551615|\\[\\]|\\{\\}|\"x\")") {
            let mut reply = Reply::default();
            let event = format!(
                r#"{{"type":"message_start","message":{{"usage":{{"input_tokens":{odd}}}}},"choices":{odd},"usage":{odd},"error":null}}"#
            );
            for event in [&text, &event] {
                let _ = reply.on_anthropic(event);
                let _ = reply.on_openai(event);
            }
            prop_assert!(!reply.whole);
        }
    }
}
