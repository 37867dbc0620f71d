//! One command: judged, written down, run, written down again. What cannot be logged does not run.

use crate::approval;
use crate::job::{Event, Job};
use crate::judge::{Ready, Surroundings, Verdict};
use crate::native;
use crate::processes::Process;
use crate::runs::lock;
use crate::serve::{BACKGROUND, RUNS, Sandboxd};
use crate::serving::Serving;
use crate::state::{place, random};
use crate::watch::text::{Output, Searcher};
use proto::audit::{AuditRequest, CommandRecord, Record, RunEnd};
use proto::bounded::{BoundedBytes, BoundedStr};
use proto::channel::{CallError, ChannelError};
use proto::edge::{GatewaySandboxd, Refusal};
use proto::ids::{RunId, SessionKey};
use proto::port::Responder;
use proto::runner::{Launch, Program};
use proto::sandbox::{Backend, ExecOptions, OutputChunk, RunState, SandboxReply, Wait};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep_until, timeout};

/// How long auditd may take for a record.
const AUDIT: Duration = Duration::from_secs(1);
/// How long it may take for the outcome of a command that ran: long enough for a hung auditd to be found and replaced.
const OUTCOME: Duration = Duration::from_secs(15);
/// Wall clock that a command gets which is waited for, and one that may run on.
const RUN: Duration = Duration::from_secs(120);
const RUN_ON: Duration = Duration::from_secs(1_800);
/// The most that may be asked for.
const LONGEST: u32 = 7_200;
/// The longest wait before a command is handed over.
const YIELD: Duration = Duration::from_secs(120);
/// Output of one run that is passed on, in bytes; the rest is counted.
const OUTPUT: u64 = 8 << 20;
/// Largest chunk, in bytes.
pub(crate) const CHUNK: usize = 16_384;
/// How long a command may take to end once it is to.
const ENDING: Duration = Duration::from_secs(2);
/// What a sandbox is given beyond a command's own time before it ends the command by itself.
const BEYOND: Duration = Duration::from_secs(5);

/// A command that runs, and who follows it.
struct Following<'f> {
    session: &'f SessionKey,
    source: Source<'f>,
    /// Whoever waits for it, until it is handed over.
    responder: Option<Responder<GatewaySandboxd>>,
    process: Arc<Process>,
    /// A piece on its way to whoever waits.
    under_way: Option<(bool, Vec<u8>)>,
    passed: u64,
    dropped: u64,
}

/// A command's events, its output looked through before anybody sees it.
struct Source<'f> {
    job: Job,
    sandboxd: &'f Sandboxd,
    session: &'f SessionKey,
    searcher: &'f Searcher,
    seen: Output,
}

