//! sandboxd at work: broker's words, the edges it grants, and which handler each request of gateway goes to. Running a
//! command is `exec`, where it runs is `serving`, ending everything is `freeze`.

use crate::judge::Judge;
use crate::processes::Processes;
use crate::reacting::{self, Alert};
use crate::runs::{Runs, lock};
use crate::serving::{Serving, Slot};
use crate::state::Settings;
use crate::watch::processes::Processes as Kernel;
use confine::startup::{Control, Sealed, StartError};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::channel::{Channel, ChannelError};
use proto::control::{AdminReply, AdminRequest, FromRole, Scope, ToRole};
use proto::edge::{GatewaySandboxd, Refusal, SandboxdLauncher, SandboxdVault, ToAuditd};
use proto::exit::Exit;
use proto::gate::Gate;
use proto::ids::SessionKey;
use proto::port::{AsyncControl, Port, Request, Server};
use proto::sandbox::{FileVerb, SandboxReply, SandboxRequest};
use proto::topology::{EdgeId, Side, role};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::timeout;

/// Runs at once.
pub(crate) const RUNS: usize = 16;
/// Of these, ones that nobody waits for.
pub(crate) const BACKGROUND: usize = 8;
/// File verbs at once.
const FILES: usize = 8;

/// All of it.
pub(crate) struct Sandboxd {
    pub(crate) settings: Settings,
    pub(crate) judge: Judge,
    pub(crate) audit: Port<ToAuditd>,
    pub(crate) launcher: Port<SandboxdLauncher>,
    pub(crate) vault: Port<SandboxdVault>,
    pub(crate) words: mpsc::Sender<FromRole>,
    pub(crate) serving: Slot,
    /// The same for main conversations, where Docker serves the others.
    pub(crate) main: Slot,
    pub(crate) wanted: AtomicBool,
    pub(crate) draining: AtomicBool,
    pub(crate) drain: Notify,
    pub(crate) runs: Semaphore,
    pub(crate) background: Semaphore,
    pub(crate) files: Semaphore,
    /// Commands that were handed over.
    pub(crate) processes: Processes,
    /// A container was used, so one will be idle.
    pub(crate) pruning: Notify,
    /// Closed while nothing may run.
    pub(crate) gate: Gate,
    pub(crate) running: Runs,
    /// Conversations for which nothing runs until the operator says so.
    pub(crate) quarantined: std::sync::Mutex<Vec<SessionKey>>,
    pub(crate) alert: Alert,
}

