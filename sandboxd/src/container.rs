//! One container: made as it was asked for, compared with that before it starts, greeted by its runner.

use crate::docker::{ANSWER, within};
use crate::drift::drift;
use crate::job::{Event, Job, WAITING};
use crate::resident::{Input, Resident};
use crate::runs::lock;
use crate::spec::{self, Bind, Image, Shape};
use crate::state::{Prune, Settings};
use crate::watch::Watch;
use bollard::Docker;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, ExecConfig};
use bollard::query_parameters::{AttachContainerOptions, CreateContainerOptions, RemoveContainerOptions};
use futures_util::StreamExt;
use proto::audit::RunEnd;
use proto::bounded::BoundedStr;
use proto::control::FromRole;
use proto::edge::Refusal;
use proto::runner::{Launch, Program};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::mpsc;

/// A container that runs.
pub(crate) struct Container {
    pub(crate) id: String,
    door: Door,
    made: Instant,
    used: Mutex<Instant>,
    /// Whose its processes are.
    user: String,
    /// How far the command is that prepares it; whoever has it run holds the lock.
    pub(crate) set_up: Arc<tokio::sync::Mutex<SetUp>>,
}

/// How far the command is that prepares a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SetUp {
    /// It did not run yet.
    New,
    /// It ran, and well.
    Done,
    /// It began, and did not end well: nothing else runs in this container.
    Failed,
}

enum Door {
    Runner(Resident),
    /// Held open: its end is the container's. Nobody writes to it; the mutex lets the session's tasks share it.
    Closed {
        _stdin: Mutex<Input>,
    },
}

impl Container {
    /// It is used now.
    pub(crate) fn touch(&self) {
        *lock(&self.used) = Instant::now();
    }

    /// Something runs in it.
    pub(crate) fn busy(&self) -> bool {
        matches!(&self.door, Door::Runner(resident) if resident.busy() > 0)
    }

    /// When it is to be thrown away.
    pub(crate) fn due(&self, prune: &Prune) -> Instant {
        (*lock(&self.used) + prune.idle).min(self.made + prune.age)
    }
}

/// What containers are made with.
pub(crate) struct Maker {
    pub(crate) docker: Docker,
    pub(crate) settings: Settings,
    pub(crate) image: Image,
    /// Where broker is told of an engine that does not do as it is told.
    pub(crate) words: mpsc::Sender<FromRole>,
    /// This start of sandboxd, on a label of every container it makes.
    pub(crate) epoch: String,
    /// What watches them.
    pub(crate) watch: Arc<Watch>,
}

impl Maker {
    pub(crate) async fn remove(&self, id: &str) {
        self.watch.forget(id);
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        // It may be removing itself already: then there is nothing left to do.
        let _ = within(ANSWER, "remove", self.docker.remove_container(id, Some(options))).await;
    }

    /// Whether something can still be run there.
    pub(crate) async fn lives(&self, container: &Container) -> bool {
        match &container.door {
            Door::Runner(resident) => resident.fault().is_none(),
            Door::Closed { .. } => {
                let running = within(ANSWER, "inspect", self.docker.inspect_container(&container.id, None)).await;
                running.is_ok_and(|found| found.state.and_then(|state| state.running) == Some(true))
            }
        }
    }

    /// A new one.
    pub(crate) async fn make(&self, bind: Option<&Bind>) -> Result<Container, Refusal> {
        let Settings { instance, sizes, modes, .. } = &self.settings;
        let shape = Shape { sizes: *sizes, runtime: modes.runtime, bind: bind.cloned() };
        let body = spec::container(&self.image, instance, &self.epoch, &shape);
        let create = self.docker.create_container(None::<CreateContainerOptions>, body.clone());
        let id = within(ANSWER, "create", create).await?.id;
        self.watch.made(&id, &body);
        match self.begin(&id, &body).await {
            Ok(door) => Ok(Container {
                id,
                door,
                made: Instant::now(),
                used: Mutex::new(Instant::now()),
                user: shape.user(),
                set_up: Arc::new(tokio::sync::Mutex::new(SetUp::New)),
            }),
            Err(refusal) => {
                self.remove(&id).await;
                Err(refusal)
            }
        }
    }

