//! The tools as models are told of them: upstream's names and parameters, as far as there is something behind them here.

use serde_json::Value;

/// A tool.
#[derive(Debug, Eq, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: &'static str,
    /// What it does, for a model.
    pub description: &'static str,
    /// Its parameters as a JSON schema.
    schema: &'static str,
}

impl Tool {
    /// Its parameters as a JSON schema.
    pub fn parameters(&self) -> Value {
        // A test reads each of them.
        serde_json::from_str(self.schema).unwrap_or_default()
    }
}

/// Every tool.
pub(crate) const ALL: [Tool; 12] = [
    Tool {
        name: "exec",
        description: "Run a shell command in this session's sandbox: no network, only the workspace is writable. What \
            takes longer than yieldMs goes on in the background and is then the process tool's.",
        schema: r#"{"type":"object","required":["command"],"additionalProperties":false,"properties":{
            "command":{"type":"string","description":"The command line"},
            "workdir":{"type":"string","description":"Directory in the workspace"},
            "yieldMs":{"type":"integer","minimum":10,"maximum":120000,"description":"Milliseconds to wait for its end (10000)"},
            "background":{"type":"boolean","description":"Do not wait"},
            "timeout":{"type":"integer","minimum":1,"description":"Seconds it gets"},
            "pty":{"type":"boolean","description":"Give it a terminal"}}}"#,
    },
    Tool {
        name: "process",
        description: "Commands of this session that run on: list, poll new output, read the log, write input, kill.",
        schema: r#"{"type":"object","required":["action"],"additionalProperties":false,"properties":{
            "action":{"type":"string","enum":["list","poll","log","write","submit","paste","kill","clear","remove"]},
            "sessionId":{"type":"string","description":"Which: what exec answered with"},
            "data":{"type":"string","description":"Input for write"},
            "text":{"type":"string","description":"Input for paste"},
            "eof":{"type":"boolean","description":"Close its input after this"},
            "offset":{"type":"integer","minimum":0,"description":"First line of the log"},
            "limit":{"type":"integer","minimum":1,"description":"Lines of the log"}}}"#,
    },
    Tool {
        name: "read",
        description: "Read a text file of the workspace.",
        schema: r#"{"type":"object","required":["path"],"additionalProperties":false,"properties":{
            "path":{"type":"string"},
            "offset":{"type":"integer","minimum":1,"description":"First line, counted from 1"},
            "limit":{"type":"integer","minimum":1,"description":"Lines at most"}}}"#,
    },
    Tool {
        name: "write",
        description: "Write a file of the workspace; what was in it is replaced. Directories are made.",
        schema: r#"{"type":"object","required":["path","content"],"additionalProperties":false,"properties":{
            "path":{"type":"string"},"content":{"type":"string"}}}"#,
    },
    Tool {
        name: "edit",
        description: "Replace a text in a file of the workspace. The text must be there exactly once.",
        schema: r#"{"type":"object","required":["path","oldText","newText"],"additionalProperties":false,"properties":{
            "path":{"type":"string"},"oldText":{"type":"string"},"newText":{"type":"string"}}}"#,
    },
    Tool {
        name: "apply_patch",
        description: "Apply a patch to files of the workspace, in the form *** Begin Patch / *** Add File: / \
            *** Update File: / *** Delete File: / *** End Patch. All of it is applied or nothing.",
        schema: r#"{"type":"object","required":["input"],"additionalProperties":false,"properties":{
            "input":{"type":"string","description":"The whole patch"}}}"#,
    },
    Tool {
        name: "ls",
        description: "List a directory of the workspace.",
        schema: r#"{"type":"object","additionalProperties":false,"properties":{
            "path":{"type":"string","description":"The workspace itself where empty"}}}"#,
    },
    Tool {
        name: "grep",
        description: "Find lines that match an extended regular expression in a file or beneath a directory of the workspace.",
        schema: r#"{"type":"object","required":["pattern"],"additionalProperties":false,"properties":{
            "pattern":{"type":"string"},"path":{"type":"string"}}}"#,
    },
    Tool {
        name: "web_fetch",
        description: "Read a page of the web as text. Only hosts that the owner allows are reached, and after the first one \
            this conversation reaches no other.",
        schema: r#"{"type":"object","required":["url"],"additionalProperties":false,"properties":{
            "url":{"type":"string","description":"An https:// address"},
            "maxChars":{"type":"integer","minimum":100}}}"#,
    },
    Tool {
        name: "sessions_list",
        description: "List the conversations there are.",
        schema: r#"{"type":"object","additionalProperties":false,"properties":{
            "limit":{"type":"integer","minimum":1}}}"#,
    },
    Tool {
        name: "sessions_history",
        description: "Read the end of another conversation.",
        schema: r#"{"type":"object","required":["sessionKey"],"additionalProperties":false,"properties":{
            "sessionKey":{"type":"string"},"limit":{"type":"integer","minimum":1},"includeTools":{"type":"boolean"}}}"#,
    },
    Tool {
        name: "sessions_send",
        description: "Say something in another conversation, and read what is answered there.",
        schema: r#"{"type":"object","required":["sessionKey","message"],"additionalProperties":false,"properties":{
            "sessionKey":{"type":"string"},"message":{"type":"string"},
            "timeoutSeconds":{"type":"integer","minimum":0,"description":"Seconds to wait for the answer (30); 0 does not wait"}}}"#,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_is_one_and_has_what_it_requires() {
        for tool in &ALL {
            let schema = tool.parameters();
            assert_eq!(schema["type"], "object", "{}", tool.name);
            for name in schema["required"].as_array().into_iter().flatten() {
                assert!(schema["properties"].get(name.as_str().unwrap()).is_some(), "{}: {name}", tool.name);
            }
        }
    }
}