/// Serves until broker says stop, or is gone.
///
/// # Errors
/// [`StartError`] where the runtime cannot be built or broker speaks out of turn.
pub fn serve(
    _walls: &Sealed,
    control: Control,
    settings: Settings,
    judge: Judge,
    kernel: Kernel,
) -> Result<Exit, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(StartError::internal)?;
    runtime.block_on(async {
        let control = AsyncControl::new(control.into_channel()).map_err(StartError::internal)?;
        let (words, mut outgoing) = mpsc::channel(64);
        let (findings, found) = mpsc::channel(64);
        let sandboxd = Arc::new(Sandboxd {
            settings,
            judge,
            audit: Port::new(role::Sandboxd),
            launcher: Port::new(role::Sandboxd),
            vault: Port::new(role::Sandboxd),
            words,
            serving: Slot::default(),
            main: Slot::default(),
            wanted: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            runs: Semaphore::new(RUNS),
            background: Semaphore::new(BACKGROUND),
            files: Semaphore::new(FILES),
            processes: Processes::default(),
            pruning: Notify::new(),
            gate: Gate::default(),
            running: Runs::default(),
            quarantined: std::sync::Mutex::default(),
            alert: Alert::new(findings, Arc::new(kernel)),
        });
        tokio::spawn(reacting::react(Arc::clone(&sandboxd), found));
        tokio::spawn(watch(Arc::clone(&sandboxd)));
        tokio::spawn(prune(Arc::clone(&sandboxd)));
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
                        tokio::spawn(async move { early.describe().await });
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
            detail = sandboxd.vault.violation() => (EdgeId::SandboxdVault, detail),
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

/// The tool that a request is a use of.
const fn tool(request: &SandboxRequest) -> Option<(&SessionKey, &'static str)> {
    Some(match request {
        SandboxRequest::Exec { session, .. } => (session, "exec"),
        SandboxRequest::Process { session, .. } => (session, "process"),
        SandboxRequest::File { session, verb } => {
            let tool = match verb {
                FileVerb::Read { .. } => "read",
                FileVerb::Write { .. } => "write",
                FileVerb::Edit { .. } => "edit",
                FileVerb::Patch { .. } => "apply_patch",
                FileVerb::List { .. } => "ls",
                FileVerb::Grep { .. } => "grep",
            };
            (session, tool)
        }
        SandboxRequest::Tools { .. }
        | SandboxRequest::Describe
        | SandboxRequest::Where { .. }
        | SandboxRequest::Close { .. } => return None,
    })
}

async fn on_request(sandboxd: Arc<Sandboxd>, request: Request<GatewaySandboxd>) {
    let Request { request, responder, .. } = request;
    if let Some((session, tool)) = tool(&request)
        && let Err(refusal) = sandboxd.judge.may_use(session, sandboxd.is_tainted(session).await, tool)
    {
        let refusal = sandboxd.not_used(session, tool, refusal).await;
        let _ = responder.refuse(&refusal).await;
        return;
    }
    let outcome = match &request {
        SandboxRequest::Tools { session } => {
            let tainted = sandboxd.is_tainted(session).await;
            let names = sandboxd.judge.tools(session, tainted).into_iter().map(BoundedStr::truncated).collect();
            let names = BoundedVec::new(names).unwrap_or_default();
            Ok(SandboxReply::Tools { names, outside: tainted || session.is_outside() })
        }
        SandboxRequest::Exec { session, command, options } => {
            return sandboxd.exec(session, command, options, responder).await;
        }
        SandboxRequest::Process { session, verb } => sandboxd.on_process(session, verb, &responder).await,
        SandboxRequest::File { session, verb } => {
            let answer = sandboxd.on_file(session, verb, &responder).await;
            answer.and_then(|reply| sandboxd.looked_through(session, reply))
        }
        SandboxRequest::Describe => {
            let (backend, detail) = sandboxd.describe().await;
            Ok(SandboxReply::Described { backend, detail: BoundedStr::truncated(&detail) })
        }
        SandboxRequest::Where { session } => {
            let (backend, detail) = sandboxd.serving_for(session).await.described();
            Ok(SandboxReply::Described { backend, detail: BoundedStr::truncated(&detail) })
        }
        SandboxRequest::Close { session } => {
            sandboxd.processes.forget(session);
            // What others use stays.
            if let (Serving::Docker(docker, _), Scope::Session) =
                (sandboxd.serving().await.as_ref(), sandboxd.settings.scope)
            {
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

/// Throws containers away in time; sleeps until the first is due, and without an end where there is none.
async fn prune(sandboxd: Arc<Sandboxd>) {
    loop {
        let docker = match sandboxd.serving.lock().await.as_ref().map(|(_, serving)| Arc::clone(serving)).as_deref() {
            Some(Serving::Docker(docker, _)) => Some(Arc::clone(docker)),
            _ => None,
        };
        let due = match docker {
            Some(docker) => docker.prune().await,
            None => None,
        };
        match due {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => sandboxd.pruning.notified().await,
        }
    }
}

impl Sandboxd {
    fn on_grant(self: &Arc<Self>, edge: EdgeId, side: Side, end: Channel) -> Result<(), StartError> {
        match (edge, side) {
            (EdgeId::SandboxdAuditd, Side::Client) => self.audit.attach(end).map_err(StartError::internal),
            (EdgeId::SandboxdVault, Side::Client) => self.vault.attach(end).map_err(StartError::internal),
            (EdgeId::SandboxdLauncher, Side::Client) => {
                self.launcher.attach(end).map_err(StartError::internal)?;
                // A new launcher may serve where the last one did not; where a look is under way, it is the new one's.
                for slot in [&self.serving, &self.main] {
                    if let Ok(mut slot) = slot.try_lock()
                        && slot.as_ref().is_some_and(|(_, serving)| matches!(serving.as_ref(), Serving::Nowhere(_)))
                    {
                        *slot = None;
                    }
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
                let serving = self.serving().await;
                let mut posture = match serving.as_ref() {
                    Serving::Docker(docker, _) => Box::new(docker.posture().clone()),
                    Serving::Native(..) | Serving::Nowhere(_) => Box::default(),
                };
                posture.senses = self.senses(&serving);
                Ok(AdminReply::Sandbox { backend, detail: BoundedStr::truncated(&detail), posture })
            }
            AdminRequest::Sandbox(verb) => Ok(AdminReply::Sandboxes(self.on_sandbox_verb(verb).await)),
            _ => Err(Refusal::new("sandboxd.no_such_verb", "sandboxd has no such verb")),
        }
    }
}
