//! What a model says, put together from the events of its stream. Every word of it is untrusted: text for a person. Both
//! providers' events become the same few parts here.

use serde_json::Value;

/// Tokens.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Read.
    pub input: u64,
    /// Written.
    pub output: u64,
}

impl Usage {
    /// Both of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { input: self.input.saturating_add(other.input), output: self.output.saturating_add(other.output) }
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
            "content_block_start" => return Ok(text(&event, "/content_block/text").to_owned()),
            // Its thoughts are its own.
            "content_block_delta" if text(&event, "/delta/type") == "text_delta" => {
                return Ok(text(&event, "/delta/text").to_owned());
            }
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
            self.usage = Usage { input: read, output: wrote.unwrap_or_default() };
        }
        let stop = text(&event, "/choices/0/finish_reason");
        if !stop.is_empty() {
            stop.clone_into(&mut self.stop);
            self.whole = true;
        }
        Ok(text(&event, "/choices/0/delta/content").to_owned())
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
        assert_eq!((said.as_str(), reply.usage), ("Hello", Usage { input: 15, output: 7 }));
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
        assert_eq!((said.as_str(), reply.usage), ("Hello", Usage { input: 3, output: 4 }));
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
