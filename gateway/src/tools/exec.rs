//! `exec` and `process`: commands in the session's sandbox, and those that run on there.

use super::args::Args;
use super::{MAX_RESULT, Ran, Stopped, session_key};
use crate::agent::Plan;
use crate::model::calls::Call;
use crate::sandbox::{self, Broken};
use crate::text::{Decoder, Excerpt};
use crate::turn::{THROTTLE, Turn};
use proto::audit::RunEnd;
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::ids::RunId;
use proto::sandbox::{ExecOptions, OutputChunk, ProcessVerb, RunState, SandboxReply, SandboxRequest, Wait};
use serde_json::json;
use std::num::NonZeroU32;
use tokio::time::Instant;

/// Milliseconds after which a command goes on in the background, where a model says nothing.
const YIELD_MS: u32 = 10_000;
/// Longest time after which a command goes on in the background, in milliseconds.
const MAX_YIELD_MS: u32 = 120_000;
/// Bytes of progress that clients are shown at once.
const SHOWN: usize = 2_048;

/// Output on its way to a model, and its end on the way to clients.
struct Output<'c> {
    call: &'c Call,
    out: Decoder,
    err: Decoder,
    kept: Excerpt,
    told_at: Option<Instant>,
}

impl<'c> Output<'c> {
    fn of(call: &'c Call) -> Self {
        let kept = Excerpt::new(MAX_RESULT.saturating_sub(512));
        Self { call, out: Decoder::default(), err: Decoder::default(), kept, told_at: None }
    }

    fn take(&mut self, turn: &mut Turn<'_>, chunk: &OutputChunk) {
        let text = match chunk {
            OutputChunk::Stdout(bytes) => self.out.push(bytes),
            OutputChunk::Stderr(bytes) => self.err.push(bytes),
            OutputChunk::Waits(_) => return,
        };
        self.kept.push(&text);
        if self.told_at.is_none_or(|at| at.elapsed() >= THROTTLE) {
            self.told_at = Some(Instant::now());
            let result = json!({"content": [{"type": "text", "text": self.kept.tail(SHOWN)}]});
            turn.tool(
                &json!({"phase": "update", "name": self.call.name, "toolCallId": self.call.id, "partialResult": result}),
                true,
            );
        }
    }

    fn finish(mut self) -> String {
        let rest = [self.out.finish(), self.err.finish()].concat();
        self.kept.push(&rest);
        self.kept.finish()
    }
}

/// Has it done; refusals are results.
async fn done(
    turn: &mut Turn<'_>,
    plan: &Plan,
    call: &Call,
    request: &SandboxRequest,
) -> Result<Result<(String, SandboxReply), Ran>, Stopped> {
    let mut output = Output::of(call);
    match sandbox::run(turn, plan, request, &mut |turn, chunk| output.take(turn, chunk)).await {
        Ok(reply) => Ok(Ok((output.finish(), reply))),
        Err(Broken::Stopped) => Err(Stopped),
        Err(Broken::Refused(refusal)) => Ok(Err(Ran::error(format!("refused: {refusal}")))),
        Err(Broken::Gone(why)) => Ok(Err(Ran::error(why))),
    }
}

fn millis(ms: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(ms).unwrap_or(u32::MAX))
}

pub(super) async fn exec(turn: &mut Turn<'_>, plan: &Plan, call: &Call) -> Result<Ran, Stopped> {
    let request = match exec_request(turn.session, call) {
        Ok(request) => request,
        Err(why) => return Ok(why.into()),
    };
    let (text, reply) = match done(turn, plan, call, &request).await? {
        Ok(done) => done,
        Err(ran) => return Ok(ran),
    };
    Ok(match reply {
        SandboxReply::Ended { end: RunEnd::Aborted, .. } if plan.stop.is_asked() => return Err(Stopped),
        SandboxReply::Ended { end, duration_ms, dropped, .. } => ended(text, end, duration_ms, dropped),
        SandboxReply::Yielded { run } => {
            let id = run.0.as_str();
            let line = format!("[it runs on as {id}; the process tool polls, writes to or kills it]");
            Ran::ok(joined(&text, &line)).with(json!({"status": "running", "sessionId": id}))
        }
        _ => Ran::error("sandboxd gave another answer than asked for"),
    })
}

