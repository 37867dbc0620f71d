//! One command: judged, written down, run, written down again. What cannot be logged does not run.

use crate::approval;
use crate::job::Job;
use crate::judge::{Ready, Surroundings, Verdict};
use crate::native;
use crate::processes::Process;
use crate::runs::lock;
use crate::serve::{BACKGROUND, RUNS, Sandboxd};
use crate::serving::Serving;
use crate::standing::Standing;
use crate::state::{place, random};
use crate::watch::text::Output;
use proto::audit::{AuditRequest, CommandRecord, Record, RunEnd};
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::CallError;
use proto::edge::{GatewaySandboxd, Refusal};
use proto::ids::{RunId, SessionKey};
use proto::port::Responder;
use proto::runner::{Launch, Program};
use proto::sandbox::{ExecOptions, OutputChunk, RunState, SandboxReply, Wait};
use proto::watch::Sight;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

mod follow;

pub(crate) use follow::{CHUNK, say};
use follow::{Following, Source};

/// How long auditd may take for a record.
const AUDIT: Duration = Duration::from_secs(1);
/// How long it may take for the outcome of a command that ran: long enough for a hung auditd to be found and replaced.
const OUTCOME: Duration = Duration::from_secs(15);
/// Wall clock that a command gets which is waited for, and one that may run on.
const RUN: Duration = Duration::from_secs(120);
const RUN_ON: Duration = Duration::from_secs(1_800);
/// The most that may be asked for.
const LONGEST: u32 = 7_200;
/// What a sandbox is given beyond a command's own time before it ends the command by itself.
const BEYOND: Duration = Duration::from_secs(5);

impl Sandboxd {
    async fn append(&self, record: CommandRecord, wait: Duration) -> Result<(), CallError> {
        self.audit.call(&AuditRequest::Append(Record::Command(record)), wait).await.map(drop)
    }

    pub(crate) async fn record(&self, record: CommandRecord) -> Result<(), Refusal> {
        self.append(record, AUDIT).await.map_err(|error| {
            Refusal::new("audit.unwritable", &format!("the command could not be recorded, so it did not run: {error}"))
        })
    }

    /// Nobody is told of an end that is not in the log. Not asked again: a record whose receipt was lost would be doubled.
    pub(crate) async fn record_end(
        &self,
        run: &RunId,
        session: &SessionKey,
        end: RunEnd,
        duration_ms: u64,
    ) -> Result<(), Refusal> {
        let record = CommandRecord::Outcome { run: run.clone(), session: session.clone(), end, duration_ms };
        self.append(record, OUTCOME).await.map_err(|error| {
            let how = format!("the command ran ({end:?}), but that could not be recorded as {}: {error}", run.0);
            eprintln!("{how}");
            Refusal::new("audit.unwritable", &how)
        })
    }

    /// Writes down that a tool was not used, whose use is none of a command.
    pub(crate) async fn not_used(&self, session: &SessionKey, tool: &str, refusal: Refusal) -> Refusal {
        self.refuse(session, &BoundedStr::truncated(&format!("[{tool}]")), refusal).await
    }

    pub(crate) async fn refuse(&self, session: &SessionKey, command: &BoundedStr<8192>, refusal: Refusal) -> Refusal {
        let rule = refusal.rule.clone();
        let record = CommandRecord::Refused { session: session.clone(), command: command.clone(), rule };
        self.record(record).await.err().unwrap_or(refusal)
    }

