//! Which backend serves, and for how long that is believed.

use crate::docker::{self, DockerBackend};
use crate::native;
use crate::serve::Sandboxd;
use crate::state::{Choice, Engine, choose};
use proto::control::FromRole;
use proto::ids::SessionKey;
use proto::sandbox::Backend;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a look at the engine counts while none serves.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What an image without a runner means.
const NO_RUNNER: &str = "the image has no runner of this version, so commands run by docker exec, slower, and there are no \
                         file verbs: make it anew with deploy/sandbox-image/build";

/// Where commands go now.
pub(crate) enum Serving {
    Docker(Arc<DockerBackend>, String),
    Native(Backend, String),
    Nowhere(String),
}

impl Serving {
    /// Its name.
    pub(crate) const fn backend(&self) -> Backend {
        match self {
            Self::Docker(..) => Backend::Docker,
            Self::Native(backend, _) => *backend,
            Self::Nowhere(_) => Backend::None,
        }
    }

    /// The container of whoever has this place; empty where there is none.
    pub(crate) fn container(&self, place: &SessionKey) -> String {
        match self {
            Self::Docker(docker, _) => docker.watch().of_session(place).unwrap_or_default(),
            Self::Native(..) | Self::Nowhere(_) => String::new(),
        }
    }
}

impl Sandboxd {
    pub(crate) async fn describe(&self) -> (Backend, String) {
        match self.serving().await.as_ref() {
            Serving::Docker(_, detail) => (Backend::Docker, detail.clone()),
            Serving::Native(backend, detail) => (*backend, detail.clone()),
            Serving::Nowhere(detail) => (Backend::None, detail.clone()),
        }
    }

    /// What serves. A backend that was found stays; where none was, it is looked for again after a while.
    pub(crate) async fn serving(&self) -> Arc<Serving> {
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

    pub(crate) async fn find(&self) -> Serving {
        let settings = &self.settings;
        let (engine, docker) = if settings.choice == proto::control::BackendChoice::Native {
            (Engine::Silent(String::new()), None)
        } else {
            docker::look(settings).await
        };
        match (choose(settings.choice, &engine, settings), docker) {
            (Choice::Docker(detail), Some(docker)) => {
                match DockerBackend::new(docker, settings.clone(), self.words.clone()).await {
                    Ok(backend) => {
                        backend.watch().begin(self.alert.findings.clone(), Arc::clone(&self.alert.kernel));
                        backend.fill();
                        let detail = if backend.has_runner() { detail } else { format!("{detail}; {NO_RUNNER}") };
                        Serving::Docker(Arc::new(backend), detail)
                    }
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
}
