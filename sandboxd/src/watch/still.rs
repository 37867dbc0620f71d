//! Stillness and ends of containers, by way of the engine.

use super::{ANSWER, Watch};
use crate::runs::lock;
use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptions};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// How long it may take to have a container stand still.
const PAUSE: Duration = Duration::from_secs(1);

impl Watch {
    /// Has a container stand still; how long that took.
    ///
    /// # Errors
    /// What the engine says. What cannot stand still is ended.
    pub async fn freeze(&self, container: &str) -> Result<Duration, String> {
        let begun = Instant::now();
        let paused = timeout(PAUSE, self.docker.pause_container(container)).await;
        self.frozen(container);
        let why = match paused {
            Ok(Ok(())) => return Ok(begun.elapsed()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the engine does not answer".to_owned(),
        };
        let state = timeout(ANSWER, self.docker.inspect_container(container, None)).await;
        let state = state.ok().and_then(Result::ok).and_then(|found| found.state);
        // Another may have paused it, or it may be gone.
        if state.is_none_or(|state| state.paused == Some(true) || state.running != Some(true)) {
            return Ok(begun.elapsed());
        }
        let options = RemoveContainerOptions { force: true, ..RemoveContainerOptions::default() };
        let _ = timeout(ANSWER, self.docker.remove_container(container, Some(options))).await;
        Err(why)
    }

    /// Ends everything in a container at once. For one that somebody is just putting a process into: such a process stands in
    /// the container's control group with the engine's locks, and where it is frozen, every call about the container hangs.
    ///
    /// # Errors
    /// What the engine says.
    pub async fn end(&self, container: &str) -> Result<Duration, String> {
        let begun = Instant::now();
        let options = KillContainerOptions { signal: "SIGKILL".to_owned() };
        let killed = timeout(PAUSE, self.docker.kill_container(container, Some(options))).await;
        self.frozen(container);
        match killed {
            Ok(Ok(())) => Ok(begun.elapsed()),
            // It is gone, or just going.
            Ok(Err(bollard::errors::Error::DockerResponseServerError { status_code: 404 | 409, .. })) => {
                Ok(begun.elapsed())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the engine does not answer".to_owned()),
        }
    }

    /// Has every container stand still, all at once.
    ///
    /// # Errors
    /// As [`Watch::freeze`], for any of them.
    pub async fn freeze_all(&self) -> Result<Duration, String> {
        let begun = Instant::now();
        let all: Vec<String> = lock(&self.state).containers.keys().cloned().collect();
        let stood: Result<Vec<Duration>, String> =
            join_all(all.iter().map(|id| self.freeze(id))).await.into_iter().collect();
        stood.map(|_| begun.elapsed())
    }
}
