//! What is asked of commands that were handed over, and of a session's files.
//!
//! A file verb runs inside the session's sandbox, by the runner, as a command does: with its rights, its limits and its
//! view. What comes back is a claim of the sandbox, bounded here. No verb reaches beyond the session's own workspace, so
//! none is judged; a frozen gate and a quarantine stop them as they stop commands, and they are in the log as commands are.

use crate::exec::{CHUNK, say};
use crate::job::Event;
use crate::recorded;
use crate::serve::Sandboxd;
use crate::serving::Serving;
use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::edge::{GatewaySandboxd, Refusal};
use proto::ids::SessionKey;
use proto::port::Responder;
use proto::runner::{Frames, FromFiles, Launch, Program, frame};
use proto::sandbox::{FileReply, FileVerb, ProcessVerb, RunState, SandboxReply, WorkspacePath};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// What lets a verb be done, in its record: `tools` of the configuration.
const TOOLS: &str = "tools";
/// Wall clock that a file verb gets.
const FILE: Duration = Duration::from_secs(30);
/// The longest wait of a poll.
const POLL: Duration = Duration::from_secs(120);
/// How long a killed run may take until its end is recorded.
const KILLED: Duration = Duration::from_secs(20);
/// How soon input is offered again to a verb that has not read what it was given.
const AGAIN: Duration = Duration::from_millis(1);
/// Bytes that a file verb may be answered with.
const ANSWER: usize = 9 << 20;

