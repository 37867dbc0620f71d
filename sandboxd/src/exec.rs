//! One command: judged, written down, run, written down again. What cannot be logged does not run.

use crate::approval;
use crate::judge::{Ready, Surroundings, Verdict};
use crate::native;
use crate::runs::lock;
use crate::serve::{RUNS, Sandboxd};
use crate::serving::Serving;
use crate::state::random;
use crate::watch::text::Output;
use proto::audit::{AuditRequest, CommandRecord, Record, RunEnd};
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::CallError;
use proto::edge::{GatewaySandboxd, Refusal};
use proto::ids::{RunId, SessionKey};
use proto::port::Responder;
use proto::sandbox::{Backend, OutputChunk, SandboxReply};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long auditd may take for a record.
const AUDIT: Duration = Duration::from_secs(1);
/// How long it may take for the outcome of a command that ran: long enough for a hung auditd to be found and replaced.
const OUTCOME: Duration = Duration::from_secs(15);
/// Wall clock that a command gets.
const RUN: Duration = Duration::from_secs(120);
/// Output of one run that is passed on, in bytes; the rest is counted.
const OUTPUT: u64 = 8 << 20;
/// Largest chunk, in bytes.
const CHUNK: usize = 16_384;

impl Sandboxd {
    async fn append(&self, record: CommandRecord, wait: Duration) -> Result<(), CallError> {
        self.audit.call(&AuditRequest::Append(Record::Command(record)), wait).await.map(drop)
    }

    async fn record(&self, record: CommandRecord) -> Result<(), Refusal> {
        self.append(record, AUDIT).await.map_err(|error| {
            Refusal::new("audit.unwritable", &format!("the command could not be recorded, so it did not run: {error}"))
        })
    }

    async fn refuse(&self, session: &SessionKey, command: &BoundedStr<8192>, refusal: Refusal) -> Refusal {
        let rule = refusal.rule.clone();
        let record = CommandRecord::Refused { session: session.clone(), command: command.clone(), rule };
        self.record(record).await.err().unwrap_or(refusal)
    }

    /// What may run: by the rules, or because the operator said so just now.
    async fn allowed(
        &self,
        session: &SessionKey,
        command: &BoundedStr<8192>,
        around: Surroundings<'_>,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<Ready, Refusal> {
        let (subject, words) = match self.judge.judge(session, command, around)? {
            Verdict::Run(ready) => return Ok(ready),
            Verdict::Ask(subject, words) => (subject, words),
        };
        let why = command::show::visible(&subject.why);
        let told = async |id| {
            let line = format!("{why}: waits for an approval, `moltbot approvals show {id}`\n");
            if let Ok(piece) = BoundedBytes::new(line.into_bytes()) {
                let _ = responder.chunk(&OutputChunk::Stderr(piece)).await;
            }
        };
        let stopped = async {
            tokio::select! {
                () = responder.cancelled() => Refusal::new("exec.withdrawn", "whoever asked waits no more"),
                () = self.drained() => Refusal::new("sandbox.draining", "Moltbot is going down, or sandboxd is being restarted"),
                refusal = self.gate.closed() => refusal,
            }
        };
        let approved = approval::ask(&self.vault, *subject, self.judge.timeout_s(), told, stopped).await?;
        Ok(Ready { words, allowed_by: format!("approval {approved}") })
    }

