//! The Docker backend: a hardened container per session, kept while sandboxd lives, and a few that wait for a session.
//!
//! A command runs by the container's resident runner. Where the image has none it runs by the engine's exec, which has no
//! way to end one: a command that must be ended then ends its whole container, and the session gets a fresh one.

use crate::container::{Container, Maker};
use crate::job::{Event, Job};
use crate::modes::Access;
use crate::posture;
use crate::runs::lock;
use crate::spec::{Bind, INSTANCE, Image};
use crate::state::{Engine, Settings, random, workspace};
use crate::watch::Watch;
use bollard::query_parameters::ListContainersOptions;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::future::join_all;
use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::control::FromRole;
use proto::edge::Refusal;
use proto::ids::SessionKey;
use proto::runner::{LABEL, Launch, Program, VERSION};
use proto::sandbox::{Posture, Words, WorkspacePath};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, RwLock, mpsc};
use tokio::time::timeout;

/// How long the engine may take for one answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to pause a container.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it may take to say whether it is there.
const LOOK: Duration = Duration::from_secs(2);
/// What a command gets that nobody said a time for.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// A session's container, once it has one; whoever makes it holds the lock.
type Slot = Arc<Mutex<Option<Arc<Container>>>>;

/// The backend.
pub struct DockerBackend(Arc<Inner>);

struct Inner {
    maker: Maker,
    posture: Posture,
    /// Something may be there that is in no table: a predecessor's, or what the engine made after it was given up on.
    unsure: AtomicBool,
    sessions: std::sync::Mutex<HashMap<String, Slot>>,
    /// Started containers that no session has had yet.
    pool: std::sync::Mutex<VecDeque<Arc<Container>>>,
    filling: AtomicBool,
    /// Containers that this process made and has not removed.
    known: std::sync::Mutex<HashSet<String>>,
    /// Held for reading from before a container is made until it is known, for writing by whoever removes what is not.
    making: RwLock<()>,
}

fn failed(what: &str) -> impl Fn(bollard::errors::Error) -> Refusal {
    move |error| Refusal::new("sandbox.docker", &format!("{what}: {error}"))
}

pub(crate) async fn within<T>(
    wait: Duration,
    what: &str,
    work: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, Refusal> {
    timeout(wait, work)
        .await
        .map_err(|_| Refusal::new("sandbox.docker", &format!("{what}: the engine does not answer")))?
        .map_err(failed(what))
}

/// An engine that answered, the image, and how it stands.
#[derive(Debug)]
pub struct Taken {
    docker: Docker,
    image: Image,
    posture: Posture,
}

/// Looks whether an engine answers and has the image.
pub async fn look(settings: &Settings) -> (Engine, Option<Taken>) {
    let silent = |why: String| (Engine::Silent(why), None);
    let connected = Docker::connect_with_unix(&settings.socket, ANSWER.as_secs(), API_DEFAULT_VERSION);
    let docker = match connected {
        Ok(docker) => docker,
        Err(error) => return silent(error.to_string()),
    };
    let docker = match timeout(LOOK, docker.negotiate_version()).await {
        Ok(Ok(docker)) => docker,
        Ok(Err(error)) => return silent(error.to_string()),
        Err(_) => return silent("it does not answer in 2 s".to_owned()),
    };
    let said = async { Ok((docker.version().await?, docker.info().await?)) };
    let (mut posture, runtimes) = match within(LOOK, "version", said).await {
        Ok((version, info)) => (posture::posture(&version, &info), info.runtimes.unwrap_or_default()),
        Err(refusal) => return silent(refusal.message.to_string()),
    };
    if let Some(runtime) = settings.modes.runtime
        && !runtimes.contains_key(runtime.name())
    {
        return (Engine::NoRuntime(runtime.name()), None);
    }
    let version = posture.components.first().map(|part| part.version.to_string()).unwrap_or_default();
    match timeout(LOOK, docker.inspect_image(&settings.image)).await {
        Ok(Ok(image)) => {
            posture.image_created = BoundedStr::truncated(image.created.as_deref().unwrap_or_default());
            let config = image.config.unwrap_or_default();
            let Some(id) = image.id else { return silent("it has an image without an id".to_owned()) };
            let runner = config.labels.unwrap_or_default().remove(LABEL);
            let has_runner = runner.as_deref() == Some(VERSION.to_string().as_str());
            let image = Image { id, env: config.env.unwrap_or_default(), has_runner };
            (Engine::Ready(version), Some(Taken { docker, image, posture }))
        }
        Ok(Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. })) => (Engine::NoImage, None),
        Ok(Err(error)) => silent(error.to_string()),
        Err(_) => silent("it does not answer in 2 s".to_owned()),
    }
}