    /// What may run: by the rules, or because the operator said so just now.
    async fn allowed(
        &self,
        session: &SessionKey,
        tainted: bool,
        command: &BoundedStr<8192>,
        around: Surroundings<'_>,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<Ready, Refusal> {
        let (subject, words) = match self.judge.judge(session, tainted, command, around)? {
            Verdict::Run(ready) => return Ok(ready),
            Verdict::Ask(subject, words) => (subject, words),
        };
        let why = command::show::visible(&subject.why);
        let told = async |id| {
            let line = format!("{why}: waits for an approval, `moltbot approvals show {id}`\n");
            let _ = responder.chunk(&OutputChunk::Waits(id)).await;
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

    /// Carries a command out, and answers.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        session: &SessionKey,
        standing: Standing,
        command: &BoundedStr<8192>,
        options: &ExecOptions,
        responder: Responder<GatewaySandboxd>,
    ) {
        // Where gateway is gone meanwhile nobody waits for the answer.
        if let Err((responder, refusal)) = self.try_exec(session, standing, command, options, responder).await {
            let _ = responder.refuse(&refusal).await;
        }
    }

    async fn try_exec(
        self: &Arc<Self>,
        session: &SessionKey,
        standing: Standing,
        command: &BoundedStr<8192>,
        options: &ExecOptions,
        responder: Responder<GatewaySandboxd>,
    ) -> Result<(), (Responder<GatewaySandboxd>, Refusal)> {
        if self.draining.load(std::sync::atomic::Ordering::Acquire) {
            let why = "Moltbot is going down, or sandboxd is being restarted";
            return Err((responder, Refusal::new("sandbox.draining", why)));
        }
        let serving = self.serving_for(session).await;
        // Whatever becomes of it.
        self.notice_command(session, command).await;
        let ready = self.may_run(session, standing, command, options, &serving, &responder).await;
        let Ready { words, allowed_by } = match ready {
            Ok(ready) => ready,
            Err(refusal) => return Err((responder, self.refuse(session, command, refusal).await)),
        };
        // Only now: what waits for a person holds nobody else up. Meanwhile everything may have been frozen.
        let pass = match self.may_pass(session).and_then(|()| self.gate.enter()) {
            Ok(pass) => pass,
            Err(refusal) => return Err((responder, self.refuse(session, command, refusal).await)),
        };
        let runs_on = options.wait != Wait::ToItsEnd;
        let permits = (self.runs.try_acquire(), runs_on.then(|| self.background.try_acquire()).transpose());
        let (Ok(_permit), Ok(_background)) = permits else {
            let refusal = Refusal::new(
                "sandbox.busy",
                &format!("{RUNS} commands run already, or {BACKGROUND} that run on; try again when one has ended"),
            );
            return Err((responder, self.refuse(session, command, refusal).await));
        };
        let run = match new_run() {
            Ok(run) => run,
            Err(error) => return Err((responder, Refusal::new("sandbox.resource", &error))),
        };
        // From here on it is one of the commands that a freeze ends.
        let running = self.running.begin(&run, session);
        let intent = CommandRecord::Intent {
            run: run.clone(),
            session: session.clone(),
            command: command.clone(),
            backend: BoundedStr::truncated(serving.backend().name()),
            allowed_by: BoundedStr::truncated(&allowed_by),
        };
        if let Err(refusal) = self.record(intent).await {
            return Err((responder, refusal));
        }
        let started = Instant::now();
        let limit = time_limit(options);
        let launch = Launch {
            program: Program::Words(words),
            cwd: options.cwd.clone(),
            timeout_ms: u64::try_from((limit + BEYOND).as_millis()).unwrap_or(u64::MAX),
            stdin: options.stdin,
            pty: options.pty,
        };
        let begun = tokio::select! {
            // First who is not to begin any more.
            biased;
            () = self.stopped(Some(&responder)) => Ok(None),
            job = self.start(&serving, session, launch, limit) => job.map(Some),
        };
        let container = serving.container(&place(self.settings.scope, session));
        let (outcome, responder, process, dropped) = match begun {
            Ok(Some(job)) => {
                let process = Arc::new(Process::new(run.clone(), command, job.handle()));
                let mut following = Following {
                    session,
                    source: Source {
                        job,
                        sandboxd: self,
                        session,
                        searcher: self.searcher(&serving),
                        seen: Output::default(),
                    },
                    responder: Some(responder),
                    process: Arc::clone(&process),
                    under_way: None,
                    passed: 0,
                    dropped: 0,
                };
                let outcome = self.follow(&mut following, started, limit, options.wait, &serving).await;
                self.alert.remember(session, &following.source.seen);
                (outcome, following.responder, Some(process), following.dropped)
            }
            Ok(None) => {
                // By the engine's exec it may have begun all the same.
                if let Serving::Docker(docker, _) = serving.as_ref()
                    && !docker.has_runner()
                {
                    docker.discard(&place(self.settings.scope, session)).await;
                }
                (Ok(RunEnd::Aborted), Some(responder), None, 0)
            }
            Err(refusal) => (Err(refusal), Some(responder), None, 0),
        };
        // Its end is seen to; what is left is its record, which a freeze does not wait for.
        drop(pass);
        let end = *outcome.as_ref().unwrap_or(&RunEnd::Lost);
        if let (Some(told), Some(responder)) = (self.notice_end(session, &container, end).await, &responder) {
            let _ = say(responder, true, told.as_bytes()).await;
        }
        if matches!(end, RunEnd::Aborted | RunEnd::Lost) {
            running.cut();
        }
        drop(running);
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let recorded = self.record_end(&run, session, end, duration_ms).await;
        let shown = if recorded.is_ok() { end } else { RunEnd::Lost };
        process.iter().for_each(|process| process.ended(RunState::Ended { end: shown, duration_ms }));
        let Some(responder) = responder else { return Ok(()) };
        match recorded.and(outcome) {
            Ok(end) => drop(responder.reply(&SandboxReply::Ended { run, end, duration_ms, dropped }, &[]).await),
            Err(refusal) => return Err((responder, refusal)),
        }
        Ok(())
    }

    /// What runs, where it may.
    async fn may_run(
        &self,
        session: &SessionKey,
        standing: Standing,
        command: &BoundedStr<8192>,
        options: &ExecOptions,
        serving: &Serving,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<Ready, Refusal> {
        self.may_pass(session)?;
        let Standing { tainted, suspended } = standing;
        let image = match serving {
            Serving::Docker(docker, _) => docker.image(),
            Serving::Native(..) => "",
            Serving::Nowhere(why) => {
                let why = format!("nothing here can confine a command, so none runs: {why}");
                return Err(Refusal::new("sandbox.unavailable", &why));
            }
        };
        let agent = match self.sight(session, serving) {
            Sight::Nothing => None,
            Sight::Read => Some(false),
            Sight::Write => Some(true),
        };
        let around = Surroundings { backend: serving.backend(), image, agent, options, suspended };
        self.allowed(session, tainted, command, around, responder).await
    }

    /// What of its agent's workspace the conversation's sandbox sees.
    pub(crate) fn sight(&self, session: &SessionKey, serving: &Serving) -> Sight {
        let (modes, scope) = (&self.settings.modes, self.settings.scope);
        match serving {
            Serving::Docker(..) => match modes.bound(scope, session) {
                None => Sight::Nothing,
                Some((_, true)) => Sight::Write,
                Some((_, false)) => Sight::Read,
            },
            Serving::Native(..) => {
                let given = modes.given(scope, session);
                match given.agent {
                    Some(_) => Sight::Read,
                    None if given.workspace != place(scope, session) => Sight::Write,
                    None => Sight::Nothing,
                }
            }
            Serving::Nowhere(_) => Sight::Nothing,
        }
    }

    /// Whether anything may be done for a conversation now.
    pub(crate) fn may_pass(&self, session: &SessionKey) -> Result<(), Refusal> {
        let apart = lock(&self.quarantined);
        if apart.contains(session) || apart.contains(&place(self.settings.scope, session)) {
            return Err(quarantine());
        }
        drop(apart);
        self.gate.refusal().map_or(Ok(()), Err)
    }

    /// Waits until nothing may go on: whoever asked wants it no more, or everything ends.
    pub(crate) async fn stopped(&self, responder: Option<&Responder<GatewaySandboxd>>) {
        let withdrawn = async {
            match responder {
                Some(responder) => responder.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = withdrawn => {}
            () = self.drained() => {}
            _ = self.gate.closed() => {}
        }
    }

    /// Starts something where it is confined.
    pub(crate) async fn start(
        self: &Arc<Self>,
        serving: &Serving,
        session: &SessionKey,
        launch: Launch,
        limit: Duration,
    ) -> Result<Job, Refusal> {
        match serving {
            Serving::Docker(docker, _) => {
                let container = self.ready(docker, session).await?;
                let job = docker.start_in(&container, launch).await;
                self.pruning.notify_one();
                job
            }
            Serving::Native(..) => {
                let given = self.settings.modes.given(self.settings.scope, session);
                native::start(&self.launcher, &given, launch, limit, self.settings.modes.bounds)
            }
            Serving::Nowhere(why) => Err(Refusal::new("sandbox.unavailable", why)),
        }
    }
}

fn time_limit(options: &ExecOptions) -> Duration {
    let usual = if options.wait == Wait::ToItsEnd { RUN } else { RUN_ON };
    options.timeout_s.map_or(usual, |seconds: NonZeroU32| Duration::from_secs(u64::from(seconds.get().min(LONGEST))))
}

fn quarantine() -> Refusal {
    Refusal::new(
        "quarantine",
        "a command of this conversation was running when something looked like an attack; the operator looks at \
         `moltbot logs system` and says `moltbot lockdown clear`",
    )
}

pub(crate) fn new_run() -> Result<RunId, String> {
    Ok(RunId(BoundedStr::truncated(&format!("r-{}", random()?))))
}