    pub(crate) async fn exec(
        self: &Arc<Self>,
        session: &SessionKey,
        command: &BoundedStr<8192>,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<SandboxReply, Refusal> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Refusal::new("sandbox.draining", "Moltbot is going down, or sandboxd is being restarted"));
        }
        if lock(&self.quarantined).contains(session) {
            return Err(self.refuse(session, command, quarantine()).await);
        }
        if let Some(refusal) = self.gate.refusal() {
            return Err(self.refuse(session, command, refusal).await);
        }
        let serving = self.serving().await;
        let suspended = self.alert.is_suspended(session);
        let around = match serving.as_ref() {
            Serving::Docker(docker, _) => Surroundings { backend: Backend::Docker, image: docker.image(), suspended },
            Serving::Native(backend, _) => Surroundings { backend: *backend, image: "", suspended },
            Serving::Nowhere(why) => {
                let refusal = Refusal::new(
                    "sandbox.unavailable",
                    &format!("nothing here can confine a command, so none runs: {why}"),
                );
                return Err(self.refuse(session, command, refusal).await);
            }
        };
        let backend = around.backend;
        let Ready { words, allowed_by } = match self.allowed(session, command, around, responder).await {
            Ok(ready) => ready,
            Err(refusal) => return Err(self.refuse(session, command, refusal).await),
        };
        // Only now: what waits for a person holds nobody else up. Meanwhile everything may have been frozen.
        let pass = match self.gate.enter() {
            Ok(pass) => pass,
            Err(refusal) => return Err(self.refuse(session, command, refusal).await),
        };
        if lock(&self.quarantined).contains(session) {
            return Err(self.refuse(session, command, quarantine()).await);
        }
        let Ok(_permit) = self.runs.try_acquire() else {
            let refusal =
                Refusal::new("sandbox.busy", &format!("{RUNS} commands run already; try again when one has ended"));
            return Err(self.refuse(session, command, refusal).await);
        };
        let run = new_run().map_err(|error| Refusal::new("sandbox.resource", &error))?;
        // From here on it is one of the commands that a freeze ends.
        let running = self.running.begin(&run, session);
        self.record(CommandRecord::Intent {
            run: run.clone(),
            session: session.clone(),
            command: command.clone(),
            backend: BoundedStr::truncated(backend.name()),
            allowed_by: BoundedStr::truncated(&allowed_by),
        })
        .await?;
        self.notice_command(session, command).await;
        let started = Instant::now();
        let (searcher, seen) = (self.searcher(&serving), Mutex::new(Output::default()));
        let (passed, dropped) = (AtomicU64::new(0), AtomicU64::new(0));
        let sink = |is_error: bool, bytes: Vec<u8>| {
            let (passed, dropped, seen) = (&passed, &dropped, &seen);
            async move {
                let hits = lock(seen).pass(searcher, is_error, &bytes);
                if !self.notice_output(session, &hits).await {
                    pass_on(responder, is_error, &bytes, passed, dropped).await;
                }
            }
        };
        let stopped = async {
            tokio::select! {
                () = responder.cancelled() => {}
                () = self.drained() => {}
                () = self.alert.ended(session) => {}
                _ = self.gate.closed() => {}
            }
        };
        let work = async {
            match serving.as_ref() {
                Serving::Docker(docker, _) => docker.run(session, words, sink).await,
                _ => native::run(&self.launcher, session, words, RUN, sink).await,
            }
        };
        let outcome = tokio::select! {
            // First who is not to begin any more.
            biased;
            () = stopped => Ok(RunEnd::Aborted),
            outcome = work => outcome,
            () = tokio::time::sleep(RUN) => Ok(RunEnd::TimedOut),
        };
        if let (Ok(RunEnd::Aborted | RunEnd::TimedOut | RunEnd::Lost) | Err(_), Serving::Docker(docker, _)) =
            (&outcome, serving.as_ref())
        {
            docker.discard(session).await;
        }
        // Its sandbox is gone; what is left is its record, which a freeze does not wait for.
        drop(pass);
        let end = *outcome.as_ref().unwrap_or(&RunEnd::Lost);
        self.alert.remember(session, &lock(&seen));
        if let Some(told) = self.notice_end(session, end).await {
            pass_on(responder, true, told.as_bytes(), &passed, &dropped).await;
        }
        if matches!(end, RunEnd::Aborted | RunEnd::Lost) {
            running.cut();
        }
        drop(running);
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let record = CommandRecord::Outcome { run: run.clone(), session: session.clone(), end, duration_ms };
        // Nobody is told of an end that is not in the log. Not asked again: a record whose receipt was lost would be doubled.
        if let Err(error) = self.append(record, OUTCOME).await {
            let how = format!("the command ran ({end:?}), but that could not be recorded as {}: {error}", run.0);
            eprintln!("{how}");
            return Err(Refusal::new("audit.unwritable", &how));
        }
        outcome.map(|end| SandboxReply::Ended { run, end, duration_ms, dropped: dropped.load(Ordering::Relaxed) })
    }
}

fn quarantine() -> Refusal {
    Refusal::new(
        "quarantine",
        "a command of this conversation was running when something looked like an attack; the operator looks at \
         `moltbot logs system` and says `moltbot lockdown clear`",
    )
}

/// Passes output on under the client's credit. What is over the cap is taken and counted, so that the command goes on.
async fn pass_on(
    responder: &Responder<GatewaySandboxd>,
    is_error: bool,
    bytes: &[u8],
    passed: &AtomicU64,
    dropped: &AtomicU64,
) {
    for piece in bytes.chunks(CHUNK) {
        let length = u64::try_from(piece.len()).unwrap_or_default();
        if passed.load(Ordering::Relaxed).saturating_add(length) > OUTPUT {
            dropped.fetch_add(length, Ordering::Relaxed);
            continue;
        }
        passed.fetch_add(length, Ordering::Relaxed);
        let Ok(piece) = BoundedBytes::new(piece.to_vec()) else { continue };
        let chunk = if is_error { OutputChunk::Stderr(piece) } else { OutputChunk::Stdout(piece) };
        if responder.chunk(&chunk).await.is_err() {
            dropped.fetch_add(length, Ordering::Relaxed);
        }
    }
}

fn new_run() -> Result<RunId, String> {
    Ok(RunId(BoundedStr::truncated(&format!("r-{}", random()?))))
}