fn exec_request(session: &str, call: &Call) -> Result<SandboxRequest, String> {
    let args = Args::of(call, &["command", "workdir", "yieldMs", "background", "timeout", "pty"])?;
    let command = args.needed(&["command"])?;
    let command = BoundedStr::new(command)
        .map_err(|_| "exec: a command has at most 8192 bytes; write a script and run that".to_owned())?;
    let cwd = BoundedStr::new(args.text("workdir")?.unwrap_or_default()).map_err(|_| "exec: workdir is too long")?;
    let background = args.flag("background")?;
    let wait = match args.number("yieldMs")? {
        _ if background => Wait::Background,
        Some(ms) => Wait::Yield(u32::try_from(ms).unwrap_or(MAX_YIELD_MS).clamp(10, MAX_YIELD_MS)),
        None => Wait::Yield(YIELD_MS),
    };
    let timeout_s = args.number("timeout")?.and_then(millis);
    let pty = args.flag("pty")?;
    // What runs on may be given input later.
    let options = ExecOptions { cwd, timeout_s, wait, stdin: background || pty, pty };
    Ok(SandboxRequest::Exec { session: session_key(session), command, options })
}

fn joined(text: &str, line: &str) -> String {
    let text = text.trim_end();
    if text.is_empty() { line.to_owned() } else { format!("{text}\n{line}") }
}

fn ended(text: String, end: RunEnd, duration_ms: u64, dropped: u64) -> Ran {
    let (line, failed) = match end {
        RunEnd::Exited(0) => ("exit 0".to_owned(), false),
        RunEnd::Exited(code) => (format!("exit {code}"), true),
        RunEnd::Signalled(signal) => (format!("ended by signal {signal}"), true),
        RunEnd::TimedOut => ("it took too long and was ended".to_owned(), true),
        RunEnd::Aborted => ("it was stopped".to_owned(), true),
        RunEnd::Lost => ("the sandbox was lost".to_owned(), true),
    };
    let dropped = if dropped > 0 { format!(", {dropped} bytes of output were dropped") } else { String::new() };
    let code = if let RunEnd::Exited(code) = end { json!(code) } else { json!(null) };
    let status = if failed { "failed" } else { "completed" };
    let details = json!({"status": status, "exitCode": code, "durationMs": duration_ms});
    Ran { text: joined(&text, &format!("[{line}{dropped}]")), is_error: failed, details }
}

pub(super) async fn process(turn: &mut Turn<'_>, plan: &Plan, call: &Call) -> Result<Ran, Stopped> {
    let verb = match verb(call) {
        Ok(verb) => verb,
        Err(why) => return Ok(why.into()),
    };
    let request = SandboxRequest::Process { session: session_key(turn.session), verb };
    let (text, reply) = match done(turn, plan, call, &request).await? {
        Ok(done) => done,
        Err(ran) => return Ok(ran),
    };
    let state = |state| match state {
        RunState::Running => Ran::ok(joined(&text, "[it runs]")).with(json!({"status": "running"})),
        RunState::Ended { end, duration_ms } => ended(text.clone(), end, duration_ms, 0),
    };
    Ok(match reply {
        SandboxReply::Processes(all) if all.is_empty() => Ran::ok("nothing runs on, and nothing that ended is kept"),
        SandboxReply::Processes(all) => {
            let line = |info: &proto::sandbox::ProcessInfo| {
                let state = match info.state {
                    RunState::Running => "runs".to_owned(),
                    RunState::Ended { end, .. } => format!("{end:?}"),
                };
                format!("{} {state}, {} s old: {}", info.run.0.as_str(), info.age_s, info.command.as_str())
            };
            Ran::ok(all.iter().map(line).collect::<Vec<_>>().join("\n"))
        }
        SandboxReply::Polled { state: now, .. } => state(now),
        SandboxReply::Logged { first, lines, .. } => Ran::ok(joined(&text, &format!("[from line {first} of {lines}]"))),
        SandboxReply::Done => Ran::ok("done"),
        _ => Ran::error("sandboxd gave another answer than asked for"),
    })
}