impl Source<'_> {
    /// Nothing is waited for once an event is taken, so this may be dropped.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.job.next().await;
            if let Some(Event::Output { is_error, bytes }) = &event {
                let hits = self.seen.pass(self.searcher, *is_error, bytes);
                if self.sandboxd.notice_output(self.session, &hits) {
                    continue;
                }
            }
            return event;
        }
    }
}

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
        command: &BoundedStr<8192>,
        around: Surroundings<'_>,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<Ready, Refusal> {
        let (subject, words) = match self.judge.judge(session, self.is_tainted(session).await, command, around)? {
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

    /// Carries a command out, and answers.
    pub(crate) async fn exec(
        self: &Arc<Self>,
        session: &SessionKey,
        command: &BoundedStr<8192>,
        options: &ExecOptions,
        responder: Responder<GatewaySandboxd>,
    ) {
        // Where gateway is gone meanwhile nobody waits for the answer.
        if let Err((responder, refusal)) = self.try_exec(session, command, options, responder).await {
            let _ = responder.refuse(&refusal).await;
        }
    }

    async fn try_exec(
        self: &Arc<Self>,
        session: &SessionKey,
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
        let Ready { words, allowed_by } = match self.may_run(session, command, options, &serving, &responder).await {
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
        if let (Some(told), Some(responder)) = (self.notice_end(session, end).await, &responder) {
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
        command: &BoundedStr<8192>,
        options: &ExecOptions,
        serving: &Serving,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<Ready, Refusal> {
        self.may_pass(session)?;
        let suspended = self.is_suspended(session);
        let (modes, scope) = (&self.settings.modes, self.settings.scope);
        let around = match serving {
            Serving::Docker(docker, _) => {
                let agent = modes.bound(scope, session).map(|(_, writable)| writable);
                Surroundings { backend: Backend::Docker, image: docker.image(), agent, options, suspended }
            }
            Serving::Native(backend, _) => {
                let agent = modes.given(scope, session);
                let agent = if agent.agent.is_some() {
                    Some(false)
                } else {
                    (agent.workspace != place(scope, session)).then_some(true)
                };
                Surroundings { backend: *backend, image: "", agent, options, suspended }
            }
            Serving::Nowhere(why) => {
                let why = format!("nothing here can confine a command, so none runs: {why}");
                return Err(Refusal::new("sandbox.unavailable", &why));
            }
        };
        self.allowed(session, command, around, responder).await
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
                native::start(&self.launcher, &given, launch, limit)
            }
            Serving::Nowhere(why) => Err(Refusal::new("sandbox.unavailable", why)),
        }
    }

    /// Follows a command to its end.
    async fn follow(
        &self,
        following: &mut Following<'_>,
        started: Instant,
        limit: Duration,
        wait: Wait,
        serving: &Serving,
    ) -> Result<RunEnd, Refusal> {
        let hand_over = match wait {
            Wait::ToItsEnd => None,
            Wait::Yield(ms) => Some(Duration::from_millis(u64::from(ms)).min(YIELD)),
            Wait::Background => Some(Duration::ZERO),
        };
        let mut hand_over = hand_over.map(|after| (started + after).into());
        let process = Arc::clone(&following.process);
        let stop = loop {
            let responder = following.responder.as_ref();
            let (stopped, killed) = (self.stopped(responder), process.killed());
            // What the two of them do is the same whoever waits, so `step` may be dropped for either.
            tokio::select! {
                biased;
                () = stopped => break RunEnd::Aborted,
                () = self.alert.ended(following.session) => break RunEnd::Aborted,
                () = killed => break RunEnd::Aborted,
                () = sleep_until((started + limit).into()) => break RunEnd::TimedOut,
                () = sleep_until(hand_over.unwrap_or_else(|| started.into())), if hand_over.is_some() => {}
                end = step(&mut following.source, responder, &process, &mut following.under_way, &mut following.passed,
                    &mut following.dropped, wait) => return end,
            }
            hand_over = None;
            self.hand_over(following).await;
        };
        let place = place(self.settings.scope, following.session);
        end(&mut following.source.job, serving, &place).await;
        Ok(stop)
    }

    /// Whoever waits is told that the command runs on.
    async fn hand_over(&self, following: &mut Following<'_>) {
        if let Some((is_error, bytes)) = following.under_way.take() {
            following.process.wrote_unread(is_error, &bytes);
        }
        self.processes.add(following.session, Arc::clone(&following.process));
        if let Some(responder) = following.responder.take() {
            let run = following.process.run.clone();
            let _ = responder.reply(&SandboxReply::Yielded { run }, &[]).await;
        }
    }
}

/// Takes output until the command ends.
async fn step(
    source: &mut Source<'_>,
    responder: Option<&Responder<GatewaySandboxd>>,
    process: &Process,
    under_way: &mut Option<(bool, Vec<u8>)>,
    passed: &mut u64,
    dropped: &mut u64,
    wait: Wait,
) -> Result<RunEnd, Refusal> {
    loop {
        let (is_error, bytes) = match source.next().await {
            Some(Event::Output { is_error, bytes }) => (is_error, bytes),
            Some(Event::Ended(end)) => return end,
            None => return Ok(RunEnd::Lost),
        };
        let Some(responder) = responder else {
            process.wrote(is_error, &bytes, true);
            continue;
        };
        if wait != Wait::ToItsEnd {
            process.wrote(is_error, &bytes, false);
        }
        let bytes = under_way.insert((is_error, bytes)).1.clone();
        pass_on(responder, is_error, &bytes, passed, dropped).await;
        *under_way = None;
    }
}

/// Ends a command: where it does not end by itself, its container does.
async fn end(job: &mut Job, serving: &Serving, place: &SessionKey) {
    let can_end = job.handle().kill();
    let ended = async {
        while let Some(event) = job.next().await {
            if matches!(event, Event::Ended(_)) {
                return;
            }
        }
    };
    let ended = can_end && timeout(ENDING, ended).await.is_ok();
    if let (false, Serving::Docker(docker, _)) = (ended, serving) {
        docker.discard(place).await;
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

/// Passes output on under the client's credit. What is over the cap is taken and counted, so that the command goes on.
async fn pass_on(
    responder: &Responder<GatewaySandboxd>,
    is_error: bool,
    bytes: &[u8],
    passed: &mut u64,
    dropped: &mut u64,
) {
    for piece in bytes.chunks(CHUNK) {
        let length = u64::try_from(piece.len()).unwrap_or_default();
        if passed.saturating_add(length) > OUTPUT {
            *dropped = dropped.saturating_add(length);
            continue;
        }
        *passed = passed.saturating_add(length);
        if say(responder, is_error, piece).await.is_err() {
            *dropped = dropped.saturating_add(length);
        }
    }
}

/// One chunk, of at most [`CHUNK`] bytes, under the client's credit.
pub(crate) async fn say(
    responder: &Responder<GatewaySandboxd>,
    is_error: bool,
    piece: &[u8],
) -> Result<(), ChannelError> {
    let Ok(piece) = BoundedBytes::new(piece) else { return Ok(()) };
    responder.chunk(&if is_error { OutputChunk::Stderr(piece) } else { OutputChunk::Stdout(piece) }).await
}

pub(crate) fn new_run() -> Result<RunId, String> {
    Ok(RunId(BoundedStr::truncated(&format!("r-{}", random()?))))
}
