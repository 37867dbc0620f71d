//! What each kind of record says beside what all of them do.

use super::Line;
use crate::chain::hex;
use crate::clock::Instant;
use crate::redact::Redactor;
use proto::audit::{AuthMethod, AuthOutcome, CommandRecord, Record, RequestStep, RunEnd};
use proto::ids::SessionKey;
use proto::watch::WatchRecord;
use proto::witness::StoreStep;

/// The record's kind, as its field `type` says it.
#[must_use]
pub const fn kind(record: &Record) -> &'static str {
    match record {
        Record::Auth { .. } => "auth",
        Record::Command(CommandRecord::Intent { .. }) => "intent",
        Record::Command(CommandRecord::Outcome { .. }) => "outcome",
        Record::Command(CommandRecord::Refused { .. }) => "refused",
        Record::Watch(WatchRecord::Signal { .. }) => "signal",
        Record::Watch(WatchRecord::Evidence { .. }) => "evidence",
        Record::Secret { .. } => "secret",
        Record::Request { .. } => "request",
        Record::Sender { .. } => "sender",
        Record::Store { step: StoreStep::Intended, .. } => "store-intent",
        Record::Store { step: StoreStep::Committed, .. } => "store-committed",
        Record::Cosigner { .. } => "cosigner",
        Record::Role { .. } => "role",
        Record::Operator { .. } => "operator",
        Record::Incident { .. } => "incident",
        Record::Lifecycle { .. } => "lifecycle",
    }
}

/// Adds a record's own fields.
pub fn payload(line: &mut Line, record: &Record, now: Instant, redactor: &Redactor) {
    match record {
        Record::Auth { client, method, outcome } => {
            line.number("timestamp", now.millis())
                .text("clientIp", &redactor.clean(client))
                .text("method", method.name());
            if let AuthMethod::Device(device) = method {
                line.text("device", &device.to_string());
            }
            match outcome {
                AuthOutcome::Accepted => match method {
                    AuthMethod::Device(device) => line.flag("success", true).text("user", &device.to_string()),
                    _ => line.flag("success", true).text("user", OPERATOR),
                },
                // Who was kept out has not shown who they are.
                AuthOutcome::Rejected(reason) => line.flag("success", false).text("reason", reason.name()).null("user"),
            };
        }
        Record::Command(command) => {
            line.number("timestamp", now.millis());
            command_payload(line, command, redactor);
        }
        Record::Watch(watch) => watch_payload(line, watch, redactor),
        Record::Secret { name, verb, requester, granted, detail } => {
            line.text("name", &redactor.clean(name))
                .text("verb", verb)
                .text("requester", &redactor.clean_name(requester))
                .flag("success", *granted);
            if !detail.is_empty() {
                line.text("detail", &redactor.clean(detail));
            }
        }
        Record::Request { id, session, credential, to, what, step } => {
            line.text("request", id)
                .text("sessionKey", &session.0)
                .text("credential", &redactor.clean(credential))
                .text("to", &redactor.clean(to))
                .text("what", &redactor.clean(what));
            request_payload(line, step);
        }
        Record::Sender { channel, sender, verb, requester, granted, detail } => {
            line.text("channel", channel)
                .text("sender", &redactor.clean(sender))
                .text("verb", verb)
                .text("requester", requester)
                .flag("success", *granted);
            if !detail.is_empty() {
                line.text("detail", &redactor.clean(detail));
            }
        }
        Record::Store { step: _, state } => {
            line.number("generation", state.generation).text("root", &hex(&state.root));
        }
        Record::Cosigner { key } => {
            line.text("key", key);
        }
        Record::Role { role, epoch, event, detail } => {
            line.text("role", role.name())
                .number("epoch", u64::from(epoch.0))
                .text("event", event)
                .text("detail", &redactor.clean(detail));
        }
        Record::Operator { uid, pid, verb, detail } => {
            line.number("uid", u64::from(*uid)).number("pid", u64::from(*pid)).text("verb", verb);
            if !detail.is_empty() {
                line.text("detail", &redactor.clean(detail));
            }
        }
        Record::Incident { incident, severity, step, outcome, took_ms, detail } => {
            line.text("incident", incident)
                .text("severity", severity.name())
                .text("step", step)
                .text("outcome", outcome)
                .number("tookMs", *took_ms)
                .text("detail", &redactor.clean(detail));
        }
        // Its layout is the envelope's: both are broker's configuration, and a key stands once in an object.
        Record::Lifecycle { event, layout: _ } => {
            line.text("event", event);
        }
    }
}

fn watch_payload(line: &mut Line, watch: &WatchRecord, redactor: &Redactor) {
    match watch {
        WatchRecord::Signal { session, container, signal, class, detail } => line
            .text("sessionKey", &redactor.clean_name(&session.0))
            .text("container", container)
            .text("signal", signal)
            .text("class", class.name())
            .text("detail", &redactor.clean(detail)),
        WatchRecord::Evidence { session, container, part, sha256, length, text } => line
            .text("sessionKey", &redactor.clean_name(&session.0))
            .text("container", container)
            .text("part", part)
            .text("sha256", &hex(sha256))
            .number("length", *length)
            .text("text", &redactor.clean(text)),
    };
}

fn request_payload(line: &mut Line, step: &RequestStep) {
    match step {
        RequestStep::Begun => line.text("step", "begun"),
        RequestStep::Answered { address, status, sent, received, scrubbed, duration_ms } => line
            .text("step", "answered")
            .text("address", address)
            .number("status", u64::from(*status))
            .number("sent", *sent)
            .number("received", *received)
            .number("scrubbed", u64::from(*scrubbed))
            .number("duration", *duration_ms),
        RequestStep::Failed { rule, received, duration_ms } => line
            .text("step", "failed")
            .text("rule", rule)
            .number("received", *received)
            .number("duration", *duration_ms),
    };
}

