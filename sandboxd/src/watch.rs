//! Watching containers: whether what sandboxd asked for is what runs, and whether anything tries to leave.
//!
//! Three tasks. One hears the engine's events; one hears which processes the kernel ended; one looks every second, and twenty
//! times a second where something was suspicious, at every process in a container, and now and then, at times nobody can
//! foresee, at the container itself. They only see and tell; what is done about it is `reacting`. Decisions are in `table`,
//! `own`, `status` and `text`, which are pure.
//!
//! Hostile: the engine's answers and events as far as containers or other users of the engine shape them. It rests on the
//! kernel and on an engine that does not lie about other people's acts; one that does is host compromise anyway.

pub mod ends;
mod events;
mod evidence;
mod looks;
pub mod own;
pub mod processes;
pub mod status;
mod still;
pub mod table;
pub mod text;

use crate::runs::lock;
use crate::spec::Image;
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use ends::Ends;
use own::{Kind, Own};
use processes::Processes;
use proto::ids::SessionKey;
use sha2::{Digest, Sha256};
use status::{Process, Spaces};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use table::Signal;
use text::Searcher;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

/// How long it stays suspicious.
pub const SUSPICION: Duration = Duration::from_secs(60);
/// How long the engine may take for a look.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a container may take to have its walls up once it was started, and how often it is looked at meanwhile.
const SETTLED: Duration = Duration::from_secs(10);
const SETTLING: Duration = Duration::from_millis(2);

/// What the kernel tells, opened before the wall.
#[derive(Debug)]
pub struct Kernel {
    /// Of processes that are there.
    pub processes: Processes,
    /// Of processes that end.
    pub ends: Ends,
}

/// What was seen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// In which container.
    pub container: String,
    /// Whose it is; none where it is nobody's yet.
    pub session: Option<SessionKey>,
    /// What.
    pub signal: Signal,
    /// In words.
    pub detail: String,
    /// The foreign exec, where it is one.
    pub exec: Option<String>,
}

#[derive(Clone, Debug)]
struct Watched {
    session: Option<SessionKey>,
    asked: Arc<ContainerCreateBody>,
    since: Instant,
    pid: u32,
    first: Option<Process>,
    mounts: Option<[u8; 32]>,
    /// Namespaces of its first process, as far as the kernel tells everybody.
    spaces: Option<Spaces>,
    /// Something was suspicious until then.
    alarmed: Option<Instant>,
    /// The last exec of sandboxd's own.
    entering: Option<Instant>,
    /// Processes that may be the engine's helper on its way to it, and since when.
    helpers: BTreeMap<u32, Instant>,
    /// Its limit of processes was reached, and it has not come down since.
    crowded: bool,
    frozen: bool,
    started: bool,
}

