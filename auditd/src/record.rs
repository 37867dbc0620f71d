//! One record as one compact JSON line, its fields in the one order that the format has.
//!
//! Texts in a record were chosen by strangers; they are escaped as JSON and cannot end a line, a string or a record.
//! Built by hand rather than derived: the order of the fields is part of the format, and `prev` must be the last.

use crate::chain::{Fragment, Head, hex};
use crate::clock::{Instant, rfc3339_micros};
use proto::ids::{Epoch, RequestId, Role};

mod payload;

pub use payload::{kind, payload};

/// Bytes of a text that is kept whole: what a command may have, though each of them takes six in JSON.
const LONGEST: usize = 8_192;
/// Bytes that are kept of a longer one.
const HEAD: usize = 1_024;

/// A JSON object under construction.
#[derive(Debug)]
pub struct Line {
    text: Vec<u8>,
}

/// Who wrote a record: known by the edge that it came in on, never by what it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Source {
    /// Which role.
    pub role: Role,
    /// Its generation; none for auditd itself.
    pub epoch: Option<Epoch>,
    /// Its request on that edge; none for auditd itself.
    pub request: Option<RequestId>,
}

impl Source {
    /// auditd itself.
    pub const OWN: Self = Self { role: Role::Auditd, epoch: None, request: None };
}

/// What every record says before its own fields.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'e> {
    /// The stream's head before this record.
    pub head: Head,
    /// When.
    pub now: Instant,
    /// The kernel's id of this boot.
    pub boot: &'e str,
    /// Name of the stream.
    pub stream: &'e str,
    /// Kind of the record.
    pub kind: &'e str,
    /// Who wrote it.
    pub source: Source,
    /// `single-uid` or `split-uid`.
    pub layout: &'e str,
}

impl Line {
    /// Opens a record.
    #[must_use]
    pub fn open(envelope: &Envelope<'_>) -> Self {
        let mut line = Self { text: Vec::with_capacity(512) };
        line.text.push(b'{');
        line.number("seq", envelope.head.size)
            .text("ts", &rfc3339_micros(envelope.now.wall))
            .text("boot", envelope.boot)
            .number("mono", envelope.now.monotonic_ns)
            .text("stream", envelope.stream)
            .text("type", envelope.kind)
            .text("actor", envelope.source.role.name());
        if let Some(epoch) = envelope.source.epoch {
            line.number("actorEpoch", u64::from(epoch.0));
        }
        if let Some(request) = envelope.source.request {
            line.number("req", u64::from(request.0));
        }
        line.text("layout", envelope.layout);
        line
    }

    /// Closes it; the bytes have no newline.
    #[must_use]
    pub fn close(mut self, envelope: &Envelope<'_>) -> Vec<u8> {
        self.text("prev", &hex(&envelope.head.leaf.0));
        self.text.push(b'}');
        self.text
    }

    fn key(&mut self, name: &str) {
        if self.text.len() > 1 {
            self.text.push(b',');
        }
        // Names are ours, and none has a character that JSON escapes.
        self.text.push(b'"');
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
    }

    fn string(&mut self, value: &str) {
        // A string always has a JSON form, and a vector takes any number of bytes.
        let _ = serde_json::to_writer(&mut self.text, value);
    }

