//! The Docker backend: a hardened container per session, kept while sandboxd lives.
//!
//! The engine has no way to end one exec; a command that must be ended therefore ends its whole container, and the session
//! gets a fresh one. That loses the session's temporary files, and nothing can outlive it.

use crate::drift::drift;
use crate::posture;
use crate::spec::{self, INSTANCE, Image};
use crate::state::{Engine, Settings, random, workspace};
use crate::watch::Watch;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ExecConfig};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, ListContainersOptions, RemoveContainerOptions,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use futures_util::future::join_all;
use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::control::FromRole;
use proto::edge::Refusal;
use proto::ids::SessionKey;
use proto::sandbox::{Posture, Words};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::AsyncWrite;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// How long the engine may take for one answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to pause a container.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it may take to say whether it is there.
const LOOK: Duration = Duration::from_secs(2);

struct Container {
    id: String,
    /// Held open: its end is the container's. Nobody writes to it; the mutex lets the session's tasks share it.
    _stdin: std::sync::Mutex<Pin<Box<dyn AsyncWrite + Send>>>,
}

/// The backend.
pub struct DockerBackend {
    docker: Docker,
    settings: Settings,
    image: Image,
    posture: Posture,
    /// Where broker is told of an engine that does not do as it is told.
    words: mpsc::Sender<FromRole>,
    /// This start of sandboxd, on a label of every container it makes.
    epoch: String,
    /// Something may be there that is in no table: a predecessor's, or what the engine made after it was given up on.
    unsure: AtomicBool,
    sessions: Mutex<HashMap<String, Container>>,
    watch: Arc<Watch>,
}

fn failed(what: &str) -> impl Fn(bollard::errors::Error) -> Refusal {
    move |error| Refusal::new("sandbox.docker", &format!("{what}: {error}"))
}

