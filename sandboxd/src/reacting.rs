//! What is done about a signal. First the sandbox stands still and its conversation is kept apart, then broker hears of it,
//! then evidence is kept; so that whoever dies on the way, broker or sandboxd, what was begun holds.
//!
//! The table decides how far it goes; here is only how. Nothing in it waits for the engine longer than it has to.

use crate::docker::DockerBackend;
use crate::runs::lock;
use crate::serve::Sandboxd;
use crate::serving::Serving;
use crate::state::place;
use crate::watch::table::Signal;
use crate::watch::text::{self, Hit, Output, Searcher};
use crate::watch::{Finding, Watch};
use proto::approval::ApprovalRequest;
use proto::audit::{AuditRequest, Record, RunEnd};
use proto::bounded::{BoundedStr, BoundedVec};
use proto::control::FromRole;
use proto::edge::Refusal;
use proto::ids::SessionKey;
use proto::sandbox::SandboxReply;
use proto::watch::{Class, WatchRecord};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long auditd may take for a record of it.
const AUDIT: Duration = Duration::from_secs(1);
/// How long the vault may take to take grants back.
const SUSPEND: Duration = Duration::from_secs(2);
/// Status of a program that its filter ended, as a shell and the engine say it: 128 + SIGSYS.
pub(crate) const SIGSYS_STATUS: u8 = 159;
pub(crate) const SIGSYS: u8 = 31;
/// Largest reply of a file verb.
const LARGEST: usize = 64 << 10;
/// Reacts, for as long as there is sandboxd.
pub(crate) async fn react(sandboxd: Arc<Sandboxd>, mut findings: mpsc::Receiver<Finding>) {
    while let Some(finding) = findings.recv().await {
        sandboxd.react(finding).await;
    }
}

impl Sandboxd {
    /// The engine's backend, where it serves; no look for one.
    async fn engine(&self) -> Option<Arc<DockerBackend>> {
        match self.serving.lock().await.as_ref().map(|(_, serving)| Arc::clone(serving)).as_deref() {
            Some(Serving::Docker(docker, _)) => Some(Arc::clone(docker)),
            _ => None,
        }
    }

    /// What looks through output.
    pub(crate) fn searcher<'s>(&'s self, serving: &'s Serving) -> &'s Searcher {
        match serving {
            Serving::Docker(docker, _) => docker.watch().searcher(),
            Serving::Native(..) | Serving::Nowhere(_) => &self.alert.plain,
        }
    }

    /// A command reads like an escape. It runs as it would have.
    pub(crate) async fn notice_command(self: &Arc<Self>, session: &SessionKey, command: &str) {
        if let Some((text, about)) = text::in_command(command) {
            self.react(of(session, Signal::CommandText, format!("{text}: {about}"))).await;
        }
    }

    /// What was found in a piece of output; true where the piece goes no further. Nothing is waited for: whoever passes the
    /// piece on may be ended by what follows.
    pub(crate) fn notice_output(&self, session: &SessionKey, hits: &[Hit]) -> bool {
        let canary = hits.contains(&Hit::Canary);
        for hit in hits {
            let finding = match hit {
                Hit::Canary => of(session, Signal::Canary, "a word that stands only in the engine's files".to_owned()),
                Hit::Text(text, about) => of(session, Signal::OutputText, format!("{text}: {about}")),
            };
            let told = self.alert.findings.try_send(finding).is_ok();
            if canary && !told {
                self.gate.close("something left its sandbox, and too much was seen at once to say what");
            }
        }
        canary
    }

    /// What a file verb brings out of a sandbox.
    ///
    /// # Errors
    /// Where it goes no further.
    pub(crate) fn looked_through(&self, session: &SessionKey, reply: SandboxReply) -> Result<SandboxReply, Refusal> {
        let Some(serving) = self.serving.try_lock().ok().and_then(|slot| slot.as_ref().map(|(_, it)| Arc::clone(it)))
        else {
            return Ok(reply);
        };
        let bytes = proto::wire::encode_behind_length(&reply, LARGEST).unwrap_or_default();
        let hits = Output::default().pass(self.searcher(&serving), false, &bytes);
        let hits: Vec<Hit> = hits.into_iter().filter(|hit| *hit == Hit::Canary).collect();
        if self.notice_output(session, &hits) {
            return Err(Refusal::lockdown("something left its sandbox"));
        }
        Ok(reply)
    }