impl DockerBackend {
    /// Takes the engine over; containers that an earlier sandboxd left are removed, and no others.
    ///
    /// # Errors
    /// [`Refusal`] where the system has no random bytes.
    pub async fn new(taken: Taken, settings: Settings, words: mpsc::Sender<FromRole>) -> Result<Self, Refusal> {
        let epoch = random().map_err(|error| Refusal::new("sandbox.resource", &error))?;
        let Taken { docker, image, posture } = taken;
        let detail = BoundedStr::truncated(&posture.summary());
        let _ = words.send(FromRole::EngineTaken { detail }).await;
        let watch = Watch::new(docker.clone(), image.clone(), &settings.instance, &epoch);
        let backend = Self(Arc::new(Inner {
            maker: Maker { docker, settings, image, words, epoch, watch },
            posture,
            // Still unsure after the first look: the engine may be making what a killed predecessor asked for.
            unsure: AtomicBool::new(true),
            sessions: std::sync::Mutex::default(),
            pool: std::sync::Mutex::default(),
            filling: AtomicBool::new(false),
            known: std::sync::Mutex::default(),
            making: RwLock::default(),
        }));
        backend.0.sweep().await;
        Ok(backend)
    }

    /// The image that containers are made of, by its digest.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.0.maker.image.id
    }

    /// True where the image has a runner that this sandboxd can speak to.
    #[must_use]
    pub fn has_runner(&self) -> bool {
        self.0.maker.image.has_runner
    }

    /// How the engine stands.
    #[must_use]
    pub fn posture(&self) -> &Posture {
        &self.0.posture
    }

    /// What watches its containers.
    #[must_use]
    pub fn watch(&self) -> &Arc<Watch> {
        &self.0.maker.watch
    }

    /// Ends a container that is no session's.
    pub(crate) async fn end(&self, id: &str) {
        self.0.end(id).await;
    }

    /// Makes as many containers as are to wait for a session, in a task of its own.
    pub fn fill(&self) {
        self.0.fill();
    }

    /// Containers that wait for a session now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.0.pool).len()
    }

    /// Ends everything: first every container stands still, all at once, then they are removed; also those that were only
    /// just being made. Returns which there were.
    pub async fn freeze(&self) -> BTreeSet<String> {
        lock(&self.0.sessions).clear();
        lock(&self.0.pool).clear();
        let all = self.0.labelled().await;
        join_all(all.iter().map(|id| self.0.pause(id))).await;
        join_all(all.iter().map(|id| self.0.remove(id))).await;
        all.into_iter().collect()
    }

    /// Starts something in the session's container, which is made if it is not there.
    ///
    /// # Errors
    /// [`Refusal`] where it could not be started.
    pub async fn start(&self, session: &SessionKey, launch: Launch) -> Result<Job, Refusal> {
        let container = self.container(session, None).await?;
        self.start_in(&container, launch).await
    }

    /// The session's container, which is made if it is not there; with this workspace of the host in it.
    pub(crate) async fn container(&self, session: &SessionKey, bind: Option<&Bind>) -> Result<Arc<Container>, Refusal> {
        let container = self.0.container(session, bind).await?;
        container.touch();
        Ok(container)
    }

    /// Starts something in a container.
    pub(crate) async fn start_in(&self, container: &Container, launch: Launch) -> Result<Job, Refusal> {
        self.0.maker.start(container, launch).await
    }

    /// Runs a command to its end; `sink` is given its output as it comes. Dropping the future ends the command where there
    /// is a runner; otherwise the caller calls [`DockerBackend::discard`].
    ///
    /// # Errors
    /// [`Refusal`] where it could not be started.
    pub async fn run<S, F>(&self, session: &SessionKey, words: Words, mut sink: S) -> Result<RunEnd, Refusal>
    where
        S: FnMut(bool, Vec<u8>) -> F,
        F: Future<Output = ()>,
    {
        let timeout_ms = u64::try_from(LONG.as_millis()).unwrap_or(u64::MAX);
        let program = Program::Words(words);
        let cwd = WorkspacePath::default();
        let mut job = self.start(session, Launch { program, cwd, timeout_ms, stdin: false, pty: false }).await?;
        while let Some(event) = job.next().await {
            match event {
                Event::Output { is_error, bytes } => sink(is_error, bytes).await,
                Event::Ended(end) => return end,
            }
        }
        Ok(RunEnd::Lost)
    }

    /// Throws the session's container away.
    pub async fn discard(&self, session: &SessionKey) {
        let slot = lock(&self.0.sessions).remove(workspace(session).0.as_str());
        if let Some(slot) = slot
            && let Some(container) = slot.lock().await.take()
        {
            self.0.end(&container.id).await;
        }
    }

    /// Throws every container away.
    pub async fn discard_all(&self) {
        let slots: Vec<Slot> = lock(&self.0.sessions).drain().map(|(_, slot)| slot).collect();
        let mut all: Vec<Arc<Container>> = lock(&self.0.pool).drain(..).collect();
        for slot in slots {
            all.extend(slot.lock().await.take());
        }
        join_all(all.iter().map(|container| self.0.remove(&container.id))).await;
    }

    /// Throws containers away that were idle or have lived for too long; when the next one will be.
    pub async fn prune(&self) -> Option<Instant> {
        let now = Instant::now();
        let slots: Vec<(String, Slot)> =
            lock(&self.0.sessions).iter().map(|(name, slot)| (name.clone(), Arc::clone(slot))).collect();
        let mut next: Option<Instant> = None;
        for (name, slot) in slots {
            // Whoever holds it uses it.
            let Ok(mut held) = slot.try_lock() else { continue };
            let Some(container) = held.as_ref() else { continue };
            let due = container.due(&self.0.maker.settings.prune);
            if container.busy() || due > now {
                next = Some(next.map_or(due, |next| next.min(due)).max(now + Duration::from_secs(60)));
                continue;
            }
            let container = held.take();
            lock(&self.0.sessions).remove(&name);
            drop(held);
            if let Some(container) = container {
                self.0.remove(&container.id).await;
            }
        }
        next
    }
}

