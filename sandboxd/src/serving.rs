//! Which backend serves, and for how long that is believed.

use crate::docker::{self, DockerBackend};
use crate::modes::Access;
use crate::native;
use crate::serve::Sandboxd;
use crate::state::{Choice, Engine, choose, is_native};
use proto::bounded::BoundedStr;
use proto::control::{BackendChoice, FromRole};
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

    /// Its name, and a line about it.
    pub(crate) fn described(&self) -> (Backend, String) {
        let (Self::Docker(_, detail) | Self::Native(_, detail) | Self::Nowhere(detail)) = self;
        (self.backend(), detail.clone())
    }
}

/// What was found, and when.
pub(crate) type Slot = tokio::sync::Mutex<Option<(Instant, Arc<Serving>)>>;

/// What a slot holds, where that still counts: a backend that was found stays, where none was it is looked for again.
fn held(slot: Option<&(Instant, Arc<Serving>)>) -> Option<Arc<Serving>> {
    let (since, serving) = slot?;
    (!matches!(serving.as_ref(), Serving::Nowhere(_)) || since.elapsed() < LOOK_AGAIN).then(|| Arc::clone(serving))
}

impl Sandboxd {
    /// What serves most conversations, and what the main ones have where that is another.
    pub(crate) async fn describe(&self) -> (Backend, String) {
        let serving = self.serving().await;
        let (backend, mut detail) = serving.described();
        if self.settings.modes.splits(self.settings.choice) && !is_native(backend) {
            let (native, why) = self.main_serving().await.described();
            detail.push_str(&match native {
                Backend::None => format!("; main conversations too, because no native sandbox serves: {why}"),
                native => format!("; main conversations have {}", native.name()),
            });
        }
        (backend, detail)
    }

    /// What serves this conversation. Where its own backend is absent the other does.
    pub(crate) async fn serving_for(&self, session: &SessionKey) -> Arc<Serving> {
        let serving = self.serving().await;
        let wants_native = self.settings.modes.is_native(self.settings.choice, session);
        if !wants_native || matches!(serving.as_ref(), Serving::Native(..)) {
            return serving;
        }
        let native = self.main_serving().await;
        if matches!(native.as_ref(), Serving::Nowhere(_)) { serving } else { native }
    }

    /// The native backend, for main conversations while Docker serves the others.
    pub(crate) async fn main_serving(&self) -> Arc<Serving> {
        let mut slot = self.main.lock().await;
        if let Some(serving) = held(slot.as_ref()) {
            return serving;
        }
        let serving = Arc::new(self.native("agents.defaults.sandbox.mode is non-main").await);
        if let (Serving::Nowhere(why), None) = (serving.as_ref(), slot.as_ref()) {
            self.say(&format!("main conversations have no native sandbox: {why}")).await;
        }
        *slot = Some((Instant::now(), Arc::clone(&serving)));
        serving
    }

    /// Into the log, where another backend serves than is usual.
    async fn say(&self, what: &str) {
        eprintln!("{what}");
        let _ = self.words.send(FromRole::EngineTaken { detail: BoundedStr::truncated(what) }).await;
    }

    /// What serves. A backend that was found stays; where none was, it is looked for again after a while.
    pub(crate) async fn serving(&self) -> Arc<Serving> {
        let mut slot = self.serving.lock().await;
        if let Some(serving) = held(slot.as_ref()) {
            return serving;
        }
        let serving = Arc::new(self.find().await);
        *slot = Some((Instant::now(), Arc::clone(&serving)));
        serving
    }

    pub(crate) async fn find(&self) -> Serving {
        let settings = &self.settings;
        let (engine, docker) = if settings.choice == BackendChoice::Native {
            (Engine::Silent(String::new()), None)
        } else {
            docker::look(settings).await
        };
        match (choose(settings.choice, &engine, settings), docker) {
            (Choice::Docker(detail), Some(docker)) => {
                match DockerBackend::new(docker, settings.clone(), self.words.clone()).await {
                    Ok(backend) => {
                        backend.watch().begin(self.alert.findings.clone(), Arc::clone(&self.alert.processes));
                        backend.fill();
                        let detail = if backend.has_runner() { detail } else { format!("{detail}; {NO_RUNNER}") };
                        Serving::Docker(Arc::new(backend), detail)
                    }
                    Err(refusal) => Serving::Nowhere(refusal.message.to_string()),
                }
            }
            (Choice::Docker(why) | Choice::Nowhere(why), _) => Serving::Nowhere(why),
            (Choice::Native(why), _) => {
                let serving = self.native(&why).await;
                if let (Serving::Native(backend, detail), BackendChoice::Auto) = (&serving, settings.choice) {
                    self.say(&format!("every conversation has {}: {detail}", backend.name())).await;
                }
                serving
            }
        }
    }

    /// The native backend, no lower than the floor; `why` it is looked at.
    async fn native(&self, why: &str) -> Serving {
        self.want_launcher().await;
        let modes = &self.settings.modes;
        match native::tier(&self.launcher).await {
            Ok((Backend::None, detail)) => Serving::Nowhere(format!("{why}; {detail}")),
            Ok((backend, detail)) => match modes.below_floor(backend) {
                Some(low) => Serving::Nowhere(format!("{why}; {low} ({detail})")),
                None => {
                    let lacks = modes.access == Access::Ro && backend != Backend::NativeN1;
                    let lacks = if lacks { "; without namespaces there is no /agent" } else { "" };
                    Serving::Native(backend, format!("{detail} ({why}){lacks}"))
                }
            },
            Err(refusal) => Serving::Nowhere(format!("{why}; {}", refusal.message)),
        }
    }

    /// Has broker start the launcher.
    pub(crate) async fn want_launcher(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            let _ = self.words.send(FromRole::LauncherWanted).await;
        }
    }
}
