//! A container before its conversation's first command: its agent's workspace in it, where that is to be, and the operator's
//! set-up command run once. What does not end well leaves no container behind, and nothing of the conversation runs.
//!
//! The command is the operator's and was parsed when sandboxd started; nobody is asked about it. What it writes is as hostile
//! as any output of a sandbox.

use crate::container::{Container, SetUp};
use crate::docker::DockerBackend;
use crate::job::{Event, Job};
use crate::modes::Setup;
use crate::native;
use crate::serve::Sandboxd;
use crate::spec::Bind;
use crate::state::{place, workspace};
use crate::watch::text::Output;
use proto::audit::RunEnd;
use proto::edge::Refusal;
use proto::ids::SessionKey;
use proto::runner::{Launch, Program};
use proto::sandbox::{Backend, WorkspacePath};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Wall clock that a set-up command gets.
const SET_UP: Duration = Duration::from_secs(120);
/// How often a container is made anew because another command's set-up failed in the one that was to be shared.
const TRIES: usize = 2;
/// The end of its output that a refusal shows, in bytes.
const SHOWN: usize = 400;

impl Sandboxd {
    /// The conversation's container, ready for its commands.
    pub(crate) async fn ready(
        self: &Arc<Self>,
        docker: &Arc<DockerBackend>,
        session: &SessionKey,
    ) -> Result<Arc<Container>, Refusal> {
        let own = place(self.settings.scope, session);
        let bind = self.bind(session).await?;
        for _ in 0..TRIES {
            let container = docker.container(&own, bind.as_ref()).await?;
            let Some(setup) = &self.settings.modes.setup else { return Ok(container) };
            let mut standing = Arc::clone(&container.set_up).lock_owned().await;
            match *standing {
                SetUp::Done => return Ok(container),
                SetUp::Failed => continue,
                SetUp::New => {}
            }
            let (sandboxd, docker, session) = (Arc::clone(self), Arc::clone(docker), session.clone());
            let (own, setup, prepared) = (own.clone(), setup.clone(), Arc::clone(&container));
            // A task of its own: it runs once, also where whoever came first waits no more.
            let task = tokio::spawn(async move {
                let outcome = sandboxd.set_up(&docker, &prepared, &session, &setup).await;
                *standing = if outcome.is_ok() { SetUp::Done } else { SetUp::Failed };
                if outcome.is_err() {
                    docker.discard(&own).await;
                }
                outcome
            });
            task.await.unwrap_or_else(|error| Err(failed(&error.to_string())))?;
            return Ok(container);
        }
        Err(failed("another command's attempt in the same container did not end well; try again"))
    }

    /// The workspace of the host that is to be in the conversation's container.
    async fn bind(&self, session: &SessionKey) -> Result<Option<Bind>, Refusal> {
        let Some((home, writable)) = self.settings.modes.bound(self.settings.scope, session) else { return Ok(None) };
        self.want_launcher().await;
        let name = workspace(&home);
        let (uid, gid) = native::prepare(&self.launcher, &name).await?;
        if uid == 0 || gid == 0 {
            let why = "the agent's workspace is root's, and no container's process is root";
            return Err(Refusal::new("sandbox.workspace_access", why));
        }
        let source = format!("{}/{}", self.settings.workspaces, name.0.as_str());
        Ok(Some(Bind { source, uid, gid, writable }))
    }

    async fn set_up(
        self: &Arc<Self>,
        docker: &DockerBackend,
        container: &Container,
        session: &SessionKey,
        setup: &Setup,
    ) -> Result<(), Refusal> {
        let mut shown = Vec::new();
        let work = async {
            let launch = Launch {
                program: Program::Words(setup.words.clone()),
                cwd: WorkspacePath::default(),
                timeout_ms: u64::try_from(SET_UP.as_millis()).unwrap_or(u64::MAX),
                stdin: false,
                pty: false,
            };
            let mut job = docker.start_in(container, launch).await?;
            tokio::select! {
                biased;
                () = self.stopped(None) => Ok(RunEnd::Aborted),
                end = timeout(SET_UP, self.end_of(session, docker, &mut job, &mut shown)) => end.unwrap_or(Ok(RunEnd::TimedOut)),
            }
        };
        let end = self.recorded(session, &setup.text, "setupCommand", Backend::Docker, work).await?;
        let _ = self.notice_end(session, end).await;
        if end == RunEnd::Exited(0) {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(&shown);
        Err(failed(&format!("it ended with {end:?}: {}", command::show::visible(shown.trim()))))
    }

    async fn end_of(
        &self,
        session: &SessionKey,
        docker: &DockerBackend,
        job: &mut Job,
        shown: &mut Vec<u8>,
    ) -> Result<RunEnd, Refusal> {
        let mut seen = Output::default();
        while let Some(event) = job.next().await {
            match event {
                Event::Output { is_error, bytes } => {
                    let hits = seen.pass(docker.watch().searcher(), is_error, &bytes);
                    if self.notice_output(session, &hits) {
                        continue;
                    }
                    shown.extend_from_slice(&bytes);
                    shown.drain(..shown.len().saturating_sub(SHOWN));
                }
                Event::Ended(end) => return end,
            }
        }
        Ok(RunEnd::Lost)
    }
}

fn failed(why: &str) -> Refusal {
    Refusal::new(
        "sandbox.setup_failed",
        &format!(
            "the command that prepares a container, agents.defaults.sandbox.docker.setupCommand, did not end well, so nothing \
             of this conversation runs: {why}"
        ),
    )
}