/// What is in no table is looked for before the next is made, unless this was called off.
struct Doubt<'d>(&'d AtomicBool, bool);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(self.1, Ordering::AcqRel);
    }
}

impl Inner {
    /// The containers of this installation, whoever made them. The engine's filter is not relied on: what lacks the label is
    /// somebody else's.
    async fn labelled(&self) -> Vec<String> {
        let instance = &self.maker.settings.instance;
        let filters = HashMap::from([("label".to_owned(), vec![format!("{INSTANCE}={instance}")])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let found = within(ANSWER, "list", self.maker.docker.list_containers(Some(options))).await.unwrap_or_default();
        let ours = |labels: &HashMap<String, String>| labels.get(INSTANCE) == Some(instance);
        found.into_iter().filter(|found| found.labels.as_ref().is_some_and(ours)).filter_map(|found| found.id).collect()
    }

    /// Removes what is of this installation and in no table.
    async fn sweep(&self) {
        let _alone = self.making.write().await;
        let known = lock(&self.known).clone();
        for id in self.labelled().await {
            if !known.contains(&id) {
                self.maker.remove(&id).await;
            }
        }
    }

    /// What cannot be paused has ended, or is removed a moment later.
    async fn pause(&self, id: &str) {
        let _ = within(PAUSE, "pause", self.maker.docker.pause_container(id)).await;
    }

    async fn remove(&self, id: &str) {
        self.maker.remove(id).await;
        lock(&self.known).remove(id);
    }

    /// Nothing in it runs on while the engine takes its time to remove it.
    async fn end(&self, id: &str) {
        self.pause(id).await;
        self.remove(id).await;
    }

    async fn container(self: &Arc<Self>, session: &SessionKey, bind: Option<&Bind>) -> Result<Arc<Container>, Refusal> {
        let name = workspace(session).0.to_string();
        let slot = Arc::clone(lock(&self.sessions).entry(name).or_default());
        let mut held = slot.lock().await;
        if let Some(container) = held.as_ref() {
            if self.maker.lives(container).await {
                return Ok(Arc::clone(container));
            }
            if let Some(dead) = held.take() {
                self.remove(&dead.id).await;
            }
        }
        let container = match bind {
            Some(bind) => self.make(Some(bind)).await?,
            None => self.take().await?,
        };
        self.maker.watch.belongs(&container.id, session);
        *held = Some(Arc::clone(&container));
        Ok(container)
    }

    /// One that waits, or a new one.
    async fn take(self: &Arc<Self>) -> Result<Arc<Container>, Refusal> {
        loop {
            let Some(container) = lock(&self.pool).pop_front() else { break };
            self.fill();
            if self.maker.lives(&container).await {
                return Ok(container);
            }
            self.remove(&container.id).await;
        }
        let container = self.make(None).await;
        self.fill();
        container
    }

    async fn make(&self, bind: Option<&Bind>) -> Result<Arc<Container>, Refusal> {
        if self.unsure.swap(false, Ordering::AcqRel) {
            self.sweep().await;
        }
        let making = self.making.read().await;
        // The engine may make one and not say so, not remove it, or say so when nobody waits any more.
        let mut doubt = Doubt(&self.unsure, true);
        let made = self.maker.make(bind).await;
        doubt.1 = made.is_err();
        lock(&self.known).extend(made.iter().map(|container| container.id.clone()));
        drop(making);
        made.map(Arc::new)
    }

    fn fill(self: &Arc<Self>) {
        let settings = &self.maker.settings;
        // What waits is nobody's yet, so nobody's workspace can be in it.
        if settings.pool == 0 || settings.modes.access != Access::None || self.filling.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            while lock(&inner.pool).len() < inner.maker.settings.pool {
                // Whoever needs one next says what is wrong.
                let Ok(container) = inner.make(None).await else { break };
                lock(&inner.pool).push_back(container);
            }
            inner.filling.store(false, Ordering::Release);
        });
    }
}