fn verb(call: &Call) -> Result<ProcessVerb, String> {
    let args = Args::of(call, &["action", "sessionId", "data", "text", "eof", "offset", "limit"])?;
    let action = args.needed(&["action"])?;
    if action == "list" {
        return Ok(ProcessVerb::List);
    }
    let run = args.needed(&["sessionId"])?;
    let run = RunId(BoundedStr::new(run).map_err(|_| "process: sessionId is none of a command")?);
    let write = |text: &str, eof| {
        let data =
            BoundedBytes::new(text.as_bytes()).map_err(|_| "process: input has at most 64 KiB at once".to_owned())?;
        Ok::<_, String>(ProcessVerb::Write { run: run.clone(), data, eof })
    };
    let number = |name: &str| Ok::<_, String>(args.number(name)?.map(|at| u32::try_from(at).unwrap_or(u32::MAX)));
    Ok(match action {
        "poll" => ProcessVerb::Poll { run, wait_ms: 5_000 },
        "log" => ProcessVerb::Log { run, offset: number("offset")?, limit: number("limit")?.and_then(NonZeroU32::new) },
        "write" => write(args.needed(&["data"])?, args.flag("eof")?)?,
        "paste" => write(args.needed(&["text", "data"])?, false)?,
        "submit" => write("\n", false)?,
        "kill" => ProcessVerb::Kill { run },
        "clear" | "remove" => ProcessVerb::Remove { run },
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(format!("process: there is no action {other}"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn call(name: &str, arguments: &Value) -> Call {
        Call {
            id: "c".to_owned(),
            name: name.to_owned(),
            arguments: arguments.as_object().unwrap().clone(),
            flaw: None,
        }
    }

    #[test]
    fn upstreams_parameters_become_a_request() {
        let arguments = json!({"command": "make", "workdir": "src", "yieldMs": 1, "timeout": 9, "pty": false});
        let Ok(SandboxRequest::Exec { command, options, .. }) =
            exec_request("agent:main:main", &call("exec", &arguments))
        else {
            panic!("it is one")
        };
        assert_eq!((command.as_str(), options.cwd.as_str(), options.wait), ("make", "src", Wait::Yield(10)));
        assert_eq!((options.timeout_s.map(u32::from), options.stdin), (Some(9), false));
        let background = json!({"command": "make", "background": true});
        let Ok(SandboxRequest::Exec { options, .. }) = exec_request("s", &call("exec", &background)) else {
            panic!("it is")
        };
        assert_eq!((options.wait, options.stdin), (Wait::Background, true));
        for wrong in [
            json!({}),
            json!({"command": 7}),
            json!({"command": "x", "elevated": true}),
            json!({"command": "x".repeat(9000)}),
        ] {
            assert!(exec_request("s", &call("exec", &wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn actions_become_verbs() {
        let of = |arguments: Value| verb(&call("process", &arguments));
        assert!(matches!(of(json!({"action": "list"})), Ok(ProcessVerb::List)));
        assert!(matches!(
            of(json!({"action": "submit", "sessionId": "r-1"})),
            Ok(ProcessVerb::Write { eof: false, .. })
        ));
        let log = of(json!({"action": "log", "sessionId": "r-1", "limit": 3}));
        assert!(matches!(log, Ok(ProcessVerb::Log { offset: None, limit: Some(_), .. })));
        assert!(of(json!({"action": "kill"})).is_err_and(|why| why.contains("sessionId is missing")));
        assert!(of(json!({"action": "fly", "sessionId": "r-1"})).is_err_and(|why| why.contains("no action fly")));
    }

    #[test]
    fn end_is_behind_the_output_and_what_failed_is_an_error() {
        let good = ended("out\n".to_owned(), RunEnd::Exited(0), 5, 0);
        assert_eq!((good.text.as_str(), good.is_error), ("out\n[exit 0]", false));
        let bad = ended(String::new(), RunEnd::Exited(3), 5, 9);
        assert_eq!((bad.text.as_str(), bad.is_error), ("[exit 3, 9 bytes of output were dropped]", true));
    }
}