impl Sandboxd {
    pub(crate) async fn on_process(
        &self,
        session: &SessionKey,
        verb: &ProcessVerb,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<SandboxReply, Refusal> {
        let (what, backend) = (recorded::process(verb), self.serving_for(session).await.backend());
        if matches!(verb, ProcessVerb::Write { .. })
            && let Err(refusal) = self.may_pass(session)
        {
            return Err(self.refuse(session, &BoundedStr::truncated(&what), refusal).await);
        }
        if let ProcessVerb::List | ProcessVerb::Poll { .. } | ProcessVerb::Log { .. } = verb {
            self.looked(session, &what, TOOLS, backend).await?;
            return self.process(session, verb, responder).await;
        }
        self.recorded(session, &what, TOOLS, backend, self.process(session, verb, responder)).await
    }

    async fn process(
        &self,
        session: &SessionKey,
        verb: &ProcessVerb,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<SandboxReply, Refusal> {
        match verb {
            ProcessVerb::List => Ok(SandboxReply::Processes(self.processes.list(session))),
            ProcessVerb::Poll { run, wait_ms } => {
                let process = self.processes.find(session, run)?;
                let wait = Duration::from_millis(u64::from(*wait_ms)).min(POLL);
                let polled = tokio::select! {
                    polled = process.poll(wait) => polled,
                    () = self.stopped(Some(responder)) => process.poll(Duration::ZERO).await,
                };
                for (is_error, bytes) in &polled.pieces {
                    pass(responder, *is_error, bytes).await?;
                }
                Ok(SandboxReply::Polled { state: polled.state, dropped: polled.dropped })
            }
            ProcessVerb::Log { run, offset, limit } => {
                let log = self.processes.find(session, run)?.log(*offset, limit.map(NonZeroU32::get));
                pass(responder, false, &log.text).await?;
                Ok(SandboxReply::Logged { state: log.state, first: log.first, lines: log.lines, dropped: log.dropped })
            }
            ProcessVerb::Write { run, data, eof } => {
                self.processes.find(session, run)?.give(data.to_vec(), *eof)?;
                Ok(SandboxReply::Done)
            }
            ProcessVerb::Kill { run } => {
                let process = self.processes.find(session, run)?;
                process.kill();
                let state = timeout(KILLED, process.over()).await.unwrap_or(RunState::Running);
                Ok(SandboxReply::Polled { state, dropped: 0 })
            }
            ProcessVerb::Remove { run } => {
                self.processes.find(session, run)?.kill();
                self.processes.remove(session, run);
                Ok(SandboxReply::Done)
            }
        }
    }

    pub(crate) async fn on_file(
        self: &Arc<Self>,
        session: &SessionKey,
        verb: &FileVerb,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<SandboxReply, Refusal> {
        let what = recorded::file(verb);
        let busy = |_| Refusal::new("sandbox.busy", "too many files are being worked on; try again");
        let may =
            self.may_pass(session).and_then(|()| Ok((self.gate.enter()?, self.files.try_acquire().map_err(busy)?)));
        let _held = match may {
            Ok(held) => held,
            Err(refusal) => return Err(self.refuse(session, &BoundedStr::truncated(&what), refusal).await),
        };
        let serving = self.serving_for(session).await;
        let work = async {
            timeout(FILE, self.file(&serving, session, verb, responder))
                .await
                .unwrap_or_else(|_| Err(Refusal::new("file.slow", "it took longer than 30 s, so it was given up")))
        };
        let work = async {
            tokio::select! {
                biased;
                () = self.stopped(Some(responder)) => Err(Refusal::new("file.withdrawn", "nobody waits for it any more")),
                outcome = work => outcome.map(SandboxReply::File),
            }
        };
        if recorded::only_looks(verb) {
            self.looked(session, &what, TOOLS, serving.backend()).await?;
            return work.await;
        }
        self.recorded(session, &what, TOOLS, serving.backend(), work).await
    }

    async fn file(
        self: &Arc<Self>,
        serving: &Serving,
        session: &SessionKey,
        verb: &FileVerb,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<FileReply, Refusal> {
        let timeout_ms = u64::try_from(FILE.as_millis()).unwrap_or(u64::MAX);
        let (program, cwd) = (Program::Files, WorkspacePath::default());
        let launch = Launch { program, cwd, timeout_ms, stdin: true, pty: false };
        let mut job = self.start(serving, session, launch, FILE).await?;
        let request = frame(verb).map_err(|error| broken(&error.to_string()))?;
        let handle = job.handle();
        let mut rest = request.as_slice();
        let mut answer = Answer::default();
        loop {
            // As much as it takes: what it has not read yet is waited for with its answer.
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(64 << 10));
                match handle.give(now.to_vec(), later.is_empty()) {
                    Ok(()) => rest = later,
                    Err(refusal) if refusal.rule.as_str() == "process.input_full" => sleep(AGAIN).await,
                    Err(refusal) => return Err(refusal),
                }
            }
            match job.next().await {
                Some(Event::Output { is_error: false, bytes }) => {
                    if let Some(outcome) = answer.take(&bytes, responder).await? {
                        return outcome;
                    }
                }
                Some(Event::Output { .. }) => {}
                Some(Event::Ended(Ok(RunEnd::Lost))) | None => return Err(broken("the sandbox ended under it")),
                Some(Event::Ended(Ok(end))) => {
                    return Err(broken(&format!("the runner ended before its answer: {end:?}")));
                }
                Some(Event::Ended(Err(refusal))) => return Err(refusal),
            }
        }
    }
}

/// What came of a file verb so far.
#[derive(Default)]
struct Answer {
    frames: Frames,
    passed: usize,
}

impl Answer {
    /// Passes data on; the outcome, once it came.
    async fn take(
        &mut self,
        bytes: &[u8],
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<Option<Result<FileReply, Refusal>>, Refusal> {
        for piece in bytes.chunks(64 << 10) {
            self.frames.push(piece);
            while let Some(word) = self.frames.take::<FromFiles>().map_err(|error| broken(&error.to_string()))? {
                match word {
                    FromFiles::Data(data) => {
                        self.passed = self.passed.saturating_add(data.len());
                        if self.passed > ANSWER {
                            return Err(broken("it answers without end"));
                        }
                        pass(responder, false, &data).await?;
                    }
                    FromFiles::Ended(outcome) => return Ok(Some(outcome)),
                }
            }
        }
        Ok(None)
    }
}

fn broken(why: &str) -> Refusal {
    Refusal::new("sandbox.runner", why)
}

async fn pass(responder: &Responder<GatewaySandboxd>, is_error: bool, bytes: &[u8]) -> Result<(), Refusal> {
    for piece in bytes.chunks(CHUNK) {
        let gone = |_| Refusal::new("sandbox.nobody", "nobody reads the answer");
        say(responder, is_error, piece).await.map_err(gone)?;
    }
    Ok(())
}