    /// True where the vault could not be told that nothing of the conversation runs unasked.
    pub(crate) fn is_suspended(&self, session: &SessionKey) -> bool {
        self.alert.is_suspended(session) || self.alert.is_suspended(&place(self.settings.scope, session))
    }

    /// How a command ended that began in this container, if in one; the sentence that its user is told, where that was a
    /// signal. A status that says the same is a program's own word, and no more than suspicious: where a filter ended what the
    /// program started, the kernel says so.
    pub(crate) async fn notice_end(
        self: &Arc<Self>,
        session: &SessionKey,
        container: &str,
        end: RunEnd,
    ) -> Option<&'static str> {
        let seen = match end {
            RunEnd::Signalled(SIGSYS) => Some((Signal::SeccompKill, "a call that no honest program makes")),
            RunEnd::Exited(SIGSYS_STATUS) if !self.alert.is_struck(container) => {
                Some((Signal::SaidKill, "it exited with 159, as what is ended by its filter is said to"))
            }
            _ => None,
        };
        if let Some((signal, detail)) = seen {
            let finding = Finding { container: container.to_owned(), ..of(session, signal, detail.to_owned()) };
            self.react(finding).await;
        }
        let struck = matches!(end, RunEnd::Signalled(SIGSYS)) || self.alert.is_struck(container);
        struck.then_some(
            "\nsandbox: this made a system call that only an attack makes, so its sandbox was thrown away, and from now on \
             nothing of this conversation runs unasked\n",
        )
    }

    pub(crate) async fn react(self: &Arc<Self>, finding: Finding) {
        let engine = self.engine().await;
        let nobody = SessionKey(BoundedStr::default());
        let session = finding.session.clone().unwrap_or(nobody);
        let mut finding = finding;
        if finding.container.is_empty()
            && let Some(engine) = &engine
        {
            finding.container = engine.watch().of_session(&place(self.settings.scope, &session)).unwrap_or_default();
        }
        // The kernel's word and the runner's are about one and the same.
        let again = finding.signal == Signal::SeccompKill && !finding.container.is_empty();
        if again && !self.alert.strike(&finding.container) {
            return;
        }
        let reaction = lock(&self.alert.table).on(self.alert.now(), &session, &finding.container, finding.signal);
        match reaction.class {
            Class::S1 => {
                if let Some(engine) = &engine {
                    engine.watch().alarm(&place(self.settings.scope, &session));
                }
                if reaction.recorded {
                    self.keep(signal(&session, &finding, Class::S1)).await;
                }
            }
            Class::S2 => self.violation(&session, &finding, engine).await,
            Class::S3 => self.breach(&session, &finding, false, engine).await,
            Class::S4 => {
                // Before anything else, and without anybody's help.
                self.gate.close(&format!("something left its sandbox: {}", finding.detail));
                self.breach(&session, &finding, true, engine).await;
            }
        }
    }

    /// The command ends, its sandbox is thrown away, and what the conversation was allowed is asked about again.
    async fn violation(&self, session: &SessionKey, finding: &Finding, engine: Option<Arc<DockerBackend>>) {
        let ends = async {
            if let Some(engine) = &engine {
                // A container of nobody's is no session's to discard.
                if finding.session.is_some() {
                    engine.discard(&place(self.settings.scope, session)).await;
                } else {
                    engine.end(&finding.container).await;
                }
            }
            self.alert.end(session);
        };
        let suspend = ApprovalRequest::Suspend { session: session.clone() };
        // Neither waits for the other: what the vault has, it keeps whatever becomes of this process.
        let (kept, ()) = tokio::join!(biased; self.vault.call(&suspend, SUSPEND), ends);
        match kept {
            // It keeps that beyond this process, until the operator says otherwise.
            Ok(_) => lock(&self.alert.table).entrust(session),
            // Nothing runs by a grant here all the same: everything of the conversation is asked anew.
            Err(error) => eprintln!("the vault did not take grants back: {error}"),
        }
        self.keep(signal(session, finding, Class::S2)).await;
    }

    /// Stillness, apartness, broker; then evidence, by a task that goes on by itself.
    async fn breach(
        self: &Arc<Self>,
        session: &SessionKey,
        finding: &Finding,
        escaped: bool,
        engine: Option<Arc<DockerBackend>>,
    ) {
        let sessions: Vec<SessionKey> = finding.session.iter().cloned().collect();
        lock(&self.quarantined).extend(sessions.iter().cloned());
        let guard = Arc::clone(&self.alert.evidence).try_lock_owned().ok();
        let (facts, _, _) = finding.signal.facts();
        let detail = BoundedStr::truncated(&format!("{facts} {}: {}", finding.container, finding.detail));
        let word = FromRole::Breached { escaped, sessions: BoundedVec::new(sessions).unwrap_or_default(), detail };
        let container = finding.container.as_str();
        let stands = async {
            match &engine {
                Some(engine) if finding.exec.is_some() && escaped => {
                    let ended = engine.watch().end(container).await;
                    engine.watch().freeze_all().await.and(ended)
                }
                Some(engine) if finding.exec.is_some() => engine.watch().end(container).await,
                Some(engine) if escaped => engine.watch().freeze_all().await,
                Some(engine) => engine.watch().freeze(container).await,
                None => Ok(Duration::ZERO),
            }
        };
        // What is ended takes its evidence with it.
        let early = async {
            match &engine {
                Some(engine) if finding.exec.is_some() => {
                    engine.watch().evidence(container, finding.exec.as_deref()).await
                }
                _ => Vec::new(),
            }
        };
        // The engine is asked first, and its answer is not waited for with the word.
        let (stood, _, early) = tokio::join!(biased; stands, self.words.send(word), early);
        let class = if escaped { Class::S4 } else { Class::S3 };
        let how = match stood {
            Ok(took) if finding.exec.is_some() && !escaped => format!("ended after {} us", took.as_micros()),
            Ok(took) => format!("stood still after {} us", took.as_micros()),
            Err(why) => format!("could not be made to stand still: {why}"),
        };
        let finding = Finding { detail: format!("{}; {how}", finding.detail), ..finding.clone() };
        let (sandboxd, session) = (Arc::clone(self), session.clone());
        tokio::spawn(async move {
            sandboxd.keep(signal(&session, &finding, class)).await;
            if let Some(engine) = engine {
                let watch = engine.watch();
                let pieces = if early.is_empty() { watch.evidence(&finding.container, None).await } else { early };
                sandboxd.keep_evidence(&session, &finding.container, watch, pieces).await;
            }
            drop(guard);
        });
    }

    async fn keep_evidence(
        &self,
        session: &SessionKey,
        container: &str,
        watch: &Watch,
        mut pieces: Vec<(&'static str, String)>,
    ) {
        let last = lock(&self.alert.last).get(session).cloned().unwrap_or_default();
        pieces.push(("output", String::from_utf8_lossy(&last).into_owned()));
        for (part, text) in pieces {
            let end = part == "output";
            let text = watch.searcher().scrub(&text);
            // Of an output the end says what happened, of everything else the beginning.
            let kept = if end { text.get(text.ceil_char_boundary(text.len().saturating_sub(6_000))..) } else { None };
            self.keep(WatchRecord::Evidence {
                session: session.clone(),
                container: BoundedStr::truncated(container),
                part: BoundedStr::truncated(part),
                sha256: Sha256::digest(text.as_bytes()).into(),
                length: u64::try_from(text.len()).unwrap_or_default(),
                text: BoundedStr::truncated(kept.unwrap_or(&text)),
            })
            .await;
        }
    }

    async fn keep(&self, record: WatchRecord) {
        let request = AuditRequest::Append(Record::Watch(record));
        if let Err(error) = self.audit.call(&request, AUDIT).await {
            eprintln!("what was seen of a sandbox could not be recorded: {error}");
        }
    }
}

fn of(session: &SessionKey, signal: Signal, detail: String) -> Finding {
    Finding { container: String::new(), session: Some(session.clone()), signal, detail, exec: None }
}

fn signal(session: &SessionKey, finding: &Finding, class: Class) -> WatchRecord {
    WatchRecord::Signal {
        session: session.clone(),
        container: BoundedStr::truncated(&finding.container),
        signal: BoundedStr::truncated(finding.signal.facts().0),
        class,
        detail: BoundedStr::truncated(&finding.detail),
    }
}
