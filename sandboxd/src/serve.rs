//! sandboxd at work: intent on disk, then the run, then its outcome. What cannot be logged does not run.

use crate::docker::{self, DockerBackend};
use crate::judge::{Judge, Ready};
use crate::native;
use crate::runs::{Runs, lock};
use crate::state::{Choice, Engine, Settings, choose, random};
use confine::startup::{Control, Sealed, StartError};
use proto::audit::{AuditRequest, CommandRecord, Record, RunEnd};
use proto::bounded::{BoundedBytes, BoundedStr, BoundedVec};
use proto::channel::{CallError, Channel, ChannelError};
use proto::control::{AdminReply, AdminRequest, FromRole, ToRole};
use proto::edge::{GatewaySandboxd, Refusal, SandboxdLauncher, ToAuditd};
use proto::exit::Exit;
use proto::gate::Gate;
use proto::ids::{RunId, SessionKey};
use proto::port::{AsyncControl, Port, Request, Responder, Server};
use proto::sandbox::{Backend, OutputChunk, SandboxReply, SandboxRequest};
use proto::topology::{EdgeId, Side, role};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::time::timeout;

/// How long auditd may take for a record.
const AUDIT: Duration = Duration::from_secs(1);
/// How long it may take for the outcome of a command that ran: long enough for a hung auditd to be found and replaced.
const OUTCOME: Duration = Duration::from_secs(15);
/// Wall clock that a command gets.
const RUN: Duration = Duration::from_secs(120);
/// Output of one run that is passed on, in bytes; the rest is counted.
const OUTPUT: u64 = 8 << 20;
/// Runs at once.
const RUNS: usize = 16;
/// How long a freeze waits for runs to end: less than broker waits for it.
const FREEZE: Duration = Duration::from_secs(4);
/// How long a look at the engine counts while none serves.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Largest chunk, in bytes.
const CHUNK: usize = 16_384;

enum Serving {
    Docker(Arc<DockerBackend>, String),
    Native(Backend, String),
    Nowhere(String),
}

struct Sandboxd {
    settings: Settings,
    judge: Judge,
    audit: Port<ToAuditd>,
    launcher: Port<SandboxdLauncher>,
    words: mpsc::Sender<FromRole>,
    serving: Mutex<Option<(Instant, Arc<Serving>)>>,
    wanted: AtomicBool,
    draining: AtomicBool,
    drain: Notify,
    runs: Semaphore,
    /// Closed while nothing may run.
    gate: Gate,
    running: Runs,
    /// Conversations for which nothing runs until the operator says so.
    quarantined: std::sync::Mutex<Vec<SessionKey>>,
}