    /// Adds a text. One that is longer than a record may be is kept as its head, its length and its hash: no record is
    /// longer than 64 KiB.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.key(name);
        if value.len() <= LONGEST {
            self.string(value);
            return self;
        }
        self.string(value.get(..value.floor_char_boundary(HEAD)).unwrap_or_default());
        let whole = Fragment::of(value.as_bytes());
        self.number(&format!("{name}Length"), whole.len).text(&format!("{name}Sha256"), &whole.sha256)
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.key(name);
        self.text.extend_from_slice(value.to_string().as_bytes());
        self
    }

    /// Adds a list of texts.
    pub fn texts(&mut self, name: &str, values: &[String]) -> &mut Self {
        self.key(name);
        self.text.push(b'[');
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.text.push(b',');
            }
            self.string(value);
        }
        self.text.push(b']');
        self
    }

    /// Adds that there is nothing to say.
    pub fn null(&mut self, name: &str) -> &mut Self {
        self.key(name);
        self.text.extend_from_slice(b"null");
        self
    }

    /// Adds a truth value.
    pub fn flag(&mut self, name: &str, value: bool) -> &mut Self {
        self.key(name);
        self.text.extend_from_slice(if value { b"true" } else { b"false" });
        self
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::redact::Redactor;
    use crate::writer::Writer;
    use proptest::prelude::*;
    use proto::audit::{AuthMethod, AuthOutcome, AuthReason, CommandRecord, Record};
    use proto::bounded::BoundedStr;
    use proto::ids::{RunId, SessionKey};

    pub(crate) const VAULT: Source = Source { role: Role::Vault, epoch: Some(Epoch(2)), request: Some(RequestId(9)) };

    pub(crate) fn auth(client: &str, accepted: bool) -> Record {
        let outcome = if accepted { AuthOutcome::Accepted } else { AuthOutcome::Rejected(AuthReason::TokenMismatch) };
        Record::Auth { client: BoundedStr::truncated(client), method: AuthMethod::Token, outcome }
    }

    pub(crate) fn secret(verb: &str) -> Record {
        Record::Secret {
            name: BoundedStr::truncated("model"),
            verb: BoundedStr::truncated(verb),
            requester: BoundedStr::truncated("egress"),
            granted: true,
            detail: BoundedStr::default(),
        }
    }

    pub(crate) fn intent(command: &str) -> Record {
        Record::Command(CommandRecord::Intent {
            run: RunId(BoundedStr::truncated("r-1")),
            session: SessionKey(BoundedStr::truncated("agent:main:main")),
            command: BoundedStr::truncated(command),
            backend: BoundedStr::truncated("native"),
            allowed_by: BoundedStr::truncated("ls"),
        })
    }

    #[test]
    fn auth_line_is_compact_and_in_canonical_order() {
        let line = Writer::for_tests().line(
            Head::EMPTY,
            VAULT,
            &auth("192.0.2.7", false),
            Writer::TEST_NOW,
            &Redactor::new(&[7; 32]),
        );
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"seq":0,"ts":"2026-11-23T11:00:01.000042Z","boot":"00000000-0000-0000-0000-000000000000","mono":7,"#,
                r#""stream":"auth-audit","type":"auth","actor":"vault","actorEpoch":2,"req":9,"layout":"single-uid","timestamp":1795431601000,"#,
                r#""clientIp":"192.0.2.7","method":"token","success":false,"reason":"token_mismatch","user":null,"#,
                r#""prev":"0000000000000000000000000000000000000000000000000000000000000000"}"#
            )
        );
    }

    #[test]
    fn secret_in_a_command_is_not_in_its_line() {
        let redactor = Redactor::new(&[7; 32]);
        let record = intent("CLIENT_SECRET=q8WvT0zLm3 run --fast");
        let line = Writer::for_tests().line(Head::EMPTY, VAULT, &record, Writer::TEST_NOW, &redactor);
        let text = String::from_utf8(line).unwrap();
        assert!(!text.contains("q8WvT0zLm3"), "{text}");
        assert!(
            text.contains("\"command\":\"CLIENT_SECRET=[redacted:assigned-secret:") && text.contains(" run --fast\"")
        );
    }

    #[test]
    fn text_that_is_too_long_is_kept_as_its_head_length_and_hash() {
        // What is taken out of a text may make it longer than it came.
        let mut redactor = Redactor::new(&[7; 32]);
        redactor.use_patterns(crate::redact::Patterns::new(["x"]).unwrap());
        let asked = "x".repeat(8_192);
        let line = Writer::for_tests().line(Head::EMPTY, VAULT, &intent(&asked), Writer::TEST_NOW, &redactor);
        assert!(line.len() < 4_096, "{}", line.len());
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let whole = redactor.clean(&asked).into_owned();
        assert!(whole.starts_with(value["command"].as_str().unwrap()));
        assert_eq!(value["commandLength"], whole.len());
        assert_eq!(value["commandSha256"], Fragment::of(whole.as_bytes()).sha256);
        // As long as a command may be, and nothing in it: whole.
        let plain = "a ".repeat(4_096);
        let line = Writer::for_tests().line(Head::EMPTY, VAULT, &intent(&plain), Writer::TEST_NOW, &redactor);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!((value["command"].as_str(), value.get("commandLength")), (Some(plain.as_str()), None));
    }

    proptest! {
        #[test]
        fn command_of_any_text_stays_one_line_and_reads_back(command in any::<String>()) {
            let line = Writer::for_tests().line(Head::EMPTY, VAULT, &intent(&command), Writer::TEST_NOW, &Redactor::new(&[7; 32]));
            prop_assert!(!line.contains(&b'\n'));
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            let bounded = BoundedStr::<8192>::truncated(&command);
            let redactor = Redactor::new(&[7; 32]);
            let kept = redactor.clean(&bounded);
            prop_assert_eq!(value["command"].as_str().unwrap(), &*kept);
            prop_assert_eq!(value["sandbox"].as_bool(), Some(true));
        }
    }
}