/// Who holds the gateway token or the password, and whoever is let in by them.
const OPERATOR: &str = "operator";

/// Whom a conversation is with, by its key as gateway gave it: `agent:main:telegram:dm:7` is with `telegram:dm:7`; one
/// without a channel was opened by a client that logged in.
fn user(session: &str) -> &str {
    session.splitn(3, ':').nth(2).filter(|own| own.contains(':')).unwrap_or(OPERATOR)
}

fn in_session(line: &mut Line, session: &SessionKey, redactor: &Redactor) {
    line.text("sessionKey", &redactor.clean_name(&session.0)).text("user", &redactor.clean_name(user(&session.0)));
}

/// What every record of a command says, under the names that the Phase 1 guide has.
fn conditions(line: &mut Line, approved: bool) {
    line.flag("sandbox", true).flag("elevated", false).flag("approved", approved);
}

fn command_payload(line: &mut Line, command: &CommandRecord, redactor: &Redactor) {
    match command {
        CommandRecord::Intent { run, session, command, backend, allowed_by } => {
            line.text("runId", &run.0);
            in_session(line, session, redactor);
            line.text("command", &redactor.clean(command));
            conditions(line, true);
            line.text("backend", backend).text("allowedBy", &redactor.clean(allowed_by));
        }
        CommandRecord::Outcome { run, session, end, duration_ms } => {
            line.text("runId", &run.0);
            in_session(line, session, redactor);
            conditions(line, true);
            match end {
                RunEnd::Exited(status) => line.number("exitCode", u64::from(*status)),
                RunEnd::Signalled(signal) => line.number("signal", u64::from(*signal)),
                RunEnd::TimedOut => line.flag("timedOut", true),
                RunEnd::Aborted => line.flag("aborted", true),
                RunEnd::Lost => line.flag("lost", true),
            };
            line.number("duration", *duration_ms);
        }
        CommandRecord::Refused { session, command, rule } => {
            in_session(line, session, redactor);
            line.text("command", &redactor.clean(command));
            conditions(line, false);
            line.text("rule", rule);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{VAULT, auth, intent};
    use crate::writer::Writer;
    use proto::audit::AuthReason;
    use proto::auth::DeviceId;
    use proto::bounded::BoundedStr;
    use proto::ids::RunId;

    fn line(record: &Record) -> String {
        let redactor = Redactor::new(&[7; 32]);
        String::from_utf8(Writer::for_tests().line(
            crate::chain::Head::EMPTY,
            VAULT,
            record,
            Writer::TEST_NOW,
            &redactor,
        ))
        .unwrap()
    }

    fn login(method: AuthMethod, outcome: AuthOutcome) -> String {
        line(&Record::Auth { client: BoundedStr::truncated("192.0.2.7"), method, outcome })
    }

    fn has(line: &str, names: &[&str]) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        names.iter().for_each(|name| assert!(value.get(name).is_some(), "{name} is not in {line}"));
    }

    #[test]
    fn records_have_the_fields_that_the_guide_names_and_its_searches_find_them() {
        const LOGIN: [&str; 5] = ["timestamp", "clientIp", "method", "success", "user"];
        let accepted = line(&auth("192.0.2.7", true));
        has(&accepted, &LOGIN);
        let refused = line(&auth("192.0.2.7", false));
        has(&refused, &[LOGIN.as_slice(), &["reason"]].concat());
        // As the guide has it: grep '"success":false'.
        assert!(refused.contains("\"success\":false") && !accepted.contains("\"success\":false"));
        const COMMAND: [&str; 6] = ["timestamp", "sessionKey", "user", "sandbox", "elevated", "approved"];
        let session = || SessionKey(BoundedStr::truncated("agent:main:main"));
        let text = |text| BoundedStr::truncated(text);
        let asked = line(&intent("curl https://example.org"));
        has(&asked, &[COMMAND.as_slice(), &["command"]].concat());
        let end = RunEnd::Exited(0);
        let outcome =
            CommandRecord::Outcome { run: RunId(BoundedStr::truncated("r")), session: session(), end, duration_ms: 5 };
        has(&line(&Record::Command(outcome)), &[COMMAND.as_slice(), &["exitCode", "duration"]].concat());
        let refused =
            CommandRecord::Refused { session: session(), command: BoundedStr::truncated("wget x"), rule: text("r") };
        let refused = line(&Record::Command(refused));
        has(&refused, &[COMMAND.as_slice(), &["command"]].concat());
        // grep -E '(eval|wget|curl)'
        assert!(asked.contains("curl") && refused.contains("wget") && !line(&intent("ls")).contains("curl"));
        assert!(refused.contains("\"approved\":false") && asked.contains("\"approved\":true"));
    }

    #[test]
    fn user_is_who_was_let_in_and_nobody_where_nobody_was() {
        let device = DeviceId([0xab; 32]);
        assert!(login(AuthMethod::Token, AuthOutcome::Accepted).contains("\"user\":\"operator\""));
        let named = format!("\"user\":\"{device}\"");
        assert!(login(AuthMethod::Device(device), AuthOutcome::Accepted).contains(&named));
        let rejected = AuthOutcome::Rejected(AuthReason::DeviceSignature);
        assert!(login(AuthMethod::Device(device), rejected).contains("\"user\":null"));
    }

    #[test]
    fn user_of_a_command_is_whom_the_conversation_is_with() {
        for (session, with) in [
            ("agent:main:main", "operator"),
            ("agent:main:work", "operator"),
            ("agent:main:telegram:dm:7", "telegram:dm:7"),
            ("main", "operator"),
            ("", "operator"),
        ] {
            assert_eq!(user(session), with, "{session}");
        }
    }
}