async fn within<T>(
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
    let posture = match within(LOOK, "version", said).await {
        Ok((version, info)) => posture::posture(&version, &info),
        Err(refusal) => return silent(refusal.message.to_string()),
    };
    let version = posture.components.first().map(|part| part.version.to_string()).unwrap_or_default();
    match timeout(LOOK, docker.inspect_image(&settings.image)).await {
        Ok(Ok(image)) => {
            let env = image.config.and_then(|config| config.env).unwrap_or_default();
            let Some(id) = image.id else { return silent("it has an image without an id".to_owned()) };
            (Engine::Ready(version), Some(Taken { docker, image: Image { id, env }, posture }))
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
        // Still unsure after the first look: the engine may be making what a killed predecessor asked for.
        let unsure = AtomicBool::new(true);
        let Taken { docker, image, posture } = taken;
        let detail = BoundedStr::truncated(&posture.summary());
        let _ = words.send(FromRole::EngineTaken { detail }).await;
        let watch = Watch::new(docker.clone(), image.clone(), &settings.instance, &epoch);
        let sessions = Mutex::default();
        let backend = Self { docker, settings, image, posture, words, epoch, unsure, sessions, watch };
        backend.sweep(&HashMap::new()).await;
        Ok(backend)
    }

    /// The image that containers are made of, by its digest.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.image.id
    }

    /// How the engine stands.
    #[must_use]
    pub const fn posture(&self) -> &Posture {
        &self.posture
    }

    /// What watches its containers.
    #[must_use]
    pub const fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// The containers of this installation, whoever made them. The engine's filter is not relied on: what lacks the label is
    /// somebody else's.
    async fn labelled(&self) -> Vec<String> {
        let label = format!("{INSTANCE}={}", self.settings.instance);
        let filters = HashMap::from([("label".to_owned(), vec![label])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let found = within(ANSWER, "list", self.docker.list_containers(Some(options))).await.unwrap_or_default();
        let ours = |labels: &HashMap<String, String>| labels.get(INSTANCE) == Some(&self.settings.instance);
        found.into_iter().filter(|found| found.labels.as_ref().is_some_and(ours)).filter_map(|found| found.id).collect()
    }

    /// Removes what is of this installation and in no table.
    async fn sweep(&self, known: &HashMap<String, Container>) {
        for id in self.labelled().await {
            if !known.values().any(|container| container.id == id) {
                self.remove(&id).await;
            }
        }
    }

    /// Ends everything: first every container stands still, all at once, then they are removed; also those that were only
    /// just being made. Returns how many there were.
    pub async fn freeze(&self) -> usize {
        self.sessions.lock().await.clear();
        let all = self.labelled().await;
        join_all(all.iter().map(|id| self.pause(id))).await;
        join_all(all.iter().map(|id| self.remove(id))).await;
        all.len()
    }

    /// What cannot be paused has ended, or is removed a moment later.
    async fn pause(&self, id: &str) {
        let _ = within(PAUSE, "pause", self.docker.pause_container(id)).await;
    }

    /// Nothing in it runs on while the engine takes its time to remove it.
    pub(crate) async fn end(&self, id: &str) {
        self.pause(id).await;
        self.remove(id).await;
    }

    async fn remove(&self, id: &str) {
        self.watch.forget(id);
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        // It may be removing itself already: then there is nothing left to do.
        let _ = within(ANSWER, "remove", self.docker.remove_container(id, Some(options))).await;
    }

    async fn container(&self, session: &SessionKey) -> Result<String, Refusal> {
        let name = workspace(session).0.to_string();
        let mut sessions = self.sessions.lock().await;
        if let Some(container) = sessions.get(&name) {
            let running = within(ANSWER, "inspect", self.docker.inspect_container(&container.id, None)).await;
            if running.is_ok_and(|found| found.state.and_then(|state| state.running) == Some(true)) {
                return Ok(container.id.clone());
            }
            self.watch.forget(&container.id);
            sessions.remove(&name);
        }
        if self.unsure.swap(false, Ordering::AcqRel) {
            self.sweep(&sessions).await;
        }
        let made = self.make().await;
        // The engine may have made one and not said so, or not removed it.
        self.unsure.fetch_or(made.is_err(), Ordering::AcqRel);
        let container = made?;
        let id = container.id.clone();
        self.watch.belongs(&id, session);
        sessions.insert(name, container);
        Ok(id)
    }

    async fn make(&self) -> Result<Container, Refusal> {
        let body = spec::container(&self.image, &self.settings.instance, &self.epoch, self.settings.sizes);
        let create = self.docker.create_container(None::<CreateContainerOptions>, body.clone());
        let id = within(ANSWER, "create", create).await?.id;
        self.watch.made(&id, &body);
        match self.begin(&id, &body).await {
            Ok(stdin) => Ok(Container { id, _stdin: std::sync::Mutex::new(stdin) }),
            Err(refusal) => {
                self.remove(&id).await;
                Err(refusal)
            }
        }
    }

    async fn begin(&self, id: &str, body: &ContainerCreateBody) -> Result<Pin<Box<dyn AsyncWrite + Send>>, Refusal> {
        let found = within(ANSWER, "inspect", self.docker.inspect_container(id, None)).await?;
        let drift = drift(&found, id, body, &self.image);
        if !drift.is_empty() {
            let detail = BoundedStr::truncated(&drift.join(", "));
            let _ = self.words.send(FromRole::EngineDrifted { detail }).await;
            return Err(Refusal::new(
                "sandbox.drift",
                &format!("the engine made another container than was asked for: {}", drift.join(", ")),
            ));
        }
        let options = AttachContainerOptions { stream: true, stdin: true, ..AttachContainerOptions::default() };
        let AttachContainerResults { input, .. } =
            within(ANSWER, "attach", self.docker.attach_container(id, Some(options))).await?;
        within(ANSWER, "start", self.docker.start_container(id, None)).await?;
        self.watch.started(id).await;
        Ok(input)
    }

    /// Runs a command; `sink` is given its output as it comes. Dropping the future leaves the command running: the caller
    /// then calls [`DockerBackend::discard`].
    ///
    /// # Errors
    /// [`Refusal`] where it could not be started.
    pub async fn run<S, F>(&self, session: &SessionKey, words: Words, mut sink: S) -> Result<RunEnd, Refusal>
    where
        S: FnMut(bool, Vec<u8>) -> F,
        F: Future<Output = ()>,
    {
        let id = self.container(session).await?;
        let exec = ExecConfig {
            attach_stdin: Some(false),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            privileged: Some(false),
            user: Some("65534:65534".to_owned()),
            working_dir: Some("/workspace".to_owned()),
            cmd: Some(words.iter().map(|word| word.to_string()).collect()),
            ..ExecConfig::default()
        };
        self.watch.enters(&id);
        let made = within(ANSWER, "exec", self.docker.create_exec(&id, exec)).await;
        self.watch.entered(&id, made.as_ref().ok().map(|exec| exec.id.as_str())).await;
        let exec = made?;
        let options = StartExecOptions { detach: false, tty: false, output_capacity: None };
        let started = within(ANSWER, "exec", self.docker.start_exec(&exec.id, Some(options))).await?;
        let StartExecResults::Attached { mut output, .. } = started else {
            return Err(Refusal::new("sandbox.docker", "the engine did not attach the command's output"));
        };
        while let Some(Ok(piece)) = output.next().await {
            match piece {
                LogOutput::StdErr { message } => sink(true, message.to_vec()).await,
                LogOutput::StdOut { message } | LogOutput::Console { message } => sink(false, message.to_vec()).await,
                LogOutput::StdIn { .. } => {}
            }
        }
        let ended = within(ANSWER, "exec", self.docker.inspect_exec(&exec.id)).await?;
        Ok(match ended.exit_code.map(u8::try_from) {
            Some(Ok(code)) if ended.running != Some(true) => RunEnd::Exited(code),
            _ => RunEnd::Lost,
        })
    }

    /// Throws the session's container away.
    pub async fn discard(&self, session: &SessionKey) {
        let container = self.sessions.lock().await.remove(workspace(session).0.as_str());
        if let Some(container) = container {
            self.end(&container.id).await;
        }
    }

    /// Throws every container away.
    pub async fn discard_all(&self) {
        let all: Vec<Container> = self.sessions.lock().await.drain().map(|(_, container)| container).collect();
        for container in all {
            self.remove(&container.id).await;
        }
    }
}