/// Serves until broker says stop, or is gone.
///
/// # Errors
/// [`StartError`] where the runtime cannot be built or broker speaks out of turn.
pub fn serve(_walls: &Sealed, control: Control, settings: Settings, judge: Judge) -> Result<Exit, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(StartError::internal)?;
    runtime.block_on(async {
        let control = AsyncControl::new(control.into_channel()).map_err(StartError::internal)?;
        let (words, mut outgoing) = mpsc::channel(64);
        let sandboxd = Arc::new(Sandboxd {
            settings,
            judge,
            audit: Port::new(role::Sandboxd),
            launcher: Port::new(role::Sandboxd),
            words,
            serving: Mutex::new(None),
            wanted: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            runs: Semaphore::new(RUNS),
            gate: Gate::default(),
            running: Runs::default(),
            quarantined: std::sync::Mutex::default(),
        });
        tokio::spawn(watch(Arc::clone(&sandboxd)));
        let mut ready = false;
        loop {
            let word = tokio::select! {
                word = control.recv() => word,
                Some(message) = outgoing.recv() => {
                    control.send(&message).await.map_err(StartError::internal)?;
                    continue;
                }
            };
            match word {
                Ok((ToRole::Grant { edge, side, .. }, fds)) => {
                    let Some(end) = fds.into_iter().next() else {
                        return Err(StartError::internal("a grant without an end"));
                    };
                    sandboxd.on_grant(edge, side, Channel::from_fd(end))?;
                    if sandboxd.audit.is_attached() && !std::mem::replace(&mut ready, true) {
                        control.send(&FromRole::Ready).await.map_err(StartError::internal)?;
                        // The first command should not wait for the look at the engine.
                        let early = Arc::clone(&sandboxd);
                        tokio::spawn(async move { early.serving().await });
                    }
                }
                Ok((ToRole::Ping(number), _)) => {
                    control.send(&FromRole::Pong(number)).await.map_err(StartError::internal)?
                }
                Ok((ToRole::Admin(number, request), _)) => {
                    let sandboxd = Arc::clone(&sandboxd);
                    tokio::spawn(async move {
                        let answer = sandboxd.on_admin(&request).await;
                        let _ = sandboxd.words.send(FromRole::Admin(number, answer)).await;
                    });
                }
                Ok((ToRole::Freeze { why }, _)) => {
                    let sessions = sandboxd.running.sessions();
                    sandboxd.gate.close(&why);
                    tokio::spawn(Arc::clone(&sandboxd).on_freeze(sessions));
                }
                Ok((ToRole::Thaw, _)) => sandboxd.gate.open(),
                Ok((ToRole::Quarantine(sessions), _)) => {
                    *lock(&sandboxd.quarantined) = sessions.iter().cloned().collect();
                }
                Ok((ToRole::Drain, _)) => {
                    let sandboxd = Arc::clone(&sandboxd);
                    tokio::spawn(async move { sandboxd.on_drain().await });
                }
                Ok((ToRole::Stop, _)) => {
                    if let Some((_, serving)) = sandboxd.serving.lock().await.take()
                        && let Serving::Docker(docker, _) = serving.as_ref()
                    {
                        let _ = timeout(Duration::from_secs(3), docker.discard_all()).await;
                    }
                    return Ok(Exit::Ok);
                }
                Ok((ToRole::Configure { .. } | ToRole::Attested, _)) => {
                    return Err(StartError::internal("broker repeats itself"));
                }
                Err(ChannelError::Closed) => return Ok(Exit::BrokerGone),
                Err(error) => return Err(StartError::internal(format!("control channel: {error}"))),
            }
        }
    })
}

/// Reports peers that break the protocol.
async fn watch(sandboxd: Arc<Sandboxd>) {
    loop {
        let (edge, detail) = tokio::select! {
            detail = sandboxd.audit.violation() => (EdgeId::SandboxdAuditd, detail),
            detail = sandboxd.launcher.violation() => (EdgeId::SandboxdLauncher, detail),
        };
        let _ = sandboxd.words.send(FromRole::Violated { edge, detail: BoundedStr::truncated(&detail) }).await;
    }
}

async fn serve_gateway(sandboxd: Arc<Sandboxd>, end: Channel) {
    let Ok(server) = Server::<GatewaySandboxd>::new(end) else { return };
    loop {
        match server.next().await {
            Ok(request) => {
                tokio::spawn(on_request(Arc::clone(&sandboxd), request));
            }
            Err(error) => {
                if error.is_violation() {
                    let detail = BoundedStr::truncated(&error.to_string());
                    let _ = sandboxd.words.send(FromRole::Violated { edge: EdgeId::GatewaySandboxd, detail }).await;
                }
                return;
            }
        }
    }
}

async fn on_request(sandboxd: Arc<Sandboxd>, request: Request<GatewaySandboxd>) {
    let Request { request, responder, .. } = request;
    let outcome = match &request {
        SandboxRequest::Exec { session, command } => sandboxd.exec(session, command, &responder).await,
        SandboxRequest::Describe => {
            let (backend, detail) = sandboxd.describe().await;
            Ok(SandboxReply::Described { backend, detail: BoundedStr::truncated(&detail) })
        }
        SandboxRequest::Close { session } => {
            if let Serving::Docker(docker, _) = sandboxd.serving().await.as_ref() {
                docker.discard(session).await;
            }
            Ok(SandboxReply::Closed)
        }
    };
    // Where gateway is gone meanwhile nobody waits for the answer.
    let _ = match outcome {
        Ok(reply) => responder.reply(&reply, &[]).await,
        Err(refusal) => responder.refuse(&refusal).await,
    };
}