impl Watched {
    /// One that was made and not started yet.
    fn new(asked: ContainerCreateBody) -> Self {
        Self {
            session: None,
            asked: Arc::new(asked),
            since: Instant::now(),
            pid: 0,
            first: None,
            mounts: None,
            spaces: None,
            alarmed: None,
            entering: None,
            helpers: BTreeMap::new(),
            crowded: false,
            frozen: false,
            started: false,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    own: Own,
    containers: BTreeMap<String, Watched>,
    /// Why the engine's events are not seen; none where its own act was.
    deaf: Option<String>,
    heard: bool,
}

/// The watch over one engine's containers.
#[derive(Debug)]
pub struct Watch {
    searcher: Searcher,
    docker: Docker,
    image: Image,
    instance: String,
    kernel: OnceLock<Arc<Kernel>>,
    findings: OnceLock<mpsc::Sender<Finding>>,
    state: Mutex<State>,
    changed: Notify,
    /// A container was started, so that there are ends to hear of.
    begun: Notify,
}

impl Watch {
    /// A watch that nobody looks through yet. `canary` is a word on a label of every container: it stands in the engine's
    /// files and answers, and nothing in a container can know it.
    #[must_use]
    pub fn new(docker: Docker, image: Image, instance: &str, canary: &str) -> Arc<Self> {
        Arc::new(Self {
            searcher: Searcher::new(Some(canary)),
            docker,
            image,
            instance: instance.to_owned(),
            kernel: OnceLock::new(),
            findings: OnceLock::new(),
            state: Mutex::default(),
            changed: Notify::new(),
            begun: Notify::new(),
        })
    }

    /// Begins to watch; what is seen goes to `findings`.
    pub fn begin(self: &Arc<Self>, findings: mpsc::Sender<Finding>, kernel: Arc<Kernel>) {
        if self.findings.set(findings).is_ok() && self.kernel.set(kernel).is_ok() {
            tokio::spawn(Arc::clone(self).listen());
            tokio::spawn(Arc::clone(self).look());
            tokio::spawn(Arc::clone(self).hear_ends());
        }
    }

    fn processes(&self) -> Option<&Processes> {
        self.kernel.get().map(|kernel| &kernel.processes)
    }

    /// A container was made and not touched yet. It will be attached to and started once.
    pub fn made(&self, container: &str, asked: &ContainerCreateBody) {
        let mut state = lock(&self.state);
        state.own.made(container);
        state.own.announce(container, Kind::Attach);
        state.own.announce(container, Kind::Start);
        state.containers.insert(container.to_owned(), Watched::new(asked.clone()));
    }

    /// It was started: what its first process is, and what is mounted, it stays.
    pub async fn started(&self, container: &str) {
        let Some(processes) = self.processes() else { return };
        let found = timeout(ANSWER, self.docker.inspect_container(container, None)).await;
        let pid = found.ok().and_then(Result::ok).and_then(|found| found.state).and_then(|state| state.pid);
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        // The engine says that it was started a moment before the last of its walls is up.
        let until = Instant::now().checked_add(SETTLED);
        let (first, wrong) = loop {
            let first = processes.process(pid);
            let wrong = first.as_ref().map(status::wrong_first).unwrap_or_default();
            if wrong.is_empty() || until.is_none_or(|until| Instant::now() > until) {
                break (first, wrong);
            }
            sleep(SETTLING).await;
        };
        let mounts = processes.mounts(pid).map(|text| digest(text.as_bytes()));
        let spaces = processes.spaces(pid);
        if let Some(watched) = lock(&self.state).containers.get_mut(container) {
            (watched.pid, watched.first, watched.mounts, watched.started) = (pid, first, mounts, true);
            watched.spaces = spaces;
        }
        if !wrong.is_empty() {
            self.tell(container, Signal::Credentials, format!("its first process has {}", wrong.join(", "))).await;
        }
        self.changed.notify_one();
        self.begun.notify_one();
    }

    /// Whose it is from now on.
    pub fn belongs(&self, container: &str, session: &SessionKey) {
        if let Some(watched) = lock(&self.state).containers.get_mut(container) {
            watched.session = Some(session.clone());
        }
    }

    /// It is ended, or about to be.
    pub fn forget(&self, container: &str) {
        let mut state = lock(&self.state);
        state.own.forget(container);
        state.containers.remove(container);
    }

    /// An exec is about to be asked for.
    pub fn enters(&self, container: &str) {
        let mut state = lock(&self.state);
        state.own.announce_exec(container);
        if let Some(watched) = state.containers.get_mut(container) {
            watched.entering = Some(Instant::now());
        }
    }

    /// The engine's answer to that: its number, or none where it failed.
    pub async fn entered(&self, container: &str, exec: Option<&str>) {
        let foreign = lock(&self.state).own.answered(container, exec);
        for exec in foreign {
            self.tell_of_exec(container, exec).await;
        }
    }

    /// Looks at a conversation's sandboxes more often for a while.
    pub fn alarm(&self, session: &SessionKey) {
        let until = Instant::now().checked_add(SUSPICION);
        for watched in lock(&self.state).containers.values_mut().filter(|it| it.session.as_ref() == Some(session)) {
            watched.alarmed = until;
        }
        self.changed.notify_one();
    }

    /// It stands still: there is nothing more to see in it.
    pub fn frozen(&self, container: &str) {
        if let Some(watched) = lock(&self.state).containers.get_mut(container) {
            watched.frozen = true;
        }
    }

    /// What looks through output.
    #[must_use]
    pub const fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    /// True where it is there, and nobody ended it.
    #[must_use]
    pub fn knows(&self, container: &str) -> bool {
        lock(&self.state).containers.contains_key(container)
    }

    /// The conversation's container.
    #[must_use]
    pub fn of_session(&self, session: &SessionKey) -> Option<String> {
        let state = lock(&self.state);
        state.containers.iter().find(|(_, it)| it.session.as_ref() == Some(session)).map(|(id, _)| id.clone())
    }

    /// Containers, whose they are, and since when.
    #[must_use]
    pub fn list(&self) -> Vec<(String, Option<SessionKey>, Duration)> {
        let state = lock(&self.state);
        state.containers.iter().map(|(id, it)| (id.clone(), it.session.clone(), it.since.elapsed())).collect()
    }

    /// Why the engine's events are not seen; none where they are.
    #[must_use]
    pub fn deaf(&self) -> Option<String> {
        lock(&self.state).deaf.clone()
    }

    /// True once an event of sandboxd's own act was heard.
    #[must_use]
    pub fn heard(&self) -> bool {
        lock(&self.state).heard
    }

    async fn tell(&self, container: &str, signal: Signal, detail: String) {
        self.send(Finding { container: container.to_owned(), session: None, signal, detail, exec: None }).await;
    }

    async fn tell_of_exec(&self, container: &str, exec: String) {
        let detail = format!("exec {exec}, which nobody here asked for");
        let (container, signal) = (container.to_owned(), Signal::ForeignAction);
        self.send(Finding { container, session: None, signal, detail, exec: Some(exec) }).await;
    }

    async fn send(&self, finding: Finding) {
        let session = lock(&self.state).containers.get(&finding.container).and_then(|it| it.session.clone());
        if let Some(findings) = self.findings.get() {
            let _ = findings.send(Finding { session, ..finding }).await;
        }
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