    async fn begin(&self, id: &str, body: &ContainerCreateBody) -> Result<Door, Refusal> {
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
        let has_runner = self.image.has_runner;
        let options = AttachContainerOptions {
            stream: true,
            stdin: true,
            stdout: has_runner,
            stderr: has_runner,
            ..AttachContainerOptions::default()
        };
        let AttachContainerResults { input, output } =
            within(ANSWER, "attach", self.docker.attach_container(id, Some(options))).await?;
        let start = within(ANSWER, "start", self.docker.start_container(id, None));
        if !has_runner {
            start.await?;
            self.watch.started(id).await;
            return Ok(Door::Closed { _stdin: Mutex::new(input) });
        }
        // Before the start: its first word may come before the engine says that it started.
        let (resident, greeting) = Resident::new(output, input);
        start.await?;
        greeting.wait(ANSWER).await?;
        self.watch.started(id).await;
        Ok(Door::Runner(resident))
    }

    /// Starts something in it.
    pub(crate) async fn start(&self, container: &Container, launch: Launch) -> Result<Job, Refusal> {
        match (&container.door, launch) {
            (Door::Runner(resident), launch) => resident.start(launch),
            (Door::Closed { .. }, Launch { program: Program::Words(words), cwd, stdin: false, pty: false, .. })
                if cwd.is_empty() =>
            {
                let words = words.iter().map(|word| word.to_string()).collect();
                self.exec(container, words).await
            }
            (Door::Closed { .. }, _) => Err(Refusal::new(
                "sandbox.no_runner",
                "the sandbox's image has no runner of this version, so there are no files, no input, no terminal and no \
                 other directory: make it anew with deploy/sandbox-image/build",
            )),
        }
    }
}

impl Maker {
    /// By the engine's own means. It has none to end one.
    async fn exec(&self, container: &Container, words: Vec<String>) -> Result<Job, Refusal> {
        let (docker, id) = (&self.docker, container.id.as_str());
        let exec = ExecConfig {
            attach_stdin: Some(false),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            privileged: Some(false),
            user: Some(container.user.clone()),
            working_dir: Some("/workspace".to_owned()),
            cmd: Some(words),
            ..ExecConfig::default()
        };
        self.watch.enters(id);
        let made = within(ANSWER, "exec", docker.create_exec(id, exec)).await;
        self.watch.entered(id, made.as_ref().ok().map(|exec| exec.id.as_str())).await;
        let exec = made?;
        let options = StartExecOptions { detach: false, tty: false, output_capacity: None };
        let started = within(ANSWER, "exec", docker.start_exec(&exec.id, Some(options))).await?;
        let StartExecResults::Attached { mut output, .. } = started else {
            return Err(Refusal::new("sandbox.docker", "the engine did not attach the command's output"));
        };
        let (events, receiver) = mpsc::channel(WAITING);
        let docker = docker.clone();
        tokio::spawn(async move {
            while let Some(Ok(piece)) = output.next().await {
                let (is_error, message) = match piece {
                    LogOutput::StdErr { message } => (true, message),
                    LogOutput::StdOut { message } | LogOutput::Console { message } => (false, message),
                    LogOutput::StdIn { .. } => continue,
                };
                if events.send(Event::Output { is_error, bytes: message.to_vec() }).await.is_err() {
                    return;
                }
            }
            let end = within(ANSWER, "exec", docker.inspect_exec(&exec.id)).await.map(|ended| {
                match ended.exit_code.map(u8::try_from) {
                    Some(Ok(code)) if ended.running != Some(true) => RunEnd::Exited(code),
                    _ => RunEnd::Lost,
                }
            });
            let _ = events.send(Event::Ended(end)).await;
        });
        Ok(Job::task(receiver, None, None))
    }
}