impl Sandboxd {
    fn on_grant(self: &Arc<Self>, edge: EdgeId, side: Side, end: Channel) -> Result<(), StartError> {
        match (edge, side) {
            (EdgeId::SandboxdAuditd, Side::Client) => self.audit.attach(end).map_err(StartError::internal),
            (EdgeId::SandboxdLauncher, Side::Client) => {
                self.launcher.attach(end).map_err(StartError::internal)?;
                // A new launcher may serve where the last one did not; where a look is under way, it is the new one's.
                if let Ok(mut slot) = self.serving.try_lock()
                    && slot.as_ref().is_some_and(|(_, serving)| matches!(serving.as_ref(), Serving::Nowhere(_)))
                {
                    *slot = None;
                }
                Ok(())
            }
            (EdgeId::GatewaySandboxd, Side::Server) => {
                tokio::spawn(serve_gateway(Arc::clone(self), end));
                Ok(())
            }
            _ => Err(StartError::internal("broker granted an edge that is not sandboxd's")),
        }
    }

    async fn on_admin(&self, request: &AdminRequest) -> Result<AdminReply, Refusal> {
        match request {
            AdminRequest::DescribeSandbox => {
                let (backend, detail) = self.describe().await;
                let posture = match self.serving().await.as_ref() {
                    Serving::Docker(docker, _) => Box::new(docker.posture().clone()),
                    Serving::Native(..) | Serving::Nowhere(_) => Box::default(),
                };
                Ok(AdminReply::Sandbox { backend, detail: BoundedStr::truncated(&detail), posture })
            }
            _ => Err(Refusal::new("sandboxd.no_such_verb", "sandboxd has no such verb")),
        }
    }

    async fn on_drain(&self) {
        self.draining.store(true, Ordering::Release);
        self.drain.notify_waiters();
        // Every run hears of it and ends as aborted; its outcome is recorded before this returns.
        let all = u32::try_from(RUNS).unwrap_or(u32::MAX);
        let _ = timeout(Duration::from_secs(4), self.runs.acquire_many(all)).await;
        let _ = self.words.send(FromRole::Drained).await;
    }

    /// Every run hears of the closed gate; with Docker every container is ended besides, idle ones too. Broker hears of it
    /// within the time it waits, whatever the engine does.
    async fn on_freeze(self: Arc<Self>, sessions: Vec<SessionKey>) {
        let begun = Instant::now();
        let work = Arc::clone(&self);
        // A task of its own: what takes longer goes on.
        let work = tokio::spawn(async move { work.end_everything().await });
        let ended = timeout(FREEZE, work).await;
        let detail = match ended.map(Result::unwrap_or_default) {
            Ok(containers) => format!("{} commands and {containers} containers were ended", sessions.len()),
            Err(_) => format!("{} commands are still being ended: the engine is slow", sessions.len()),
        };
        let detail = BoundedStr::truncated(&format!("{detail} in {} ms", begun.elapsed().as_millis()));
        let sessions = BoundedVec::new(sessions).unwrap_or_default();
        let _ = self.words.send(FromRole::Frozen { sessions, detail }).await;
    }

    /// Returns how many containers there were.
    async fn end_everything(&self) -> usize {
        // No look for a backend now: where none was found yet, nothing runs.
        let serving = self.serving.lock().await.as_ref().map(|(_, serving)| Arc::clone(serving));
        let Some(Serving::Docker(docker, _)) = serving.as_deref() else {
            self.gate.emptied().await;
            return 0;
        };
        let before = docker.freeze().await;
        self.gate.emptied().await;
        // One that was just being made for a command which then heard of the gate.
        before.saturating_add(docker.freeze().await)
    }

    async fn describe(&self) -> (Backend, String) {
        match self.serving().await.as_ref() {
            Serving::Docker(_, detail) => (Backend::Docker, detail.clone()),
            Serving::Native(backend, detail) => (*backend, detail.clone()),
            Serving::Nowhere(detail) => (Backend::None, detail.clone()),
        }
    }

    /// What serves. A backend that was found stays; where none was, it is looked for again after a while.
    async fn serving(&self) -> Arc<Serving> {
        let mut slot = self.serving.lock().await;
        if let Some((since, serving)) = slot.as_ref()
            && (!matches!(serving.as_ref(), Serving::Nowhere(_)) || since.elapsed() < LOOK_AGAIN)
        {
            return Arc::clone(serving);
        }
        let serving = Arc::new(self.find().await);
        *slot = Some((Instant::now(), Arc::clone(&serving)));
        serving
    }

    async fn find(&self) -> Serving {
        let settings = &self.settings;
        let (engine, docker) = if settings.choice == proto::control::BackendChoice::Native {
            (Engine::Silent(String::new()), None)
        } else {
            docker::look(settings).await
        };
        match (choose(settings.choice, &engine, settings), docker) {
            (Choice::Docker(detail), Some(docker)) => {
                match DockerBackend::new(docker, settings.clone(), self.words.clone()).await {
                    Ok(backend) => Serving::Docker(Arc::new(backend), detail),
                    Err(refusal) => Serving::Nowhere(refusal.message.to_string()),
                }
            }
            (Choice::Docker(why) | Choice::Nowhere(why), _) => Serving::Nowhere(why),
            (Choice::Native(why), _) => {
                if !self.wanted.swap(true, Ordering::AcqRel) {
                    let _ = self.words.send(FromRole::LauncherWanted).await;
                }
                match native::tier(&self.launcher).await {
                    Ok((Backend::None, detail)) => Serving::Nowhere(format!("{why}; {detail}")),
                    Ok((backend, detail)) => Serving::Native(backend, format!("{detail} ({why})")),
                    Err(refusal) => Serving::Nowhere(format!("{why}; {}", refusal.message)),
                }
            }
        }
    }

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

    async fn exec(
        &self,
        session: &SessionKey,
        command: &BoundedStr<8192>,
        responder: &Responder<GatewaySandboxd>,
    ) -> Result<SandboxReply, Refusal> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Refusal::new("sandbox.draining", "Moltbot is going down, or sandboxd is being restarted"));
        }
        if lock(&self.quarantined).contains(session) {
            let refusal = Refusal::new(
                "quarantine",
                "a command of this conversation was running when something looked like an attack; the operator looks \
                 at `moltbot logs system` and says `moltbot lockdown clear`",
            );
            return Err(self.refuse(session, command, refusal).await);
        }
        let pass = match self.gate.enter() {
            Ok(pass) => pass,
            Err(refusal) => return Err(self.refuse(session, command, refusal).await),
        };
        let Ok(_permit) = self.runs.try_acquire() else {
            let refusal =
                Refusal::new("sandbox.busy", &format!("{RUNS} commands run already; try again when one has ended"));
            return Err(self.refuse(session, command, refusal).await);
        };
        let serving = self.serving().await;
        let backend = match serving.as_ref() {
            Serving::Docker(..) => Backend::Docker,
            Serving::Native(backend, _) => *backend,
            Serving::Nowhere(why) => {
                let refusal = Refusal::new(
                    "sandbox.unavailable",
                    &format!("nothing here can confine a command, so none runs: {why}"),
                );
                return Err(self.refuse(session, command, refusal).await);
            }
        };
        let Ready { words, allowed_by } = match self.judge.judge(session, command, backend) {
            Ok(ready) => ready,
            Err(refusal) => return Err(self.refuse(session, command, refusal).await),
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
        let started = Instant::now();
        let (passed, dropped) = (AtomicU64::new(0), AtomicU64::new(0));
        let sink = |is_error: bool, bytes: Vec<u8>| {
            let (passed, dropped) = (&passed, &dropped);
            async move { pass_on(responder, is_error, &bytes, passed, dropped).await }
        };
        let stopped = async {
            tokio::select! {
                () = responder.cancelled() => {}
                () = self.drained() => {}
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

    async fn drained(&self) {
        loop {
            let notified = self.drain.notified();
            if self.draining.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }
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
